//! Labels that people give disks, and what follows from them: failure domains that are joined (docs/engine.md, 18).

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use uuid::Uuid;

use super::LabelDisks;
use super::format_disk::Candidate;
use super::open_pool::OpenPool;
use super::pool::Pool;
use super::status::losses_survived;
use crate::error::PoolError;
use crate::forecast::{LabelForecast, RelabelledDisk, SharedVolume};
use crate::format::{DiskId, DiskNumber};
use crate::metadata::{
    DomainLabel, InvalidLabel, Joint, LabelKind, Labels, MetaRecord, Metadata,
    Volume as VolumeMeta, check_kinds,
};
use crate::report::PoolEvent;

/// Disks that are named in a sentence, at most.
const NAMED_MAX: usize = 8;

impl From<InvalidLabel> for PoolError {
    fn from(error: InvalidLabel) -> PoolError {
        PoolError::invalid(error.to_string(), "name others, or take some away first")
    }
}

impl Candidate {
    /// The record of its labels, if it has any, as the disk of this number.
    pub(super) fn label_record(&self, number: DiskNumber) -> Option<MetaRecord> {
        (!self.labels.is_empty()).then(|| MetaRecord::labels(number, &self.labels))
    }
}

/// Gives new disks their labels, in a pool that has these kinds of them.
pub(super) fn put_labels(
    labels: &[DomainLabel],
    candidates: &mut [Candidate],
    kinds: &BTreeSet<LabelKind>,
) -> Result<(), PoolError> {
    for label in labels {
        for name in &label.disks {
            let is_it =
                |one: &&mut Candidate| one.place.name == *name || one.place.node_name == *name;
            let mut named = candidates.iter_mut().filter(is_it).peekable();
            if named.peek().is_none() {
                return Err(PoolError::invalid(
                    format!(
                        "{label}: {name} is none of the disks that are named, nor a machine of one"
                    ),
                    "name disks that the pool gets by this, or their machine",
                ));
            }
            for one in named {
                label.put_on(&mut one.labels, name)?;
            }
        }
    }
    let new = candidates.iter().flat_map(|one| one.labels.keys());
    let then = kinds.iter().chain(new).cloned().collect();
    Ok(check_kinds(kinds, &then)?)
}

/// Which labels join which disks, a sentence each; within one domain if that is told.
pub(super) fn words_of_joints(
    meta: &Metadata,
    within: Option<Uuid>,
    name: impl Fn(DiskNumber) -> String,
) -> Vec<String> {
    let words = |Joint { kind, value, disks }: Joint| {
        let mut names: Vec<String> = disks.iter().take(NAMED_MAX).map(|disk| name(*disk)).collect();
        if disks.len() > NAMED_MAX {
            names.push(format!("{} more", disks.len() - NAMED_MAX));
        }
        format!("{kind}={value} joins {}", names.join(", "))
    };
    meta.joints(within).into_iter().map(words).collect()
}

impl OpenPool {
    /// Gives disks labels, or tells what that would mean.
    pub(crate) async fn label_disks(
        self: &Rc<Self>,
        request: &LabelDisks,
    ) -> Result<LabelForecast, PoolError> {
        if request.labels.is_empty() {
            return Err(PoolError::invalid("no label is named", "name one: rack=A:DISK,DISK"));
        }
        let forecast = {
            let meta = self.pool.meta.borrow();
            let then = meta.with(&self.label_records(&meta, &request.labels)?);
            let then =
                then.map_err(|fault| PoolError::invalid(fault.to_string(), "nothing was changed"))?;
            self.forecast_labels(&meta, &then)
        };
        if request.dry_run || forecast.disks.is_empty() {
            return Ok(forecast);
        }
        let (this, labels) = (Rc::clone(self), request.labels.clone());
        let before = self.administer(move |meta| {
            let before = this.pool.sharing(meta);
            Ok((this.label_records(meta, &labels)?, before))
        });
        self.pool.tell_joined(&before.await?);
        // Votes, logs and whoever waits for a place are to look again.
        self.pool.changed.notify_all();
        Ok(forecast)
    }

    /// The records by which disks have these labels. What they have already stays where nothing is said of its kind.
    fn label_records(
        &self,
        meta: &Metadata,
        labels: &[DomainLabel],
    ) -> Result<Vec<MetaRecord>, PoolError> {
        let mut then: BTreeMap<DiskNumber, Labels> = BTreeMap::new();
        for label in labels {
            for disk in self.all_named(&label.disks)? {
                let labels = then.entry(disk).or_insert_with(|| meta.labels(disk));
                label.put_on(labels, &self.pool.disk_name(disk))?;
            }
        }
        let of_disk = |disk| then.get(disk).cloned().unwrap_or_else(|| meta.labels(*disk));
        let kinds = meta.disks().keys().flat_map(|disk| of_disk(disk).into_keys()).collect();
        check_kinds(&meta.label_kinds(), &kinds)?;
        let changed = then.iter().filter(|(disk, labels)| meta.labels(**disk) != **labels);
        Ok(changed.map(|(disk, labels)| MetaRecord::labels(*disk, labels)).collect())
    }

