//! A flood of random and mutated frames at full rate against a real target, beside a client that keeps
//! reading and writing and compares. What the flood may have written is foretold by a decoder of the
//! test's own. `HOSTILE_SECONDS` says how long (60).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../../crates/aoe-target/tests/hostile/corpus.rs"]
#[allow(dead_code)]
mod corpus;
#[path = "../../crates/aoe-target/tests/hostile/script.rs"]
mod script;
#[path = "../../crates/aoe-target/tests/hostile/session.rs"]
#[allow(dead_code)]
mod session;

use std::collections::{BTreeMap, VecDeque};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use blackbox::Target;
use blackbox::frames::{self, Kind, LoadOptions, Order};
use os::net::FrameSocket;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use script::Choices;

const MIB: u64 = 1 << 20;
const SECTOR: usize = 512;
/// Sectors of what is attacked.
const SECTORS: u64 = 64;
const ATTACKED: [(u16, u8); 4] = [(1, 1), (1, 2), (2, 1), (4, 1)];
const READ_ONLY: (u16, u8) = (1, 2);

fn seconds() -> u64 {
    std::env::var("HOSTILE_SECONDS").map_or(60, |text| text.parse().expect("a number"))
}

#[test]
fn a_flood_of_frames_harms_nobody() {
    let mut target = Target::new(9000);
    let target_mac = corpus::TARGET.map(|byte| format!("{byte:02x}")).join(":");
    let wire = target.wire().target();
    let words = format!("-n {} link set v0 address {target_mac}", wire.netns.unwrap());
    assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success());
    let own = FrameSocket::open(&target.wire().client(), None).unwrap().mac();

    let mut exports = target.export(
        "e5.0",
        16 * MIB,
        &format!("list-editors = \"nobody\"\n[export.access.write]\naccept = [\"{own}\"]"),
    );
    for (shelf, slot) in ATTACKED {
        let read_only = (shelf, slot) == READ_ONLY;
        let more = format!(
            "io = \"buffered\"\nlist-editors = \"nobody\"\nread-only = {read_only}\nwrite-cache = \"on\""
        );
        exports += &target.export(&format!("e{shelf}.{slot}"), SECTORS * SECTOR as u64, &more);
    }
    target.configure(&exports);
    target.run();
    ["e5.0", "e1.1", "e1.2", "e2.1", "e4.1"]
        .iter()
        .for_each(|address| drop(target.client(address)));

    let stop = Arc::new(AtomicBool::new(false));
    let load = LoadOptions {
        interface: target.wire().client(),
        address: "e5.0".parse().unwrap(),
        kind: Kind::Verify,
        bytes: 4096,
        order: Order::Random,
        offset_bytes: 0,
        range_bytes: 8 * MIB,
        depth: 8,
        measured: Duration::from_secs(seconds() + 60),
        warm_up: Duration::ZERO,
        pid: None,
        seed: 5,
        sleep: true,
        retry: frames::RETRY,
        stop: Some(Arc::clone(&stop)),
        verified_min: 0,
    };
    let valid = std::thread::spawn(move || frames::run(&load).unwrap());
    let mut flood = Flood::new(FrameSocket::open(&target.wire().client(), None).unwrap());
    // Each kind of work once, so that what is measured after it is growth.
    flood.run(Duration::from_secs(2));
    let before = target.memory_kib();
    flood.run(Duration::from_secs(seconds()).div_f64(2.));
    let half = target.memory_kib();
    flood.run(Duration::from_secs(seconds()).div_f64(2.));
    let after = target.memory_kib();
    assert!(target.is_alive(), "it died: {}", target.log());
    stop.store(true, Ordering::Relaxed);
    let report = valid.join().unwrap();
    flood.listen();

    println!(
        "{} frames at {:.0}/s, {} valid writes among them ({} answered); memory {before}, {half}, {after} KiB",
        flood.sent,
        flood.sent as f64 / flood.busy.as_secs_f64(),
        flood.valid,
        flood.answered
    );
    println!(
        "the valid client beside it: {} requests, {} verified, p50 {:.0} us, p99 {:.0} us, {} sent again",
        report.requests, report.verified, report.p50_us, report.p99_us, report.retried
    );
    assert_eq!((report.first_error, report.first_corrupt), (None, None));
    assert!(report.requests > 50 && report.verified > 10, "the valid client was not served");
    assert!(after < before + (64 << 10), "memory grew from {before} to {after} KiB");
    assert!(after < half + (16 << 10), "memory grows: {before}, {half}, {after} KiB");
    let log = target.log().len();
    assert!(log < 1 << 20, "{log} bytes of log");
    assert!(flood.answered > 100, "the flood wrote nothing: the test shows nothing");
    target.stop();
    flood.check(&target);
}

