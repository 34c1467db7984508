//! Every combination of what two or three members have in the place of a row, against the rule of
//! `right_copy` in plain words.

use block::BLOCK_SECTORS;

use super::super::copy_order::Width;
use super::super::member::{Member, Standing};
use super::super::pool::GroupPlace;
use super::super::right_copy::{NoRightCopy, RightCopy, RowsOfOne};
use super::super::slot::SlotState;
use super::super::testing::TestDisk;
use super::super::volume::Volume;
use super::*;
use crate::format::Row;
use crate::layout::VolumeBlock;
use crate::metadata::MetaRecord;

/// Blocks that are written: rows that follow each other, each in a region of its own.
const ROWS: u32 = 2;
/// As long as the members' answers take together, however often they are asked.
const ANSWERS: Duration = Duration::from_millis(10);
const EVICTION: Duration = Duration::from_millis(1500);
const HEDGE: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Has {
    Right,
    Wrong,
    Unreadable,
    Hanging,
    Away,
}

const ALL: [Has; 5] = [Has::Right, Has::Wrong, Has::Unreadable, Has::Hanging, Has::Away];

/// What a member has, and whether it should: its bit of the region is clear.
#[derive(Clone, Copy, Debug)]
struct State {
    has: Has,
    should_have: bool,
}

/// A mirror all of whose tasks have ended: nobody else asks its members, or cleans them.
struct Mirror {
    bench: Bench,
    volume: Rc<Volume>,
    group: Rc<GroupPlace>,
    first: Row,
    crcs: Vec<u32>,
    disks: Vec<(Rc<Member>, Rc<TestDisk>, Lba)>,
}

impl Mirror {
    fn new(members: u8) -> Mirror {
        let bench = Bench::new(7, members, 48);
        bench.create();
        let device = bench.create_volume(8, Layout::Mirror(members));
        bench.write(&device, 0, pattern(0, u64::from(ROWS), 1)).unwrap();
        bench.pass(Duration::from_secs(3));
        let states: Vec<SlotState> = {
            let slots = bench.engine.slots.borrow();
            slots.values().map(|slot| slot.state.borrow().clone()).collect()
        };
        let [SlotState::Open(open)] = states.as_slice() else { panic!("the pool isn't open") };
        let volume = open.volume_by_name("v").unwrap();
        bench.executor.clear();
        let pool = Rc::clone(&volume.pool);
        let piece = volume.stripes.locate(VolumeBlock(0));
        let group = pool.group_at(volume.id, piece.at).unwrap();
        let first = piece.at.row;
        let (shape, place) = (pool.shape(), group.clone());
        let loading = Rc::clone(&volume);
        let index = shape.entry_of(first).0;
        let sums = bench.run(async move { loading.checksum_block(&place, index..index + 1).await });
        let sums = sums.unwrap().block;
        let rows = (first.0..first.0 + ROWS).map(Row);
        let crcs = rows.map(|row| sums.get(shape.entry_of(row).1).checksum().unwrap()).collect();
        let disks = (0..usize::from(members)).map(|index| {
            let (member, _, start) = pool.extent_of(&group, index).unwrap();
            let disk = bench.disks.iter().find(|disk| disk.name == member.display_name());
            (member, Rc::clone(disk.unwrap()), Lba(start.0 + shape.row_sector(first)))
        });
        let disks = disks.collect();
        Mirror { bench, volume, group, first, crcs, disks }
    }

    /// Gives a member what it is to have of a row, or takes it back.
    fn change(&self, index: usize, row: u32, has: Has, on: bool) {
        let (member, disk, first) = &self.disks[index];
        let sector = first.0 + u64::from(row) * BLOCK_SECTORS;
        match has {
            Has::Right => {}
            Has::Wrong => disk.damage(Lba(sector).byte_offset() as usize, |byte| *byte ^= 1),
            Has::Unreadable if on => drop(disk.bad_sectors.borrow_mut().insert(sector)),
            Has::Unreadable => drop(disk.bad_sectors.borrow_mut().remove(&sector)),
            Has::Hanging => disk.set_mode(if on { Mode::Hanging } else { Mode::Well }),
            Has::Away => member.set_standing(if on { Standing::Away } else { Standing::Usable }),
        }
    }

