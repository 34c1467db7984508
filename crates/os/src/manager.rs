//! The service manager (systemd) as the parent of a daemon: it is told when the daemon is ready, how
//! things stand, and, if it wants to know, that the daemon's loop still turns. The protocol is that
//! of sd_notify(3): datagrams of `NAME=value` lines to the socket that the environment names.
//!
//! Without a manager everything here does nothing. A manager that doesn't read loses messages; it
//! never stops the daemon. Its socket is connected to once, and again when the manager has made it
//! anew; no path is resolved for that ([`crate::dir`]).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::ReactorHandle;
use crate::dir::Spot;

/// Longest text that is sent; a datagram has room for more, people haven't.
const STATUS_BYTES_MAX: usize = 500;
/// Beside a status: it is why the daemon ends. Managers ignore what they don't know and begins so.
pub const FAILED: &str = "X_ETHERPOOL_FAILED";

/// The way to the manager. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Manager {
    way: Option<Rc<Way>>,
    watchdog: Option<Duration>,
}

#[derive(Debug)]
struct Way {
    socket: UnixDatagram,
    address: Address,
}

#[derive(Debug)]
enum Address {
    Abstract(SocketAddr),
    Spot(Spot),
}

impl Manager {
    /// The one that the environment names, if any. A name that makes no sense is logged: the daemon
    /// is more useful than its manager's knowledge of it.
    pub fn from_environment() -> Manager {
        let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return Manager::default() };
        let variable = |name| std::env::var(name).ok();
        let watchdog = watchdog_period(
            variable("WATCHDOG_USEC").as_deref(),
            variable("WATCHDOG_PID").as_deref(),
            std::process::id(),
        );
        Manager::at(&address, watchdog).unwrap_or_else(|error| {
            tracing::warn!(%error, "the service manager can't be told anything");
            Manager::default()
        })
    }

    /// The one at an address: a path, or `@` and an abstract name. `watchdog` is how often it wants
    /// to hear that the loop turns.
    pub fn at(address: &OsStr, watchdog: Option<Duration>) -> io::Result<Manager> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => Address::Abstract(SocketAddr::from_abstract_name(name)?),
            _ => Address::Spot(Spot::of(Path::new(address))?),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let way = Way { socket, address };
        // It may not be there yet: the first message tries again.
        let _ = way.connect();
        Ok(Manager { way: Some(Rc::new(way)), watchdog })
    }

    /// The daemon serves.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// The daemon begins to stop.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// The daemon reads its configuration again; [`Manager::ready`] ends that.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The daemon ends, and why, in a line for people. A manager of ours ([`FAILED`]) knows by that what its end was of.
    pub fn failed(&self, why: &str) {
        self.send(&format!("{}\n{FAILED}=1", status_line(why)));
    }

    /// How things stand, in a line for people.
    pub fn status(&self, text: &str) {
        self.send(&status_line(text));
    }

    /// How often the manager is to hear that the loop turns: twice in the time after which it takes
    /// the daemon for dead.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The loop turns.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// Tells the manager from the reactor's own loop that it turns: when that loop hangs, the manager
    /// hears nothing more and starts the daemon anew.
    pub fn keep_watchdog(&self, handle: &ReactorHandle) {
        let Some(period) = self.watchdog else { return };
        let (manager, runtime) = (self.clone(), handle.runtime().clone());
        handle.runtime().spawn(async move {
            loop {
                manager.alive();
                runtime.sleep(period).await;
            }
        });
    }

    /// Tells how things stand, now and whenever it has changed, looking as often as `every` says.
    pub fn keep_status(
        &self,
        handle: &ReactorHandle,
        every: Duration,
        status: impl Fn() -> String + 'static,
    ) {
        if self.way.is_none() {
            return;
        }
        let (manager, runtime) = (self.clone(), handle.runtime().clone());
        handle.runtime().spawn(async move {
            let mut told = None;
            loop {
                let text = status();
                if told.as_ref() != Some(&text) {
                    manager.status(&text);
                    told = Some(text);
                }
                runtime.sleep(every).await;
            }
        });
    }

    fn send(&self, state: &str) {
        let Some(way) = &self.way else { return };
        if let Err(error) = way.send(state.as_bytes()) {
            tracing::debug!(%error, state, "the service manager was not told");
        }
    }
}

impl Way {
    fn connect(&self) -> io::Result<()> {
        match &self.address {
            Address::Abstract(address) => self.socket.connect_addr(address),
            Address::Spot(spot) => spot.connect(&self.socket),
        }
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        match self.socket.send(message) {
            Ok(_) => Ok(()),
            // It doesn't read; that is no reason to look for another.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(_) => {
                self.connect()?;
                self.socket.send(message).map(drop)
            }
        }
    }
}

