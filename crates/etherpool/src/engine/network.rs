//! The engine's way to disks: an initiator on the configured interfaces and on the sockets of this
//! machine's own node process and of the supervisor's witnesses. None needs a path once the engine serves: the
//! sockets' directories and the namespaces are opened before. A namespace that isn't there yet is looked for on a thread of its
//! own.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use aoe_initiator::TargetKind;
use aoe_initiator::discovery::TargetInfo;
use aoe_initiator::{DiskEvent, Initiator, InitiatorOptions};
use aoe_wire::Port;
use aoe_wire::{Incarnation, ShelfSlot};
use block::{BlockDevice, OwnerId, SECTOR_BYTES};
use control::api::{ApiError, ErrorCode, InterfaceState, NodeVersion, SeenTarget};
use control::config::InterfaceConfig;
use futures::future::LocalBoxFuture;
use os::ReactorHandle;
use os::dir::Spot;
use os::net::netlink::links;
use os::net::{PacketPort, Role, UnixPort};
use pool::{DiskFacts, Engine};
use runtime::Handle;
use seal::{Identity, PublicKey, Security};

use super::exports::Exports;
use crate::namespaces::{Namespaces, spec_of};

/// Ports and the disks behind them.
pub struct Network {
    runtime: Handle,
    initiator: Initiator,
    /// Nobody is spoken with who has no key.
    demands_keys: bool,
    own: Option<Rc<OwnMachines>>,
    namespaces: Rc<Namespaces>,
    interfaces: RefCell<Vec<Interface>>,
    /// What the engine was given, to notice another disk under a known address.
    given: RefCell<BTreeMap<ShelfSlot, Rc<dyn BlockDevice>>>,
}

/// The machines whose disks are taken into pools.
pub struct OwnMachines {
    identity: Rc<Identity>,
    /// Keys of programs of this machine, which may have a state directory of their own.
    here: RefCell<BTreeSet<PublicKey>>,
}

impl OwnMachines {
    /// Those that belong to who has this identity.
    pub fn of(identity: &Rc<Identity>) -> Rc<OwnMachines> {
        Rc::new(OwnMachines { identity: Rc::clone(identity), here: RefCell::default() })
    }

    /// Whether the one with this key is among them.
    pub fn has(&self, key: &PublicKey) -> bool {
        self.identity.is_own(key) || self.here.borrow().contains(key)
    }
}

struct Interface {
    config: InterfaceConfig,
    port: Result<Rc<PacketPort>, String>,
}

impl Network {
    /// On these interfaces, and on the sockets of this machine's own exports whenever somebody listens there.
    pub fn open(
        handle: &ReactorHandle,
        interfaces: &[InterfaceConfig],
        namespaces: &Rc<Namespaces>,
        sockets: &[PathBuf],
        own: Rc<OwnMachines>,
    ) -> anyhow::Result<Network> {
        let network = Network::new(handle, interfaces, namespaces, Some(own))?;
        for socket in sockets {
            let socket = Spot::of(socket)
                .with_context(|| format!("the way to the socket {}", socket.display()))?;
            network.initiator.add_port(Rc::new(UnixPort::connect(handle, socket)));
        }
        network.open_missing(handle);
        Ok(network)
    }

    /// Only to look: disks are listed, none is opened.
    pub fn listen(handle: &ReactorHandle, interface: &InterfaceConfig) -> anyhow::Result<Network> {
        let interfaces = std::slice::from_ref(interface);
        let namespaces = Namespaces::of(interfaces);
        let network = Network::new(handle, interfaces, &namespaces, None)?;
        network.open_missing(handle);
        let states = network.interfaces();
        if let Some(trouble) = states.into_iter().find_map(|state| state.trouble) {
            let told = format!("interface {}: {trouble}", interface.name);
            let links = links(interface.netns.as_deref()).unwrap_or_default();
            let error = match links.iter().any(|link| link.name == interface.name && link.up) {
                false => ApiError::new(ErrorCode::NotFound, told)
                    .remedy("name an interface of `ip link` that is up"),
                true => {
                    ApiError::new(ErrorCode::Internal, told).remedy("it takes root, or CAP_NET_RAW")
                }
            };
            return Err(error.into());
        }
        Ok(network)
    }

    fn new(
        handle: &ReactorHandle,
        interfaces: &[InterfaceConfig],
        namespaces: &Rc<Namespaces>,
        own: Option<Rc<OwnMachines>>,
    ) -> anyhow::Result<Network> {
        let identity = own.as_ref().map(|own| Rc::clone(&own.identity));
        let incarnation = Incarnation(os::random_bytes().context("random numbers")?);
        let demands_keys = seal::least_of(identity.as_deref()) > Security::None;
        let options = InitiatorOptions {
            connect: identity.is_some(),
            identity,
            ..InitiatorOptions::new(incarnation)
        };
        let interfaces = interfaces
            .iter()
            .map(|config| Interface { config: config.clone(), port: Err("not opened yet".into()) })
            .collect();
        Ok(Network {
            runtime: handle.runtime().clone(),
            initiator: Initiator::new(handle.runtime().clone(), options),
            demands_keys,
            own,
            namespaces: Rc::clone(namespaces),
            interfaces: RefCell::new(interfaces),
            given: RefCell::default(),
        })
    }

