//! Who votes follows what is there. A vote that is gone for long, or whose disk is to be emptied, goes to another
//! disk, and a machine that comes gets one, as long as there are fewer than five. A **witness** is a disk of which
//! the metadata area takes all extents: it has no data, and votes where that makes up for an even number of others.
//!
//! The list of voters gives way to another in two steps, each a configuration of its own ([`Voters`]): both
//! lists count, then the new one alone. Whoever is to vote has a metadata area before the first step, without
//! which he couldn't get a copy, and a current copy of the metadata before the second. What a crash leaves half
//! done is finished, or taken back, by whoever opens the pool next.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::Instant;
use uuid::Uuid;

use super::areas::AreaError;
use super::lease::Ended;
use super::member::Member;
use super::open_pool::OpenPool;
use super::status::{losses_survived, spare_of};
use super::stops::StopPoint;
use crate::forecast::VotesForecast;
use crate::format::{DiskId, DiskNumber, FailureDomain, VOTE_DISKS_MAX, Voters, has_majority};
use crate::metadata::{Disk, JobKind, Metadata, area_extents_for};
use crate::report::PoolEvent;

/// How often the votes are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A disk that couldn't be made ready to vote isn't tried again for so long.
const UNFIT_FOR: Duration = Duration::from_secs(60);

/// Until when disks aren't tried that couldn't be made ready to vote.
pub(crate) type Unfit = RefCell<BTreeMap<DiskNumber, Instant>>;

/// A disk that may vote.
#[derive(Clone, Copy)]
pub(super) struct Candidate {
    pub(super) machine: Uuid,
    pub(super) domain: Uuid,
    pub(super) bytes: u64,
    /// It votes already.
    pub(super) votes: bool,
    /// It has no data.
    pub(super) is_witness: bool,
}

/// Who of the candidates should vote, by index, but for a witness: up to five, so that as many failure domains as can be
/// may be lost, then as many machines, then an odd number. Of each machine who votes already, else the largest disk; where single disks
/// may fail then the next one of each machine, and so on. A domain that labels joined has several of these.
pub(super) fn choose_voters(domain: FailureDomain, candidates: &[Candidate]) -> Vec<usize> {
    let mut machines: Vec<(Uuid, Vec<usize>)> = Vec::new();
    for (index, candidate) in candidates.iter().enumerate().filter(|(_, one)| !one.is_witness) {
        match machines.iter_mut().find(|(machine, _)| *machine == candidate.machine) {
            Some((_, disks)) => disks.push(index),
            None => machines.push((candidate.machine, vec![index])),
        }
    }
    for (_, disks) in &mut machines {
        disks.sort_by_key(|at| (!candidates[*at].votes, Reverse(candidates[*at].bytes)));
    }
    machines.sort_by_key(|(_, disks)| !disks.iter().any(|at| candidates[*at].votes));
    let rounds = match domain {
        FailureDomain::Node => 1,
        FailureDomain::Disk => VOTE_DISKS_MAX,
    };
    let in_turn = (0..rounds)
        .flat_map(|round| machines.iter().filter_map(move |(_, disks)| disks.get(round)));
    let mut domains: Vec<(Uuid, Vec<usize>)> = Vec::new();
    for at in in_turn.copied() {
        match domains.iter_mut().find(|(domain, _)| *domain == candidates[at].domain) {
            Some((_, disks)) => disks.push(at),
            None => domains.push((candidates[at].domain, vec![at])),
        }
    }
    for (_, disks) in &mut domains {
        disks.sort_by_key(|at| !candidates[*at].votes);
    }
    let of_each = |most: usize| -> Vec<usize> {
        let in_turn =
            (0..most).flat_map(|turn| domains.iter().filter_map(move |(_, disks)| disks.get(turn)));
        in_turn.copied().take(VOTE_DISKS_MAX).collect()
    };
    let mut best = of_each(1);
    for most in 2..=VOTE_DISKS_MAX {
        let list = of_each(most);
        let fewer = list.split_last().map(|(_, fewer)| fewer.to_vec()).unwrap_or_default();
        for list in [list, fewer] {
            // Where labels joined nothing that is all there is.
            if list.len() > domains.len() && rank(candidates, &list) > rank(candidates, &best) {
                best = list;
            }
        }
    }
    best
}

