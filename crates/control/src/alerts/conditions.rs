//! What is wrong, as far as it can be told from reports and events. One place: what is asked elsewhere, by status,
//! metrics or people, is asked of the same reports.

use block::{CalendarTime, DriveHealth, HealthState, size::Human, spoken};
use pool::{DiskState, JobState, PoolDisk, PoolReport, PoolState, Severity, VolumeReport};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::slow::Slow;
use crate::api::{PoolReportExt as _, ProcessState, ServiceState, VolumeServices};

/// What may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum Kind {
    /// The engine doesn't run or doesn't answer.
    EngineDown,
    /// A pool of ours isn't present, or too little of it.
    PoolNotOpen,
    /// Another supervisor took a pool.
    PoolTaken,
    /// Requests of a pool wait.
    PoolSuspended,
    /// A pool has less redundancy than it should.
    PoolDegraded,
    /// A volume survives fewer failures than its layout promises.
    VolumeRedundancy,
    /// Copies of a volume are in one failure domain.
    VolumeTogether,
    /// Votes of a pool are out of reach.
    PoolVotes,
    /// Little space is free in a pool.
    PoolSpace,
    /// What a pool keeps free for a loss isn't enough.
    PoolSpare,
    /// A volume's log is nearly full, and stays so.
    LogSpace,
    /// A disk is gone or evicted.
    DiskGone,
    /// A disk is out of use because somebody wanted that.
    DiskOffline,
    /// A disk isn't used, because it isn't what it should be.
    DiskRefused,
    /// A disk came back with older contents.
    DiskRolledBack,
    /// What a disk gave didn't match its checksum, and was repaired.
    DiskErrors,
    /// A disk is much slower than the pool's others.
    DiskSlow,
    /// A drive wears out, by what it counts itself.
    DiskAgeing,
    /// A drive says itself that it is failing.
    DiskFailing,
    /// What a disk had isn't rebuilt.
    RebuildWaits,
    /// A job doesn't go on.
    JobWaits,
    /// Contents of a volume are lost.
    LostBlocks,
    /// A label or vote of a disk stays damaged.
    StructureDamaged,
    /// The last scrub is too long ago.
    ScrubOverdue,
    /// The last scrub found what it couldn't repair.
    ScrubDamage,
    /// A mount, device or FTP server isn't there.
    ServiceFailed,
    /// An interface isn't used.
    InterfaceDown,
    /// Something else of the supervisor isn't as it should be.
    SupervisorTrouble,
}

block::words!(Kind {
    EngineDown = "engine-down",
    PoolNotOpen = "pool-not-open",
    PoolTaken = "pool-taken",
    PoolSuspended = "pool-suspended",
    PoolDegraded = "pool-degraded",
    VolumeRedundancy = "volume-redundancy",
    VolumeTogether = "volume-together",
    PoolVotes = "pool-votes",
    PoolSpace = "pool-space",
    PoolSpare = "pool-spare",
    LogSpace = "log-space",
    DiskGone = "disk-gone",
    DiskOffline = "disk-offline",
    DiskRefused = "disk-refused",
    DiskRolledBack = "disk-rolled-back",
    DiskErrors = "disk-errors",
    DiskSlow = "disk-slow",
    DiskAgeing = "disk-ageing",
    DiskFailing = "disk-failing",
    RebuildWaits = "rebuild-waits",
    JobWaits = "job-waits",
    LostBlocks = "lost-blocks",
    StructureDamaged = "structure-damaged",
    ScrubOverdue = "scrub-overdue",
    ScrubDamage = "scrub-damage",
    ServiceFailed = "service-failed",
    InterfaceDown = "interface-down",
    SupervisorTrouble = "supervisor-trouble",
});
block::serde_as_text!(Kind);

