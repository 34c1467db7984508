//! AoE exports of volumes: what the pools' properties name is exported while its pool may be served,
//! and only then. A target without a lease answers nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use aoe::driver::{ExportDevice, ExportSetup, Frame, Port, TargetDriver};
use aoe::target::{ExportId, ExportOptions, ListEditors, NodeIdentity, Reach};
use aoe::wire::{Command, Header, MacAddr, ShelfSlot};
use control::api::{ApiError, ErrorCode, PoolReportExt as _};
use control::config::InterfaceConfig;
use control::names::VolumeName;
use control::settings::{ExportSetting, VolumeSettings};
use futures::future::LocalBoxFuture;
use os::ReactorHandle;
use os::net::{PacketPort, Role};
use pool::{Engine, PoolReport};

use super::network::spec_of;

/// Whom each export answers; an export that isn't named answers all.
type AllowLists = Rc<RefCell<BTreeMap<ShelfSlot, BTreeSet<MacAddr>>>>;

/// The running exports.
pub struct Exports {
    handle: ReactorHandle,
    driver: TargetDriver,
    configured: Vec<InterfaceConfig>,
    ports: RefCell<BTreeMap<String, Rc<PacketPort>>>,
    running: RefCell<BTreeMap<(VolumeName, ShelfSlot), Running>>,
    allowed: AllowLists,
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
        handle: &ReactorHandle,
        configured: &[InterfaceConfig],
        id: uuid::Uuid,
        host: &str,
    ) -> Exports {
        let node = NodeIdentity { id, name: host.to_owned() };
        Exports {
            handle: handle.clone(),
            driver: TargetDriver::new(handle.runtime().clone(), node),
            configured: configured.to_vec(),
            ports: RefCell::default(),
            running: RefCell::default(),
            allowed: Rc::default(),
            changing: runtime::Semaphore::new(1),
        }
    }

    /// Whether an export could be made here.
    pub fn check(&self, setting: &ExportSetting) -> Result<(), ApiError> {
        setting.validate().map_err(|error| ApiError::new(ErrorCode::Invalid, error.to_string()))?;
        for interface in &setting.interfaces {
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

    /// Makes what is exported be what the pools say.
    pub async fn follow(&self, pools: &[PoolReport], engine: &Engine) {
        let _turn = self.changing.acquire(1).await;
        let wanted = wanted(pools);
        let ended: Vec<_> = {
            let running = self.running.borrow();
            let stays = |key, one: &Running| wanted.get(key) == Some(&one.setting);
            running
                .iter()
                .filter(|(key, one)| !stays(*key, one))
                .map(|(key, _)| key.clone())
                .collect()
        };
        for key in ended {
            self.end(&key).await;
        }
        for (key, setting) in wanted {
            if self.running.borrow().contains_key(&key) {
                self.refresh(&key, engine).await;
                continue;
            }
            // A volume that doesn't answer would hold this up.
            if !pools.iter().any(|pool| pool.serves(&key.0)) {
                continue;
            }
            if let Err(error) = self.begin(&key, setting, engine).await {
                tracing::warn!(volume = %key.0, address = %key.1, %error, "not exported; tried again");
            }
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
        engine: &Engine,
    ) -> Result<(), ApiError> {
        let (name, address) = key;
        for interface in &setting.interfaces {
            self.port(interface)?;
        }
        let device = engine.open_volume(&name.pool, &name.volume)?;
        let sectors = device.geometry().sectors;
        if !setting.allow.is_empty() {
            let macs = setting.allow.iter().map(|mac| mac.0).collect();
            self.allowed.borrow_mut().insert(*address, macs);
        }
        let options = ExportOptions {
            serial: format!("{address}"),
            read_only: setting.read_only,
            // The allow list is the administrator's: clients may not edit it by the protocol.
            list_editors: if setting.allow.is_empty() {
                ListEditors::All
            } else {
                ListEditors::Nobody
            },
            reach: Reach::Ports(setting.interfaces.iter().cloned().collect()),
            ..ExportOptions::new(*address, name.to_string())
        };
        let id = self
            .driver
            .add_export(ExportSetup::new(ExportDevice::Device(device), options))
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
        self.allowed.borrow_mut().remove(&key.1);
    }

    /// Announces a volume that has grown.
    async fn refresh(&self, key: &(VolumeName, ShelfSlot), engine: &Engine) {
        let Ok(device) = engine.open_volume(&key.0.pool, &key.0.volume) else { return };
        let sectors = device.geometry().sectors;
        let id = {
            let mut running = self.running.borrow_mut();
            let Some(one) = running.get_mut(key).filter(|one| one.sectors != sectors) else {
                return;
            };
            one.sectors = sectors;
            one.id
        };
        self.driver.refresh(id).await;
    }

    /// The port on an interface, opened at its first use.
    fn port(&self, name: &str) -> Result<Rc<PacketPort>, ApiError> {
        if let Some(port) = self.ports.borrow().get(name) {
            return Ok(Rc::clone(port));
        }
        let netns = self
            .configured
            .iter()
            .find(|interface| interface.name == name)
            .and_then(|interface| interface.netns.clone());
        let interface = InterfaceConfig { name: name.to_owned(), netns };
        let port = PacketPort::open(&self.handle, spec_of(&interface), Role::Requests).map_err(
            |error| {
                ApiError::new(ErrorCode::Io, error.to_string())
                    .remedy("the supervisor needs CAP_NET_RAW and an interface of that name")
            },
        )?;
        let port = Rc::new(port);
        self.driver.add_port(Rc::new(GuardedPort {
            port: Rc::clone(&port),
            allowed: Rc::clone(&self.allowed),
        }));
        self.ports.borrow_mut().insert(name.to_owned(), Rc::clone(&port));
        Ok(port)
    }
}

fn wanted(pools: &[PoolReport]) -> BTreeMap<(VolumeName, ShelfSlot), ExportSetting> {
    let mut wanted = BTreeMap::new();
    for pool in pools {
        for volume in &pool.volumes {
            let name = VolumeName::new(&pool.name, &volume.name);
            if !pool.keeps(&name) {
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

/// A port that hears only whom the exports' allow lists name.
struct GuardedPort {
    port: Rc<PacketPort>,
    allowed: AllowLists,
}

impl Port for GuardedPort {
    fn name(&self) -> String {
        self.port.name()
    }

    fn mac(&self) -> MacAddr {
        self.port.mac()
    }

    fn mtu_bytes(&self) -> usize {
        self.port.mtu_bytes()
    }

    fn transmit(&self, frames: &mut Vec<Frame>) {
        self.port.transmit(frames);
    }

    fn readable(&self) -> LocalBoxFuture<'static, ()> {
        self.port.readable()
    }

    fn receive(&self, sink: &mut dyn FnMut(&[u8])) -> usize {
        let allowed = self.allowed.borrow();
        self.port.receive(&mut |frame| {
            if is_heard(frame, &allowed) {
                sink(frame);
            }
        })
    }
}

/// Whether a frame may reach the target. A query to all addresses passes: it learns of exports, but
/// any command to a guarded one needs its client on the list.
fn is_heard(frame: &[u8], allowed: &BTreeMap<ShelfSlot, BTreeSet<MacAddr>>) -> bool {
    if allowed.is_empty() {
        return true;
    }
    let Ok(header) = Header::parse(frame) else { return false };
    let is_query = header.command == Command::Config && !header.address.is_concrete();
    is_query
        || allowed
            .iter()
            .filter(|(address, _)| header.address.matches(**address))
            .all(|(_, clients)| clients.contains(&header.source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(source: u8, shelf: u16, slot: u8, command: u8) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, source, 0x88, 0xa2, 0x10, 0]);
        frame.extend(shelf.to_be_bytes());
        frame.extend([slot, command, 0, 0, 0, 1]);
        frame.resize(60, 0);
        frame
    }

    #[test]
    fn only_listed_clients_reach_a_guarded_export() {
        let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
        let guarded = BTreeMap::from([(ShelfSlot::new(7, 1), BTreeSet::from([mac(1)]))]);
        // ATA and Config commands, from the listed and from another client.
        for command in [0, 1] {
            assert!(is_heard(&frame(1, 7, 1, command), &guarded));
            assert!(!is_heard(&frame(2, 7, 1, command), &guarded));
            assert!(is_heard(&frame(2, 7, 2, command), &guarded));
        }
        // To all addresses: a query passes, a command doesn't.
        assert!(is_heard(&frame(2, 0xffff, 0xff, 1), &guarded));
        assert!(!is_heard(&frame(2, 0xffff, 0xff, 0), &guarded));
        assert!(!is_heard(&[0; 10], &guarded));
        assert!(is_heard(&frame(2, 7, 1, 0), &BTreeMap::new()));
    }
}
