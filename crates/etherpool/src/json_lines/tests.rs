#![allow(clippy::unwrap_used)]
use std::io::{BufRead, BufReader, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::*;

const RULES: Rules = Rules {
    name: "test",
    connections_max: 2,
    line_bytes_max: 1000,
    descriptors_max: 1,
    timeout: Some(Duration::from_secs(20)),
};

impl Connection {
    /// A connection, and its other end.
    pub(crate) fn pair() -> (Connection, UnixStream) {
        let (here, there) = UnixStream::pair().unwrap();
        (Connection::new(here, RULES, Arc::default()).unwrap(), there)
    }
}

/// Where numbers are asked for their double.
struct Doubling {
    directory: tempfile::TempDir,
}

impl Doubling {
    fn start(rules: Rules) -> Doubling {
        let server = Doubling { directory: tempfile::tempdir().unwrap() };
        listen(&server.socket(), rules, |connection| {
            while let Some(asked) = connection.receive::<u64>()? {
                connection.send(&asked.map(|number| 2 * number).ok())?;
            }
            Ok(())
        })
        .unwrap();
        server
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn connect(&self) -> BufReader<UnixStream> {
        BufReader::new(UnixStream::connect(self.socket()).unwrap())
    }
}

/// What a line is answered with; nothing at the end of the connection, however it ended.
fn ask(connection: &mut BufReader<UnixStream>, line: &[u8]) -> String {
    let _ = connection.get_mut().write_all(line);
    let mut answer = String::new();
    let _ = connection.read_line(&mut answer);
    answer
}

#[test]
fn each_line_is_answered_by_one_and_nonsense_is_told() {
    let server = Doubling::start(RULES);
    let mut connection = server.connect();
    assert_eq!(ask(&mut connection, b"4\n5\n"), "8\n");
    assert_eq!(ask(&mut connection, b"{\xff\n"), "10\n");
    assert_eq!(ask(&mut connection, b"6\n"), "null\n");
    assert_eq!(ask(&mut connection, b""), "12\n");
    let mode = std::fs::metadata(server.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn an_endless_line_ends_its_connection_and_no_other() {
    let server = Doubling::start(RULES);
    let (mut endless, mut other) = (server.connect(), server.connect());
    assert_eq!(ask(&mut other, b"1\n"), "2\n");
    assert_eq!(ask(&mut endless, &[b'1'; 2000]), "");
    assert_eq!(ask(&mut other, b"2\n"), "4\n");
}

#[test]
fn too_many_connections_are_refused_until_one_ends() {
    let server = Doubling::start(RULES);
    let (mut first, mut second) = (server.connect(), server.connect());
    assert_eq!(ask(&mut first, b"1\n") + &ask(&mut second, b"1\n"), "2\n2\n");
    assert_eq!(ask(&mut server.connect(), b"1\n"), "");
    drop(first);
    // Its thread sees that in a moment.
    let served = |_| ask(&mut server.connect(), b"1\n") == "2\n";
    assert!((0..100_000).any(served));
}

#[test]
fn who_is_silent_is_not_waited_for() {
    let server = Doubling::start(Rules { timeout: Some(Duration::from_millis(20)), ..RULES });
    let mut silent = server.connect();
    silent.get_mut().write_all(b"12").unwrap();
    assert_eq!(silent.read_to_end(&mut Vec::new()).unwrap(), 0);
}

#[test]
fn who_does_not_read_is_not_waited_for() {
    let (here, _there) = UnixStream::pair().unwrap();
    let rules = Rules { timeout: Some(Duration::from_millis(20)), ..RULES };
    let connection = Connection::new(here, rules, Arc::default()).unwrap();
    assert!(connection.send_all(std::iter::repeat_n("answer", 1 << 20)).is_err());
}

#[test]
fn descriptors_that_nobody_asks_for_end_the_connection() {
    let server = Doubling::start(RULES);
    let mut connection = server.connect();
    let send = |line: &[u8]| {
        let stream = connection.get_ref();
        let descriptors = [stream.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(stream, &[IoSlice::new(line)], &mut ancillary, SendFlags::empty()).unwrap();
    };
    send(b"1\n");
    send(b"2\n");
    assert_eq!(ask(&mut connection, b""), "2\n");
    assert_eq!(ask(&mut connection, b""), "");
}

#[test]
fn a_queue_is_sent_until_its_end() {
    let (connection, there) = Connection::pair();
    let (outgoing, queue) = Outgoing::new(0, 8, |lost| format!("{lost} lost"));
    connection.send_from(queue).unwrap();
    assert!(outgoing.send("one".to_owned()));
    let mut lines = BufReader::new(there).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "\"one\"");
    drop(lines);
    // Nobody reads: the thread ends, and soon nobody takes what is sent.
    let is_over = || {
        std::thread::sleep(Duration::from_millis(1));
        !outgoing.tell("more".to_owned())
    };
    assert!((0..30_000).any(|_| is_over()));
}

#[test]
fn what_finds_no_room_is_counted() {
    let (outgoing, queue) = Outgoing::new(1, 2, |lost| format!("{lost} lost"));
    for number in 0..4 {
        assert!(outgoing.tell(number.to_string()));
    }
    outgoing.note_lost(5);
    assert_eq!([queue.next().unwrap(), queue.next().unwrap()], ["0", "1"]);
    assert!(outgoing.tell("4".to_owned()));
    assert_eq!([queue.next().unwrap(), queue.next().unwrap()], ["7 lost", "4"]);
    drop(queue);
    assert!(!outgoing.tell("5".to_owned()));
}

#[test]
fn what_a_dead_predecessor_left_is_removed_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    drop(UnixListener::bind(&path).unwrap());
    assert!(listen(&path, RULES, |_| Ok(())).is_ok());
    let path = directory.path().join("file");
    std::fs::write(&path, "precious").unwrap();
    assert!(listen(&path, RULES, |_| Ok(())).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}