impl Kind {
    /// For how long it must be so before anybody is told: what passes by itself is nobody's concern.
    pub fn hold_secs(self) -> u64 {
        match self {
            Kind::LostBlocks | Kind::DiskErrors | Kind::StructureDamaged | Kind::PoolTaken => 0,
            Kind::PoolSpace | Kind::ScrubOverdue | Kind::ScrubDamage | Kind::DiskSlow => 0,
            Kind::EngineDown | Kind::PoolSuspended => 15,
            Kind::LogSpace | Kind::ServiceFailed | Kind::InterfaceDown => 60,
            Kind::JobWaits | Kind::RebuildWaits | Kind::PoolSpare => 300,
            _ => 30,
        }
    }

    /// Whether what it is about is a disk.
    pub fn is_of_disk(self) -> bool {
        matches!(
            self,
            Kind::DiskGone
                | Kind::DiskOffline
                | Kind::DiskRefused
                | Kind::DiskRolledBack
                | Kind::DiskErrors
                | Kind::DiskSlow
                | Kind::DiskAgeing
                | Kind::DiskFailing
                | Kind::RebuildWaits
                | Kind::StructureDamaged
        )
    }

    /// Whether what it is about is a volume.
    pub fn is_of_volume(self) -> bool {
        matches!(
            self,
            Kind::VolumeRedundancy
                | Kind::VolumeTogether
                | Kind::LogSpace
                | Kind::LostBlocks
                | Kind::ServiceFailed
        )
    }

    /// Whether it is of a pool: nothing is known of those while the engine isn't there.
    pub fn is_of_pool(self) -> bool {
        !matches!(self, Kind::EngineDown | Kind::SupervisorTrouble | Kind::InterfaceDown)
    }
}

/// Something that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Condition {
    /// What.
    pub kind: Kind,
    /// The pool, if it is one's.
    pub pool: Option<String>,
    /// The disk, volume or whatever else of it; empty if it is the whole.
    pub subject: String,
    /// How bad it is.
    pub severity: Severity,
    /// As a sentence.
    pub text: String,
    /// What to do.
    pub remedy: String,
}

impl Condition {
    /// What tells it from others.
    pub fn key(&self) -> String {
        format!("{} {} {}", self.kind, self.pool.as_deref().unwrap_or("-"), self.subject)
    }
}

/// What is known of everything.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Seconds since 1970.
    pub now_secs: u64,
    /// The pools; none while the engine doesn't tell.
    pub pools: Option<&'a [PoolReport]>,
    /// Identities and names of the pools in this supervisor's records.
    pub known_pools: &'a [(String, String)],
    /// The engine; none while it doesn't answer.
    pub process: Option<&'a ProcessState>,
    /// What is made of volumes.
    pub services: &'a [VolumeServices],
    /// What the supervisor itself complains about.
    pub troubles: &'a [String],
    /// Disks that are slow.
    pub slow: &'a [Slow],
}

/// A scrub that is late by less is none to tell of.
const SCRUB_GRACE_SECS: u64 = 7 * 24 * 3600;
/// Shares of space in use from which on people are told, in percent.
const SPACE_WARNING: u64 = 80;
const SPACE_ERROR: u64 = 90;

