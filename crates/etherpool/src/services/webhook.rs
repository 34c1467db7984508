//! Posts messages to a URL, by HTTP or HTTPS.

use std::path::Path;

use client::http::{exchange, request};
use control::alerts::{Batch, WebhookConfig};
use control::url::Url;
use hyper::Method;

/// Posts; what was answered, or why it wasn't delivered.
pub(super) async fn post(hook: &WebhookConfig, batch: &Batch) -> Result<String, String> {
    let url = Url::parse(&hook.url)?;
    let request = request(Method::POST, &url.authority(), &url.path, batch);
    let request = request.map_err(|error| error.to_string())?;
    let stream = connected(&url, hook.ca.as_deref()).await?;
    let answer = exchange(stream, request).await.map_err(|error| error.to_string())?;
    match answer.status() {
        status if status.is_success() => Ok(status.to_string()),
        status => Err(format!("it answered {status}")),
    }
}

async fn connected(url: &Url, ca: Option<&Path>) -> Result<Box<dyn tls::Stream>, String> {
    let config = match url.tls {
        false => None,
        true => {
            let ca = ca.map(Path::to_owned);
            // Read each time: authorities are replaced while we run.
            let roots = tokio::task::spawn_blocking(move || tls::trusted(ca.as_deref()));
            let roots = roots.await.map_err(|error| error.to_string())?;
            let roots = roots.map_err(|error| error.to_string())?;
            Some(tls::nameless_client(roots).map_err(|error| error.to_string())?)
        }
    };
    tls::connect(&url.host, url.port, config).await.map_err(|error| error.to_string())
}

#[cfg(test)]
#[path = "webhook_tests.rs"]
mod tests;
