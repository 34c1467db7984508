//! The machines that are to find each other: nodes with blank disks, and the supervisors that are to have them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use aoe_target::{TargetDriver, read_reservation};
use aoe_wire::{SessionVersion, ShelfSlot};
use block::probe::LABEL_MAGIC;
use block::{Buffer, Claim, Epoch, Lba, OwnerId, SectorRange, Trust, Window};
use runtime::Handle;
use seal::{Grant, Identity, Joining, Members, PoolKey, PublicKey, Security, Token};
use uuid::Uuid;

use super::known::{File, Known};
use crate::disk::Disk;
use crate::drivers::{self, Found, NodeFacts, Terms};
use crate::network::{Network, Station};
use crate::oracle::{Change, Oracle};
use crate::runner::{Failure, Stage};
use crate::workload::{Clients, Mix, Record, Verdict, Watched};
use crate::world::{Clock, Process, World};

/// What is used of each disk: away from labels, records, and what is looked at to tell whether it is blank.
pub const PLACE: SectorRange = SectorRange { start: Lba(4096), count: 1024 };
pub const DISK_BYTES: u64 = 6 << 20;
/// Where reservation records are on such a disk, and as far before each a label.
pub const RECORDS: [u64; 4] = [16, 24, TAIL + 16, TAIL + 24];
const TAIL: u64 = DISK_BYTES / 512 - 2048;
pub const LABEL_BEFORE: u64 = 16;
const RECORD_SECTORS: u64 = 8;
const STEP: u64 = 128;
const RETRY: Duration = Duration::from_millis(250);
/// Slow enough that much may happen beside it.
const LOAD: Mix =
    Mix { depth: 1, span_sectors: 256, think: Duration::from_millis(500), ..Mix::BUSY };

/// A disk of a node, blank at first.
pub struct Blank {
    pub address: ShelfSlot,
    pub disk: Rc<Disk>,
    record: Rc<Record>,
    /// Whom it is to obey once it is claimed, if anybody in particular.
    pub grant: Option<Rc<Grant>>,
    /// Its pool's key is lost, and nobody has claimed it since.
    is_given_up: Cell<bool>,
    /// All that is used of it was written by its owner.
    is_filled: Cell<bool>,
    /// It was read as a whole, and all was right, since its owner was started.
    pub is_verified: Cell<bool>,
}

/// A machine with such disks.
pub struct Node {
    pub name: String,
    pub shelf: u16,
    pub station: Rc<Station>,
    pub disks: Vec<Blank>,
    /// The number of the supervisor that is to have them.
    pub whose: usize,
    pub claim: seal::Claim,
    security: Security,
    pub file: File,
    /// Tokens that it was given.
    pub given: RefCell<Vec<Token>>,
    /// That which its configuration names.
    pub named: RefCell<Option<Token>>,
    /// Keys that its configuration says are lost.
    pub lost: RefCell<Vec<PoolKey>>,
    pub running: RefCell<Option<Running>>,
}

/// A node's process.
pub struct Running {
    pub process: Rc<Process>,
    pub known: Rc<Known>,
    driver: TargetDriver,
}

/// A machine that takes disks of those who joined it.
pub struct Supervisor {
    pub name: String,
    pub station: Rc<Station>,
    pub owner: OwnerId,
    pub file: File,
    security: Security,
    /// Nodes that its configuration names.
    peers: Option<Vec<PublicKey>>,
    epoch: Cell<u64>,
    pub running: RefCell<Option<(Rc<Process>, Rc<Known>)>>,
}

/// The key of a machine of this name.
pub fn key_of(world: &World, name: &str) -> PublicKey {
    drivers::public_key(&world.director(), name)
}

impl Blank {
    pub fn new(stage: &Stage, address: ShelfSlot, grant: Option<Rc<Grant>>) -> Blank {
        let (world, name) = (&stage.world, address.to_string());
        let oracle =
            Oracle::of_disk(&name, u64::from(address.shelf) * 16 + u64::from(address.slot));
        Blank {
            disk: Disk::new(world, &name, DISK_BYTES),
            record: Record::new(world, oracle, Rc::clone(&stage.verdict)),
            address,
            grant,
            is_given_up: Cell::default(),
            is_filled: Cell::default(),
            is_verified: Cell::default(),
        }
    }

    /// Whose it is, and whom it obeys, as its records have it.
    pub fn reservation(&self) -> Option<(OwnerId, Option<PoolKey>)> {
        let records = (0..).zip(RECORDS).filter_map(|(slot, at)| {
            read_reservation(&self.disk.peek(SectorRange::new(Lba(at), RECORD_SECTORS)), slot)
        });
        let newest = records.max_by_key(|record| record.sequence)?;
        Some((newest.holder.owner, newest.grant.map(|grant| grant.key())))
    }

