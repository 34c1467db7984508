//! Losing disks for good, beside the run: at an instant the disks are copied as a power cut (or the
//! mere end of all processes) would leave them, some are left out, and the rest is opened in a world
//! of its own by the same or a new owner. What it must be able to read is what the oracle says of that
//! instant. The run itself goes on and never knows: a fork draws from generators of its own and begins
//! only once the run is over.
//!
//! Two judgements. Where what is lost is within what the layout covers and status claims, everything
//! is [`Judgement::Readable`]. Beyond that nothing may be quiet ([`Judgement::RightOrNamed`]): each
//! block is right or an error that names it, and what waits names a disk that is lost.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_SECTORS, Instant, IoError, Lba, SECTOR_BYTES, SectorRange};
use pool::engine::{ImportOptions, VotesOf};
use pool::{PoolReport, PoolState};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::claim::{Claim, Place};
use crate::cluster::{Cluster, Remains};
use crate::medium::Survival;
use crate::oracle::Oracle;
use crate::random::{fork, fork_seed};
use crate::runner::{Failure, Stage};
use crate::workload::{Record, Watched};

/// Bound of virtual time on a fork.
pub const FORK_MAX: Duration = Duration::from_secs(600);
/// Longest until volumes serve: a lease, grace, replay, and disks that are tried again.
const SERVED_MAX: Duration = Duration::from_secs(40);
/// Longest that a read of a volume that serves may take.
const READ_MAX: Duration = Duration::from_secs(20);
/// Forks of a run with [`Luck::Often`], at most: each costs about as much as opening a pool and reading
/// it.
const OFTEN_MAX: usize = 12;
/// How likely an opportunity is taken with [`Luck::Seldom`], which takes one in a run.
const SELDOM: f64 = 0.3;
/// Sectors read at once.
const PIECE_SECTORS: u64 = 128;
/// How a pool is imported by a new owner.
const TAKES_IT: ImportOptions = ImportOptions {
    force: true,
    grace: None,
    outdated_metadata: false,
    read_only: false,
    votes: VotesOf::Known,
};
/// How it is by one that only reads.
pub const READS_IT: ImportOptions = ImportOptions { force: false, read_only: true, ..TAKES_IT };
/// Lines of the run's story that a fork keeps.
const LINES: usize = 45;

/// What must hold in a fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Every volume serves, and every sector reads as the oracle allows.
    Readable,
    /// Each block is right or an error that names it; what waits names a disk that is lost or away.
    RightOrNamed,
}

/// Who opens what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The one that had it, from its records.
    Same,
    /// One that never saw it, by import.
    New,
    /// One that never saw it, read-only: it leaves all as it was for who comes after it.
    Reader,
}

/// What to do to the copy.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Why, for people.
    pub what: String,
    /// Disks that are destroyed.
    pub lost: BTreeSet<Place>,
    /// Disks that don't come back while the fork is looked at.
    pub away: BTreeSet<Place>,
    /// What the end of the world leaves of caches; by node and by luck if not given. With
    /// [`Survival::All`] only processes end.
    pub survival: Option<Survival>,
    /// Who opens it, one after the other, with a power cut in between.
    pub owners: Vec<Owner>,
    /// What must hold.
    pub judgement: Judgement,
}

/// A copy that waits to be looked at.
pub struct Fork {
    loss: Loss,
    at: Instant,
    seed: u64,
    remains: Remains,
    oracles: Vec<Rc<Oracle>>,
    /// Names under which messages may speak of disks that aren't there.
    names: Vec<String>,
    story: Vec<String>,
}

/// How often forks are taken by luck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Luck {
    /// Not at all; scenarios take those that they are about.
    Never,
    /// One in most runs.
    #[default]
    Seldom,
    /// At each opportunity.
    Often,
}

/// The forks of a run.
pub struct Forks {
    by_luck: Luck,
    closed: Cell<bool>,
    random: RefCell<SmallRng>,
    taken: RefCell<Vec<Fork>>,
}

impl Forks {
    /// None yet. `by_luck` is for scenarios without forks of their own.
    pub fn new(seed: u64, by_luck: Luck) -> Rc<Forks> {
        Rc::new(Forks {
            by_luck,
            closed: Cell::new(false),
            random: RefCell::new(fork(seed, "forks")),
            taken: RefCell::default(),
        })
    }

    /// Whether to take forks at random instants.
    pub fn by_luck(&self) -> bool {
        self.by_luck != Luck::Never && !self.closed.get()
    }

