//! All transfers of a server: who may begin one, whose an arriving packet is, and what happens when.
//!
//! A request costs its sender a datagram with any address in it. So what it gets before it has answered is one packet,
//! repeated a few times; transfers that wait for a first answer are few; and when another comes, it is the oldest of
//! those that has to go. A real client answers within milliseconds and is safe from then on, however many requests
//! somebody invents. Who answers and then takes next to nothing isn't, where all places are taken: see [`crate::crowd`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use block::Instant;

use crate::crowd::{Holder, Pace, displaced};

use super::names::{BadName, Name};
use super::packet::{self, ErrorCode, Malformed, Options, Packet};
use super::transfer::{Outgoing, Step, Transfer, agree};

/// How long after a transfer has begun the same request from the same port is a late duplicate, and not a machine that
/// begins anew: none is that quick. Otherwise a ROM would get two transfers of one file if it asked once more while
/// the first answer was on its way.
const DUPLICATE_MAX: Duration = Duration::from_secs(5);
/// Transfers that [`Server::poll`] looks at in one call: each may send a window.
const EXPIRED_AT_ONCE: usize = 32;
/// Characters of a client's message that are kept.
const MESSAGE_CHARS_MAX: usize = 100;

/// How much a server does at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Transfers.
    pub transfers: usize,
    /// Those of one address.
    pub per_address: usize,
    /// Those whose client hasn't answered yet.
    pub unanswered: usize,
    /// Bytes of a block: with 32 of headers it should fit the network's MTU, or each block is sent in fragments that
    /// many a ROM can't put together.
    pub blksize: u16,
    /// Blocks that are sent before an acknowledgement; at most 1024.
    pub windowsize: u16,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { transfers: 1024, per_address: 8, unanswered: 256, blksize: 1468, windowsize: 64 }
    }
}

/// Which transfer. None is ever used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransferId(u64);

/// What is to be done. In this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send something from the transfer's own port.
    Send {
        /// The transfer.
        id: TransferId,
        /// Its client, or somebody else who wrote to its port.
        to: SocketAddrV4,
        /// What.
        what: Outgoing,
    },
    /// The transfer is over: its file and its port can be closed.
    Over {
        /// The transfer.
        id: TransferId,
        /// How it came.
        end: End,
    },
}

/// How a transfer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The client has the file.
    Complete,
    /// Nothing came from the client any more.
    Silent {
        /// Whether all was sent at least once: many a ROM doesn't care whether its last acknowledgement arrives.
        all_sent: bool,
    },
    /// The client didn't want to go on. ROMs do so when all they wanted was the file's size.
    Client {
        /// The code of its ERROR.
        code: u16,
        /// The message, without control characters, and cut.
        message: String,
    },
    /// The client sent what no reader sends.
    Illegal,
    /// The client has asked for something else from the same port.
    Superseded,
    /// It had to make room: its client hadn't answered yet, or took next to nothing, or had more than its share.
    Displaced,
    /// [`Server::fail`].
    Failed,
}

/// A request to read a file, which is to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    client: SocketAddrV4,
    name: Name,
    asked: Options,
}

impl Opening {
    /// Whose request.
    pub fn client(&self) -> SocketAddrV4 {
        self.client
    }

    /// Which file.
    pub fn name(&self) -> &Name {
        &self.name
    }
}

/// Why there is no transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No request that can be read.
    #[error("malformed request")]
    Malformed,
    /// It is to be written.
    #[error("files can only be read")]
    Write,
    /// Another mode than octet.
    #[error("the only mode is octet")]
    Mode,
    /// No name that is looked up.
    #[error("{0}")]
    Name(#[from] BadName),
    /// The address has as many transfers as it may.
    #[error("too many transfers of this address")]
    AddressBusy,
    /// There are as many as there may be.
    #[error("too many transfers")]
    Busy,
    /// Said by who opens files: there is none of that name.
    #[error("no such file")]
    NotFound,
    /// Said by who opens files: it can't be read.
    #[error("the file can't be read")]
    Unreadable,
}

