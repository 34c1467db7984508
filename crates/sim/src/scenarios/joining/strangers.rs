//! Who would have what isn't his: a supervisor and a node with keys of their own, and with tokens that are good no more or
//! nowhere, that try whatever they find; and plain AoE writes of what says whose a disk is.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use aoe_target::FencedDevice;
use aoe_wire::{SessionVersion, ShelfSlot};
use block::probe::LABEL_MAGIC;
use block::{
    BlockDevice, Buffer, Claim, Durability, Epoch, Lba, OwnerId, SECTOR_BYTES, SectorRange, Trust,
};
use rand::Rng;
use rand::rngs::SmallRng;
use runtime::Handle;
use seal::{Grant, Members, PoolKeyPair, PublicKey, SecretKey, Security, Token};
use uuid::Uuid;

use super::machines::{DISK_BYTES, LABEL_BEFORE, Node, PLACE, RECORDS, key_of};
use crate::disk::Disk;
use crate::drivers::{self, Found, NodeFacts, Terms};
use crate::network::{Network, Station};
use crate::random::fork;
use crate::runner::{Failure, Stage};
use crate::scenarios::attacker::Attacker;
use crate::workload::Verdict;
use crate::world::{Clock, Process};

const SUPERVISOR: &str = "false-supervisor";
const NODE: &str = "false-node";
const SHELF: u16 = 66;
const THIEF: OwnerId = OwnerId(Uuid::from_u128(666));
const RETRY: Duration = Duration::from_millis(300);
const RECORD_SECTORS: u64 = 8;

/// All of them.
pub struct Strangers {
    stage: Stage,
    network: Rc<Network>,
    stations: [Rc<Station>; 2],
    /// The false node's, which its owner has claimed.
    disk: Rc<Disk>,
    grant: Rc<Grant>,
    /// What they know of.
    pub tokens: RefCell<Vec<Token>>,
    processes: RefCell<Vec<Rc<Process>>>,
    attacker: Attacker,
    random: RefCell<SmallRng>,
}

impl Strangers {
    pub fn new(stage: &Stage, network: &Rc<Network>) -> Result<Strangers, Failure> {
        let world = &stage.world;
        let pair = PoolKeyPair::of(SecretKey::new([66; 32]));
        let pair = pair.map_err(|error| Failure(error.to_string()))?;
        let grant = pair.found(&[key_of(world, SUPERVISOR)]);
        Ok(Strangers {
            stage: stage.clone(),
            stations: [SUPERVISOR, NODE].map(|name| network.plug(name, 9000)),
            network: Rc::clone(network),
            disk: Disk::new(world, NODE, DISK_BYTES),
            grant: Rc::new(grant.map_err(|error| Failure(error.to_string()))?),
            tokens: RefCell::default(),
            processes: RefCell::default(),
            attacker: Attacker::sparing_plain(stage, network),
            random: RefCell::new(fork(world.seed(), "strangers")),
        })
    }

    fn below(&self, bound: usize) -> usize {
        self.random.borrow_mut().random_range(0..bound)
    }

    /// Keys of theirs, which nobody is to know.
    pub fn keys(&self) -> [PublicKey; 2] {
        [SUPERVISOR, NODE].map(|name| key_of(&self.stage.world, name))
    }

    /// They begin anew, with some of the tokens that they know of. The false node is at an address of its own, or at that of
    /// somebody's disks.
    pub async fn start(&self, nodes: &[Rc<Node>], alone: bool) -> Result<(), Failure> {
        self.stop();
        let world = &self.stage.world;
        let known = self.tokens.borrow().clone();
        let mut held = known.into_iter().filter(|_| self.below(4) > 0).collect::<Vec<_>>();
        held.truncate(seal::TOKENS_MAX);
        let [supervisor, node] = [SUPERVISOR, NODE].map(|name| {
            let process = world.start_process(name, Clock::default());
            self.processes.borrow_mut().push(Rc::clone(&process));
            process
        });
        self.claim_own(&node).await?;
        let theirs = &nodes[self.below(nodes.len())];
        let shelf = if alone || self.below(3) > 0 { SHELF } else { theirs.shelf };
        self.serve(&node, shelf, &held);
        self.look(&supervisor, nodes, &held);
        Ok(())
    }

    pub fn stop(&self) {
        self.processes.take().iter().for_each(|process| process.kill());
    }

    /// Their disk is theirs, so that there are records to copy.
    async fn claim_own(&self, process: &Process) -> Result<(), Failure> {
        let Some(handle) = process.handle() else { return Ok(()) };
        let device = self.disk.open_in(&handle);
        let trust = Trust::Replace(Buffer::copy_of(self.grant.bytes()));
        let claimed = process.run(async move {
            let medium = FencedDevice::open(device, handle).await?;
            let epoch = Epoch(medium.holder().epoch.0.max(1 << 20) + 1);
            medium.claim(Claim { epoch, owner: THIEF, force: false, trust }).await
        });
        match claimed.await {
            Ok(Ok(_)) => Ok(()),
            other => Err(Failure(format!("a stranger can't claim his own disk: {other:?}"))),
        }
    }