    /// Whether this opportunity is one for a fork by luck.
    pub fn is_time(&self) -> bool {
        self.by_luck()
            && match self.by_luck {
                Luck::Never => false,
                Luck::Seldom => self.luck(|luck| luck.random_bool(SELDOM)),
                Luck::Often => true,
            }
    }

    /// No more by luck: from now on things break that no claim of status covers.
    pub fn close(&self) {
        self.closed.set(true);
    }

    /// Those that were taken.
    pub fn take_all(&self) -> Vec<Fork> {
        self.taken.take()
    }

    /// A draw of the forks' own luck.
    pub fn luck<T>(&self, draw: impl FnOnce(&mut SmallRng) -> T) -> T {
        draw(&mut self.random.borrow_mut())
    }

    /// Copies `cluster` as it is at this instant.
    pub fn take(
        &self,
        cluster: &Cluster,
        owner: usize,
        oracles: Vec<Rc<Oracle>>,
        claim: Option<&Claim>,
        loss: Loss,
    ) {
        let world = cluster.world();
        let number = self.taken.borrow().len();
        let mut random = self.random.borrow_mut();
        let remains = cluster.remains(owner, &mut random, loss.survival);
        self.taken.borrow_mut().push(Fork {
            at: world.timeline().now(),
            seed: fork_seed(world.seed(), &format!("fork-{number}")),
            oracles: oracles.iter().map(|oracle| oracle.fork()).collect(),
            names: names_of(cluster, claim, &remains, &loss),
            story: world.story().last(LINES),
            remains,
            loss,
        });
    }

    /// Copies `cluster` with a loss by luck, as far as there is room for another fork.
    pub fn take_by_luck(&self, cluster: &Cluster, owner: usize, oracles: Vec<Rc<Oracle>>) {
        let most = if self.by_luck == Luck::Often { OFTEN_MAX } else { 1 };
        if !self.by_luck() || oracles.is_empty() || self.taken.borrow().len() >= most {
            return;
        }
        let supervisor = cluster.supervisor(owner);
        let claim = match supervisor.engine() {
            Some(_) => Claim::of(cluster, owner),
            None => supervisor.last_claim(),
        };
        let loss = self.luck(|random| any_loss(cluster, claim.as_ref(), random));
        self.take(cluster, owner, oracles, claim.as_ref(), loss);
    }
}

/// A loss by luck: mostly as much as `claim` says is survived, sometimes more.
fn any_loss(cluster: &Cluster, claim: Option<&Claim>, random: &mut SmallRng) -> Loss {
    let none = BTreeMap::new();
    let units = cluster.failure_units(claim.map_or(&none, |claim| &claim.labels));
    let units_of = |nodes: &BTreeSet<usize>| -> Vec<usize> {
        let among = |unit: &Vec<Place>| unit.iter().any(|(node, _)| nodes.contains(node));
        units.iter().enumerate().filter(|(_, unit)| among(unit)).map(|(number, _)| number).collect()
    };
    let mut lost_units = BTreeSet::new();
    let mut away = BTreeSet::new();
    let mut judgement = Judgement::Readable;
    let covered = claim.filter(|claim| !claim.waits).and_then(|claim| {
        let troubled = units_of(&claim.troubled).len();
        (claim.survives as usize).checked_sub(troubled).map(|room| (claim, room))
    });
    let beyond = random.random_bool(0.2);
    match covered {
        Some((claim, room)) if !beyond => {
            // Those in trouble count already: to lose one of them costs nothing more.
            let healthy = units_of(&claim.there.difference(&claim.troubled).copied().collect());
            lost_units.extend(some_of(&healthy, room, random));
            let troubled = units_of(&claim.troubled);
            lost_units.extend(troubled.into_iter().filter(|_| random.random_bool(0.5)));
            if claim.absent_may_stay && random.random_bool(0.5) {
                away.extend(claim.absent.iter().copied());
            }
        }
        // Nobody claims anything; but what is only switched off comes back.
        _ if random.random_bool(0.4) => {}
        _ => {
            let count = 1 + claim.map_or(0, |claim| claim.survives as usize);
            let all: Vec<usize> = (0..units.len()).collect();
            lost_units.extend(some_of(&all, count, random));
            judgement = Judgement::RightOrNamed;
        }
    }
    let mut lost = BTreeSet::new();
    for unit in lost_units.iter().map(|number| &units[*number]) {
        let only = random.random_bool(0.5).then(|| random.random_range(0..unit.len()));
        lost.extend(match only {
            Some(only) => &unit[only..=only],
            None => &unit[..],
        });
    }
    let owners = match random.random_range(0..6) {
        0 => vec![Owner::Same],
        1 => vec![Owner::New],
        2 => vec![Owner::Same, Owner::New],
        3 => vec![Owner::New, Owner::Same],
        4 => vec![Owner::Reader, Owner::Same],
        _ => vec![Owner::Reader, Owner::New],
    };
    let survival = random.random_bool(0.3).then_some(Survival::All);
    let what = match claim {
        Some(claim) => format!(
            "status: {}, survives {}, in trouble {:?}",
            claim.state, claim.survives, claim.troubled
        ),
        None => "no status".to_string(),
    };
    Loss { what, lost, away, survival, owners, judgement }
}

