//! Connections to others, by TLS or in clear: of webhooks, and of the command line to a supervisor elsewhere.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use control::alerts::WebhookUrl;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// How long the other end may give no sign that it is there.
const GONE_LIMIT: Duration = Duration::from_secs(60);

/// What is spoken over.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Connects to who the URL says, by TLS if a configuration for it is given.
pub async fn connect(
    url: &WebhookUrl,
    tls: Option<ClientConfig>,
) -> Result<Box<dyn Stream>, String> {
    let tcp = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(|e| e.to_string())?;
    keep_watch(&tcp).map_err(|error| error.to_string())?;
    let Some(tls) = tls else { return Ok(Box::new(tcp)) };
    let name = ServerName::try_from(url.host.clone()).map_err(|error| error.to_string())?;
    let tls = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await;
    Ok(Box::new(tls.map_err(|error| format!("TLS: {error}"))?))
}

/// Has the kernel end a connection whose other end is gone, or takes nothing any more.
pub fn keep_watch(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, GONE_LIMIT / 2)?;
    sockopt::set_tcp_keepintvl(stream, GONE_LIMIT / 6)?;
    Ok(sockopt::set_tcp_user_timeout(stream, GONE_LIMIT.as_millis() as u32)?)
}

/// What a request calls the host of a URL.
pub fn authority(url: &WebhookUrl) -> String {
    let WebhookUrl { host, port, .. } = url;
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Whom to trust: who is in a file, or whom the system trusts. Blocks.
pub fn authorities(file: Option<&Path>) -> Result<RootCertStore, String> {
    if let Some(file) = file {
        return frontend::tls::authorities(file).map_err(|error| error.to_string());
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match roots.is_empty() {
        true => Err("this machine trusts nobody: install ca-certificates, or name a file of certificates (ca)".to_owned()),
        false => Ok(roots),
    }
}
