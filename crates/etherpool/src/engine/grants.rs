//! Whom the disks of pools obey, as asked by services: of a pool that isn't open as its disks have it on record, which
//! they show to everybody.

use std::time::Duration;

use block::{IoError, Lba, SectorRange};
use control::api::{ApiError, PoolReportExt as _};
use futures::future::join_all;
use pool::{PoolGrant, PoolReport};
use seal::{Grant, PoolKey};

use super::Process;
use aoe_wire::ShelfSlot;

/// The first two copies of the reservation record lie here, 4 KiB each.
const RECORDS: SectorRange = SectorRange { start: Lba(16), count: 16 };
const RECORD_BYTES: usize = 4096;
/// How long a disk may take to show them.
const LOOK_MAX: Duration = Duration::from_secs(3);

impl Process {
    /// Whom the disks of a pool obey, if that is anybody in particular.
    pub async fn grant_of(
        &self,
        pool: &str,
        keys: &[PoolKey],
    ) -> Result<Option<PoolGrant>, ApiError> {
        let reports = self.engine.reports();
        let named = reports.iter().find(|one| one.name == pool || one.id == pool);
        let Some(report) = named else {
            return Err(pool::PoolError::no_pool(pool).into());
        };
        if report.is_open() && !report.read_only {
            return Ok(self.engine.grant(&report.id)?);
        }
        Ok(self
            .grant_on_disks(report, keys)
            .await
            .map(|grant| PoolGrant { grant, unheard: Vec::new() }))
    }

    /// The grant that a pool's disks obey. One of them may have an old one, or somebody's forgery: of those that no other
    /// one follows it is one of a key whose secret half is known, or the one that most disks have.
    async fn grant_on_disks(&self, report: &PoolReport, keys: &[PoolKey]) -> Option<Grant> {
        let runtime = self.handle.runtime();
        let addresses = report.disks.iter().filter_map(|disk| disk.name.parse().ok());
        let reads = addresses.map(|disk| runtime::timeout(runtime, LOOK_MAX, self.grant_on(disk)));
        let found = join_all(reads).await.into_iter().filter_map(|read| read.ok()?.ok()?);
        let found: Vec<Grant> = found.collect();
        // Who had a former key of the pool signs any version with it.
        let is_after = |other: &Grant, grant: &Grant| match other.key() == grant.key() {
            true => other.version() > grant.version(),
            false => other.leads_from(grant.key()),
        };
        let is_newest = |grant: &&Grant| !found.iter().any(|other| is_after(other, grant));
        let rank = |grant: &&Grant| {
            let disks = found.iter().filter(|other| other == grant).count();
            (keys.contains(&grant.key()), disks, grant.version())
        };
        found.iter().filter(is_newest).max_by_key(rank).cloned()
    }

    /// Has pools obey a grant to this supervisor that their disks know and they don't: its import was cut short.
    pub async fn learn_grants(&self) {
        let Some(own) = self.key else { return };
        for report in self.engine.reports().iter().filter(|report| report.is_open()) {
            if report.read_only || !matches!(self.engine.grant(&report.id), Ok(None)) {
                continue;
            }
            let found = self.grant_on_disks(report, &[]).await.filter(|found| found.names(&own));
            if let Some(found) = found
                && let Err(error) = self.engine.learn_grant(&report.id, found)
            {
                tracing::warn!(pool = %report.name, %error, "its disks obey a key that it doesn't know");
            }
        }
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
