//! Posts messages to a URL, by HTTP or HTTPS.

use std::path::Path;
use std::sync::Arc;

use control::alerts::{Batch, WebhookConfig, WebhookUrl, webhook_url};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// What is spoken over.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Posts; what was answered, or why it wasn't delivered.
pub(super) async fn post(hook: &WebhookConfig, batch: &Batch) -> Result<String, String> {
    let url = webhook_url(&hook.url)?;
    let body = serde_json::to_vec(batch).map_err(|error| error.to_string())?;
    let stream = connect(&url, hook.ca.as_deref()).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let WebhookUrl { host, port, path, .. } = url;
    let authority =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("host", authority)
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

async fn connect(url: &WebhookUrl, ca: Option<&Path>) -> Result<Box<dyn Stream>, String> {
    let tcp = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(|e| e.to_string())?;
    if !url.tls {
        return Ok(Box::new(tcp));
    }
    let name = ServerName::try_from(url.host.clone()).map_err(|error| error.to_string())?;
    let ca = ca.map(Path::to_owned);
    // Read each time: authorities are replaced while we run.
    let roots = tokio::task::spawn_blocking(move || roots(ca.as_deref()));
    let roots = roots.await.map_err(|error| error.to_string())??;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    Ok(Box::new(tls.map_err(|error| format!("TLS: {error}"))?))
}

/// Whom to trust: who is in a file, or whom the system trusts.
fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(ca) => {
            let failed =
                |why: String| format!("certificates can't be read from {}: {why}", ca.display());
            let all =
                CertificateDer::pem_file_iter(ca).map_err(|error| failed(error.to_string()))?;
            for one in all {
                let one = one.map_err(|error| failed(error.to_string()))?;
                roots.add(one).map_err(|error| failed(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(failed("there are none".to_owned()));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(
                    "this machine trusts nobody: install ca-certificates, or name a file of \
                            certificates in the configuration (ca = \"...\")"
                        .to_owned(),
                );
            }
        }
    }
    Ok(roots)
}

#[cfg(test)]
#[path = "webhook_tests.rs"]
mod tests;
