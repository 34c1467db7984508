//! Jobs, and what is asked before disks are emptied.

use block::size::Human;
use pool::{DiskState, EmptyForecast, JobReport, JobState, PoolDisk, PoolReport};
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
}

const HEAD: [&str; 8] = ["POOL", "JOB", "KIND", "DISK", "TO", "DONE", "LEFT", "STATE"];

/// `pool jobs`.
pub fn jobs(jobs: &[PoolJob]) -> String {
    if jobs.is_empty() {
        return "No jobs\n".into();
    }
    let mut table = table(&HEAD);
    for PoolJob { pool, job } in jobs {
        table.add_row(std::iter::once(pool.clone()).chain(row(job)));
    }
    lines(&table)
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
    [
        job.number.to_string(),
        job.kind.clone(),
        job.disk.clone(),
        or_dash(job.to.as_deref()),
        format!("{}%", percent_done(job)),
        Human(job.left_bytes).to_string(),
        job_state(&job.state),
    ]
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
    let (pool, names) = (&report.name, named(disks));
    format!(
        "{names} of pool {pool} would be emptied: {} would be moved to its other disks, which have {} free then.\n\
         Nothing new would be put there until the job is cancelled (pool cancel). What `etherpool pool jobs {pool}`\n\
         calls done is empty and may be pulled.\n{}",
        Human(plan.bytes),
        Human(plan.free_bytes),
        votes(report, disks),
    )
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
    format!(
        "{new} would take the place of {name} in pool {pool}: {bytes} would be moved to it.\n\
         When `etherpool pool jobs {pool}` calls it done, {name} is empty and may be pulled. Nothing new is put\n\
         there until the job is cancelled (pool cancel).\n{}",
        votes(report, &[old]),
    )
}

/// What becomes of votes, in a line; nothing if none of the disks has one.
fn votes(report: &PoolReport, disks: &[&PoolDisk]) -> String {
    let holders: Vec<&PoolDisk> = disks.iter().copied().filter(|disk| disk.holds_vote).collect();
    if holders.is_empty() {
        return String::new();
    }
    let has = if holders.len() == 1 { "has a vote" } else { "have votes" };
    let there = holders.iter().filter(|disk| disk.state != DiskState::Missing).count();
    let left = (report.votes.present as usize).saturating_sub(there);
    let needed = report.votes.total as usize / 2 + 1;
    let then = if left < needed { ", so the pool stands still then" } else { "" };
    format!(
        "** {} {has}, and votes don't move yet: when pulled, {left} of the pool's {} votes are in reach, and \
         {needed} are needed{then} **\n",
        named(&holders),
        report.votes.total,
    )
}

/// What cancelling a job means.
pub fn cancelling(pool: &str, job: &JobReport) -> String {
    let JobReport { number, kind, disk, left_bytes, .. } = job;
    let stays = match left_bytes {
        0 => String::new(),
        left => format!(", and {} stay on {disk}", Human(*left)),
    };
    let then = match kind.as_str() {
        "rebuild" => {
            "It begins again after the rebuild-delay, unless the disk is back or `pool set` says off"
        }
        _ => "Something new may be put on the disk then",
    };
    format!(
        "Job {number} of pool {pool} ({kind} of {disk}) would end: what it moved stays where it is{stays}.\n\
         {then}.\n"
    )
}

/// Disks by their names.
pub fn named(disks: &[&PoolDisk]) -> String {
    disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
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
        let of = |job| PoolJob { pool: "cluster".into(), job };
        let text = jobs(&[of(job), of(waiting), of(done)]);
        let expected = "\
POOL     JOB  KIND      DISK  TO    DONE  LEFT     STATE
cluster  2    evacuate  e1.0  -     75%   256 MiB  running
cluster  3    replace   e1.0  e4.0  99%   1 B      waiting: there is no room for the rest where its other copies aren't
cluster  4    evacuate  e1.0  -     100%  0 B      done
";
        assert_eq!(text, expected, "\n{text}");
        assert_eq!(jobs(&[]), "No jobs\n");
    }

    #[test]
    fn the_question_says_what_moves_and_what_a_vote_means() {
        let report = samples::pool();
        let plan = EmptyForecast { disks: Vec::new(), bytes: 512 << 20, free_bytes: 1 << 30 };
        let disk = &report.disks[0];
        let text = evacuation(&report, &[disk], &plan);
        let expected = "\
e1.0 of pool cluster would be emptied: 512 MiB would be moved to its other disks, which have 1.00 GiB free then.
Nothing new would be put there until the job is cancelled (pool cancel). What `etherpool pool jobs cluster`
calls done is empty and may be pulled.
** e1.0 has a vote, and votes don't move yet: when pulled, 2 of the pool's 3 votes are in reach, and 2 are needed **
";
        assert_eq!(text, expected, "\n{text}");
        let voteless = PoolDisk { name: "e1.1".into(), holds_vote: false, ..disk.clone() };
        let text = evacuation(&report, &[&voteless], &plan);
        assert!(!text.contains("vote"), "\n{text}");
        let other = PoolDisk { name: "e2.0".into(), ..disk.clone() };
        let text = evacuation(&report, &[disk, &other], &plan);
        assert!(text.contains("e1.0, e2.0 have votes"), "\n{text}");
        assert!(text.contains("1 of the pool's 3 votes are in reach"), "\n{text}");
        assert!(text.contains("stands still then"), "\n{text}");
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
        let rebuild = JobReport { kind: "rebuild".into(), left_bytes: 0, ..job };
        let text = cancelling("cluster", &rebuild);
        assert!(text.contains("stays where it is.") && text.contains("begins again"), "\n{text}");
    }

    #[test]
    fn what_takes_a_disks_place_needn_t_be_planned() {
        let report = samples::pool();
        let plan = EmptyForecast { disks: Vec::new(), bytes: 1 << 20, free_bytes: 1 << 30 };
        let text = replacement(&report, &report.disks[0], "e4.0", Some(&plan));
        assert!(
            text.starts_with("e4.0 would take the place of e1.0 in pool cluster: 1.00 MiB would")
        );
        let text = replacement(&report, &report.disks[0], "e4.0", None);
        assert!(text.contains("at most 512 MiB would be moved"), "\n{text}");
        assert!(text.contains("a vote") && text.contains("until the job is cancelled"), "\n{text}");
    }
}
