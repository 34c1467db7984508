//! The targets of this machine: where they listen for questions, and asking them.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control::api::{ApiError, ErrorCode};
use control::node::{NodeReply, NodeRequest, TraceNews};

use terminal::Slow;

use super::Failure;

/// Where nodes and targets have their run directories by default.
pub const RUN_DIR: &str = "/run/etherpool";
const SOCKET: &str = "node-control.sock";
/// 200 exports with all clients that are told apart.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// A target that takes questions.
pub struct TargetClient {
    /// Where.
    pub socket: PathBuf,
    timeout: Duration,
    reader: BufReader<UnixStream>,
}

/// The target at `socket` (or in that run directory), or all that run with default directories.
/// `timeout` is how long to wait for each answer.
pub fn targets(socket: Option<&Path>, timeout: Duration) -> Result<Vec<TargetClient>, Failure> {
    if let Some(socket) = socket {
        let path = if socket.is_dir() { socket.join(SOCKET) } else { socket.to_owned() };
        return TargetClient::connect(&path, timeout).map(|client| vec![client]).map_err(|error| {
            let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
            Failure::not_running(
                format!("no target answers on {} ({error})", path.display()),
                if denied {
                    "run the command as root"
                } else {
                    "name the run directory of a target or node that runs"
                },
            )
        });
    }
    targets_below(Path::new(RUN_DIR), timeout)
}

/// Those whose run directory is this one or in it.
pub fn targets_below(run_dir: &Path, timeout: Duration) -> Result<Vec<TargetClient>, Failure> {
    let mut found = Vec::new();
    let mut refused = None;
    for path in candidates(run_dir) {
        match TargetClient::connect(&path, timeout) {
            Ok(client) => found.push(client),
            // What a killed process left behind.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(error) => refused = Some((path, error)),
        }
    }
    match refused {
        _ if !found.is_empty() => Ok(found),
        Some((path, error)) => Err(Failure::not_running(
            format!("the target at {} can't be asked ({error})", path.display()),
            "run the command as root",
        )),
        None => Err(Failure::not_running(
            format!("no target or node runs with a run directory below {}", run_dir.display()),
            "start one (`etherpool target`, `etherpool node`), or name its run directory with --socket",
        )),
    }
}

/// The node's socket and those of targets, in order.
fn candidates(run_dir: &Path) -> Vec<PathBuf> {
    let mut paths = vec![run_dir.join(SOCKET)];
    if let Ok(entries) = std::fs::read_dir(run_dir) {
        let own =
            |entry: &std::fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b"target");
        paths.extend(entries.flatten().filter(own).map(|entry| entry.path().join(SOCKET)));
    }
    paths.retain(|path| path.exists());
    paths.sort();
    paths
}

/// A process that was stopped has a full queue some day: whoever comes then would wait for ever.
fn connect_within(path: &Path, timeout: Duration) -> std::io::Result<UnixStream> {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let (family, kind) = (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM);
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
    match rustix::net::connect(&socket, &rustix::net::SocketAddrUnix::new(path)?) {
        Err(rustix::io::Errno::AGAIN) => Err(std::io::ErrorKind::TimedOut.into()),
        connected => Ok(connected.map(|()| UnixStream::from(socket))?),
    }
}

