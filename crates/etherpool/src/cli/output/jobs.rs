//! Jobs, and what is asked before disks are emptied.

use std::collections::BTreeSet;
use std::time::Duration;

use block::size::Human;
use block::spoken;
use pool::{DiskState, EmptyForecast, JobReport, JobState, PoolDisk, PoolReport, ScrubReport};
use serde::Serialize;

use super::{lines, or_dash, table};

/// A job, and whose it is.
#[derive(Clone, Debug, Serialize)]
pub struct PoolJob {
    /// The pool.
    pub pool: String,
    /// The job.
    #[serde(flatten)]
    pub job: JobReport,
    /// How much it does in a second, where that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_sec: Option<u64>,
    /// How long it takes yet at that rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_secs: Option<u64>,
}

impl PoolJob {
    /// The same where that much was seen to be done in a second.
    pub fn at_rate(self, bytes_per_sec: Option<u64>) -> PoolJob {
        let rate = bytes_per_sec.filter(|rate| *rate > 0);
        let left_secs = rate.map(|rate| self.job.left_bytes.div_ceil(rate));
        PoolJob { bytes_per_sec, left_secs, ..self }
    }
}

const HEAD: [&str; 8] = ["POOL", "JOB", "KIND", "DISK", "TO", "DONE", "LEFT", "STATE"];

/// `pool jobs`. A resync is no job that could be cancelled, and is listed without a number; its `done` isn't known.
pub fn jobs(jobs: &[PoolJob]) -> String {
    if jobs.is_empty() {
        return "No jobs\n".into();
    }
    let mut table = table(&[&HEAD[..7], &["RATE", "TIME LEFT"], &HEAD[7..]].concat());
    for PoolJob { pool, job, bytes_per_sec, left_secs } in jobs {
        let rate = bytes_per_sec.filter(|rate| *rate > 0);
        let left = left_secs.map(|secs| spoken(Duration::from_secs(secs)));
        let mut row = row(job).to_vec();
        let state = row.pop();
        let rate = rate.map(|rate| format!("{}/s", Human(rate)));
        row.extend([or_dash(rate.as_deref()), or_dash(left.as_deref())]);
        table.add_row(std::iter::once(pool.clone()).chain(row).chain(state));
    }
    lines(&table)
}

/// The disks of a pool that get what they missed.
pub fn resyncs(report: &PoolReport) -> impl Iterator<Item = JobReport> {
    // Of what is only read nothing is written.
    let behind = report.disks.iter().filter(|disk| disk.dirty_bytes > 0 && !report.read_only);
    behind.filter(|disk| disk.state == DiskState::Usable).map(|disk| JobReport {
        number: 0,
        kind: "resync".into(),
        disk: disk.name.clone(),
        volume: None,
        to: None,
        total_bytes: disk.dirty_bytes,
        left_bytes: disk.dirty_bytes,
        state: JobState::Running,
    })
}

/// The jobs of one pool, for `pool show`.
pub fn job_rows(jobs: &[JobReport]) -> String {
    let mut table = table(&HEAD[1..]);
    for job in jobs {
        table.add_row(row(job));
    }
    lines(&table)
}

fn row(job: &JobReport) -> [String; 7] {
    let is_resync = job.number == 0;
    [
        if is_resync { "-".into() } else { job.number.to_string() },
        job.kind.clone(),
        or_dash(of(job)),
        or_dash(job.to.as_deref()),
        if is_resync { "-".into() } else { format!("{}%", percent_done(job)) },
        Human(job.left_bytes).to_string(),
        job_state(&job.state),
    ]
}

/// What it is of: a disk or a volume, if of one.
fn of(job: &JobReport) -> Option<&str> {
    Some(job.disk.as_str()).filter(|disk| !disk.is_empty()).or(job.volume.as_deref())
}

/// A job in words, such as `evacuate of e1.0`.
pub fn what_it_does(job: &JobReport) -> String {
    of(job).map_or_else(|| job.kind.clone(), |of| format!("{} of {of}", job.kind))
}

/// As long as anything is left it isn't all.
fn percent_done(job: &JobReport) -> u64 {
    let done = job.total_bytes.saturating_sub(job.left_bytes);
    match u128::from(done) * 100 / u128::from(job.total_bytes.max(1)) {
        _ if job.left_bytes == 0 => 100,
        percent => percent.min(99) as u64,
    }
}

