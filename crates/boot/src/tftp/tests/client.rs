//! A client by the RFCs, which compares each byte that arrives with that of the file.

use std::net::SocketAddrV4;
use std::time::Duration;

use block::Instant;

use super::{ack, byte_at, packet, read};

/// Longer than what the server waits: a client that repeats itself is the rarer case.
const WAIT: Duration = Duration::from_millis(1700);
const TRIES_MAX: u32 = 30;

#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    pub blksize: Option<u16>,
    pub windowsize: Option<u16>,
    pub timeout: Option<u8>,
    pub tsize: bool,
}

impl Asked {
    fn any(&self) -> bool {
        self.blksize.is_some() || self.windowsize.is_some() || self.timeout.is_some() || self.tsize
    }

    pub fn packet(&self, name: &str) -> Vec<u8> {
        let mut options = String::new();
        let mut add = |name: &str, value: Option<u64>| {
            if let Some(value) = value {
                options.push_str(&format!("{name}\0{value}\0"));
            }
        };
        add("tsize", self.tsize.then_some(0));
        add("blksize", self.blksize.map(u64::from));
        add("windowsize", self.windowsize.map(u64::from));
        add("timeout", self.timeout.map(u64::from));
        read(name, &options)
    }
}

/// When a client acknowledges what it doesn't expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// For each such block, as EDK2 does.
    Eager,
    /// Once for each gap; and the last block if that comes again, as otherwise nobody would go on.
    Quiet,
}

pub struct Client {
    asked: Asked,
    manner: Manner,
    request: Vec<u8>,
    /// The server's port of this transfer.
    server: Option<SocketAddrV4>,
    port_69: SocketAddrV4,
    blksize: u16,
    windowsize: u16,
    pub told_size: Option<u64>,
    pub received: u64,
    blocks: u64,
    unacknowledged: u16,
    /// The gap that was told.
    told: Option<u64>,
    pub is_done: bool,
    pub failed: Option<String>,
    tries: u32,
    due: Instant,
}

type Packets = Vec<(SocketAddrV4, Vec<u8>)>;

impl Client {
    pub fn new(asked: Asked, manner: Manner, port_69: SocketAddrV4, now: Instant) -> Client {
        Client {
            asked,
            manner,
            request: asked.packet("file"),
            server: None,
            port_69,
            blksize: 512,
            windowsize: 1,
            told_size: None,
            received: 0,
            blocks: 0,
            unacknowledged: 0,
            told: None,
            is_done: false,
            failed: None,
            tries: 0,
            due: now,
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        (!self.is_done && self.failed.is_none()).then_some(self.due)
    }

    /// It begins by this, too.
    pub fn expire(&mut self, now: Instant) -> Packets {
        self.tries += 1;
        self.due = now + WAIT;
        if self.tries > TRIES_MAX {
            self.failed = Some("the server is silent".into());
            return Vec::new();
        }
        if self.server.is_some() {
            return self.acknowledge();
        }
        vec![(self.port_69, self.request.clone())]
    }

    pub fn receive(&mut self, now: Instant, from: SocketAddrV4, bytes: &[u8]) -> Packets {
        let (opcode, rest) = (bytes[1], &bytes[2..]);
        assert_eq!(bytes[0], 0);
        if self.server.is_some_and(|server| server != from) {
            let stranger = packet::error(packet::ErrorCode::UnknownTransfer, "who?");
            return if opcode == 5 { Vec::new() } else { vec![(from, stranger)] };
        }
        match opcode {
            3 => {
                self.server = Some(from);
                self.data(now, u16::from_be_bytes([rest[0], rest[1]]), &rest[2..])
            }
            5 => {
                self.failed = Some(String::from_utf8_lossy(&rest[2..]).into());
                Vec::new()
            }
            6 if self.blocks == 0 && !self.is_done => {
                assert!(self.asked.any(), "an OACK without options");
                self.server = Some(from);
                self.agree(rest);
                self.due = now + WAIT;
                self.acknowledge()
            }
            6 => Vec::new(),
            other => panic!("operation {other} from a server"),
        }
    }

    fn agree(&mut self, rest: &[u8]) {
        let words: Vec<&str> =
            rest.split(|b| *b == 0).map(|word| std::str::from_utf8(word).unwrap()).collect();
        for pair in words.chunks_exact(2) {
            let value: u64 = pair[1].parse().unwrap();
            match pair[0] {
                "blksize" => {
                    assert!((8..=u64::from(self.asked.blksize.unwrap())).contains(&value));
                    self.blksize = value as u16;
                }
                "windowsize" => {
                    assert!((1..=u64::from(self.asked.windowsize.unwrap())).contains(&value));
                    self.windowsize = value as u16;
                }
                "timeout" => assert_eq!(value, u64::from(self.asked.timeout.unwrap())),
                "tsize" => {
                    assert!(self.asked.tsize);
                    self.told_size = Some(value);
                }
                other => panic!("{other} wasn't asked for"),
            }
        }
    }

    fn data(&mut self, now: Instant, number: u16, data: &[u8]) -> Packets {
        let ahead = number.wrapping_sub(self.blocks as u16);
        if ahead != 1 || self.is_done {
            let is_gap = ahead < 0x8000 && ahead != 0;
            let says = match self.manner {
                Manner::Eager => true,
                Manner::Quiet if is_gap => self.told.replace(self.blocks) != Some(self.blocks),
                Manner::Quiet => ahead == 0,
            };
            return if says { self.acknowledge() } else { Vec::new() };
        }
        assert!(data.len() <= self.blksize.into());
        for (n, byte) in (self.received..).zip(data) {
            assert_eq!(*byte, byte_at(n), "byte {n}");
        }
        self.blocks += 1;
        self.received += data.len() as u64;
        self.unacknowledged += 1;
        self.tries = 0;
        self.due = now + WAIT;
        self.is_done = data.len() < self.blksize.into();
        if self.is_done || self.unacknowledged == self.windowsize {
            return self.acknowledge();
        }
        Vec::new()
    }

    fn acknowledge(&mut self) -> Packets {
        self.unacknowledged = 0;
        self.server.map(|server| (server, ack(self.blocks as u16))).into_iter().collect()
    }
}
