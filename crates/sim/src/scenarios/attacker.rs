//! Somebody on the segment who hears every frame, and sends what he likes under any address: what he heard, at once
//! or much later, in order or not; the same with changes; requests and answers of his own with the right numbers. He
//! has any key but the right ones.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use aoe_wire::{
    AtaCommand, AtaRequest, Command, Header, HolderPayload, MacAddr, Offer, OpenPayload, Operation,
    SessionId, SessionReply, SessionRequest, SessionVersion, ShelfSlot, Status,
};
use block::{Buffer, Epoch, Lba, OwnerId, crc32c};
use futures::FutureExt;
use rand::Rng;
use rand::rngs::SmallRng;
use runtime::Handle;
use seal::{PublicKey, Security};
use uuid::Uuid;

use super::common::expect;
use super::scenario;
use super::sessions::{Pair, busy};
use crate::network::{Network, Quality, Station};
use crate::random::fork;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "attacker",
        "a disk with keys beside somebody who hears all frames, replays, changes and forges them, over good and bad \
         cables and restarts of the target",
        600,
        |stage| attacked(stage).boxed_local(),
    ),
    scenario(
        "attacker-replays-lives",
        "all that was said to a target, played back in order while other clients follow each other on the disk",
        600,
        |stage| lives(stage).boxed_local(),
    ),
];

const SECTOR: usize = 512;
/// Where the CRC of a message is, and the session's number behind it.
const CRC: usize = 28;
const SESSION: usize = 32;

fn is_of_session(frame: &[u8]) -> bool {
    Header::parse(frame).is_ok_and(|header| header.command == Command::Session)
}

/// He, with a cable of his own.
pub(super) struct Attacker {
    network: Rc<Network>,
    station: Rc<Station>,
    director: Handle,
    random: RefCell<SmallRng>,
    /// He changes nothing but what has keys: by plain AoE anybody may write to a blank disk, and then it isn't blank.
    spares_plain: bool,
}

impl Attacker {
    /// Hears all that is said there from now on.
    pub fn new(stage: &Stage, network: &Rc<Network>) -> Attacker {
        network.listen();
        Attacker {
            network: Rc::clone(network),
            station: network.plug("attacker", 9000),
            director: stage.world.director(),
            random: RefCell::new(fork(stage.world.seed(), "attacker")),
            spares_plain: false,
        }
    }

    /// The same where blank disks are to stay blank.
    pub fn sparing_plain(stage: &Stage, network: &Rc<Network>) -> Attacker {
        Attacker { spares_plain: true, ..Attacker::new(stage, network) }
    }

    fn send(&self, bytes: Vec<u8>) {
        self.network.inject(&self.station, bytes);
    }

    fn below(&self, bound: u32) -> u32 {
        self.random.borrow_mut().random_range(0..bound)
    }

    /// Asks a target, as any client of plain AoE, to write that.
    pub fn write_plainly(&self, target: MacAddr, address: ShelfSlot, start: Lba, data: &[u8]) {
        let own = self.station.mac();
        let header = Header::request(target, own, address, Command::Ata, self.below(1 << 30));
        let count = (data.len() / SECTOR) as u8;
        let request = AtaRequest::new(header, AtaCommand::WRITE_EXT, start, count);
        let frame = request.emit(Buffer::copy_of(data));
        self.send([frame.head.as_slice(), &frame.payload].concat());
    }

    /// Something that was heard, of late or at any time.
    fn frame(&self) -> Option<Vec<u8>> {
        let count = self.network.heard_count() as u32;
        let late = self.below(2) == 0;
        let back = self.below(if late { count.min(200) } else { count }.max(1));
        let number = count.checked_sub(1 + back)?;
        Some(self.network.heard(number as usize)?.to_vec())
    }

    /// The newest request of an open session.
    fn request(&self) -> Option<SessionRequest> {
        let count = self.network.heard_count();
        (0..count).rev().take(500).find_map(|number| {
            let bytes = self.network.heard(number)?;
            let (request, _) = SessionRequest::parse(&bytes).ok()?;
            (request.sequence > 0).then_some(request)
        })
    }

