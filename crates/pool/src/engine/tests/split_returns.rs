//! What a split that was cut short left comes back disk by disk, in any order, and the former pool begins anew after each.

use std::time::Duration;

use super::super::testing::Bench;
use super::split::findings;
use super::split_faults::{id, label_on};
use crate::format::{DiskId, Label, PoolId};

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