    /// Its node is told that these keys are lost.
    pub fn give_up(&self, lost: &[PoolKey]) {
        if self.key().is_some_and(|key| lost.contains(&key)) {
            self.is_given_up.set(true);
        }
    }

    /// Whom it is to obey.
    fn key(&self) -> Option<PoolKey> {
        self.grant.as_ref().map(|grant| grant.key())
    }

    /// Nobody in this scenario writes labels, but who has no business here.
    pub fn has_label(&self) -> bool {
        let labels = RECORDS.map(|at| SectorRange::new(Lba(at - LABEL_BEFORE), 1));
        labels.into_iter().any(|label| self.disk.peek(label).starts_with(&LABEL_MAGIC))
    }
}

impl Node {
    pub fn new(
        stage: &Stage,
        network: &Rc<Network>,
        (name, shelf): (String, u16),
        (whose, disks): (usize, Vec<Blank>),
        (security, claim): (Security, seal::Claim),
    ) -> Node {
        let station = network.plug(&name, 9000);
        stage.world.story().tell(&name, &format!("{security}, claim {claim:?}, for {whose}"));
        Node {
            name,
            shelf,
            station,
            disks,
            whose,
            claim,
            security,
            file: File::default(),
            given: RefCell::default(),
            named: RefCell::default(),
            lost: RefCell::default(),
            running: RefCell::default(),
        }
    }

    pub fn is_running(&self) -> bool {
        self.running.borrow().is_some()
    }

    pub fn start(&self, world: &World, network: &Rc<Network>) {
        let process = world.start_process(&self.name, Clock::default());
        let Some(handle) = process.handle() else { return };
        let claim = self.claim.clone();
        let known = Known::read(&handle, &self.file, |roster| Joining::of_node(roster, claim));
        let named = self.named.borrow().clone();
        named.iter().for_each(|token| known.take_first(token));
        let terms = Terms {
            newest: SessionVersion::NEWEST,
            identity: Some(self.identity(&handle, &known)),
            lost: self.lost.borrow().clone(),
        };
        let machine = Uuid::from_u128(u128::from(self.shelf));
        let facts =
            NodeFacts { machine, name: &self.name, shelf: self.shelf, security: self.security };
        let disks: Vec<_> = self.disks.iter().map(|blank| Rc::clone(&blank.disk)).collect();
        let ports = vec![network.open(&self.station)];
        let driver = drivers::serve_by(&process, ports, facts, &disks, terms);
        self.running.replace(driver.map(|driver| Running { process, known, driver }));
    }

    fn identity(&self, handle: &Handle, known: &Rc<Known>) -> Identity {
        let members = Rc::clone(known) as Rc<dyn Members>;
        drivers::identity(handle, &self.name).with_least(self.security).with_members(members)
    }

    pub fn kill(&self) {
        let running = self.running.borrow_mut().take();
        running.iter().for_each(|running| running.process.kill());
    }

    /// Somebody types a token in on its machine.
    pub async fn join(&self, token: &Token) {
        let Some((process, known, driver)) = self.parts() else { return };
        let (Some(handle), token) = (process.handle(), token.clone()) else { return };
        let identity = self.identity(&handle, &known);
        // It may be killed meanwhile, and then knows nothing of it.
        let _ = process
            .run(async move {
                let now = known.now();
                if known.roster().check(&token, now).is_ok() {
                    known.change(|roster, now| roster.add_token(&token, now)).await;
                    driver.set_identity(Rc::new(identity));
                }
            })
            .await;
    }

    fn parts(&self) -> Option<(Rc<Process>, Rc<Known>, TargetDriver)> {
        let running = self.running.borrow();
        let Running { process, known, driver } = running.as_ref()?;
        Some((Rc::clone(process), Rc::clone(known), driver.clone()))
    }
}

impl Supervisor {
    pub fn new(
        network: &Rc<Network>,
        (number, name): (usize, String),
        security: Security,
        peers: Option<Vec<PublicKey>>,
    ) -> Supervisor {
        Supervisor {
            station: network.plug(&name, 9000),
            name,
            owner: OwnerId(Uuid::from_u128(1000 + number as u128)),
            file: File::default(),
            security,
            peers,
            epoch: Cell::new(0),
            running: RefCell::default(),
        }
    }

    pub fn is_running(&self) -> bool {
        self.running.borrow().is_some()
    }

    pub fn known(&self) -> Option<Rc<Known>> {
        self.running.borrow().as_ref().map(|(_, known)| Rc::clone(known))
    }

    pub fn kill(&self) {
        let running = self.running.borrow_mut().take();
        running.iter().for_each(|(process, _)| process.kill());
    }