/// What a sector may hold: what was written last and answered, or anything sent after it.
#[derive(Default)]
struct Sector {
    candidates: VecDeque<(u32, u64)>,
}

struct Flood {
    socket: FrameSocket,
    random: SmallRng,
    owner: session::Owner,
    sectors: BTreeMap<(u16, u8, u64), Sector>,
    /// Valid writes that weren't answered yet, by tag: where.
    waiting: BTreeMap<u32, Vec<(u16, u8, u64, u64)>>,
    next_tag: u32,
    sent: u64,
    valid: u64,
    answered: u64,
    busy: Duration,
}

impl Flood {
    fn new(socket: FrameSocket) -> Flood {
        let mut sectors = BTreeMap::new();
        for (shelf, slot) in ATTACKED {
            for lba in 0..SECTORS {
                let zeros = Sector { candidates: VecDeque::from([(0, fingerprint(&[0; SECTOR]))]) };
                sectors.insert((shelf, slot, lba), zeros);
            }
        }
        Flood {
            socket,
            random: SmallRng::seed_from_u64(11),
            owner: session::Owner::new(),
            sectors,
            waiting: BTreeMap::new(),
            // Above all that the script chooses.
            next_tag: 1 << 20,
            sent: 0,
            valid: 0,
            answered: 0,
            busy: Duration::ZERO,
        }
    }

    fn run(&mut self, duration: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < duration {
            let frames: Vec<Vec<u8>> = (0..64).map(|_| self.frame()).collect();
            let slices: Vec<&[u8]> =
                frames.iter().map(Vec::as_slice).filter(|frame| frame.len() >= 14).collect();
            self.sent += self.socket.send(&slices).unwrap() as u64;
            self.hear();
        }
        self.busy += begun.elapsed();
    }

    fn frame(&mut self) -> Vec<u8> {
        let mut bytes = [0; 96];
        self.random.fill_bytes(&mut bytes);
        let mut choices = Choices::new(&bytes);
        let mut frame = match choices.byte() {
            0..200 => {
                let request = script::request(&mut choices);
                script::mutate(request, &mut choices)
            }
            200..225 => {
                let version = 1 + u8::from(choices.often(128));
                let message = self.owner.message(version, &mut choices);
                script::mutate(message, &mut choices)
            }
            _ => script::noise(&mut choices),
        };
        frame.truncate(9014);
        let written = written(&frame);
        if written.is_empty() {
            return frame;
        }
        // Its own number, so that its answer is known.
        let tag = self.next_tag;
        self.next_tag += 1;
        frame[20..24].copy_from_slice(&tag.to_be_bytes());
        self.valid += 1;
        let mut places = Vec::new();
        for ((shelf, slot), lba, data) in written {
            places.push((shelf, slot, lba, (data.len() / SECTOR) as u64));
            for (index, data) in data.chunks(SECTOR).enumerate() {
                let sector = self.sectors.get_mut(&(shelf, slot, lba + index as u64)).unwrap();
                sector.candidates.push_back((tag, fingerprint(data)));
            }
        }
        self.waiting.insert(tag, places);
        // Answers come in order, more or less; what is far behind was lost.
        if self.waiting.len() > 100_000 {
            self.waiting.pop_first();
        }
        frame
    }

