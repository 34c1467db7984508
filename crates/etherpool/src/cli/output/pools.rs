//! Pools.

use std::collections::BTreeSet;
use std::time::Duration;

use block::size::Human;
use block::spoken;
use control::api::{GrownPool, ImportResult, PoolPlan, PoolReportExt as _, WitnessPlan};
use pool::{
    DiskState, ImportPlan, OfflineReport, PoolDisk, PoolForecast, PoolReport, PoolState, Spare,
    SpareReport,
};

use super::disks::{disk_state_word, health, health_line};
use super::jobs::{job_rows, scrub};
use super::labels::{joins, labels_of, survival};
use super::volumes::volume_rows;
use super::{Cell, Failure, ListArgs, Listing, calendar_time, facts, lines, table};

/// `pool list`, not wider than the terminal where there is one.
pub fn pools(pools: &[PoolReport], args: &ListArgs, width: Option<u16>) -> Result<String, Failure> {
    if pools.is_empty() && args.is_for_people() {
        return Ok("No pools found; make one with `etherpool pool create NAME DISK...`\n".into());
    }
    let heads = ["POOL", "STATE", "SIZE", "FREE", "DISKS", "VOLUMES", "SURVIVES"];
    let mut listing = Listing::new(&heads);
    for pool in pools {
        listing.add(vec![
            pool.name.clone().into(),
            format!("{}{}", pool_state(pool), read_only(pool)).into(),
            Cell::Bytes(pool.capacity_bytes),
            Cell::Bytes(pool.free_beside_spare_bytes()),
            Cell::Count(pool.disks.len()),
            Cell::Count(pool.volumes.len()),
            survives(pool).into(),
        ]);
    }
    listing.text(args, width)
}

/// All columns of them, as they come.
pub fn pool_table(all: &[PoolReport], width: Option<u16>) -> String {
    // Only a column that isn't there is refused, and none is named.
    pools(all, &ListArgs::default(), width).unwrap_or_default()
}

/// `pool show`; `now_secs` since 1970.
pub fn pool(report: &PoolReport, now_secs: u64) -> String {
    let mut rows = vec![
        ("pool", report.name.clone()),
        ("id", report.id.clone()),
        ("state", format!("{}{}", pool_state(report), read_only(report))),
        ("owner", owner(report)),
        ("space", space(report)),
        ("survives", survives(report)),
        (
            "votes",
            format!(
                "{} of {} in reach{}",
                report.votes.present,
                report.votes.total,
                if report.lease_ok { "" } else { ", no lease" }
            ),
        ),
        ("scrub", scrub(report, now_secs)),
    ];
    if let Some(spare) = &report.spare {
        rows.insert(5, ("spare", spare_row(spare)));
    }
    let mut text = facts(&rows);
    let mut head = vec![
        "DISK",
        "NODE",
        "SIZE",
        "FREE",
        "ROLE",
        "STATE",
        "MISSED",
        "CHECKSUM ERRORS",
        "HEALTH",
        "VOTE",
    ];
    let are_labelled = report.disks.iter().any(|disk| !disk.labels.is_empty());
    head.extend(are_labelled.then_some("LABELS"));
    let mut disks = table(&head);
    for disk in &report.disks {
        let mut row = vec![
            disk.name.clone(),
            disk.node.clone(),
            Human(disk.size_bytes).to_string(),
            match disk.state {
                DiskState::Usable => Human(disk.free_bytes).to_string(),
                // Nobody can have it.
                _ => "-".into(),
            },
            if disk.is_witness { "witness" } else { "data" }.into(),
            disk_state_word(&disk.state),
            Human(disk.dirty_bytes).to_string(),
            disk.checksum_errors.to_string(),
            health(disk.health.as_ref()),
            if disk.holds_vote { "yes" } else { "-" }.into(),
        ];
        row.extend(are_labelled.then(|| labels_of(&disk.labels)));
        disks.add_row(row);
    }
    text.push('\n');
    text.push_str(&lines(&disks));
    for disk in &report.disks {
        if let Some(last) = last_seen(disk).filter(|_| disk.state == DiskState::Missing) {
            text.push_str(&format!("{} is missing: {last}\n", disk.name));
        }
        if let DiskState::Refused { why } = &disk.state {
            text.push_str(&format!("{} is refused: {why}\n", disk.name));
        }
        text.extend(health_line(&disk.name, disk.health.as_ref()));
        if let Some(offline) = &disk.offline {
            text.push_str(&offline_line(report, disk, offline));
        }
        if let Some(why) = &disk.rebuild_waits {
            text.push_str(&format!("What {} had isn't rebuilt: {why}\n", disk.name));
        }
    }
    if let Some(machines) = lacking_votes(report) {
        let apart = if are_labelled { ", that no label joins with these" } else { "" };
        text.push_str(&format!(
            "The votes are on {machines} machines: one more to vote would let one more be lost, a disk of another\n\
             machine{apart} or only a witness, there or, if it has no disks of the pool, on the\n\
             supervisor's (pool extend {} --witness supervisor)\n",
            report.name
        ));
    }
    if !report.jobs.is_empty() {
        text.push('\n');
        text.push_str(&job_rows(&report.jobs));
    }
    if !report.volumes.is_empty() {
        text.push('\n');
        text.push_str(&volume_rows(
            report.volumes.iter().map(|volume| (volume.name.clone(), volume)),
        ));
        text.push_str(&survival(report));
    }
    text
}

