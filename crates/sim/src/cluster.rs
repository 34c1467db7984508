//! A whole cluster: nodes with disks and the production target, supervisors with the production
//! initiator and pool engine, one switch. What an administrator or bad luck does to it is a method.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::{Instant, OwnerId};
use pool::engine::{Engine, EngineConfig, Limits, Stops};
use pool::format::FailureDomain;
use pool::{DiskState, JobState, LabelKind, LabelValue, Labels, PoolReport, PoolState};
use rand::Rng;
use rand::rngs::SmallRng;
use runtime::Handle;
use uuid::Uuid;

use self::records::Records;
use crate::claim::{Claim, Place};
use crate::disk::service::Model;
use crate::disk::{Disk, DiskRemains};
use crate::drivers::{self, NodeFacts};
use crate::medium::Survival;
use crate::network::{Line, Network, Quality, SimPort, Station};
use crate::random::{fork, fork_seed};
use crate::runner::{Failure, Stage};
use crate::world::{Clock, Killed, Process, World};

mod domains;
mod power;
mod records;

/// What to build.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For each node the sizes of its disks in bytes.
    pub nodes: Vec<Vec<u64>>,
    /// How many supervisors there are; they don't run until started.
    pub supervisors: usize,
    /// Largest Ethernet payload.
    pub mtu_bytes: usize,
    /// Whether the machines' clocks drift, within what the lease tolerates.
    pub drift: bool,
    /// Switches, each with a cable to every machine.
    pub paths: u8,
    /// Extent size of pools, unless a scenario says otherwise.
    pub extent_bytes: u64,
    /// What fails as a whole.
    pub failure_domain: FailureDomain,
    /// Memory of an engine for checksum blocks, if not production's.
    pub checksum_bytes: Option<usize>,
    /// Whether large writes go in place.
    pub in_place: bool,
    /// How long engines wait before they discard, if not as long as production.
    pub trim_after: Option<Duration>,
    /// What disks are like.
    pub disk: Model,
    /// What cables carry.
    pub line: Option<Line>,
    /// Pools have keys; without that in half of the runs.
    pub granted: bool,
    /// All machines demand keys of all; without that, as it follows from their numbers.
    pub demanding: bool,
    /// Supervisors show this key, which every pool lets in, instead of their own.
    pub is_fork: bool,
}

/// Small extents make small disks behave like large ones.
pub const EXTENT_BYTES: u64 = 256 << 10;
/// The most that a clock is off: two clocks at the two ends differ by the stated 1 %.
const DRIFT_PPM_MAX: i64 = 4_970;

impl Plan {
    /// `nodes` nodes with one disk of `mib` MiB each, one supervisor, jumbo frames.
    pub fn simple(nodes: usize, mib: u64) -> Plan {
        Plan {
            nodes: vec![vec![mib << 20]; nodes],
            supervisors: 1,
            mtu_bytes: 9000,
            drift: true,
            paths: 1,
            extent_bytes: EXTENT_BYTES,
            failure_domain: FailureDomain::Node,
            checksum_bytes: None,
            in_place: true,
            trim_after: None,
            disk: Model::Quick,
            line: None,
            granted: false,
            demanding: false,
            is_fork: false,
        }
    }
}

/// A machine with disks.
pub struct Node {
    name: String,
    shelf: u16,
    machine: Uuid,
    /// One on each path.
    stations: Vec<Rc<Station>>,
    disks: RefCell<Vec<Rc<Disk>>>,
    clock: Cell<Clock>,
    process: RefCell<Option<Rc<Process>>>,
    /// When something was last wrong with it, as far as anybody looked.
    troubled: Cell<Option<Instant>>,
}

/// What is left of all machines at an instant: enough to build them anew in another world.
pub struct Remains {
    nodes: Vec<NodeRemains>,
    owner: OwnerId,
    records: Records,
    mtu_bytes: usize,
    checksum_bytes: Option<usize>,
    in_place: bool,
    trim_after: Option<Duration>,
    /// Whether its pools have keys.
    pub granted: bool,
}

impl Remains {
    /// The identity of the disk that was last present at `address`, as the owner's records have it.
    pub fn identity_of(&self, address: &str) -> Option<String> {
        self.records.identity_of(address)
    }
}

struct NodeRemains {
    name: String,
    shelf: u16,
    machine: Uuid,
    disks: Vec<DiskRemains>,
}

/// A machine that owns pools.
pub struct Supervisor {
    name: String,
    owner: OwnerId,
    /// One on each path.
    stations: Vec<Rc<Station>>,
    clock: Clock,
    process: RefCell<Option<Rc<Process>>>,
    engine: RefCell<Option<Rc<Engine>>>,
    /// What its records say of its pools; they outlive its process.
    records: RefCell<Records>,
    /// What its status said when it was killed, until it is started again.
    last_claim: RefCell<Option<Claim>>,
    /// Whether it was ever started.
    ran: Cell<bool>,
}

