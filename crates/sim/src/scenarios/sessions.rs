//! One disk behind a target, one client behind an initiator, and the rules of docs/session.md: at
//! most once, in order, fenced, under the right instance, whatever the network does.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use aoe_wire::SessionVersion;
use block::{BlockDevice, Claim, Epoch, Instance, IoError, Lba, OwnerId, SectorRange, Window};
use futures::FutureExt;
use rand::Rng;
use rand::rngs::SmallRng;
use runtime::Handle;
use seal::Security;
use uuid::Uuid;

use super::scenario;
use crate::disk::Disk;
use crate::drivers::{self, NodeFacts};
use crate::medium::Survival;
use crate::network::{Network, Quality, Station};
use crate::oracle::{OperationNumber, Oracle};
use crate::random::fork;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::{Clients, Mix, Record, Watched};
use crate::world::{Clock, Process};

/// Longest that it may take from the last repair until an operation succeeds.
pub(super) const RECOVERY_MAX: Duration = Duration::from_secs(10);
/// Longest that finding the disk, or claiming it, may take.
const CLAIM_MAX: Duration = Duration::from_secs(60);

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "session-bad-network",
        "a disk over cables that lose, double, reorder, damage and hold up frames",
        600,
        |stage| bad_network(stage).boxed_local(),
    ),
    scenario(
        "session-restarts",
        "the target restarts or loses power under load, again and again",
        600,
        |stage| restarts(stage).boxed_local(),
    ),
    scenario(
        "session-takeover",
        "clients are deposed one after the other while their frames are still on the way",
        900,
        |stage| takeover(stage).boxed_local(),
    ),
    scenario(
        "session-cut",
        "the cable is cut for short and long times, in one or both directions",
        600,
        |stage| cut(stage).boxed_local(),
    ),
    scenario(
        "session-flush",
        "volatile writes and flushes through restarts, power cuts, failed flushes and lost answers",
        600,
        |stage| flushes(stage).boxed_local(),
    ),
];

/// A target with a disk, and machines for clients.
pub(super) struct Pair {
    pub stage: Stage,
    pub network: Rc<Network>,
    pub disk: Rc<Disk>,
    pub target: Rc<Station>,
    /// Another way to it.
    second: Option<(Rc<Network>, Rc<Station>)>,
    /// What target and clients speak that are started next.
    newest: Cell<[SessionVersion; 2]>,
    /// What the target demands that is started next.
    security: Cell<Security>,
    /// The clients' ends of the second way.
    others: RefCell<Vec<Rc<Station>>>,
    target_process: RefCell<Option<Rc<Process>>>,
    pub record: Rc<Record>,
    random: RefCell<SmallRng>,
    epoch: Cell<u64>,
    machines: Cell<u64>,
}

/// A machine that has found the disk.
pub(super) struct Machine {
    station: Rc<Station>,
    process: Rc<Process>,
    device: Rc<dyn BlockDevice>,
}

impl Machine {
    /// Its process dies.
    pub fn kill(&self) {
        self.process.kill();
    }
}

/// A client with the disk claimed.
pub(super) struct Client {
    pub station: Rc<Station>,
    pub process: Rc<Process>,
    pub watched: Watched,
}

impl Pair {
    pub fn new(stage: &Stage) -> Rc<Pair> {
        Pair::on_paths(stage, false)
    }

    /// With a second path between all of them, on which other frames pass than on the first.
    pub fn on_two_paths(stage: &Stage) -> Rc<Pair> {
        Pair::on_paths(stage, true)
    }

    fn on_paths(stage: &Stage, has_second: bool) -> Rc<Pair> {
        let world = &stage.world;
        let network = Network::new(world);
        let mut random = fork(world.seed(), "pair");
        let mtu_bytes = if random.random_bool(0.7) { 9000 } else { 1500 };
        let disk = Disk::new(world, "disk", 6 << 20);
        let record = Record::new(world, Oracle::of_disk("disk", 1), Rc::clone(&stage.verdict));
        let second = has_second.then(|| {
            let network = Network::numbered(world, 1);
            let station = network.plug("target", if mtu_bytes == 9000 { 1500 } else { 9000 });
            (network, station)
        });
        let pair = Rc::new(Pair {
            stage: stage.clone(),
            target: network.plug("target", mtu_bytes),
            second,
            newest: Cell::new([SessionVersion::NEWEST; 2]),
            security: Cell::new(Security::ALL[random.random_range(0..3)]),
            others: RefCell::default(),
            network,
            disk,
            target_process: RefCell::default(),
            record,
            random: RefCell::new(random),
            epoch: Cell::new(0),
            machines: Cell::new(0),
        });
        pair.start_target();
        pair
    }

