//! Data connections: a port that the client reaches, tied to a port of the loopback that the library
//! listens on.
//!
//! The library takes data only from the address that its control connection came from, which is the
//! relay's. Here the client's own address is demanded instead.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::{FutureExt, pin_mut, select_biased};
use libunftp::options::Binder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// Where the library listens: an address of the loopback that nobody else uses, so that the same
/// port is free there.
const INSIDE: Ipv4Addr = Ipv4Addr::new(127, 70, 84, 80);
/// A little longer than the library waits, so that a port is free inside when it is outside.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
const BUFFER_BYTES: usize = 256 << 10;

/// A session's data connections; dropping it ends them.
pub(super) type Connections = Arc<Mutex<JoinSet<()>>>;

/// Gives the library its ports.
#[derive(Debug)]
pub(super) struct PassiveBinder {
    /// The address that the client reached us at.
    pub(super) local: IpAddr,
    /// The client.
    pub(super) peer: IpAddr,
    /// How long a client may leave data unread.
    pub(super) idle: Duration,
    pub(super) connections: Connections,
}

#[async_trait]
impl Binder for PassiveBinder {
    async fn bind(&mut self, _: IpAddr, ports: RangeInclusive<u16>) -> io::Result<TcpSocket> {
        let (first, last) = (u32::from(*ports.start()), u32::from(*ports.end()));
        let count = (last + 1).saturating_sub(first).max(1);
        // Not to be guessed easily; each `RandomState` has keys of its own.
        let offset = RandomState::new().build_hasher().finish() as u32 % count;
        let candidates = (0..count).map(|step| first + (offset + step) % count);
        for port in candidates.filter_map(|port| u16::try_from(port).ok()) {
            let Ok((outside, inside)) = self.pair(port) else { continue };
            let (peer, idle) = (self.peer, self.idle);
            let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            while connections.try_join_next().is_some() {}
            connections.spawn(async move {
                if let Err(error) = serve(outside, peer, port, idle).await {
                    tracing::debug!(%peer, port, %error, "FTP data connection");
                }
            });
            return Ok(inside);
        }
        tracing::warn!(?ports, "no free port for FTP data");
        Err(io::ErrorKind::AddrInUse.into())
    }
}

impl PassiveBinder {
    fn pair(&self, port: u16) -> io::Result<(TcpListener, TcpSocket)> {
        let socket = match self.local {
            IpAddr::V4(_) => TcpSocket::new_v4()?,
            IpAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(self.local, port))?;
        let outside = socket.listen(4)?;
        // Whether the library will be able to listen there.
        drop(std::net::TcpListener::bind((INSIDE, port))?);
        let inside = TcpSocket::new_v4()?;
        inside.set_reuseaddr(true)?;
        inside.bind(SocketAddr::from((INSIDE, port)))?;
        Ok((outside, inside))
    }
}

async fn serve(outside: TcpListener, peer: IpAddr, port: u16, idle: Duration) -> io::Result<()> {
    let timed_out = || io::Error::from(io::ErrorKind::TimedOut);
    let accepted = tokio::time::timeout(CONNECT_LIMIT, async {
        loop {
            let (stream, address) = outside.accept().await?;
            if address.ip() == peer {
                return Ok::<_, io::Error>(stream);
            }
            tracing::warn!(%peer, from = %address, "FTP data connection from a stranger refused");
        }
    });
    let client = accepted.await.map_err(|_| timed_out())??;
    drop(outside);
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let library = socket.connect(SocketAddr::from((INSIDE, port))).await?;
    relay(client, library, idle).await
}

/// Copies both ways. Ends when the library has closed, or either side broke off: then the other
/// gets a reset instead of an end of file, because an end of file is what tells FTP that all of a
/// file has arrived.
async fn relay(mut client: TcpStream, mut library: TcpStream, idle: Duration) -> io::Result<()> {
    let result = {
        let (from_client, to_client) = client.split();
        let (from_library, to_library) = library.split();
        let down = copy(from_library, to_client, idle).fuse();
        // The library may be long at an fsync before it reads on; its own limits hold there.
        let up = copy(from_client, to_library, Duration::MAX).fuse();
        pin_mut!(down, up);
        select_biased! {
            result = down => result,
            result = up => match result {
                Ok(()) => down.await,
                Err(error) => Err(error),
            },
        }
    };
    if result.is_err() {
        let _ = client.set_zero_linger();
        let _ = library.set_zero_linger();
    }
    result
}

async fn copy(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, idle: Duration) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        match tokio::time::timeout(idle, to.write_all(&buffer[..count])).await {
            Ok(result) => result?,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
