//! A supervisor's pools, volumes, disks, jobs and alerts as Prometheus reads them. What a supervisor exports by AoE
//! has [`crate::node::metrics`], as any target.

use block::{DriveHealth, HealthState};
use pool::{DiskState, JobReport, JobState, PoolDisk, PoolReport, Severity, VolumeReport};

use crate::alerts::{AlertsReport, ChannelReport};
use crate::api::PoolReportExt as _;
use crate::exposition::Page;

/// What there is to tell.
#[derive(Clone, Copy, Debug)]
pub struct Supervisor<'a> {
    /// Its machine.
    pub host: &'a str,
    /// Its program's version.
    pub version: &'a str,
    /// Whether its engine answers.
    pub engine_is_up: bool,
    /// How often the engine was replaced.
    pub engine_restarts: u64,
    /// The pools that are present.
    pub pools: &'a [PoolReport],
    /// What is wrong, and who is told.
    pub alerts: &'a AlertsReport,
}

/// The text.
pub fn metrics(supervisor: &Supervisor<'_>) -> String {
    let mut page = Page::default();
    let labels = [("host", supervisor.host), ("version", supervisor.version)];
    page.family("etherpool_supervisor_info", "gauge", "The supervisor and its program.");
    page.sample("etherpool_supervisor_info", &labels, 1);
    page.family("etherpool_engine_up", "gauge", "1 if the engine answers.");
    page.sample("etherpool_engine_up", &[], supervisor.engine_is_up.into());
    page.family("etherpool_engine_restarts_total", "counter", "How often the engine was replaced.");
    page.sample("etherpool_engine_restarts_total", &[], supervisor.engine_restarts);
    states(&mut page, supervisor.pools);
    let open: Vec<&PoolReport> = supervisor.pools.iter().filter(|pool| pool.is_open()).collect();
    pools(&mut page, &open);
    spares(&mut page, &open);
    scrubs(&mut page, &open);
    disks(&mut page, &open);
    drives(&mut page, &open);
    volumes(&mut page, &open);
    jobs(&mut page, &open);
    alerts(&mut page, supervisor.alerts);
    page.into_text()
}

const POOL_STATES: [&str; 8] =
    ["online", "degraded", "suspended", "foreign", "fenced", "incomplete", "opening", "released"];

fn states(page: &mut Page, pools: &[PoolReport]) {
    let name = "etherpool_pool_state";
    page.family(name, "gauge", "1 for the state in which a pool is, 0 for the others.");
    for pool in pools {
        for state in POOL_STATES {
            let labels = [("pool", pool.name.as_str()), ("state", state)];
            page.sample(name, &labels, (pool.state.word() == state).into());
        }
    }
    let name = "etherpool_pool_is_ours";
    page.family(name, "gauge", "1 if the pool is this supervisor's.");
    for pool in pools {
        page.sample(name, &[("pool", &pool.name)], pool.is_ours().into());
    }
}

fn pools(page: &mut Page, pools: &[&PoolReport]) {
    type Value = fn(&PoolReport) -> u64;
    let families: [(&str, &str, Value); 7] = [
        ("etherpool_pool_capacity_bytes", "Space of a pool for data.", |p| p.capacity_bytes),
        ("etherpool_pool_free_bytes", "Of that, what volumes can have now.", |p| p.free_bytes),
        (
            "etherpool_pool_survivable_failures",
            "How many more machines (or disks, by the pool's failure domain) may fail.",
            |p| p.survives.into(),
        ),
        ("etherpool_pool_votes", "Votes of a pool.", |p| p.votes.total.into()),
        ("etherpool_pool_votes_present", "Votes in reach.", |p| p.votes.present.into()),
        ("etherpool_pool_lease_ok", "1 while the pool may be served.", |p| p.lease_ok.into()),
        ("etherpool_pool_epoch", "How often the pool was opened.", |p| p.epoch),
    ];
    for (name, help, value) in families {
        page.family(name, "gauge", help);
        for pool in pools {
            page.sample(name, &[("pool", &pool.name)], value(pool));
        }
    }
}

