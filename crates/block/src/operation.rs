//! What is asked of a device and what it answers: one form for all who do, pass on, order or simulate
//! it.

use std::ops::Deref;

use crate::{Buffer, Claim, Completion, DriveHealth, Durability, Holder, Instance, IoError, Lba};
use crate::{SECTOR_BYTES, SectorRange};

/// An operation on a device. Data that is only lent for the time of a call is `&[u8]`.
#[derive(Clone, Debug)]
pub enum Operation<Data = Buffer> {
    /// Read sectors.
    Read(SectorRange),
    /// Write sectors.
    Write {
        /// The first.
        start: Lba,
        /// Whole sectors.
        data: Data,
        /// When to answer.
        durability: Durability,
    },
    /// Make sectors read as zeros.
    WriteZeroes {
        /// Which.
        range: SectorRange,
        /// When to answer.
        durability: Durability,
    },
    /// Their contents don't matter any more: what is read afterwards is undefined until written.
    Discard(SectorRange),
    /// Make durable all writes that this instance answered before.
    Flush(Instance),
    /// Record an owner.
    Claim(Claim),
    /// Ask whether the claimed epoch still is the highest.
    Renew,
    /// Ask how the drive is.
    AskHealth,
}

impl<Data: Deref<Target = [u8]>> Operation<Data> {
    /// The sectors concerned; none for an operation that isn't about sectors.
    pub fn range(&self) -> SectorRange {
        match self {
            Operation::Read(range)
            | Operation::Discard(range)
            | Operation::WriteZeroes { range, .. } => *range,
            Operation::Write { start, data, .. } => {
                SectorRange::new(*start, (data.len() / SECTOR_BYTES) as u64)
            }
            Operation::Flush(_) | Operation::Claim(_) | Operation::Renew | Operation::AskHealth => {
                SectorRange::default()
            }
        }
    }

    /// Whether it is about sectors.
    pub fn has_range(&self) -> bool {
        !matches!(self, Operation::Flush(_)) && !self.is_of_server()
    }

    /// Whether it is about who has the medium, or how that is: the business of who serves it, not of what is in sectors.
    pub fn is_of_server(&self) -> bool {
        matches!(self, Operation::Claim(_) | Operation::Renew | Operation::AskHealth)
    }

    /// Whether sectors may have other contents afterwards.
    pub fn changes_sectors(&self) -> bool {
        self.has_range() && !matches!(self, Operation::Read(_))
    }

    /// Does it to sectors in memory. Those have no owner, and are as durable as they ever get.
    pub fn perform_on(&self, sectors: &mut [u8]) -> Result<Answer, IoError> {
        let range = self.range();
        if !range.fits((sectors.len() / SECTOR_BYTES) as u64) {
            return Err(IoError::OutOfRange(range));
        }
        let start = range.start.byte_offset() as usize;
        let sectors = &mut sectors[start..start + range.len_bytes() as usize];
        match self {
            Operation::Read(_) => return Ok(Answer::Data(Buffer::copy_of(sectors))),
            Operation::Write { data, .. } if data.len() == sectors.len() => {
                sectors.copy_from_slice(data);
            }
            Operation::WriteZeroes { .. } | Operation::Discard(_) => sectors.fill(0),
            Operation::Flush(_) => {}
            Operation::Write { .. }
            | Operation::Claim(_)
            | Operation::Renew
            | Operation::AskHealth => {
                return Err(IoError::Unsupported);
            }
        }
        Ok(Answer::Done)
    }

    /// The same at another place. What isn't about sectors stays as it is.
    #[must_use]
    pub fn moved_to(self, start: Lba) -> Operation<Data> {
        let moved = |range: SectorRange| SectorRange::new(start, range.count);
        match self {
            Operation::Read(range) => Operation::Read(moved(range)),
            Operation::Discard(range) => Operation::Discard(moved(range)),
            Operation::WriteZeroes { range, durability } => {
                Operation::WriteZeroes { range: moved(range), durability }
            }
            Operation::Write { data, durability, .. } => {
                Operation::Write { start, data, durability }
            }
            other => other,
        }
    }
}

/// What an operation that succeeded brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done, and there is nothing to say.
    Done,
    /// The sectors that were read.
    Data(Buffer),
    /// Who holds the disk.
    Holder(Holder),
    /// How the drive is.
    Health(Box<DriveHealth>),
}

/// The end of an operation.
pub type Outcome = Result<Completion<Answer>, IoError>;

/// Told of the end of an operation.
pub type Done = Box<dyn FnOnce(Outcome)>;
