//! What a disk does wrong: once, always, or by chance; anywhere, or only where one structure lies.
//!
//! A fault is *honest* when the disk says so (an error, a full store, no answer): any number of them
//! at the same time may cost time, never contents. A *dishonest* one is told to nobody (contents are
//! lost, old, or another place's), and redundancy has to cover it.

use std::cell::{Cell, RefCell};

use block::{BLOCK_SECTORS, Lba, SECTOR_BYTES, SectorRange};
use pool::format::{DiskGeometry, Label, LabelState, MIB, select_label};
use rand::Rng;
use rand::rngs::SmallRng;

use super::Disk;
use crate::medium::Image;

/// What happens to a later write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFault {
    /// Answered and never done.
    Lost,
    /// Answered and done so many sectors away.
    Misdirected(i64),
    /// Answered with a medium error; done as far as the error, if at all.
    Error,
    /// The same, and again whenever something is written there, until the disk is healed.
    Refused,
    /// Answered that the store is full.
    NoSpace,
}

/// What happens to a later read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    /// Answered with a medium error; the next one may succeed.
    Error,
    /// Answered with what was there when [`Disk::remember`] was called.
    Stale,
    /// Answered with what is so many sectors away.
    Misdirected(i64),
    /// Answered with a changed byte.
    Flipped,
}

impl ReadFault {
    /// Whether the disk says so.
    pub fn is_honest(self) -> bool {
        self == ReadFault::Error
    }
}

/// The sector at which extents begin.
const EXTENTS: u64 = MIB / SECTOR_BYTES as u64;

/// Where on a disk a fault lies in wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// On all of it.
    Anywhere,
    /// The four label slots.
    Labels,
    /// The reservation record.
    Reservation,
    /// The vote record.
    Votes,
    /// The applied blocks.
    Applied,
    /// The metadata area, if the disk has one.
    Metadata,
    /// Data, checksums and logs.
    Extents,
}

impl Part {
    /// All but [`Part::Anywhere`].
    pub const STRUCTURES: [Part; 6] = [
        Part::Labels,
        Part::Reservation,
        Part::Votes,
        Part::Applied,
        Part::Metadata,
        Part::Extents,
    ];

    /// The sectors of it on `disk` as it is labelled now.
    pub fn ranges(self, disk: &Disk) -> Vec<SectorRange> {
        let blocks = |places: &[Lba]| {
            places.iter().map(|at| SectorRange::new(*at, BLOCK_SECTORS)).collect::<Vec<_>>()
        };
        let run = |from: u64, to: u64| vec![SectorRange::new(Lba(from), to.saturating_sub(from))];
        let label = label_of(disk);
        let labelled = match &label {
            Some(label) => label.geometry.labelled_bytes(),
            None => DiskGeometry::labelled_bytes_of(disk.sectors() * SECTOR_BYTES as u64),
        };
        let labels = DiskGeometry::label_slots(labelled);
        let place = |label: Label| {
            let (start, bytes) = label.geometry.run_place(label.area?)?;
            Some((start.0, start.0 + bytes / SECTOR_BYTES as u64))
        };
        let area = label.map_or(Some((EXTENTS, 2 * EXTENTS)), place);
        match self {
            Part::Anywhere => run(0, disk.sectors()),
            Part::Labels => blocks(&labels),
            // Behind the labels at each end.
            Part::Reservation => [run(16, 32), run(labels[2].0 + 16, labels[2].0 + 32)].concat(),
            Part::Votes => run(32, 96),
            Part::Applied => blocks(&DiskGeometry::applied_slots()),
            Part::Metadata => area.map_or_else(Vec::new, |(from, to)| run(from, to)),
            Part::Extents => {
                let (from, to) = area.unwrap_or((EXTENTS, EXTENTS));
                [run(EXTENTS, from), run(to, labels[2].0)].concat()
            }
        }
    }
}

fn label_of(disk: &Disk) -> Option<Label> {
    let bytes = disk.sectors() * SECTOR_BYTES as u64;
    let places = DiskGeometry::label_slots(DiskGeometry::labelled_bytes_of(bytes));
    let slots = places.map(|at| disk.peek(SectorRange::new(at, BLOCK_SECTORS)));
    let [first, second, third, fourth] = &slots;
    let slots = [first, second, third, fourth].map(|slot| Some(slot.as_slice()));
    match select_label(slots, bytes) {
        LabelState::Labelled(found) => Some(found.label),
        _ => None,
    }
}

/// Chances of faults, for each operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chances {
    /// Of [`WriteFault::Error`].
    pub write_error: f64,
    /// Of [`ReadFault::Error`].
    pub read_error: f64,
    /// Of a flush that fails.
    pub flush_error: f64,
    /// Of [`WriteFault::Lost`].
    pub lost_write: f64,
    /// Of [`WriteFault::Misdirected`].
    pub misdirected_write: f64,
    /// Of [`ReadFault::Stale`].
    pub stale_read: f64,
    /// Of [`ReadFault::Misdirected`].
    pub misdirected_read: f64,
    /// Of [`ReadFault::Flipped`].
    pub flipped_read: f64,
}

