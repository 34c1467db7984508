//! A target with five exports on disks in memory, and beside it the witness.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aoe_target::Ownership;
use aoe_target::{
    Abilities, AccessOperation, AccessPolicy, AccessRule, DeviceState, ExportId, ExportOptions,
    IoOperation, IoRequest, IoValue, NodeIdentity, OnRefusal, SmartReply, Target,
};
use aoe_wire::{MacAddr, PortId, ShelfSlot};
use block::{
    Answer, Buffer, Completion, DurabilityClass, Epoch, Geometry, Holder, Instance, Instant,
    Operation, OwnerId, SectorRange,
};

use crate::corpus::{CLIENTS, TARGET};
use crate::script::{self, Choices};
use crate::session::{self, Owner};
use crate::witness::{Export, Refusal, Witness};

const SECTOR: usize = 512;
const MTU: usize = 9000;
const PORT: PortId = PortId(1);
const INSTANCE: Instance = Instance(77);
/// Requests that the disks keep waiting at most.
const WAITING_MAX: usize = 48;

/// What was tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub frames: u64,
    pub replies: u64,
    pub writes: u64,
    pub denied: u64,
    pub session_writes: u64,
    /// Reads of what isn't shown to everybody.
    pub withheld: u64,
    /// Answers that tell when the owner was heard.
    pub heard: u64,
    /// Commands that were put together of fragments.
    pub assembled: u64,
    /// Answers that say what is missing of one.
    pub incomplete: u64,
    /// Sound messages behind others in a frame.
    pub together: u64,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.frames += other.frames;
        self.replies += other.replies;
        self.writes += other.writes;
        self.denied += other.denied;
        self.session_writes += other.session_writes;
        self.withheld += other.withheld;
        self.heard += other.heard;
        self.assembled += other.assembled;
        self.incomplete += other.incomplete;
        self.together += other.together;
    }
}

/// Runs the sequence that `bytes` stand for.
pub fn run(bytes: &[u8]) -> Tally {
    let mut world = World::new();
    let mut choices = Choices::new(bytes);
    let mut owner = Owner::new();
    while !choices.is_empty() {
        // What stood for something stands for it still, or for a newer form of it: there are seeds.
        let kind = choices.byte();
        let frame = match kind {
            0..180 => {
                let request = script::request(&mut choices);
                script::mutate(request, &mut choices)
            }
            180..248 => {
                let version = match kind {
                    190..235 => 1,
                    240..248 => 3,
                    _ => 2,
                };
                let mut message = owner.message(version, &mut choices);
                while version == 3 && message.len() < MTU && choices.often(200) {
                    message.extend(owner.message(version, &mut choices));
                }
                let before = message.clone();
                let mut message = script::mutate(message, &mut choices);
                // A forger can compute checksums too.
                if message != before
                    && message.len() >= session::header_bytes(&message)
                    && choices.often(128)
                {
                    session::seal(&mut message);
                }
                message
            }
            _ => script::noise(&mut choices),
        };
        world.deliver(&frame);
        for _ in 0..choices.one_of(4) {
            let which = choices.one_of(WAITING_MAX);
            world.complete(which);
        }
        for reply in world.session_replies() {
            owner.hear(&reply);
        }
    }
    world.settle("at the end");
    world.check_disks("at the end");
    world.tally
}

/// Delivers the frames that are in `bytes`, each behind its length.
pub fn run_frames(bytes: &[u8]) {
    let mut world = World::new();
    let mut rest = bytes;
    while let [high, low, frames @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(frames.len());
        let (frame, next) = frames.split_at(len);
        world.deliver(frame);
        world.settle("after a frame");
        rest = next;
    }
    world.check_disks("at the end");
}

