//! Identities and numbers that disks carry. Each is its own type, because a disk's number given where
//! an extent's is meant destroys data without a word.

use std::fmt;

use super::bytes::coded;

/// Makes a newtype over a plain number.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $word:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " {}"), self.0)
            }
        }

        coded!(struct $name { 0 });
    };
}

/// Makes a newtype over a UUID.
macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub uuid::Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        coded!(struct $name { 0 });
    };
}

identity!(
    /// A pool, for ever: labels and votes name it.
    PoolId
);
identity!(
    /// What a pool was made as: the id that it had then. All that is on its disks but labels and votes is checked
    /// against it, so it stays when what is left of a pool becomes another one.
    Lineage
);
identity!(
    /// A disk as a member of a pool: made anew when it is labelled.
    DiskId
);
number!(
    /// Index of a disk within its pool; never reused.
    DiskNumber(u32), "disk"
);
number!(
    /// A volume within its pool; never reused.
    VolumeId(u32), "volume"
);
number!(
    /// Counts, pool-wide, the generations of groups and log segments; never reused, so that an old log
    /// record or checksum can't be taken for one of what now lies in the same place.
    GenerationId(u64), "generation"
);
number!(
    /// A segment within its log; never reused.
    SegmentNumber(u64), "segment"
);
number!(
    /// A record within a log: a volume's or the metadata's. Starts at 1; 0 is "before the first".
    RecordNumber(u64), "record"
);
number!(
    /// Counts configurations (vote records) of a pool.
    ConfigNumber(u64), "configuration"
);
number!(
    /// Counts, pool-wide, the releases of log space. Each disk that took part records it as applied.
    ReleaseNumber(u64), "release"
);
number!(
    /// A job of the pool, among those that there are.
    JobNumber(u32), "job"
);
number!(
    /// An extent on its disk.
    ExtentNumber(u32), "extent"
);
number!(
    /// A row (a 4 KiB block of each member) within its group.
    Row(u32), "row"
);

impl GenerationId {
    /// The generation of the `index`th of a run whose first has this one; saturates.
    pub fn plus(self, index: u64) -> GenerationId {
        GenerationId(self.0.saturating_add(index))
    }
}

impl RecordNumber {
    /// The next number; saturates.
    pub fn next(self) -> RecordNumber {
        RecordNumber(self.0.saturating_add(1))
    }
}

impl ConfigNumber {
    /// The next number; saturates.
    pub fn next(self) -> ConfigNumber {
        ConfigNumber(self.0.saturating_add(1))
    }
}

/// Consecutive extents of one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExtentRange {
    /// The first.
    pub first: ExtentNumber,
    /// How many.
    pub count: u32,
}

coded!(struct ExtentRange { first, count });

impl ExtentRange {
    /// `count` extents from `first`.
    pub fn new(first: ExtentNumber, count: u32) -> ExtentRange {
        ExtentRange { first, count }
    }

    /// One past the last; `None` where the numbers end.
    pub fn end(self) -> Option<u32> {
        self.first.0.checked_add(self.count)
    }

    /// Whether these are all extents of a disk that has so many.
    pub fn is_all_of(self, extents: u32) -> bool {
        self.first.0 == 0 && self.count == extents
    }
}
