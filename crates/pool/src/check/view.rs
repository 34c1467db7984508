//! What the parts of a check have in common: the disks, what the votes say, and the metadata.

use std::collections::BTreeMap;

use super::contents::Visit;
use super::disks::Disk;
use crate::format::{Configuration, DiskNumber, RecordNumber};
use crate::metadata::Metadata;

/// A pool as far as it is known.
pub(super) struct View<'d, 'a> {
    pub(super) disks: &'d [Disk<'a>],
    pub(super) by_number: BTreeMap<DiskNumber, usize>,
    pub(super) config: Option<&'d Configuration>,
    pub(super) metadata: &'d Metadata,
    /// The record that the metadata ends at.
    pub(super) newest: RecordNumber,
    /// Whether the owner gave the pool up in order: then no write was cut short.
    pub(super) released: bool,
    /// Whether every written row is to be read.
    pub(super) data: bool,
    /// Who wants to see the contents.
    pub(super) visit: Option<Visit<'d>>,
}

impl<'d, 'a> View<'d, 'a> {
    /// A member whose contents count.
    pub(super) fn disk(&self, number: DiskNumber) -> Option<&'d Disk<'a>> {
        self.disks.get(*self.by_number.get(&number)?).filter(|disk| disk.trusted)
    }
}