impl Refused {
    /// The packet for who asked, from whichever port.
    pub fn packet(&self) -> Vec<u8> {
        let code = match self {
            Refused::Malformed | Refused::Mode => ErrorCode::IllegalOperation,
            Refused::Write | Refused::Name(_) => ErrorCode::AccessViolation,
            Refused::NotFound => ErrorCode::FileNotFound,
            Refused::AddressBusy | Refused::Busy | Refused::Unreadable => ErrorCode::NotDefined,
        };
        packet::error(code, &self.to_string())
    }
}

/// The transfers of a server.
///
/// Effects are added to `out`, and to be performed whatever else a call returns.
pub struct Server {
    limits: Limits,
    running: BTreeMap<TransferId, Running>,
    clients: BTreeSet<(SocketAddrV4, TransferId)>,
    /// The oldest is the first, as ids grow.
    unanswered: BTreeSet<TransferId>,
    due: BTreeSet<(Instant, TransferId)>,
    next: u64,
}

struct Running {
    request: Opening,
    begun: Instant,
    pace: Pace,
    transfer: Transfer,
}

impl Server {
    /// Without transfers. A limit of 0 counts as 1.
    pub fn new(limits: Limits) -> Server {
        let limits = Limits {
            transfers: limits.transfers.max(1),
            per_address: limits.per_address.max(1),
            unanswered: limits.unanswered.max(1),
            ..limits
        };
        Server {
            limits,
            running: BTreeMap::new(),
            clients: BTreeSet::new(),
            unanswered: BTreeSet::new(),
            due: BTreeSet::new(),
            next: 0,
        }
    }

    /// Something has arrived at [`packet::PORT`]. If it is a new request, its file is to be opened, and then
    /// [`Server::begin`] called, or [`Refused::packet`] sent of what hinders it.
    pub fn request(
        &mut self,
        now: Instant,
        from: SocketAddrV4,
        packet: &[u8],
        out: &mut Vec<Effect>,
    ) -> Result<Option<Opening>, Refused> {
        if !may_be_answered(from) {
            return Ok(None);
        }
        let request = match Packet::parse(packet) {
            Ok(Packet::Read(request)) => request,
            Ok(Packet::Write) => return Err(Refused::Write),
            Err(Malformed::Request) => return Err(Refused::Malformed),
            // Answers to what is no request could go to and fro between two servers for ever.
            Ok(_) | Err(_) => return Ok(None),
        };
        if !request.is_octet() {
            return Err(Refused::Mode);
        }
        let name = Name::parse(request.name)?;
        let opening = Opening { client: from, name, asked: request.options };
        if self.repeats(now, &opening, out) {
            return Ok(None);
        }
        self.who_makes_room(now, *from.ip())?;
        Ok(Some(opening))
    }

    /// The file of a request was opened and has `size` bytes. None: it was requested more than once and is on its way
    /// already.
    pub fn begin(
        &mut self,
        now: Instant,
        opening: Opening,
        size: u64,
        out: &mut Vec<Effect>,
    ) -> Result<Option<TransferId>, Refused> {
        if self.repeats(now, &opening, out) {
            return Ok(None);
        }
        let client = opening.client;
        // One that it doesn't answer, because it has changed its mind.
        for id in self.transfers_of(client) {
            if self.unanswered.contains(&id) {
                self.end(id, End::Superseded, out);
            }
        }
        if let Some(oldest) = self.who_makes_room(now, *client.ip())? {
            self.end(oldest, End::Displaced, out);
        }
        let id = TransferId(self.next);
        self.next += 1;
        let agreed = agree(opening.asked, self.limits.blksize, self.limits.windowsize);
        let transfer = Transfer::new(agreed, size, now);
        self.clients.insert((client, id));
        self.unanswered.insert(id);
        self.due.insert((transfer.due(), id));
        self.running
            .insert(id, Running { request: opening, begun: now, pace: Pace::begin(now), transfer });
        self.send(id, 0, out);
        Ok(Some(id))
    }

