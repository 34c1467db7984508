//! TLS of sessions that ask for it (RFC 4217): the server's certificate and key, and the control connection before and after.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

/// By what the server shows who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FtpTls {
    /// A file with its certificate and those that lead to a known one, PEM.
    pub certificate: PathBuf,
    /// A file with the certificate's secret key, PEM.
    pub key: PathBuf,
    /// Whether passwords, and the data of who gave one, are taken by TLS only.
    pub required: bool,
}

/// Why a certificate or its key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or holds nothing of the kind.
    #[error("{file}: {source}")]
    File {
        /// Which.
        file: PathBuf,
        /// Why not.
        source: pem::Error,
    },
    /// There is no certificate in the file.
    #[error("{0} holds no certificate")]
    NoCertificate(PathBuf),
    /// They don't go together, or are of a kind that isn't known.
    #[error("{certificate}: {source}")]
    Unfit {
        /// The certificate.
        certificate: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
}

/// What a session goes by TLS with.
#[derive(Clone)]
pub(super) struct Tls {
    pub control: Arc<ServerConfig>,
    /// Without tickets: a client that stores a file reads nothing, and what it leaves unread when it closes has its system take
    /// back what it sent last.
    pub data: Arc<ServerConfig>,
}

impl FtpTls {
    /// What the files hold now: a certificate that was renewed is used for the next who asks. Blocks.
    pub(super) fn load(&self) -> Result<Tls, TlsError> {
        let of = |file: &Path| {
            let file = file.to_owned();
            |source| TlsError::File { file, source }
        };
        let read =
            CertificateDer::pem_file_iter(&self.certificate).map_err(of(&self.certificate))?;
        let chain = read.collect::<Result<Vec<_>, _>>().map_err(of(&self.certificate))?;
        if chain.is_empty() {
            return Err(TlsError::NoCertificate(self.certificate.clone()));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(of(&self.key))?;
        let unfit = |source| TlsError::Unfit { certificate: self.certificate.clone(), source };
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions();
        let config = builder.map_err(unfit)?.with_no_client_auth();
        let control = config.with_single_cert(chain, key).map_err(unfit)?;
        let mut data = control.clone();
        data.send_tls13_tickets = 0;
        Ok(Tls { control: Arc::new(control), data: Arc::new(data) })
    }
}

/// A control connection.
pub(super) enum Stream {
    Plain(Whole),
    Sealed(Box<TlsStream<Whole>>),
    /// TLS was begun, and hasn't come about.
    Broken,
}

impl Stream {
    /// The same by TLS from now on; broken where that fails.
    pub(super) async fn secure(&mut self, tls: Arc<ServerConfig>) -> io::Result<()> {
        let Stream::Plain(plain) = std::mem::replace(self, Stream::Broken) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        *self = Stream::Sealed(Box::new(TlsAcceptor::from(tls).accept(plain).await?));
        Ok(())
    }
}

/// A connection that is read to its end also where a read stops at urgent data: `tokio` takes a short read for the last one
/// until more arrives.
pub(super) struct Whole(TcpStream);

impl Whole {
    pub(super) fn new(stream: TcpStream) -> Whole {
        Whole(stream)
    }
}

impl AsyncRead for Whole {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Whole {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// What is read and written alike, in clear or by TLS.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Stream {
    fn inner(self: Pin<&mut Self>) -> io::Result<Pin<&mut dyn Duplex>> {
        match self.get_mut() {
            Stream::Plain(stream) => Ok(Pin::new(stream)),
            Stream::Sealed(stream) => Ok(Pin::new(&mut **stream)),
            Stream::Broken => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner()?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner()?.poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_shutdown(context)
    }
}
