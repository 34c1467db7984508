//! Reports on open pools.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use uuid::Uuid;

use super::labels::shared_groups;
use super::lease::Ended;
use super::measure::milliseconds;
use super::member::{Member, Standing};
use super::open_pool::OpenPool;
use super::pool::Pool;
use super::quorum::votes_of;
use super::volume::segment::current_copies;
use super::volume::{Serving, Volume};
use crate::format::{DiskId, DiskNumber, ExtentShape, VolumeId, Voters, majority_of, poorest};
use crate::metadata::{Disk, LABELS_MAX, Metadata, Places, Volume as VolumeMeta};
use crate::report::{
    DiskState, PoolDisk, PoolReport, PoolState, VolumeReport, VolumeState, VotesReport,
};
use crate::stats::{DiskStats, VolumeStats};

impl OpenPool {
    /// The pool as it stands.
    pub(crate) fn report(&self) -> PoolReport {
        let pool = &self.pool;
        let meta = pool.meta.borrow();
        let extent_bytes = meta.shape().extent_bytes();
        let (_, votes) = self.votes_there();
        let disks = self.disks();
        let there = self.there_without(&meta, &BTreeSet::new());
        let least = |volume| self.least_copies(&meta, volume, &there);
        let least: BTreeMap<VolumeId, Copies> =
            meta.volumes().iter().map(|(id, volume)| (*id, least(volume))).collect();
        let volumes = self.volumes.borrow();
        let volumes = volumes.values().filter_map(|volume| {
            self.volume_report(&meta, volume, *least.get(&volume.id)?, &there)
        });
        let volumes: Vec<VolumeReport> = volumes.collect();
        let extents: u64 = meta.disks().values().map(|disk| u64::from(disk.room())).sum();
        let lease_ok = pool.lease.holds(pool.runtime.now());
        let spare_votes = self.spare_votes(&meta);
        let whole = pool.whole_metadata_copies();
        let metadata = self.domains_there(&meta, whole.iter().map(|member| member.number));
        let spare_metadata = metadata.saturating_sub(1);
        let survives = self.survives(&meta, &least).min(spare_votes).min(spare_metadata);
        let (owner, epoch) = self.owner();
        // To who only reads it all votes are present.
        let votes = self.votes_before.get().unwrap_or(votes);
        PoolReport {
            name: pool.name.clone(),
            id: pool.id.to_string(),
            state: self.state(&disks, &volumes, lease_ok),
            read_only: pool.read_only,
            // Who only reads it owns nothing, and has its epoch for itself.
            owner: owner.to_owned(),
            epoch: epoch.0,
            stale_secs: None,
            capacity_bytes: extents * extent_bytes,
            free_bytes: self.free_extents(&meta) * extent_bytes,
            survives,
            disks,
            votes: VotesReport { lacks_witness: self.lacks_witness(&meta), ..votes },
            lease_ok,
            ours: true,
            volumes,
            jobs: self.job_reports(&meta),
            scrub: Some(self.scrub_report(&meta)),
            spare: self.spare_report(&meta),
            grant: None,
        }
    }

    /// What volumes can have now: on disks that take part, and aren't to be emptied.
    fn free_extents(&self, meta: &Metadata) -> u64 {
        let usable = self.pool.usable_disks();
        let disks = meta.data_disks().filter(|disk| usable.contains(&disk.number));
        disks.map(|disk| u64::from(disk.free.len())).sum()
    }

    /// Its disks as they stand.
    pub(super) fn disks(&self) -> Vec<PoolDisk> {
        let meta = self.pool.meta.borrow();
        let (voters, _) = self.votes_there();
        let dirty_bytes = self.pool.dirty_bytes_by_disk();
        let disk = |member: &Rc<Member>| PoolDisk {
            dirty_bytes: dirty_bytes.get(&member.number).copied().unwrap_or(0),
            ..self.disk(&meta, member, &voters)
        };
        self.pool.members().iter().map(disk).collect()
    }

