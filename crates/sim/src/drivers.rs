//! What a node process and an engine process start: the production drivers, connected to simulated
//! disks and ports as the binary connects them to real ones.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use aoe_initiator::TargetKind;
use aoe_initiator::{Initiator, InitiatorOptions};
use aoe_target::FencedDevice;
use aoe_target::{ExportDevice, ExportSetup, TargetDriver};
use aoe_target::{ExportOptions, NodeIdentity};
use aoe_wire::{ExportInfo, Incarnation, SessionVersion, ShelfSlot};
use block::BlockDevice;
use pool::PoolEvent;
use pool::engine::{DiskFacts, Engine};
use runtime::Handle;
use seal::{Identity, KeyPair, PoolKey, PublicKey, SecretKey, Security};
use uuid::Uuid;

use crate::disk::Disk;
use crate::network::SimPort;
use crate::random::fork_seed;
use crate::world::{Process, World};

/// How often a node looks for a disk that doesn't answer.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What identifies a node.
#[derive(Clone, Copy, Debug)]
pub struct NodeFacts<'a> {
    /// The machine.
    pub machine: Uuid,
    /// Its name.
    pub name: &'a str,
    /// The shelf of its exports.
    pub shelf: u16,
    /// What it demands of those who open sessions. Supervisors demand nothing, and have a key.
    pub security: Security,
}

/// What a machine demands, as it follows from the run's seed: in most clusters not all demand the same.
pub fn security_of(machine: Uuid) -> Security {
    let number = machine.as_u128() % Security::ALL.len() as u128;
    Security::ALL[number as usize]
}

/// Whose key supervisors show that open what is left of a cluster.
pub const BYSTANDER: &str = "bystander";

/// Whether pools of a run have keys, as it follows from its seed.
pub fn is_granted(seed: u64) -> bool {
    fork_seed(seed, "granted").is_multiple_of(2)
}

/// The key of a machine's name.
pub fn public_key(handle: &Handle, name: &str) -> PublicKey {
    identity(handle, name).public()
}

/// Both halves of it.
pub fn keys(handle: &Handle, name: &str) -> KeyPair {
    identity(handle, name).keys().clone()
}

/// Who has a key of a name, with a seed's randomness.
pub fn identity(handle: &Handle, name: &str) -> Identity {
    let mut secret = [0; 32];
    secret[..8].copy_from_slice(&fork_seed(0, name).to_be_bytes());
    let random = handle.clone();
    let fill = move |bytes: &mut [u8]| {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&random.random_u64().to_be_bytes()[..chunk.len()]);
        }
    };
    let Ok(keys) = KeyPair::of(SecretKey::new(secret)) else {
        unreachable!("any 32 bytes are the secret half of a key");
    };
    Identity::new(keys, Box::new(fill)).with_aes(true)
}

/// A node process: exports `disks`, each as soon as its medium is opened.
pub fn serve(process: &Process, ports: Vec<Rc<SimPort>>, facts: NodeFacts<'_>, disks: &[Rc<Disk>]) {
    serve_as(process, ports, facts, disks, SessionVersion::NEWEST);
}

/// The same by a program that speaks nothing newer than this.
pub fn serve_as(
    process: &Process,
    ports: Vec<Rc<SimPort>>,
    facts: NodeFacts<'_>,
    disks: &[Rc<Disk>],
    newest: SessionVersion,
) {
    let Some(handle) = process.handle() else { return };
    // Older programs know no keys.
    let has_key = newest == SessionVersion::NEWEST;
    let known = has_key.then(|| identity(&handle, facts.name).with_least(facts.security));
    serve_by(process, ports, facts, disks, Terms { newest, identity: known, lost: Vec::new() });
}

/// By what a node serves.
pub struct Terms {
    /// The newest that it speaks.
    pub newest: SessionVersion,
    /// Who it is, and what it demands of others.
    pub identity: Option<Identity>,
    /// Pools whose keys its configuration says are lost.
    pub lost: Vec<PoolKey>,
}

/// The same by these terms; what it is told while it runs.
pub fn serve_by(
    process: &Process,
    ports: Vec<Rc<SimPort>>,
    facts: NodeFacts<'_>,
    disks: &[Rc<Disk>],
    terms: Terms,
) -> Option<TargetDriver> {
    let handle = process.handle()?;
    let Terms { newest, identity, lost } = terms;
    let (named, lost) = (facts.name.to_string(), Rc::new(lost));
    let driver = TargetDriver::new(handle.clone(), NodeIdentity { id: facts.machine, name: named });
    driver.set_newest(newest);
    if let Some(identity) = identity {
        driver.set_identity(Rc::new(identity));
    }
    for port in ports {
        driver.add_port(port);
    }
    for (slot, disk) in disks.iter().enumerate() {
        let (driver, handle_inside) = (driver.clone(), handle.clone());
        let lost = Rc::clone(&lost);
        let device = disk.open_in(&handle);
        // As the kernel calls it: where it is plugged in, whichever it is.
        let address = ShelfSlot::new(facts.shelf, slot as u8);
        let options = ExportOptions::new(address, format!("/dev/disk{slot}"));
        handle.spawn(async move {
            // A disk that answers nothing isn't exported before it does.
            let medium = loop {
                match FencedDevice::open(
                    Rc::clone(&device) as Rc<dyn BlockDevice>,
                    handle_inside.clone(),
                )
                .await
                {
                    Ok(medium) => break medium,
                    Err(_) => handle_inside.sleep(LOOK_EVERY).await,
                }
            };
            let device = ExportDevice::Fenced(Rc::new(medium));
            let exported = driver.add_export(ExportSetup::new(device, options)).await;
            debug_assert!(exported.is_ok());
            // What can't be written now is for the next start.
            let _ = driver.reset_owner(address, &lost).await;
        });
    }
    Some(driver)
}