/// All that is wrong now, but for incidents.
pub fn conditions(seen: &Seen<'_>) -> Vec<Condition> {
    let mut found = Found(Vec::new());
    match seen.process {
        None => {
            let text = "the engine doesn't answer: no pool is served".to_owned();
            let remedy = "it is started again by itself; see the supervisor's log";
            found.add(Kind::EngineDown, (None, ""), Severity::Error, text, remedy);
        }
        Some(process) => {
            if seen.pools.is_none() {
                let text = "the engine doesn't say how its pools are: what is shown of them is old";
                let remedy =
                    "it is asked again each time; where that lasts, see the supervisor's log";
                let about = (None, "pools");
                found.add(Kind::EngineDown, about, Severity::Error, text.to_owned(), remedy);
            }
            for interface in &process.interfaces {
                let Some(why) = &interface.trouble else { continue };
                let text = format!("interface {} is not used: {why}", interface.name);
                let remedy = "see cable, switch and `ip link`";
                found.add(
                    Kind::InterfaceDown,
                    (None, &interface.name),
                    Severity::Warning,
                    text,
                    remedy,
                );
            }
            for trouble in &process.troubles {
                found.add(
                    Kind::ServiceFailed,
                    (None, trouble),
                    Severity::Warning,
                    trouble.clone(),
                    service_remedy(),
                );
            }
        }
    }
    for trouble in seen.troubles {
        let (about, remedy) = ((None, trouble.as_str()), service_remedy());
        found.add(Kind::SupervisorTrouble, about, Severity::Warning, trouble.clone(), remedy);
    }
    for pool in seen.pools.unwrap_or_default() {
        of_pool(&mut found, pool, seen);
    }
    if let Some(pools) = seen.pools {
        for (id, name) in seen.known_pools {
            if pools.iter().all(|pool| pool.id != *id) {
                let text = format!("pool {name} is not there: none of its disks is present");
                let remedy = format!(
                    "see whether its machines run and the network reaches them; if they are gone for good: \
                     etherpool pool release {name}"
                );
                found.add(Kind::PoolNotOpen, (Some(name), ""), Severity::Error, text, &remedy);
            }
        }
    }
    for service in seen.services {
        of_service(&mut found, service);
    }
    for slow in seen.slow {
        let text = format!(
            "disk {} of {} in pool {} is slow: nine of ten operations take up to {} ms, those of its peers {} ms",
            slow.disk, slow.node, slow.pool, slow.p90_ms, slow.peers_p90_ms
        );
        let remedy = format!(
            "look at the drive and its machine; to do without it: etherpool pool evacuate {} {}",
            slow.pool, slow.disk
        );
        found.add(Kind::DiskSlow, (Some(&slow.pool), &slow.disk), Severity::Warning, text, &remedy);
    }
    found.0
}

struct Found(Vec<Condition>);

impl Found {
    fn add(
        &mut self,
        kind: Kind,
        (pool, subject): (Option<&str>, &str),
        severity: Severity,
        text: String,
        remedy: &str,
    ) {
        let (pool, subject) = (pool.map(str::to_owned), subject.to_owned());
        let remedy = remedy.to_owned();
        self.0.push(Condition { kind, pool, subject, severity, text, remedy });
    }
}

