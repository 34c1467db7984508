//! How far a scrub is, or what the last one found: a property of the pool, as words `name=number`, so that any
//! owner goes on with it. Names that aren't known here are left out, those that are missing stand for zero.

use std::fmt;

use crate::format::VolumeId;
use crate::metadata::{MetaRecord, Metadata};
use crate::report::VerifyReport;

/// The pool's property.
pub(super) const SCRUB: &str = "scrub";

/// Times are in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ScrubState {
    /// When the last one began, or a pool that had none was seen first: the next one is due so long after.
    pub(super) counted_from: u64,
    /// When the last one began; zero without one.
    pub(super) begun: u64,
    /// When it was done; zero until then, and if it was cancelled.
    pub(super) ended: u64,
    /// The volume of the next group.
    pub(super) volume: u64,
    /// The group's lane.
    pub(super) lane: u64,
    /// The group's set.
    pub(super) set: u64,
    /// Extents that were read.
    pub(super) extents: u64,
    /// Blocks that were read and compared.
    pub(super) blocks: u64,
    /// Of these, those that were wrong or unreadable.
    pub(super) bad: u64,
    /// Of these, those that are right again.
    pub(super) repaired: u64,
    /// Blocks that weren't compared, because a disk was away or behind.
    pub(super) unread: u64,
}

impl ScrubState {
    pub(super) fn of(meta: &Metadata) -> Option<ScrubState> {
        let mut state = ScrubState::default();
        for word in meta.properties().get(SCRUB)?.split_whitespace() {
            let Some((name, number)) = word.split_once('=') else { continue };
            let field = state.fields().into_iter().find(|(known, _)| *known == name);
            if let (Some((_, field)), Ok(number)) = (field, number.parse()) {
                *field = number;
            }
        }
        Some(state)
    }

    /// One that has read nothing so far.
    pub(super) fn begun_at(secs: u64) -> ScrubState {
        ScrubState { counted_from: secs, begun: secs, ..ScrubState::default() }
    }

    /// Adds what was found in a group of so many extents. What the metadata says may be anything.
    pub(super) fn add(&mut self, extents: u64, found: &VerifyReport) {
        let counts = [
            (&mut self.extents, extents),
            (&mut self.blocks, found.blocks),
            (&mut self.bad, found.bad_blocks()),
            (&mut self.repaired, found.repaired),
            (&mut self.unread, found.dirty),
        ];
        for (count, more) in counts {
            *count = count.saturating_add(more);
        }
    }

    /// The record that says so.
    pub(super) fn record(self) -> MetaRecord {
        MetaRecord::PoolPropertySet { key: SCRUB.to_owned(), value: Some(self.to_string()) }
    }

    /// The place of the next group.
    pub(super) fn place(&self) -> (VolumeId, u16, u64) {
        let volume = u32::try_from(self.volume).unwrap_or(u32::MAX);
        (VolumeId(volume), u16::try_from(self.lane).unwrap_or(u16::MAX), self.set)
    }

    pub(super) fn set_place(&mut self, (volume, lane, set): (VolumeId, u16, u64)) {
        (self.volume, self.lane, self.set) = (volume.0.into(), lane.into(), set);
    }

    fn fields(&mut self) -> [(&'static str, &mut u64); 11] {
        [
            ("counted-from", &mut self.counted_from),
            ("begun", &mut self.begun),
            ("ended", &mut self.ended),
            ("volume", &mut self.volume),
            ("lane", &mut self.lane),
            ("set", &mut self.set),
            ("extents", &mut self.extents),
            ("blocks", &mut self.blocks),
            ("bad", &mut self.bad),
            ("repaired", &mut self.repaired),
            ("unread", &mut self.unread),
        ]
    }
}

impl fmt::Display for ScrubState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut state = *self;
        for (index, (name, number)) in state.fields().into_iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{name}={number}")?;
        }
        Ok(())
    }
}