    fn state(&self, disks: &[PoolDisk], volumes: &[VolumeReport], lease_ok: bool) -> PoolState {
        match self.pool.lease.ended() {
            Some(Ended::Fenced) => return PoolState::Fenced,
            Some(Ended::Closed) => return PoolState::Released,
            None => {}
        }
        if !lease_ok {
            return PoolState::Suspended { why: self.votes_missing() };
        }
        let suspended = volumes
            .iter()
            .find_map(|v| v.suspended().map(|why| format!("volume {}: {why}", v.name)));
        // What is only read is what there is: that one volume can't be says nothing of the others.
        let is_partial = self.pool.read_only && suspended.is_some();
        if let Some(why) = suspended.filter(|_| !is_partial) {
            return PoolState::Suspended { why };
        }
        let whole = !is_partial
            && disks.iter().all(|disk| disk.state == DiskState::Usable)
            && volumes.iter().all(|volume| !volume.degraded);
        if whole { PoolState::Online } else { PoolState::Degraded }
    }

    fn disk(&self, meta: &Metadata, member: &Rc<Member>, voters: &[DiskId]) -> PoolDisk {
        let disk = meta.disks().get(&member.number);
        let state = match member.standing() {
            Standing::Refused(why) => DiskState::Refused { why },
            _ if self.pool.is_offline(member.number) => DiskState::Offline,
            _ if member.device().is_none() || !member.answers.get() => DiskState::Missing,
            _ if member.rolled_back.get() => DiskState::RolledBack,
            Standing::Usable => DiskState::Usable,
            Standing::Out | Standing::Away => DiskState::Out,
        };
        let extent_bytes = meta.shape().extent_bytes();
        PoolDisk {
            name: member.display_name(),
            id: member.id.to_string(),
            node_key: meta.node_key(member.number),
            node: disk.map_or_else(String::new, |disk| disk.node_name.clone()),
            device_name: member.place.borrow().device_name.clone(),
            serial: member.place.borrow().serial.clone(),
            last_seen_secs: self.pool.last_seen_secs(member),
            health: None,
            size_bytes: member.geometry.labelled_bytes(),
            free_bytes: disk.map_or(0, |disk| u64::from(disk.free.len()) * extent_bytes),
            state,
            dirty_bytes: 0,
            checksum_errors: member.checksum_errors.get(),
            holds_vote: voters.contains(&member.id),
            is_witness: disk.is_some_and(|disk| disk.is_witness()),
            rebuild_waits: self.rebuild_waits(member.number),
            offline: self.offline_report(meta, member.number),
            labels: meta.labels(member.number),
        }
    }

    /// A volume as it stands.
    pub(crate) fn report_of(&self, volume: &Rc<Volume>) -> Option<VolumeReport> {
        let meta = self.pool.meta.borrow();
        let there = self.there_without(&meta, &BTreeSet::new());
        let least = self.least_copies(&meta, meta.volumes().get(&volume.id)?, &there);
        self.volume_report(&meta, volume, least, &there)
    }