    fn forecast_labels(&self, meta: &Metadata, then: &Metadata) -> LabelForecast {
        let name = |disk: DiskNumber| self.pool.disk_name(disk);
        let changed =
            meta.disks().keys().map(|disk| (disk, meta.labels(*disk), then.labels(*disk)));
        let changed = changed.filter(|(_, labels, labels_then)| labels != labels_then);
        let disks = changed.map(|(disk, labels, labels_then)| RelabelledDisk {
            disk: name(*disk),
            labels,
            labels_then,
        });
        let there = self.there_without(then, &BTreeSet::new());
        let shared = then.volumes().values().filter_map(|volume| {
            let groups = shared_groups(then, volume);
            let survives = || self.least_copies(then, volume, &there).domains.saturating_sub(1);
            (groups > 0).then(|| SharedVolume {
                volume: volume.name.clone(),
                groups,
                of: volume.runs.values().map(|run| u64::from(run.count)).sum(),
                survives_then: survives(),
            })
        });
        LabelForecast {
            disks: disks.collect(),
            joined: words_of_joints(then, None, name),
            domains: meta.data_domains() as u32,
            domains_then: then.data_domains() as u32,
            shared: shared.collect(),
        }
    }
}

/// How many groups of a volume have two positions in one failure domain.
pub(super) fn shared_groups(meta: &Metadata, volume: &VolumeMeta) -> u64 {
    // Looked up once: a volume may have a million runs.
    let domains: BTreeMap<DiskNumber, Uuid> =
        meta.disks().values().map(|disk| (disk.number, meta.domain_of(disk))).collect();
    let shared = volume.runs.values().filter(|run| {
        let domain = |at: usize| run.members.get(at).and_then(|m| domains.get(&m.disk));
        (1..run.members.len()).any(|one| (0..one).any(|other| domain(one) == domain(other)))
    });
    shared.map(|run| u64::from(run.count)).sum()
}

impl Pool {
    /// So many failure domains are among these disks.
    pub(crate) fn domains(meta: &Metadata, disks: impl Iterator<Item = DiskNumber>) -> usize {
        let mut domains: Vec<Uuid> = disks
            .filter_map(|disk| meta.disks().get(&disk))
            .map(|disk| meta.domain_of(disk))
            .collect();
        domains.sort_unstable();
        domains.dedup();
        domains.len()
    }

    /// What has two copies in one failure domain.
    pub(super) fn sharing(&self, meta: &Metadata) -> BTreeSet<String> {
        let shares =
            |disks: &[DiskNumber]| Pool::domains(meta, disks.iter().copied()) < disks.len();
        let mut shared = BTreeSet::new();
        for volume in meta.volumes().values() {
            if shared_groups(meta, volume) > 0 {
                shared.insert(format!("copies of volume {} are", volume.name));
            }
            let mut copies = volume.log.segments.values().map(|s| s.copies.iter().map(|c| c.disk));
            if copies.any(|disks| shares(&disks.collect::<Vec<_>>())) {
                shared.insert(format!("copies of the log of volume {} are", volume.name));
            }
        }
        let voters: BTreeSet<DiskId> = self.all_voters();
        let voters = voters.iter().filter_map(|voter| meta.disk_by_id(*voter));
        let domains: Vec<Uuid> = voters.map(|disk| meta.domain_of(disk)).collect();
        // Several in one are right where a majority outlives each, and change nothing where none can be lost anyway.
        let majority = domains.len() / 2 + 1;
        let apart: BTreeSet<&Uuid> = domains.iter().collect();
        if domains.len() > majority
            && apart.len() < domains.len()
            && losses_survived(domains.iter().copied(), majority) == 0
        {
            shared.insert("so many votes that the others are no majority are".into());
        }
        shared
    }

    /// Tells what has two copies in one failure domain, and had not before: disks moved, or labels changed.
    pub(super) fn tell_joined(&self, before: &BTreeSet<String>) {
        let shared = self.sharing(&self.meta.borrow());
        let shared: Vec<String> = shared.difference(before).cloned().collect();
        if shared.is_empty() {
            return;
        }
        let (pool, shared) = (self.name.clone(), shared.join(", "));
        tracing::warn!(pool, shared, "in one failure domain now");
        self.events.tell(PoolEvent::DomainsJoined { pool, shared });
    }
}