/// How good a list is, with a witness where that makes it better.
fn rank(candidates: &[Candidate], list: &[usize]) -> (u32, u32, bool) {
    let with = with_witness(candidates, list);
    let with = with.map(|with| survives(candidates, &with));
    survives(candidates, list).max(with.unwrap_or_default())
}

/// How many failure domains may be lost before these are no majority, how many machines, and whether they are an odd
/// number.
fn survives(candidates: &[Candidate], list: &[usize]) -> (u32, u32, bool) {
    let majority = list.len() / 2 + 1;
    let by = |what: fn(&Candidate) -> Uuid| {
        losses_survived(list.iter().map(|at| what(&candidates[*at])), majority)
    };
    (by(|one| one.domain), by(|one| one.machine), !list.len().is_multiple_of(2))
}

fn with_witness(candidates: &[Candidate], list: &[usize]) -> Option<Vec<usize>> {
    let witness = choose_witness(candidates, list).filter(|_| list.len() < VOTE_DISKS_MAX)?;
    Some([list, &[witness]].concat())
}

/// The witness that may vote beside those chosen: one in a failure domain of its own, else, beside an even number, one in
/// a domain of theirs. Then one that votes already; a machine of theirs is only worse than another one.
///
/// In a domain of theirs it goes with them, and so do half of the votes of an even number without it: nothing is lost by
/// it, and without any other domain of half of the votes a majority is left.
pub(super) fn choose_witness(candidates: &[Candidate], chosen: &[usize]) -> Option<usize> {
    let shares = |at: &usize, what: fn(&Candidate) -> Uuid| {
        chosen.iter().any(|other| what(&candidates[*other]) == what(&candidates[*at]))
    };
    let witnesses = (0..candidates.len()).filter(|at| candidates[*at].is_witness);
    let is_even = chosen.len().is_multiple_of(2);
    let able = witnesses.filter(|at| is_even || !shares(at, |one| one.domain));
    able.min_by_key(|at| {
        let shares_domain = shares(at, |one| one.domain);
        (shares_domain, !candidates[*at].votes, shares(at, |one| one.machine))
    })
}

/// Who votes in a new pool: a witness where that lets more be lost, or makes an even number odd.
pub(super) fn first_voters(domain: FailureDomain, candidates: &[Candidate]) -> Vec<usize> {
    let voters = choose_voters(domain, candidates);
    let with = with_witness(candidates, &voters);
    let is_better = |with: &Vec<usize>| survives(candidates, with) > survives(candidates, &voters);
    with.filter(is_better).unwrap_or(voters)
}

/// Who would vote of these in a pool that is like that then, and whether it lacks a witness.
pub(super) fn forecast(
    pool: &Metadata,
    candidates: &[Candidate],
    witness_bytes: u64,
) -> VotesForecast {
    let (votes, lacks_witness) = count(pool.pool().failure_domain, candidates);
    let machines = pool.data_machines().into_iter().collect();
    VotesForecast { votes, machines, lacks_witness, witness_bytes }
}

/// How many of these would vote, and whether one more failure domain might be lost if there were a witness in another
/// one.
fn count(domain: FailureDomain, candidates: &[Candidate]) -> (usize, bool) {
    let voters = first_voters(domain, candidates);
    let machines: BTreeSet<Uuid> = voters.iter().map(|at| candidates[*at].machine).collect();
    let stranger = Candidate {
        machine: Uuid::max(),
        domain: Uuid::max(),
        bytes: 0,
        votes: false,
        is_witness: true,
    };
    let with = [candidates, &[stranger]].concat();
    let (now, _, _) = survives(candidates, &voters);
    let (then, _, _) = survives(&with, &first_voters(domain, &with));
    (voters.len(), machines.len() > 1 && then > now)
}