/// How large it is, and what volumes can have of it.
fn space(report: &PoolReport) -> String {
    let beside = if report.spare.is_some() { " besides the spare" } else { "" };
    let (all, free) = (Human(report.capacity_bytes), Human(report.free_beside_spare_bytes()));
    format!("{all}, {free} free{beside}")
}

/// What a spare is for, and whether it is held.
fn spare_row(spare: &SpareReport) -> String {
    let held = if spare.is_held() { "held" } else { "not held" };
    let lacks = spare.lacks.as_ref().map_or_else(String::new, |lacks| format!(": {lacks}"));
    let keeps = match spare.keeps {
        Spare::Bytes(bytes) => Human(bytes).to_string(),
        keeps => keeps.to_string(),
    };
    let (kept, left) = (Human(spare.kept_bytes), nothing_left(spare));
    format!("{keeps}, {kept} of the free space are kept, {held}{lacks}{left}")
}

/// That it takes all there is, as of machines that are too few for it.
fn nothing_left(spare: &SpareReport) -> &'static str {
    match spare.is_held() && spare.left_bytes == 0 && spare.kept_bytes > 0 {
        true => "; that is all volumes could have",
        false => "",
    }
}

/// What is lost with what a spare is for.
pub fn spare_loss(spare: Spare) -> String {
    match spare {
        Spare::Disk => "is lost with any one disk".to_owned(),
        Spare::Node => "is lost with any one machine".to_owned(),
        Spare::Bytes(bytes) => {
            format!("is lost with any one disk that has no more than {} in use", Human(bytes))
        }
    }
}

/// What is added where a spare was set: what it takes, or that it isn't held.
pub fn spare_stands(spare: &SpareReport) -> String {
    match &spare.lacks {
        None => {
            let (kept, left) = (Human(spare.kept_bytes), nothing_left(spare));
            format!("; {kept} of the free space are kept for that{left}")
        }
        Some(lacks) => {
            let grows = match spare.left_bytes {
                0 => {
                    "Until it is, volumes get no more space: add disks (pool extend), or make volumes smaller"
                }
                _ => "Volumes may still grow, as disks that are away may be back",
            };
            format!("\n** It isn't held now: {lacks} **\n{grows}")
        }
    }
}

/// Where a disk was that isn't there, for whoever looks for it on the shelf.
fn last_seen(disk: &PoolDisk) -> Option<String> {
    let place = Some(disk.whereabouts()).filter(|place| !place.is_empty());
    let seen = disk.last_seen_secs.map(|secs| format!("last seen {}", calendar_time(secs)));
    let known: Vec<String> = place.into_iter().chain(seen).collect();
    (!known.is_empty()).then(|| known.join(", "))
}

