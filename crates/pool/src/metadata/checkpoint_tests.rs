#![allow(clippy::unwrap_used)]

use block::Epoch;
use proptest::prelude::*;

use super::*;
use crate::format::{DiskNumber, FailureDomain, MIB, RecordNumber, ReleaseNumber, VolumeId};
use crate::metadata::area::slot_of;
use crate::metadata::stories::{begin, records};
use crate::metadata::testing::{POOL, empty_pool, history, pool_of, recover_bytes, run};
use crate::metadata::{
    AreaFault, Layout, MetaRecord, Recovered, RootChange, choose_copy, encode_entry, found_on,
};

/// So short that small pools have many sections.
const SHORT: Lengths = Lengths { max: 3000, cut: 1500, min: 1000 };

fn layout() -> AreaLayout {
    AreaLayout::new(8 * MIB).unwrap()
}

/// The blocks that headers of a copy name.
fn named(bytes: &[u8]) -> Vec<BlockRun> {
    let Ok(found) = recover_bytes(POOL, &layout(), bytes) else { return Vec::new() };
    [Some(found.newest), found.former].iter().flatten().flat_map(StoredCheckpoint::in_use).collect()
}

fn overlap(one: &BlockRun, other: &BlockRun) -> bool {
    u64::from(one.first) < other.end() && u64::from(other.first) < one.end()
}

/// The writes of a checkpoint to a copy that has what it builds on.
fn writes_of(checkpoint: &EncodedCheckpoint) -> Vec<(u64, Buffer)> {
    let runs = checkpoint.fresh().flat_map(Placed::runs);
    let mut writes: Vec<_> = runs.map(|(run, bytes)| (layout().run_offset(&run), bytes)).collect();
    writes.push((layout().checkpoint_offset(checkpoint.after.slot()), checkpoint.header.clone()));
    writes
}

fn store(area: &mut [u8], (at, bytes): &(u64, Buffer)) {
    area[*at as usize..][..bytes.len()].copy_from_slice(bytes);
}

/// Writes the first sectors.
fn tear(area: &mut [u8], (at, bytes): &(u64, Buffer), sectors: usize) {
    let len = (sectors * 512).min(bytes.len());
    area[*at as usize..][..len].copy_from_slice(&bytes[..len]);
}

/// What an owner knows.
#[derive(Clone)]
struct Owner {
    metadata: Metadata,
    base: StoredCheckpoint,
    in_use: Vec<BlockRun>,
    attempted: u64,
    epoch: u64,
}

impl Owner {
    /// A pool and the area of its copies.
    fn create() -> (Owner, Vec<u8>) {
        let mut metadata = begin();
        let stamp = CheckpointStamp { sequence: 1, epoch: Epoch(1), number: RecordNumber(0) };
        let first = encode_cut(&layout(), (&metadata, stamp, None), None, &[], &SHORT).unwrap();
        let mut area = vec![0; layout().area_bytes() as usize];
        writes_of(&first).iter().for_each(|write| store(&mut area, write));
        metadata.forget_changes();
        let base = first.stored;
        (Owner { metadata, base, in_use: Vec::new(), attempted: 1, epoch: 1 }, area)
    }

    fn apply(&mut self, story: &[(u8, u64)]) {
        for (what, luck) in story {
            if let Ok(next) = self.metadata.with(&records(&self.metadata, *what, *luck)) {
                self.metadata = next;
            }
        }
    }

    fn attempt(&mut self) -> EncodedCheckpoint {
        let above = self.attempted + 1;
        let kept = self.base.head.slot();
        let stamp = CheckpointStamp {
            sequence: above + u64::from(slot_of(above) == kept),
            epoch: Epoch(self.epoch),
            number: RecordNumber(0),
        };
        let (metadata, base) = (&self.metadata, Some(&self.base));
        let encoded =
            encode_cut(&layout(), (metadata, stamp, None), base, &self.in_use, &SHORT).unwrap();
        let blocks: u64 = encoded.stored.in_use().iter().map(|run| u64::from(run.count)).sum();
        assert!(blocks <= layout().checkpoint_blocks_max());
        self.attempted = stamp.sequence;
        self.in_use.extend(encoded.places());
        encoded
    }

