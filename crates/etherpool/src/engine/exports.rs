//! AoE exports of volumes: what the pools' properties name is exported while its pool may be served,
//! and only then. A target without a lease answers nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use aoe_initiator::TargetKind;
use aoe_initiator::discovery::TargetInfo;
use aoe_target::{
    Access, AccessOperation, AccessPolicy, AccessRule, ExportId, ExportOptions, ListEditors,
    NodeIdentity, OnRefusal, Probe, Reach, Remembered,
};
use aoe_target::{ExportDevice, ExportSetup, Memory, TargetDriver};
use aoe_wire::Port as _;
use aoe_wire::{MacAddr, ShelfSlot};
use block::IoError;
use block::VolumeName;
use control::api::{ApiError, ErrorCode, PoolReportExt as _};
use control::config::InterfaceConfig;
use control::node::{ExportStatus, NodeStatus, ONLINE};
use control::registry::Registry;
use control::settings::{ExportSetting, ExportState, VolumeSettings, property_text};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use os::ReactorHandle;
use os::net::{InterfaceSpec, PacketPort, Role};
use pool::{Engine, PoolReport, VolumeReport, VolumeStats};
use seal::Identity;

use super::held::HeldExports;
use crate::admin::{AdminHandler, Change};
use crate::namespaces::{Namespaces, spec_of};

/// The running exports.
pub struct Exports {
    engine: Rc<Engine>,
    id: uuid::Uuid,
    host: String,
    handle: ReactorHandle,
    driver: TargetDriver,
    configured: Vec<InterfaceConfig>,
    namespaces: Rc<Namespaces>,
    ports: RefCell<BTreeMap<String, Rc<PacketPort>>>,
    running: RefCell<BTreeMap<(VolumeName, ShelfSlot), Running>>,
    held: RefCell<HeldExports>,
    /// Why an export isn't what its pool says, for status.
    troubles: RefCell<BTreeMap<(VolumeName, ShelfSlot), String>>,
    /// One change at a time: adding and removing wait for the device.
    changing: Rc<runtime::Semaphore>,
}

struct Running {
    id: ExportId,
    setting: ExportSetting,
    sectors: u64,
}

impl Exports {
    /// None yet.
    pub fn new(
        engine: &Rc<Engine>,
        handle: &ReactorHandle,
        configured: &[InterfaceConfig],
        namespaces: &Rc<Namespaces>,
        id: uuid::Uuid,
        host: &str,
    ) -> Exports {
        let node = NodeIdentity { id, name: host.to_owned() };
        let driver = TargetDriver::new(handle.runtime().clone(), node);
        Exports {
            engine: Rc::clone(engine),
            id,
            host: host.to_owned(),
            handle: handle.clone(),
            driver,
            configured: configured.to_vec(),
            namespaces: Rc::clone(namespaces),
            ports: RefCell::default(),
            running: RefCell::default(),
            held: RefCell::default(),
            troubles: RefCell::default(),
            changing: runtime::Semaphore::new(1),
        }
    }

    /// Has a key from now on, and demands of sessions what that says; plain AoE has none.
    pub fn set_identity(&self, identity: Rc<Identity>) {
        self.driver.set_identity(identity);
    }

    /// Takes the registry's word for which pools are known and whose exports wait.
    pub fn know(&self, registry: &Registry) {
        *self.held.borrow_mut() = HeldExports::new(registry);
    }

    /// Takes services' word for whose exports of a pool wait.
    pub fn hold(&self, pool: String, volumes: BTreeSet<String>) {
        self.held.borrow_mut().set(pool, volumes);
    }

    /// Does an import of these pools: what they have then came with them.
    pub async fn while_importing<T>(
        &self,
        which: impl Fn(&PoolReport) -> bool,
        import: impl Future<Output = T>,
    ) -> T {
        let pools: Vec<PoolReport> = self.engine.reports().into_iter().filter(which).collect();
        self.held.borrow_mut().import_begins(&pools);
        let done = import.await;
        let mut held = self.held.borrow_mut();
        held.take_note(&self.engine.reports());
        held.import_ends(&pools);
        done
    }

