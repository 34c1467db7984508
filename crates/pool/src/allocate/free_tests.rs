#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::format::ExtentNumber;

/// The plain form of a space: whatever is asked is found by looking at everything.
#[derive(Clone)]
struct Plain {
    disks: BTreeMap<DiskNumber, FreeDisk>,
    kept: BTreeMap<Uuid, u64>,
}

impl Plain {
    fn domains(&self) -> BTreeMap<Uuid, u64> {
        let mut domains: BTreeMap<Uuid, u64> = BTreeMap::new();
        for disk in self.disks.values() {
            *domains.entry(disk.domain).or_default() += u64::from(disk.free.len());
        }
        for (domain, free) in &mut domains {
            *free = free.saturating_sub(self.kept.get(domain).copied().unwrap_or(0));
        }
        domains
    }

    fn candidates(&self, run: u32, refused: &Refused) -> Vec<(DiskNumber, u64, u64)> {
        let domains = self.domains();
        let disks = self.disks.iter().filter(|(number, disk)| {
            refused.accepts(**number, disk.domain)
                && domains[&disk.domain] >= u64::from(run)
                && disk.free.first_fit(run).is_some()
        });
        let disks = disks
            .map(|(number, disk)| (*number, domains[&disk.domain], u64::from(disk.free.len())));
        disks.collect()
    }

    fn choose(
        &self,
        choice: Choice,
        run: u32,
        refused: &Refused,
        cost: impl Fn(DiskNumber) -> u64,
    ) -> Option<DiskNumber> {
        let mut candidates = self.candidates(run, refused);
        let most = candidates.iter().copied();
        let (most, most_left, most_free) =
            most.max_by_key(|(number, left, free)| (*left, *free, Reverse(*number)))?;
        if choice == Choice::MostFree {
            return Some(most);
        }
        let is_about = |free: u64, most: u64| free + most / 8 >= most;
        candidates.retain(|(_, left, free)| match choice {
            Choice::AnyDomain => *free >= most_free / 2,
            _ => is_about(*left, most_left) && is_about(*free, most_free),
        });
        let cheapest = candidates
            .into_iter()
            .min_by_key(|(number, left, free)| (cost(*number), Reverse((*left, *free)), *number));
        cheapest.map(|(number, ..)| number)
    }

    fn groups_left(&self, copies: u64) -> u64 {
        let domains = self.domains();
        let holds = |groups: u64| {
            domains.values().map(|free| (*free).min(groups)).sum::<u64>() >= groups * copies
        };
        let all: u64 = domains.values().sum();
        (0..=all / copies).rev().find(|groups| holds(*groups)).unwrap()
    }
}

/// What may not be taken.
struct Refused {
    domains: BTreeSet<Uuid>,
    disks: BTreeSet<DiskNumber>,
}