    fn volume_report(
        &self,
        meta: &Metadata,
        volume: &Rc<Volume>,
        least: Copies,
        there: &There,
    ) -> Option<VolumeReport> {
        let known = meta.volumes().get(&volume.id)?;
        let region = meta.shape().extent_bytes() / u64::from(ExtentShape::REGIONS);
        let dirty: u64 = meta.dirty_regions_of(known).map(|(_, m)| u64::from(m.count_ones())).sum();
        let read_only = self.pool.read_only;
        let serving = volume.serving();
        let blocked = self.blocked(meta, known, there);
        let is_replayed = matches!(serving, Serving::Opening) && blocked.is_none();
        let suspended = match serving {
            Serving::Yes | Serving::Gone if read_only => None,
            Serving::Yes | Serving::Gone => blocked.clone().or_else(|| volume.lacks_space()),
            Serving::Opening => {
                Some(blocked.clone().unwrap_or_else(|| "its log is being replayed".to_owned()))
            }
            Serving::Suspended(reason) => Some(reason),
        };
        // Of one that is to have fewer copies nobody expects more.
        let copies = u32::from(known.promised_copies());
        let degraded = least.domains < copies;
        let state = match (suspended, blocked.filter(|_| read_only)) {
            (Some(why), _) => VolumeState::Suspended { why },
            (None, Some(why)) => VolumeState::Incomplete { why },
            (None, None) if degraded => VolumeState::Degraded,
            (None, None) => VolumeState::Online,
        };
        let kinds = meta.counted_kinds().cloned();
        let survived = least.by_kind.into_iter().map(|copies| copies.saturating_sub(1));
        let stats = volume.stats.borrow();
        Some(VolumeReport {
            name: known.name.clone(),
            id: known.id.0.to_string(),
            layout: known.layout.to_string(),
            converting_to: known.conversion.map(|conversion| conversion.to.to_string()),
            size_bytes: known.bytes,
            properties: known.properties.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            state,
            degraded,
            dirty_bytes: dirty * region,
            resynced_bytes: volume.resynced_bytes.get(),
            repaired_blocks: volume.repaired_blocks.get(),
            read_bytes: stats.read.bytes,
            written_bytes: stats.write.bytes + stats.discard.bytes,
            log_bytes: volume.pending.borrow().bytes(),
            log_capacity_bytes: volume.credit.capacity_bytes(),
            survives_disks: least.disks.saturating_sub(1),
            survives_nodes: least.nodes.saturating_sub(1),
            survives_labels: kinds.zip(survived).collect(),
            // Copies that share one count once, so it is degraded.
            shared_groups: if degraded { shared_groups(meta, known) } else { 0 },
            replayed: volume.replayed.get(),
            replaying: is_replayed.then(|| volume.replaying.get()),
        })
    }

    /// Where the time of a volume's requests went, with the disks that it is on.
    pub(crate) fn stats_of(&self, volume: &Volume) -> Option<VolumeStats> {
        let meta = self.pool.meta.borrow();
        let known = meta.volumes().get(&volume.id)?;
        let segments = known.log.segments.values();
        let logs = segments.flat_map(|segment| segment.copies.iter().map(|copy| copy.disk));
        let numbers: BTreeSet<DiskNumber> = known.runs.disks().chain(logs).collect();
        let disks = numbers.into_iter().filter_map(|number| {
            let member = self.pool.member(number)?;
            Some(DiskStats {
                name: member.display_name(),
                node: meta.disks().get(&number)?.node_name.clone(),
                operations: *member.operations.borrow(),
            })
        });
        let disks = disks.collect();
        let now_ms = milliseconds(self.pool.runtime.now());
        Some(VolumeStats { now_ms, disks, ..volume.stats.borrow().clone() })
    }

    pub(super) fn is_there(&self, disk: DiskNumber) -> bool {
        let stays = !self.pool.votes.is_going_out(disk);
        stays && self.pool.member(disk).is_some_and(|member| member.is_answering())
    }

    fn domains_there(&self, meta: &Metadata, disks: impl Iterator<Item = DiskNumber>) -> u32 {
        Pool::domains(meta, disks.filter(|disk| self.is_there(*disk))) as u32
    }

    /// The disks that are there.
    pub(super) fn disks_there(&self) -> BTreeSet<DiskNumber> {
        let members = self.pool.members().into_iter().map(|member| member.number);
        members.filter(|disk| self.is_there(*disk)).collect()
    }

    /// The disks that are there, but for some.
    pub(super) fn there_without(&self, meta: &Metadata, without: &BTreeSet<DiskNumber>) -> There {
        let there = self.disks_there().into_iter().filter(|disk| !without.contains(disk));
        Rc::new(there.filter_map(|disk| Some((disk, Place::of(meta, disk)?))).collect())
    }