    /// Whether an export could be made here.
    pub fn check(&self, setting: &ExportSetting) -> Result<(), ApiError> {
        let interfaces = self.interfaces_of(setting);
        if interfaces.is_empty() {
            return Err(ApiError::new(ErrorCode::Invalid, "there is no interface to export on")
                .remedy("name one with -i, or in the supervisor's configuration"));
        }
        for interface in &interfaces {
            let port = self.port(interface)?;
            if !port.is_up() {
                return Err(ApiError::new(
                    ErrorCode::NotFound,
                    format!("interface {interface} is not there or down"),
                )
                .remedy("name an interface of `ip link` that is up"));
            }
        }
        Ok(())
    }

    /// Where an export of these settings would answer, and doesn't yet.
    pub fn new_places(&self, setting: &ExportSetting) -> Vec<InterfaceSpec> {
        let running = self.running.borrow();
        let own = running.values().find(|one| one.setting.address == setting.address);
        let present = own.map(|one| self.interfaces_of(&one.setting)).unwrap_or_default();
        let new = self.interfaces_of(setting).into_iter().filter(|name| !present.contains(name));
        new.map(|name| self.spec_of(&name)).collect()
    }

    /// Whether an export runs at an address.
    pub fn runs(&self, address: ShelfSlot) -> bool {
        self.running.borrow().keys().any(|(_, own)| *own == address)
    }

    /// The addresses of our own ports.
    pub fn macs(&self) -> BTreeSet<MacAddr> {
        self.ports.borrow().values().map(|port| port.mac()).collect()
    }

    /// Whether somebody whom discovery found is this process itself, heard through another interface.
    pub fn is_own(&self, info: &TargetInfo) -> bool {
        match &info.kind {
            Some(TargetKind::Session { export, .. }) => export.node_id == self.id,
            _ => self.runs(info.address) && self.macs().contains(&info.path.target),
        }
    }

    /// What isn't exported as it should be, and why.
    pub fn troubles(&self) -> Vec<String> {
        let troubles = self.troubles.borrow();
        troubles.iter().map(|((volume, _), why)| format!("{volume}: {why}")).collect()
    }

    /// Takes note of how making an export what it should be went. What lasts is logged once.
    fn note(&self, key: &(VolumeName, ShelfSlot), done: Result<(), String>) {
        let mut troubles = self.troubles.borrow_mut();
        match done {
            Ok(()) => {
                troubles.remove(key);
            }
            Err(why) if troubles.get(key) == Some(&why) => {}
            Err(why) => {
                tracing::warn!(volume = %key.0, address = %key.1, "{why}");
                troubles.insert(key.clone(), why);
            }
        }
    }

    /// Makes what is exported be what the pools say.
    pub async fn follow(&self, pools: &[PoolReport]) {
        let _turn = self.changing.acquire(1).await;
        self.held.borrow_mut().take_note(pools);
        let wanted = wanted(pools, &self.held.borrow());
        let ended: Vec<_> = {
            let running = self.running.borrow();
            running.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect()
        };
        for key in ended {
            self.end(&key).await;
        }
        self.troubles.borrow_mut().retain(|key, _| wanted.contains_key(key));
        for (key, wish) in wanted {
            let address = key.1;
            let done = if self.running.borrow().contains_key(&key) {
                let done = self.refresh(&key, &wish).await;
                done.map_err(|error| format!("its export aoe:{address} stays as it was: {error}"))
            } else if pools.iter().any(|pool| pool.serves(&key.0)) {
                let done = self.begin(&key, wish).await;
                done.map_err(|error| format!("it is not exported as aoe:{address}: {error}"))
            } else {
                // A volume that doesn't answer would hold this up; its pool tells why.
                Ok(())
            };
            self.note(&key, done);
        }
    }

    /// Ends all.
    pub async fn stop(&self) {
        let _turn = self.changing.acquire(1).await;
        let all: Vec<_> = self.running.borrow().keys().cloned().collect();
        for key in all {
            self.end(&key).await;
        }
    }

