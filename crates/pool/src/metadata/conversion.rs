//! A volume's layout that changes while it is in use. What is to be is in the metadata, with the volume; how far it
//! is the map says: a run has so many positions, and gets one more or loses one until it has as many as it is to
//! have.

use super::{Layout, Metadata, Volume};
use crate::format::JobNumber;

/// Another layout that a volume is to have. Until all of it has that, [`Volume::layout`] is the one that it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// The layout that it is to have.
    pub to: Layout,
    /// The number by which it is one of the pool's jobs.
    pub job: JobNumber,
    /// Extents that were to be copied, or read and given up, when it began.
    pub extents: u64,
}

impl Layout {
    /// The layout with so many copies.
    pub fn with_copies(copies: u8) -> Layout {
        if copies <= 1 { Layout::Raid0 } else { Layout::Mirror(copies) }
    }
}

impl Volume {
    /// The layout that new groups and log segments get: that it is to have.
    pub fn wanted_layout(&self) -> Layout {
        self.conversion.map_or(self.layout, |conversion| conversion.to)
    }

    /// Copies that its layout promises, whether it is to have fewer or has had.
    pub fn promised_copies(&self) -> u8 {
        self.layout.copies().min(self.wanted_layout().copies())
    }

    /// Whether a position is to be given up of a run with so many.
    pub fn has_too_many(&self, positions: usize) -> bool {
        positions > usize::from(self.wanted_layout().copies())
    }

    /// Whether a run with so many positions is to have more.
    pub fn has_too_few(&self, positions: usize) -> bool {
        positions < usize::from(self.wanted_layout().copies())
    }

    /// Whether all of it has the layout that it is to have: every run, and what its log needs. That may have fewer
    /// copies also where the volume had more: while it was to have fewer, its log went on with fewer.
    pub fn is_converted(&self) -> bool {
        let copies = usize::from(self.wanted_layout().copies());
        let mut runs = self.runs.values();
        let all = runs.all(|run| run.members.len() == copies && run.incoming.is_none());
        let mut needed =
            self.log.segments.values().filter(|live| live.is_needed(self.log.released));
        all && needed.all(|live| live.copies.len() >= copies)
    }
}

impl Metadata {
    /// The volume whose layout a job changes.
    pub fn conversion_of(&self, job: JobNumber) -> Option<(&Volume, Conversion)> {
        self.conversions().find(|(_, conversion)| conversion.job == job)
    }

    /// The volumes whose layouts change.
    pub fn conversions(&self) -> impl Iterator<Item = (&Volume, Conversion)> {
        self.volumes().values().filter_map(|volume| Some((volume, volume.conversion?)))
    }
}
