//! TLS of sessions that ask for it (RFC 4217): the control connection before and after.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

/// What a session goes by TLS with.
#[derive(Clone)]
pub(super) struct Tls {
    pub control: Arc<ServerConfig>,
    /// Without tickets: a client that stores a file reads nothing, and what it leaves unread when it closes has its system take
    /// back what it sent last.
    pub data: Arc<ServerConfig>,
}

impl Tls {
    pub(super) fn of(control: ServerConfig) -> Tls {
        let mut data = control.clone();
        data.send_tls13_tickets = 0;
        Tls { control: Arc::new(control), data: Arc::new(data) }
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
