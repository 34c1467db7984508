//! Records about disks.

use uuid::Uuid;

use super::{Inconsistent, check_name};
use crate::format::{DiskGeometry, DiskNumber, ReleaseNumber};
use crate::metadata::{Disk, DiskState, ExtentRange, ExtentSet, MetaRecord, Metadata};

impl Metadata {
    pub(super) fn add_disk(&mut self, record: &MetaRecord) -> Result<(), Inconsistent> {
        let MetaRecord::DiskAdded { number, id, node, node_name, bytes, metadata_bytes } = record
        else {
            return Err(Inconsistent::BadShape);
        };
        check_name(node_name, true)?;
        if *number < self.next.disk || self.disk_by_id(*id).is_some() {
            return Err(Inconsistent::NumberReused);
        }
        let geometry = DiskGeometry::new(*bytes, *metadata_bytes, self.pool.extent_bytes)
            .map_err(|_| Inconsistent::BadGeometry(*number))?;
        self.next.disk = DiskNumber(number.0.checked_add(1).ok_or(Inconsistent::NumberReused)?);
        let disk = Disk {
            number: *number,
            id: *id,
            node: *node,
            node_name: node_name.clone(),
            bytes: *bytes,
            metadata_bytes: *metadata_bytes,
            extents: geometry.extents(),
            state: DiskState::Active,
            free: ExtentSet::full(geometry.extents()),
            pending: ExtentSet::default(),
            expected_release: ReleaseNumber(0),
        };
        self.disks.insert_mut(*number, disk);
        Ok(())
    }

    pub(super) fn move_disk(
        &mut self,
        number: DiskNumber,
        node: Uuid,
        node_name: &str,
    ) -> Result<(), Inconsistent> {
        check_name(node_name, true)?;
        let disk = self.disk_mut(number)?;
        disk.node = node;
        disk.node_name = node_name.to_string();
        Ok(())
    }

    pub(super) fn change_disk(
        &mut self,
        number: DiskNumber,
        state: DiskState,
    ) -> Result<(), Inconsistent> {
        let disk = self.disk_mut(number)?;
        if state == DiskState::Gone {
            if disk.free.len() != disk.extents {
                return Err(Inconsistent::StillInUse(number));
            }
            disk.free = ExtentSet::default();
        }
        disk.state = state;
        Ok(())
    }

    pub(super) fn free_pending(
        &mut self,
        number: DiskNumber,
        extents: ExtentRange,
    ) -> Result<(), Inconsistent> {
        let disk = self.disk_mut(number)?;
        if !disk.pending.remove(extents) {
            return Err(Inconsistent::NotPending(number));
        }
        disk.free.insert(extents);
        Ok(())
    }

    pub(super) fn restore_disk(
        &mut self,
        number: DiskNumber,
        expected_release: ReleaseNumber,
        pending: &[ExtentRange],
    ) -> Result<(), Inconsistent> {
        let disk = self.disk_mut(number)?;
        if expected_release < disk.expected_release {
            return Err(Inconsistent::Backwards);
        }
        let mut free = disk.free.clone();
        let mut now_pending = disk.pending.clone();
        for extents in pending {
            if !free.remove(*extents) || !now_pending.insert(*extents) {
                return Err(Inconsistent::NotFree(number));
            }
        }
        disk.free = free;
        disk.pending = now_pending;
        disk.expected_release = expected_release;
        Ok(())
    }
}
