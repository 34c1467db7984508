//! Every wired interface, switched on as it appears, and asked on for an address. On a thread of its own: the kernel has one
//! lock for all interfaces, and a driver that hangs with that holds up whoever asks for them.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
pub struct Network {
    /// The number of what was asked of it last.
    asked: Arc<AtomicU64>,
    poke: SyncSender<()>,
}

/// What there is.
#[derive(Clone, Debug)]
pub struct Found {
    /// The Ethernet addresses of wired interfaces.
    pub macs: Vec<MacAddr>,
    /// Which question this answers, if it was asked.
    pub asked: u64,
}

impl Network {
    /// Begins. With a size, all are to carry payloads of that many bytes; `told` hears of their addresses, and `found` what
    /// there is, at each look and before anything is done with it.
    pub fn follow(
        mtu_bytes: Option<u32>,
        told: Told,
        found: impl Fn(Found) + Send + 'static,
    ) -> io::Result<Network> {
        let (poke, poked) = mpsc::sync_channel(1);
        let asked = Arc::<AtomicU64>::default();
        let asking = Arc::clone(&asked);
        let mut interfaces = Interfaces { mtu_bytes, asking: BTreeMap::new(), told };
        std::thread::Builder::new().name("network".to_owned()).spawn(move || {
            loop {
                // Before it looks: what is asked meanwhile is answered by the next look.
                let asked = asking.load(Ordering::SeqCst);
                if let Some(links) = look() {
                    found(Found { macs: macs(&links), asked });
                    interfaces.follow(&links);
                }
                if poked.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        })?;
        Ok(Network { asked, poke })
    }

    /// Has it look at once; which question that is.
    pub fn look(&self) -> u64 {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        // It is to look already, or there is nobody any more, which is seen by the answers.
        let _ = self.poke.try_send(());
        asked
    }
}

fn look() -> Option<Vec<Link>> {
    match links(None) {
        Ok(links) => Some(links),
        Err(error) => {
            tracing::warn!(%error, "the interfaces can't be listed");
            None
        }
    }
}

fn macs(links: &[Link]) -> Vec<MacAddr> {
    let wired = links.iter().filter(|link| is_wired(link));
    let mut macs: Vec<MacAddr> = wired.filter_map(|link| link.mac).collect();
    // Drivers find cards in any order.
    macs.sort();
    macs
}

/// The interfaces of the machine.
struct Interfaces {
    mtu_bytes: Option<u32>,
    /// By number: where an address is asked for.
    asking: BTreeMap<u32, JoinHandle<()>>,
    told: Told,
}

impl Interfaces {
    /// Switches on those that are off, and asks where nobody asks.
    fn follow(&mut self, links: &[Link]) {
        for link in links.iter().filter(|link| link.loopback && !link.up) {
            // Programs of this machine speak to each other by sockets with paths.
            let _ = switch_on(link.index, None);
        }
        let wired: Vec<&Link> = links.iter().filter(|link| is_wired(link)).collect();
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

/// What the kernel calls cards with a cable where nobody names them otherwise. What else is plugged in (telephones) is
/// nobody's way to disks.
pub const WIRED: &str = "eth";

/// Whether it is a card with a cable, not one that somebody made of others, or of radio.
fn is_wired(link: &Link) -> bool {
    let place = Path::new("/sys/class/net").join(&link.name);
    let has = |name: &str| place.join(name).exists();
    let is_card = link.mac.is_some() && link.name.starts_with(WIRED);
    is_card && !link.loopback && has("device") && !has("phy80211") && !has("wireless")
}