fn of_pool(found: &mut Found, pool: &PoolReport, seen: &Seen<'_>) {
    let name = pool.name.as_str();
    let about = (Some(name), "");
    let show = format!("see `etherpool pool show {name}`");
    let is_known = seen.known_pools.iter().any(|(id, _)| *id == pool.id);
    if pool.read_only {
        // It isn't this supervisor's to heal; but if it was to be served here, it isn't.
        if is_known {
            let text = format!("pool {name} is only read here, it isn't open");
            let remedy = format!("when that is done: etherpool pool release {name}");
            found.add(Kind::PoolNotOpen, about, Severity::Error, text, &remedy);
        }
        return;
    }
    match &pool.state {
        PoolState::Suspended { why } => {
            let text = format!("pool {name} {}: {why}", super::meaning::how_suspended(pool));
            found.add(Kind::PoolSuspended, about, Severity::Error, text, &show);
        }
        PoolState::Degraded => {
            let text = format!("pool {name} is degraded; it survives {}", failures(pool.survives));
            found.add(Kind::PoolDegraded, about, Severity::Warning, text, &show);
        }
        // One that nobody opens here lacks nothing here.
        PoolState::Incomplete { why } if pool.ours => {
            let text = format!("pool {name} can't be opened: {why}");
            let remedy = format!(
                "see `etherpool pool show {name}`; if they are gone for good: etherpool pool release {name}"
            );
            found.add(Kind::PoolNotOpen, about, Severity::Error, text, &remedy);
        }
        PoolState::Fenced => {
            let text = format!("pool {name} was taken over by another supervisor");
            let remedy = format!(
                "see by whom: etherpool pool show {name}; release it there before it is imported here"
            );
            found.add(Kind::PoolTaken, about, Severity::Error, text, &remedy);
        }
        PoolState::Foreign if is_known => {
            let owner = &pool.owner;
            let text = format!("pool {name}, which was this supervisor's, is owned by {owner}");
            found.add(Kind::PoolTaken, about, Severity::Error, text, &show);
        }
        _ => {}
    }
    if !pool.is_open() {
        return;
    }
    if pool.votes.present < pool.votes.total {
        let (present, total) = (pool.votes.present, pool.votes.total);
        let text = format!(
            "pool {name}: {present} of {total} votes are in reach, {} are needed",
            total / 2 + 1
        );
        found.add(Kind::PoolVotes, about, Severity::Warning, text, &show);
    }
    // While something moves it is judged by what may be there soon.
    let moves = pool.jobs.iter().any(|job| job.kind != "scrub");
    if let Some(spare) = pool.spare.as_ref().filter(|spare| !spare.is_held() && !moves) {
        let lacks = spare.lacks.as_deref().unwrap_or("it lacks space");
        let text = format!("pool {name} doesn't hold its spare: {lacks}");
        let remedy = format!(
            "bring disks back or add some: etherpool pool extend {name} DISK; if it is to go without: etherpool \
             pool set {name} spare off"
        );
        found.add(Kind::PoolSpare, about, Severity::Warning, text, &remedy);
    }
    // What is kept for a loss is there for it, and no volume's. Where that isn't enough it is said so.
    let spare = pool.spare.as_ref().filter(|spare| spare.is_held());
    let free = spare.map_or(pool.free_bytes, |spare| spare.left_bytes);
    let away = pool.disks.iter().filter(|disk| disk.state != DiskState::Usable);
    let free_away: u64 = away.map(|disk| disk.free_bytes).sum();
    let used = pool.capacity_bytes.saturating_sub(pool.free_bytes).saturating_sub(free_away);
    if let Some((percent, severity)) = share(used, used.saturating_add(free)) {
        let beside = if spare.is_some() { " besides the spare" } else { "" };
        let text = format!(
            "{percent} % of the space of pool {name} is taken{beside}, {} are free",
            Human(free)
        );
        let remedy = format!(
            "add a disk: etherpool pool extend {name} DISK; where all is taken on purpose: ignore = [\"pool-space\"]"
        );
        found.add(Kind::PoolSpace, about, severity, text, &remedy);
    }
    for disk in &pool.disks {
        of_disk(found, pool, disk);
    }
    for volume in &pool.volumes {
        of_volume(found, pool, volume);
    }
    for job in &pool.jobs {
        let JobState::Waiting { why } = &job.state else { continue };
        let of = job.volume.as_ref().unwrap_or(&job.disk);
        let subject = format!("{} {of}", job.kind);
        let text = format!("pool {name}: the {} waits: {why}", subject.trim());
        let remedy = format!("see `etherpool pool jobs {name}`");
        found.add(Kind::JobWaits, (Some(name), &subject), Severity::Warning, text, &remedy);
    }
    of_scrub(found, pool, seen.now_secs);
}

fn of_scrub(found: &mut Found, pool: &PoolReport, now_secs: u64) {
    let (Some(scrub), name) = (&pool.scrub, pool.name.as_str()) else { return };
    let remedy = format!("etherpool pool scrub {name} --wait");
    if let Some(next) =
        scrub.next_secs.filter(|next| next.saturating_add(SCRUB_GRACE_SECS) < now_secs)
    {
        let late = spoken(std::time::Duration::from_secs(now_secs - next));
        let text = format!("pool {name}: a scrub has been due for {late}");
        found.add(Kind::ScrubOverdue, (Some(name), ""), Severity::Warning, text, &remedy);
    }
    let left = scrub.bad_blocks.saturating_sub(scrub.repaired_blocks);
    if scrub.ended_secs.is_some() && left > 0 {
        let text = format!(
            "pool {name}: the last scrub found {left} blocks wrong that it could not repair"
        );
        let remedy = format!(
            "what is lost is an error until it is written anew: see etherpool volume verify; then {remedy}"
        );
        found.add(Kind::ScrubDamage, (Some(name), ""), Severity::Error, text, &remedy);
    }
}