/// The target and what it should be.
pub struct World {
    target: Target,
    disks: BTreeMap<ExportId, Vec<u8>>,
    ids: Vec<ExportId>,
    waiting: VecDeque<IoRequest>,
    witness: Witness,
    expected: Vec<Vec<u8>>,
    seen: Vec<Vec<u8>>,
    session_seen: Vec<Vec<u8>>,
    /// Sound messages of sessions.
    sound: Vec<Vec<u8>>,
    /// Those that may still take effect: each number of a session does once.
    unused: Vec<Vec<u8>>,
    /// Numbers that took effect.
    used: BTreeSet<(u64, u64)>,
    /// When the owner may have been heard last.
    owner_heard: Option<u64>,
    now: u64,
    pub tally: Tally,
}

fn exports() -> Vec<Export> {
    let plain = |shelf, slot, sectors: usize| Export {
        shelf,
        slot,
        disk: vec![0; sectors * SECTOR],
        read_only: false,
        refusal: Refusal::AtaError,
        write_cache: false,
        switchable: false,
        smart: false,
        owned: false,
        no_writes: Vec::new(),
        smart_enabled: true,
        mask: Vec::new(),
        reserved: Vec::new(),
        config: Vec::new(),
    };
    vec![
        plain(1, 1, 64),
        Export { read_only: true, smart: true, ..plain(1, 2, 40) },
        Export {
            write_cache: true,
            switchable: true,
            refusal: Refusal::AoeError,
            ..plain(2, 1, 24)
        },
        Export {
            refusal: Refusal::Silent,
            smart: true,
            no_writes: vec![CLIENTS[2]],
            ..plain(2, 2, 64)
        },
        Export { no_writes: vec![CLIENTS[3], CLIENTS[1]], ..plain(3, 1, 64) },
        Export { owned: true, ..plain(session::SHELF, session::SLOT, session::SECTORS as usize) },
    ]
}

fn options_of(export: &Export) -> ExportOptions {
    let deny = export.no_writes.iter().map(|mac| MacAddr(*mac)).collect();
    let mut access = AccessPolicy::default();
    if !export.no_writes.is_empty() {
        let rule = AccessRule { deny, ..AccessRule::default() };
        access.rules.insert(AccessOperation::Write, rule);
    }
    ExportOptions {
        read_only: export.read_only,
        write_cache: export.write_cache,
        write_cache_switchable: export.switchable,
        announce: false,
        on_refusal: match export.refusal {
            Refusal::AtaError => OnRefusal::AtaError,
            Refusal::AoeError => OnRefusal::AoeError,
            Refusal::Silent => OnRefusal::Silent,
        },
        access,
        ..ExportOptions::new(ShelfSlot::new(export.shelf, export.slot), "hostile")
    }
}

fn state_of(export: &Export) -> DeviceState {
    let geometry = Geometry {
        sectors: (export.disk.len() / SECTOR) as u64,
        physical_block_bytes: 4096,
        max_transfer_bytes: 1 << 20,
        read_only: false,
        class: DurabilityClass::Durable,
    };
    let holder = Holder::new(Epoch(session::EPOCH), OwnerId::NONE);
    let ownership = match export.owned {
        true => Ownership::Held(holder),
        false => Ownership::Unclaimed { labelled: false },
    };
    DeviceState { geometry, instance: INSTANCE, ownership, labelled: [None; 2], grant: None }
}

impl World {
    pub fn new() -> World {
        let node = NodeIdentity { id: uuid::Uuid::from_u128(9), name: "hostile".to_owned() };
        let mut target = Target::new(node, 3);
        target.set_port(PORT, "v0".to_owned(), MacAddr(TARGET), MTU);
        let witness = Witness { exports: exports() };
        let mut ids = Vec::new();
        let mut disks = BTreeMap::new();
        for (index, export) in witness.exports.iter().enumerate() {
            let abilities = Abilities { remembers: index % 2 == 0, smart: export.smart };
            let id = target.add_export(options_of(export), state_of(export), abilities).unwrap();
            disks.insert(id, export.disk.clone());
            ids.push(id);
        }
        World {
            target,
            disks,
            ids,
            waiting: VecDeque::new(),
            witness,
            expected: Vec::new(),
            seen: Vec::new(),
            session_seen: Vec::new(),
            sound: Vec::new(),
            unused: Vec::new(),
            used: BTreeSet::new(),
            owner_heard: None,
            now: 1,
            tally: Tally::default(),
        }
    }