impl TargetClient {
    fn connect(path: &Path, timeout: Duration) -> std::io::Result<TargetClient> {
        let stream = connect_within(path, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(TargetClient { socket: path.to_owned(), timeout, reader: BufReader::new(stream) })
    }

    /// Asks, and waits for the answer. A refusal is a failure.
    pub fn ask(&mut self, request: &NodeRequest) -> Result<NodeReply, Failure> {
        let _slow = Slow::begin(format!("the target at {}", self.socket.display()), false);
        self.send(request)?;
        match self.receive()? {
            Some(NodeReply::Error(why)) => Err(ApiError::new(ErrorCode::Internal, why).into()),
            Some(reply) => Ok(reply),
            None => Err(self.broken("it closed the connection")),
        }
    }

    /// Listens to the log of requests: the next news, `None` when the target is gone.
    pub fn next_news(&mut self) -> Result<Option<TraceNews>, Failure> {
        match self.receive()? {
            Some(NodeReply::Trace(news)) => Ok(Some(news)),
            Some(NodeReply::Error(why)) => Err(ApiError::new(ErrorCode::Internal, why).into()),
            Some(_) => Err(self.broken("it answers something else")),
            None => Ok(None),
        }
    }

    /// Waits for the next line for as long as it takes.
    pub fn be_patient(&self) -> Result<(), Failure> {
        let set = self.reader.get_ref().set_read_timeout(None);
        set.map_err(|error| self.broken(&error.to_string()))
    }

    fn send(&mut self, request: &NodeRequest) -> Result<(), Failure> {
        let mut text = serde_json::to_vec(request).map_err(anyhow::Error::from)?;
        text.push(b'\n');
        let sent = self.reader.get_mut().write_all(&text);
        sent.map_err(|error| self.failed(&error))
    }

    fn receive(&mut self) -> Result<Option<NodeReply>, Failure> {
        let mut line = Vec::new();
        let read = self.reader.by_ref().take(ANSWER_BYTES_MAX).read_until(b'\n', &mut line);
        read.map_err(|error| self.failed(&error))?;
        if line.is_empty() {
            return Ok(None);
        }
        let reply = serde_json::from_slice(&line);
        reply.map(Some).map_err(|error| self.broken(&error.to_string()))
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        if !matches!(error.kind(), WouldBlock | TimedOut) {
            return self.broken(&error.to_string());
        }
        let message = format!(
            "the target at {} takes connections and has not answered within {} s; what was asked for may still be done",
            self.socket.display(),
            self.timeout.as_secs()
        );
        ApiError::new(ErrorCode::Unavailable, message)
            .remedy("look whether its process runs and what its log says; --timeout SECONDS waits longer")
            .into()
    }

    /// An answer that makes no sense.
    pub fn broken(&self, why: &str) -> Failure {
        let what =
            format!("the answer of the target at {} is broken: {why}", self.socket.display());
        ApiError::new(ErrorCode::Internal, what)
            .remedy("check that the target runs the same version as this command")
            .into()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use control::exit::Exit;
    use std::os::unix::net::UnixListener;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn running_targets_are_found_and_dead_sockets_passed_by() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).join(SOCKET);
        let failure = targets_below(dir.path(), LONG).err().unwrap();
        assert_eq!(failure.exit, Exit::NotRunning);
        for name in ["target", "target-e1.0", "other"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        drop(UnixListener::bind(at("target")).unwrap());
        let _other = UnixListener::bind(at("other")).unwrap();
        assert_eq!(targets_below(dir.path(), LONG).err().unwrap().exit, Exit::NotRunning);
        let _live = UnixListener::bind(at("target-e1.0")).unwrap();
        let found = targets_below(dir.path(), LONG).unwrap();
        assert_eq!(found.iter().map(|c| c.socket.clone()).collect::<Vec<_>>(), [at("target-e1.0")]);
        let _node = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
        assert_eq!(targets_below(dir.path(), LONG).unwrap().len(), 2);
        // A run directory is as good as the socket in it.
        let named = targets(Some(&dir.path().join("target-e1.0")), LONG).unwrap();
        assert_eq!(named[0].socket, at("target-e1.0"));
        let missing = targets(Some(&dir.path().join("none")), LONG).err().unwrap();
        assert!(missing.exit == Exit::NotRunning && missing.error.message.contains("none"));
    }

    #[test]
    fn silence_ends_with_what_is_silent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET);
        let _mute = UnixListener::bind(&path).unwrap();
        let mut client = targets(Some(&path), Duration::from_millis(20)).unwrap().remove(0);
        let failure = client.ask(&NodeRequest::Status).unwrap_err();
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(
            failure.error.message.contains(&path.display().to_string()),
            "{}",
            failure.error.message
        );
    }

    #[test]
    fn refusals_and_nonsense_are_failures() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET);
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            for answer in ["{\"error\":\"not now\"}\n", "what?\n", ""] {
                let (stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                assert_eq!(line, "{\"op\":\"status\"}\n");
                (&stream).write_all(answer.as_bytes()).unwrap();
            }
        });
        for expected in ["not now", "broken", "closed"] {
            let mut client = targets(Some(&path), LONG).unwrap().remove(0);
            let failure = client.ask(&NodeRequest::Status).unwrap_err();
            assert!(failure.error.message.contains(expected), "{}", failure.error.message);
        }
        server.join().unwrap();
    }
}