    /// A member misses a row's region, or not any more.
    fn miss(&self, index: usize, row: u32, on: bool) {
        let region = self.volume.pool.region_mask(Row(self.first.0 + row), 1);
        let regions = [((self.group.generation, self.disks[index].0.number), region)].into();
        let record = match on {
            true => MetaRecord::RegionsDirtied(regions),
            false => MetaRecord::RegionsCleaned(regions),
        };
        let mut meta = self.volume.pool.meta.borrow().clone();
        meta.apply(&record).unwrap();
        self.volume.pool.set_meta(meta);
    }

    /// Runs `test` while the members have this of the first row.
    fn with<T>(&self, states: &[State], test: impl FnOnce() -> T) -> T {
        let change = |on| {
            for (index, state) in states.iter().enumerate() {
                self.change(index, 0, state.has, on);
                if !state.should_have {
                    self.miss(index, 0, on);
                }
            }
        };
        change(true);
        let result = test();
        change(false);
        result
    }

    /// What is answered of the first row, and how long it took.
    fn right_copy(&self, suspect: Option<usize>) -> (Result<RightCopy, NoRightCopy>, Duration) {
        let (volume, group) = (Rc::clone(&self.volume), self.group.clone());
        let (row, crc) = (self.first, self.crcs[0]);
        self.timed(async move { volume.right_copy(&group, row, crc, suspect).await })
    }

    fn rows_of_one(&self, count: u32) -> (RowsOfOne, Duration) {
        let (volume, group, first) = (Rc::clone(&self.volume), self.group.clone(), self.first);
        let crcs = self.crcs[..count as usize].to_vec();
        self.timed(async move { volume.rows_of_one(&group, first, &crcs).await })
    }

    fn timed<T: 'static>(&self, work: impl Future<Output = T> + 'static) -> (T, Duration) {
        let begun = self.bench.executor.handle().now();
        let result = self.bench.run(work);
        (result, self.bench.executor.handle().now().since(begun))
    }
}