fn of_disk(found: &mut Found, pool: &PoolReport, disk: &PoolDisk) {
    let (name, about) = (pool.name.as_str(), (Some(pool.name.as_str()), disk.name.as_str()));
    // One that was never seen here is called by its place, "disk 0 of node-7".
    let typed = typed(&disk.name);
    let called = match disk.name.contains(' ') {
        true => disk.name.clone(),
        false => format!("disk {}", disk.name),
    };
    let place = format!("{called} ({})", disk.whereabouts());
    let remedy = format!("if it won't be back: etherpool pool replace {name} {typed} NEW");
    match &disk.state {
        DiskState::Missing | DiskState::Out => {
            let is =
                if disk.state == DiskState::Missing { "is gone" } else { "does not take part" };
            let text = format!("pool {name}: {place} {is}");
            let remedy = match pool.state {
                // Another disk in its place wouldn't have what it has.
                PoolState::Suspended { .. } => {
                    format!("bring it back, its pool waits: see `etherpool pool show {name}`")
                }
                _ if is_emptied(pool, disk) => {
                    format!(
                        "nothing of the pool is on it any more: etherpool pool remove {name} {typed}"
                    )
                }
                _ => remedy,
            };
            found.add(Kind::DiskGone, about, Severity::Warning, text, &remedy);
        }
        DiskState::RolledBack => {
            let text =
                format!("pool {name}: {place} came back with older contents and is resynced");
            let remedy = format!(
                "a drive that loses what it said it had written is one to replace: etherpool pool replace {name} {typed} NEW"
            );
            found.add(Kind::DiskRolledBack, about, Severity::Warning, text, &remedy);
        }
        DiskState::Refused { why } => {
            let text = format!("pool {name}: {place} is not used: {why}");
            let remedy = "see `etherpool disk list`";
            found.add(Kind::DiskRefused, about, Severity::Warning, text, remedy);
        }
        DiskState::Free
        | DiskState::InUse
        | DiskState::Seen
        | DiskState::Usable
        | DiskState::Offline
        | DiskState::Destroyed => {}
    }
    if let Some(offline) = &disk.offline {
        let remedy = format!("when it is to be used again: etherpool disk online {name} {typed}");
        let text = match &offline.waits {
            None => format!(
                "pool {name}: {place} is offline since {}, as somebody wants: redundancy is reduced, and nothing \
                 is rebuilt",
                CalendarTime::since_1970(offline.since_secs)
            ),
            Some(why) => {
                format!("pool {name}: {place} is to be offline, and is needed: {why}")
            }
        };
        found.add(Kind::DiskOffline, about, Severity::Warning, text, &remedy);
    }
    if let Some(health) = &disk.health {
        of_drive(found, about, &place, disk, health);
    }
    if let Some(why) = &disk.rebuild_waits {
        let text = format!("pool {name}: what {place} had is not rebuilt: {why}");
        let remedy = format!("see `etherpool pool show {name}`");
        found.add(Kind::RebuildWaits, about, Severity::Warning, text, &remedy);
    }
}

/// A disk's name as it is typed.
pub(super) fn typed(name: &str) -> String {
    if name.contains(' ') { format!("'{name}'") } else { name.to_owned() }
}

/// Whether a job has brought all that the disk had to others. A new disk may have the name of one that is gone: of either
/// isn't said what may be meant of the other.
fn is_emptied(pool: &PoolReport, disk: &PoolDisk) -> bool {
    let is_one = pool.disks.iter().filter(|other| other.name == disk.name).count() == 1;
    is_one && pool.jobs.iter().any(|job| job.disk == disk.name && job.state == JobState::Done)
}

