//! Every wired interface, switched on as it appears, and asked on for an address. On a thread of its own: the kernel has one
//! lock for all interfaces, and a driver that hangs with that holds up whoever asks for them.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use aoe_wire::MacAddr;
use os::net::netlink::{Link, links};
use os::net::setup::switch_on;

use super::lease;

/// How often it looks at what nobody tells it of: links that somebody switched off.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What hears of addresses that interfaces have got, with whom the machine was booted by, where a server says so.
pub type Told = Arc<dyn Fn(Option<Ipv4Addr>) + Send + Sync>;

/// Who looks after the interfaces.
pub struct Network(SyncSender<()>);

impl Network {
    /// Begins. With a size, all are to carry payloads of that many bytes; `told` hears of their addresses, and `found` of the
    /// Ethernet addresses of wired ones, when these are others than before.
    pub fn follow(
        mtu_bytes: Option<u32>,
        told: Told,
        found: impl Fn(Vec<MacAddr>) + Send + 'static,
    ) -> io::Result<Network> {
        let (poke, poked) = mpsc::sync_channel(1);
        let mut interfaces =
            Interfaces { mtu_bytes, asking: BTreeMap::new(), told, macs: Vec::new() };
        std::thread::Builder::new().name("network".to_owned()).spawn(move || {
            loop {
                let before = interfaces.macs.clone();
                interfaces.look();
                if interfaces.macs != before {
                    found(interfaces.macs.clone());
                }
                if poked.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        })?;
        Ok(Network(poke))
    }

    /// A device came or went: has it look at once.
    pub fn look(&self) {
        // It is to look already, or there is nobody any more.
        let _ = self.0.try_send(());
    }
}

/// The interfaces of the machine.
struct Interfaces {
    mtu_bytes: Option<u32>,
    /// By number: where an address is asked for.
    asking: BTreeMap<u32, JoinHandle<()>>,
    told: Told,
    macs: Vec<MacAddr>,
}

impl Interfaces {
    /// Looks which there are, switches on those that are off, and asks where nobody asks.
    fn look(&mut self) {
        let links = match links(None) {
            Ok(links) => links,
            Err(error) => {
                tracing::warn!(%error, "the interfaces can't be listed");
                return;
            }
        };
        for link in links.iter().filter(|link| link.loopback && !link.up) {
            // Programs of this machine speak to each other by sockets with paths.
            let _ = switch_on(link.index, None);
        }
        let wired: Vec<&Link> = links.iter().filter(|link| is_wired(link)).collect();
        self.macs = wired.iter().filter_map(|link| link.mac).collect();
        // Drivers find cards in any order.
        self.macs.sort();
        self.asking.retain(|index, asking| {
            !asking.is_finished() && wired.iter().any(|link| link.index == *index)
        });
        for link in wired {
            if !link.up {
                self.switch_on(link);
            } else if !self.asking.contains_key(&link.index) {
                match lease::follow(link, Arc::clone(&self.told)) {
                    Ok(asking) => {
                        self.asking.insert(link.index, asking);
                    }
                    Err(error) => tracing::warn!(%error, interface = link.name, "no DHCP"),
                }
            }
        }
    }

    fn switch_on(&self, link: &Link) {
        let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
        let mtu = self.mtu_bytes.filter(|mtu| *mtu != link.mtu_bytes);
        let switched = switch_on(link.index, mtu).or_else(|error| {
            let Some(mtu) = mtu else { return Err(error) };
            tracing::warn!(%error, interface = link.name, "it can't carry {mtu} bytes");
            switch_on(link.index, None)
        });
        match switched {
            Ok(()) => tracing::info!(interface = link.name, mac, "switched on"),
            Err(error) => tracing::warn!(%error, interface = link.name, "can't be switched on"),
        }
    }
}

/// Whether it is a card with a cable, not one that somebody made of others, or of radio.
fn is_wired(link: &Link) -> bool {
    let place = Path::new("/sys/class/net").join(&link.name);
    let has = |name: &str| place.join(name).exists();
    link.mac.is_some() && !link.loopback && has("device") && !has("phy80211") && !has("wireless")
}