    /// Something has arrived at a transfer's own port.
    pub fn receive(
        &mut self,
        now: Instant,
        id: TransferId,
        from: SocketAddrV4,
        packet: &[u8],
        out: &mut Vec<Effect>,
    ) {
        let Some(running) = self.running.get(&id) else { return };
        let packet = Packet::parse(packet);
        let is_stranger = from != running.request.client;
        let error = |code, message| {
            let what = Outgoing::Packet(packet::error(code, message));
            Effect::Send { id, to: from, what }
        };
        match packet {
            // What no TFTP sent isn't worth an answer, nor a transfer.
            Err(Malformed::Short) => {}
            Ok(Packet::Error { .. }) | Err(_) if is_stranger => {}
            Ok(_) if is_stranger && may_be_answered(from) => {
                out.push(error(ErrorCode::UnknownTransfer, "not your transfer"));
            }
            Ok(_) if is_stranger => {}
            Ok(Packet::Ack(block)) => self.step(id, out, |one| one.acknowledge(now, block)),
            Ok(Packet::Error { code, message }) => {
                self.end(id, End::Client { code, message: readable(message) }, out);
            }
            Ok(Packet::Read(_) | Packet::Write | Packet::Data | Packet::OptionAck) | Err(_) => {
                out.push(error(ErrorCode::IllegalOperation, "not while a file is read"));
                self.end(id, End::Illegal, out);
            }
        }
    }

    /// To be called when it is [`Server::deadline`]. If much is due at once, that is past still afterwards.
    pub fn poll(&mut self, now: Instant, out: &mut Vec<Effect>) {
        for _ in 0..EXPIRED_AT_ONCE {
            match self.due.first() {
                Some((due, id)) if *due <= now => self.step(*id, out, |one| one.expire(now)),
                _ => return,
            }
        }
    }

    /// When to call [`Server::poll`]. Never without transfers.
    pub fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The file of a transfer can't be read any further, or isn't any more what it was.
    pub fn fail(&mut self, id: TransferId, out: &mut Vec<Effect>) {
        let Some(running) = self.running.get(&id) else { return };
        let to = running.request.client;
        let what = Outgoing::Packet(Refused::Unreadable.packet());
        out.push(Effect::Send { id, to, what });
        self.end(id, End::Failed, out);
    }

    /// What a transfer was begun for, if it isn't over.
    pub fn opening(&self, id: TransferId) -> Option<&Opening> {
        self.running.get(&id).map(|running| &running.request)
    }

    /// Transfers there are.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Whether a request is one that is being served. If its answer seems to be lost, it is sent again.
    fn repeats(&self, now: Instant, opening: &Opening, out: &mut Vec<Effect>) -> bool {
        let is_same = |id: &TransferId| {
            self.running.get(id).is_some_and(|running| {
                let is_young = now.since(running.begun) < DUPLICATE_MAX;
                running.request == *opening && (is_young || !running.transfer.is_answered())
            })
        };
        let Some(id) = self.transfers_of(opening.client).into_iter().find(is_same) else {
            return false;
        };
        if self.unanswered.contains(&id) {
            self.send(id, 0, out);
        }
        true
    }

    /// Whose transfer has to go when another of this address begins. One is enough, as there is never more than there
    /// may be.
    fn who_makes_room(
        &mut self,
        now: Instant,
        address: Ipv4Addr,
    ) -> Result<Option<TransferId>, Refused> {
        let whole = |port, id| (SocketAddrV4::new(address, port), TransferId(id));
        let ours =
            || self.clients.range(whole(0, 0)..=whole(u16::MAX, u64::MAX)).map(|(_, id)| *id);
        if ours().count() >= self.limits.per_address {
            // Requests may be invented in the name of a real client, too.
            let unanswered = ours().filter(|id| self.unanswered.contains(id)).min();
            return unanswered.map(Some).ok_or(Refused::AddressBusy);
        }
        let oldest = self.unanswered.first().copied();
        if self.running.len() >= self.limits.transfers {
            return oldest.or_else(|| self.worst(now, address)).map(Some).ok_or(Refused::Busy);
        }
        Ok(oldest.filter(|_| self.unanswered.len() >= self.limits.unanswered))
    }