    /// A frame arrives, at the target and at the witness.
    pub fn deliver(&mut self, frame: &[u8]) {
        self.tally.frames += 1;
        let serial = Witness::is_serial(frame);
        // Who waits for its turn was judged by what held when it came.
        if serial || self.waiting.len() > WAITING_MAX {
            self.drain();
        }
        self.now += 1_000_000;
        if self.witness.is_session(frame) {
            session::messages(frame).into_iter().enumerate().for_each(|(index, message)| {
                self.tally.together += u64::from(self.note_sound(message) && index > 0);
            });
        } else {
            self.expected.extend(self.witness.handle(frame));
        }
        self.target.handle_frame(Instant::from_nanos(self.now), PORT, frame);
        self.collect();
        if serial {
            self.drain();
        }
    }

    /// A message of a session has arrived; whether it is sound.
    fn note_sound(&mut self, message: &[u8]) -> bool {
        if !session::is_sound(message) {
            return false;
        }
        if session::epoch_of(message) != 0 {
            self.owner_heard = Some(self.now);
        }
        self.sound.push(message.to_vec());
        if !self.used.contains(&number_of(message)) {
            self.unused.push(message.to_vec());
        }
        true
    }

    /// A disk finishes one of what it was asked, if there is any.
    pub fn complete(&mut self, which: usize) {
        if self.waiting.is_empty() {
            return;
        }
        let request = self.waiting.remove(which % self.waiting.len()).unwrap();
        let value = self.perform(&request);
        let result = Ok(Completion::new(INSTANCE, value));
        self.target.handle_io_done(Instant::from_nanos(self.now), request.id, result);
        self.collect();
    }

    /// All disks finish, and everything that was said must have been expected.
    pub fn settle(&mut self, when: &str) {
        self.drain();
        self.seen.sort();
        self.expected.sort();
        self.expected.iter_mut().for_each(|reply| reply.resize(reply.len().max(60), 0));
        if self.seen != self.expected {
            let extra = self.seen.iter().find(|reply| !self.expected.contains(reply));
            let missing = self.expected.iter().find(|reply| !self.seen.contains(reply));
            panic!("{when}: not expected: {extra:02x?}\nexpected: {missing:02x?}");
        }
        self.seen.clear();
        self.expected.clear();
    }

    /// The disks hold what the witness says; what the lists hold too.
    pub fn check_disks(&self, when: &str) {
        for (id, export) in self.ids.iter().zip(&self.witness.exports) {
            let at = format!("{when}: e{}.{}", export.shelf, export.slot);
            if !export.owned {
                assert!(self.disks[id] == export.disk, "{at}: other contents");
            }
            let status = self.target.export_status(*id).unwrap();
            let bytes = |macs: &[MacAddr]| macs.iter().map(|mac| mac.0).collect::<Vec<_>>();
            assert_eq!(bytes(&status.remembered.mask), export.mask, "{at}");
            assert_eq!(bytes(&status.remembered.reserved), export.reserved, "{at}");
            assert_eq!(status.remembered.config_string, export.config, "{at}");
            assert_eq!((status.queued, status.queued_bytes), (0, 0), "{at}: something is left");
            assert!(status.sessions <= 32, "{at}");
        }
    }

