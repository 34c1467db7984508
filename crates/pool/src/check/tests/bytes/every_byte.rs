//! One byte on one disk; and the same one of all copies on all disks.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use super::busy::Busy;
use super::*;

/// How a byte is changed.
#[derive(Clone, Copy, Debug)]
enum Change {
    Bit(u8),
    Inverted,
    Zero,
}

impl Change {
    fn apply(self, byte: &mut u8) {
        match self {
            Change::Bit(bit) => *byte ^= 1 << bit,
            Change::Inverted => *byte = !*byte,
            Change::Zero => *byte = 0,
        }
    }
}

/// A byte of a structure, on some of the disks.
struct Place {
    kind: StructureKind,
    volume: Option<String>,
    says: String,
    at: Vec<(usize, u64)>,
    change: Change,
}

impl Place {
    /// Whether what came of it may be: with a structure of one disk damaged everything is as it should be,
    /// but for what a volume has in one copy only. One of which all copies are damaged may be refused.
    fn allows(&self, outcome: &trial::Outcome) -> bool {
        let only_copy = self.volume.as_deref() == Some("r");
        // A disk that may have lost what it had applied waits with the only copy of a log.
        let applied = self.kind == StructureKind::Applied;
        match self.at.len() > 1 || self.kind == StructureKind::LostRecord {
            true => true,
            false if only_copy || applied => outcome.is_right_but_for("r"),
            false => outcome.is_right(),
        }
    }

    fn describe(&self, busy: &Busy) -> String {
        let at = self.at.iter().map(|(disk, at)| format!("{}:{at}", busy.disks[*disk].name));
        let at = at.collect::<Vec<_>>().join(",");
        format!("{}@{at} {:?} ({})", self.kind, self.change, self.says)
    }
}

fn text_of(structure: &Structure, field: &str) -> Option<String> {
    structure.says.get(field).map(ToString::to_string)
}

/// Bytes that decide something: those that aren't zero, and the first ones. What is zero to the end of a
/// structure is changed on one disk of them.
fn offsets(busy: &Busy, structure: &Structure, index: usize) -> Vec<u64> {
    let image = &busy.base[busy.disk_of(&structure.disk)];
    let disk = busy.disk_of(&structure.disk);
    let matters = |offset: &u64| {
        let byte = image[(structure.disk_offset_bytes + offset) as usize];
        byte != 0 || *offset < 128 || (*offset as usize + index) % busy.disks.len() == disk
    };
    (0..structure.bytes).filter(matters).collect()
}

fn changes(byte: u8, offset: u64) -> Vec<Change> {
    let bit = Change::Bit((offset % 8) as u8);
    match byte {
        0 => vec![bit],
        0xff => vec![bit, Change::Inverted],
        _ => vec![bit, Change::Inverted, Change::Zero],
    }
}

/// All bytes of all structures, each on one disk.
fn single(busy: &Busy) -> Vec<Place> {
    let mut places = Vec::new();
    for (index, structure) in structures(&busy.images()).iter().enumerate() {
        if structure.state != StructureState::Sound {
            continue;
        }
        let disk = busy.disk_of(&structure.disk);
        for offset in offsets(busy, structure, index) {
            let at = structure.disk_offset_bytes + offset;
            for change in changes(busy.base[disk][at as usize], offset) {
                places.push(Place {
                    kind: structure.kind,
                    volume: text_of(structure, "volume"),
                    says: structure.says.to_string(),
                    at: vec![(disk, at)],
                    change,
                });
            }
        }
    }
    places
}