fn job_state(state: &JobState) -> String {
    match state {
        JobState::Running => "running".into(),
        JobState::Waiting { why } => format!("waiting: {why}"),
        JobState::Done => "done".into(),
        JobState::Unknown => "of a newer etherpool".into(),
    }
}

/// What evacuating would do.
pub fn evacuation(report: &PoolReport, disks: &[&PoolDisk], plan: &EmptyForecast) -> String {
    let pool = &report.name;
    let then = format!(
        "Nothing new would be put there until the job is cancelled (pool cancel). What `etherpool pool jobs {pool}`\n\
         calls done is empty and may be pulled.\n"
    );
    emptying(report, disks, plan, &then)
}

/// What removing would do.
pub fn removal(report: &PoolReport, disks: &[&PoolDisk], plan: &EmptyForecast) -> String {
    let (they_belong, their) = match disks.len() {
        1 => ("It belongs", "its"),
        _ => ("They belong", "their"),
    };
    let wiped = match disks.iter().all(|disk| is_unreadable(disk)) {
        true => String::new(),
        false => format!(", and {their} labels are wiped; the rest isn't erased"),
    };
    let then = format!(
        "{they_belong} to the pool no more then{wiped}.\nUntil then `etherpool pool cancel` ends the job.\n"
    );
    emptying(report, disks, plan, &then)
}

fn emptying(report: &PoolReport, disks: &[&PoolDisk], plan: &EmptyForecast, then: &str) -> String {
    format!(
        "{} of pool {} would be emptied: {} would be moved to its other disks, which have {} free then.\n{then}{}{}{}{}",
        named(disks),
        report.name,
        Human(plan.bytes),
        Human(plan.free_bytes),
        spare_then(plan),
        made_anew(disks),
        votes(disks),
        few_votes(report, disks),
    )
}

/// That what the pool keeps for a loss is used for this.
fn spare_then(plan: &EmptyForecast) -> String {
    plan.spare_lacks.as_ref().map_or_else(String::new, |lacks| {
        format!("** The pool's spare is used for that, and not held then: {lacks} **\n")
    })
}

/// What replacing would do. Without a plan the disk that takes the place isn't there to plan with.
pub fn replacement(
    report: &PoolReport,
    old: &PoolDisk,
    new: &str,
    plan: Option<&EmptyForecast>,
) -> String {
    let bytes = match plan {
        Some(plan) => Human(plan.bytes).to_string(),
        None => format!("at most {}", Human(old.size_bytes.saturating_sub(old.free_bytes))),
    };
    let (pool, name) = (&report.name, &old.name);
    // One that is added may vote as well.
    let is_added = !report.disks.iter().any(|disk| disk.name == new);
    let few_votes = if is_added { String::new() } else { few_votes(report, &[old]) };
    format!(
        "{new} would take the place of {name} in pool {pool}: {bytes} would be moved to it.\n\
         When `etherpool pool jobs {pool}` calls it done, {name} is empty and may be pulled. Nothing new is put\n\
         there until the job is cancelled (pool cancel).\n{}{}{}{few_votes}",
        plan.map_or_else(String::new, spare_then),
        made_anew(&[old]),
        votes(&[old]),
    )
}

fn is_unreadable(disk: &PoolDisk) -> bool {
    matches!(disk.state, DiskState::Missing | DiskState::Offline | DiskState::Refused { .. })
}

/// That nothing is moved from disks that aren't there, in a line; nothing if all of them are.
fn made_anew(disks: &[&PoolDisk]) -> String {
    let gone: Vec<&PoolDisk> = disks.iter().copied().filter(|disk| is_unreadable(disk)).collect();
    let they = match gone.len() {
        0 => return String::new(),
        1 => "it",
        _ => "they",
    };
    let gone = named(&gone);
    format!("{gone} can't be read: what {they} had is made anew from the other copies.\n")
}

/// What becomes of votes, in a line; nothing if none of the disks has one.
fn votes(disks: &[&PoolDisk]) -> String {
    let holders: Vec<&PoolDisk> = disks.iter().copied().filter(|disk| disk.holds_vote).collect();
    let moves = match holders.len() {
        0 => return String::new(),
        1 => "has a vote, which moves to another disk; if none may have it, the pool has one less",
        _ => "have votes, which move to other disks; if none may have them, the pool has fewer",
    };
    format!("{} {moves}.\n", named(&holders))
}