    /// Does something of that.
    pub fn act(&self) {
        match self.below(8) {
            0..3 => self.frame().into_iter().for_each(|bytes| self.send(bytes)),
            3 => (0..self.below(100)).for_each(|_| {
                self.frame().into_iter().for_each(|bytes| self.send(bytes));
            }),
            4 => {
                let heard = self.frame().filter(|bytes| !self.spares_plain || is_of_session(bytes));
                heard.into_iter().for_each(|bytes| self.send(self.changed(bytes)));
            }
            5 | 6 => self.forge_request(),
            _ => self.forge_reply(),
        }
    }

    /// Some bytes are others, and the checksum, which has no key, says that this is right.
    fn changed(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.below(3) {
            let at = 12 + self.below(bytes.len() as u32 - 12) as usize;
            bytes[at] ^= 1 + self.below(255) as u8;
        }
        if self.below(4) == 0 {
            // As if it had no keys.
            bytes.iter_mut().skip(100).take(28).for_each(|byte| *byte = 0);
        }
        self.resealed(bytes)
    }

    fn resealed(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        if bytes.len() < 96 {
            // Not of a session: a question who is there, or an answer to one.
            return bytes;
        }
        let version = bytes[24];
        let head_bytes = if version == 1 { 96 } else { 128 };
        let len = bytes[84..88].iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
        let Some(message) = bytes.get(..head_bytes + len) else { return bytes };
        let (head, rest) = (&message[..CRC], &message[SESSION..]);
        let is_hello = message[25] == 1;
        let seed = if is_hello { [0; 8] } else { *rest.first_chunk().unwrap_or(&[0; 8]) };
        let crc = crc32c(&[&seed, head, &[0; 4], rest].concat());
        bytes[CRC..SESSION].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// In the client's name: other data, another owner, the end.
    fn forge_request(&self) {
        let Some(heard) = self.request() else { return };
        let sectors = 1 + self.below(16);
        let next = SessionRequest {
            sequence: heard.sequence + u64::from(self.below(3)),
            lba: Lba(4096 + u64::from(self.below(512))),
            sectors,
            durable: false,
            force: false,
            first: 0,
            last: true,
            together: false,
            ..heard
        };
        let data = Buffer::copy_of(&vec![0xee; sectors as usize * SECTOR]);
        let thief = OwnerId(Uuid::from_u128(666));
        let (request, payload) = match self.below(5) {
            0 | 1 => (SessionRequest { operation: Operation::Write, ..next }, data),
            2 => {
                let epoch = Epoch(heard.epoch.0 + u64::from(self.below(3)));
                let claim =
                    SessionRequest { operation: Operation::Claim, epoch, sectors: 0, ..next };
                (claim, HolderPayload::emit_claim(thief, &block::Trust::Unchanged))
            }
            3 => {
                let close = SessionRequest { operation: Operation::Close, sectors: 0, ..next };
                (close, Buffer::empty())
            }
            _ => {
                let trim = SessionRequest { operation: Operation::Discard, ..next };
                (trim, Buffer::empty())
            }
        };
        let version = match self.below(3) {
            0 => SessionVersion::One,
            _ => heard.version,
        };
        let frame = SessionRequest { version, ..request }.emit(payload);
        let mut bytes = [frame.head.as_slice(), &frame.payload].concat();
        if version != SessionVersion::One && self.below(2) == 0 {
            bytes[103] = 1;
            bytes.iter_mut().skip(108).take(20).for_each(|byte| *byte = self.below(256) as u8);
            bytes = self.resealed(bytes);
        }
        self.send(bytes);
    }

    /// In the target's name: that all is done, that nothing is there, that he is the target.
    fn forge_reply(&self) {
        let Some(heard) = self.request() else { return };
        let status = match self.below(4) {
            0 => Status::NoSession,
            1 => Status::MediumGone,
            2 => Status::Fenced,
            _ => Status::Ok,
        };
        let reply = SessionReply {
            header: heard.header.answer(heard.header.destination, heard.header.address),
            version: heard.version,
            operation: heard.operation,
            status,
            detail: 0,
            session: heard.session,
            instance: heard.instance,
            epoch: Epoch(heard.epoch.0 + u64::from(self.below(2))),
            sequence: heard.sequence + u64::from(self.below(3)),
            executed: 0,
            clock: self.director.now(),
            sectors: heard.sectors,
            first: 0,
            takes: 17,
            seal: Default::default(),
        };
        let data = match (status, heard.operation) {
            (Status::Ok, Operation::Read) => {
                Buffer::copy_of(&vec![0xee; heard.sectors.min(16) as usize * SECTOR])
            }
            _ => Buffer::empty(),
        };
        let frame = match self.below(3) {
            0 => return self.forge_offer(),
            _ => reply.emit(data),
        };
        self.send([frame.head.as_slice(), &frame.payload].concat());
    }

    /// An answer to the newest HELLO: no keys at all, or his.
    fn forge_offer(&self) {
        let count = self.network.heard_count();
        let hello = (0..count).rev().take(500).find_map(|number| {
            let bytes = self.network.heard(number)?;
            let (request, payload) = SessionRequest::parse(&bytes).ok()?;
            let is_hello = request.operation == Operation::Hello;
            is_hello
                .then(|| (request, OpenPayload::parse_hello(payload).ok()))
                .filter(|(_, said)| said.is_some())
        });
        let Some((hello, Some((client, incarnation)))) = hello else { return };
        let target = aoe_wire::Nonce([self.below(256) as u8; 16]);
        let instance = block::Instance(u64::from(self.below(9)));
        let opening = OpenPayload { client, target, incarnation };
        let offer = Offer { key: PublicKey([9; 32]), least: Security::None, has_aes: true };
        let reply = SessionReply {
            header: hello.header.answer(hello.header.destination, hello.header.address),
            version: hello.version,
            operation: Operation::Hello,
            status: Status::Ok,
            detail: 3,
            session: SessionId::derive(&opening, instance, hello.header.address),
            instance,
            epoch: Epoch(0),
            sequence: 0,
            executed: 0,
            clock: self.director.now(),
            sectors: 0,
            first: 0,
            takes: 0,
            seal: Default::default(),
        };
        let offer = Some(&offer).filter(|_| self.below(2) == 0);
        let frame = reply.emit(OpenPayload::emit_hello_reply(target, offer));
        self.send([frame.head.as_slice(), &frame.payload].concat());
    }
}

fn demanding(stage: &Stage) -> Rc<Pair> {
    let pair = Pair::new(stage);
    let security = [Security::Authenticate, Security::Encrypt][pair.below(2) as usize];
    pair.demand(security);
    pair.kill_and_start_target();
    pair
}

async fn attacked(stage: Stage) -> Result<(), Failure> {
    let pair = demanding(&stage);
    let attacker = Attacker::new(&stage, &pair.network);
    let client = pair.client().await?;
    let mix = Mix { think: Duration::from_millis(20), span_sectors: 256, ..busy() };
    let clients = pair.load(&client, mix);
    let answers = pair.record.answers();
    for round in 0..6 {
        if pair.below(2) == 0 {
            let quality = Quality { loss: 0.01, duplication: 0.02, ..Quality::GOOD };
            pair.target.set_quality(quality);
        }
        for _ in 0..pair.below(400) {
            attacker.act();
            pair.sleep(pair.between(0, 5)).await;
        }
        if round % 2 == 1 {
            pair.kill_target();
            pair.sleep(pair.between(0, 1500)).await;
            pair.start_target();
        }
    }
    expect(pair.record.answers() > answers + 20, || "nothing was done beside the attacker".into())?;
    pair.converge(&client, clients).await
}

async fn lives(stage: Stage) -> Result<(), Failure> {
    // Also where nobody has keys: what was said once is of no use again.
    let pair = Pair::new(&stage);
    let attacker = Attacker::new(&stage, &pair.network);
    let mut client = pair.client().await?;
    let mut clients = pair.load(&client, busy());
    for round in 0..4 {
        pair.sleep(pair.between(100, 2000)).await;
        let heard = pair.network.heard_count();
        if pair.below(2) == 0 {
            client.process.kill();
            client = pair.client().await?;
            clients = pair.load(&client, busy());
        }
        match round {
            // Its session ends, and the client goes on in another one.
            1 => {
                pair.target.set_cut(true, true);
                pair.sleep(pair.between(1500, 3000)).await;
                pair.target.set_cut(false, false);
                pair.sleep(pair.between(500, 1500)).await;
            }
            2 => pair.kill_and_start_target(),
            _ => {}
        }
        for number in 0..heard {
            let Some(bytes) = pair.network.heard(number) else { break };
            attacker.send(bytes.to_vec());
            if number % 16 == 0 {
                pair.sleep(Duration::from_millis(1)).await;
            }
        }
    }
    pair.converge(&client, clients).await
}
