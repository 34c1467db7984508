//! Who votes: one list of disks, or two while one gives way to the other. While there are two, whatever needs
//! a majority needs one of each, so that whoever knows only the one can't decide without who knows the other.

use super::DiskId;

/// Disks that vote, at most, in one list.
pub const VOTE_DISKS_MAX: usize = 5;

/// The pool's voters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Voters {
    /// Those that count.
    pub now: Vec<DiskId>,
    /// Those that are to take their place, while that is under way: they count as well.
    pub next: Option<Vec<DiskId>>,
}

impl Voters {
    /// One list.
    pub fn of(now: Vec<DiskId>) -> Voters {
        Voters { now, next: None }
    }

    /// The lists of which each counts.
    pub fn lists(&self) -> impl Iterator<Item = &[DiskId]> {
        [Some(&self.now), self.next.as_ref()].into_iter().flatten().map(Vec::as_slice)
    }

    /// All that are on a list, each once.
    pub fn all(&self) -> Vec<DiskId> {
        let mut all = self.now.clone();
        let next = self.next.iter().flatten();
        all.extend(next.filter(|disk| !self.now.contains(disk)));
        all
    }

    /// Whether a disk is on a list.
    pub fn contains(&self, disk: DiskId) -> bool {
        self.lists().any(|list| list.contains(&disk))
    }

    /// Whether those that `are` are a majority of each list.
    pub fn is_majority(&self, are: impl Fn(DiskId) -> bool) -> bool {
        self.lists().all(|list| has_majority(list, &are))
    }

    /// Whether those that `are` are a majority of some list: without them nothing has one.
    pub fn is_blocked(&self, are: impl Fn(DiskId) -> bool) -> bool {
        self.lists().any(|list| has_majority(list, &are))
    }
}

/// The list in which those that `are` are fewest beyond a majority.
pub fn poorest<'a>(
    lists: impl Iterator<Item = &'a [DiskId]>,
    are: impl Fn(DiskId) -> bool,
) -> &'a [DiskId] {
    let beyond = |list: &&[DiskId]| {
        let count = list.iter().filter(|disk| are(**disk)).count();
        count as isize - majority_of(list) as isize
    };
    lists.min_by_key(beyond).unwrap_or_default()
}

/// Whether those of a list that `are` are a majority of it.
pub(crate) fn has_majority(list: &[DiskId], are: impl Fn(DiskId) -> bool) -> bool {
    list.iter().filter(|disk| are(**disk)).count() >= majority_of(list)
}

/// How many of a list are a majority.
pub fn majority_of(list: &[DiskId]) -> usize {
    list.len() / 2 + 1
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn disks(numbers: &[u128]) -> Vec<DiskId> {
        numbers.iter().map(|number| DiskId(Uuid::from_u128(*number))).collect()
    }

    #[test]
    fn two_lists_need_a_majority_of_each() {
        let voters = Voters { now: disks(&[1, 2, 3]), next: Some(disks(&[1, 4, 5])) };
        let are = |numbers: &'static [u128]| {
            let disks = disks(numbers);
            move |disk: DiskId| disks.contains(&disk)
        };
        assert_eq!(voters.all(), disks(&[1, 2, 3, 4, 5]));
        assert!(voters.is_majority(are(&[1, 2, 4])) && !voters.is_majority(are(&[1, 2, 3])));
        assert!(!voters.is_majority(are(&[1, 4, 5])) && voters.is_majority(are(&[2, 3, 4, 5])));
        assert!(voters.is_blocked(are(&[2, 3])) && !voters.is_blocked(are(&[3, 4])));
        assert_eq!(poorest(voters.lists(), are(&[1, 2, 3])), disks(&[1, 4, 5]));
        assert!(!Voters::default().is_majority(|_| true), "nobody is no majority");
    }
}
