//! Records about disks.

use uuid::Uuid;

use super::{Inconsistent, check_name};
use crate::format::{DiskGeometry, DiskNumber, ReleaseNumber};
use crate::metadata::{AreaLayout, Disk, ExtentRange, ExtentSet, MetaRecord, Metadata};

impl Metadata {
    pub(super) fn add_disk(&mut self, record: &MetaRecord) -> Result<(), Inconsistent> {
        let MetaRecord::DiskAdded { number, id, node, node_name, bytes, area } = record else {
            return Err(Inconsistent::BadShape);
        };
        check_name(node_name, true)?;
        if *number < self.next.disk || self.disk_by_id(*id).is_some() {
            return Err(Inconsistent::NumberReused);
        }
        let bad_geometry = Inconsistent::BadGeometry(*number);
        let geometry = DiskGeometry::new(*bytes, self.pool.extent_bytes);
        let geometry = geometry.map_err(|_| bad_geometry)?;
        let mut free = ExtentSet::full(geometry.extents());
        if let Some(area) = area {
            AreaLayout::of(&geometry, *area).ok_or(bad_geometry)?;
            free.remove(*area);
        }
        self.next.disk = DiskNumber(number.0.checked_add(1).ok_or(Inconsistent::NumberReused)?);
        let disk = Disk {
            number: *number,
            id: *id,
            node: *node,
            node_name: node_name.clone(),
            bytes: *bytes,
            area: *area,
            incoming_area: None,
            extents: geometry.extents(),
            free,
            pending: ExtentSet::default(),
            expected_release: ReleaseNumber(0),
        };
        self.disks.insert_mut(*number, disk);
        self.disks_by_id.insert_mut(*id, *number);
        Ok(())
    }

    pub(super) fn remove_disk(&mut self, number: DiskNumber) -> Result<(), Inconsistent> {
        let disk = self.disk_mut(number)?;
        let (id, own) = (disk.id, disk.areas().map(|area| area.count).sum::<u32>());
        let is_used = disk.free.len() + disk.pending.len() + own != disk.extents;
        if is_used || self.jobs.values().any(|job| job.disks.contains(&number)) {
            return Err(Inconsistent::StillUsed(number));
        }
        self.disks.remove_mut(&number);
        self.disks_by_id.remove_mut(&id);
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

    pub(super) fn begin_area(
        &mut self,
        number: DiskNumber,
        extents: ExtentRange,
    ) -> Result<(), Inconsistent> {
        let extent_bytes = self.pool.extent_bytes;
        let disk = self.disk_mut(number)?;
        if disk.incoming_area.is_some() {
            return Err(Inconsistent::BadShape);
        }
        let geometry = DiskGeometry::new(disk.bytes, extent_bytes).ok();
        let layout = geometry.and_then(|geometry| AreaLayout::of(&geometry, extents));
        layout.ok_or(Inconsistent::BadGeometry(number))?;
        if !disk.free.remove(extents) {
            return Err(Inconsistent::NotFree(number));
        }
        disk.incoming_area = Some(extents);
        Ok(())
    }

    /// The area that was begun takes the other's place, or goes.
    pub(super) fn end_area(
        &mut self,
        number: DiskNumber,
        switches: bool,
    ) -> Result<(), Inconsistent> {
        let disk = self.disk_mut(number)?;
        let incoming = disk.incoming_area.take().ok_or(Inconsistent::BadShape)?;
        let given_up = if switches { disk.area.replace(incoming) } else { Some(incoming) };
        if let Some(extents) = given_up {
            disk.pending.insert(extents);
        }
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