fn some_of(nodes: &[usize], count: usize, random: &mut SmallRng) -> Vec<usize> {
    let mut left = nodes.to_vec();
    let mut chosen = Vec::new();
    while chosen.len() < count && !left.is_empty() {
        chosen.push(left.swap_remove(random.random_range(0..left.len())));
    }
    chosen
}

/// Every way in which a message may speak of a disk that isn't there.
fn names_of(
    cluster: &Cluster,
    claim: Option<&Claim>,
    remains: &Remains,
    loss: &Loss,
) -> Vec<String> {
    let mut names = Vec::new();
    for (number, slot) in loss.lost.union(&loss.away) {
        let node = cluster.node(*number);
        let address = format!("e{}.{slot}", node.shelf());
        names.extend(remains.identity_of(&address));
        names.push(address);
        names.push(format!("{}.{slot}", node.name()));
        // A machine's name says where to look if it is the whole machine that is gone.
        names.push(format!("disk of {}", node.name()));
        names.extend(claim.and_then(|claim| claim.ids.get(&(*number, *slot)).cloned()));
    }
    names
}

impl Fork {
    /// The seed of its world.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether something is lost that status claims to survive.
    pub fn is_covered_loss(&self) -> bool {
        self.loss.judgement == Judgement::Readable && !self.loss.lost.is_empty()
    }

    /// The story of the run up to it.
    pub fn story(&self) -> &[String] {
        &self.story
    }

    /// What it is, for people.
    pub fn title(&self) -> String {
        let seconds = self.at.as_nanos() as f64 / 1e9;
        let Loss { what, lost, away, survival, owners, judgement } = &self.loss;
        let list = |places: &BTreeSet<Place>| {
            let names: Vec<_> =
                places.iter().map(|(node, slot)| format!("node-{}.{slot}", node + 1)).collect();
            if names.is_empty() { "nothing".to_string() } else { names.join(", ") }
        };
        let end = match survival {
            Some(Survival::All) => "processes end".to_string(),
            Some(survival) => format!("power cut leaving of caches {survival:?}"),
            None => "power cut".to_string(),
        };
        format!(
            "fork at {seconds:.6} ({what}): {end}; destroyed: {}; away: {}; opened by {owners:?}; \
             must be {judgement:?}",
            list(lost),
            list(away)
        )
    }

    /// Opens what is left and looks at all of it.
    pub async fn judge(self: Rc<Self>, stage: Stage) -> Result<(), Failure> {
        let cluster = Cluster::rebuild(&stage, &self.remains);
        let records = self.records(&stage, Rc::clone);
        for (round, owner) in self.loss.owners.iter().enumerate() {
            if round > 0 {
                cluster.cut_all_power();
            }
            self.start_nodes(&cluster);
            cluster.tell(&format!("round {round}: opened by {owner:?} owner"));
            if *owner == Owner::Reader {
                // What it saw isn't kept, so that another one may see something else.
                let seen = self.records(&stage, |oracle| oracle.fork());
                self.look_only(&cluster, &seen).await?;
                continue;
            }
            let number = if *owner == Owner::Same { 0 } else { 1 };
            cluster.start_supervisor(number);
            // Whoever opened it before isn't its owner any more once another one had it.
            let as_usual = (*owner == Owner::New || round > 0).then_some(TAKES_IT);
            self.look(&cluster, number, as_usual, &records).await?;
        }
        Ok(())
    }

