//! What a split that was cut short left comes back disk by disk, in any order, and the former pool begins anew after each.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use block::Epoch;

use super::super::NamedDisks;
use super::super::testing::{Bench, Mode, TestDisk};
use super::split::findings;
use super::split_faults::{id, label_on, set_vote, vote_on};
use crate::error::PoolError;
use crate::forecast::OnlineForecast;
use crate::format::{Configuration, DiskGeometry, DiskId, Label, PoolId, Voters};
use crate::report::DiskState;

/// Six machines of which three are left, two with a vote, and of which the split got as far as its labels; the pool,
/// the new one, and those left: the one without a vote last. With `three` it votes in the new pool all the same.
fn labelled_only(seed: u64, three: bool) -> (Bench, String, PoolId, [usize; 3]) {
    let bench = Bench::everywhere(seed, 6);
    let former = bench.report().id;
    let voters = label_on(&bench.disks[0]).vote_disks;
    let votes = |disk: &usize| voters.contains(&label_on(&bench.disks[*disk]).disk);
    let (voting, mute): (Vec<usize>, Vec<usize>) = (0..6).partition(votes);
    let left = [voting[3], voting[4], mute[0]];
    let bench = bench.left_with(&left);
    bench.split_in_vain(&left);
    let new = label_on(&bench.disks[left[2]]).pool;
    assert_ne!(new, id(&former));
    if three {
        let vote_disks: Vec<DiskId> = left.map(|disk| label_on(&bench.disks[disk]).disk).into();
        for disk in left {
            let vote_disks = vote_disks.clone();
            bench.set_label(disk, &Label { vote_disks, ..label_on(&bench.disks[disk]) });
        }
    }
    (bench, former, new, left)
}

/// Those of the six that aren't left, and these.
fn back(left: &[usize; 3], returned: &[usize]) -> Vec<usize> {
    let stayed = (0..6).filter(|disk| !left.contains(disk));
    stayed.chain(returned.iter().copied()).collect()
}

fn all_in(bench: &Bench, former: &str) {
    let all: Vec<String> = bench.disks.iter().map(|disk| disk.name.clone()).collect();
    bench.until_with(former, &all.iter().map(String::as_str).collect::<Vec<_>>());
    bench.is_all_there(former);
    for disk in &bench.disks {
        let label = label_on(disk);
        assert_eq!((label.pool, label.splits_from), (id(former), None), "{}", disk.name);
    }
    assert_eq!(findings(&bench.disks), Vec::<String>::new());
}

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// The former pool is open each time before the next one is there.
fn return_in(bench: Bench, former: &str, left: &[usize; 3], order: [usize; 3]) {
    // Its epoch is above that of the split by then.
    let mut bench = bench.left_with(&back(left, &[]));
    bench.import_id(former).unwrap();
    for _ in 0..3 {
        bench = bench.left_with(&back(left, &[]));
    }
    let mut there = Vec::new();
    for next in order {
        bench.attach(&bench.disks[left[next]]);
        bench.pass(Duration::from_secs(15));
        there.push(left[next]);
        let seen = back(left, &there);
        bench = bench.left_with(&seen);
        assert_eq!(bench.open_id().as_deref(), Some(former), "{order:?}");
    }
    all_in(&bench, former);
}

#[test]
fn what_was_cut_short_after_the_labels_is_had_back_in_any_order() {
    for (nth, order) in ORDERS.into_iter().enumerate() {
        for three in [false, true] {
            let (bench, former, _, left) = labelled_only(1200 + nth as u64, three);
            return_in(bench, &former, &left, order);
        }
    }
}

/// One comes after the others were taken back, with a restart between: the voters say nothing of the new pool any more.
#[test]
fn one_that_was_off_meanwhile_is_had_back() {
    for three in [false, true] {
        for late in 0..3 {
            let (bench, former, _, left) = labelled_only(1210, three);
            let others: Vec<usize> =
                left.iter().copied().filter(|disk| *disk != left[late]).collect();
            let seen = back(&left, &others);
            let bench = bench.left_with(&seen);
            bench.import_id(&former).unwrap();
            bench.pass(Duration::from_secs(15));
            // The others' return can't be seen by what is left of them once these are off as well.
            let bench = bench.left_with(&back(&left, &[]));
            bench.attach(&bench.disks[left[late]]);
            bench.pass(Duration::from_secs(15));
            let label = label_on(&bench.disks[left[late]]);
            assert_eq!((label.pool, label.splits_from), (id(&former), None), "{three} {late}");
        }
    }
}

