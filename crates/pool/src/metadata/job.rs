//! What is to be done to a pool that takes long: it is in the metadata, so any owner goes on with it.

use crate::format::DiskNumber;

/// What a job is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobKind {
    /// A disk is out: what it has is made anew on others.
    Rebuild,
    /// What a disk has moves to others, and it gets nothing new.
    Evacuate,
    /// The same, to one other disk.
    Replace,
    /// What a disk has moves to others, and then it belongs to the pool no more.
    Remove,
    /// Of a later version: it is kept, and nobody works on it.
    Other(u8),
}

/// Long work, which goes on after a crash. What of it is done, the maps say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// What for.
    pub kind: JobKind,
    /// The disk that it is about; behind it the one that takes its place.
    pub disks: Vec<DiskNumber>,
    /// Extents that were to be moved when it began.
    pub extents: u64,
}

impl Job {
    /// The disk that it empties; none if it isn't known what it does.
    pub fn empties(&self) -> Option<DiskNumber> {
        match self.kind {
            JobKind::Other(_) => None,
            _ => self.disks.first().copied(),
        }
    }

    /// The disk that takes its place, where one was named.
    pub fn to(&self) -> Option<DiskNumber> {
        self.disks.get(1).copied()
    }
}