    pub fn start_target(&self) {
        let process = self.stage.world.start_process("target", Clock::default());
        let mut ports = vec![self.network.open(&self.target)];
        ports.extend(self.second.iter().map(|(network, station)| network.open(station)));
        let disks = [Rc::clone(&self.disk)];
        let (machine, security) = (Uuid::from_u128(1), self.security.get());
        let facts = NodeFacts { machine, name: "target", shelf: 1, security };
        drivers::serve_as(&process, ports, facts, &disks, self.newest.get()[0]);
        *self.target_process.borrow_mut() = Some(process);
    }

    pub fn kill_target(&self) {
        let process = self.target_process.borrow_mut().take();
        process.iter().for_each(|process| process.kill());
    }

    pub fn kill_and_start_target(&self) {
        self.kill_target();
        self.start_target();
    }

    /// From their next start on target and clients speak nothing newer than this, and no keys are demanded, which
    /// older ones don't know.
    pub fn speak(&self, target: SessionVersion, client: SessionVersion) {
        self.security.set(Security::None);
        self.newest.set([target, client]);
    }

    /// From its next start on the target demands keys.
    pub fn demand(&self, security: Security) {
        self.security.set(security);
    }

    /// The target's ends of all ways to it.
    pub fn targets(&self) -> Vec<Rc<Station>> {
        let second = self.second.iter().map(|(_, station)| Rc::clone(station));
        [Rc::clone(&self.target)].into_iter().chain(second).collect()
    }

    /// A new client machine that claims the disk with the next epoch.
    pub async fn client(&self) -> Result<Client, Failure> {
        let machine = self.machine().await?;
        self.raise(machine).await
    }

    /// A new client machine, as soon as it has found the disk.
    pub async fn machine(&self) -> Result<Machine, Failure> {
        let number = self.machines.get() + 1;
        self.machines.set(number);
        let name = format!("client-{number}");
        let station = self.network.plug(&name, self.target.mtu_bytes());
        let process = self.stage.world.start_process(&name, Clock::default());
        let mut ports = vec![self.network.open(&station)];
        if let Some((network, target)) = &self.second {
            let other = network.plug(&name, target.mtu_bytes());
            ports.push(network.open(&other));
            self.others.borrow_mut().push(other);
        }
        let handle = process.handle().ok_or_else(|| Failure("dead".to_string()))?;
        let (sender, receiver) = futures::channel::oneshot::channel();
        let sender = RefCell::new(Some(sender));
        drivers::look_for_disks_as(&handle, ports, self.newest.get()[1], move |disk| {
            if let Some(sender) = sender.borrow_mut().take() {
                // The client may have been given up.
                let _ = sender.send(disk.device);
            }
        });
        match runtime::timeout(&self.stage.world.director(), CLAIM_MAX, receiver).await {
            Ok(Ok(device)) => Ok(Machine { station, process, device }),
            _ => Err(Failure(format!("{name} doesn't find the disk within {CLAIM_MAX:?}"))),
        }
    }

    /// Claims the disk with the next epoch.
    pub async fn raise(&self, machine: Machine) -> Result<Client, Failure> {
        self.epoch.set(self.epoch.get() + 1);
        self.claim(machine).await
    }