    async fn begin(
        &self,
        key: &(VolumeName, ShelfSlot),
        setting: ExportSetting,
    ) -> Result<(), ApiError> {
        let (name, address) = key;
        // As they are now: a client may have changed them while the volume was exported by its former name.
        let properties = self.engine.properties(name.pool(), name.volume())?;
        // A list that can't be read may have locked somebody out: closed rather than open to all.
        let remembered = ExportState::read(&properties, setting.address).map_err(|error| {
            ApiError::new(ErrorCode::Invalid, error.to_string())
                .remedy(format!("volume unexport {name}, and export it again"))
        })?;
        let interfaces = self.interfaces_of(&setting);
        for interface in &interfaces {
            self.port(interface)?;
        }
        let device = self.engine.open_volume(name.pool(), name.volume())?;
        let sectors = device.geometry().sectors;
        let memory = PoolMemory { engine: Rc::clone(&self.engine), name: name.clone() };
        let setup = ExportSetup {
            memory: Some(Rc::new(memory)),
            ..ExportSetup::new(
                ExportDevice::Device(device),
                options(name, &setting, &interfaces, remembered),
            )
        };
        let id = self
            .driver
            .add_export(setup)
            .await
            .map_err(|error| ApiError::new(ErrorCode::Exists, error.to_string()))?;
        tracing::info!(volume = %name, %address, "exported");
        self.running.borrow_mut().insert(key.clone(), Running { id, setting, sectors });
        Ok(())
    }

    async fn end(&self, key: &(VolumeName, ShelfSlot)) {
        let Some(one) = self.running.borrow_mut().remove(key) else { return };
        tracing::info!(volume = %key.0, address = %key.1, "not exported any more");
        self.driver.remove_export(one.id).await;
    }

    /// Takes other settings without losing a request, and announces a volume that has grown.
    async fn refresh(
        &self,
        key: &(VolumeName, ShelfSlot),
        wish: &ExportSetting,
    ) -> Result<(), ApiError> {
        let Ok(device) = self.engine.open_volume(key.0.pool(), key.0.volume()) else {
            return Ok(());
        };
        let sectors = device.geometry().sectors;
        let (id, changed, grown) = {
            let running = self.running.borrow();
            let Some(one) = running.get(key) else { return Ok(()) };
            (one.id, one.setting != *wish, one.sectors != sectors)
        };
        if changed {
            let interfaces = self.interfaces_of(wish);
            interfaces.iter().try_for_each(|name| self.port(name).map(drop))?;
            // What clients left is in the running export; this is only for its beginning.
            let options = options(&key.0, wish, &interfaces, Remembered::default());
            self.driver
                .set_options(id, options)
                .map_err(|error| ApiError::new(ErrorCode::Invalid, error.to_string()))?;
            tracing::info!(volume = %key.0, address = %key.1, "the export's settings changed");
        }
        if let Some(one) = self.running.borrow_mut().get_mut(key) {
            one.setting = wish.clone();
            one.sectors = sectors;
        }
        if grown {
            self.driver.refresh(id).await;
        }
        Ok(())
    }

    /// Where an export answers.
    fn interfaces_of(&self, setting: &ExportSetting) -> Vec<String> {
        if setting.interfaces.is_empty() {
            return self.configured.iter().map(|interface| interface.name.clone()).collect();
        }
        setting.interfaces.clone()
    }

    /// An interface by its name: in the namespace where the configuration has it.
    fn spec_of(&self, name: &str) -> InterfaceSpec {
        let configured = self.configured.iter().find(|interface| interface.name == name);
        match configured {
            Some(interface) => spec_of(interface),
            None => InterfaceSpec { name: name.to_owned(), netns: None },
        }
    }

    /// The port on an interface, opened at its first use.
    fn port(&self, name: &str) -> Result<Rc<PacketPort>, ApiError> {
        if let Some(port) = self.ports.borrow().get(name) {
            return Ok(Rc::clone(port));
        }
        let interface = self.spec_of(name);
        let opened = self.namespaces.open_port(&self.handle, interface, Role::Requests);
        let port = opened.map_err(|error| {
            ApiError::new(ErrorCode::Io, error.to_string())
                .remedy("the supervisor needs CAP_NET_RAW and an interface of that name")
        })?;
        let port = Rc::new(port);
        self.driver.add_port(Rc::clone(&port) as Rc<dyn aoe_wire::Port>);
        self.ports.borrow_mut().insert(name.to_owned(), Rc::clone(&port));
        Ok(port)
    }
}

/// The supervisor's exports answer questions like any target's.
impl AdminHandler for Exports {
    fn handle(&self) -> &ReactorHandle {
        &self.handle
    }

    fn driver(&self) -> &TargetDriver {
        &self.driver
    }

    fn name(&self) -> String {
        self.host.clone()
    }