    fn serve(&self, process: &Process, shelf: u16, tokens: &[Token]) {
        let Some(handle) = process.handle() else { return };
        let members = Rc::new(Tries(tokens.to_vec()));
        let identity = drivers::identity(&handle, NODE).with_least(Security::Encrypt);
        let terms = Terms {
            newest: SessionVersion::NEWEST,
            identity: Some(identity.with_members(members)),
            lost: Vec::new(),
        };
        let machine = Uuid::from_u128(666);
        let facts = NodeFacts { machine, name: NODE, shelf, security: Security::Encrypt };
        let ports = vec![self.network.open(&self.stations[1])];
        let disks = [Disk::new(&self.stage.world, "bait", DISK_BYTES)];
        drivers::serve_by(process, ports, facts, &disks, terms);
    }

    fn look(&self, process: &Process, nodes: &[Rc<Node>], tokens: &[Token]) {
        let Some(handle) = process.handle() else { return };
        let members = Rc::new(Tries(tokens.to_vec()));
        // Of what he is told he believes what is sealed, as others play tricks on him, too.
        let identity = drivers::identity(&handle, SUPERVISOR).with_least(Security::Authenticate);
        let identity = Rc::new(identity.with_members(members));
        let ports = vec![self.network.open(&self.stations[0])];
        let own = key_of(&self.stage.world, NODE);
        let (verdict, grant) = (Rc::clone(&self.stage.verdict), Rc::clone(&self.grant));
        let real: Vec<ShelfSlot> =
            nodes.iter().flat_map(|node| node.disks.iter().map(|blank| blank.address)).collect();
        let inside = handle.clone();
        drivers::look_for_disks_by(&handle, ports, &identity, move |found| {
            if found.node_key != Some(own) && real.contains(&found.address) {
                let (verdict, grant) = (Rc::clone(&verdict), Rc::clone(&grant));
                let handle = inside.clone();
                inside.spawn(async move { steal(&handle, found, &grant, &verdict).await });
            }
        });
    }

    /// What says whose a disk is, copied onto somebody's by plain AoE; or anything where it does no harm.
    pub fn write_plainly(&self, nodes: &[Rc<Node>]) {
        let node = &nodes[self.below(nodes.len())];
        let blank = &node.disks[self.below(node.disks.len())];
        let (start, mut data) = match self.below(3) {
            0 => {
                let at = PLACE.start.0 + self.below(PLACE.count as usize) as u64;
                (at, vec![0xee; SECTOR_BYTES * RECORD_SECTORS as usize])
            }
            whether => {
                let record = RECORDS[self.below(RECORDS.len())];
                match whether {
                    1 => (record, self.disk.peek(SectorRange::new(Lba(record), RECORD_SECTORS))),
                    _ => (record - LABEL_BEFORE, LABEL_MAGIC.repeat(SECTOR_BYTES)),
                }
            }
        };
        if self.below(2) == 0 {
            data.truncate(SECTOR_BYTES * (1 + self.below(RECORD_SECTORS as usize)));
        }
        // With what is before, if there is anything.
        let before = (self.below(3) as u64).min(start);
        data.splice(..0, vec![0; before as usize * SECTOR_BYTES]);
        let target = node.station.mac();
        self.attacker.write_plainly(target, blank.address, Lba(start - before), &data);
    }

    /// Somebody who hears all frames sends what he likes.
    pub fn act(&self) {
        self.attacker.act();
    }
}

/// Tokens that they try whether they are good or not.
struct Tries(Vec<Token>);

impl Members for Tries {
    fn has(&self, _: &PublicKey) -> bool {
        true
    }

    fn is_own(&self, _: &PublicKey, _: bool) -> bool {
        true
    }

    fn tokens(&self) -> Vec<Token> {
        self.0.clone()
    }

    fn tokens_for(&self, _: &PublicKey) -> Vec<Token> {
        self.0.clone()
    }

    fn joined(&self, _: PublicKey, _: &Token) {}
}

/// Tries to have a disk, for as long as it is in sight.
async fn steal(handle: &Handle, found: Found, grant: &Grant, verdict: &Verdict) {
    let Found { address, device, .. } = found;
    loop {
        let show = || Buffer::copy_of(grant.bytes());
        let trust = match handle.random_below(4) {
            0 => Trust::Unchanged,
            1 => Trust::Follow(show()),
            2 => Trust::Replace(show()),
            _ => Trust::Forget,
        };
        let epoch = Epoch(1 + handle.random_below(1 << handle.random_below(40)));
        let claim = Claim { epoch, owner: THIEF, force: handle.random_below(2) == 0, trust };
        if device.claim(claim.clone()).await.is_ok() {
            return verdict.fail(format!("a stranger has claimed {address} by {claim:?}"));
        }
        let data = Buffer::copy_of(&[0xee; SECTOR_BYTES]);
        let written = match handle.random_below(2) {
            0 => device.write(PLACE.start, data, Durability::Durable).await.is_ok(),
            _ => device.discard(PLACE).await.is_ok(),
        };
        if written {
            return verdict.fail(format!("a stranger has written to {address}"));
        }
        handle.sleep(RETRY).await;
    }
}
