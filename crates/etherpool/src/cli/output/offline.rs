//! What is said before and after people take disks out of use, and into use again.

use block::size::Human;
use pool::{OfflineForecast, OnlineForecast, PoolDisk, PoolReport, VolumeSurvival};

use super::{as_arguments, named};

/// What taking disks out of use would mean.
pub fn offline(report: &PoolReport, disks: &[&PoolDisk], plan: &OfflineForecast) -> String {
    let (names, pool) = (named(disks), &report.name);
    let (they, have) = match disks.len() {
        1 => ("it", "has"),
        _ => ("they", "have"),
    };
    let mut text = format!(
        "Pool {pool} would go on without {names} until `etherpool disk online {pool} {arguments}`. What {they} {have} isn't\n\
         rebuilt on others meanwhile, however long that is; then what {they} missed is copied to {they_obj}.\n",
        arguments = as_arguments(disks),
        they_obj = if disks.len() == 1 { "it" } else { "them" },
    );
    if !plan.votes_move.is_empty() {
        let whose = plan.votes_move.join(", ");
        text.push_str(&format!(
            "First the vote and copy of the metadata of {whose} would go to other disks, as far as there are any: if\n\
             those who then vote are lost meanwhile, the pool can't be opened from what is offline.\n"
        ));
    }
    for job in &plan.withdrawn_jobs {
        text.push_str(&format!("Job {job}, which rebuilds it on others, would end.\n"));
    }
    plan.volumes.iter().for_each(|volume| text.push_str(&survival(volume)));
    text
}

fn survival(volume: &VolumeSurvival) -> String {
    let VolumeSurvival { volume: name, disks, nodes, disks_then, nodes_then } = volume;
    if (disks, nodes) == (disks_then, nodes_then) {
        return String::new();
    }
    match disks_then {
        0 => format!(
            "** Volume {name} would survive no failure then; now it survives {} **\n",
            failures(*disks, *nodes)
        ),
        _ => format!(
            "Volume {name} survives {} now, and would survive {} then.\n",
            failures(*disks, *nodes),
            failures(*disks_then, *nodes_then)
        ),
    }
}

fn failures(disks: u32, nodes: u32) -> String {
    let count = |number: u32, what: &str| match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    };
    format!("{} or {}", count(disks, "disk"), count(nodes, "machine"))
}

/// What having disks back means that were being split off.
pub fn from_split(pool: &str, plan: &OnlineForecast) -> String {
    format!(
        "{} would be pool {pool}'s again, with what is on them. They name a pool that was begun to be split from it, and\n\
         nobody here can tell whether it was made elsewhere. If it was it loses them for good, and those of its disks that\n\
         it didn't use yet; nothing that was written to it is on these.\n",
        plan.disks.join(", ")
    )
}

/// What became of disks that were taken into use again, or would.
pub fn online(pool: &str, plan: &OnlineForecast, is_dry_run: bool, waited: bool) -> String {
    let names = plan.disks.join(", ");
    if waited {
        return format!("{names} of pool {pool}: in use again, with all that was missed\n");
    }
    let missed = match plan.missed_bytes {
        0 => String::new(),
        bytes => format!("; {} to be copied", Human(bytes)),
    };
    let would = if is_dry_run { "would be " } else { "" };
    let mut text = format!("{names} of pool {pool}: {would}in use again{missed}\n");
    if !plan.away.is_empty() {
        text.push_str(&format!(
            "{}: not present now, taken in once found again\n",
            plan.away.join(", ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn the_question_before_a_disk_is_taken_out_of_use() {
        let report = samples::pool();
        let volume = |name: &str, disks, disks_then| VolumeSurvival {
            volume: name.into(),
            disks,
            nodes: disks,
            disks_then,
            nodes_then: disks_then,
        };
        let plan = OfflineForecast {
            disks: vec!["e1.0".into()],
            votes_move: vec!["e1.0".into()],
            withdrawn_jobs: vec![3],
            volumes: vec![volume("a", 1, 0), volume("b", 2, 1), volume("c", 1, 1)],
        };
        let text = offline(&report, &[&report.disks[0]], &plan);
        let expected = "\
Pool cluster would go on without e1.0 until `etherpool disk online cluster e1.0`. What it has isn't
rebuilt on others meanwhile, however long that is; then what it missed is copied to it.
First the vote and copy of the metadata of e1.0 would go to other disks, as far as there are any: if
those who then vote are lost meanwhile, the pool can't be opened from what is offline.
Job 3, which rebuilds it on others, would end.
** Volume a would survive no failure then; now it survives 1 disk or 1 machine **
Volume b survives 2 disks or 2 machines now, and would survive 1 disk or 1 machine then.
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn what_became_of_a_disk_that_is_in_use_again() {
        let mut plan =
            OnlineForecast { disks: vec!["e1.0".into()], away: Vec::new(), missed_bytes: 3 << 20 };
        let said = online("p", &plan, false, false);
        assert_eq!(said, "e1.0 of pool p: in use again; 3.00 MiB to be copied\n");
        plan.away = plan.disks.clone();
        assert!(online("p", &plan, true, false).contains("not present now"));
        assert!(online("p", &plan, false, true).ends_with("with all that was missed\n"));
    }
}