    /// An attempt is everywhere.
    fn succeeded(&mut self, attempt: &EncodedCheckpoint) {
        self.in_use = self.base.in_use();
        self.base = attempt.stored.clone();
        self.metadata.forget_changes();
    }

    /// Takes over from what copies hold; which of them are in step.
    fn take_over(areas: &[Vec<u8>], epoch: u64) -> (Owner, Vec<usize>) {
        let recover = |area: &Vec<u8>| recover_bytes(POOL, &layout(), area).unwrap();
        let mut copies: Vec<Recovered> = areas.iter().map(recover).collect();
        let attempted = copies.iter().map(|copy| copy.highest_sequence).max().unwrap();
        let best = choose_copy(&copies).unwrap();
        let found = found_on(&mut copies, best).unwrap();
        let metadata = copies.swap_remove(best).metadata;
        let (base, in_use) = (found.base, found.in_use);
        (Owner { metadata, base, in_use, attempted, epoch }, found.in_step)
    }
}

fn recovered(area: &[u8]) -> Metadata {
    recover_bytes(POOL, &layout(), area).unwrap().metadata
}

fn story(most: usize) -> impl Strategy<Value = Vec<(u8, u64)>> {
    prop::collection::vec((any::<u8>(), any::<u64>()), 1..most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// What records don't tell of would be missing here; and what is in use isn't written over.
    #[test]
    fn one_checkpoint_after_the_other_restores_what_a_whole_one_does(
        stories in prop::collection::vec(story(8), 1..16),
    ) {
        let (mut owner, mut area) = Owner::create();
        for story in stories {
            owner.apply(&story);
            let keeps = named(&area);
            let attempt = owner.attempt();
            for run in attempt.places() {
                prop_assert!(!keeps.iter().any(|kept| overlap(kept, &run)), "{run:?}");
            }
            writes_of(&attempt).iter().for_each(|write| store(&mut area, write));
            prop_assert_eq!(&recovered(&area), &owner.metadata);
            // A copy that joins gets the same bytes.
            for section in attempt.all_sections(&owner.metadata) {
                for (run, bytes) in section.unwrap().runs() {
                    let at = layout().run_offset(&run) as usize;
                    prop_assert!(area[at..at + bytes.len()] == *bytes);
                }
            }
            for pair in attempt.stored.table.sections.windows(2) {
                let small = (pair[0].bytes + pair[1].bytes) < SHORT.min as u64;
                prop_assert!(pair[0].kind != pair[1].kind || !small || attempt.sections.is_empty()
                    || !attempt.places().any(|run| pair.iter().any(|s| s.place.contains(&run))));
            }
            owner.succeeded(&attempt);
        }
    }

    /// One failed attempt after the other, each cut off within any write, under one owner or several.
    #[test]
    fn whenever_it_ends_there_is_the_old_state_or_the_new_one(
        stories in prop::collection::vec((story(5), any::<u16>(), 0_usize..9, 0_u8..4), 1..8),
    ) {
        let (mut owner, mut area) = Owner::create();
        let mut old = owner.metadata.clone();
        for (story, cut, sectors, then) in stories {
            owner.apply(&story);
            let attempt = owner.attempt();
            let writes = writes_of(&attempt);
            let cut = usize::from(cut) % (writes.len() + 2);
            for (index, write) in writes.iter().enumerate().take(cut) {
                tear(&mut area, write, sectors);
                let is_header = index + 1 == writes.len();
                let found = recovered(&area);
                prop_assert!(found == old || is_header && found == owner.metadata);
                store(&mut area, write);
                prop_assert_eq!(&recovered(&area), if is_header { &owner.metadata } else { &old });
            }
            if let Some(write) = writes.get(cut) {
                tear(&mut area, write, sectors);
            }
            let found = recovered(&area);
            prop_assert!(found == old || found == owner.metadata);
            match then {
                // It was whole, and is known to be.
                0 if cut >= writes.len() => owner.succeeded(&attempt),
                // The owner goes on as if it had failed: what he has in memory counts.
                0 | 1 => {}
                _ => owner = Owner::take_over(std::slice::from_ref(&area), owner.epoch + 1).0,
            }
            old = found;
        }
    }

    /// Three copies that an attempt reached to different degrees go on together under the next owner.
    #[test]
    fn an_owner_who_ended_while_he_wrote_leaves_all_copies_in_step(
        before in prop::collection::vec(story(5), 0..4),
        attempts in prop::collection::vec((story(5), any::<[u16; 3]>(), 0_usize..9), 1..4),
        last in story(5),
    ) {
        let (mut owner, area) = Owner::create();
        let mut areas = vec![area; 3];
        for story in before {
            owner.apply(&story);
            let attempt = owner.attempt();
            for area in &mut areas {
                writes_of(&attempt).iter().for_each(|write| store(area, write));
            }
            owner.succeeded(&attempt);
        }
        let mut states = vec![owner.metadata.clone()];
        let mut members = vec![0, 1, 2];
        for (story, cuts, sectors) in attempts {
            owner.apply(&story);
            let attempt = owner.attempt();
            let writes = writes_of(&attempt);
            // The header only once all copies that are in step have the rest.
            let rest = writes.len() - 1;
            let done = cuts.iter().any(|cut| usize::from(*cut) % 3 == 0);
            for (index, cut) in members.iter().zip(cuts) {
                let cut = match done {
                    true => rest + usize::from(cut) % 2,
                    false => usize::from(cut) % (rest + 1),
                };
                writes.iter().take(cut).for_each(|write| store(&mut areas[*index], write));
                if let Some(write) = writes.get(cut).filter(|_| !done || cut == rest) {
                    tear(&mut areas[*index], write, sectors.min(7));
                }
            }
            states.push(owner.metadata.clone());
            let (next, in_step) = Owner::take_over(&areas, owner.epoch + 1);
            prop_assert_eq!(in_step.len(), 3);
            prop_assert!(states.contains(&next.metadata));
            owner = next;
            members = in_step;
        }
        owner.apply(&last);
        let attempt = owner.attempt();
        for write in writes_of(&attempt) {
            for index in &members {
                let found = recovered(&areas[*index]);
                prop_assert!(states.contains(&found));
                store(&mut areas[*index], &write);
            }
        }
        for index in members {
            let found = recover_bytes(POOL, &layout(), &areas[index]).unwrap();
            prop_assert_eq!(&found.metadata, &owner.metadata);
            prop_assert_eq!(&found.newest, &attempt.stored);
        }
    }

    /// A copy that joins has nothing, or everything.
    #[test]
    fn a_copy_that_joins_is_empty_until_it_is_whole(stories in prop::collection::vec(story(9), 2..5)) {
        let (mut owner, area) = Owner::create();
        let (mut joins, mut attempts) = (area, Vec::new());
        for story in stories {
            owner.apply(&story);
            let attempt = owner.attempt();
            owner.succeeded(&attempt);
            attempts.push(attempt);
        }
        for slot in 0..2 {
            let at = layout().checkpoint_offset(slot) as usize;
            joins[at..at + BLOCK_BYTES].fill(0);
        }
        let newest = attempts.last().unwrap();
        let sections = newest.all_sections(&owner.metadata).map(|section| section.unwrap());
        let table = newest.table.clone();
        for placed in sections.chain([table]) {
            let found = recover_bytes(POOL, &layout(), &joins).unwrap_err();
            prop_assert_eq!(found, AreaFault::Empty);
            for (run, bytes) in placed.runs() {
                store(&mut joins, &(layout().run_offset(&run), bytes));
            }
        }
        let header = writes_of(newest).pop().unwrap();
        store(&mut joins, &header);
        prop_assert_eq!(recovered(&joins), owner.metadata);
    }

    /// Wherever what is in use lies, there is room for what isn't.
    #[test]
    fn free_blocks_are_those_that_nothing_names(
        used in prop::collection::vec((0_u32..600, 1_u32..9, any::<bool>()), 0..60),
        sizes in prop::collection::vec(1_u64..40, 1..30),
    ) {
        let used: Vec<BlockRun> = used
            .into_iter()
            .map(|(first, count, far)| BlockRun { first: first + u32::from(far) * 65536, count })
            .collect();
        let space = layout().section_space();
        let all: Vec<u32> = space.iter().flat_map(|run| run.first..run.end() as u32).collect();
        let is_used = |block: u32| used.iter().any(|run| overlap(run, &BlockRun { first: block, count: 1 }));
        let mut left = all.iter().filter(|block| !is_used(**block)).count() as u64;
        let mut free = FreeBlocks::of(&layout(), used.iter());
        let mut taken = std::collections::BTreeSet::new();
        for size in sizes {
            let place = free.take(size);
            prop_assert_eq!(place.is_some(), size <= left);
            let Some(place) = place else { break };
            left -= size;
            prop_assert!(super::super::table::is_place(&layout(), &place, size * BLOCK_BYTES as u64));
            for block in place.iter().flat_map(|run| run.first..run.end() as u32) {
                prop_assert!(!is_used(block) && taken.insert(block));
            }
        }
    }
}

/// Each record alone: what it changes and doesn't tell of isn't in the next checkpoint.
#[test]
fn every_kind_of_record_tells_what_it_changes() {
    let (mut owner, mut area) = Owner::create();
    owner.metadata = empty_pool(FailureDomain::Node);
    for record in history() {
        owner.metadata.apply(&record).unwrap();
        let attempt = owner.attempt();
        writes_of(&attempt).iter().for_each(|write| store(&mut area, write));
        assert_eq!(recovered(&area), owner.metadata, "{record:?}");
        owner.succeeded(&attempt);
    }
}

#[test]
fn a_copy_with_entries_behind_the_newest_checkpoint_shows_that_all_had_it() {
    let (mut owner, area) = Owner::create();
    let (mut ahead, behind) = (area.clone(), area);
    owner.apply(&[(2, 1), (11, 5)]);
    let attempt = owner.attempt();
    writes_of(&attempt).iter().for_each(|write| store(&mut ahead, write));
    let copies = |ahead: &Vec<u8>| {
        [ahead, &behind].map(|area| recover_bytes(POOL, &layout(), area).unwrap())
    };
    let found = found_on(&mut copies(&ahead), 0).unwrap();
    assert_eq!((found.in_step, &found.base), (vec![0, 1], &owner.base));
    let renamed = MetaRecord::PoolRenamed { name: "pond".into() };
    let config = crate::format::ConfigNumber(1);
    let entry = encode_entry(&layout(), &attempt.after, (config, None), &[renamed]).unwrap();
    store(&mut ahead, &(layout().log_offset(attempt.after.slot()), entry.bytes));
    let found = found_on(&mut copies(&ahead), 0).unwrap();
    assert_eq!((found.in_step, &found.base), (vec![0], &attempt.stored));
}

#[test]
fn what_is_cut_too_long_is_cut_and_what_is_short_becomes_one() {
    let mut metadata = pool_of(FailureDomain::Node, &[(0, 400_000), (1, 400_000)]);
    let volume = VolumeId(1);
    let layout_of_volume = Layout::Mirror(2);
    let created = MetaRecord::VolumeCreated {
        id: volume,
        name: "v".into(),
        layout: layout_of_volume,
        width: 1,
    };
    metadata.apply(&created).unwrap();
    let area = AreaLayout::new(64 * MIB).unwrap();
    let add = |metadata: &mut Metadata, from: u32, to: u32| {
        for at in from..to {
            let run = run(at.into(), 1, metadata.counters().generation.0, &[(0, at), (1, at)]);
            metadata.apply(&MetaRecord::RunAdded { volume, run }).unwrap();
        }
    };
    let stamp = |sequence| CheckpointStamp { sequence, epoch: Epoch(1), number: RecordNumber(0) };
    add(&mut metadata, 0, 40_000);
    let first = encode_checkpoint(&area, &metadata, (stamp(1), None), None, &[]).unwrap();
    metadata.forget_changes();
    let runs = |checkpoint: &EncodedCheckpoint| {
        let sections = checkpoint.stored.table.sections.clone().into_iter();
        let of_runs = sections.filter(|section| section.kind == SectionKind::Runs);
        of_runs.collect::<Vec<_>>()
    };
    assert_eq!(runs(&first).len(), 1);
    add(&mut metadata, 40_000, 90_000);
    let second =
        encode_checkpoint(&area, &metadata, (stamp(2), None), Some(&first.stored), &[]).unwrap();
    metadata.forget_changes();
    let sections = runs(&second);
    assert!(sections.len() > 2);
    assert!(sections.iter().all(|section| section.bytes <= LENGTHS.cut as u64 + 100));
    // One record more: one section more is written, and the table; the last one has what comes behind.
    add(&mut metadata, 90_000, 90_001);
    let third =
        encode_checkpoint(&area, &metadata, (stamp(3), None), Some(&second.stored), &[]).unwrap();
    metadata.forget_changes();
    assert_eq!(third.sections.len(), 1);
    assert_eq!(runs(&third)[..sections.len() - 1], sections[..sections.len() - 1]);
    metadata.apply(&MetaRecord::VolumeRemoved { id: volume }).unwrap();
    let fourth =
        encode_checkpoint(&area, &metadata, (stamp(4), None), Some(&third.stored), &[]).unwrap();
    assert_eq!(runs(&fourth), []);
}

#[test]
fn a_shorter_area_gets_what_it_has_no_place_for() {
    let (owner, _) = Owner::create();
    let mut far = owner.base.clone();
    for run in far.table.sections.iter_mut().flat_map(|section| &mut section.place) {
        run.first += 1000;
    }
    let stamp = CheckpointStamp { sequence: 2, epoch: Epoch(1), number: RecordNumber(0) };
    let next =
        encode_checkpoint(&layout(), &owner.metadata, (stamp, None), Some(&far), &[]).unwrap();
    assert_eq!(next.sections.len(), far.table.sections.len());
    assert!(next.stored.in_use().iter().all(|run| layout().has_run(run)));
}

#[test]
fn a_checkpoint_costs_what_changed() {
    let area = AreaLayout::new(1 << 30).unwrap();
    for (runs, groups) in [(1_u32, 300_000_u32), (100_000, 1)] {
        let mut metadata = pool_of(FailureDomain::Node, &[(0, 1_300_000), (1, 1_300_000)]);
        let volume = VolumeId(1);
        let (name, layout) = ("v".to_string(), Layout::Mirror(2));
        let created = MetaRecord::VolumeCreated { id: volume, name, layout, width: 1 };
        metadata.apply(&created).unwrap();
        for at in (0..runs).map(|run| run * groups) {
            let run = run(at.into(), groups, u64::from(at) + 1, &[(0, at), (1, at)]);
            let key = run.key;
            metadata.apply(&MetaRecord::RunAdded { volume, run }).unwrap();
            metadata.apply(&MetaRecord::RunInitialised { volume, key, count: groups }).unwrap();
        }
        let mut base = None;
        for sequence in 1..4 {
            let root = RootChange { group: crate::format::GenerationId(50_000), root: sequence };
            let released = MetaRecord::Released {
                volume,
                log: RecordNumber(sequence),
                release: ReleaseNumber(sequence),
                touched: vec![DiskNumber(0)],
                dirty_regions: Default::default(),
                roots: vec![root],
            };
            metadata.apply(&released).unwrap();
            let stamp = CheckpointStamp { sequence, epoch: Epoch(1), number: RecordNumber(0) };
            let encoded =
                encode_checkpoint(&area, &metadata, (stamp, None), base.as_ref(), &[]).unwrap();
            metadata.forget_changes();
            let written: u64 = encoded.places().map(|run| run.bytes()).sum();
            let all = encoded.stored.bytes();
            // Its roots, its volume, its disk and the table.
            let first = base.is_none();
            assert!(all > 2 << 20 && written == all || !first, "{written} of {all}");
            assert!(
                encoded.sections.len() == 3 && written < 600 << 10 || first,
                "{written} of {all}"
            );
            base = Some(encoded.stored);
        }
    }
}