    /// Its disks are under load; or else read once.
    pub fn start(
        &self,
        stage: &Stage,
        network: &Rc<Network>,
        nodes: &Rc<Vec<Rc<Node>>>,
        load: bool,
    ) {
        let world = &stage.world;
        let process = world.start_process(&self.name, Clock::default());
        let Some(handle) = process.handle() else { return };
        let known = Known::read(&handle, &self.file, Joining::of_supervisor);
        let members = Rc::clone(&known) as Rc<dyn Members>;
        let identity = drivers::identity(&handle, &self.name).with_least(self.security);
        let identity = match &self.peers {
            Some(peers) => identity.with_peers(peers.iter().copied()),
            None => identity,
        };
        let identity = Rc::new(identity.with_members(members));
        self.epoch.set(self.epoch.get() + 1);
        let owning = Rc::new(Owning {
            world: Rc::clone(world),
            verdict: Rc::clone(&stage.verdict),
            handle: handle.clone(),
            process: Rc::clone(&process),
            identity: Rc::clone(&identity),
            nodes: Rc::clone(nodes),
            claim: (Epoch(self.epoch.get()), self.owner),
            load,
        });
        let ports = vec![network.open(&self.station)];
        drivers::look_for_disks_by(&handle, ports, &identity, move |found| {
            let owning = Rc::clone(&owning);
            owning.handle.clone().spawn(async move { owning.own(found).await });
        });
        self.running.replace(Some((process, known)));
    }
}

/// What a supervisor does with the disks that it finds.
struct Owning {
    world: Rc<World>,
    verdict: Rc<Verdict>,
    handle: Handle,
    process: Rc<Process>,
    identity: Rc<Identity>,
    nodes: Rc<Vec<Rc<Node>>>,
    claim: (Epoch, OwnerId),
    load: bool,
}

impl Owning {
    async fn own(&self, found: Found) {
        let Some(key) = found.node_key else { return };
        // It may join later.
        while !self.identity.is_own(&key) {
            self.handle.sleep(RETRY).await;
        }
        let node = self.nodes.iter().find(|node| key_of(&self.world, &node.name) == key);
        let blank =
            node.and_then(|node| node.disks.iter().find(|blank| blank.address == found.address));
        let Some(blank) = blank else {
            let address = found.address;
            return self.verdict.fail(format!("{address} of a stranger is to be used"));
        };
        let (epoch, owner) = self.claim;
        let grant = blank.grant.as_ref().map(|grant| Buffer::copy_of(grant.bytes()));
        let trust = grant.map_or(Trust::Unchanged, Trust::Follow);
        let claim = Claim { epoch, owner, force: false, trust };
        let inner = Rc::new(Window::new(Rc::clone(&found.device), PLACE.start, Some(PLACE.count)));
        let watched = Watched::new(inner, Rc::clone(&blank.record));
        let (mut told, mut clients) = (None, None);
        // Again and again: a disk that was restarted takes nothing before it is claimed anew.
        loop {
            let claimed = found.device.claim(claim.clone()).await.map(drop);
            if told.replace(claimed) != Some(claimed) {
                let what = format!("{}: claimed: {claimed:?}", blank.address);
                self.world.story().tell(self.process.name(), &what);
            }
            if claimed.is_ok() {
                blank.is_given_up.set(false);
            }
            if claimed.is_ok() && !blank.is_filled.get() {
                blank.is_filled.set(fill(&watched).await.is_ok());
            }
            if blank.is_filled.get() && !self.load && watched.read_all().await.is_ok() {
                return blank.is_verified.set(true);
            }
            if blank.is_filled.get() && self.load && clients.is_none() {
                let label = format!("{}/{}", self.process.name(), blank.address);
                let begun = Clients::start(&self.world, &self.process, &watched, LOAD, &label);
                // They end with their process.
                clients = Some(begun);
            }
            self.handle.sleep(RETRY).await;
        }
    }
}

/// Whatever was on a blank disk is gone then.
async fn fill(watched: &Watched) -> Result<(), block::IoError> {
    for start in (0..PLACE.count).step_by(STEP as usize) {
        watched.change(Change::Write, SectorRange::new(Lba(start), STEP)).await?;
    }
    Ok(())
}

/// What has gone wrong with a disk: nobody but its node's supervisor ever has it.
pub fn check_disk(blank: &Blank, owner: OwnerId) -> Result<(), Failure> {
    let failed = |what: String| Err(Failure(format!("{}: {what}", blank.address)));
    if blank.has_label() {
        return failed("a stranger has made a label".into());
    }
    let Some((holder, obeyed)) = blank.reservation() else { return Ok(()) };
    if holder != owner {
        return failed(format!("{holder:?} has it, not {owner:?}"));
    }
    // The record that says who has it says whom it obeys.
    let own = blank.key();
    if obeyed == own || obeyed.is_none() && blank.is_given_up.get() {
        return Ok(());
    }
    failed(format!("it obeys {obeyed:?}, not {own:?}"))
}