/// The same byte of all copies of a structure: those that say the same, and the slots of what each disk has.
fn all_copies(busy: &Busy) -> Vec<Place> {
    let mut copies: BTreeMap<(StructureKind, String), Vec<Structure>> = BTreeMap::new();
    let own = |kind| {
        let own = [StructureKind::Label, StructureKind::Vote, StructureKind::Applied];
        own.contains(&kind)
    };
    for structure in structures(&busy.images()) {
        if structure.state == StructureState::Sound {
            let key = match own(structure.kind) {
                true => text_of(&structure, "slot").unwrap_or_default(),
                false => structure.says.to_string(),
            };
            copies.entry((structure.kind, key)).or_default().push(structure);
        }
    }
    let mut places = Vec::new();
    for ((kind, says), copies) in copies.into_iter().filter(|(_, copies)| copies.len() > 1) {
        let shortest = copies.iter().map(|copy| copy.bytes).min().unwrap_or(0);
        for offset in 0..shortest {
            let at: Vec<(usize, u64)> = copies
                .iter()
                .map(|copy| (busy.disk_of(&copy.disk), copy.disk_offset_bytes + offset))
                .collect();
            if offset > 160 && at.iter().all(|(disk, at)| busy.base[*disk][*at as usize] == 0) {
                continue;
            }
            places.push(Place {
                kind,
                volume: text_of(&copies[0], "volume"),
                says: says.clone(),
                at,
                change: Change::Bit((offset % 8) as u8),
            });
        }
    }
    places
}

/// Of a record of what is lost, on one disk and on all.
fn lost_records(busy: &Busy) -> Vec<Place> {
    let places = single(busy).into_iter().chain(all_copies(busy));
    places.filter(|place| place.kind == StructureKind::LostRecord).collect()
}

/// As many as are wanted, of each kind as many if there are.
fn choose(places: Vec<Place>, wanted: Option<usize>) -> Vec<Place> {
    let mut kinds: BTreeMap<StructureKind, Vec<Place>> = BTreeMap::new();
    let only = std::env::var("BYTES_ONLY").ok();
    for place in places {
        kinds.entry(place.kind).or_default().push(place);
    }
    let each = wanted.map(|wanted| wanted.div_ceil(kinds.len().max(1)));
    let mut chosen = Vec::new();
    for (_, places) in kinds {
        let indices = match only {
            Some(_) => (0..places.len()).collect(),
            None => sample(places.len(), each),
        };
        let mut places: Vec<Option<Place>> = places.into_iter().map(Some).collect();
        chosen.extend(indices.into_iter().filter_map(|index| places[index].take()));
    }
    chosen
}

fn run(make: fn() -> Busy, places: fn(&Busy) -> Vec<Place>, wanted: usize) {
    let mut chosen = choose(places(&make()), trials_wanted(wanted));
    if let Ok(only) = std::env::var("BYTES_ONLY") {
        let busy = make();
        chosen.retain(|place| place.describe(&busy).starts_with(&only));
    }
    collect(&chosen, make, |busy, place| {
        let what = place.describe(busy);
        for (disk, at) in &place.at {
            busy.disks[*disk].damage(*at as usize, |byte| place.change.apply(byte));
        }
        let outcome = busy.trial(&what);
        assert!(place.allows(&outcome), "{what}: {outcome:?}");
    });
}

/// Has all trials done, also those behind one that fails.
pub(super) fn collect<J: Sync>(
    jobs: &[J],
    make: impl Fn() -> Busy + Sync,
    trial: impl Fn(&Busy, &J) + Sync,
) {
    let failures = Mutex::new(Vec::new());
    spread(jobs, make, |busy, job| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| trial(busy, job))) {
            let text = panic.downcast_ref::<String>().map_or("?", String::as_str);
            failures.lock().unwrap().push(text.to_owned());
            busy.restore();
        }
    });
    let failures = failures.into_inner().unwrap();
    let listed: String = failures.join("\n").chars().take(20_000).collect();
    assert!(failures.is_empty(), "{} of {} trials:\n{listed}", failures.len(), jobs.len());
}

#[test]
fn a_damaged_byte_on_one_disk_costs_nothing_that_has_two_copies() {
    run(Busy::at_work, single, 16);
}

#[test]
fn a_damaged_byte_in_all_copies_is_named_or_costs_nothing() {
    run(Busy::at_work, all_copies, 16);
}

/// A disk is away then, so that not everything has two copies.
#[test]
fn a_damaged_byte_of_a_record_of_what_is_lost_is_named_or_costs_no_more() {
    run(Busy::with_lost_row, lost_records, 8);
}