impl OpenPool {
    /// Looks after the votes for as long as the pool is open.
    pub(crate) async fn run_votes(self: Rc<Self>) {
        loop {
            let pause = self.pool.runtime.sleep(LOOK_EVERY);
            if self.pool.unless_over(pause).await.is_err() {
                return;
            }
            let step = async {
                self.move_votes().await?;
                self.look_after_offline().await
            };
            if !matches!(self.pool.unless_over(step).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Takes the next step towards those who should vote.
    async fn move_votes(self: &Rc<Self>) -> Result<(), Ended> {
        let voters = self.pool.config.borrow().voters.clone();
        let wanted_now = || self.wanted_voters(&self.pool.meta.borrow(), &voters);
        let wanted = wanted_now();
        let newcomers = |list: &[DiskId]| -> Vec<Rc<Member>> {
            let new = list.iter().filter(|disk| !voters.now.contains(disk));
            new.filter_map(|disk| self.pool.member_by_id(*disk)).collect()
        };
        let Some(next) = &voters.next else {
            if are_same(&wanted, &voters.now) {
                return Ok(());
            }
            if !self.pool.lease.holds(self.pool.runtime.now()) {
                return Ok(());
            }
            for member in newcomers(&wanted) {
                if !self.make_ready_to_vote(&member).await? {
                    let until = self.pool.runtime.now() + UNFIT_FOR;
                    self.unfit.borrow_mut().insert(member.number, until);
                    return Ok(());
                }
            }
            // From then on nothing is decided without a majority of these too, and only who votes now can take that
            // back. Where they are out of reach, all of these may be gone for good before they are back.
            let answer = self.pool.majority_answers(&BTreeSet::new()).await;
            let is_still_wanted = are_same(&wanted_now(), &wanted);
            if !answer || !is_still_wanted || !self.has_majority_there(&wanted) {
                return Ok(());
            }
            let begun = Voters { now: voters.now.clone(), next: Some(wanted) };
            return self.set_voters(&voters, begun).await.map(drop);
        };
        if !are_same(&wanted, next) {
            // Not again at once: it may come and go.
            for member in newcomers(next).iter().filter(|member| !wanted.contains(&member.id)) {
                let until = self.pool.runtime.now() + UNFIT_FOR;
                self.unfit.borrow_mut().insert(member.number, until);
            }
            let taken_back = Voters::of(voters.now.clone());
            return self.set_voters(&voters, taken_back).await.map(drop);
        }
        for member in newcomers(next) {
            if !self.pool.config.borrow().copies.contains(&member.id) {
                let _meta = self.pool.meta_lock.acquire(1).await;
                self.pool.measure_areas();
                if !self.pool.write_copy(&member).await? {
                    // The first list is put back.
                    let until = self.pool.runtime.now() + UNFIT_FOR;
                    self.unfit.borrow_mut().insert(member.number, until);
                    return Ok(());
                }
            }
        }
        if self.set_voters(&voters, Voters::of(next.clone())).await? {
            self.tell_voters(&voters.now, next);
        }
        Ok(())
    }

    /// Who votes from now on, unless somebody changed that, or a copy of the metadata that this needs is gone.
    async fn set_voters(self: &Rc<Self>, from: &Voters, to: Voters) -> Result<bool, Ended> {
        let behind = match to.next {
            Some(_) => StopPoint::VotesBoth,
            None => StopPoint::VotesMoved,
        };
        let mut done = false;
        let change = self.pool.change_configuration(|config| {
            let copies: BTreeSet<DiskId> =
                config.copies.iter().filter(|disk| to.contains(**disk)).copied().collect();
            // Of one list alone whoever is new on it has a copy: as many as before would survive.
            let is_new = |disk: &&DiskId| !from.now.contains(disk);
            let have =
                to.next.is_some() || to.now.iter().filter(is_new).all(|d| copies.contains(d));
            // One that a job empties may be removed before it is on a list, not after; and who is to take no part
            // isn't put on one.
            let meta = self.pool.meta.borrow();
            let emptied = emptied(&meta);
            let exist = to.all().iter().filter(|disk| !from.contains(**disk)).all(|disk| {
                let known = meta.disk_by_id(*disk).map(|disk| disk.number);
                known.is_some_and(|disk| {
                    !emptied.contains(&disk) && meta.offline_since(disk).is_none()
                })
            });
            done = config.voters == *from && have && exist && !copies.is_empty();
            if done {
                config.voters = to;
                config.copies = copies;
            }
            done
        });
        change.await?;
        if done {
            self.pool.stops.pass(behind).await;
        }
        let _meta = self.pool.meta_lock.acquire(1).await;
        let voters = self.pool.all_voters();
        self.pool.area.borrow_mut().copies.retain(|disk, _| voters.contains(disk));
        self.pool.measure_areas();
        Ok(done)
    }

    fn tell_voters(&self, from: &[DiskId], to: &[DiskId]) {
        let names = |list: &[DiskId], without: &[DiskId]| -> Vec<String> {
            let list = list.iter().filter(|disk| !without.contains(disk));
            let named = list.filter_map(|disk| self.pool.member_by_id(*disk));
            named.map(|member| member.display_name()).collect()
        };
        let (pool, from, to) = (self.pool.name.clone(), names(from, to), names(to, from));
        self.pool.events.tell(PoolEvent::VotesMoved { pool, from, to });
    }

    /// Gives a disk what it needs to get a copy of the metadata; false where it can't have that.
    async fn make_ready_to_vote(self: &Rc<Self>, member: &Rc<Member>) -> Result<bool, Ended> {
        let (extents, has) = {
            let meta = self.pool.meta.borrow();
            let disk = meta.disks().get(&member.number);
            let has = disk.and_then(|disk| disk.area).map_or(0, |area| area.count);
            (self.area_extents(&meta), has)
        };
        if has < extents[1] {
            for count in extents {
                match self.pool.give_area(member, count).await {
                    Ok(()) => break,
                    Err(AreaError::Ended(ended)) => return Err(ended),
                    Err(AreaError::NoSpace) if count != extents[1] => {}
                    Err(error) => {
                        let disk = member.display_name();
                        tracing::warn!(pool = %self.pool.name, disk, ?error, "no metadata area");
                        return Ok(false);
                    }
                }
            }
        }
        let answers = self.pool.area_place(member).is_some() && self.pool.answers(member).await;
        // An opening counts only those who show a configuration: one that is to vote shows the present one before
        // it is on any list.
        Ok(answers && self.pool.show_configuration(member).await?)
    }

    /// How long a further voter's metadata area should be, and must be.
    pub(super) fn area_extents(&self, meta: &Metadata) -> [u32; 2] {
        let extent_bytes = meta.shape().extent_bytes();
        let total: u64 = meta.data_disks().map(|disk| disk.bytes).sum();
        let least = self.pool.area.borrow().layout.area_bytes().div_ceil(extent_bytes) as u32;
        [area_extents_for(total, extent_bytes).max(least), least]
    }

    /// Whether a majority of a list is there.
    fn has_majority_there(&self, list: &[DiskId]) -> bool {
        has_majority(list, |disk| {
            let member = self.pool.member_by_id(disk);
            member.is_some_and(|member| self.is_there(member.number))
        })
    }

    /// Whether a witness votes or may: one that is gone for long doesn't.
    pub(super) fn has_able_witness(&self) -> bool {
        let (meta, config) = (self.pool.meta.borrow(), self.pool.config.borrow());
        self.able(&meta, &config.voters).any(|(disk, _)| disk.is_witness())
    }

    /// Who would vote if these disks came.
    pub(super) fn forecast_votes(
        &self,
        with: &Metadata,
        new: Vec<Candidate>,
        witness_bytes: u64,
    ) -> VotesForecast {
        let (meta, config) = (self.pool.meta.borrow(), self.pool.config.borrow());
        let able = self.able(&meta, &config.voters);
        let able = able.map(|(disk, candidate)| {
            let then = with.disks().get(&disk.number);
            // New labels may join it with new disks.
            Candidate {
                domain: then.map_or(candidate.domain, |disk| with.domain_of(disk)),
                ..candidate
            }
        });
        let candidates: Vec<Candidate> = able.chain(new).collect();
        forecast(with, &candidates, witness_bytes)
    }

    /// Whether a witness would let one more failure domain be lost.
    pub(super) fn lacks_witness(&self, meta: &Metadata) -> bool {
        let voters = self.pool.config.borrow().voters.clone();
        let candidates: Vec<Candidate> =
            self.able(meta, &voters).map(|(_, candidate)| candidate).collect();
        count(meta.pool().failure_domain, &candidates).1
    }

    /// The disks that may vote, by who votes now.
    fn able<'a>(
        &'a self,
        meta: &'a Metadata,
        voters: &'a Voters,
    ) -> impl Iterator<Item = (&'a Disk, Candidate)> {
        let emptied = emptied(meta);
        let now = self.pool.runtime.now();
        self.unfit.borrow_mut().retain(|_, until| now < *until);
        let fits = |disk: &Disk| match voters.now.contains(&disk.id) {
            _ if meta.offline_since(disk.number).is_some() => false,
            true => !self.is_long_gone(meta, disk.number),
            false => self.is_there(disk.number) && !self.unfit.borrow().contains_key(&disk.number),
        };
        let able = meta.disks().values();
        let able = able.filter(move |disk| !emptied.contains(&disk.number) && fits(disk));
        able.map(|disk| {
            let candidate = Candidate {
                machine: disk.node,
                domain: meta.domain_of(disk),
                bytes: disk.bytes,
                votes: voters.contains(disk.id),
                is_witness: disk.is_witness(),
            };
            (disk, candidate)
        })
    }

    /// Who should vote, by who votes now. Whoever is to take no part counts as gone, at once: he is about to be.
    pub(super) fn wanted_voters(&self, meta: &Metadata, voters: &Voters) -> Vec<DiskId> {
        let emptied = emptied(meta);
        let (disks, candidates): (Vec<&Disk>, Vec<Candidate>) = self.able(meta, voters).unzip();
        let domain = meta.pool().failure_domain;
        let chosen = choose_voters(domain, &candidates);
        let witness = choose_witness(&candidates, &chosen).map(|at| disks[at].id);
        let chosen: BTreeSet<DiskId> = chosen.iter().map(|at| disks[*at].id).collect();
        if chosen.is_empty() {
            return voters.now.clone();
        }
        // Those who are away may come back, so as many of them stay as cost nothing.
        let is_emptied = |disk: &DiskId| {
            meta.disk_by_id(*disk).is_none_or(|disk| emptied.contains(&disk.number))
        };
        let stay = voters.now.iter().filter(|disk| chosen.contains(disk));
        let new = chosen.iter().filter(|disk| !voters.now.contains(disk));
        let base: Vec<DiskId> = stay.chain(new).copied().collect();
        let is_chosen = |disk| chosen.contains(&disk) || witness == Some(disk);
        let away = voters.now.iter().filter(|disk| !is_chosen(**disk) && !is_emptied(disk));
        let mut lists = vec![base];
        for disk in away {
            let mut longer = lists.last().cloned().unwrap_or_default();
            longer.push(*disk);
            lists.push(longer);
        }
        // A witness votes where that lets more be lost, or makes an odd number of them.
        let with_witness = |list: &Vec<DiskId>| Some([list.as_slice(), &[witness?]].concat());
        let with: Vec<Vec<DiskId>> = lists.iter().filter_map(with_witness).collect();
        let lists = lists.into_iter().chain(with).filter(|list| list.len() <= VOTE_DISKS_MAX);
        let is_witness = |disk: &&DiskId| meta.disk_by_id(**disk).is_some_and(Disk::is_witness);
        let rank = |list: &Vec<DiskId>| {
            let others = list.len() - list.iter().filter(is_witness).count();
            let domains = spare_of(meta, list, is_chosen, |disk| meta.domain_of(disk));
            let machines = spare_of(meta, list, is_chosen, |disk| disk.node);
            let is_odd = !list.len().is_multiple_of(2);
            (has_majority(list, is_chosen), domains, machines, others, is_odd)
        };
        lists.max_by_key(rank).unwrap_or_else(|| voters.now.clone())
    }
}

/// Disks that shall hold nothing, not even a vote. One that is rebuilt keeps it if nobody else can have it.
fn emptied(meta: &Metadata) -> BTreeSet<DiskNumber> {
    let jobs = meta.jobs().values().filter(|job| job.kind != JobKind::Rebuild);
    jobs.filter_map(|job| job.empties()).collect()
}

fn are_same(one: &[DiskId], other: &[DiskId]) -> bool {
    let set = |list: &[DiskId]| list.iter().copied().collect::<BTreeSet<DiskId>>();
    set(one) == set(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Candidates in a pool of this failure domain, without labels.
    fn candidates(domain: FailureDomain, of: &[(u128, u64, bool)]) -> Vec<Candidate> {
        let candidate = |(at, (machine, bytes, votes)): (usize, &(u128, u64, bool))| Candidate {
            machine: Uuid::from_u128(*machine),
            domain: match domain {
                FailureDomain::Node => Uuid::from_u128(*machine),
                FailureDomain::Disk => Uuid::from_u128(1000 + at as u128),
            },
            bytes: *bytes,
            votes: *votes,
            is_witness: false,
        };
        of.iter().enumerate().map(candidate).collect()
    }

    #[test]
    fn each_machine_votes_by_its_largest_disk_unless_another_does_already() {
        let disks = [(1, 4, false), (1, 9, false), (2, 4, true), (2, 9, false)];
        let chosen = |domain| choose_voters(domain, &candidates(domain, &disks));
        assert_eq!(chosen(FailureDomain::Node), [2, 1]);
        assert_eq!(chosen(FailureDomain::Disk), [2, 1, 3, 0]);
    }

    #[test]
    fn there_are_five_at_most_and_who_votes_stays() {
        let disks: Vec<_> = (0..7).map(|machine| (machine, 9, machine > 1)).collect();
        let disks = candidates(FailureDomain::Node, &disks);
        assert_eq!(choose_voters(FailureDomain::Node, &disks), [2, 3, 4, 5, 6]);
    }

    #[test]
    fn as_many_domains_that_labels_joined_as_can_be_may_be_lost_then_as_many_machines() {
        let node = FailureDomain::Node;
        let of = |racks: &[u128]| {
            let disks: Vec<_> = (0..racks.len() as u128).map(|at| (at, 9, false)).collect();
            let mut disks = candidates(node, &disks);
            for (disk, rack) in disks.iter_mut().zip(racks) {
                disk.domain = Uuid::from_u128(*rack);
            }
            disks
        };
        // Of two racks one that has a half can't be lost: so any machine may, of five even two.
        assert_eq!(choose_voters(node, &of(&[1, 1, 2])), [0, 2, 1]);
        assert_eq!(choose_voters(node, &of(&[1, 1, 2, 2])), [0, 2, 1]);
        assert_eq!(choose_voters(node, &of(&[1, 1, 1, 2, 2, 2])), [0, 3, 1, 4, 2]);
        assert_eq!(choose_voters(node, &of(&[1, 2, 2, 2])), [0, 1, 2]);
        // With a witness either may: two of each make five.
        let mut disks = of(&[1, 1, 1, 2, 2, 2, 3]);
        disks[6].is_witness = true;
        assert_eq!(first_voters(node, &disks), [0, 3, 1, 4, 6]);
        let mut disks = of(&[1, 1, 2, 3]);
        disks[3].is_witness = true;
        assert_eq!(first_voters(node, &disks), [0, 2, 3]);
        // Of three any rack may, and any two machines.
        assert_eq!(choose_voters(node, &of(&[1, 1, 2, 2, 3, 3])), [0, 2, 4, 1, 3]);
        assert_eq!(choose_voters(node, &of(&[1, 1, 2, 3, 4, 5, 6])), [0, 2, 3, 4, 5]);
        // Where all is one domain nothing helps against losing that, but against losing a machine.
        assert_eq!(choose_voters(node, &of(&[1, 1, 1])), [0, 1, 2]);
        assert!(count(node, &of(&[1, 1, 2, 2])).1, "a witness lets a rack be lost");
        let mut disks = of(&[1, 1, 2, 2, 3]);
        disks[4].is_witness = true;
        assert_eq!(first_voters(node, &disks), [0, 2, 1, 3, 4]);
        disks[4].domain = Uuid::from_u128(1);
        assert_eq!(first_voters(node, &disks), [0, 2, 1, 3, 4], "any two machines may be lost");
        // Who votes already stays.
        let mut disks = of(&[1, 1, 2, 2, 3, 3]);
        disks[1].votes = true;
        disks[5].votes = true;
        assert_eq!(choose_voters(node, &disks), [1, 5, 2, 0, 4]);
        // Disks that share a batch and no machine.
        let mut disks = candidates(
            FailureDomain::Disk,
            &[(1, 9, false), (1, 9, false), (2, 9, false), (2, 9, false)],
        );
        disks[0].domain = disks[2].domain;
        assert_eq!(choose_voters(FailureDomain::Disk, &disks), [0, 1, 3]);
    }

    #[test]
    fn a_witness_makes_an_even_number_odd_and_is_on_a_machine_of_its_own() {
        let of = |domain, witnesses: &[usize], votes: &[usize]| {
            let disks = [(1, 4, false), (2, 4, false), (2, 1, false), (3, 1, false)];
            let mut disks = candidates(domain, &disks);
            witnesses.iter().for_each(|at| disks[*at].is_witness = true);
            votes.iter().for_each(|at| disks[*at].votes = true);
            disks
        };
        let (node, disk) = (FailureDomain::Node, FailureDomain::Disk);
        let disks = of(node, &[2, 3], &[]);
        assert_eq!(first_voters(node, &disks), [0, 1, 3]);
        assert_eq!(choose_witness(&disks, &[0, 1]), Some(3));
        // On a machine that has data it is better than an even number, and no use beside an odd one.
        assert_eq!(choose_witness(&disks[..3], &[0, 1]), Some(2));
        assert_eq!(first_voters(node, &disks[..3]), [0, 1, 2]);
        assert_eq!(choose_witness(&disks[..3], &[1]), None);
        assert!(count(node, &disks[..3]).1, "elsewhere it would let either be lost");
        // Of single disks the one that votes stays, else another machine's is better.
        assert_eq!(first_voters(disk, &of(disk, &[2, 3], &[])), [0, 1, 3]);
        assert_eq!(first_voters(disk, &of(disk, &[2, 3], &[2])), [0, 1, 2]);
        assert_eq!(first_voters(node, &of(node, &[2], &[2])), [0, 1, 3]);
        assert_eq!(first_voters(node, &of(node, &[2, 3], &[2])), [0, 1, 3]);
    }

    #[test]
    fn a_witness_is_lacking_where_machines_could_take_half_of_the_votes_with_them() {
        let (node, disk) = (FailureDomain::Node, FailureDomain::Disk);
        let of = |domain, machines: &[u128]| {
            let disks: Vec<_> = machines.iter().map(|machine| (*machine, 9, false)).collect();
            candidates(domain, &disks)
        };
        let lacks = |domain, machines| count(domain, &of(domain, machines)).1;
        for (machines, of_nodes, of_disks) in [
            (&[1][..], false, false),
            (&[1, 1], false, false),
            (&[1, 2], true, true),
            (&[1, 1, 2, 2], true, true),
            (&[1, 2, 3], false, false),
            (&[1, 1, 2, 3], false, true),
            (&[1, 2, 3, 4], true, true),
            (&[1, 2, 3, 4, 5, 6], false, false),
        ] {
            assert_eq!(lacks(node, machines), of_nodes, "{machines:?}");
            assert_eq!(lacks(disk, machines), of_disks, "{machines:?}");
        }
        let mut disks = of(node, &[1, 2, 3]);
        disks[2].is_witness = true;
        assert!(!count(node, &disks).1, "it has one");
        disks[2].domain = disks[0].domain;
        assert_eq!(
            count(node, &disks),
            (3, true),
            "one that goes with another lets nothing more be lost"
        );
    }
}