/// All that members can have, except that one of them should have the row: a pool sees to that.
fn combinations(members: usize) -> Vec<Vec<State>> {
    let each =
        || ALL.into_iter().flat_map(|has| [true, false].map(|b| State { has, should_have: b }));
    let mut all: Vec<Vec<State>> = vec![Vec::new()];
    for _ in 0..members {
        let longer = |states: &Vec<State>| {
            each().map(|state| [states.as_slice(), &[state]].concat()).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all.retain(|states| states.iter().any(|state| state.should_have));
    all
}

/// The members that should have the row and have one of these.
fn that_should(states: &[State], have: &[Has]) -> Vec<usize> {
    let of_these = |state: &State| state.should_have && have.contains(&state.has);
    (0..states.len()).filter(|index| of_these(&states[*index])).collect()
}

#[test]
fn a_right_copy_is_found_wherever_it_is_and_else_it_is_said_why_there_is_none() {
    for members in [2, 3] {
        let mirror = Mirror::new(members);
        for states in combinations(usize::from(members)) {
            let is_anywhere = states.iter().any(|state| state.has == Has::Right);
            let right = that_should(&states, &[Has::Right]);
            let bad = that_should(&states, &[Has::Wrong, Has::Unreadable]);
            let silent = that_should(&states, &[Has::Hanging, Has::Away]);
            let hanging = states.iter().filter(|state| state.has == Has::Hanging).count() as u32;
            for suspect in (0..states.len()).map(Some).chain([None]) {
                let (found, time) = mirror.with(&states, || mirror.right_copy(suspect));
                let told = format!("{states:?}, suspect {suspect:?}: {found:?} after {time:?}");
                assert!(time <= EVICTION * hanging + ANSWERS, "{told}");
                let Ok(RightCopy { data, mut wrong }) = found else {
                    let others_wrong = !bad.is_empty();
                    let expected = match silent.is_empty() {
                        true => NoRightCopy::Lost,
                        false => NoRightCopy::Silent { others_wrong },
                    };
                    assert!(!is_anywhere && found.err() == Some(expected), "{told}");
                    continue;
                };
                assert!(is_anywhere && data == pattern(0, 1, 1), "{told}");
                wrong.sort_unstable();
                assert!(wrong.iter().all(|member| bad.contains(member)), "{told}");
                // Who missed something is the last resort.
                assert!(!right.is_empty() || wrong == bad, "{told}");
                if let Some(suspect) = suspect {
                    assert_eq!(wrong.contains(&suspect), bad.contains(&suspect), "{told}");
                    let asks_others = !right.contains(&suspect);
                    assert!(asks_others || wrong.is_empty() && time <= ANSWERS, "{told}");
                }
            }
        }
    }
}

#[test]
fn a_run_comes_from_one_member_that_should_have_it_and_says_what_of_it_is_wrong() {
    for members in [2, 3] {
        let mirror = Mirror::new(members);
        for states in combinations(usize::from(members)) {
            let (found, time) = mirror.with(&states, || mirror.rows_of_one(1));
            let readable = that_should(&states, &[Has::Right, Has::Wrong]);
            let hanging = that_should(&states, &[Has::Hanging]);
            let told = format!("{states:?}: {:?}, {:?} after {time:?}", found.member, found.wrong);
            assert!(time <= (HEDGE + EVICTION) * hanging.len() as u32 + ANSWERS, "{told}");
            let RowsOfOne { data, wrong, member: Some(member) } = found else {
                assert!(readable.is_empty() && found.wrong == [0], "{told}");
                continue;
            };
            assert!(readable.contains(&member), "{told}");
            assert!(time <= HEDGE * hanging.len() as u32 + ANSWERS, "{told}");
            let is_right = states[member].has == Has::Right;
            assert_eq!(wrong.is_empty(), is_right, "{told}");
            assert_eq!(data == pattern(0, 1, 1), is_right, "{told}");
        }
    }
}

/// Who has it right is asked, whoever else is silent; without one nobody waits but for the silent.
#[test]
fn a_read_ends_unless_those_that_are_silent_may_end_it() {
    for states in combinations(2) {
        let mirror = Mirror::new(2);
        let is_anywhere = states.iter().any(|state| state.has == Has::Right);
        let bad = that_should(&states, &[Has::Wrong, Has::Unreadable]);
        let silent = that_should(&states, &[Has::Hanging, Has::Away]);
        let volume = Rc::clone(&mirror.volume);
        let read = async move { volume.read_blocks(0, u64::from(ROWS)).await };
        let limit = 6 * EVICTION;
        let read = mirror.with(&states, || mirror.bench.run_for(limit, read));
        let told = format!("{states:?}: {read:?}");
        match read {
            Some(Ok(data)) => {
                assert!(is_anywhere && data == pattern(0, u64::from(ROWS), 1), "{told}")
            }
            Some(Err(IoError::Medium(_))) => assert!(!is_anywhere && !bad.is_empty(), "{told}"),
            Some(Err(_)) => panic!("{told}"),
            None => assert!(!is_anywhere && bad.is_empty() && !silent.is_empty(), "{told}"),
        }
    }
}

#[test]
fn what_is_wrong_for_a_moment_is_asked_for_again_but_not_for_ever() {
    let mirror = Rc::new(Mirror::new(2));
    let state = |has| State { has, should_have: true };
    for (healed_after, is_found) in [(250, true), (5_000, false)] {
        let states = [state(Has::Right), state(Has::Unreadable)];
        let found = mirror.with(&states, || {
            mirror.change(0, 0, Has::Wrong, true);
            let (healer, runtime) = (Rc::clone(&mirror), mirror.bench.executor.handle());
            mirror.bench.executor.handle().spawn(async move {
                runtime.sleep(Duration::from_micros(healed_after)).await;
                healer.change(0, 0, Has::Wrong, false);
            });
            let (found, _) = mirror.right_copy(None);
            mirror.bench.pass(Duration::from_secs(1));
            found
        });
        match found {
            Ok(copy) => assert!(is_found && copy.data == pattern(0, 1, 1)),
            Err(none) => assert!(!is_found && none == NoRightCopy::Lost),
        }
    }
}

#[test]
fn rows_that_no_member_has_all_of_come_from_each_that_has_them() {
    let mirror = Mirror::new(2);
    // Each is behind the other: a row of one region here, of the next one there.
    mirror.miss(0, 0, true);
    mirror.miss(1, 1, true);
    mirror.change(0, 0, Has::Wrong, true);
    mirror.change(1, 1, Has::Wrong, true);
    let (found, _) = mirror.rows_of_one(ROWS);
    assert_eq!((found.member, found.wrong), (None, vec![0, 1]));
    let volume = Rc::clone(&mirror.volume);
    let (read, time) = mirror.timed(async move { volume.read_blocks(0, u64::from(ROWS)).await });
    assert_eq!(read.unwrap(), pattern(0, u64::from(ROWS), 1));
    assert!(time <= ANSWERS, "{time:?}");
}

#[test]
fn resync_copies_what_it_can_whoever_is_away() {
    // The first row is right on the first member only; of the second row the second one has it, too.
    for (has, waits) in [(Has::Away, false), (Has::Hanging, true)] {
        let mirror = Mirror::new(3);
        mirror.miss(1, 0, true);
        mirror.miss(2, 0, true);
        mirror.miss(2, 1, true);
        mirror.change(1, 0, Has::Wrong, true);
        mirror.change(2, 0, Has::Wrong, true);
        mirror.change(2, 1, Has::Wrong, true);
        mirror.change(0, 0, has, true);
        let (volume, group) = (Rc::clone(&mirror.volume), mirror.group.clone());
        let pool = Rc::clone(&volume.pool);
        let dirty = pool.dirty(&group, 2);
        let width = Width::alone(pool.shape().extent_bytes());
        let copying = async move {
            volume.copy_regions(&group, 2, dirty, width, || false, || {}).await.unwrap()
        };
        let (copied, time) = mirror.timed(copying);
        let second = pool.region_mask(Row(mirror.first.0 + 1), 1);
        assert_eq!(copied.unwrap().mask, second, "{has:?}");
        // Who hangs is waited for once.
        let limit = if waits { HEDGE + 2 * EVICTION } else { Duration::ZERO };
        assert!(time <= limit + ANSWERS, "{has:?} after {time:?}");
    }
}

#[test]
fn a_copy_that_is_to_end_early_copies_something_all_the_same() {
    let mirror = Mirror::new(2);
    (0..ROWS).for_each(|row| mirror.miss(1, row, true));
    let (volume, group) = (Rc::clone(&mirror.volume), mirror.group.clone());
    let pool = Rc::clone(&volume.pool);
    let dirty = pool.dirty(&group, 1);
    let width =
        Width { piece_bytes: BLOCK_BYTES as u64, ..Width::alone(pool.shape().extent_bytes()) };
    let copying =
        async move { volume.copy_regions(&group, 1, dirty, width, || true, || {}).await.unwrap() };
    let copied = mirror.bench.run(copying).unwrap();
    assert_eq!(copied.mask, pool.region_mask(mirror.first, 1));
}

/// All that have a row are away for long, and the one that is back first has it wrong.
#[test]
fn who_has_it_right_may_be_the_second_to_come_back() {
    for comes in [true, false] {
        let mirror = Mirror::new(2);
        mirror.change(0, 0, Has::Wrong, true);
        let members: Vec<_> = mirror.disks.iter().map(|(member, ..)| Rc::clone(member)).collect();
        members.iter().for_each(|member| member.set_standing(Standing::Away));
        let (volume, group) = (Rc::clone(&mirror.volume), Rc::clone(&mirror.group));
        let (row, crc) = (mirror.first, mirror.crcs[0]);
        let runtime = mirror.bench.executor.handle();
        let back = async move {
            runtime.sleep(EVICTION * 3).await;
            members[0].set_standing(Standing::Usable);
            runtime.sleep(EVICTION / 3).await;
            if comes {
                members[1].set_standing(Standing::Usable);
            }
        };
        let read = async move { volume.read_row(&group, row, crc, None).await };
        let both = async move { futures::future::join(read, back).await.0 };
        let found =
            mirror.bench.run_for(EVICTION * 6, both).expect("nobody is waited for for ever");
        assert_eq!(found.unwrap().is_some(), comes);
    }
}