/// All of it.
pub struct Cluster {
    stage: Stage,
    networks: Vec<Rc<Network>>,
    nodes: RefCell<Vec<Rc<Node>>>,
    supervisors: Vec<Rc<Supervisor>>,
    plan: Plan,
    random: RefCell<SmallRng>,
    /// How often engines evict a disk.
    evict: Rc<Cell<u64>>,
}

impl Node {
    /// Its name in stories.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its disks.
    pub fn disks(&self) -> Vec<Rc<Disk>> {
        self.disks.borrow().clone()
    }

    /// Where its disks are put in.
    pub fn slots(&self) -> &RefCell<Vec<Rc<Disk>>> {
        &self.disks
    }

    /// Its cable, the first one if it has several.
    pub fn station(&self) -> &Rc<Station> {
        &self.stations[0]
    }

    /// Its cables, one on each path.
    pub fn stations(&self) -> &[Rc<Station>] {
        &self.stations
    }

    /// The running process, if it runs.
    pub fn process(&self) -> Option<Rc<Process>> {
        self.process.borrow().clone()
    }

    /// The shelf of its exports.
    pub fn shelf(&self) -> u16 {
        self.shelf
    }

    /// Whether something about it is broken from outside, so that an engine may do without it at any
    /// moment.
    pub fn is_troubled(&self) -> bool {
        self.process.borrow().as_ref().is_none_or(|process| process.is_paused())
            || self.stations.iter().any(|station| station.is_troubled())
            || self.disks.borrow().iter().any(|disk| disk.is_silent())
    }

    /// When something about it was last known to be broken.
    pub fn last_troubled(&self) -> Option<Instant> {
        self.troubled.get()
    }
}

impl Supervisor {
    /// Its machine's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its cable, the first one if it has several.
    pub fn station(&self) -> &Rc<Station> {
        &self.stations[0]
    }

    /// Its cables, one on each path.
    pub fn stations(&self) -> &[Rc<Station>] {
        &self.stations
    }

    /// Its lasting identity.
    pub fn owner(&self) -> OwnerId {
        self.owner
    }

    /// The running process, if it runs.
    pub fn process(&self) -> Option<Rc<Process>> {
        self.process.borrow().clone()
    }

    /// The running engine, if it runs.
    pub fn engine(&self) -> Option<Rc<Engine>> {
        self.engine.borrow().clone()
    }

    /// What its status said when it was killed, unless it runs again.
    pub fn last_claim(&self) -> Option<Claim> {
        self.last_claim.borrow().clone()
    }

    /// What its engine says of `pool`.
    pub fn report(&self, pool: &str) -> Option<PoolReport> {
        self.engine()?.reports().into_iter().find(|report| report.name == pool)
    }

    /// Runs `work` with the engine, inside its process.
    pub async fn with<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        work: impl FnOnce(Rc<Engine>) -> F,
    ) -> Result<T, Killed> {
        let (Some(process), Some(engine)) = (self.process(), self.engine()) else {
            return Err(Killed);
        };
        process.run(work(engine)).await
    }
}

impl Cluster {
    /// Builds the machines; none of them runs yet.
    pub fn build(stage: &Stage, plan: Plan) -> Rc<Cluster> {
        let world = &stage.world;
        let networks: Vec<Rc<Network>> =
            (0..plan.paths).map(|number| Network::numbered(world, number)).collect();
        let mut random = fork(world.seed(), "cluster");
        let mut clock = || {
            let drift_ppm = match random.random_range(0..4) {
                _ if !plan.drift => 0,
                0 => DRIFT_PPM_MAX,
                1 => -DRIFT_PPM_MAX,
                _ => random.random_range(-DRIFT_PPM_MAX..=DRIFT_PPM_MAX),
            };
            Clock { drift_ppm, ..Clock::default() }
        };
        let supervisors = (0..plan.supervisors)
            .map(|number| {
                let name = format!("super-{number}");
                Rc::new(Supervisor {
                    owner: OwnerId(identity(world, &format!("{name}/owner"))),
                    stations: plug(&networks, &name, &plan),
                    clock: clock(),
                    process: RefCell::default(),
                    engine: RefCell::default(),
                    records: RefCell::default(),
                    last_claim: RefCell::default(),
                    ran: Cell::new(false),
                    name,
                })
            })
            .collect();
        let nodes = plan
            .nodes
            .iter()
            .enumerate()
            .map(|(number, sizes)| new_node(world, &networks, number, sizes, &plan, clock()));
        let nodes = nodes.collect();
        Rc::new(Cluster {
            stage: stage.clone(),
            networks,
            nodes: RefCell::new(nodes),
            supervisors,
            random: RefCell::new(fork(world.seed(), "luck")),
            plan,
            evict: Rc::default(),
        })
    }