    /// The fewest complete copies that any part of a volume has now, of those on disks that are there.
    pub(super) fn least_copies(
        &self,
        meta: &Metadata,
        volume: &VolumeMeta,
        places: &There,
    ) -> Copies {
        let mut found: Vec<&Place> = Vec::new();
        let mut there = |disks: &mut dyn Iterator<Item = DiskNumber>| {
            found.clear();
            found.extend(disks.filter_map(|disk| places.get(&disk)));
            Copies::on(&found)
        };
        let mut least =
            Copies::of(volume.layout.copies()).min(self.runs_there(volume, places).least);
        for group in meta.groups_behind(volume) {
            let disks = group.members().map(|(disk, _)| disk);
            let whole = disks.filter(|disk| meta.dirty(group.generation(), *disk) == 0);
            let whole = there(&mut whole.into_iter());
            // Two members that are each behind the other still make one copy together.
            least = least.min(whole.max(least.min(Copies::of(1))));
        }
        let config = self.pool.config.borrow();
        for segment in volume.log.segments.values() {
            // An opening needs one of its copies.
            if segment.is_needed(volume.log.released) {
                let current = current_copies(segment, &config);
                least = least.min(there(&mut current.iter().map(|copy| copy.disk)));
            }
        }
        least
    }

    /// What the runs of a volume have on the disks that are there. There may be a million of them, and it is asked for
    /// every second: they are counted again when one of them has another place, or another disk is there.
    pub(super) fn runs_there(&self, volume: &VolumeMeta, there: &There) -> RunsThere {
        let mut counted = self.counted_runs.borrow_mut();
        if counted.there != *there {
            *counted = CountedRuns { there: Rc::clone(there), volumes: BTreeMap::new() };
        }
        let places = volume.runs.places();
        let known = counted.volumes.get(&volume.id).filter(|(of, _)| of.is_same(places));
        if let Some((_, found)) = known {
            return found.clone();
        }
        let found = RunsThere::of(volume, there);
        counted.volumes.insert(volume.id, (places.clone(), found.clone()));
        found
    }

    /// How many more machines (or disks) may fail before the votes have no majority. A voter that lacks
    /// what was accepted may be one that hangs, whether or not its driver has noticed.
    fn spare_votes(&self, meta: &Metadata) -> u32 {
        let accepted = self.pool.config.borrow().number;
        let present = self.pool.present_voters();
        // Nobody counts on one that may be pulled.
        let stays = |m: &Member| meta.offline_since(m.number).is_none();
        let takes_part =
            |m: &&Rc<Member>| m.answers.get() && stays(m) && self.pool.votes.has(m.id, accepted);
        let there: Vec<DiskId> = present.iter().filter(takes_part).map(|m| m.id).collect();
        let voters = self.pool.voters();
        let lists = voters.iter().flat_map(Voters::lists);
        let spare = lists.map(|list| {
            spare_of(meta, list, |disk| there.contains(&disk), |disk| meta.domain_of(disk))
        });
        spare.min().unwrap_or(0)
    }

    /// The list of voters of which the fewest are there beyond a majority, and how its votes stand.
    fn votes_there(&self) -> (Vec<DiskId>, VotesReport) {
        let there = self.pool.present_voters();
        let is_there = |disk| there.iter().any(|m| m.id == disk && m.answers.get());
        let voters = self.pool.voters();
        let list = poorest(voters.iter().flat_map(Voters::lists), is_there);
        (list.to_vec(), votes_of(list, is_there))
    }

    /// How many more machines (or disks) may fail before some volume loses its last copy.
    fn survives(&self, meta: &Metadata, least: &BTreeMap<VolumeId, Copies>) -> u32 {
        let copies = least.values().map(|least| least.domains.saturating_sub(1));
        // Without volumes only the disks' number counts.
        let domains = self.domains_there(meta, meta.data_disks().map(|disk| disk.number));
        copies.min().unwrap_or(domains.saturating_sub(1))
    }
}

/// The disks that are there, with what each is lost with.
pub(super) type There = Rc<BTreeMap<DiskNumber, Place>>;

/// What the runs of a volume have on some disks.
#[derive(Clone)]
pub(super) struct RunsThere {
    /// The fewest copies of one of them.
    least: Copies,
    /// The disks of those that have none.
    pub(super) away: Rc<BTreeSet<DiskNumber>>,
}