    fn worst(&mut self, now: Instant, comes: Ipv4Addr) -> Option<TransferId> {
        let holder = |(id, running): (&TransferId, &mut Running)| {
            let taken_bytes = running.transfer.taken_bytes();
            let bytes_per_second = running.pace.bytes_per_second(now, taken_bytes);
            Holder { id: *id, machine: *running.request.client.ip(), bytes_per_second }
        };
        let holders: Vec<_> = self.running.iter_mut().map(holder).collect();
        displaced(&comes, &holders)
    }

    fn transfers_of(&self, client: SocketAddrV4) -> Vec<TransferId> {
        let all = (client, TransferId(0))..=(client, TransferId(u64::MAX));
        self.clients.range(all).map(|(_, id)| *id).collect()
    }

    fn step(
        &mut self,
        id: TransferId,
        out: &mut Vec<Effect>,
        act: impl FnOnce(&mut Transfer) -> Step,
    ) {
        let Some(running) = self.running.get_mut(&id) else { return };
        let before = running.transfer.due();
        let step = act(&mut running.transfer);
        let (client, transfer) = (running.request.client, &running.transfer);
        let (due, all_sent) = (transfer.due(), transfer.is_all_sent());
        if due != before {
            self.due.remove(&(before, id));
            self.due.insert((due, id));
        }
        if transfer.is_answered() && self.unanswered.remove(&id) {
            // A client has one transfer at each port: by this answer it has said which.
            for other in self.transfers_of(client).into_iter().filter(|other| *other != id) {
                self.end(other, End::Superseded, out);
            }
        }
        match step {
            Step::Nothing => {}
            Step::Send(from) => self.send(id, from, out),
            Step::Complete => self.end(id, End::Complete, out),
            Step::GiveUp => self.end(id, End::Silent { all_sent }, out),
        }
    }

    /// What is on its way, from a block on.
    fn send(&self, id: TransferId, from: u64, out: &mut Vec<Effect>) {
        let Some(running) = self.running.get(&id) else { return };
        let to = running.request.client;
        out.extend(running.transfer.on_its_way(from).map(|what| Effect::Send { id, to, what }));
    }

    /// Without a word to the client: who is gone doesn't hear it, and a ROM that uses its port again and doesn't look
    /// where packets come from would take it for an answer to its next request.
    fn end(&mut self, id: TransferId, end: End, out: &mut Vec<Effect>) {
        let Some(running) = self.running.remove(&id) else { return };
        self.clients.remove(&(running.request.client, id));
        self.unanswered.remove(&id);
        self.due.remove(&(running.transfer.due(), id));
        out.push(Effect::Over { id, end });
    }

    /// That all that is known of the transfers fits together, and the limits.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let of = |running: &Running| (running.request.client, running.transfer.due());
        assert!(self.clients.iter().all(|(client, id)| of(&self.running[id]).0 == *client));
        assert!(self.due.iter().all(|(due, id)| of(&self.running[id]).1 == *due));
        let unanswered = |id: &&TransferId| !self.running[*id].transfer.is_answered();
        assert!(self.running.keys().filter(unanswered).eq(self.unanswered.iter()));
        assert_eq!((self.clients.len(), self.due.len()), (self.running.len(), self.running.len()));
        assert!(self.running.len() <= self.limits.transfers);
        assert!(self.unanswered.len() <= self.limits.unanswered);
        let mut addresses: BTreeMap<&Ipv4Addr, usize> = BTreeMap::new();
        for (client, _) in &self.clients {
            *addresses.entry(client.ip()).or_default() += 1;
        }
        assert!(addresses.values().all(|count| *count <= self.limits.per_address));
    }
}

/// Whether there can be a client: what is sent to all of a network is answered by all of it.
fn may_be_answered(from: SocketAddrV4) -> bool {
    let ip = from.ip();
    from.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast()
}

/// What a client said, so that it can be shown.
fn readable(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message);
    text.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect()
}
