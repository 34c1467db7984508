//! What was heard, and what can be made of it: of all that is on a tape what could be read, and what else could be said with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use aoe_wire::{HolderPayload, Operation, SessionRequest, SessionVersion};
use block::{Buffer, Epoch, Lba, Trust};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{SeekFrom, seek};

use super::said::{CHANGES, HELLO, NO_SESSION, OPEN, Said};
use super::{FORGED, FORGED_AT, Tape, thief};
use crate::Lab;

/// The lab's machines.
const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// All messages of sessions.
pub fn said(tape: &Tape) -> impl Iterator<Item = Said<'_>> {
    tape.iter().flat_map(|frame| Said::all_of(frame))
}

/// Looks for all of these at once, in so much that one after the other would take its time.
struct Search<'a> {
    /// By their first byte.
    by_first: Vec<Vec<usize>>,
    known: &'a [&'a [u8]],
    found: Vec<bool>,
}

impl<'a> Search<'a> {
    fn new(known: &'a [&'a [u8]]) -> Search<'a> {
        let mut by_first = vec![Vec::new(); 256];
        for (number, what) in known.iter().enumerate() {
            by_first[usize::from(what[0])].push(number);
        }
        Search { by_first, known, found: vec![false; known.len()] }
    }

    fn look(&mut self, bytes: &[u8]) {
        for (at, byte) in bytes.iter().enumerate() {
            for number in &self.by_first[usize::from(*byte)] {
                if !self.found[*number] && bytes[at..].starts_with(self.known[*number]) {
                    self.found[*number] = true;
                }
            }
        }
    }
}

/// What of that is somewhere in what was heard.
pub fn found(tape: &Tape, known: &[&[u8]]) -> Vec<String> {
    let mut search = Search::new(known);
    tape.iter().for_each(|frame| search.look(frame));
    let found = known.iter().zip(&search.found).filter(|(_, found)| **found);
    found.map(|(what, _)| String::from_utf8_lossy(what).into_owned()).collect()
}

/// Messages that are neither openings nor sealed, but for a target's word that it knows no session; and openings without
/// keys.
pub fn unsealed(tape: &Tape) -> Vec<(bool, u8, u8)> {
    let is_open = |said: &Said<'_>| match said.operation() {
        HELLO => false,
        // Nonces 48, handshake 96 and what it carries; the answer is sealed.
        OPEN if !said.is_reply() => said.payload_len() < 48 + 96,
        _ => !(said.is_sealed() || said.is_reply() && said.status() == NO_SESSION),
    };
    let open = said(tape).filter(is_open);
    open.map(|said| (said.is_reply(), said.operation(), said.status())).collect()
}

/// Checksums of each MiB of each disk, which nobody uses.
pub fn disks(lab: &Lab) -> Vec<Vec<u32>> {
    let sums = |node: &&str| {
        let file = File::open(lab.disk_file(node, 0)).unwrap();
        let size = file.metadata().unwrap().len();
        let mut block = vec![0; 1 << 20];
        let sum = |at: u64| {
            file.read_exact_at(&mut block, at).unwrap();
            block::crc32c(&block)
        };
        (0..size).step_by(1 << 20).map(sum).collect()
    };
    NODES.iter().map(sums).collect()
}

/// Which of these bytes are on any disk.
pub fn on_disks(lab: &Lab, known: &[&[u8]]) -> Vec<bool> {
    let mut search = Search::new(known);
    for node in NODES {
        let file = File::open(lab.disk_file(node, 0)).unwrap();
        // What was never written is no data.
        let mut at = 0;
        while let Ok(begin) = seek(&file, SeekFrom::Data(at)) {
            let end = seek(&file, SeekFrom::Hole(begin)).unwrap();
            let mut data = vec![0; (end - begin) as usize];
            file.read_exact_at(&mut data, begin).unwrap();
            search.look(&data);
            at = end;
        }
    }
    search.found
}

/// Where two states of the disks differ: node, MiB.
pub fn differences(one: &[Vec<u32>], other: &[Vec<u32>]) -> Vec<(usize, usize)> {
    let pairs = one.iter().zip(other).enumerate();
    pairs
        .flat_map(|(node, (one, other))| {
            let differ = one.iter().zip(other).enumerate().filter(|(_, (one, other))| one != other);
            differ.map(move |(at, _)| (node + 1, at))
        })
        .collect()
}

/// Of a tape changed messages: each of some that were sealed in each way.
pub fn spliced(tape: &Tape, count: usize) -> Vec<Vec<u8>> {
    let all: Vec<Said<'_>> = said(tape).filter(|said| said.operation() != HELLO).collect();
    let mut random = SmallRng::seed_from_u64(12);
    let mut any = || all[random.random_range(0..all.len())];
    let pairs: Vec<_> = (0..count).map(|_| (any(), any())).collect();
    pairs.into_iter().map(|(one, other)| one.changed(other, &mut random)).collect()
}

/// Requests of his own in the name of who has the disks, in the newest sessions on the tape and with numbers that follow
/// theirs: writes, claims.
pub fn forged(tape: &Tape) -> Vec<Vec<u8>> {
    let mut newest: BTreeMap<u16, SessionRequest> = BTreeMap::new();
    for said in said(tape).filter(|said| !said.is_reply() && CHANGES.contains(&said.operation())) {
        if let Ok((request, _)) = SessionRequest::parse(said.bytes()) {
            newest.insert(said.shelf(), request);
        }
    }
    // What is written has two copies, on machines of the pool's choice.
    assert!(newest.len() >= 2, "too little was heard: the test shows nothing");
    let mut frames = Vec::new();
    for heard in newest.into_values() {
        let next = SessionRequest {
            durable: false,
            force: false,
            first: 0,
            last: true,
            together: false,
            sectors: 0,
            ..heard
        };
        for version in [SessionVersion::Three, SessionVersion::One] {
            let takes = if version == SessionVersion::One { 0 } else { 17 };
            let next = SessionRequest { version, takes, ..next };
            let number = |more| SessionRequest { sequence: heard.sequence + more, ..next };
            let data = Buffer::copy_of(&[FORGED; 4096]);
            let write = SessionRequest {
                operation: Operation::Write,
                durable: true,
                lba: Lba(FORGED_AT),
                sectors: 8,
                ..number(100)
            };
            let read = SessionRequest {
                operation: Operation::Read,
                lba: Lba(FORGED_AT),
                sectors: 8,
                ..number(101)
            };
            let claim = HolderPayload::emit_claim(thief(), &Trust::Unchanged);
            let claims = |more| SessionRequest {
                operation: Operation::Claim,
                epoch: Epoch(heard.epoch.0 + more),
                ..number(102 + more)
            };
            let zeroes = SessionRequest {
                operation: Operation::WriteZeroes,
                lba: Lba(2048),
                sectors: 64,
                ..number(104)
            };
            for (request, payload) in [
                (write, data),
                (read, Buffer::empty()),
                (claims(0), claim.clone()),
                (claims(1), claim),
                (zeroes, Buffer::empty()),
            ] {
                let frame = request.emit(payload);
                let bytes = [frame.head.as_slice(), &frame.payload].concat();
                if version == SessionVersion::Three {
                    // The same as if it were sealed, under the present key.
                    let mut sealed = bytes.clone();
                    sealed[103] = 1;
                    sealed[104..128].fill(0x77);
                    sealed[104..109].fill(0);
                    frames.push(Said::resealed(sealed));
                }
                frames.push(bytes);
            }
        }
    }
    frames
}
