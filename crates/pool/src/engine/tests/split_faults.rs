//! What goes wrong while what is left of a pool becomes one of its own: the former pool loses nothing by it.

use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;

use block::{Epoch, Instant};
use uuid::Uuid;

use super::super::ImportOptions;
use super::super::testing::{Bench, Dead, TestDisk};
use super::pattern;
use super::split::findings;
use crate::check::{
    DiskImage, DumpItem, DumpOptions, Structure, StructureKind, StructureState, dump,
};
use crate::endings::{ShownDisk, SplitPlan, SplitReport};
use crate::error::PoolError;
use crate::format::{
    ConfigNumber, Configuration, Destruction, DiskGeometry, DiskId, LABEL_BYTES, Label, LabelState,
    PoolId, VOTE_BYTES, VotePlace, Voters, select_label, select_vote,
};
use crate::metadata::Layout;
use crate::report::{DiskState, PoolEvent};

pub(super) fn label_on(disk: &TestDisk) -> Label {
    let image = disk.image();
    let slots = DiskGeometry::label_slots(image.len() as u64).map(|slot| {
        let at = slot.byte_offset() as usize;
        Some(&image[at..at + LABEL_BYTES])
    });
    match select_label(slots, image.len() as u64) {
        LabelState::Labelled(found) => found.label,
        other => panic!("{other:?}"),
    }
}

pub(super) fn vote_on(disk: &TestDisk, pool: PoolId) -> Option<Configuration> {
    let image = disk.image();
    let place = VotePlace { pool, disk: label_on(disk).disk, witness: None };
    let slots = DiskGeometry::vote_slots().map(|slot| {
        let at = slot.byte_offset() as usize;
        Some(&image[at..at + VOTE_BYTES])
    });
    select_vote(&place, slots, &[]).newest
}

/// Has a disk show this alone.
pub(super) fn set_vote(disk: &TestDisk, pool: PoolId, vote: &Configuration) {
    let place = VotePlace { pool, disk: label_on(disk).disk, witness: None };
    for (slot, at) in DiskGeometry::vote_slots().into_iter().enumerate() {
        disk.overwrite(at, &vote.encode(&place, slot).unwrap());
    }
}

pub(super) fn id(pool: &str) -> PoolId {
    PoolId(pool.parse().unwrap())
}

fn names(disks: &[ShownDisk]) -> Vec<&str> {
    disks.iter().map(|disk| disk.name.as_str()).collect()
}

impl Bench {
    fn split_with(
        &self,
        plan: &SplitPlan,
        options: ImportOptions,
    ) -> Result<SplitReport, PoolError> {
        let (engine, plan) = (Rc::clone(&self.engine), plan.clone());
        self.run(async move { engine.split_pool(&plan, options).await })
    }

    fn import_with(&self, pool: &str, options: ImportOptions) -> Result<(), PoolError> {
        let (engine, pool) = (Rc::clone(&self.engine), pool.to_owned());
        self.run(async move { engine.import_pool(&pool, options).await.map(drop) })
    }