    /// Builds the machines and starts all of them but the supervisors after the first.
    pub fn start(stage: &Stage, plan: Plan) -> Rc<Cluster> {
        let cluster = Cluster::build(stage, plan);
        for number in 0..cluster.node_count() {
            cluster.start_node(number);
        }
        cluster.start_supervisor(0);
        cluster
    }

    /// Machines with what others left, in another world; none of them runs yet. The first supervisor
    /// is the one that owned the pool, the second one knows nothing.
    pub fn rebuild(stage: &Stage, remains: &Remains) -> Rc<Cluster> {
        let plan = Plan {
            supervisors: 2,
            mtu_bytes: remains.mtu_bytes,
            checksum_bytes: remains.checksum_bytes,
            in_place: remains.in_place,
            trim_after: remains.trim_after,
            granted: remains.granted,
            is_fork: true,
            ..Plan::simple(0, 0)
        };
        let mut cluster = Cluster::build(stage, plan);
        let world = &stage.world;
        let nodes = remains.nodes.iter().map(|left| {
            Rc::new(Node {
                name: left.name.clone(),
                shelf: left.shelf,
                machine: left.machine,
                stations: plug(&cluster.networks, &left.name, &cluster.plan),
                disks: RefCell::new(
                    left.disks.iter().map(|disk| Disk::restored(world, disk)).collect(),
                ),
                clock: Cell::default(),
                process: RefCell::default(),
                troubled: Cell::default(),
            })
        });
        let nodes = nodes.collect();
        if let Some(first) = Rc::get_mut(&mut cluster) {
            first.nodes = RefCell::new(nodes);
            if let Some(owner) = first.supervisors.first_mut().and_then(Rc::get_mut) {
                owner.owner = remains.owner;
                owner.records = RefCell::new(remains.records.clone());
            }
        }
        cluster
    }

    /// What a power cut at this moment would leave on each disk; `owner` is the supervisor whose
    /// records are kept. Nothing changes, and no draw is taken but from `random`.
    pub fn remains(
        &self,
        owner: usize,
        random: &mut SmallRng,
        survival: Option<Survival>,
    ) -> Remains {
        let supervisor = &self.supervisors[owner];
        let now = supervisor.engine().map(|engine| Records::of(&engine));
        let records = now.unwrap_or_else(|| supervisor.records.borrow().clone());
        let nodes = self.nodes.borrow();
        let nodes = nodes.iter().map(|node| {
            let survival = survival.unwrap_or_else(|| any_survival(random));
            let disks = node.disks().iter().map(|disk| disk.remains(survival, random)).collect();
            let (name, shelf, machine) = (node.name.clone(), node.shelf, node.machine);
            NodeRemains { name, shelf, machine, disks }
        });
        Remains {
            nodes: nodes.collect(),
            owner: supervisor.owner,
            records,
            mtu_bytes: self.plan.mtu_bytes,
            checksum_bytes: self.plan.checksum_bytes,
            in_place: self.plan.in_place,
            trim_after: self.plan.trim_after,
            granted: self.is_granted(),
        }
    }

    /// What was built.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether something about a node is broken from outside, its way to a supervisor included.
    pub fn is_in_trouble(&self, node: &Node) -> bool {
        let mut paths = self.networks.iter().zip(&node.stations);
        node.is_troubled() || paths.any(|(network, station)| network.is_parted(station))
    }

    /// Remembers which nodes are in trouble now.
    pub fn note_trouble(&self) {
        let now = self.world().timeline().now();
        for node in self.nodes.borrow().iter().filter(|node| self.is_in_trouble(node)) {
            node.troubled.set(Some(now));
        }
    }

    /// Time, processes, story.
    pub fn world(&self) -> &Rc<World> {
        &self.stage.world
    }

    /// How often engines evict a disk so far.
    pub fn times_evicted(&self) -> u64 {
        self.evict.get()
    }

    /// World, verdict.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// The switch, the first one if there are several.
    pub fn network(&self) -> &Rc<Network> {
        &self.networks[0]
    }

    /// The switches.
    pub fn networks(&self) -> &[Rc<Network>] {
        &self.networks
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.nodes.borrow().len()
    }

    /// A node.
    pub fn node(&self, number: usize) -> Rc<Node> {
        Rc::clone(&self.nodes.borrow()[number])
    }

