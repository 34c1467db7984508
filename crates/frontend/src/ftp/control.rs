//! A session's control connection: lines in, answers out, each within its limits.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use futures::pin_mut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::ServerConfig;

use super::command::{Command, LineTooLong, Lines};
use super::reply::Reply;
use super::tls::{Stream, Whole};

/// How long the last words may take to a client that doesn't read, or goes on talking.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);
/// How long a client may take to agree on TLS, on either connection.
pub(super) const TLS_LIMIT: Duration = Duration::from_secs(20);

pub(super) struct Control {
    stream: Stream,
    lines: Lines,
    idle: Duration,
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Quit,
    Idle,
    NoLogin,
    Stopped,
    LeaseLost,
    LineTooLong,
    /// TLS didn't come about, or something was said in clear that would have counted as said within it.
    NoTls,
}

impl End {
    /// What the client is told.
    fn farewell(self) -> Option<Reply> {
        Some(match self {
            End::Closed | End::NoTls => return None,
            End::Quit => Reply::new(221, "Bye."),
            End::Idle => Reply::new(421, "Nothing was said for too long."),
            End::NoLogin => Reply::new(421, "Nobody has logged in for too long."),
            End::Stopped => Reply::new(421, "The volume is being taken out of service."),
            End::LeaseLost => Reply::new(421, "The volume can't be served at the moment."),
            End::LineTooLong => Reply::new(500, "That line is too long."),
        })
    }
}

impl Control {
    /// `idle` is how long the client may say nothing, or leave answers unread.
    pub(super) fn new(stream: TcpStream, idle: Duration) -> Control {
        Control { stream: Stream::Plain(Whole::new(stream)), lines: Lines::default(), idle }
    }

    /// Goes on by TLS.
    pub(super) async fn secure(&mut self, tls: Arc<ServerConfig>) -> Result<(), End> {
        // Somebody between the two could have put it there.
        if !self.lines.is_empty() {
            return Err(End::NoTls);
        }
        let secured = tokio::time::timeout(TLS_LIMIT, self.stream.secure(tls)).await;
        match secured {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::info!(%error, "FTP client and server don't agree on TLS");
                Err(End::NoTls)
            }
            Err(_) => {
                tracing::info!("an FTP client takes too long to agree on TLS");
                Err(End::NoTls)
            }
        }
    }

    /// The next line that the client said.
    pub(super) async fn line(&mut self) -> Result<Vec<u8>, End> {
        let line = async {
            loop {
                match self.lines.take() {
                    Ok(Some(line)) => return Ok(line),
                    Ok(None) => read(&mut self.stream, &mut self.lines).await?,
                    Err(LineTooLong) => return Err(End::LineTooLong),
                }
            }
        };
        tokio::time::timeout(self.idle, line).await.unwrap_or(Err(End::Idle))
    }

    pub(super) async fn say(&mut self, reply: &Reply) -> Result<(), End> {
        let said = async {
            self.stream.write_all(reply.bytes()).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(self.idle, said).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Closed),
            Err(_) => Err(End::Idle),
        }
    }

    /// Waits for `work`; `None` if the client says ABOR first, as the next thing that it says. It may
    /// well send other commands meanwhile: they stay, for later.
    pub(super) async fn unless_aborted<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, End> {
        let aborted = async {
            loop {
                match self.lines.first() {
                    Ok(Some(line)) if Command::parse(line) == Ok(Command::Abort) => {
                        let _ = self.lines.take();
                        return Ok(());
                    }
                    // Too long a line is seen when its turn comes.
                    _ if self.lines.room() == 0 => std::future::pending().await,
                    _ => read(&mut self.stream, &mut self.lines).await?,
                }
            }
        };
        pin_mut!(work, aborted);
        match select(work, aborted).await {
            Either::Left((done, _)) => Ok(Some(done)),
            Either::Right((aborted, _)) => aborted.map(|()| None),
        }
    }

    /// Says why the session is over.
    pub(super) async fn close(mut self, end: End) {
        let Some(farewell) = end.farewell() else { return };
        let said = async {
            self.stream.write_all(farewell.bytes()).await?;
            self.stream.shutdown().await?;
            // To close with something unread would take the words back.
            let mut unread = [0; 4096];
            while end == End::LineTooLong && self.stream.read(&mut unread).await? > 0 {}
            Ok::<_, io::Error>(())
        };
        let _ = tokio::time::timeout(FAREWELL_LIMIT, said).await;
    }
}

/// Reads what has come. Loses nothing when it is dropped.
async fn read(stream: &mut Stream, lines: &mut Lines) -> Result<(), End> {
    let mut arrived = [0; 1024];
    let room = lines.room().min(arrived.len());
    match stream.read(&mut arrived[..room]).await {
        Ok(0) | Err(_) => Err(End::Closed),
        Ok(count) => {
            lines.add(&arrived[..count]);
            Ok(())
        }
    }
}