/// The labels were to be written back, and one disk didn't answer.
#[test]
fn one_whose_label_was_not_written_back_is_had_back() {
    for (nth, order) in ORDERS.into_iter().enumerate() {
        for late in 0..3 {
            let (bench, former, _, left) = labelled_only(1220 + nth as u64, false);
            let of_former = label_on(&bench.disks[back(&left, &[])[0]]);
            for disk in left.into_iter().filter(|disk| *disk != left[late]) {
                let label = label_on(&bench.disks[disk]);
                let (pool, vote_disks) = (of_former.pool, of_former.vote_disks.clone());
                bench.set_label(disk, &Label { pool, splits_from: None, vote_disks, ..label });
            }
            return_in(bench, &former, &left, order);
        }
    }
}

/// The first configuration of the new pool, as the disks that are left would show it.
fn first_vote(bench: &Bench, former: &str, left: &[usize; 3]) -> Configuration {
    let voters = Voters::of(label_on(&bench.disks[left[2]]).vote_disks);
    let newest = vote_on(&bench.disks[left[0]], id(former)).unwrap();
    let copies = newest.copies.iter().filter(|copy| voters.contains(**copy)).copied().collect();
    Configuration { epoch: Epoch(newest.epoch.0 + 1), voters, copies, released: true, ..newest }
}

