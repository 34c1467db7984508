//! Whom the disks of pools obey, as asked by services: of a pool that isn't open as its disks have it on record, which
//! they show to everybody.

use block::{IoError, Lba, SectorRange};
use control::api::{ApiError, PoolReportExt as _};
use pool::PoolGrant;
use seal::Grant;

use super::Process;
use aoe_wire::ShelfSlot;

/// The first two copies of the reservation record lie here, 4 KiB each.
const RECORDS: SectorRange = SectorRange { start: Lba(16), count: 16 };
const RECORD_BYTES: usize = 4096;

impl Process {
    /// Whom the disks of a pool obey, if that is anybody in particular.
    pub async fn grant_of(&self, pool: &str) -> Result<Option<PoolGrant>, ApiError> {
        let reports = self.engine.reports();
        let named = reports.iter().find(|one| one.name == pool || one.id == pool);
        let Some(report) = named else {
            return Err(pool::PoolError::no_pool(pool).into());
        };
        if report.is_open() && !report.read_only {
            return Ok(self.engine.grant(&report.id)?);
        }
        let mut newest: Option<Grant> = None;
        for disk in &report.disks {
            let Ok(address) = disk.name.parse() else { continue };
            let Ok(Some(found)) = self.grant_on(address).await else { continue };
            newest = newest.filter(|known| known.version() >= found.version()).or(Some(found));
        }
        Ok(newest.map(|grant| PoolGrant { grant, unheard: Vec::new() }))
    }

    async fn grant_on(&self, disk: ShelfSlot) -> Result<Option<Grant>, IoError> {
        let device = self.network.device(disk).ok_or(IoError::Lost)?;
        let read = device.read(RECORDS).await?;
        let records = read.value.chunks(RECORD_BYTES).zip(0..);
        let records = records.filter_map(|(bytes, slot)| aoe_target::read_reservation(bytes, slot));
        let newest = records.max_by_key(|record| record.sequence);
        Ok(newest.and_then(|record| record.grant).as_deref().cloned())
    }
}