/// That a disk is out of use, since when, and what ends that.
fn offline_line(report: &PoolReport, disk: &PoolDisk, offline: &OfflineReport) -> String {
    let (name, since) = (&disk.name, calendar_time(offline.since_secs));
    let back = format!("`etherpool disk online {} {name}` takes it into use again", report.name);
    match &offline.waits {
        None => format!(
            "** {name} is offline since {since}, as somebody wants: redundancy is reduced, nothing is rebuilt **\n   {back}\n"
        ),
        Some(why) => format!(
            "{name} is to be offline since {since}, and is still needed: {why}\n   {back}\n"
        ),
    }
}

/// How many machines vote, if one more to vote would help.
fn lacking_votes(report: &PoolReport) -> Option<usize> {
    let voters = report.disks.iter().filter(|disk| disk.holds_vote);
    let machines: BTreeSet<&str> = voters.map(|disk| disk.node.as_str()).collect();
    (report.is_open() && report.votes.lacks_witness).then_some(machines.len())
}

/// What making or extending a pool would do, with what becomes of the supervisor's vote.
pub fn pool_plan(plan: &PoolPlan) -> String {
    let mut text = forecast(&plan.forecast);
    match &plan.witness {
        Some(WitnessPlan::Kept { host, directory, bytes, beside_data }) => {
            let (bytes, directory) = (Human(*bytes), directory.display());
            text.push_str(&format!(
                "This supervisor ({host}) would be a witness, by a file of {bytes} in {directory}: it only votes.\n"
            ));
            let of_two = plan.forecast.votes.machines.len() == 2;
            text.push_str(match (*beside_data, of_two) {
                (true, true) => {
                    "Its machine has disks of the pool as well: without the other machine the pool goes on, and without this one\n\
                     it waits until it is back. A witness on a machine of its own would let either be lost.\n"
                }
                (true, false) => {
                    "Its machine has disks of the pool as well, whose vote goes with it: a witness on a machine of its own would\n\
                     let more be lost.\n"
                }
                (false, _) => "",
            });
        }
        Some(WitnessPlan::Lacking { why }) => {
            let votes = plan.forecast.votes.votes;
            text.push_str(&format!(
                "With {votes} votes one more would let more be lost, and this supervisor won't be a witness: {why}.\n"
            ));
        }
        None => {}
    }
    text
}

/// A pool that was made or extended, and why the supervisor is no witness of it.
pub fn grown_pool(grown: &GrownPool, now_secs: u64) -> String {
    let mut text = pool(&grown.report, now_secs);
    if let Some(WitnessPlan::Lacking { why }) = &grown.witness {
        text.push_str(&format!("This supervisor is no witness of it: {why}.\n"));
    }
    if let Some(file) = &grown.key_file {
        text.push_str(&format!("Its key, by which its disks know whom to obey, is in {file}.\n"));
        text.push_str(&crate::cli::pool_keys::keep(&grown.report.name));
    }
    text
}

/// What making or extending a pool would do, for the question before it.
pub fn forecast(forecast: &PoolForecast) -> String {
    let mut text = String::new();
    for loss in &forecast.losses {
        text.push_str(&format!("  ** {loss} **\n"));
    }
    text.push_str(&joins(&forecast.joined));
    text.push_str(&format!("The pool would have {}", Human(forecast.capacity_bytes)));
    let rooms = forecast.volumes.iter();
    let rooms: Vec<String> =
        rooms.map(|room| format!("{} as {}", Human(room.bytes), room.layout)).collect();
    if !rooms.is_empty() {
        text.push_str(&format!("; a new volume could have {}", rooms.join(", or ")));
    }
    text.push_str(".\n");
    text
}