/// A disk that a client process found.
pub struct Found {
    /// Its address.
    pub address: ShelfSlot,
    /// What its target told about it, if it speaks our session.
    pub export: Option<ExportInfo>,
    /// The key of its machine, if that proved one.
    pub node_key: Option<PublicKey>,
    /// The disk.
    pub device: Rc<dyn BlockDevice>,
}

/// A client process: calls `found` for each disk that answers for the first time, and for each other
/// disk that takes its address, for as long as the process lives.
pub fn look_for_disks(handle: &Handle, ports: Vec<Rc<SimPort>>, found: impl Fn(Found) + 'static) {
    look_for_disks_as(handle, ports, SessionVersion::NEWEST, found);
}

/// The same by a program that speaks nothing newer than this.
pub fn look_for_disks_as(
    handle: &Handle,
    ports: Vec<Rc<SimPort>>,
    newest: SessionVersion,
    found: impl Fn(Found) + 'static,
) {
    let has_key = newest == SessionVersion::NEWEST;
    let known = has_key.then(|| Rc::new(identity(handle, "supervisor")));
    look(handle, ports, (newest, known), found);
}

/// The same by who is that.
pub fn look_for_disks_by(
    handle: &Handle,
    ports: Vec<Rc<SimPort>>,
    identity: &Rc<Identity>,
    found: impl Fn(Found) + 'static,
) {
    look(handle, ports, (SessionVersion::NEWEST, Some(Rc::clone(identity))), found);
}

fn look(
    handle: &Handle,
    ports: Vec<Rc<SimPort>>,
    (newest, identity): (SessionVersion, Option<Rc<Identity>>),
    found: impl Fn(Found) + 'static,
) {
    let usual = InitiatorOptions::new(Incarnation(handle.random_bytes16()));
    let options = InitiatorOptions { newest, identity, ..usual };
    let initiator = Initiator::new(handle.clone(), options);
    for port in ports {
        initiator.add_port(port);
    }
    handle.spawn(async move {
        let mut known: BTreeMap<ShelfSlot, Rc<dyn BlockDevice>> = BTreeMap::new();
        loop {
            for disk in initiator.disks() {
                let node_key = disk.node_key();
                let (address, device) = (disk.address(), disk as Rc<dyn BlockDevice>);
                let same = known.get(&address).is_some_and(|known| Rc::ptr_eq(known, &device));
                if !same {
                    known.insert(address, Rc::clone(&device));
                    let export = export_of(&initiator, address);
                    found(Found { address, export, node_key, device });
                }
            }
            initiator.next_disk_event().await;
        }
    });
}

fn export_of(initiator: &Initiator, address: ShelfSlot) -> Option<ExportInfo> {
    initiator.targets().into_iter().filter(|target| target.address == address).find_map(|target| {
        match target.kind {
            Some(TargetKind::Session { export, .. }) => Some(export),
            _ => None,
        }
    })
}

/// An engine process of this name, which demands so much: every disk present is shown to the engine.
pub fn attach(
    handle: &Handle,
    ports: Vec<Rc<SimPort>>,
    (name, least): (&str, Security),
    engine: &Rc<Engine>,
) {
    let engine = Rc::clone(engine);
    let known = Rc::new(identity(handle, name).with_least(least));
    look_for_disks_by(handle, ports, &known, move |found| {
        let Some(export) = found.export else { return };
        let facts = DiskFacts {
            name: found.address.to_string(),
            node: export.node_id,
            node_name: export.node_name,
            device_name: export.export_name,
            serial: export.drive_serial,
            node_key: found.node_key.filter(|_| least > Security::None),
        };
        engine.remove_device(&facts.name);
        engine.add_device(facts, found.device);
    });
}

/// What the engine says is part of the story; counts the disks that it evicts.
pub fn follow_events(
    process: &Process,
    engine: &Rc<Engine>,
    world: &World,
    name: &str,
    evict: &Rc<Cell<u64>>,
) {
    let Some(handle) = process.handle() else { return };
    let (engine, story, name) = (Rc::clone(engine), Rc::clone(world.story()), name.to_string());
    let evict = Rc::clone(evict);
    handle.spawn(async move {
        loop {
            let event = engine.next_event().await;
            evict.set(evict.get() + u64::from(matches!(event, PoolEvent::DiskOut { .. })));
            story.tell(&name, &format!("{event:?}"));
        }
    });
}