/// What a drive says of itself: it may go on for years, or die today, so the way out is offered before it must be taken.
fn of_drive(
    found: &mut Found,
    (pool, subject): (Option<&str>, &str),
    place: &str,
    disk: &PoolDisk,
    health: &DriveHealth,
) {
    let (name, typed) = (pool.unwrap_or_default(), typed(&disk.name));
    let (kind, severity) = match health.state {
        HealthState::Good => return,
        HealthState::Ageing => (Kind::DiskAgeing, Severity::Warning),
        HealthState::Failing => (Kind::DiskFailing, Severity::Error),
    };
    let text = format!("pool {name}: the drive of {place} is {}: {}", health.state, health.reason);
    let remedy = format!(
        "empty it while it can be read: etherpool pool evacuate {name} {typed}, or replace {name} {typed} NEW"
    );
    found.add(kind, (pool, subject), severity, text, &remedy);
}

fn of_volume(found: &mut Found, pool: &PoolReport, volume: &VolumeReport) {
    let about = (Some(pool.name.as_str()), volume.name.as_str());
    let name = format!("{}/{}", pool.name, volume.name);
    let promised = volume.promised_copies().saturating_sub(1);
    if volume.survives_disks < promised {
        let severity = match volume.survives_disks {
            0 => Severity::Error,
            _ => Severity::Warning,
        };
        let of_disks = failures(volume.survives_disks);
        let survives = match (volume.survives_disks, volume.survives_nodes) {
            (0, 0) => format!("{of_disks} of disks or machines"),
            (_, 0) => format!("{of_disks} of disks and none of machines"),
            (_, machines) => format!("{of_disks} of disks and {machines} of machines"),
        };
        let text = format!("volume {name} ({}) survives {survives} now", volume.layout);
        let remedy = format!(
            "bring back what is gone, or have it rebuilt: see `etherpool pool show {}`",
            pool.name
        );
        found.add(Kind::VolumeRedundancy, about, severity, text, &remedy);
    }
    if volume.shared_groups > 0 {
        let text = format!(
            "volume {name} ({}) has two copies of {} of its groups in one failure domain",
            volume.layout, volume.shared_groups
        );
        let remedy = format!(
            "move them apart: etherpool pool rebalance {}; or put back what was changed, a disk or a label",
            pool.name
        );
        found.add(Kind::VolumeTogether, about, Severity::Warning, text, &remedy);
    }
    if let Some((percent, severity)) = share(volume.log_bytes, volume.log_capacity_bytes) {
        let text =
            format!("{percent} % of the log of volume {name} is taken: writers wait, or soon will");
        let remedy = format!("see what it waits for: etherpool volume stats {name}");
        found.add(Kind::LogSpace, about, severity, text, &remedy);
    }
}

/// What is wrong with a service says itself what stands in its way.
fn service_remedy() -> &'static str {
    "do what the message says; the supervisor tries it again by itself"
}

fn of_service(found: &mut Found, service: &VolumeServices) {
    let waits = [&service.mount, &service.ftp].contains(&&ServiceState::Waiting);
    let why = match &service.trouble {
        Some(why) => why.clone(),
        None if waits => "it waits for its volume".to_owned(),
        None => return,
    };
    let name = service.volume.to_string();
    let text = format!("what is served of {name} is not there: {why}");
    let about = (Some(service.volume.pool()), service.volume.volume());
    found.add(Kind::ServiceFailed, about, Severity::Error, text, service_remedy());
}

pub(super) fn failures(count: u32) -> String {
    match count {
        0 => "no further failure".to_owned(),
        1 => "1 further failure".to_owned(),
        count => format!("{count} further failures"),
    }
}

/// How much is taken in percent, and how bad that is.
fn share(used: u64, of: u64) -> Option<(u64, Severity)> {
    let percent = u128::from(used).checked_mul(100)?.checked_div(u128::from(of))? as u64;
    match percent {
        SPACE_ERROR.. => Some((percent, Severity::Error)),
        SPACE_WARNING.. => Some((percent, Severity::Warning)),
        _ => None,
    }
}