/// Half of the time that the manager gives, if it means this process.
fn watchdog_period(usec: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    let usec: u64 = usec?.parse().ok()?;
    (usec > 0).then(|| Duration::from_micros((usec / 2).max(1)))
}

fn status_line(text: &str) -> String {
    let mut end = text.len().min(STATUS_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    // A line break would begin another message.
    let line: String = text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("STATUS={line}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Reactor;

    /// A manager's end of the socket. Not in a namespace of paths: names of tests don't collide.
    fn listen(name: &str) -> (UnixDatagram, std::ffi::OsString) {
        let name = format!("etherpool-test-{}-{name}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        (UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}").into())
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 1024];
        let len = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }

    #[test]
    fn the_manager_hears_what_it_is_told() {
        let (socket, address) = listen("told");
        let manager = Manager::at(&address, None).unwrap();
        manager.ready();
        assert_eq!(heard(&socket), "READY=1");
        manager.status("7 exports\nREADY=0");
        assert_eq!(heard(&socket), "STATUS=7 exports READY=0");
        manager.status(&"é".repeat(400));
        assert_eq!(heard(&socket).len(), "STATUS=".len() + STATUS_BYTES_MAX);
        manager.stopping();
        assert_eq!(heard(&socket), "STOPPING=1");
        manager.reloading();
        let text = heard(&socket);
        let usec = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(usec.parse::<u64>().unwrap() > 0, "{text}");
    }

    #[test]
    fn a_path_is_an_address_too_and_a_deaf_manager_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::at(path.as_os_str(), None).unwrap();
        manager.alive();
        assert_eq!(heard(&socket), "WATCHDOG=1");
        // Far more than fits into its socket.
        (0..10_000).for_each(|_| manager.alive());
        drop(socket);
        manager.alive();
        // Its successor hears more.
        std::fs::remove_file(&path).unwrap();
        let socket = UnixDatagram::bind(&path).unwrap();
        manager.alive();
        assert_eq!(heard(&socket), "WATCHDOG=1");
        Manager::default().ready();
    }

    #[test]
    fn the_watchdog_is_for_this_process_and_half_of_the_limit() {
        for (usec, pid, expected) in [
            (Some("30000000"), None, Some(Duration::from_secs(15))),
            (Some("30000000"), Some("5"), Some(Duration::from_secs(15))),
            (Some("30000000"), Some("6"), None),
            (Some("1"), None, Some(Duration::from_micros(1))),
            (Some("0"), None, None),
            (Some("x"), None, None),
            (None, None, None),
        ] {
            assert_eq!(watchdog_period(usec, pid, 5), expected, "{usec:?} {pid:?}");
        }
    }

    #[test]
    fn the_status_is_told_when_it_changes() {
        let (socket, address) = listen("status");
        let (mut reactor, handle) = Reactor::new().unwrap();
        let manager = Manager::at(&address, None).unwrap();
        let calls = Rc::new(std::cell::Cell::new(0));
        let counter = Rc::clone(&calls);
        manager.keep_status(&handle, Duration::from_micros(1), move || {
            counter.set(counter.get() + 1);
            format!("{}", counter.get() / 3)
        });
        let runtime = handle.runtime().clone();
        let turned = reactor.run_until(async move {
            while calls.get() < 7 {
                runtime.yield_now().await;
            }
        });
        turned.unwrap();
        let told = [heard(&socket), heard(&socket), heard(&socket)];
        assert_eq!(told, ["STATUS=0", "STATUS=1", "STATUS=2"]);
    }

    #[test]
    fn the_loop_itself_tells_that_it_turns() {
        let (socket, address) = listen("turns");
        let (mut reactor, handle) = Reactor::new().unwrap();
        let manager = Manager::at(&address, Some(Duration::from_millis(1))).unwrap();
        manager.keep_watchdog(&handle);
        // Nothing before the loop turns.
        socket.set_nonblocking(true).unwrap();
        assert!(socket.recv(&mut [0; 64]).is_err());
        let runtime = handle.runtime().clone();
        let turned = reactor.run_until(async move {
            for _ in 0..3 {
                while socket.recv(&mut [0; 64]).is_err() {
                    runtime.yield_now().await;
                }
            }
            socket
        });
        let socket = turned.unwrap();
        while socket.recv(&mut [0; 64]).is_ok() {}
        // And nothing when it doesn't any more.
        assert!(socket.recv(&mut [0; 64]).is_err());
    }
}