/// The faults of a disk that lie in wait.
#[derive(Default)]
pub(super) struct Faults {
    writes: RefCell<Vec<(Vec<SectorRange>, WriteFault)>>,
    reads: RefCell<Vec<(Vec<SectorRange>, ReadFault)>>,
    chances: Cell<Option<Chances>>,
    pub(super) failing_flushes: Cell<u32>,
    pub(super) lies: Cell<bool>,
    pub(super) full: Cell<bool>,
    pub(super) gone: Cell<bool>,
    /// Blocks that begin like this are answered and not written, so many of them.
    losing: Cell<Option<([u8; 4], u32)>>,
    /// What stale reads see.
    pub(super) remembered: RefCell<Option<Image>>,
}

impl Faults {
    pub(super) fn clear(&self) {
        self.writes.borrow_mut().clear();
        self.reads.borrow_mut().clear();
        self.chances.set(None);
        self.failing_flushes.set(0);
        self.lies.set(false);
        self.full.set(false);
        self.gone.set(false);
        self.losing.set(None);
        self.remembered.take();
    }

    pub(super) fn spoil_write(&self, places: Vec<SectorRange>, fault: WriteFault) {
        self.writes.borrow_mut().push((places, fault));
    }

    pub(super) fn spoil_read(&self, places: Vec<SectorRange>, fault: ReadFault) {
        self.reads.borrow_mut().push((places, fault));
    }

    pub(super) fn set_chances(&self, chances: Chances) {
        self.chances.set(Some(chances));
    }

    pub(super) fn lose_blocks(&self, magic: [u8; 4], count: u32) {
        self.losing.set(Some((magic, count)));
    }

    pub(super) fn loses_blocks(&self) -> bool {
        self.losing.get().is_some()
    }

    /// Whether a block that begins like this is answered and not written.
    pub(super) fn loses(&self, begin: &[u8]) -> bool {
        let Some((magic, count)) = self.losing.get() else { return false };
        if !begin.starts_with(&magic) {
            return false;
        }
        self.losing.set((count > 1).then_some((magic, count - 1)));
        true
    }

    pub(super) fn take_write(
        &self,
        range: SectorRange,
        random: &RefCell<SmallRng>,
    ) -> Option<WriteFault> {
        if let Some(fault) = take(&self.writes, range) {
            if fault == WriteFault::Refused {
                self.spoil_write(vec![range], fault);
            }
            return Some(fault);
        }
        let chances = self.chances.get()?;
        let mut random = random.borrow_mut();
        let dice = random.random::<f64>();
        let away = if random.random() { 8 } else { -8 } * random.random_range(1..400);
        pick(
            dice,
            [
                (chances.write_error, WriteFault::Error),
                (chances.lost_write, WriteFault::Lost),
                (chances.misdirected_write, WriteFault::Misdirected(away)),
            ],
        )
    }

    pub(super) fn take_read(
        &self,
        range: SectorRange,
        random: &RefCell<SmallRng>,
    ) -> Option<ReadFault> {
        if let Some(fault) = take(&self.reads, range) {
            return Some(fault);
        }
        let chances = self.chances.get()?;
        let mut random = random.borrow_mut();
        let dice = random.random::<f64>();
        let away = if random.random() { 8 } else { -8 } * random.random_range(1..400);
        pick(
            dice,
            [
                (chances.read_error, ReadFault::Error),
                (chances.stale_read, ReadFault::Stale),
                (chances.misdirected_read, ReadFault::Misdirected(away)),
                (chances.flipped_read, ReadFault::Flipped),
            ],
        )
    }

    /// Whether this flush fails.
    pub(super) fn take_flush(&self, random: &RefCell<SmallRng>) -> bool {
        let left = self.failing_flushes.get();
        if left > 0 {
            self.failing_flushes.set(left - 1);
            return true;
        }
        let chance = self.chances.get().map_or(0.0, |chances| chances.flush_error);
        chance > 0.0 && random.borrow_mut().random_bool(chance)
    }
}

fn take<T: Copy>(waiting: &RefCell<Vec<(Vec<SectorRange>, T)>>, range: SectorRange) -> Option<T> {
    let mut waiting = waiting.borrow_mut();
    let hit = waiting.iter().position(|(places, _)| places.iter().any(|p| p.overlaps(range)))?;
    Some(waiting.swap_remove(hit).1)
}

fn pick<T: Copy, const N: usize>(dice: f64, chances: [(f64, T); N]) -> Option<T> {
    let mut sum = 0.0;
    chances.into_iter().find_map(|(chance, fault)| {
        sum += chance;
        (dice < sum).then_some(fault)
    })
}
