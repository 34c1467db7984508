//! Who has to go where all places are taken and another machine comes. Else whoever holds places, and takes just enough not
//! to be given up, keeps everybody else out.

use std::collections::BTreeMap;
use std::time::Duration;

use block::Instant;

/// How long nobody is asked to go: who has just begun has taken nothing yet.
const GRACE: Duration = Duration::from_secs(10);
/// Who takes less is no machine that boots: with that an image takes more than an hour.
const LEAST_BYTES_PER_SECOND: u64 = 16 << 10;
/// How many times as many places a machine has to have as the one that comes would have, to lose one whatever it takes.
const TIMES_MORE: usize = 2;

/// Who has a place.
#[derive(Clone, Copy, Debug)]
pub struct Holder<I, M> {
    /// Which place.
    pub id: I,
    /// Which machine.
    pub machine: M,
    /// Since when.
    pub since: Instant,
    /// What it has taken so far.
    pub taken_bytes: u64,
}

/// Whose place goes to a machine that comes: of who has the most the slowest, where that is more than its share; else of
/// all the slowest, if it takes next to nothing. None where all who are there are as good as the one that comes.
pub fn displaced<I, M: Ord>(now: Instant, comes: &M, holders: &[Holder<I, M>]) -> Option<I>
where
    I: Copy,
{
    let mut counts: BTreeMap<&M, usize> = BTreeMap::new();
    for holder in holders {
        *counts.entry(&holder.machine).or_default() += 1;
    }
    let count = |machine: &M| counts.get(machine).copied().unwrap_or(0);
    let rate = |holder: &Holder<I, M>| {
        let millis = u64::try_from(now.since(holder.since).as_millis()).unwrap_or(u64::MAX);
        holder.taken_bytes.saturating_mul(1000) / millis.max(1)
    };
    let settled = || holders.iter().filter(|holder| now.since(holder.since) >= GRACE);
    let share = TIMES_MORE * (count(comes) + 1);
    let greedy = settled().filter(|holder| count(&holder.machine) > share);
    let most =
        greedy.max_by_key(|holder| (count(&holder.machine), std::cmp::Reverse(rate(holder))));
    let idle = || settled().filter(|holder| rate(holder) < LEAST_BYTES_PER_SECOND);
    most.or_else(|| idle().min_by_key(|holder| rate(holder))).map(|holder| holder.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::default() + Duration::from_secs(seconds)
    }

    fn holder(id: usize, machine: u32, since: u64, taken_bytes: u64) -> Holder<usize, u32> {
        Holder { id, machine, since: at(since), taken_bytes }
    }

    #[test]
    fn who_has_more_than_his_share_makes_room_first() {
        let mut holders: Vec<_> = (0..16).map(|id| holder(id, 1, 0, 1 << 30)).collect();
        holders.push(holder(16, 2, 0, 0));
        holders[7].taken_bytes = 1 << 20;
        assert_eq!(displaced(at(20), &9, &holders), Some(7), "its slowest");
        assert_eq!(displaced(at(9), &9, &holders), None, "nobody has had his time yet");
        // The same one gets none of its own by that.
        assert_eq!(displaced(at(20), &1, &holders), Some(16));
    }

    #[test]
    fn who_takes_next_to_nothing_makes_room_and_who_takes_his_file_stays() {
        let slow = |seconds: u64| seconds * (LEAST_BYTES_PER_SECOND - 1);
        let quick = |seconds: u64| seconds * LEAST_BYTES_PER_SECOND;
        let mut holders: Vec<_> = (0..9).map(|id| holder(id, id as u32, 0, quick(50))).collect();
        assert_eq!(displaced(at(50), &99, &holders), None);
        holders[4].taken_bytes = slow(50);
        holders[5].taken_bytes = slow(50) / 2;
        assert_eq!(displaced(at(50), &99, &holders), Some(5));
        holders[5].since = at(41);
        assert_eq!(displaced(at(50), &99, &holders), Some(4));
        assert_eq!(displaced(at(50), &99, &[] as &[Holder<usize, u32>]), None);
    }

    /// Two places of one machine that boots are no more than its share.
    #[test]
    fn a_machine_with_two_places_keeps_both() {
        let holders: Vec<_> = (0..8).map(|id| holder(id, id as u32 / 2, 0, 1 << 30)).collect();
        assert_eq!(displaced(at(50), &99, &holders), None);
    }
}
