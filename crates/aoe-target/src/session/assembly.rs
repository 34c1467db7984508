//! Commands whose data comes in fragments, until all of it is there. What they hold is lent to them, by
//! their session and by the target, and goes back with them however they end.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use aoe_wire::{SectorMap, SessionRequest};
use block::{BLOCK_BYTES, Buffer, BufferMut, Instant, SECTOR_BYTES};

/// What incomplete commands of one session may hold: several times what a client has on its way.
pub(crate) const SESSION_BYTES_MAX: u64 = 8 << 20;
/// What those of all sessions of a target may hold.
pub(crate) const TARGET_BYTES_MAX: u64 = 64 << 20;
/// Where memory is wanted, commands go of which nothing new has come for so long: their client has given them
/// up, or the target.
pub(crate) const STALE_AFTER: Duration = Duration::from_secs(1);
/// What an incomplete command takes beside its data.
const OVERHEAD_BYTES: u64 = 1024;

/// Memory of which parts are lent.
pub(crate) struct Budget {
    left: Cell<u64>,
}

/// A part of it, given back when dropped.
struct Loan {
    budget: Rc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Rc<Budget> {
        Rc::new(Budget { left: Cell::new(bytes) })
    }

    fn lend(self: &Rc<Budget>, bytes: u64) -> Option<Loan> {
        self.left.set(self.left.get().checked_sub(bytes)?);
        Some(Loan { budget: Rc::clone(self), bytes })
    }

    #[cfg(test)]
    pub(crate) fn left(&self) -> u64 {
        self.left.get()
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.budget.left.set(self.budget.left.get() + self.bytes);
    }
}

/// A command of which fragments are missing.
pub(crate) struct Assembly {
    /// As its first fragment had it.
    request: SessionRequest,
    missing: SectorMap,
    data: BufferMut,
    /// When something new of it came last.
    touched: Instant,
    _loans: [Loan; 2],
}

impl Assembly {
    /// Begins one, if both lend what it takes.
    pub(crate) fn begin(
        request: SessionRequest,
        now: Instant,
        budgets: [&Rc<Budget>; 2],
    ) -> Option<Box<Assembly>> {
        let len_bytes = request.range().len_bytes();
        let held = len_bytes.next_multiple_of(BLOCK_BYTES as u64) + OVERHEAD_BYTES;
        let [session, target] = budgets;
        let _loans = [session.lend(held)?, target.lend(held)?];
        let missing = SectorMap::full(request.sectors);
        // It is given away when nothing is missing any more.
        let data = BufferMut::for_overwriting(len_bytes as usize);
        Some(Box::new(Assembly { request, missing, data, touched: now, _loans }))
    }

    /// Whether a fragment says the same of the command as the first one did.
    pub(crate) fn agrees(&self, fragment: &SessionRequest) -> bool {
        let SessionRequest { header, floor, first, takes, last, together, .. } = *fragment;
        SessionRequest { header, floor, first, takes, last, together, ..self.request } == *fragment
    }

    /// Takes a fragment in; false for one that brings nothing new.
    pub(crate) fn add(&mut self, first: u16, payload: &[u8], now: Instant) -> bool {
        let first = u32::from(first);
        let count = (payload.len() / SECTOR_BYTES) as u32;
        let from = first as usize * SECTOR_BYTES;
        let Some(place) = self.data.get_mut(from..from + payload.len()) else { return false };
        if self.missing.remove(first..first + count) == 0 {
            return false;
        }
        // What brings nothing new keeps nothing: else a frame a second would.
        self.touched = now;
        place.copy_from_slice(payload);
        true
    }

    /// What hasn't come yet.
    pub(crate) fn missing(&self) -> &SectorMap {
        &self.missing
    }

    /// Whether nothing new has come for long.
    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        now.since(self.touched) >= STALE_AFTER
    }

    /// All of the data. Only of a command of which nothing is missing: what hasn't come holds anything.
    pub(crate) fn into_data(self) -> Buffer {
        self.data.freeze()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use aoe_wire::{Command, Header, MacAddr, Operation, SessionVersion, ShelfSlot};
    use block::{Epoch, Lba};
    use proptest::prelude::*;

    fn request(sectors: u32) -> SessionRequest {
        let (mac, address) = (MacAddr([2; 6]), ShelfSlot::new(1, 1));
        SessionRequest {
            version: SessionVersion::Three,
            sectors,
            lba: Lba(8),
            epoch: Epoch(5),
            sequence: 1,
            ..SessionRequest::new(
                Header::request(mac, mac, address, Command::Session, 1),
                Operation::Write,
            )
        }
    }

    #[test]
    fn memory_is_lent_by_both_and_comes_back() {
        let (session, target) = (Budget::new(20_000), Budget::new(10_000));
        let begin = || Assembly::begin(request(9), Instant::default(), [&session, &target]);
        let first = begin().unwrap();
        // Two blocks and what there is beside.
        assert_eq!((session.left(), target.left()), (20_000 - 9_216, 10_000 - 9_216));
        assert!(begin().is_none());
        assert_eq!((session.left(), target.left()), (20_000 - 9_216, 10_000 - 9_216));
        drop(first);
        assert_eq!((session.left(), target.left()), (20_000, 10_000));
    }

    #[test]
    fn who_speaks_of_another_command_is_told_apart() {
        let budget = Budget::new(1 << 20);
        let assembly = Assembly::begin(request(9), Instant::default(), [&budget; 2]).unwrap();
        let other_way = Header { tag: 7, source: MacAddr([4; 6]), ..request(9).header };
        let part = SessionRequest { header: other_way, first: 3, floor: 1, ..request(9) };
        assert!(assembly.agrees(&SessionRequest { last: false, takes: 2, together: true, ..part }));
        for other in [
            SessionRequest { sectors: 10, ..part },
            SessionRequest { lba: Lba(9), ..part },
            SessionRequest { durable: true, ..part },
            SessionRequest { epoch: Epoch(6), ..part },
            SessionRequest { operation: Operation::Discard, ..part },
            SessionRequest { version: SessionVersion::One, ..part },
        ] {
            assert!(!assembly.agrees(&other), "{other:?}");
        }
    }

    proptest! {
        /// In any order, doubled, cut in any way.
        #[test]
        fn all_of_the_data_at_its_place(
            sectors in 1u32..300,
            parts in prop::collection::vec((0u32..300, 1u32..40), 0..60),
        ) {
            let budget = Budget::new(1 << 20);
            let whole: Vec<u8> = (0..sectors as usize * 512).map(|at| (at / 512 * 7) as u8).collect();
            let mut assembly =
                Assembly::begin(request(sectors), Instant::default(), [&budget; 2]).unwrap();
            let mut missing: std::collections::BTreeSet<u32> = (0..sectors).collect();
            let rest = (0..sectors).map(|first| (first, 1));
            for (first, count) in parts.into_iter().chain(rest) {
                let end = (first + count).min(sectors);
                if first >= end {
                    continue;
                }
                prop_assert!(!assembly.missing().is_empty() || missing.is_empty());
                let before = missing.len();
                missing.retain(|sector| !(first..end).contains(sector));
                let bytes = &whole[first as usize * 512..end as usize * 512];
                let is_new = assembly.add(first as u16, bytes, Instant::default());
                prop_assert_eq!(is_new, missing.len() < before);
                prop_assert!(assembly.missing().runs().flatten().eq(missing.iter().copied()));
            }
            prop_assert_eq!(assembly.into_data().to_vec(), whole);
            prop_assert_eq!(budget.left(), 1 << 20);
        }
    }
}