fn spares(page: &mut Page, pools: &[&PoolReport]) {
    type Value = fn(&pool::SpareReport) -> u64;
    let families: [(&str, &str, Value); 3] = [
        (
            "etherpool_pool_spare_left_bytes",
            "Of the free space, what volumes can have beside what is kept for a loss; all copies counted.",
            |spare| spare.left_bytes,
        ),
        (
            "etherpool_pool_spare_kept_bytes",
            "Of the free space, what is kept for a loss and no volume gets.",
            |spare| spare.kept_bytes,
        ),
        (
            "etherpool_pool_spare_lacking_bytes",
            "What might find no place after the loss that the spare is for; 0 while it is held.",
            |spare| spare.lacks_bytes,
        ),
    ];
    for (name, help, value) in families {
        page.family(name, "gauge", help);
        for pool in pools {
            if let Some(spare) = &pool.spare {
                page.sample(name, &[("pool", &pool.name)], value(spare));
            }
        }
    }
}

fn scrubs(page: &mut Page, pools: &[&PoolReport]) {
    type Value = fn(&pool::ScrubReport) -> Option<u64>;
    let families: [(&str, &str, Value); 7] = [
        ("etherpool_pool_scrub_begin_timestamp_seconds", "When the last scrub began.", |scrub| {
            scrub.begun_secs
        }),
        (
            "etherpool_pool_scrub_end_timestamp_seconds",
            "When the last scrub was done; none while one is under way or if it was cancelled.",
            |scrub| scrub.ended_secs,
        ),
        ("etherpool_pool_scrub_next_timestamp_seconds", "When the next one is due.", |scrub| {
            scrub.next_secs
        }),
        ("etherpool_pool_scrub_blocks", "Blocks that the last scrub compared.", |scrub| {
            Some(scrub.blocks)
        }),
        ("etherpool_pool_scrub_bad_blocks", "Of these, those that were wrong.", |scrub| {
            Some(scrub.bad_blocks)
        }),
        (
            "etherpool_pool_scrub_repaired_blocks",
            "Of these, those that are right again.",
            |scrub| Some(scrub.repaired_blocks),
        ),
        ("etherpool_pool_scrub_unread_blocks", "Blocks that weren't compared.", |scrub| {
            Some(scrub.unread_blocks)
        }),
    ];
    for (name, help, value) in families {
        page.family(name, "gauge", help);
        for pool in pools {
            if let Some(value) = pool.scrub.as_ref().and_then(value) {
                page.sample(name, &[("pool", &pool.name)], value);
            }
        }
    }
}

const DISK_STATES: [&str; 6] = ["usable", "offline", "out", "missing", "rolled-back", "refused"];

fn disk_state(disk: &PoolDisk) -> &'static str {
    match disk.state {
        DiskState::Usable => "usable",
        DiskState::Offline => "offline",
        DiskState::Out => "out",
        DiskState::RolledBack => "rolled-back",
        DiskState::Refused { .. } => "refused",
        DiskState::Missing
        | DiskState::Free
        | DiskState::InUse
        | DiskState::Seen
        | DiskState::Destroyed => "missing",
    }
}

fn disks(page: &mut Page, pools: &[&PoolReport]) {
    let of = || pools.iter().flat_map(|pool| pool.disks.iter().map(|disk| (&pool.name, disk)));
    let name = "etherpool_pool_disk_state";
    page.family(name, "gauge", "1 for the state in which a disk is, 0 for the others.");
    for (pool, disk) in of() {
        for state in DISK_STATES {
            let labels = [
                ("pool", pool.as_str()),
                ("disk", &disk.name),
                ("node", &disk.node),
                ("state", state),
            ];
            page.sample(name, &labels, (disk_state(disk) == state).into());
        }
    }
    type Value = fn(&PoolDisk) -> u64;
    let families: [(&str, &str, &str, Value); 5] = [
        ("etherpool_pool_disk_size_bytes", "gauge", "Size of a disk.", |d| d.size_bytes),
        ("etherpool_pool_disk_free_bytes", "gauge", "Space that no volume has.", |d| d.free_bytes),
        ("etherpool_pool_disk_dirty_bytes", "gauge", "What it has to resync.", |d| d.dirty_bytes),
        (
            "etherpool_pool_disk_checksum_errors_total",
            "counter",
            "Blocks that didn't match their checksum.",
            |d| d.checksum_errors,
        ),
        ("etherpool_pool_disk_votes", "gauge", "1 if it has a vote.", |d| d.holds_vote.into()),
    ];
    for (name, kind, help, value) in families {
        page.family(name, kind, help);
        for (pool, disk) in of() {
            let labels = [("pool", pool.as_str()), ("disk", &disk.name), ("node", &disk.node)];
            page.sample(name, &labels, value(disk));
        }
    }
}

