//! The relay of a session's control connection: between the client and the library, line by line.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{FutureExt, pin_mut, select_biased};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use super::backend::Restart;
use super::server::Lease;

/// Longest command, its path included.
const LINE_BYTES_MAX: usize = 8 << 10;

/// What the relay of one session knows.
pub(super) struct Control {
    pub(super) peer: SocketAddr,
    pub(super) lease: Lease,
    pub(super) restart: Arc<Mutex<Restart>>,
    /// How long the client or the library may leave what was sent to it unread.
    pub(super) idle: Duration,
    pub(super) stop: watch::Receiver<bool>,
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Stopped,
    LeaseLost,
    LineTooLong,
}

impl End {
    /// What the client is told.
    fn farewell(self) -> &'static str {
        match self {
            End::Closed => "",
            End::Stopped => "421 The volume is being taken out of service.\r\n",
            End::LeaseLost => "421 The volume can't be served at the moment.\r\n",
            End::LineTooLong => "500 That line is too long.\r\n",
        }
    }
}

impl Control {
    /// Relays until either side closes, or the session has to end.
    pub(super) async fn relay(mut self, client: TcpStream, library: TcpStream) -> End {
        let (from_client, mut to_client) = client.into_split();
        let (from_library, to_library) = library.into_split();
        let end = self.exchange(from_client, &mut to_client, from_library, to_library).await;
        let end = end.unwrap_or(End::Closed);
        // A client that doesn't read goes without.
        let farewell = to_client.write_all(end.farewell().as_bytes());
        let _ = tokio::time::timeout(Duration::from_secs(1), farewell).await;
        end
    }

    async fn exchange(
        &mut self,
        mut from_client: OwnedReadHalf,
        to_client: &mut OwnedWriteHalf,
        mut from_library: OwnedReadHalf,
        mut to_library: OwnedWriteHalf,
    ) -> io::Result<End> {
        enum Arrived {
            Stop,
            Reply(usize),
            Commands(usize),
        }
        let mut reply = vec![0; LINE_BYTES_MAX];
        let mut lines = Vec::with_capacity(2 * LINE_BYTES_MAX);
        let mut stop = self.stop.clone();
        loop {
            let arrived = {
                let stopped = stop.wait_for(|stop| *stop).map(|_| ()).fuse();
                let answer = from_library.read(&mut reply).fuse();
                let command = from_client.read_buf(&mut lines).fuse();
                pin_mut!(stopped, answer, command);
                select_biased! {
                    () = stopped => Arrived::Stop,
                    count = answer => Arrived::Reply(count?),
                    count = command => Arrived::Commands(count?),
                }
            };
            match arrived {
                Arrived::Stop => return Ok(End::Stopped),
                Arrived::Reply(0) | Arrived::Commands(0) => return Ok(End::Closed),
                Arrived::Reply(count) => {
                    within(self.idle, to_client.write_all(&reply[..count])).await?
                }
                Arrived::Commands(_) => {
                    while let Some(end) = lines.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = lines.drain(..=end).collect();
                        if line.len() > LINE_BYTES_MAX {
                            return Ok(End::LineTooLong);
                        }
                        if !self.may_pass(&line).await {
                            return Ok(End::LeaseLost);
                        }
                        within(self.idle, to_library.write_all(&line)).await?;
                    }
                    if lines.len() > LINE_BYTES_MAX {
                        return Ok(End::LineTooLong);
                    }
                }
            }
        }
    }

    /// Asks for the lease and takes note of REST, which counts for one transfer: the library would
    /// start every later one there too.
    async fn may_pass(&self, line: &[u8]) -> bool {
        let mut words = line.split(|byte| byte.is_ascii_whitespace());
        let verb = words.next().unwrap_or_default().to_ascii_uppercase();
        if verb == b"QUIT" {
            return true;
        }
        if !(self.lease)().await {
            tracing::warn!(peer = %self.peer, "FTP session ended: no lease");
            return false;
        }
        let mut restart = self.restart.lock().unwrap_or_else(PoisonError::into_inner);
        match verb.as_slice() {
            b"REST" => {
                let offset =
                    words.next().and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
                restart.pending = offset.unwrap_or(0);
            }
            b"RETR" | b"STOR" => restart.next = Some(std::mem::take(&mut restart.pending)),
            b"APPE" => *restart = Restart::default(),
            _ => {}
        }
        true
    }
}

async fn within(limit: Duration, write: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::time::timeout(limit, write).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}