/// That the pool is left with so few votes that it needs all of them, in a line.
fn few_votes(report: &PoolReport, disks: &[&PoolDisk]) -> String {
    let is_emptied = |disk: &PoolDisk| {
        disks.iter().any(|emptied| emptied.id == disk.id)
            || report.jobs.iter().any(|job| job.disk == disk.name && job.kind != "rebuild")
    };
    let stays = |disk: &&PoolDisk| !is_unreadable(disk) && !is_emptied(disk);
    let others: Vec<&PoolDisk> = report.disks.iter().filter(stays).collect();
    let voters: Vec<&PoolDisk> = report.disks.iter().filter(|disk| disk.holds_vote).collect();
    // Machines have one vote each, unless disks fail by themselves.
    let left = match machines(&voters) < voters.len() {
        true => others.len(),
        false => machines(&others),
    };
    let few = match left {
        _ if left >= voters.len() => return String::new(),
        1 => "1 vote then, and stands still when it is gone",
        2 => "2 votes then, and stands still when one of them is gone",
        _ => return String::new(),
    };
    format!("** The pool has {few} **\n")
}

fn machines(disks: &[&PoolDisk]) -> usize {
    disks.iter().map(|disk| &disk.node).collect::<BTreeSet<_>>().len()
}

/// What cancelling a job means.
pub fn cancelling(pool: &str, job: &JobReport) -> String {
    let JobReport { number, kind, disk, left_bytes, .. } = job;
    if kind == "scrub" {
        return format!(
            "Job {number} of pool {pool} (scrub) would end: {} stay unread until the next one.\n",
            Human(*left_bytes)
        );
    }
    if let Some(volume) = &job.volume {
        return format!(
            "Job {number} of pool {pool} (convert of {volume}) would end by being taken back: volume {volume} gets its\n\
             former layout again, which is a job as well.\n"
        );
    }
    if kind == "rebalance" {
        return format!(
            "Job {number} of pool {pool} (rebalance) would end: what it moved stays where it is, and {} aren't moved.\n",
            Human(*left_bytes)
        );
    }
    let stays = match left_bytes {
        0 => String::new(),
        left => format!(", and {} stay on {disk}", Human(*left)),
    };
    let then = match kind.as_str() {
        "rebuild" => {
            "It begins again after the rebuild-delay, unless the disk is back or `pool set` says off"
        }
        "remove" => "The disk remains the pool's then, and something new may be put on it",
        _ => "Something new may be put on the disk then",
    };
    format!(
        "Job {number} of pool {pool} ({kind} of {disk}) would end: what it moved stays where it is{stays}.\n\
         {then}.\n"
    )
}

/// What a scrub found that is over.
pub fn scrubbed(pool: &str, found: &ScrubReport) -> String {
    let over = match found.ended_secs {
        Some(_) => "is done",
        None => "was cancelled",
    };
    format!("pool {pool}: the scrub {over}: {}\n", scrub_counts(found))
}

fn scrub_counts(found: &ScrubReport) -> String {
    let read = Human(found.blocks.saturating_mul(block::BLOCK_BYTES as u64));
    let bad = match (found.bad_blocks, found.repaired_blocks) {
        (0, _) => "all of it right".to_owned(),
        (bad, repaired) if bad == repaired => format!("{bad} blocks were wrong and are repaired"),
        (bad, repaired) => {
            format!("** {bad} blocks were wrong, {repaired} of them are repaired **")
        }
    };
    let unread = match found.unread_blocks {
        0 => String::new(),
        unread => {
            let unread = Human(unread.saturating_mul(block::BLOCK_BYTES as u64));
            format!("; {unread} not compared, because a copy was out of date or away")
        }
    };
    format!("{read} read, {bad}{unread}")
}

/// How the scrub of a pool stands, for `pool show`; `now_secs` since 1970.
pub fn scrub(report: &PoolReport, now_secs: u64) -> String {
    let Some(found) = &report.scrub else { return "-".into() };
    let ago = |secs: u64| spoken(Duration::from_secs(now_secs.saturating_sub(secs)));
    let last = match (found.begun_secs, found.ended_secs) {
        (None, _) => "none yet".to_owned(),
        (Some(_), Some(ended)) => format!("done {} ago: {}", ago(ended), scrub_counts(found)),
        (Some(begun), None) if report.jobs.iter().any(|job| job.kind == "scrub") => {
            format!("under way since {}: {}", ago(begun), scrub_counts(found))
        }
        (Some(begun), None) => format!("begun {} ago and cancelled", ago(begun)),
    };
    let next = found.next_secs.map(|next| match next.saturating_sub(now_secs) {
        0 => "; the next one is due".to_owned(),
        left => format!("; the next one in {}", spoken(Duration::from_secs(left))),
    });
    format!("{last}{}", next.unwrap_or_default())
}