    /// Opens the interfaces that couldn't be opened so far: a namespace may appear late.
    pub fn open_missing(&self, handle: &ReactorHandle) {
        for interface in self.interfaces.borrow_mut().iter_mut() {
            let Err(before) = &interface.port else { continue };
            match self.namespaces.open_port(handle, spec_of(&interface.config), Role::Replies) {
                Ok(port) => {
                    let port = Rc::new(port);
                    self.initiator.add_port(Rc::clone(&port) as Rc<dyn Port>);
                    interface.port = Ok(port);
                }
                Err(error) => {
                    let trouble = error.to_string();
                    if trouble != *before {
                        tracing::error!("{trouble}; tried again until it works");
                    }
                    interface.port = Err(trouble);
                }
            }
        }
    }

    /// Gives the engine every session disk that it doesn't have yet. Disks that go away stay at first: they
    /// say so themselves, and answer again when they are back.
    pub fn feed(&self, engine: &Rc<Engine>) {
        let targets = self.initiator.targets();
        for disk in self.initiator.disks().into_iter().filter(|disk| disk.has_sessions()) {
            // Who has it was proved to the device itself. Where nothing need be proved it says nothing.
            let node_key = disk.node_key().filter(|_| self.demands_keys);
            if let (true, Some(key), Some(own)) = (disk.is_confined(), node_key, &self.own) {
                own.here.borrow_mut().insert(key);
            }
            let (address, device) = (disk.address(), disk as Rc<dyn BlockDevice>);
            let known = self.given.borrow().get(&address).cloned();
            if known.as_ref().is_some_and(|known| is_same(known, &device)) {
                continue;
            }
            let Some(facts) = facts_of(address, node_key, &targets) else { continue };
            if known.is_some() {
                engine.remove_device(&facts.name);
            }
            tracing::info!(disk = facts.name, node = facts.node_name, "discovered");
            self.given.borrow_mut().insert(address, Rc::clone(&device));
            engine.add_device(facts, device);
        }
    }

    /// Refuses disks of machines that aren't known to belong to this one: who names a disk goes by its address and its
    /// machine's name, and anybody can take these.
    pub fn check_own<'a>(
        &self,
        mut named: impl Iterator<Item = &'a ShelfSlot>,
    ) -> Result<(), ApiError> {
        let Some(own) = self.own.as_deref().filter(|_| self.demands_keys) else {
            return Ok(());
        };
        let disks = self.initiator.disks();
        let stranger = named.find_map(|address| {
            let disk = disks.iter().find(|disk| disk.address() == *address)?;
            let key = disk.node_key().filter(|key| !own.has(key));
            Some((address, key?))
        });
        let Some((address, key)) = stranger else { return Ok(()) };
        let why = format!(
            "disk {address} is on a machine that hasn't joined this one; it proves the key {key}"
        );
        Err(ApiError::new(ErrorCode::Refused, why).remedy(
            "have it join: etherpool token create here, and etherpool join there; or name its key, with those of all other nodes, in nodes of supervisor.toml",
        ))
    }

    /// Lets disks go that nobody misses, and that nobody has answered for since discovery forgot them. Those that come back
    /// are discovered anew.
    pub fn forget_silent(&self, engine: &Engine) {
        let given: Vec<ShelfSlot> = self.given.borrow().keys().copied().collect();
        let mut lost: BTreeSet<ShelfSlot> =
            given.into_iter().filter(|disk| engine.is_lost_stranger(&disk.to_string())).collect();
        // All that answer are thousands: only when there is something to look for.
        if lost.is_empty() {
            return;
        }
        self.initiator.targets().iter().for_each(|target| {
            lost.remove(&target.address);
        });
        for address in lost {
            tracing::info!(disk = %address, "it doesn't answer any more, and no pool has it: forgotten");
            self.forget(address, engine);
        }
    }

    /// Lets a disk go that is no more.
    pub fn forget(&self, address: ShelfSlot, engine: &Engine) {
        let address = ShelfSlot { shelf: address.shelf, slot: address.slot };
        self.initiator.forget(address);
        if self.given.borrow_mut().remove(&address).is_some() {
            engine.remove_device(&address.to_string());
        }
    }

    /// The next change among the disks.
    pub fn next_disk_event(&self) -> LocalBoxFuture<'static, DiskEvent> {
        self.initiator.next_disk_event()
    }

    /// The device of a disk that the engine has.
    pub fn device(&self, address: ShelfSlot) -> Option<Rc<dyn BlockDevice>> {
        let address = ShelfSlot { shelf: address.shelf, slot: address.slot };
        self.given.borrow().get(&address).cloned()
    }

    /// Has everybody asked again.
    pub fn ask(&self) {
        self.initiator.ask();
    }

    /// All targets that answered discovery.
    pub fn targets(&self) -> Vec<SeenTarget> {
        let name_of = |info: &TargetInfo| {
            self.initiator.port_name(info.path.port).unwrap_or_else(|| "-".into())
        };
        self.initiator.targets().iter().map(|info| seen(info, name_of(info))).collect()
    }

    /// Which versions the machines run whose disks are seen. One that has its disks on several paths is one.
    pub fn versions(&self) -> Vec<NodeVersion> {
        let mut nodes: BTreeMap<_, NodeVersion> = BTreeMap::new();
        for info in self.initiator.targets() {
            let Some(TargetKind::Session { export, node_key }) = info.kind else { continue };
            let heard_secs = self.runtime.now().since(info.seen).as_secs();
            let node = nodes.entry((export.node_id, node_key)).or_insert_with(|| NodeVersion {
                name: export.node_name,
                id: Some(export.node_id),
                key: node_key,
                version: None,
                heard_secs: None,
                disks: BTreeSet::new(),
            });
            // By its disks that were opened last: of one that isn't used any more it is as it was.
            if node.heard_secs.is_none_or(|before| heard_secs <= before) {
                node.version = Some(export.node_version).filter(|version| !version.is_empty());
                node.heard_secs = Some(heard_secs);
            }
            node.disks.insert(info.address);
        }
        let mut nodes: Vec<NodeVersion> = nodes.into_values().collect();
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        nodes
    }

    /// Who was found at an address, other than by our own exports, and how long ago that was heard last.
    pub fn who_has(&self, address: ShelfSlot, own: &Exports) -> Option<(SeenTarget, Duration)> {
        let targets = self.initiator.targets();
        let others = targets.iter().filter(|info| info.address == address && !own.is_own(info));
        let info = others.max_by_key(|info| info.seen)?;
        let interface = self.initiator.port_name(info.path.port).unwrap_or_else(|| "-".into());
        Some((seen(info, interface), self.runtime.now().since(info.seen)))
    }

    /// The interfaces, for status.
    pub fn interfaces(&self) -> Vec<InterfaceState> {
        let interfaces = self.interfaces.borrow();
        interfaces
            .iter()
            .map(|interface| match &interface.port {
                Ok(port) => InterfaceState {
                    name: interface.config.name.clone(),
                    mac: port.mac().to_string(),
                    mtu_bytes: port.mtu_bytes() as u64,
                    trouble: (!port.is_up()).then(|| "down or not there".to_owned()),
                },
                Err(trouble) => InterfaceState {
                    name: interface.config.name.clone(),
                    mac: String::new(),
                    mtu_bytes: 0,
                    trouble: Some(trouble.clone()),
                },
            })
            .collect()
    }
}