/// What drives say of themselves; no sample of what one doesn't say.
fn drives(page: &mut Page, pools: &[&PoolReport]) {
    let of = || {
        pools.iter().flat_map(|pool| {
            let disks = pool.disks.iter();
            disks.filter_map(|disk| Some((pool.name.as_str(), disk, disk.health.as_ref()?)))
        })
    };
    let name = "etherpool_pool_disk_health";
    page.family(name, "gauge", "1 for how a drive says that it is, 0 for the others.");
    for (pool, disk, health) in of() {
        for state in [HealthState::Good, HealthState::Ageing, HealthState::Failing] {
            let labels = [
                ("pool", pool),
                ("disk", &disk.name),
                ("node", &disk.node),
                ("health", state.name()),
            ];
            page.sample(name, &labels, (health.state == state).into());
        }
    }
    type Value = fn(&DriveHealth) -> Option<u64>;
    let families: [(&str, &str, Value); 4] = [
        ("etherpool_pool_disk_temperature_celsius", "Temperature of a drive.", |health| {
            health.temperature_celsius.map(|celsius| celsius.max(0) as u64)
        }),
        ("etherpool_pool_disk_power_on_seconds", "How long a drive was on.", |health| {
            health.power_on_hours.map(|hours| u64::from(hours) * 3600)
        }),
        ("etherpool_pool_disk_reallocated_sectors", "Sectors replaced by spare ones.", |health| {
            health.reallocated
        }),
        ("etherpool_pool_disk_unreadable_sectors", "Sectors that it can't read.", |health| {
            health.unreadable
        }),
    ];
    for (name, help, value) in families {
        page.family(name, "gauge", help);
        for (pool, disk, health) in of() {
            let labels = [("pool", pool), ("disk", disk.name.as_str()), ("node", &disk.node)];
            if let Some(value) = value(health) {
                page.sample(name, &labels, value);
            }
        }
    }
    let name = "etherpool_pool_disk_wear_ratio";
    page.family(name, "gauge", "Of the writing that it was made for, what a drive has done.");
    for (pool, disk, health) in of() {
        let labels = [("pool", pool), ("disk", disk.name.as_str()), ("node", &disk.node)];
        if let Some(percent) = health.wear_percent {
            page.percent(name, &labels, percent);
        }
    }
}

fn volumes(page: &mut Page, pools: &[&PoolReport]) {
    type Value = fn(&VolumeReport) -> u64;
    let families: [(&str, &str, &str, Value); 11] = [
        ("etherpool_volume_size_bytes", "gauge", "Size of a volume.", |v| v.size_bytes),
        ("etherpool_volume_degraded", "gauge", "1 if it has fewer copies than it should.", |v| {
            v.degraded.into()
        }),
        ("etherpool_volume_suspended", "gauge", "1 while its requests wait.", |v| {
            v.suspended().is_some().into()
        }),
        (
            "etherpool_volume_survivable_disk_failures",
            "gauge",
            "How many more disks may fail before it loses something.",
            |v| v.survives_disks.into(),
        ),
        (
            "etherpool_volume_survivable_machine_failures",
            "gauge",
            "How many more machines may fail before it loses something.",
            |v| v.survives_nodes.into(),
        ),
        (
            "etherpool_volume_shared_groups",
            "gauge",
            "Groups that have two copies in one failure domain.",
            |v| v.shared_groups,
        ),
        ("etherpool_volume_dirty_bytes", "gauge", "What some copy has to resync.", |v| {
            v.dirty_bytes
        }),
        ("etherpool_volume_log_bytes", "gauge", "What is in its log and not in place.", |v| {
            v.log_bytes
        }),
        ("etherpool_volume_log_capacity_bytes", "gauge", "What its log has room for.", |v| {
            v.log_capacity_bytes
        }),
        ("etherpool_volume_resynced_bytes_total", "counter", "Bytes copied in resync.", |v| {
            v.resynced_bytes
        }),
        ("etherpool_volume_repaired_blocks_total", "counter", "Blocks repaired.", |v| {
            v.repaired_blocks
        }),
    ];
    for (name, kind, help, value) in families {
        page.family(name, kind, help);
        for (volume, report) in pools.iter().flat_map(|pool| pool.named_volumes()) {
            page.sample(name, &[("volume", &volume.to_string())], value(report));
        }
    }
}