impl RunsThere {
    pub(super) fn of(volume: &VolumeMeta, there: &BTreeMap<DiskNumber, Place>) -> RunsThere {
        let (mut least, mut away) = (Copies::of(u8::MAX), BTreeSet::new());
        let mut found: Vec<&Place> = Vec::new();
        for run in volume.runs.values() {
            found.clear();
            found.extend(run.members.iter().filter_map(|member| there.get(&member.disk)));
            least = least.min(Copies::on(&found));
            if found.is_empty() {
                away.extend(run.members.iter().map(|member| member.disk));
            }
        }
        RunsThere { least, away: Rc::new(away) }
    }
}

/// What was counted of the runs of volumes, with all that it was counted of.
#[derive(Default)]
pub(super) struct CountedRuns {
    there: There,
    volumes: BTreeMap<VolumeId, (Places, RunsThere)>,
}

/// What a disk is lost with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    node: Uuid,
    domain: Uuid,
    /// By the labels of each kind alone.
    by_kind: Vec<Uuid>,
}

impl Place {
    fn of(meta: &Metadata, disk: DiskNumber) -> Option<Place> {
        let disk = meta.disks().get(&disk)?;
        let by_kind = meta.domains_by_kind(disk).collect();
        Some(Place { node: disk.node, domain: meta.domain_of(disk), by_kind })
    }
}

/// Copies: those of the same machine or failure domain count once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copies {
    pub(super) disks: u32,
    pub(super) nodes: u32,
    pub(super) domains: u32,
    /// By the labels of each kind alone.
    by_kind: [u32; LABELS_MAX],
}

impl Copies {
    fn of(copies: u8) -> Copies {
        let copies = u32::from(copies);
        Copies { disks: copies, nodes: copies, domains: copies, by_kind: [copies; LABELS_MAX] }
    }

    /// On disks of these places.
    fn on(places: &[&Place]) -> Copies {
        let different = |of: &dyn Fn(&Place) -> Option<Uuid>| {
            let all = places.iter().enumerate();
            all.filter(|(at, place)| places[..*at].iter().all(|p| of(p) != of(place))).count()
                as u32
        };
        let kinds = places.first().map_or(0, |place| place.by_kind.len());
        let mut by_kind = [0; LABELS_MAX];
        for (kind, count) in by_kind.iter_mut().enumerate().take(kinds) {
            *count = different(&|place| place.by_kind.get(kind).copied());
        }
        Copies {
            disks: places.len() as u32,
            nodes: different(&|place| Some(place.node)),
            domains: different(&|place| Some(place.domain)),
            by_kind,
        }
    }

    fn min(self, other: Copies) -> Copies {
        self.both(other, u32::min)
    }

    fn max(self, other: Copies) -> Copies {
        self.both(other, u32::max)
    }

    fn both(self, other: Copies, of: fn(u32, u32) -> u32) -> Copies {
        Copies {
            disks: of(self.disks, other.disks),
            nodes: of(self.nodes, other.nodes),
            domains: of(self.domains, other.domains),
            by_kind: std::array::from_fn(|kind| of(self.by_kind[kind], other.by_kind[kind])),
        }
    }
}

/// How many of what disks are `lost_with` may be lost before those of a list that `are` there are no majority of it.
pub(super) fn spare_of(
    meta: &Metadata,
    list: &[DiskId],
    are: impl Fn(DiskId) -> bool,
    lost_with: impl Fn(&Disk) -> Uuid,
) -> u32 {
    let there = list.iter().filter(|disk| are(**disk)).filter_map(|disk| meta.disk_by_id(*disk));
    losses_survived(there.map(lost_with), majority_of(list))
}

/// How many of what votes are lost with may be lost before so many aren't left; of each vote with what it is lost.
pub(super) fn losses_survived(votes: impl Iterator<Item = Uuid>, majority: usize) -> u32 {
    let mut by_domain: BTreeMap<Uuid, usize> = BTreeMap::new();
    votes.for_each(|domain| *by_domain.entry(domain).or_default() += 1);
    let mut votes: Vec<usize> = by_domain.into_values().collect();
    votes.sort_unstable();
    let mut left: usize = votes.iter().sum();
    // The machine with the most votes is the one to fail.
    let lost = votes.into_iter().rev().take_while(|votes| {
        left = left.saturating_sub(*votes);
        left >= majority
    });
    lost.count() as u32
}