    /// Takes note of what was answered.
    fn hear(&mut self) {
        let Flood { socket, sectors, waiting, answered, owner, .. } = self;
        let mut take = |reply: &[u8]| {
            if reply.len() < 60 || reply[14] != 0x18 {
                return;
            }
            if reply[19] == 0xf0 {
                return owner.hear(reply);
            }
            if reply[19] != 0 || reply[27] != 0x40 {
                return;
            }
            let tag = frames::tag_of(reply).unwrap();
            let from = frames::address_of(reply).unwrap();
            let Some(places) = waiting.get_mut(&tag) else { return };
            let place = places
                .iter()
                .position(|(shelf, slot, ..)| (*shelf, *slot) == (from.shelf, from.slot));
            let Some(place) = place else { return };
            let (shelf, slot, lba, count) = places.remove(place);
            *answered += 1;
            for lba in lba..lba + count {
                let sector = sectors.get_mut(&(shelf, slot, lba)).unwrap();
                while sector.candidates.front().is_some_and(|(earlier, _)| *earlier < tag) {
                    sector.candidates.pop_front();
                }
            }
        };
        for _ in 0..8 {
            if socket.receive(&mut take).unwrap() == 0 {
                return;
            }
        }
    }

    /// Takes what still comes.
    fn listen(&mut self) {
        while self.socket.wait(Duration::from_millis(500)).unwrap() {
            self.hear();
        }
    }

    fn check(&self, target: &Target) {
        for (shelf, slot) in ATTACKED {
            let disk = std::fs::read(target.path(&format!("e{shelf}.{slot}"))).unwrap();
            assert_eq!(disk.len() as u64, SECTORS * SECTOR as u64);
            for (lba, data) in disk.chunks(SECTOR).enumerate() {
                let allowed = &self.sectors[&(shelf, slot, lba as u64)].candidates;
                let found = fingerprint(data);
                assert!(
                    allowed.iter().any(|(_, candidate)| *candidate == found),
                    "e{shelf}.{slot} sector {lba} holds what nobody wrote there last, of {} possibilities",
                    allowed.len()
                );
            }
        }
    }
}

fn fingerprint(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What a frame writes, from the protocol's tables: where, and what.
fn written(frame: &[u8]) -> Vec<((u16, u8), u64, Vec<u8>)> {
    let plain = frame.len() >= 36
        && (frame[..6] == corpus::TARGET || frame[0] & 1 == 1)
        && frame[6] & 1 == 0
        && frame[12..14] == [0x88, 0xa2]
        && frame[14] >> 4 == 1
        && frame[14] & 0x08 == 0
        && frame[19] == 0
        && matches!(frame[27], 0x30 | 0x34);
    if !plain {
        return Vec::new();
    }
    let mask = if frame[27] == 0x30 { 0x0fff_ffff } else { 0xffff_ffff_ffff };
    let lba = (0..6).rev().fold(0, |sum: u64, at| sum << 8 | u64::from(frame[28 + at])) & mask;
    let count = u64::from(frame[26]);
    let bytes = count as usize * SECTOR;
    if count == 0 || count > 17 || lba + count > SECTORS || frame.len() < 36 + bytes {
        return Vec::new();
    }
    let (shelf, slot) = (u16::from_be_bytes([frame[16], frame[17]]), frame[18]);
    let meant = ATTACKED.into_iter().filter(|(own_shelf, own_slot)| {
        (shelf == *own_shelf || shelf == 0xffff) && (slot == *own_slot || slot == 0xff)
    });
    let writable = meant.filter(|address| *address != READ_ONLY);
    writable.map(|address| (address, lba, frame[36..36 + bytes].to_vec())).collect()
}