impl Refused {
    fn accepts(&self, number: DiskNumber, domain: Uuid) -> bool {
        !self.domains.contains(&domain) && !self.disks.contains(&number)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Take { disk: u32, count: u32, from_end: bool },
    TakeAt { disk: u32, first: u32, count: u32 },
    GiveBack { disk: u32, first: u32, count: u32 },
    Keep(Vec<(u8, u64)>),
}

fn steps() -> impl Strategy<Value = Step> {
    let range = || (0_u32..12, 0_u32..40, 1_u32..9);
    prop_oneof![
        (0_u32..12, 1_u32..9, any::<bool>()).prop_map(|(disk, count, from_end)| Step::Take {
            disk,
            count,
            from_end
        }),
        range().prop_map(|(disk, first, count)| Step::TakeAt { disk, first, count }),
        range().prop_map(|(disk, first, count)| Step::GiveBack { disk, first, count }),
        prop::collection::vec((0_u8..6, 0_u64..60), 0..6).prop_map(Step::Keep),
    ]
}

fn domain(number: u8) -> Uuid {
    Uuid::from_u128(number.into())
}

proptest! {
    /// What is kept in order chooses as looking at everything does, whatever was taken, given back and kept before.
    #[test]
    fn choices_are_those_of_looking_at_everything(
        // Few sizes, so that disks and domains are as large as each other.
        disks in prop::collection::vec((0_u8..6, 0_u32..4), 1..12),
        steps in prop::collection::vec(steps(), 0..30),
        refused in prop::collection::vec((0_u8..6, 0_u32..12), 0..3),
        costs in prop::collection::vec(0_u64..3, 12),
        choice in prop_oneof![
            Just(Choice::MostFree), Just(Choice::AboutMostFree), Just(Choice::AnyDomain)
        ],
        run in 1_u32..6,
    ) {
        let known = disks.iter().zip(0..).map(|((of, size), number)| {
            (DiskNumber(number), domain(*of), ExtentSet::full(size * 12))
        });
        let mut space = Space::of(known.clone());
        let plain = known.map(|(number, domain, free)| (number, FreeDisk { domain, free }));
        let mut plain = Plain { disks: plain.collect(), kept: BTreeMap::new() };
        let refused = Refused {
            domains: refused.iter().skip(1).map(|(of, _)| domain(*of)).collect(),
            disks: refused.iter().map(|(_, disk)| DiskNumber(*disk)).collect(),
        };
        let cost = |disk: DiskNumber| costs[disk.0 as usize] + 1;
        // None is cheaper, and some of these aren't as cheap as any.
        let least = costs.iter().take(disks.len()).min().unwrap() + 1;
        for step in steps {
            match step {
                Step::Take { disk, count, from_end } => {
                    let disk = DiskNumber(disk);
                    let taken = match from_end {
                        true => space.take_last(disk, count),
                        false => space.take_first(disk, count),
                    };
                    if let Some(plain) = plain.disks.get_mut(&disk) {
                        let fit = match from_end {
                            true => plain.free.last_fit(count),
                            false => plain.free.first_fit(count),
                        };
                        prop_assert_eq!(taken, fit);
                        fit.map(|fit| plain.free.remove(fit));
                    }
                }
                Step::TakeAt { disk, first, count } => {
                    let extents = ExtentRange::new(ExtentNumber(first), count);
                    space.take(DiskNumber(disk), extents);
                    plain.disks.get_mut(&DiskNumber(disk)).map(|disk| disk.free.remove(extents));
                }
                Step::GiveBack { disk, first, count } => {
                    let extents = ExtentRange::new(ExtentNumber(first), count);
                    space.give_back(DiskNumber(disk), extents);
                    plain.disks.get_mut(&DiskNumber(disk)).map(|disk| disk.free.insert(extents));
                }
                Step::Keep(kept) => {
                    plain.kept = kept.into_iter().map(|(of, count)| (domain(of), count)).collect();
                    space.keep(plain.kept.clone());
                }
            }
            prop_assert_eq!(space.domains(), plain.domains());
            for copies in 1..4 {
                prop_assert_eq!(space.groups_left(copies), plain.groups_left(copies.into()));
            }
            let accept = |number, domain| refused.accepts(number, domain);
            let chosen = plain.choose(choice, run, &refused, cost);
            prop_assert_eq!(space.choose(choice, run, accept, cost, least), chosen);
            // The bound only saves looking.
            prop_assert_eq!(space.choose(choice, run, accept, cost, 0), chosen);
            let most = plain.choose(Choice::MostFree, run, &refused, cost);
            prop_assert_eq!(space.most_free(run, accept), most);
            let candidates = plain.candidates(run, &refused);
            for disk in plain.disks.keys() {
                let fits = candidates.iter().any(|(number, ..)| number == disk);
                prop_assert_eq!(space.fits(*disk, run, accept), fits);
            }
            for of in plain.domains().into_keys() {
                let domains = plain.domains().into_keys().filter(|other| *other != of).collect();
                let others = Refused { domains, disks: BTreeSet::new() };
                let most = plain.choose(Choice::MostFree, run, &others, cost);
                prop_assert_eq!(space.most_free_in(of, run, |_| 0, 0), most);
            }
        }
    }
}
