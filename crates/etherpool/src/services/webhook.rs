//! Posts messages to a URL, by HTTP or HTTPS.

use std::path::Path;

use control::alerts::{Batch, WebhookConfig, WebhookUrl, webhook_url};
use frontend::tls::nameless_client;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;

use crate::tls_client::{Stream, authorities, authority, connect};

/// Posts; what was answered, or why it wasn't delivered.
pub(super) async fn post(hook: &WebhookConfig, batch: &Batch) -> Result<String, String> {
    let url = webhook_url(&hook.url)?;
    let body = serde_json::to_vec(batch).map_err(|error| error.to_string())?;
    let stream = connected(&url, hook.ca.as_deref()).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(&url.path)
        .header("host", authority(&url))
        .header("user-agent", concat!("etherpool/", env!("CARGO_PKG_VERSION")))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(|error| error.to_string());
    connection.abort();
    match answer?.status() {
        status if status.is_success() => Ok(status.to_string()),
        status => Err(format!("it answered {status}")),
    }
}

async fn connected(url: &WebhookUrl, ca: Option<&Path>) -> Result<Box<dyn Stream>, String> {
    if !url.tls {
        return connect(url, None).await;
    }
    let ca = ca.map(Path::to_owned);
    // Read each time: authorities are replaced while we run.
    let roots = tokio::task::spawn_blocking(move || authorities(ca.as_deref()));
    let roots = roots.await.map_err(|error| error.to_string())??;
    let config = nameless_client(roots).map_err(|error| error.to_string())?;
    connect(url, Some(config)).await
}

#[cfg(test)]
#[path = "webhook_tests.rs"]
mod tests;