    fn records(
        &self,
        stage: &Stage,
        oracle: impl Fn(&Rc<Oracle>) -> Rc<Oracle>,
    ) -> BTreeMap<String, Rc<Record>> {
        let record = |of: &Rc<Oracle>| {
            let record = Record::new(&stage.world, oracle(of), Rc::clone(&stage.verdict));
            if self.loss.judgement == Judgement::RightOrNamed {
                record.expect_unreadable(SectorRange::new(Lba(0), u64::MAX >> 1));
            }
            (of.name().to_string(), record)
        };
        self.oracles.iter().map(record).collect()
    }

    /// Reads everything without changing anything.
    async fn look_only(
        &self,
        cluster: &Rc<Cluster>,
        records: &BTreeMap<String, Rc<Record>>,
    ) -> Result<(), Failure> {
        let before = digests(cluster);
        cluster.start_supervisor(1);
        self.look(cluster, 1, Some(READS_IT), records).await?;
        cluster.kill_supervisor(1);
        match digests(cluster) == before {
            true => Ok(()),
            false => Err(Failure("an import that only reads has written".into())),
        }
    }

    fn start_nodes(&self, cluster: &Cluster) {
        let gone: BTreeSet<Place> = self.loss.lost.union(&self.loss.away).copied().collect();
        for number in 0..cluster.node_count() {
            let disks = cluster.node(number).disks();
            let mut any = false;
            for (slot, disk) in disks.iter().enumerate() {
                let here = !gone.contains(&(number, slot));
                any |= here;
                if !here {
                    disk.set_gone(true);
                }
            }
            if any {
                cluster.start_node(number);
            }
        }
    }

    async fn look(
        &self,
        cluster: &Rc<Cluster>,
        owner: usize,
        import: Option<ImportOptions>,
        records: &BTreeMap<String, Rc<Record>>,
    ) -> Result<(), Failure> {
        let waiting = wait_served(cluster, owner, import, records).await;
        if let Err(why) = &waiting {
            cluster.tell(&format!("it doesn't serve: {why}"));
            match self.loss.judgement {
                Judgement::Readable => return Err(Failure(format!("it doesn't serve: {why}"))),
                Judgement::RightOrNamed => self.must_name("what waits", why)?,
            }
        }
        let Some(report) = open_report(cluster, owner) else { return Ok(()) };
        for (name, record) in records {
            let Some(volume) = report.volumes.iter().find(|volume| volume.name == *name) else {
                return Err(Failure(format!("volume {name} is gone from the pool's metadata")));
            };
            let end = record.oracle().written_sectors().last().map_or(0, |last| last + 1);
            if volume.size_bytes < end * SECTOR_BYTES as u64 {
                let size = volume.size_bytes;
                return Err(Failure(format!("volume {name} shrank to {size} bytes")));
            }
            if volume.suspended().is_none() {
                self.read(cluster, owner, name, record).await?;
            }
        }
        Ok(())
    }

    fn must_name(&self, what: &str, text: &str) -> Result<(), Failure> {
        if self.names.iter().any(|name| is_named(text, name)) {
            return Ok(());
        }
        let names = self.names.join(", ");
        Err(Failure(format!("{what} names none of the disks that are gone ({names}): {text}")))
    }

    async fn read(
        &self,
        cluster: &Rc<Cluster>,
        owner: usize,
        name: &str,
        record: &Rc<Record>,
    ) -> Result<(), Failure> {
        let supervisor = Rc::clone(cluster.supervisor(owner));
        let (Some(engine), Some(process)) = (supervisor.engine(), supervisor.process()) else {
            return Err(Failure("the supervisor is dead".into()));
        };
        let device = engine
            .open_volume(crate::scenarios::POOL, name)
            .map_err(|error| Failure(format!("{name} can't be opened: {error}")))?;
        let sectors = device.geometry().sectors;
        let watched = Watched::new(device, Rc::clone(record));
        let piece = |range: SectorRange| {
            let (watched, director) = (watched.clone(), cluster.director());
            let reading = process.run(async move { watched.read(range).await.map(drop) });
            async move {
                match runtime::timeout(&director, READ_MAX, reading).await {
                    Ok(Ok(answer)) => Some(answer),
                    Ok(Err(_)) | Err(_) => None,
                }
            }
        };
        let mut start = 0;
        while start < sectors {
            let range = SectorRange::new(Lba(start), PIECE_SECTORS.min(sectors - start));
            match piece(range).await {
                Some(Ok(())) => {}
                Some(Err(IoError::Medium(_))) => {
                    if self.loss.judgement == Judgement::Readable {
                        return Err(Failure(format!("{name}: {range} can't be read")));
                    }
                    let mut at = range.start.0;
                    while at < range.end().0 {
                        let block = SectorRange::new(Lba(at), BLOCK_SECTORS.min(sectors - at));
                        match piece(block).await {
                            Some(Ok(())) => {}
                            Some(Err(IoError::Medium(named))) if named.overlaps(block) => {}
                            other => self.failed(cluster, owner, name, block, other)?,
                        }
                        at += BLOCK_SECTORS;
                    }
                }
                other => {
                    self.failed(cluster, owner, name, range, other)?;
                    // It waits, and says for what.
                    return Ok(());
                }
            }
            start += range.count;
        }
        Ok(())
    }