/// Whoever splits it is just done when the former pool claims it: what was seen before says nothing.
#[test]
fn a_vote_that_came_before_the_claim_counts() {
    for (three, open) in [(false, false), (false, true), (true, false), (true, true)] {
        let (bench, former, new, left) = labelled_only(1230, three);
        let vote = first_vote(&bench, &former, &left);
        let voting = &left[..if three { 3 } else { 2 }];
        let mut bench = bench.left_with(&back(&left, &[]));
        bench.import_id(&former).unwrap();
        for _ in 0..3 {
            bench = bench.left_with(&back(&left, &[]));
        }
        if !open {
            bench = bench.left_with(&[]);
        }
        let before = left.map(|disk| label_on(&bench.disks[disk]));
        for disk in voting {
            let (disk, vote) = (Rc::clone(&bench.disks[*disk]), vote.clone());
            let at = Rc::clone(&disk);
            *disk.before_claim.borrow_mut() = Some(Box::new(move || set_vote(&at, new, &vote)));
        }
        let seen = if open { left.to_vec() } else { back(&left, &left) };
        seen.iter().for_each(|disk| bench.attach(&bench.disks[*disk]));
        bench.pass(Duration::from_secs(60));
        let stayed: Vec<String> =
            back(&left, &[]).iter().map(|disk| format!("e{disk}.0")).collect();
        bench.until_with(&former, &stayed.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(left.map(|disk| label_on(&bench.disks[disk])), before, "{three} {open}");
        let shown = voting.iter().filter(|disk| vote_on(&bench.disks[**disk], new).is_some());
        assert!(shown.count() > voting.len() / 2, "{three} {open}");
        // It can be opened, with all that it has.
        let bench = bench.left_with(&left);
        let other = bench.other(2).left_with(&left);
        other.pass(Duration::from_secs(60));
        other.import_id(&new.to_string()).unwrap();
        other.is_all_there(&new.to_string());
    }
}

/// It names yet another pool by the time it is claimed.
#[test]
fn what_was_split_anew_before_the_claim_is_not_taken_back() {
    let (bench, former, _, left) = labelled_only(1240, false);
    let mut bench = bench.left_with(&back(&left, &[]));
    bench.import_id(&former).unwrap();
    for _ in 0..3 {
        bench = bench.left_with(&back(&left, &[]));
    }
    let (at, label) = (Rc::clone(&bench.disks[left[0]]), label_on(&bench.disks[left[0]]));
    let again = Label { pool: PoolId(uuid::Uuid::from_u128(5)), vote_disks: Vec::new(), ..label };
    let (then, now) = (again.clone(), again);
    let happens = move || write_label(&at, &then);
    *bench.disks[left[0]].before_claim.borrow_mut() = Some(Box::new(happens));
    bench.attach(&bench.disks[left[0]]);
    bench.pass(Duration::from_secs(60));
    assert_eq!(label_on(&bench.disks[left[0]]), now);
}

fn write_label(disk: &TestDisk, label: &Label) {
    let slots = DiskGeometry::label_slots(label.geometry.labelled_bytes());
    for (slot, at) in slots.into_iter().enumerate() {
        disk.overwrite(at, &label.encode(20 + slot as u64 % 2, slot));
    }
}

/// Whose a disk became while it was away isn't fenced by who had it.
#[test]
fn a_disk_that_became_anothers_while_it_was_away_is_not_claimed() {
    let bench = Bench::everywhere(1250, 3);
    let former = bench.report().id;
    bench.set_mode(2, Mode::Lost);
    bench.pass(Duration::from_secs(30));
    let label = label_on(&bench.disks[2]);
    let new = PoolId(uuid::Uuid::from_u128(5));
    write_label(&bench.disks[2], &Label { pool: new, ..label });
    let claimed = Rc::new(Cell::new(false));
    let claims = Rc::clone(&claimed);
    *bench.disks[2].before_claim.borrow_mut() = Some(Box::new(move || claims.set(true)));
    bench.set_mode(2, Mode::Well);
    bench.pass(Duration::from_secs(60));
    assert!(!claimed.get());
    bench.until_with(&former, &["e0.0", "e1.0"]);
}

impl Bench {
    fn take_back(
        &self,
        pool: &str,
        disk: &str,
        dry_run: bool,
    ) -> Result<OnlineForecast, PoolError> {
        let (engine, pool) = (Rc::clone(&self.engine), pool.to_owned());
        let request = NamedDisks { disks: vec![disk.to_owned()], dry_run, from_split: true };
        self.run(async move { engine.online_disks(&pool, &request).await })
    }
}

/// Its voters never come back.
#[test]
fn one_of_which_nobody_knows_is_had_back_by_word() {
    let (bench, former, new, left) = labelled_only(1260, false);
    let vote = first_vote(&bench, &former, &left);
    let mut bench = bench.left_with(&back(&left, &[]));
    bench.import_id(&former).unwrap();
    for _ in 0..3 {
        bench = bench.left_with(&back(&left, &[]));
    }
    bench.attach(&bench.disks[left[2]]);
    bench.pass(Duration::from_secs(60));
    let (label, name) = (label_on(&bench.disks[left[2]]), bench.disks[left[2]].name.clone());
    assert_eq!(label.pool, new);
    let reports = bench.engine.reports();
    let report = reports.iter().find(|report| report.id == former).unwrap();
    let shown = report.disks.iter().find(|disk| disk.id == label.disk.to_string()).unwrap();
    let DiskState::Refused { why } = &shown.state else { panic!("{shown:?}") };
    assert!(why.contains("--from-split") && why.contains(&new.to_string()), "{why}");
    // A disk that nobody split, and one of a pool that was made.
    assert!(bench.take_back(&former, "e0.0", false).is_err());
    let plan = bench.take_back(&former, &shown.id, true).unwrap();
    assert_eq!(plan.disks, std::slice::from_ref(&name));
    assert_eq!(label_on(&bench.disks[left[2]]), label);
    let images = [0, 1].map(|disk| bench.disks[left[disk]].image());
    left[..2].iter().for_each(|disk| set_vote(&bench.disks[*disk], new, &vote));
    left[..2].iter().for_each(|disk| bench.attach(&bench.disks[*disk]));
    bench.pass(Duration::from_secs(60));
    let error = bench.take_back(&former, &shown.id, false).unwrap_err().to_string();
    assert!(error.contains("was made"), "{error}");
    let bench = bench.left_with(&back(&left, &left[2..]));
    bench.take_back(&former, &shown.id, false).unwrap();
    bench.pass(Duration::from_secs(30));
    let label = label_on(&bench.disks[left[2]]);
    assert_eq!((label.pool, label.splits_from), (id(&former), None));
    bench.is_all_there(&former);
    // The others, without a vote, come back by what was said.
    [0, 1].iter().for_each(|disk| bench.disks[left[*disk]].set_image(&images[*disk]));
    return_in(bench, &former, &left, [1, 0, 2]);
}

#[test]
fn the_plan_names_what_was_begun_before() {
    let (bench, _, new, left) = labelled_only(1280, false);
    let plan = bench.plan_split("pool").unwrap();
    let names = left.map(|disk| format!("{} ({new})", bench.disks[disk].name));
    let mut begun = plan.begun;
    begun.sort();
    let mut names = names.to_vec();
    names.sort();
    assert_eq!(begun, names);
}