/// Whether both are the same object, whatever their types' tables.
fn is_same(one: &Rc<dyn BlockDevice>, other: &Rc<dyn BlockDevice>) -> bool {
    std::ptr::addr_eq(Rc::as_ptr(one), Rc::as_ptr(other))
}

/// What the machine with this key says of the disk at an address.
fn facts_of(
    address: ShelfSlot,
    node_key: Option<PublicKey>,
    targets: &[TargetInfo],
) -> Option<DiskFacts> {
    targets.iter().filter(|info| info.address == address && !info.is_conflict).find_map(|info| {
        let Some(TargetKind::Session { export, node_key: of }) = &info.kind else { return None };
        of.zip(node_key).is_none_or(|(of, this)| of == this).then(|| DiskFacts {
            name: address.to_string(),
            node: export.node_id,
            node_name: export.node_name.clone(),
            device_name: export.export_name.clone(),
            serial: export.drive_serial.clone(),
            node_key,
        })
    })
}

fn seen(info: &TargetInfo, interface: String) -> SeenTarget {
    let plain = SeenTarget {
        address: info.address,
        interface,
        mac: info.path.target.to_string(),
        size_bytes: None,
        session: false,
        node: None,
        name: None,
        owner: None,
        trouble: info
            .is_conflict
            .then(|| "another target has this address; this one is not used".to_owned()),
    };
    match &info.kind {
        Some(TargetKind::Session { export, .. }) => {
            let owner = export.holder.owner;
            SeenTarget {
                size_bytes: export.sectors.checked_mul(SECTOR_BYTES as u64),
                session: true,
                node: Some(export.node_name.clone()),
                name: Some(export.export_name.clone()),
                owner: (owner != OwnerId::NONE).then(|| owner.to_string()),
                ..plain
            }
        }
        Some(TargetKind::Plain(identify)) => SeenTarget {
            size_bytes: identify.sectors.checked_mul(SECTOR_BYTES as u64),
            name: Some(identify.model.trim().to_owned()),
            ..plain
        },
        Some(TargetKind::Refused(error)) => {
            SeenTarget { session: true, trouble: Some(format!("refuses: {error}")), ..plain }
        }
        Some(TargetKind::Unfit(unfit)) => {
            SeenTarget { session: true, trouble: Some(format!("not used: {unfit}")), ..plain }
        }
        None => SeenTarget {
            trouble: plain.trouble.or(Some("does not answer what it is".into())),
            ..plain
        },
    }
}
