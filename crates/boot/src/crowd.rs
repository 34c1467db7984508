//! Who has to go where all places are taken and another machine comes. Else whoever holds places, and takes just enough not
//! to be given up, keeps everybody else out.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use block::Instant;

/// How long somebody is watched before it is said how quick he is: who has just begun has taken nothing yet.
const WATCHED: Duration = Duration::from_secs(10);
/// After that he is watched anew, from when somebody asks: who was quick once needn't be quick now.
const ANEW: Duration = Duration::from_secs(30);
/// Who takes less is no machine that boots: with that an image takes an hour.
const LEAST_BYTES_PER_SECOND: u64 = 16 << 10;
/// How many times as many places a machine has to have as the one that comes would have, to lose one whatever it takes.
const TIMES_MORE: usize = 2;

/// How quickly somebody takes what he is sent.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    since: Instant,
    taken_bytes: u64,
    /// When he was watched before.
    bytes_per_second: Option<u64>,
}

impl Pace {
    /// He begins.
    pub fn begin(now: Instant) -> Pace {
        Pace { since: now, taken_bytes: 0, bytes_per_second: None }
    }

    /// How quick he is who has taken so much by now; none where that isn't known yet.
    pub fn bytes_per_second(&mut self, now: Instant, taken_bytes: u64) -> Option<u64> {
        let watched = now.since(self.since);
        if watched >= WATCHED {
            let millis = u64::try_from(watched.as_millis()).unwrap_or(u64::MAX);
            let taken = taken_bytes.saturating_sub(self.taken_bytes);
            self.bytes_per_second = Some(taken.saturating_mul(1000) / millis);
        }
        if watched >= ANEW {
            (self.since, self.taken_bytes) = (now, taken_bytes);
        }
        self.bytes_per_second
    }
}

/// Who has a place.
#[derive(Clone, Copy, Debug)]
pub struct Holder<I, M> {
    /// Which place.
    pub id: I,
    /// Which machine.
    pub machine: M,
    /// By its [`Pace`].
    pub bytes_per_second: Option<u64>,
}

/// Whose place goes to a machine that comes: of those that take next to nothing one that has the most; without any, of who
/// has much more than its share the slowest. None where all who are there are as good as the one that comes.
pub fn displaced<I: Copy, M: Ord>(comes: &M, holders: &[Holder<I, M>]) -> Option<I> {
    let mut counts: BTreeMap<&M, usize> = BTreeMap::new();
    for holder in holders {
        *counts.entry(&holder.machine).or_default() += 1;
    }
    let count = |machine: &M| counts.get(machine).copied().unwrap_or(0);
    let is_idle = |holder: &&Holder<I, M>| {
        holder.bytes_per_second.is_some_and(|rate| rate < LEAST_BYTES_PER_SECOND)
    };
    let share = TIMES_MORE * (count(comes) + 1);
    let is_greedy = |holder: &&Holder<I, M>| count(&holder.machine) > share;
    let worst = |holder: &&Holder<I, M>| {
        let rate = holder.bytes_per_second.unwrap_or(u64::MAX);
        (count(&holder.machine), Reverse(rate))
    };
    let idle = holders.iter().filter(is_idle).max_by_key(worst);
    idle.or_else(|| holders.iter().filter(is_greedy).max_by_key(worst)).map(|holder| holder.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Option<u64> = Some(1 << 30);
    const SLOW: Option<u64> = Some(LEAST_BYTES_PER_SECOND - 1);

    fn at(seconds: u64) -> Instant {
        Instant::default() + Duration::from_secs(seconds)
    }

    fn holder(id: usize, machine: usize, bytes_per_second: Option<u64>) -> Holder<usize, usize> {
        Holder { id, machine, bytes_per_second }
    }

    #[test]
    fn who_has_more_than_his_share_makes_room() {
        let mut holders: Vec<_> = (0..16).map(|id| holder(id, 1, QUICK)).collect();
        holders.push(holder(16, 2, QUICK));
        holders[7].bytes_per_second = Some(1 << 20);
        assert_eq!(displaced(&9, &holders), Some(7), "its slowest");
        // Another one of the same machine doesn't come by that.
        assert_eq!(displaced(&1, &holders), None);
        // Nor does it help to begin anew all the time.
        let new: Vec<_> = (0..16).map(|id| holder(id, id / 4, None)).collect();
        assert!(displaced(&9, &new).is_some());
    }

    #[test]
    fn who_takes_next_to_nothing_makes_room_and_who_takes_his_file_stays() {
        // Three machines behind one address are quick, and others hold two places each.
        let mut holders: Vec<_> = (0..8).map(|id| holder(id, id / 2, SLOW)).collect();
        holders.extend((8..11).map(|id| holder(id, 9, QUICK)));
        assert!(displaced(&99, &holders).is_some_and(|id| id < 8));
        holders[4].bytes_per_second = Some(7);
        assert_eq!(displaced(&99, &holders), Some(4));
        holders.retain(|holder| holder.bytes_per_second == QUICK);
        assert!(displaced(&99, &holders).is_some(), "it has more than its share");
        holders.truncate(2);
        assert_eq!(displaced(&99, &holders), None, "two places are no more than that");
        assert_eq!(displaced(&99, &[] as &[Holder<usize, usize>]), None);
    }

    #[test]
    fn who_was_quick_once_is_as_he_is_now() {
        let mut pace = Pace::begin(at(0));
        assert_eq!(pace.bytes_per_second(at(9), 1 << 30), None);
        assert_eq!(pace.bytes_per_second(at(10), 10 << 20), Some(1 << 20));
        assert_eq!(pace.bytes_per_second(at(40), 40 << 20), Some(1 << 20));
        assert_eq!(pace.bytes_per_second(at(45), 40 << 20), Some(1 << 20), "not known yet");
        assert_eq!(pace.bytes_per_second(at(50), 40 << 20), Some(0));
    }
}