/// Whose a pool is that would be imported.
pub fn import_plan(plan: &ImportPlan, read_only: bool) -> String {
    let heard = match plan.heard_ms {
        Some(ms) => format!("last heard by its disks {} ago", spoken(Duration::from_millis(ms))),
        None => "not heard by its disks since their machines were started".into(),
    };
    let owner = match (&plan.owner, &plan.owner_id) {
        _ if plan.is_ours => "this supervisor".to_owned(),
        (Some(name), Some(id)) => format!("the supervisor on {name} ({id}), {heard}"),
        _ => "nobody: it was released".to_owned(),
    };
    let how = if read_only { " read-only" } else { "" };
    let mut text = format!("Pool {} ({}) would be imported{how}.\n", plan.name, plan.id);
    text.push_str(&facts(&[
        ("owner", owner),
        ("votes", format!("{} of {} present", plan.votes.present, plan.votes.total)),
        ("key", plan.key.map_or("none".to_owned(), |key| key.to_string())),
        ("disks", plan.disks.join(", ")),
    ]));
    if read_only {
        text.push_str(
            "Nothing is written to its disks, and what is set for its volumes is gone when it is released. It \
             ends by\nitself as soon as its owner uses it again.\n",
        );
        if plan.no_quorum.is_some() {
            text.push_str(
                "** Without a majority of its votes nobody can tell whether its newest state is among these \
                 disks: what is\n** read may be older than what was written, and what is on other disks alone \
                 can't be read.\n",
            );
        }
    } else if plan.refusal.is_some() {
        text.push_str(
            "** Its owner is alive: what its clients have open would be cut off at once, and what \
             they were not told\n** to be written would be lost.\n",
        );
    } else if plan.owner.is_some() && !plan.is_ours {
        text.push_str("Its owner could neither write to it nor read from it any more.\n");
    }
    text
}

/// `pool import --all`.
pub fn imports(results: &[ImportResult]) -> String {
    if results.is_empty() {
        return "No pools available to import\n".into();
    }
    let mut text = String::new();
    for result in results {
        match (&result.report, &result.error) {
            (_, Some(error)) => text.push_str(&format!("{}: not imported: {error}\n", result.pool)),
            (Some(report), None) => {
                text.push_str(&format!("{}: imported, {}\n", result.pool, pool_state(report)));
            }
            (None, None) => text.push_str(&format!("{}: imported\n", result.pool)),
        }
    }
    text
}

/// A pool's owner; marked where it couldn't be looked at lately.
fn owner(report: &PoolReport) -> String {
    let name = if report.owner.is_empty() { "nobody" } else { report.owner.as_str() };
    match report.stale_secs {
        None => format!("{name} (epoch {})", report.epoch),
        Some(secs) => {
            format!(
                "{name} (epoch {}) as of {} ago; its votes do not answer now",
                report.epoch,
                spoken(Duration::from_secs(secs))
            )
        }
    }
}

/// Marks a pool that was imported read-only.
fn read_only(report: &PoolReport) -> &'static str {
    if report.read_only { ", read-only" } else { "" }
}

/// A pool's state in words, and what to do about it.
fn pool_state(pool: &PoolReport) -> String {
    let to_do = match pool.state {
        PoolState::Foreign => "; take it with `pool import`",
        PoolState::Destroyed => "; `pool destroy` frees its disks",
        PoolState::Released => "; open it with `pool import`",
        _ => "",
    };
    format!("{}{to_do}", pool.state_text())
}