    /// A read that neither was answered nor failed by name: it must wait for what is lost.
    fn failed(
        &self,
        cluster: &Cluster,
        owner: usize,
        name: &str,
        range: SectorRange,
        answer: Option<Result<(), IoError>>,
    ) -> Result<(), Failure> {
        if let Some(answer) = answer {
            return Err(Failure(format!("{name}: a read of {range} says {answer:?}")));
        }
        let report = open_report(cluster, owner);
        let volume = report.iter().flat_map(|report| &report.volumes).find(|v| v.name == name);
        match volume.and_then(|volume| volume.suspended().map(str::to_owned)) {
            Some(why) if self.loss.judgement == Judgement::RightOrNamed => {
                self.must_name("what a read waits for", &why)
            }
            why => Err(Failure(format!("{name}: a read of {range} hangs; suspended: {why:?}"))),
        }
    }
}

/// Checksums of all disks, to see whether anything was written.
pub fn digests(cluster: &Cluster) -> Vec<u64> {
    cluster.disks().iter().map(|(_, disk)| disk.digest()).collect()
}

/// Whether `text` has `name`, and not only as the beginning of a longer one.
fn is_named(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, found)| {
        !text[at + found.len()..].starts_with(|next: char| next.is_ascii_digit())
    })
}

fn open_report(cluster: &Cluster, owner: usize) -> Option<PoolReport> {
    cluster.supervisor(owner).report(crate::scenarios::POOL).filter(|report| report.lease_ok)
}

/// Waits until everything serves, or says for how little it waits.
async fn wait_served(
    cluster: &Rc<Cluster>,
    owner: usize,
    import: Option<ImportOptions>,
    records: &BTreeMap<String, Rc<Record>>,
) -> Result<(), String> {
    let supervisor = Rc::clone(cluster.supervisor(owner));
    let begin = cluster.world().timeline().now();
    let mut refused = String::new();
    loop {
        let report = open_report(cluster, owner);
        let serves = report.as_ref().is_some_and(|report| {
            matches!(report.state, PoolState::Online | PoolState::Degraded)
                && report.volumes.iter().all(|volume| volume.suspended().is_none())
        });
        if serves {
            return Ok(());
        }
        if cluster.world().timeline().now().since(begin) > SERVED_MAX {
            let known = cluster.supervisor(owner).report(crate::scenarios::POOL);
            let state = known.as_ref().map(|report| &report.state);
            let volumes: Vec<String> = known
                .iter()
                .flat_map(|report| &report.volumes)
                .filter(|volume| records.contains_key(&volume.name))
                .filter_map(|volume| Some(format!("{}: {}", volume.name, volume.suspended()?)))
                .collect();
            return Err(format!("{state:?}; {}; {refused}", volumes.join("; ")));
        }
        if let (None, Some(options)) = (&report, import) {
            let importing = supervisor.with(|engine| async move {
                if options.read_only {
                    // Without a majority what is there may be older than the oracle knows.
                    let plan = engine.plan_import(crate::scenarios::POOL, options.votes).await?;
                    plan.no_quorum.map_or(Ok(()), Err)?;
                }
                engine.import_pool(crate::scenarios::POOL, options).await.map(drop)
            });
            let asked = runtime::timeout(&cluster.director(), SERVED_MAX, importing).await;
            if let Ok(Ok(Err(error))) = asked {
                refused = error.to_string();
            }
        }
        cluster.sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_beginning_of_another() {
        assert!(is_named("bring back e1.0 (/dev/node-1.0 on node-1)", "e1.0"));
        assert!(is_named("bring back a disk of node-1", "disk of node-1"));
        assert!(!is_named("bring back a disk of node-12", "disk of node-1"));
        assert!(!is_named("bring back e1.01", "e1.0"));
    }
}
