//! The log of a node: all that this process and its children say goes to the console, and to who collects logs.
//!
//! Both get lines from a thread that reads them from a pipe, so that no process waits for the console, which may be a
//! slow serial line, longer than its pipe is full.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Longer lines are cut in pieces.
const LINE_BYTES_MAX: u64 = 4096;
/// What a line is by syslog: of a daemon, for information (RFC 5424, 6.2.1).
const PRIORITY: u8 = 3 << 3 | 6;

/// Who gets the log beside the console; may change. Cheap to clone.
#[derive(Clone, Default)]
pub struct Collector {
    at: Arc<Mutex<Option<SocketAddr>>>,
    name: Arc<Mutex<String>>,
}

impl Collector {
    /// From now on that one.
    pub fn set(&self, at: SocketAddr) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// The machine's name in it.
    pub fn set_name(&self, name: &str) {
        name.clone_into(&mut self.name.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn get(&self) -> (Option<SocketAddr>, String) {
        let name = self.name.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (*self.at.lock().unwrap_or_else(PoisonError::into_inner), name)
    }
}

/// Has standard output and error of this process, and so of its children, go through the log.
pub fn begin() -> io::Result<Collector> {
    let console = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let (reader, writer) = io::pipe()?;
    rustix::stdio::dup2_stdout(&writer)?;
    rustix::stdio::dup2_stderr(&writer)?;
    let collector = Collector::default();
    let to = collector.clone();
    let copying = move || copy(BufReader::new(reader), console, &to);
    std::thread::Builder::new().name("console".to_owned()).spawn(copying)?;
    Ok(collector)
}

fn copy(mut from: impl BufRead, mut console: impl Write, to: &Collector) {
    let mut sockets: [Option<UdpSocket>; 2] = [None, None];
    let mut line = Vec::new();
    loop {
        line.clear();
        match from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        }
        // A console that isn't there leaves nothing to do.
        let _ = console.write_all(&line);
        let (Some(at), name) = to.get() else { continue };
        let socket = &mut sockets[usize::from(at.is_ipv6())];
        if socket.is_none() {
            let own = if at.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
            *socket = UdpSocket::bind(own).ok();
        }
        if let Some(socket) = socket {
            // Lost while the network is: that is what the console is for.
            let _ = socket.send_to(&message(&name, &line), at);
        }
    }
}

/// RFC 3164, without the time: who collects it has one that is right.
fn message(name: &str, line: &[u8]) -> Vec<u8> {
    let name = if name.is_empty() { "node" } else { name };
    let mut message = format!("<{PRIORITY}>{name} etherpool: ").into_bytes();
    message.extend(line.trim_ascii_end().iter().filter(|byte| !byte.is_ascii_control()));
    message
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_to_the_console_and_to_who_collects_them() {
        let listening = UdpSocket::bind("127.0.0.1:0").unwrap();
        let collector = Collector::default();
        collector.set(listening.local_addr().unwrap());
        collector.set_name("node-7");
        let mut console = Vec::new();
        let said = format!("one\n{}\n", "x".repeat(5000));
        copy(said.as_bytes(), &mut console, &collector);
        assert_eq!(console, said.as_bytes());
        let mut heard = [0; 8192];
        let len = listening.recv(&mut heard).unwrap();
        assert_eq!(&heard[..len], b"<30>node-7 etherpool: one");
        let len = listening.recv(&mut heard).unwrap();
        assert!(len > 4000 && len < 4200, "{len}");
    }
}