    /// Waits until a pool is open with these of its disks and no other.
    pub(super) fn until_with(&self, pool: &str, disks: &[&str]) {
        for _ in 0..1200 {
            let reports = self.engine.reports();
            let report = reports.iter().find(|report| report.id == pool && report.lease_ok);
            let usable = report.map(|report| {
                let usable = report.disks.iter().filter(|disk| disk.state == DiskState::Usable);
                usable.map(|disk| disk.name.as_str()).collect::<Vec<_>>()
            });
            if usable.is_some_and(|usable| usable == disks) {
                return;
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("never: {:#?}", self.engine.reports());
    }

    /// All that was written to [`Bench::everywhere`] is there.
    pub(super) fn is_all_there(&self, pool: &str) {
        let volume = self.volume_of(pool);
        assert!(self.read(&volume, 0, 100).unwrap() == pattern(0, 100, 1));
        self.write(&volume, 200, pattern(200, 10, 2)).unwrap();
        assert!(self.read(&volume, 200, 10).unwrap() == pattern(200, 10, 2));
    }

    /// The split of these, of which no vote takes.
    pub(super) fn split_in_vain(&self, disks: &[usize]) -> SplitPlan {
        disks.iter().for_each(|disk| self.disks[*disk].refuses_votes.set(true));
        let plan = self.plan_split("pool").unwrap();
        let error = self.split(&plan).unwrap_err();
        assert!(matches!(error, PoolError::Suspended { .. }), "{error}");
        disks.iter().for_each(|disk| self.disks[*disk].refuses_votes.set(false));
        plan
    }
}

#[test]
fn a_label_that_cannot_be_written_leaves_the_former_pool_as_it_was() {
    for slot in 0..4 {
        let bench = Bench::everywhere(1000 + slot as u64, 5).left_with(&[0, 1]);
        let plan = bench.plan_split("pool").unwrap();
        let before = [0, 1].map(|disk| label_on(&bench.disks[disk]));
        let slots = DiskGeometry::label_slots(bench.disks[1].image().len() as u64);
        bench.disks[1].dead_sectors.borrow_mut().insert(slots[slot].0, Dead::ToWrites);
        assert!(bench.split(&plan).is_err());
        bench.disks[1].dead_sectors.borrow_mut().clear();
        assert_eq!(label_on(&bench.disks[0]), before[0]);
        // With the others it opens by itself, with all that it had.
        bench.attach(&bench.disks[2]);
        bench.until_with(&plan.id, &["e0.0", "e1.0", "e2.0"]);
        bench.is_all_there(&plan.id);
        assert_eq!(label_on(&bench.disks[1]), before[1]);
        assert_eq!(findings(&bench.disks[..3]), Vec::<String>::new());
    }
}

/// Its labels are another pool's that nobody can have made.
#[test]
fn the_former_pool_takes_back_what_was_not_split_in_the_end() {
    let bench = Bench::everywhere(1010, 5).left_with(&[0, 1]);
    let plan = bench.split_in_vain(&[0, 1]);
    let label = label_on(&bench.disks[0]);
    assert_eq!((label.splits_from, label.pool != id(&plan.id)), (Some(id(&plan.id)), true));
    assert_eq!(bench.open_id(), None);
    // Their votes of the former pool are needed for its majority.
    bench.attach(&bench.disks[2]);
    bench.pass(Duration::from_secs(60));
    assert!(bench.plan_split("pool").is_err(), "a majority is there");
    bench.import_id("pool").unwrap();
    bench.until_with(&plan.id, &["e0.0", "e1.0", "e2.0"]);
    bench.is_all_there(&plan.id);
    for disk in &bench.disks[..3] {
        let label = label_on(disk);
        assert_eq!((label.pool, label.splits_from), (id(&plan.id), None));
        assert_eq!(label.vote_disks.len(), 5);
    }
    assert_eq!(bench.engine.reports().len(), 1, "{:#?}", bench.engine.reports());
    assert_eq!(findings(&bench.disks[..3]), Vec::<String>::new());
}

/// It is open elsewhere, and they come one after the other.
#[test]
fn an_open_pool_takes_back_what_was_not_split_in_the_end() {
    let bench = Bench::everywhere(1015, 5);
    let former = bench.report().id;
    let second = bench.other(2).left_with(&[3, 4]);
    second.pass(Duration::from_secs(60));
    second.split_in_vain(&[3, 4]);
    // Its epoch is above theirs by then.
    let mut bench = bench.left_with(&[0, 1, 2]);
    for _ in 0..3 {
        bench.until_with(&former, &["e0.0", "e1.0", "e2.0"]);
        bench = bench.left_with(&[0, 1, 2]);
    }
    bench.until_with(&former, &["e0.0", "e1.0", "e2.0"]);
    bench.attach(&bench.disks[3]);
    bench.pass(Duration::from_secs(5));
    bench.attach(&bench.disks[4]);
    bench.until_with(&former, &["e0.0", "e1.0", "e2.0", "e3.0", "e4.0"]);
    assert_eq!(label_on(&bench.disks[3]).pool, id(&former));
    bench.is_all_there(&former);
}

/// What was split is another's, also one disk of it that took no part there yet and comes alone.
#[test]
fn the_former_pool_leaves_alone_what_was_split() {
    let bench = Bench::everywhere(1020, 5);
    let former = bench.report().id;
    let second = bench.other(2).left_with(&[3, 4]);
    second.pass(Duration::from_secs(60));
    let new = second.split(&second.plan_split("pool").unwrap()).unwrap();
    assert_eq!(vote_on(&bench.disks[3], id(&new.id)), vote_on(&bench.disks[4], id(&new.id)));
    for seen in [&[0, 1, 2, 3][..], &[3, 0, 1, 2], &[0, 1, 2, 4, 3]] {
        let bench = Bench::alone(
            1021,
            bench.disks.clone(),
            second.executor.handle().now(),
            1,
            bench.engine.known_pools(),
        );
        let images = [3, 4].map(|disk| bench.disks[disk].image());
        for disk in seen {
            bench.attach(&bench.disks[*disk]);
            bench.pass(Duration::from_secs(2));
        }
        bench.until_with(&former, &["e0.0", "e1.0", "e2.0"]);
        bench.pass(Duration::from_secs(60));
        assert!([3, 4].map(|disk| bench.disks[disk].image()) == images, "{seen:?}");
    }
}

/// Cut short after any write, what is left is the former pool's once a majority of that is there, or another's that can
/// be opened.
#[test]
fn cut_short_anywhere_it_is_one_pool_or_the_other() {
    let (mut former, mut new) = (0, 0);
    for (disk, writes) in (0..2).flat_map(|disk| (0..8).map(move |writes| (disk, writes))) {
        let bench = Bench::everywhere(1030 + writes, 5).left_with(&[0, 1]);
        let (plan, pools) = (bench.plan_split("pool").unwrap(), bench.engine.known_pools());
        bench.disks[disk].hangs_from.set(Some(bench.disks[disk].writes.get() + writes));
        let done = bench.split(&plan);
        bench.disks[disk].hangs_from.set(None);
        let now = bench.executor.handle().now();
        bench.executor.clear();
        bench.disks[disk].crash(&bench.executor.handle());
        bench.disks[disk].set_mode(super::super::testing::Mode::Well);
        let bench = Bench::alone(1040 + writes, bench.disks.clone(), now, 1, pools);
        [2, 0, 1].iter().for_each(|disk| bench.attach(&bench.disks[*disk]));
        bench.pass(Duration::from_secs(60));
        match bench.open_id() {
            Some(open) => {
                assert_eq!(open, plan.id);
                assert!(done.is_err(), "{disk} {writes}");
                bench.until_with(&open, &["e0.0", "e1.0", "e2.0"]);
                bench.is_all_there(&open);
                former += 1;
            }
            None => {
                let label = label_on(&bench.disks[0]).pool;
                assert_ne!(label, id(&plan.id));
                bench.import_id(&label.to_string()).unwrap();
                bench.until_with(&label.to_string(), &["e0.0", "e1.0"]);
                bench.is_all_there(&label.to_string());
                new += 1;
            }
        }
    }
    assert!(former > 8 && new > 0, "{former} {new}");
}

/// The others are back while it is under way: the former pool doesn't open beside it, nor is it closed once it is open.
#[test]
fn the_others_are_back_while_it_is_under_way() {
    let (mut split, mut refused) = (0, 0);
    for step in 0..32 {
        let bench = Bench::everywhere(1050, 5).left_with(&[0, 1]);
        let plan = bench.plan_split("pool").unwrap();
        bench.disks[..2].iter().for_each(|disk| disk.latency.set(Duration::from_millis(40)));
        let (engine, shown) = (Rc::clone(&bench.engine), plan.clone());
        let (done, mut told) = futures::channel::oneshot::channel();
        bench.executor.handle().spawn(async move {
            let _ = done.send(engine.split_pool(&shown, ImportOptions::default()).await);
        });
        bench.pass(Duration::from_millis(120 * step));
        [2, 3, 4].iter().for_each(|disk| bench.attach(&bench.disks[*disk]));
        let done = loop {
            if let Ok(Some(done)) = told.try_recv() {
                break done;
            }
            assert_eq!(bench.open_id(), None, "step {step}: it opened meanwhile");
            bench.pass(Duration::from_millis(5));
        };
        bench.pass(Duration::from_secs(60));
        match done {
            Ok(new) => {
                assert_eq!(bench.open_id(), None, "step {step}");
                bench.import_id(&new.id).unwrap();
                bench.until_with(&new.id, &["e0.0", "e1.0"]);
                split += 1;
            }
            Err(_) => {
                bench.until_with(&plan.id, &["e0.0", "e1.0", "e2.0", "e3.0", "e4.0"]);
                refused += 1;
            }
        }
    }
    assert!(split > 3 && refused > 3, "{split} {refused}");
}

#[test]
fn metadata_that_could_not_be_opened_is_said_before_anything_is_written() {
    let bench = Bench::everywhere(1060, 5).left_with(&[0, 1]);
    let areas = |disk: &TestDisk| {
        let label = label_on(disk);
        label.geometry.run_place(label.area.unwrap()).unwrap()
    };
    let plan = bench.plan_split("pool").unwrap();
    for disk in &bench.disks[..2] {
        let (start, bytes) = areas(disk);
        disk.overwrite(start, &vec![0; bytes as usize]);
    }
    let before = [0, 1].map(|disk| bench.disks[disk].image());
    let error = bench.split(&plan).unwrap_err().to_string();
    assert!(error.contains("no usable copy of its metadata"), "{error}");
    assert!([0, 1].map(|disk| bench.disks[disk].image()) == before);

    // Older than what is known of: by word.
    let bench = Bench::everywhere(1061, 5);
    let old = [0, 1].map(|disk| {
        let (start, bytes) = areas(&bench.disks[disk]);
        let at = start.byte_offset() as usize;
        (start, bench.disks[disk].image()[at..at + bytes as usize].to_vec())
    });
    let former = bench.report().id;
    let volume = bench.volume_of(&former);
    bench.write(&volume, 300, pattern(300, 200, 1)).unwrap();
    bench.pass(Duration::from_secs(120));
    let bench = bench.crash_engine();
    bench.until_with(&former, &["e0.0", "e1.0", "e2.0", "e3.0", "e4.0"]);
    let bench = bench.left_with(&[0, 1]);
    for (disk, (start, bytes)) in old.iter().enumerate() {
        bench.disks[disk].overwrite(*start, bytes);
    }
    let plan = bench.plan_split("pool").unwrap();
    let error = bench.split(&plan).unwrap_err().to_string();
    assert!(error.contains("--outdated-metadata"), "{error}");
    assert_eq!(label_on(&bench.disks[0]).pool, id(&plan.id));
    let options = ImportOptions { outdated_metadata: true, ..ImportOptions::default() };
    let new = bench.split_with(&plan, options).unwrap();
    // What was destaged since then is in no record any more: nothing is promised of the contents.
    bench.import_with(&new.id, options).unwrap();
}

/// The votes that are left stay what they were, however often it is tried: also by number, from which metadata is told
/// that is newer than they are.
#[test]
fn votes_of_the_former_pool_stay_until_the_new_one_opens() {
    let bench = Bench::everywhere(1070, 5).left_with(&[0, 1]);
    let former = id(&bench.report().id);
    let before = [0, 1].map(|disk| vote_on(&bench.disks[disk], former).unwrap());
    for attempt in 0..4 {
        // One of two is told.
        bench.disks[attempt % 2].refuses_votes.set(true);
        assert!(bench.split(&bench.plan_split("pool").unwrap()).is_err());
        bench.disks[attempt % 2].refuses_votes.set(false);
        assert_eq!([0, 1].map(|disk| vote_on(&bench.disks[disk], former).unwrap()), before);
    }
    let new = bench.split(&bench.plan_split("pool").unwrap()).unwrap();
    assert_eq!([0, 1].map(|disk| vote_on(&bench.disks[disk], former).unwrap()), before);
    let vote = vote_on(&bench.disks[0], id(&new.id)).unwrap();
    assert_eq!((vote.number, vote.record), (before[0].number, before[0].record));
    assert!(vote.epoch > before[0].epoch && vote.released);
    assert_eq!((vote.voters.now.len(), vote.copies.len()), (2, 2));
    let mut votes = Vec::new();
    let options = DumpOptions { pool: None, checksums: false, reservation: &|_, _| None };
    let images: Vec<Vec<u8>> = bench.disks[..2].iter().map(|disk| disk.image()).collect();
    let images: Vec<DiskImage<'_>> =
        images.iter().map(|image| DiskImage::of_bytes("d", image)).collect();
    dump(&images, &options, &mut |item| {
        if let DumpItem::Structure(Structure { kind: StructureKind::Vote, state, .. }) = item {
            votes.push(state);
        }
        ControlFlow::Continue(())
    });
    votes.sort_by_key(|state| *state == StructureState::Former);
    let (sound, of_former) = (StructureState::Sound, StructureState::Former);
    assert_eq!(votes, [sound, sound, of_former, of_former]);
    // Anybody may have it at once.
    let other = bench.other(2).left_with(&[0, 1]);
    other.import_id(&new.id).unwrap();
    other.until_with(&new.id, &["e0.0", "e1.0"]);
    assert_eq!([0, 1].map(|disk| vote_on(&bench.disks[disk], former)), [None, None]);
    let told = other.events();
    let is_told = |event: &PoolEvent| match event {
        PoolEvent::Split { former: of, without, .. } => id(of) == former && without.len() == 3,
        _ => false,
    };
    assert_eq!(told.iter().filter(|event| is_told(event)).count(), 1, "{told:#?}");
}

/// Whose a disk is that was labelled already is asked as well.
#[test]
fn an_owner_is_asked_about_also_where_all_labels_are_another_pools() {
    let bench = Bench::everywhere(1080, 3);
    let second = bench.other(2).left_with(&[2]);
    second.pass(Duration::from_secs(60));
    second.split_in_vain(&[2]);
    let now = second.executor.handle().now();
    let third = Bench::alone(1081, second.disks.clone(), now, 3, Vec::new());
    third.attach(&third.disks[2]);
    third.pass(Duration::from_secs(2));
    let plan = third.plan_split("pool").unwrap();
    assert!(plan.refusal.is_some() && plan.owner.as_deref() == Some("supervisor-1"), "{plan:?}");
    assert!(third.split(&plan).is_err());
    third.pass(Duration::from_secs(60));
    let plan = third.plan_split("pool").unwrap();
    let new = third.split(&plan).unwrap();
    third.import_id(&new.id).unwrap();
    third.is_all_there(&new.id);
}

/// Of two that pass for one disk only one would be of the new pool, and the other still of the former one.
#[test]
fn a_clone_of_a_disk_is_refused_by_name() {
    for begun in [false, true] {
        let bench = Bench::everywhere(1090, 5).left_with(&[0, 1]);
        let clone = TestDisk::new("e9.0", 9, 48 << 20);
        clone.set_image(&bench.disks[0].image());
        if begun {
            bench.split_in_vain(&[0, 1]);
        }
        bench.attach(&clone);
        bench.pass(Duration::from_secs(60));
        let error = bench.plan_split("pool").unwrap_err().to_string();
        assert!(error.contains("e0.0") && error.contains("e9.0"), "{error}");
    }
}

/// While votes move there are two lists, and more may be left of both than one has.
#[test]
fn more_voters_are_left_than_a_pool_has() {
    let bench = Bench::everywhere(1100, 6).left_with(&[]);
    let former = label_on(&bench.disks[0]).pool;
    let ids: Vec<DiskId> = bench.disks.iter().map(|disk| label_on(disk).disk).collect();
    let newest = bench.disks.iter().filter_map(|disk| vote_on(disk, former));
    let newest = newest.max_by_key(Configuration::rank).unwrap();
    let gone = (1..5).map(|gone| DiskId(Uuid::from_u128(gone)));
    let others: Vec<DiskId> =
        ids.iter().copied().filter(|id| !newest.voters.contains(*id)).collect();
    let next = others.iter().copied().chain(gone).collect();
    let now = newest.voters.now.clone();
    let voters = Voters { now: now.clone(), next: Some(next) };
    // The one that isn't on the first list has the only copy.
    let copies = [others[0]].into_iter().chain(now[2..].iter().copied()).collect();
    let vote = Configuration { voters, copies, number: newest.number.next(), ..newest };
    bench.disks.iter().for_each(|disk| set_vote(disk, former, &vote));
    bench.disks.iter().for_each(|disk| bench.attach(disk));
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.open_id(), None);
    let new = bench.split(&bench.plan_split("pool").unwrap());
    let new = new.unwrap();
    let shown = vote_on(&bench.disks[0], id(&new.id))
        .unwrap_or_else(|| vote_on(&bench.disks[3], id(&new.id)).unwrap());
    assert_eq!(shown.voters.now.len(), 5);
    assert!(shown.copies.iter().all(|copy| shown.voters.contains(*copy)));
    assert!(shown.voters.contains(others[0]));
    bench.import_id(&new.id).unwrap();
    bench.is_all_there(&new.id);
}

#[test]
fn what_was_asked_for_and_outvoted_does_not_count() {
    let bench = Bench::everywhere(1110, 5).left_with(&[0, 1]);
    let former = id(&bench.report().id);
    let newest = vote_on(&bench.disks[1], former).unwrap();
    let (number, epoch) = (ConfigNumber(newest.number.0 - 1), Epoch(newest.epoch.0));
    let asked = Configuration { number, epoch, destruction: Destruction::Asked, ..newest.clone() };
    set_vote(&bench.disks[0], former, &asked);
    bench.pass(Duration::from_secs(60));
    let plan = bench.plan_split("pool").unwrap();
    let newer = Configuration { number: newest.number.next(), ..asked };
    set_vote(&bench.disks[0], former, &newer);
    let error = bench.split(&plan).unwrap_err().to_string();
    assert!(error.contains("to be no more"), "{error}");
    let older = Configuration { number, ..newer };
    set_vote(&bench.disks[0], former, &older);
    let new = bench.split(&bench.plan_split("pool").unwrap()).unwrap();
    bench.import_id(&new.id).unwrap();
    bench.is_all_there(&new.id);
}

/// Two disks that began to be split, each alone, and now are in sight together.
#[test]
fn several_that_were_begun_are_one_pool() {
    let bench = Bench::everywhere(1120, 5).left_with(&[0]);
    bench.split_in_vain(&[0]);
    let bench = bench.left_with(&[1]);
    let begun = bench.split_in_vain(&[1]);
    let bench = bench.left_with(&[0, 1]);
    for asked in ["pool", &begun.id] {
        assert_eq!(names(&bench.plan_split(asked).unwrap().disks), ["e0.0", "e1.0"]);
    }
    let new = bench.split(&bench.plan_split("pool").unwrap()).unwrap();
    bench.import_id("pool").unwrap();
    bench.until_with(&new.id, &["e0.0", "e1.0"]);
}

/// Nobody knows whether the disks that are gone made it a pool. Somebody says that they never will be back.
#[test]
fn what_may_have_been_made_is_left_all_the_same() {
    let bench = Bench::everywhere(1130, 5).left_with(&[0, 1]);
    let former = bench.split_in_vain(&[0, 1]).id;
    let three = Label {
        vote_disks: [0, 1, 1].map(|disk| label_on(&bench.disks[disk]).disk).to_vec(),
        ..label_on(&bench.disks[0])
    };
    let gone = [Uuid::from_u128(1), Uuid::from_u128(2)].map(DiskId);
    let label = Label { vote_disks: vec![three.disk, gone[0], gone[1]], ..three };
    bench.set_label(0, &label);
    let slots = bench.engine.reports().len();
    let bench = bench.left_with(&[0]);
    bench.pass(Duration::from_secs(60));
    for asked in ["pool", &former, &label.pool.to_string()] {
        let plan = bench.plan_split(asked).unwrap();
        assert_eq!((plan.id.as_str(), names(&plan.disks)), (former.as_str(), vec!["e0.0"]));
    }
    assert_eq!(bench.engine.reports().len(), slots.min(1), "whoever only asks leaves no trace");
    // The former pool doesn't take that by itself.
    let others =
        Bench::alone(1131, bench.disks.clone(), bench.executor.handle().now(), 1, Vec::new());
    [0, 2, 3, 4].iter().for_each(|disk| others.attach(&others.disks[*disk]));
    others.pass(Duration::from_secs(60));
    let now = others.executor.handle().now();
    others.import_id(&former).unwrap();
    others.until_with(&former, &["e2.0", "e3.0", "e4.0"]);
    assert_eq!(label_on(&bench.disks[0]), label);
    others.executor.clear();
    let bench =
        Bench::alone(1132, bench.disks.clone(), now + Duration::from_secs(60), 1, Vec::new());
    bench.attach(&bench.disks[0]);
    bench.pass(Duration::from_secs(5));
    let new = bench.split(&bench.plan_split("pool").unwrap()).unwrap();
    bench.import_id(&new.id).unwrap();
    bench.is_all_there(&new.id);
}

/// One disk of it was used since. So it was made, and is whose it is by its labels, whoever else is in sight.
#[test]
fn what_was_used_is_not_left_of_the_former_pool() {
    let bench = Bench::everywhere(1135, 5).left_with(&[0, 1]);
    let former = bench.split_in_vain(&[0, 1]).id;
    let gone = [Uuid::from_u128(1), Uuid::from_u128(2)].map(DiskId);
    for (disk, splits_from) in [(0, None), (1, Some(id(&former)))] {
        let label = label_on(&bench.disks[disk]);
        let vote_disks = vec![label_on(&bench.disks[0]).disk, gone[0], gone[1]];
        bench.set_label(disk, &Label { splits_from, vote_disks, ..label });
    }
    for seen in [&[0, 1][..], &[1, 0]] {
        let bench = Bench::alone(
            1136,
            bench.disks.clone(),
            Instant::from_nanos(9_000_000_000_000),
            1,
            Vec::new(),
        );
        seen.iter().for_each(|disk| bench.attach(&bench.disks[*disk]));
        bench.pass(Duration::from_secs(60));
        assert!(bench.plan_split(&former).is_err());
    }
}

#[test]
fn all_of_it_is_claimed_and_labelled_or_none() {
    let disk = |name: &str, node| TestDisk::new(name, node, 48 << 20);
    let disks = vec![disk("e0.0", 0), disk("e0.1", 0), disk("e1.0", 1)];
    let bench = Bench::with(1140, disks, Instant::from_nanos(1_000_000_000), 1);
    bench.create();
    let volume = bench.create_volume(4, Layout::Mirror(2));
    bench.write(&volume, 0, pattern(0, 100, 1)).unwrap();
    let bench = bench.left_with(&[0, 1]);
    let plan = bench.plan_split("pool").unwrap();
    let before = [0, 1].map(|disk| bench.disks[disk].image());
    bench.disks[1].refuses_claims.set(true);
    assert!(bench.split(&plan).is_err());
    bench.disks[1].refuses_claims.set(false);
    assert!([0, 1].map(|disk| bench.disks[disk].image()) == before);
    let new = bench.split(&plan).unwrap();
    let of_new = [0, 1].map(|disk| label_on(&bench.disks[disk]).pool == id(&new.id));
    assert_eq!(of_new, [true, true], "also what doesn't vote");

    // A disk of which the label can't be written takes no part: it would still say that it never did.
    let slots = DiskGeometry::label_slots(bench.disks[1].image().len() as u64);
    bench.disks[1].dead_sectors.borrow_mut().insert(slots[2].0, Dead::ToWrites);
    bench.import_id(&new.id).unwrap();
    bench.until_with(&new.id, &["e0.0"]);
    bench.pass(Duration::from_secs(30));
    assert!(label_on(&bench.disks[1]).splits_from.is_some());
    bench.until_with(&new.id, &["e0.0"]);
    bench.disks[1].dead_sectors.borrow_mut().clear();
    bench.until_with(&new.id, &["e0.0", "e0.1"]);
    bench.is_all_there(&new.id);
}

#[test]
fn nothing_is_split_that_can_be_opened_or_lacks_what_that_takes() {
    // A majority is there, but nobody asked for it to be opened.
    let bench = Bench::everywhere(1150, 5).left_with(&[0, 1]);
    let plan = bench.plan_split("pool").unwrap();
    let now = bench.executor.handle().now();
    bench.executor.clear();
    let bench = Bench::alone(1151, bench.disks.clone(), now, 1, Vec::new());
    [0, 1, 2].iter().for_each(|disk| bench.attach(&bench.disks[*disk]));
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.open_id(), None);
    let error = bench.plan_split("pool").unwrap_err().to_string();
    assert!(error.contains("nothing of it need be given up"), "{error}");
    assert!(bench.split(&plan).is_err());

    // No current copy.
    let bench = Bench::everywhere(1152, 5).left_with(&[0, 1]);
    let former = id(&bench.report().id);
    let newest = vote_on(&bench.disks[1], former).unwrap();
    let copies = [label_on(&bench.disks[4]).disk].into_iter().collect();
    let vote = Configuration { copies, number: newest.number.next(), ..newest };
    set_vote(&bench.disks[1], former, &vote);
    bench.pass(Duration::from_secs(60));
    let before = bench.disks[0].image();
    let error = bench.split(&bench.plan_split("pool").unwrap()).unwrap_err().to_string();
    assert!(error.contains("no current copy of its metadata"), "{error}");
    assert!(bench.disks[0].image() == before);
}
