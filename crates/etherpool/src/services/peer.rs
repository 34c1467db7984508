//! Another process, to be ended if it doesn't do what it should: known by the kernel's word on a connection, not by its
//! own, and by a descriptor, so that no other is meant that has its number by then.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::net::UnixStream;

/// How long the kernel takes to let go of what a process had, once that is gone: it puts off the last of a mount
/// that stands nowhere.
const LET_GO_PAUSE: Duration = Duration::from_millis(100);

/// One that listens.
#[derive(Debug)]
pub struct Peer(OwnedFd);

impl Peer {
    /// Who listens at the other end.
    pub fn of(stream: &UnixStream) -> io::Result<Peer> {
        let pid = stream.peer_cred()?.pid().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::NotFound)?;
        Ok(Peer(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Kills it, also where it was stopped.
    pub fn kill(&self) {
        // It may have ended a moment ago.
        let _ = pidfd_send_signal(&self.0, Signal::KILL);
    }

    /// Waits until it is gone and has nothing any more; false where it isn't within the limit.
    pub async fn gone(&self, limit: Duration) -> bool {
        let Ok(process) = self.0.try_clone() else { return false };
        let wait = move || {
            let limit = Timespec {
                tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: limit.subsec_nanos().into(),
            };
            let mut polled = [PollFd::new(&process, PollFlags::IN)];
            rustix::event::poll(&mut polled, Some(&limit)).is_ok_and(|ready| ready > 0)
        };
        let gone = tokio::task::spawn_blocking(wait).await.unwrap_or(false);
        tokio::time::sleep(LET_GO_PAUSE).await;
        gone
    }
}