    fn status(&self) -> NodeStatus {
        let status = |((name, address), one): (&(VolumeName, ShelfSlot), &Running)| ExportStatus {
            address: address.to_string(),
            path: name.to_string(),
            device: name.to_string(),
            size_bytes: one.sectors.saturating_mul(block::SECTOR_BYTES as u64),
            state: ONLINE.to_owned(),
        };
        NodeStatus {
            name: self.host.clone(),
            interfaces: self.driver.ports().into_iter().map(|(_, name)| name).collect(),
            exports: self.running.borrow().iter().map(status).collect(),
            ..NodeStatus::default()
        }
    }

    fn volumes(&self) -> BTreeMap<VolumeName, VolumeStats> {
        let pools = self.engine.reports().into_iter();
        let names = pools.flat_map(|pool| {
            let named = move |volume: VolumeReport| VolumeName::new(&pool.name, &volume.name).ok();
            pool.volumes.into_iter().filter_map(named)
        });
        let stats = names.filter_map(|name| {
            let stats = self.engine.volume_stats(name.pool(), name.volume()).ok()?;
            Some((name, stats))
        });
        stats.collect()
    }

    fn change(self: Rc<Self>, _change: Change) -> LocalBoxFuture<'static, anyhow::Result<()>> {
        let refusal = anyhow::anyhow!(
            "volumes are exported by `etherpool volume export`, and their settings are in the pool"
        );
        futures::future::ready(Err(refusal)).boxed_local()
    }
}

fn wanted(
    pools: &[PoolReport],
    held: &HeldExports,
) -> BTreeMap<(VolumeName, ShelfSlot), ExportSetting> {
    let mut wanted = BTreeMap::new();
    for pool in pools {
        for (name, volume) in pool.named_volumes() {
            if !pool.keeps(&name) || held.waits(pool, &volume.name) {
                continue;
            }
            for setting in VolumeSettings::from_properties(&volume.properties).exports {
                let address = ShelfSlot::new(setting.address.shelf, setting.address.slot);
                wanted.insert((name.clone(), address), setting);
            }
        }
    }
    wanted
}

/// How an export behaves. With an allow list it is there for those clients only: nothing that others
/// send is answered, searches included, and nothing tells them of it. That list is the
/// administrator's, so clients can't lock out each other by the protocol's own lists either.
fn options(
    name: &VolumeName,
    setting: &ExportSetting,
    interfaces: &[String],
    remembered: Remembered,
) -> ExportOptions {
    let address = ShelfSlot::new(setting.address.shelf, setting.address.slot);
    let allowed: BTreeSet<MacAddr> = setting.allow.iter().map(|client| client.mac()).collect();
    let mut options = ExportOptions {
        serial: format!("{address}"),
        read_only: setting.read_only,
        reach: Reach::Ports(interfaces.iter().cloned().collect()),
        remembered,
        probe: Probe::Report,
        ..ExportOptions::new(address, name.to_string())
    };
    if !allowed.is_empty() {
        let rule = AccessRule { accept: allowed, deny: BTreeSet::new() };
        let rules = AccessOperation::ALL.map(|operation| (operation, rule.clone()));
        options.access = AccessPolicy { default: Access::Reject, rules: rules.into() };
        options.list_editors = ListEditors::Nobody;
        options.on_refusal = OnRefusal::Silent;
        // To ask all stations whether somebody else has the address would tell them of it. Others who
        // answer for it are heard all the same.
        options.probe = Probe::Off;
    }
    options
}

/// What clients leave with an export is kept in the pool, beside its settings: it comes back with the
/// supervisor, and moves with the pool.
struct PoolMemory {
    engine: Rc<Engine>,
    name: VolumeName,
}

impl Memory for PoolMemory {
    fn store(
        &self,
        address: ShelfSlot,
        state: Remembered,
    ) -> LocalBoxFuture<'static, Result<(), IoError>> {
        let (engine, name) = (Rc::clone(&self.engine), self.name.clone());
        async move {
            let key = ExportState::key(address);
            let empty = state == Remembered::default();
            let text = (!empty).then(|| property_text(&ExportState::from(&state)));
            let stored = engine.set_property(name.pool(), name.volume(), &key, text).await;
            stored.map_err(|error| {
                tracing::warn!(volume = %name, %address, "a client's change is not kept: {error}");
                IoError::Lost
            })
        }
        .boxed_local()
    }
}

#[cfg(test)]
mod tests;
