//! What others keep in a pool goes where the pool goes, and is nobody's to overwrite.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::super::ImportOptions;
use super::super::testing::Bench;
use super::pattern;
use crate::format::RecordNumber;
use crate::metadata::{KeepNotes, KeeperId, KeptNotes, NOTE_BYTES_MAX, NotesKept};
use crate::report::PoolState;

const ONE: KeeperId = KeeperId(1);
const OTHER: KeeperId = KeeperId(2);

fn want(keeper: KeeperId, count: usize, bytes: usize) -> KeepNotes {
    let notes = (0..count).map(|number| (format!("n{number:04}"), "x".repeat(bytes)));
    let notes = notes.collect();
    KeepNotes { keeper, host: "host".into(), mark: 7, are_all: true, notes, ..KeepNotes::default() }
}

impl Bench {
    fn keep(&self, want: KeepNotes) -> NotesKept {
        let engine = Rc::clone(&self.engine);
        self.run(async move { engine.keep_notes("pool", want).await }).unwrap()
    }

    fn notes(&self) -> BTreeMap<KeeperId, KeptNotes> {
        let all = self.engine.notes("pool").unwrap();
        all.into_iter().map(|kept| (kept.keeper, kept)).collect()
    }

    fn last_commit(&self) -> RecordNumber {
        self.engine.open_pool("pool").unwrap().pool.area.borrow().committed()
    }
}

#[test]
fn notes_outlive_a_crash_and_what_does_not_change_is_not_committed() {
    let (bench, _volume) = Bench::mirrored(410);
    // What a pool does by itself is done.
    bench.pass(Duration::from_secs(60));
    assert!(bench.keep(want(ONE, 3, 100)).changed);
    bench.pass(Duration::from_secs(60));
    let before = bench.last_commit();
    for _ in 0..10 {
        assert!(!bench.keep(want(ONE, 3, 100)).changed);
        bench.pass(Duration::from_secs(5));
    }
    assert_eq!(bench.last_commit(), before);
    let notes = bench.notes();
    assert_eq!(notes[&ONE].notes.len(), 3);
    let bench = bench.crash_engine();
    bench.reopened();
    assert_eq!(bench.notes(), notes);
    assert!(!bench.keep(want(ONE, 3, 100)).changed);
    assert!(bench.keep(want(ONE, 2, 100)).changed);
    assert_eq!(bench.notes()[&ONE].notes.len(), 2);
}

#[test]
fn who_imports_a_pool_overwrites_nothing_that_others_keep_there() {
    let (first, _volume) = Bench::mirrored(411);
    first.keep(want(ONE, 3, 100));
    let notes = first.notes();
    first.release("pool");
    let now = first.executor.handle().now();
    let Bench { disks, executor, engine, .. } = first;
    executor.clear();
    drop(engine);
    let second = Bench::with(412, disks, now, 2);
    second.pass(Duration::from_secs(3));
    let import = |read_only| {
        let engine = Rc::clone(&second.engine);
        let options = ImportOptions { read_only, ..ImportOptions::default() };
        second.run(async move { engine.import_pool("pool", options).await }).unwrap();
    };
    import(true);
    assert_eq!(second.notes(), notes);
    let engine = Rc::clone(&second.engine);
    let refused = second.run(async move { engine.keep_notes("pool", want(OTHER, 1, 1)).await });
    assert!(refused.is_err(), "nothing of it would reach a disk");
    second.release("pool");
    import(false);
    // It has none itself, and then some.
    for count in [0, 2] {
        second.keep(want(OTHER, count, 100));
        assert_eq!(second.notes()[&ONE], notes[&ONE]);
    }
    let forget = |keeper| {
        let engine = Rc::clone(&second.engine);
        second.run(async move { engine.forget_notes("pool", keeper).await }).unwrap()
    };
    assert!(forget(ONE) && !forget(ONE));
    assert_eq!(second.notes().into_keys().collect::<Vec<_>>(), [OTHER]);
}

/// As many as there may be are no trouble for the smallest of pools.
#[test]
fn the_metadata_of_a_small_pool_has_room_for_all_notes_that_there_may_be() {
    let (bench, volume) = Bench::mirrored(413);
    for round in 0..20 {
        let bytes = NOTE_BYTES_MAX - 100 - round;
        assert!(bench.keep(want(ONE, 7, bytes)).changed, "round {round}");
        bench.write(&volume, 0, pattern(0, 64, round as u64)).unwrap();
        bench.pass(Duration::from_secs(5));
    }
    bench.until(|report| report.state == PoolState::Online);
    let left_out = bench.keep(want(OTHER, 40, 1000)).left_out.len();
    assert!((1..40).contains(&left_out), "{left_out}");
    let notes = bench.notes();
    let bench = bench.power_cut();
    bench.reopened();
    assert_eq!(bench.notes(), notes);
}