/// Disks by their names.
pub fn named(disks: &[&PoolDisk]) -> String {
    disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The disks' names as arguments of a command.
pub fn as_arguments(disks: &[&PoolDisk]) -> String {
    disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::samples;
    use super::*;

    #[test]
    fn jobs_as_people_see_them() {
        let job = samples::job();
        let why = "there is no room for the rest where its other copies aren't";
        let waiting = JobReport {
            number: 3,
            kind: "replace".into(),
            to: Some("e4.0".into()),
            left_bytes: 1,
            state: JobState::Waiting { why: why.into() },
            ..job.clone()
        };
        let done = JobReport { number: 4, left_bytes: 0, state: JobState::Done, ..job.clone() };
        let of = |job, rate| {
            let pool = "cluster".into();
            PoolJob { pool, job, bytes_per_sec: None, left_secs: None }.at_rate(rate)
        };
        let mut pool = samples::pool();
        pool.disks[0].dirty_bytes = 3 << 30;
        let resync = resyncs(&pool).next().unwrap();
        let told = serde_json::to_value(of(resync.clone(), Some(1 << 20))).unwrap();
        assert_eq!((&told["kind"], &told["number"]), (&"resync".into(), &0.into()));
        assert_eq!((&told["bytes_per_sec"], &told["left_secs"]), (&(1 << 20).into(), &3072.into()));
        let text = jobs(&[
            of(job, Some(64 << 20)),
            of(waiting, Some(0)),
            of(done, None),
            of(resync, Some(1 << 20)),
        ]);
        let expected = "\
POOL     JOB  KIND      DISK  TO    DONE  LEFT      RATE        TIME LEFT   STATE
cluster  2    evacuate  e1.0  -     75%   256 MiB   64.0 MiB/s  4 seconds   running
cluster  3    replace   e1.0  e4.0  99%   1 B       -           -           waiting: there is no room for the rest where its other copies aren't
cluster  4    evacuate  e1.0  -     100%  0 B       -           -           done
cluster  -    resync    e1.0  -     -     3.00 GiB  1.00 MiB/s  51 minutes  running
";
        assert_eq!(text, expected, "\n{text}");
        assert_eq!(jobs(&[]), "No jobs\n");
    }

    #[test]
    fn the_question_says_what_moves_and_what_a_vote_means() {
        let report = samples::pool();
        let plan =
            EmptyForecast { bytes: 512 << 20, free_bytes: 1 << 30, ..EmptyForecast::default() };
        let disk = &report.disks[0];
        let text = evacuation(&report, &[disk], &plan);
        let expected = "\
e1.0 of pool cluster would be emptied: 512 MiB would be moved to its other disks, which have 1.00 GiB free then.
Nothing new would be put there until the job is cancelled (pool cancel). What `etherpool pool jobs cluster`
calls done is empty and may be pulled.
e1.0 has a vote, which moves to another disk; if none may have it, the pool has one less.
";
        assert_eq!(text, expected, "\n{text}");
        let voteless = PoolDisk { name: "e1.1".into(), holds_vote: false, ..disk.clone() };
        let text = evacuation(&report, &[&voteless], &plan);
        assert!(!text.contains("vote"), "\n{text}");
        let other = PoolDisk { name: "e2.0".into(), ..disk.clone() };
        let text = evacuation(&report, &[disk, &other], &plan);
        assert!(text.contains("e1.0, e2.0 have votes, which move to other disks"), "\n{text}");
        let missing = PoolDisk { state: DiskState::Missing, ..disk.clone() };
        let text = evacuation(&report, &[&missing], &plan);
        assert!(text.contains("e1.0 can't be read: what it had is made anew"), "\n{text}");
    }

    #[test]
    fn the_question_says_what_removing_means() {
        let report = samples::pool();
        let plan =
            EmptyForecast { bytes: 512 << 20, free_bytes: 1 << 30, ..EmptyForecast::default() };
        let disk = PoolDisk { holds_vote: false, ..report.disks[0].clone() };
        let text = removal(&report, &[&disk], &plan);
        let expected = "\
e1.0 of pool cluster would be emptied: 512 MiB would be moved to its other disks, which have 1.00 GiB free then.
It belongs to the pool no more then, and its labels are wiped; the rest isn't erased.
Until then `etherpool pool cancel` ends the job.
";
        assert_eq!(text, expected, "\n{text}");
        let missing = PoolDisk { state: DiskState::Missing, name: "e2.0".into(), ..disk.clone() };
        let text = removal(&report, &[&missing], &plan);
        assert!(text.contains("no more then.\nUntil then"), "\n{text}");
        assert!(text.contains("e2.0 can't be read: what it had is made anew"), "\n{text}");
        let text = removal(&report, &[&disk, &missing], &plan);
        assert!(text.contains("They belong") && text.contains("their labels"), "\n{text}");
        assert!(text.contains("\ne2.0 can't be read"), "\n{text}");
    }

    #[test]
    fn a_pool_that_is_left_with_few_votes_is_warned_of() {
        let one = samples::pool().disks.remove(0);
        let disk = |shelf: u32, slot: u32, holds_vote| PoolDisk {
            name: format!("e{shelf}.{slot}"),
            id: format!("{shelf}.{slot}"),
            node: format!("n{shelf}"),
            holds_vote,
            ..one.clone()
        };
        let of = |disks: Vec<PoolDisk>| PoolReport { disks, ..samples::pool() };
        let without = |report: &PoolReport, disks: &[usize]| {
            let disks: Vec<&PoolDisk> = disks.iter().map(|at| &report.disks[*at]).collect();
            few_votes(report, &disks)
        };
        let machines = |count| of((1..=count).map(|shelf| disk(shelf, 0, true)).collect());
        assert_eq!(without(&machines(4), &[0]), "");
        assert!(without(&machines(3), &[0]).contains("has 2 votes then"));
        assert!(without(&machines(3), &[0, 1]).contains("has 1 vote then"));
        // Another disk of the machine votes then.
        let mut report = of(vec![disk(1, 0, true), disk(2, 0, true), disk(1, 1, false)]);
        assert_eq!(without(&report, &[0]), "");
        report.disks.push(disk(3, 0, true));
        assert!(without(&report, &[3]).contains("has 2 votes then"));
        // Single disks fail by themselves.
        report.disks[2].holds_vote = true;
        assert_eq!(without(&report, &[3]), "");
        report.disks[0].state = DiskState::Missing;
        assert!(without(&report, &[3]).contains("has 2 votes then"));
    }

    #[test]
    fn cancelling_says_what_stays_and_what_begins_again() {
        let job = samples::job();
        let text = cancelling("cluster", &job);
        let expected = "\
Job 2 of pool cluster (evacuate of e1.0) would end: what it moved stays where it is, and 256 MiB stay on e1.0.
Something new may be put on the disk then.
";
        assert_eq!(text, expected, "\n{text}");
        let removal = JobReport { kind: "remove".into(), ..job.clone() };
        assert!(cancelling("cluster", &removal).contains("remains the pool's"));
        let rebuild = JobReport { kind: "rebuild".into(), left_bytes: 0, ..job };
        let text = cancelling("cluster", &rebuild);
        assert!(text.contains("stays where it is.") && text.contains("begins again"), "\n{text}");
    }

    #[test]
    fn what_takes_a_disks_place_needn_t_be_planned() {
        let report = samples::pool();
        let plan =
            EmptyForecast { bytes: 1 << 20, free_bytes: 1 << 30, ..EmptyForecast::default() };
        let text = replacement(&report, &report.disks[0], "e4.0", Some(&plan));
        assert!(
            text.starts_with("e4.0 would take the place of e1.0 in pool cluster: 1.00 MiB would")
        );
        let text = replacement(&report, &report.disks[0], "e4.0", None);
        assert!(text.contains("at most 512 MiB would be moved"), "\n{text}");
        assert!(text.contains("a vote") && text.contains("until the job is cancelled"), "\n{text}");
        let dead = PoolDisk { state: DiskState::Missing, ..report.disks[0].clone() };
        let text = replacement(&report, &dead, "e4.0", None);
        assert!(text.contains("e1.0 can't be read"), "\n{text}");
    }
}