/// How many failures a pool survives, where that can be said.
pub fn survives(report: &PoolReport) -> String {
    match report.state {
        PoolState::Online | PoolState::Degraded => match report.survives {
            0 => "no failure".into(),
            1 => "1 failure".into(),
            more => format!("{more} failures"),
        },
        _ => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::samples;
    use super::*;
    use control::api::{ApiError, ErrorCode};
    use pool::{JobReport, JobState};

    #[test]
    fn pools_as_people_see_them() {
        let mut degraded = samples::pool();
        degraded.name = "old".into();
        degraded.state = PoolState::Degraded;
        degraded.survives = 0;
        let text = pools(&[samples::pool(), degraded], &ListArgs::default(), None).unwrap();
        let expected = "\
POOL     STATE     SIZE      FREE      DISKS  VOLUMES  SURVIVES
cluster  online    3.00 GiB  1.00 GiB  1      1        1 failure
old      degraded  3.00 GiB  1.00 GiB  1      1        no failure
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn the_list_of_pools_is_not_wider_than_the_terminal() {
        let mut waiting = samples::pool();
        let reason =
            "2 of 5 votes are in reach, 3 are needed; bring back e1.0, e2.0 and e3.0".repeat(3);
        waiting.state = PoolState::Suspended { why: reason.clone() };
        let text = pools(&[waiting], &ListArgs::default(), Some(80)).unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "\n{text}");
        let words: Vec<&str> = text.split_whitespace().collect();
        assert!(reason.split_whitespace().all(|word| words.contains(&word)), "\n{text}");
    }

    #[test]
    fn a_pool_with_all_its_parts() {
        let text = pool(&samples::pool(), 1_000_000);
        let expected = "\
pool      cluster
id        11111111-1111-1111-1111-111111111111
state     online
owner     host (epoch 3)
space     3.00 GiB, 1.00 GiB free
survives  1 failure
votes     3 of 3 in reach
scrub     done 2 days ago: 8.00 KiB read, all of it right; the next one in 5 days

DISK  NODE  SIZE      FREE     ROLE  STATE   MISSED  CHECKSUM ERRORS  HEALTH  VOTE
e1.0  n1    1.00 GiB  512 MiB  data  usable  0 B     0                -       yes

VOLUME  SIZE      LAYOUT    STATE   TO CATCH UP  USED AS
v       1.00 GiB  mirror:2  online  0 B          mount /srv/v
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn why_a_disk_is_refused_stands_below_the_table() {
        let mut report = samples::pool();
        let why = "another machine shows it, and nobody has said that this is so on purpose";
        report.disks[0].state = DiskState::Refused { why: why.into() };
        let text = pool(&report, 1_000_000);
        assert!(text.contains(" refused  0 B "), "{text}");
        assert!(text.contains(&format!("\ne1.0 is refused: {why}\n")), "{text}");
    }

    #[test]
    fn where_one_more_vote_would_help_that_is_said() {
        let mut even = samples::pool();
        let voter = |node: &&str| pool::PoolDisk {
            node: (*node).to_owned(),
            ..samples::pool().disks[0].clone()
        };
        even.disks = ["n1", "n1", "n2"].iter().map(voter).collect();
        for lacks_witness in [true, false] {
            even.votes.lacks_witness = lacks_witness;
            let text = pool(&even, 1_000_000);
            let is_said = text.contains("cluster --witness supervisor)");
            assert_eq!(is_said, lacks_witness, "{text}");
        }
        even.disks[2].is_witness = true;
        assert!(pool(&even, 1_000_000).contains("  witness  "));
    }

    #[test]
    fn a_pools_jobs_stand_under_its_disks() {
        let mut busy = samples::pool();
        let state = JobState::Waiting { why: "e9.0 has no room for the rest".into() };
        busy.jobs = vec![samples::job(), JobReport { number: 3, state, ..samples::job() }];
        let text = pool(&busy, 1_000_000);
        let expected = "
JOB  KIND      DISK  TO  DONE  LEFT     STATE
2    evacuate  e1.0  -   75%   256 MiB  running
3    evacuate  e1.0  -   75%   256 MiB  waiting: e9.0 has no room for the rest

VOLUME ";
        assert!(text.contains(expected), "\n{text}");
    }

    #[test]
    fn a_plan_tells_what_becomes_of_the_supervisors_vote() {
        let votes = pool::VotesForecast { votes: 2, ..Default::default() };
        let forecast = PoolForecast { votes, ..PoolForecast::default() };
        let with = |witness| pool_plan(&PoolPlan { forecast: forecast.clone(), witness });
        assert_eq!(with(None), super::forecast(&forecast));
        let kept = WitnessPlan::Kept {
            host: "h".into(),
            directory: "/s".into(),
            bytes: 10 << 20,
            beside_data: false,
        };
        let text = with(Some(kept));
        assert!(text.ends_with(
            "This supervisor (h) would be a witness, by a file of 10.0 MiB in /s: it only votes.\n"
        ));
        let text = with(Some(WitnessPlan::Lacking { why: "none is wanted".into() }));
        assert!(text.ends_with(
            "With 2 votes one more would let more be lost, and this supervisor won't be a witness: none is wanted.\n"
        ));
    }

    #[test]
    fn imports_tell_each_outcome() {
        let error = ApiError::new(ErrorCode::NoQuorum, "1 of 3 votes").remedy("bring back e2.0");
        let results = [
            ImportResult { pool: "a".into(), report: Some(samples::pool()), error: None },
            ImportResult { pool: "b".into(), report: None, error: Some(error) },
        ];
        assert_eq!(
            imports(&results),
            "a: imported, online\nb: not imported: 1 of 3 votes (bring back e2.0)\n"
        );
    }
}
