//! Connections to others, by TLS or in clear: of webhooks, and of clients to a supervisor elsewhere.

use std::sync::Arc;
use std::time::Duration;
use std::{error, io};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{InvalidDnsNameError, ServerName};
use tokio_rustls::rustls::{self, AlertDescription, ClientConfig};

/// How long the other end may give no sign that it is there.
const GONE_LIMIT: Duration = Duration::from_secs(60);

/// What is spoken over.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers.
    #[error(transparent)]
    Unreachable(#[from] io::Error),
    /// No certificate could be for it.
    #[error(transparent)]
    Name(#[from] InvalidDnsNameError),
    /// Who answers isn't who is meant, or not to be trusted, or doesn't speak TLS.
    #[error("TLS: {0}")]
    Tls(io::Error),
}

/// Connects to a host, by TLS if a configuration for it is given.
pub async fn connect(
    host: &str,
    port: u16,
    tls: Option<ClientConfig>,
) -> Result<Box<dyn Stream>, ConnectError> {
    let tcp = TcpStream::connect((host, port)).await?;
    keep_watch(&tcp)?;
    let Some(tls) = tls else { return Ok(Box::new(tcp)) };
    let name = ServerName::try_from(host.to_owned())?;
    let tls = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await;
    Ok(Box::new(tls.map_err(ConnectError::Tls)?))
}

/// Has the kernel end a connection whose other end is gone, or takes nothing any more.
pub fn keep_watch(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, GONE_LIMIT / 2)?;
    sockopt::set_tcp_keepintvl(stream, GONE_LIMIT / 6)?;
    Ok(sockopt::set_tcp_user_timeout(stream, GONE_LIMIT.as_millis() as u32)?)
}

/// What the other end said by which it ended a connection, if that is why it failed: a server says only after a client has
/// connected that it doesn't take its certificate.
pub fn alert_of(error: &(dyn error::Error + 'static)) -> Option<AlertDescription> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.find_map(|error| {
        let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
        match inner.downcast_ref::<rustls::Error>()? {
            rustls::Error::AlertReceived(alert) => Some(*alert),
            _ => None,
        }
    })
}