    /// Claims the disk with the present epoch, as the owner of that epoch.
    pub async fn claim(&self, machine: Machine) -> Result<Client, Failure> {
        let Machine { station, process, device } = machine;
        let (epoch, name) = (self.epoch.get(), process.name());
        let handle = process.handle().ok_or_else(|| Failure("dead".to_string()))?;
        let claim = Claim {
            epoch: Epoch(epoch),
            owner: OwnerId(Uuid::from_u128(u128::from(epoch))),
            force: false,
            trust: block::Trust::Unchanged,
        };
        let claiming = Rc::clone(&device);
        let claimed = process.run(async move {
            loop {
                match claiming.claim(claim.clone()).await {
                    Ok(_) => return Ok(()),
                    Err(IoError::Lost | IoError::Restarted { .. }) => {
                        handle.sleep(Duration::from_millis(100)).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        });
        match runtime::timeout(&self.stage.world.director(), CLAIM_MAX, claimed).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => return Err(Failure(format!("{name} can't claim: {error}"))),
            _ => return Err(Failure(format!("{name} doesn't get its claim within {CLAIM_MAX:?}"))),
        }
        // The target keeps the first and last blocks of a claimed disk to itself.
        let inner = Rc::new(Window::new(device, Lba(4096), Some(4096)));
        Ok(Client { station, process, watched: Watched::new(inner, Rc::clone(&self.record)) })
    }

    pub fn load(&self, client: &Client, mix: Mix) -> Clients {
        let label = client.process.name().to_string();
        Clients::start(&self.stage.world, &client.process, &client.watched, mix, &label)
    }

    pub async fn sleep(&self, duration: Duration) {
        self.stage.world.director().sleep(duration).await;
    }

    pub fn between(&self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(self.random.borrow_mut().random_range(least_ms..=most_ms))
    }

    pub fn below(&self, bound: u32) -> u32 {
        self.random.borrow_mut().random_range(0..bound)
    }

    /// After all repairs: operations succeed within a bound, clients come to rest, all is right.
    pub async fn converge(&self, client: &Client, clients: Clients) -> Result<(), Failure> {
        for station in self.targets().iter().chain(self.others.borrow().iter()) {
            station.set_quality(Quality::GOOD);
            station.set_cut(false, false);
        }
        client.station.set_quality(Quality::GOOD);
        client.station.set_cut(false, false);
        if self.target_process.borrow().is_none() {
            self.start_target();
        }
        let answers = self.record.answers();
        let director = self.stage.world.director();
        let begin = director.now();
        while self.record.answers() < answers + 5 {
            if director.now().since(begin) > RECOVERY_MAX {
                return Err(Failure(format!("no answers {RECOVERY_MAX:?} after the last repair")));
            }
            director.sleep(Duration::from_millis(20)).await;
        }
        let stopped = runtime::timeout(&director, RECOVERY_MAX, clients.stop()).await;
        if !matches!(stopped, Ok(Ok(()))) {
            return Err(Failure("an operation hangs".to_string()));
        }
        let watched = client.watched.clone();
        let read = client.process.run(async move { watched.read_all().await }).await;
        match read {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failure(format!("the disk can't be read: {error}"))),
            Err(_) => Err(Failure("the client died".to_string())),
        }
    }
}

pub(super) fn busy() -> Mix {
    Mix {
        depth: 6,
        sectors_max: 96,
        span_sectors: 512,
        think: Duration::from_millis(30),
        ..Mix::default()
    }
}

async fn bad_network(stage: Stage) -> Result<(), Failure> {
    let pair = Pair::new(&stage);
    let client = pair.client().await?;
    // A small span: only what overlaps can be undone by a late copy of a frame.
    let mix = Mix { think: Duration::from_millis(60), span_sectors: 128, ..busy() };
    let clients = pair.load(&client, mix);
    for _ in 0..4 {
        let quality = Quality {
            loss: 0.03 * f64::from(pair.below(3)),
            duplication: 0.06 * f64::from(pair.below(3)),
            corruption: 0.01 * f64::from(pair.below(3)),
            stragglers: 0.01 * f64::from(pair.below(3)),
            jitter: Duration::from_micros(u64::from(pair.below(5000))),
            ..Quality::GOOD
        };
        pair.target.set_quality(quality);
        pair.sleep(pair.between(1000, 6000)).await;
    }
    pair.converge(&client, clients).await
}

async fn restarts(stage: Stage) -> Result<(), Failure> {
    let pair = Pair::new(&stage);
    let client = pair.client().await?;
    let clients = pair.load(&client, busy());
    pair.target.set_quality(Quality { stragglers: 0.01, duplication: 0.01, ..Quality::GOOD });
    for _ in 0..8 {
        pair.sleep(pair.between(10, 1500)).await;
        pair.kill_target();
        if pair.below(2) == 0 {
            pair.target.clear();
            pair.disk.cut_power(Survival::Arbitrary);
        }
        pair.sleep(pair.between(0, 2500)).await;
        pair.start_target();
    }
    pair.converge(&client, clients).await
}

async fn takeover(stage: Stage) -> Result<(), Failure> {
    let pair = Pair::new(&stage);
    let mut client = pair.client().await?;
    let mut clients = pair.load(&client, busy());
    let mut deposed = Vec::new();
    for _ in 0..5 {
        let quality = Quality { stragglers: 0.05, duplication: 0.05, ..Quality::GOOD };
        client.station.set_quality(quality);
        pair.sleep(pair.between(100, 4000)).await;
        match pair.below(3) {
            0 => client.process.pause(),
            1 => client.station.set_cut(true, true),
            // It lives on and knows nothing.
            _ => {}
        }
        let next = pair.client().await?;
        let next_clients = pair.load(&next, busy());
        pair.sleep(pair.between(1, 500)).await;
        client.process.resume();
        client.station.set_cut(false, false);
        deposed.push((
            std::mem::replace(&mut client, next),
            std::mem::replace(&mut clients, next_clients),
        ));
        if pair.below(3) == 0 {
            pair.kill_target();
            pair.sleep(pair.between(0, 500)).await;
            pair.start_target();
        }
    }
    pair.sleep(pair.between(100, 3000)).await;
    if pair.below(2) == 0 {
        // The latest of the late frames arrive within this time.
        let stopped = runtime::timeout(&stage.world.director(), RECOVERY_MAX, clients.stop()).await;
        if !matches!(stopped, Ok(Ok(()))) {
            return Err(Failure("an operation hangs".to_string()));
        }
        pair.sleep(Duration::from_secs(200)).await;
        clients = pair.load(&client, busy());
    }
    for (old, _) in &deposed {
        old.process.kill();
    }
    pair.converge(&client, clients).await
}

async fn cut(stage: Stage) -> Result<(), Failure> {
    let pair = Pair::new(&stage);
    let client = pair.client().await?;
    let clients = pair.load(&client, busy());
    for _ in 0..8 {
        pair.sleep(pair.between(10, 2000)).await;
        match pair.below(4) {
            0 => pair.target.set_cut(true, false),
            1 => pair.target.set_cut(false, true),
            2 => {
                let process = pair.target_process.borrow().clone();
                if let Some(process) = process {
                    process.pause();
                    pair.sleep(pair.between(1, 5000)).await;
                    process.resume();
                }
            }
            _ => pair.target.set_cut(true, true),
        }
        pair.sleep(pair.between(1, 6000)).await;
        pair.target.set_cut(false, false);
    }
    pair.converge(&client, clients).await
}

/// Writes a few runs, then flushes the instance that answered them: only if that succeeds were they
/// promised. What another instance answered has to be written again.
async fn write_and_flush(
    watched: Watched,
    handle: Handle,
    mut random: SmallRng,
    stop: Rc<Cell<bool>>,
) {
    while !stop.get() {
        handle.sleep(Duration::from_millis(random.random_range(0..20))).await;
        let mut by_instance: BTreeMap<Instance, Vec<OperationNumber>> = BTreeMap::new();
        for _ in 0..random.random_range(1..6) {
            let start = random.random_range(0..4000);
            let range = SectorRange::new(Lba(start), random.random_range(1..=40));
            if let Ok((operation, instance)) = watched.write_volatile(range).await {
                by_instance.entry(instance).or_default().push(operation);
            }
        }
        for (instance, operations) in by_instance {
            // A failure promises nothing.
            let _ = watched.flush_and_acknowledge(instance, operations).await;
        }
    }
}

async fn flushes(stage: Stage) -> Result<(), Failure> {
    let pair = Pair::new(&stage);
    let client = pair.client().await?;
    let stop = Rc::new(Cell::new(false));
    let mut writers = Vec::new();
    for number in 0..3 {
        let random = fork(stage.world.seed(), &format!("writer-{number}"));
        let handle = client.process.handle().ok_or_else(|| Failure("dead".to_string()))?;
        let writer = write_and_flush(client.watched.clone(), handle, random, Rc::clone(&stop));
        writers.push(client.process.run(writer));
    }
    pair.target.set_quality(Quality { loss: 0.005, duplication: 0.005, ..Quality::GOOD });
    for _ in 0..8 {
        pair.sleep(pair.between(10, 1200)).await;
        match pair.below(3) {
            0 => {
                pair.disk.fail_flushes(1);
                pair.target.set_cut(pair.below(2) == 0, false);
                pair.sleep(pair.between(1, 700)).await;
                pair.target.set_cut(false, false);
                pair.sleep(pair.between(1, 700)).await;
                pair.kill_target();
            }
            1 => pair.kill_target(),
            _ => {
                pair.kill_target();
                pair.target.clear();
                pair.disk.cut_power(Survival::Arbitrary);
            }
        }
        pair.sleep(pair.between(0, 2000)).await;
        pair.disk.heal();
        pair.start_target();
    }
    stop.set(true);
    for writer in writers {
        let stopped = runtime::timeout(&stage.world.director(), RECOVERY_MAX, writer).await;
        if !matches!(stopped, Ok(Ok(()))) {
            return Err(Failure("an operation hangs".to_string()));
        }
    }
    let clients = pair.load(&client, busy());
    pair.converge(&client, clients).await
}