    /// What was said within sessions since the last time.
    pub fn session_replies(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.session_seen)
    }

    fn drain(&mut self) {
        loop {
            while !self.waiting.is_empty() {
                self.complete(0);
            }
            // A write may wait a moment for the rest of its block.
            let soon = Instant::from_nanos(self.now + 1_000_000);
            match self.target.poll_timeout() {
                Some(at) if at <= soon => {
                    self.now += 1_000_000;
                    self.target.handle_timeout(soon);
                    self.collect();
                }
                _ => return,
            }
        }
    }

    fn collect(&mut self) {
        while let Some(request) = self.target.poll_io() {
            self.waiting.push_back(request);
        }
        while let Some((port, frame)) = self.target.poll_transmit() {
            assert_eq!(port, PORT);
            let mut bytes = [frame.head.as_slice(), &frame.payload].concat();
            assert!(bytes.len() <= MTU + 14, "{} bytes", bytes.len());
            assert!(bytes[0] & 1 == 0, "an answer to a group");
            self.tally.replies += 1;
            if bytes[19] == 0xf0 {
                self.check_session_reply(&bytes);
                self.session_seen.push(bytes);
                continue;
            }
            bytes.resize(bytes.len().max(60), 0);
            self.tally.denied +=
                u64::from(bytes[14] == 0x1c || bytes[19] == 0 && bytes[27] == 0x41);
            self.seen.push(bytes);
        }
    }

    /// It answers a message that counted, and only its sender; and it gives to nobody what isn't shown
    /// to him, nor withholds what is.
    fn check_session_reply(&mut self, reply: &[u8]) {
        assert!(session::is_sound(reply), "an answer with a wrong checksum");
        if reply[27] == session::INCOMPLETE {
            return self.check_incomplete(reply);
        }
        let (operation, status) = (reply[25], reply[27]);
        let withheld = status == 7 && session::be64(reply, 88) == 6;
        let answered = self.sound.iter().any(|asked| {
            let is_its = asked[6..12] == reply[..6]
                && asked[16..24] == reply[16..24]
                && asked[24..26] == reply[24..26];
            is_its
                && match operation {
                    session::READ if status == 0 => {
                        let all = session::be32(asked, 80) as usize;
                        let (first, count) = session::part(reply);
                        let in_parts = session::has_fragments(reply);
                        // Who is heard in the target's ears may be less than what counts here.
                        (session::is_shown(asked) || session::is_forced(asked))
                            && reply.len() == session::header_bytes(reply) + count * SECTOR
                            && (in_parts && count > 0 && first + count <= all || count == all)
                    }
                    session::READ if withheld => {
                        let is_silent = self.owner_heard.is_none();
                        !(session::is_shown(asked) || session::is_forced(asked) && is_silent)
                    }
                    _ => !withheld,
                }
        });
        assert!(answered, "an answer to nothing: {reply:02x?}");
        self.tally.withheld += u64::from(withheld);
        if let (0, Some(at)) = (status, session::heard_at(reply)) {
            assert_eq!(reply.len(), at + 8, "of another length");
            let millis = session::be64(reply, at);
            let least = self.owner_heard.map_or(u64::MAX, |at| (self.now - at) / 1_000_000);
            assert!(millis >= least, "nobody heard the owner {millis} ms ago: {reply:02x?}");
            self.tally.heard += u64::from(millis != u64::MAX);
        }
    }

    /// It says of a command's sectors which are missing: some are, and the others came.
    fn check_incomplete(&mut self, reply: &[u8]) {
        let map = &reply[session::header_bytes(reply)..];
        let sectors = session::be32(reply, 80) as usize;
        assert!(session::has_fragments(reply) && map.len() == sectors.div_ceil(8), "{reply:02x?}");
        let is_missing = |sector: usize| map[sector / 8] & (0x80 >> (sector % 8)) != 0;
        assert!((0..sectors).any(is_missing), "nothing is missing: {reply:02x?}");
        let came = |sector: usize| {
            self.sound.iter().any(|asked| {
                number_of(asked) == number_of(reply)
                    && asked[24..26] == reply[24..26]
                    && session::be32(asked, 80) as usize == sectors
                    && session::sector(asked, sector).is_some()
            })
        };
        assert!((0..sectors).all(|sector| is_missing(sector) || came(sector)), "{reply:02x?}");
        self.tally.incomplete += 1;
    }

    fn perform(&mut self, request: &IoRequest) -> IoValue {
        match &request.operation {
            IoOperation::Device(operation) => {
                IoValue::Device(self.perform_on_device(request.id.export, operation))
            }
            IoOperation::Remember(_) => IoValue::Device(Answer::Done),
            IoOperation::Smart(command) => IoValue::Smart(SmartReply {
                status: 0x50,
                error: 0,
                count: command.count,
                lba: [0x11, 0x22, 0x33],
                data: Buffer::copy_of(&vec![0xa5; command.reply_bytes()]),
            }),
        }
    }

    fn perform_on_device(&mut self, id: ExportId, operation: &Operation) -> Answer {
        let range = operation.range();
        match operation {
            Operation::Claim(claim) => {
                self.owner_heard = Some(self.now);
                return Answer::Holder(Holder::new(claim.epoch, claim.owner));
            }
            Operation::Write { data, .. } => {
                self.tally.writes += 1;
                self.take_sound(id, session::WRITE, range, data);
            }
            Operation::Discard(_) => self.take_sound(id, session::DISCARD, range, &[]),
            Operation::WriteZeroes { .. } => self.take_sound(id, session::ZEROES, range, &[]),
            _ => {}
        }
        operation.perform_on(self.disks.get_mut(&id).unwrap()).unwrap()
    }

    /// A change of the owned disk must be what sound messages asked for, one or several neighbours,
    /// and each number of a session counts once.
    fn take_sound(&mut self, id: ExportId, operation: u8, range: SectorRange, data: &[u8]) {
        let index = self.ids.iter().position(|known| *known == id).unwrap();
        if !self.witness.exports[index].owned {
            return;
        }
        let mut taken = Vec::new();
        let found = self.find_sound(operation, range.start.0, range.end().0, data, &mut taken);
        assert!(found, "nobody asked for {operation:#x} {range:?}");
        self.tally.session_writes += taken.len() as u64;
        let is_part = |index: &&usize| {
            let frame = &self.unused[**index];
            session::part(frame).1 < session::be32(frame, 80) as usize
        };
        if operation == session::WRITE {
            self.tally.assembled += taken.iter().filter(is_part).count() as u64;
        }
        self.used.extend(taken.iter().map(|index| number_of(&self.unused[*index])));
        let used = &self.used;
        self.unused.retain(|frame| !used.contains(&number_of(frame)));
    }

    /// Looks for messages that make up one operation on the device; several may say the same.
    fn find_sound(
        &self,
        operation: u8,
        at: u64,
        end: u64,
        data: &[u8],
        taken: &mut Vec<usize>,
    ) -> bool {
        if at == end {
            return true;
        }
        for (index, frame) in self.unused.iter().enumerate() {
            let count = u64::from(session::be32(frame, 80));
            let joins = operation == session::WRITE && (1..=end - at).contains(&count);
            let fits = frame[25] == operation
                && session::epoch_of(frame) != 0
                && session::be64(frame, 72) == at
                && (joins || count == end - at);
            let number = number_of(frame);
            if !fits || taken.iter().any(|other| number_of(&self.unused[*other]) == number) {
                continue;
            }
            let (own, rest) = data.split_at(data.len().min(count as usize * SECTOR));
            if !self.is_all_sound(frame, own) {
                continue;
            }
            taken.push(index);
            if self.find_sound(operation, at + count, end, rest, taken) {
                return true;
            }
            taken.pop();
        }
        false
    }

    /// Whether each sector of a command came in a fragment that says the same of it as this one.
    fn is_all_sound(&self, frame: &[u8], data: &[u8]) -> bool {
        data.chunks(SECTOR).enumerate().all(|(sector, data)| {
            self.unused.iter().any(|other| {
                session::agree(frame, other) && session::sector(other, sector) == Some(data)
            })
        })
    }
}

/// Session and number of a message.
fn number_of(frame: &[u8]) -> (u64, u64) {
    (session::be64(frame, 32), session::be64(frame, 56))
}
