use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::format::{ExtentNumber, GenerationId};
use crate::metadata::{Incoming, Member};

fn member(disk: u32) -> Member {
    Member { disk: DiskNumber(disk), first: ExtentNumber(0) }
}

fn run(first_set: u64, disks: &BTreeSet<u32>, incoming: Option<u32>) -> GroupRun {
    GroupRun {
        key: RunKey { lane: 0, first_set },
        count: 1 + first_set as u32,
        generation: GenerationId(1 + first_set),
        members: disks.iter().copied().map(member).collect(),
        incoming: incoming.map(|disk| Incoming { position: 0, member: member(disk) }),
        roots: Roots::default(),
    }
}

proptest! {
    /// What is kept is what counting all of them gives, also of clones taken on the way.
    #[test]
    fn what_is_kept_is_what_is_counted(
        steps in prop::collection::vec(
            (0_u64..6, prop::collection::btree_set(0_u32..5, 1..3), prop::option::of(5_u32..8), any::<bool>()),
            0..24,
        ),
    ) {
        let mut runs = Runs::default();
        let mut kept = vec![runs.clone()];
        for (first_set, disks, incoming, is_removed) in steps {
            let one = run(first_set, &disks, incoming);
            let before = runs.clone();
            match is_removed {
                true => runs.remove(&one.key),
                false => runs.insert(one),
            }
            prop_assert!(!runs.places().is_same(before.places()) || runs == before);
            kept.push(runs.clone());
        }
        for runs in kept {
            let moving: Vec<_> = runs.values().filter(|run| run.incoming.is_some()).collect();
            prop_assert_eq!(runs.moving().collect::<Vec<_>>(), moving);
            let holders = runs.values().flat_map(|run| run.holders()).map(|member| member.disk);
            let disks: BTreeSet<DiskNumber> = holders.collect();
            prop_assert_eq!(runs.disks().collect::<BTreeSet<_>>(), disks.clone());
            let mut by_copies = BTreeMap::new();
            for run in runs.values() {
                *by_copies.entry(run.members.len()).or_insert(0) += u64::from(run.count);
            }
            prop_assert_eq!(runs.groups_by_copies().collect::<BTreeMap<_, _>>(), by_copies);
            let on_disks: BTreeMap<DiskNumber, u64> = runs.groups_on_disks().collect();
            for disk in (0..8).map(DiskNumber) {
                prop_assert_eq!(runs.is_on(disk), disks.contains(&disk));
                let of = runs.values().filter(|run| run.position_on(disk).is_some());
                let groups: u64 = of.map(|run| u64::from(run.count)).sum();
                prop_assert_eq!(on_disks.get(&disk).copied().unwrap_or(0), groups);
                prop_assert_eq!(runs.groups_on(disk), groups);
            }
        }
    }
}

#[test]
fn roots_say_nothing_about_places() {
    let mut runs = Runs::default();
    runs.insert(run(0, &[1, 2].into(), None));
    let before = runs.clone();
    let roots = runs.roots_mut(&RunKey { lane: 0, first_set: 0 });
    assert!(roots.is_some_and(|roots| {
        roots.extend([7]);
        roots.len() == 1
    }));
    assert!(runs.places().is_same(before.places()));
    assert!(runs != before);
}
