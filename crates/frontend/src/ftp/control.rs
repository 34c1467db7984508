//! A session's control connection: lines in, answers out, each within its limits.

use std::io;
use std::time::Duration;

use futures::future::{Either, select};
use futures::pin_mut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::command::{Command, LineTooLong, Lines};
use super::reply::Reply;

/// How long the last words may take to a client that doesn't read, or goes on talking.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

pub(super) struct Control {
    stream: TcpStream,
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
}

impl End {
    /// What the client is told.
    fn farewell(self) -> Option<Reply> {
        Some(match self {
            End::Closed => return None,
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
        Control { stream, lines: Lines::default(), idle }
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
        let said = self.stream.write_all(reply.bytes());
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
async fn read(stream: &mut TcpStream, lines: &mut Lines) -> Result<(), End> {
    stream.readable().await.map_err(|_| End::Closed)?;
    let mut arrived = [0; 1024];
    let room = lines.room().min(arrived.len());
    match stream.try_read(&mut arrived[..room]) {
        Ok(0) => Err(End::Closed),
        Ok(count) => {
            lines.add(&arrived[..count]);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(_) => Err(End::Closed),
    }
}