    /// A supervisor.
    pub fn supervisor(&self, number: usize) -> &Rc<Supervisor> {
        &self.supervisors[number]
    }

    /// How many supervisors there are.
    pub fn supervisor_count(&self) -> usize {
        self.supervisors.len()
    }

    /// All disks with the names under which engines see them.
    pub fn disks(&self) -> Vec<(String, Rc<Disk>)> {
        let nodes = self.nodes.borrow();
        let all = nodes.iter().flat_map(|node| {
            let disks = node.disks().into_iter().enumerate();
            disks.map(|(slot, disk)| (format!("e{}.{slot}", node.shelf), disk)).collect::<Vec<_>>()
        });
        all.collect()
    }

    /// Virtual time passes.
    pub async fn sleep(&self, duration: Duration) {
        self.director().sleep(duration).await;
    }

    /// The director's handle.
    pub fn director(&self) -> Handle {
        self.world().director()
    }

    /// A significant event for the story.
    pub fn tell(&self, text: &str) {
        self.world().story().tell("director", text);
    }

    /// The scenario's luck begins anew here, by `label`: what is drawn before doesn't change what is
    /// drawn from now on.
    pub fn part_luck(&self, label: &str) {
        *self.random.borrow_mut() = fork(self.world().seed(), label);
    }

    /// A draw of the scenario's own luck.
    pub fn luck<T>(&self, draw: impl FnOnce(&mut SmallRng) -> T) -> T {
        draw(&mut self.random.borrow_mut())
    }

    /// One more machine with disks of `sizes`, running.
    pub fn add_node(&self, sizes: &[u64]) -> usize {
        let number = self.node_count();
        let node =
            new_node(self.world(), &self.networks, number, sizes, &self.plan, Clock::default());
        self.nodes.borrow_mut().push(node);
        self.start_node(number);
        number
    }

    /// Waits until `condition` holds, at most for `limit`.
    pub async fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn() -> bool,
    ) -> Result<Duration, Failure> {
        let begin = self.world().timeline().now();
        let step = Duration::from_millis(20);
        loop {
            let waited = self.world().timeline().now().since(begin);
            if condition() {
                return Ok(waited);
            }
            if waited > limit {
                return Err(Failure(format!("not within {limit:?}: {what}")));
            }
            self.sleep(step).await;
        }
    }
}

/// Whether everything is there and nobody is behind.
pub fn is_clean(report: &PoolReport) -> bool {
    report.state == PoolState::Online
        && report.jobs.iter().all(|job| job.state == JobState::Done)
        && report.disks.iter().all(|disk| disk.state == DiskState::Usable && disk.dirty_bytes == 0)
        && report.volumes.iter().all(|volume| {
            !volume.degraded && volume.dirty_bytes == 0 && volume.suspended().is_none()
        })
}

/// A cable to each switch.
fn plug(networks: &[Rc<Network>], name: &str, plan: &Plan) -> Vec<Rc<Station>> {
    let stations = networks.iter().map(|network| network.plug(name, plan.mtu_bytes));
    stations.inspect(|station| station.set_line(plan.line)).collect()
}

/// A process's sockets, one on each cable.
fn open(networks: &[Rc<Network>], stations: &[Rc<Station>]) -> Vec<Rc<SimPort>> {
    networks.iter().zip(stations).map(|(network, station)| network.open(station)).collect()
}

fn mend(stations: &[Rc<Station>]) {
    for station in stations {
        station.set_cut(false, false);
        station.set_quality(Quality::GOOD);
    }
}

fn new_node(
    world: &World,
    networks: &[Rc<Network>],
    number: usize,
    sizes: &[u64],
    plan: &Plan,
    clock: Clock,
) -> Rc<Node> {
    let name = format!("node-{}", number + 1);
    let disks = sizes
        .iter()
        .enumerate()
        .map(|(slot, size)| Disk::new(world, &format!("{name}.{slot}"), *size))
        .inspect(|disk| disk.set_model(plan.disk))
        .collect();
    Rc::new(Node {
        machine: identity(world, &name),
        shelf: number as u16 + 1,
        stations: plug(networks, &name, plan),
        disks: RefCell::new(disks),
        clock: Cell::new(clock),
        process: RefCell::default(),
        troubled: Cell::default(),
        name,
    })
}

fn any_survival(random: &mut SmallRng) -> Survival {
    match random.random_range(0..4) {
        0 => Survival::None,
        1 => Survival::All,
        _ => Survival::Arbitrary,
    }
}

fn identity(world: &World, name: &str) -> Uuid {
    let high = u128::from(fork_seed(world.seed(), name));
    Uuid::from_u128(high << 64 | u128::from(fork_seed(!world.seed(), name)))
}
