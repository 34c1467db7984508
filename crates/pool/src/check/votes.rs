//! The votes together: whose count, what the newest says, and what they are worth.

use std::rc::Rc;

use seal::Grant;

use super::disks::Disk;
use super::findings::{Findings, finding};
use super::report::{Finding, Kind, Severity, VotesCheck};
use crate::format::{Configuration, DiskGeometry, DiskId, VOTE_BYTES, majority_of, poorest};

/// The newest configuration among the votes, and what the votes are worth. Those that aren't the pool's are the disks' no more.
pub(super) fn judge_votes(
    disks: &mut [Disk<'_>],
    findings: &mut Findings,
) -> (Option<Configuration>, VotesCheck) {
    leave_out_forged(disks, findings);
    let disks = &*disks;
    // One that has no vote any more may know by what it had who has them.
    let known = || disks.iter().filter_map(|disk| Some((disk, disk.vote.as_ref()?)));
    let Some((first, newest)) = known().max_by_key(|(_, vote)| vote.rank()) else {
        let what = "none of the pool's votes was found";
        let means = "which copies of metadata and log count can't be told";
        findings.add(finding(Severity::Damage, Kind::Votes, what, means));
        return (None, VotesCheck::default());
    };
    let has_newest = |id: DiskId| known().any(|(disk, vote)| disk.id() == id && vote == newest);
    let voters = poorest(newest.voters.lists(), has_newest);
    let majority = majority_of(voters);
    let votes: Vec<(&Disk<'_>, &Configuration)> =
        known().filter(|(disk, _)| voters.contains(&disk.id())).collect();
    let mut check = VotesCheck {
        total: voters.len() as u32,
        majority: majority as u32,
        sound: votes.len() as u32,
        ..Default::default()
    };
    check.epoch = Some(newest.epoch.0);
    check.configuration = Some(newest.number.0);
    for (disk, vote) in &votes {
        if vote.rank() == newest.rank() && *vote != newest {
            let what = format!(
                "its vote and that of {} differ, both under {} and {}",
                first.name(),
                newest.epoch,
                newest.number
            );
            let means = "two histories of the configuration; neither can be believed";
            findings.add(finding(Severity::Damage, Kind::Votes, what, means).on(disk.name()));
        } else if vote.rank() == newest.rank() {
            check.newest += 1;
        }
    }
    let agrees = check.newest as usize >= majority;
    for (disk, vote) in votes.iter().filter(|(_, vote)| vote.rank() < newest.rank()) {
        let what = format!(
            "its vote has {} and {}, the newest are {} and {}",
            vote.epoch, vote.number, newest.epoch, newest.number
        );
        let under_way =
            !newest.released && newest.epoch == vote.epoch && vote.number.next() == newest.number;
        let (severity, means) = match under_way {
            true => (Severity::Note, "the newest was being written when the owner ended"),
            false => (Severity::Redundancy, "it was away, or it forgot; the newer votes count"),
        };
        findings.add(at_vote(finding(severity, Kind::VoteOlder, what, means), disk));
    }
    for disk in disks.iter().filter(|disk| voters.contains(&disk.id()) && disk.vote.is_none()) {
        let (what, means) = ("it has no sound vote", "the pool's majority is one vote poorer");
        findings.add(at_vote(finding(Severity::Redundancy, Kind::VoteLost, what, means), disk));
    }
    if votes.len() < majority {
        let what =
            format!("{} of {} votes are there, {majority} are needed", votes.len(), voters.len());
        let means = "a pool doesn't open from these disks; what they say may be out of date";
        findings.add(finding(Severity::Damage, Kind::Votes, what, means));
    } else if !agrees {
        let what = format!(
            "{} of {} votes have the newest configuration ({}, {})",
            check.newest,
            voters.len(),
            newest.epoch,
            newest.number
        );
        let means = "it was being written when its owner ended, or a majority of votes forgot it";
        let severity = if votes.len() == voters.len() && !newest.released {
            Severity::Note
        } else {
            Severity::Redundancy
        };
        findings.add(finding(severity, Kind::Votes, what, means));
    }
    (Some(newest.clone()), check)
}

/// Takes votes for none that aren't the pool's. Which key that has nobody tells who only has the disks: the one that more
/// of them have than any other is taken for it, or has become of what they have.
fn leave_out_forged(disks: &mut [Disk<'_>], findings: &mut Findings) {
    let grants: Vec<Rc<Grant>> =
        disks.iter().filter_map(|disk| Some(Rc::clone(&disk.signed.as_ref()?.grant))).collect();
    if grants.is_empty() {
        return;
    }
    let last = last_of_most(&grants);
    for disk in disks.iter_mut().filter(|disk| disk.vote.is_some()) {
        let counts =
            |last: &Rc<Grant>| disk.signed.as_ref().is_some_and(|signed| signed.counts_under(last));
        if last.is_some_and(counts) {
            continue;
        }
        let what = match (&disk.signed, last) {
            (None, _) => "its vote is signed by nobody, and those of others are".to_owned(),
            (Some(signed), Some(_)) => {
                format!("its vote is signed by {}, whom the pool's key doesn't let in", signed.by)
            }
            (Some(signed), None) => {
                let key = signed.grant.key();
                format!("its vote is under the key {key}, and as many are under others")
            }
        };
        let means = "an engine that knows the pool's key doesn't believe it; newer than those that it believes it makes \
                     its disk none of a majority";
        findings.add(at_vote(finding(Severity::Damage, Kind::Votes, what, means), disk));
        (disk.vote, disk.signed) = (None, None);
    }
}

/// The grant to whose key those of most disks lead, the newest of that key; none if another key has as many.
fn last_of_most(grants: &[Rc<Grant>]) -> Option<&Rc<Grant>> {
    let led = |last: &Grant| grants.iter().filter(|grant| last.leads_from(grant.key())).count();
    let last = grants.iter().max_by_key(|grant| (led(grant), grant.version()))?;
    let rival = |other: &&Rc<Grant>| {
        led(other) == led(last) && !last.leads_from(other.key()) && !other.leads_from(last.key())
    };
    grants.iter().find(rival).is_none().then_some(last)
}

/// Of both slots of a disk's vote.
fn at_vote(found: Finding, disk: &Disk<'_>) -> Finding {
    let place = DiskGeometry::vote_slots()[0].byte_offset();
    found.on(disk.name()).at(place, 2 * VOTE_BYTES as u64)
}
