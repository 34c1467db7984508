//! What a disk makes of a discard.

use std::time::Duration;

use block::{BLOCK_SECTORS, Durability, Operation, SECTOR_BYTES, SectorRange};
use rand::Rng;

use super::service::Job;
use super::{Disk, Due, Performed};
use crate::steps::{Effect, Kind};

impl Disk {
    /// No discard that comes meanwhile is done or answered before that; all else is.
    pub fn stick_discards_for(&self, duration: Duration) {
        self.story.tell(&self.name, &format!("answers no discard for {duration:?}"));
        self.discards_stuck_until.set(self.timeline.now() + duration);
    }

    pub(super) fn are_discards_stuck(&self) -> bool {
        self.discards_stuck_until.get() > self.timeline.now()
    }

    /// When an operation is answered.
    pub(super) fn due_of(&self, operation: &Operation) -> Due {
        match (self.due(Job::of(operation)), operation) {
            (Due::After(latency), Operation::Discard(_)) => {
                let stuck = self.discards_stuck_until.get().since(self.timeline.now());
                Due::After(latency.max(stuck))
            }
            (due, _) => due,
        }
    }

    /// What is read afterwards is undefined until it is written: of each part, by luck, what was there, zeros or
    /// rubbish. It is as volatile as any write, so a power cut may leave some of it and some of what was there, and
    /// one that comes between call and answer may make it late.
    pub(super) fn execute_discard(&self, range: SectorRange) -> Performed {
        let effect = self.timeline.steps().take(Kind::Write, &self.name);
        if effect == Effect::Nothing {
            return Performed::Never;
        }
        let number = self.next_write.get();
        self.next_write.set(number + 1);
        self.count(|counters| counters.discarded_bytes += range.len_bytes());
        let end =
            range.start.0 + if effect == Effect::Half { range.count / 2 } else { range.count };
        let luck = |below: u64| self.random.borrow_mut().random_range(0..below);
        let longest_blocks = [4, 64, u64::MAX / BLOCK_SECTORS][luck(3) as usize];
        let mut at = range.start.0;
        while at < end {
            let left_blocks = (end - at).div_ceil(BLOCK_SECTORS);
            let part_end = at - at % BLOCK_SECTORS
                + BLOCK_SECTORS * (1 + luck(longest_blocks.min(left_blocks)));
            let count = part_end.min(end) - at;
            match luck(4) {
                0 => {}
                1 => {
                    let rubbish = self.random.borrow_mut().random::<[u8; SECTOR_BYTES]>();
                    self.put(number, at, &rubbish.repeat(count as usize));
                }
                _ => self.put(number, at, &vec![0; count as usize * SECTOR_BYTES]),
            }
            at += count;
        }
        Performed::Written { number, at: range, durability: Durability::Volatile }
    }
}