fn jobs(page: &mut Page, pools: &[&PoolReport]) {
    type Value = fn(&JobReport) -> u64;
    let families: [(&str, &str, Value); 3] = [
        ("etherpool_job_size_bytes", "What a job was to move or read when it began.", |job| {
            job.total_bytes
        }),
        ("etherpool_job_left_bytes", "Of that, what it hasn't yet.", |job| job.left_bytes),
        ("etherpool_job_waiting", "1 if it can't go on.", |job| {
            matches!(job.state, JobState::Waiting { .. }).into()
        }),
    ];
    for (name, help, value) in families {
        page.family(name, "gauge", help);
        for (pool, job) in pools.iter().flat_map(|p| p.jobs.iter().map(move |job| (&p.name, job))) {
            let number = job.number.to_string();
            let labels = [
                ("pool", pool.as_str()),
                ("job", &number),
                ("kind", &job.kind),
                ("disk", &job.disk),
                ("volume", job.volume.as_deref().unwrap_or_default()),
            ];
            page.sample(name, &labels, value(job));
        }
    }
}

fn alerts(page: &mut Page, alerts: &AlertsReport) {
    let name = "etherpool_alerts";
    page.family(name, "gauge", "What people were told of that still lasts.");
    for severity in [Severity::Info, Severity::Warning, Severity::Error] {
        let count = alerts.raised.iter().filter(|one| one.condition.severity == severity).count();
        page.sample(name, &[("severity", severity.word())], count as u64);
    }
    let name = "etherpool_alert";
    page.family(name, "gauge", "Each of them: 1.");
    for alert in &alerts.raised {
        let condition = &alert.condition;
        let (kind, pool) = (condition.kind.name(), condition.pool.as_deref().unwrap_or_default());
        let severity = condition.severity.word();
        let labels = [
            ("kind", kind),
            ("pool", pool),
            ("subject", &condition.subject),
            ("severity", severity),
        ];
        page.sample(name, &labels, 1);
    }
    type Value = fn(&ChannelReport) -> u64;
    let families: [(&str, &str, &str, Value); 5] = [
        ("etherpool_alert_channel_ok", "gauge", "0 if messages don't go out by it.", |channel| {
            channel.trouble.is_none().into()
        }),
        ("etherpool_alert_messages_delivered_total", "counter", "Messages delivered.", |channel| {
            channel.delivered
        }),
        (
            "etherpool_alert_delivery_failures_total",
            "counter",
            "Attempts that failed.",
            |channel| channel.failures,
        ),
        ("etherpool_alert_messages_lost_total", "counter", "Messages given up.", |channel| {
            channel.lost
        }),
        ("etherpool_alert_messages_waiting", "gauge", "Messages that wait.", |channel| {
            channel.waiting
        }),
    ];
    for (name, kind, help, value) in families {
        page.family(name, kind, help);
        for channel in &alerts.channels {
            page.sample(name, &[("channel", &channel.name)], value(channel));
        }
    }
}

#[cfg(test)]
mod tests {
    use pool::PoolState;

    use super::*;

    #[test]
    fn every_state_of_a_pool_has_its_series() {
        for state in [
            PoolState::Online,
            PoolState::Degraded,
            PoolState::Suspended { why: String::new() },
            PoolState::Foreign,
            PoolState::Fenced,
            PoolState::Incomplete { why: String::new() },
            PoolState::Opening,
            PoolState::Released,
        ] {
            assert!(POOL_STATES.contains(&state.word()), "{state:?}");
        }
    }
}
