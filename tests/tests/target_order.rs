//! Requests that overlap run in the order of their arrival, whatever runs beside what: random ones, by
//! real frames, on real files.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use blackbox::frames::{ata_request, header, tag_of};
use blackbox::{LoopDisk, Target, export_of};
use os::net::{FrameSocket, Role};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SECTOR: usize = 512;
/// So few that most requests overlap others.
const SECTORS: u64 = 48;
const REQUESTS: u32 = 6_000;
const WINDOW: usize = 32;

#[test]
fn overlapping_requests_run_in_order_of_arrival() {
    for (io, cache) in
        [("direct", "off"), ("direct", "on"), ("buffered", "on"), ("buffered", "off")]
    {
        let target = Target::start(9000, |t| {
            let more = format!("io = \"{io}\"\nwrite-cache = \"{cache}\"");
            t.export("e1.0", SECTORS * SECTOR as u64, &more)
        });
        let disk = play(&target, 1);
        assert!(
            std::fs::read(target.path("e1.0")).unwrap() == disk,
            "{io}, {cache}: the disk differs"
        );
    }
}

#[test]
fn and_so_they_do_on_a_block_device() {
    let mut target = Target::new(9000);
    let Some(disk) = LoopDisk::attach(&target.file("disk", SECTORS * SECTOR as u64)) else {
        return;
    };
    target.configure(&export_of("e1.0", disk.device(), ""));
    target.run();
    let expected = play(&target, 2);
    target.stop();
    assert!(std::fs::read(target.path("disk")).unwrap() == expected, "the disk differs");
}

/// Keeps a window of random requests under way; what each read must return follows from the order in
/// which they were sent. Returns what the disk must hold.
fn play(target: &Target, seed: u64) -> Vec<u8> {
    let to = target.client("e1.0").target();
    let mut socket = FrameSocket::open(&target.wire().client(), Some(Role::Replies)).unwrap();
    let mut random = SmallRng::seed_from_u64(seed);
    let mut disk = vec![0; SECTORS as usize * SECTOR];
    let mut waiting: BTreeMap<u32, Option<Vec<u8>>> = BTreeMap::new();
    let (mut sent, mut reads, mut last) = (0, 0, Instant::now());
    while sent < REQUESTS || !waiting.is_empty() {
        let mut frames = Vec::new();
        // In bursts, so that some wait beside each other and are joined.
        while sent < REQUESTS && waiting.len() < WINDOW && (waiting.is_empty() || random.random()) {
            let count = random.random_range(1..=16u64);
            let lba = random.random_range(0..=SECTORS - count);
            let range = lba as usize * SECTOR..(lba + count) as usize * SECTOR;
            sent += 1;
            let write = random.random();
            let head = header(to, socket.mac(), "e1.0".parse().unwrap(), 0, sent);
            let code = if write { 0x34 } else { 0x24 };
            let mut frame = ata_request(head, code, count as u8, lba);
            if write {
                disk[range.clone()].fill_with(|| random.random());
                frame.extend(&disk[range]);
                waiting.insert(sent, None);
            } else {
                waiting.insert(sent, Some(disk[range].to_vec()));
            }
            frames.push(frame);
        }
        let slices: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        assert_eq!(socket.send(&slices).unwrap(), slices.len());
        socket.wait(Duration::from_millis(100)).unwrap();
        let mut take = |reply: &[u8]| {
            let tag = tag_of(reply).unwrap();
            let Some(expected) = waiting.remove(&tag) else { return };
            assert_eq!((reply[14], reply[27]), (0x18, 0x40), "request {tag} failed");
            if let Some(expected) = expected {
                reads += 1;
                assert!(
                    reply[36..36 + expected.len()] == expected,
                    "read {tag} returned other data"
                );
            }
            last = Instant::now();
        };
        socket.receive(&mut take).unwrap();
        assert!(last.elapsed() < Duration::from_secs(60), "{} requests were lost", waiting.len());
    }
    println!("{REQUESTS} requests on {SECTORS} sectors, {reads} reads compared");
    disk
}
