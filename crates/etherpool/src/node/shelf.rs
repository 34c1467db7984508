//! The shelf of a node that was given none: the last number of its IPv4 address, as people who look
//! for "the disks of .17" expect, unless somebody else answers on that shelf. It is chosen once and
//! remembered; another IPv4 address later doesn't move the disks.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use aoe_wire::Port;
use aoe_wire::{MacAddr, ShelfSlot};
use os::ReactorHandle;
use os::net::netlink::{Link, links};
use os::net::{InterfaceSpec, PacketPort, Role};

use crate::neighbours::{Asking, who_answers};

/// Before a shelf counts as free.
const ASKING: Asking = Asking { questions: 3, timeout: Duration::from_millis(100) };

/// The shelf that follows from the address of the first interface that is `wanted` and has one, if
/// nobody else is there.
pub async fn from_address(handle: &ReactorHandle, wanted: impl Fn(&Link) -> bool) -> Option<u16> {
    let links = handle.blocking(|| links(None)).await.ok()?.ok()?;
    let used: Vec<&Link> = links.iter().filter(|link| wanted(link)).collect();
    let shelf = used.iter().find_map(|link| last_octet(link))?;
    let mut ports = Vec::new();
    for link in used.iter().filter(|link| link.up) {
        let interface = InterfaceSpec { name: link.name.clone(), netns: None };
        match PacketPort::open(handle, interface, Role::Answers) {
            Ok(port) => ports.push(Rc::new(port) as Rc<dyn Port>),
            Err(error) => tracing::warn!(%error, "can't ask who is on shelf {shelf}"),
        }
    }
    let ours: BTreeSet<MacAddr> = links.iter().filter_map(|link| link.mac).collect();
    let all = ShelfSlot::new(shelf, ShelfSlot::ANY_SLOT);
    let is_ours = |mac| ours.contains(&mac);
    match who_answers(handle.runtime(), &ports, all, ASKING, is_ours).await {
        None => Some(shelf),
        Some(neighbour) => {
            tracing::warn!(
                "shelf {shelf}, the last number of this machine's address, is used by {}; choosing another",
                neighbour.mac
            );
            None
        }
    }
}

fn last_octet(link: &Link) -> Option<u16> {
    link.addresses.iter().find_map(|(address, _)| match address {
        IpAddr::V4(address) => Some(u16::from(address.octets()[3])),
        IpAddr::V6(_) => None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_of_the_address_is_taken() {
        let link = |addresses: &[&str]| Link {
            addresses: addresses.iter().map(|text| (text.parse().unwrap(), 24)).collect(),
            ..Link::default()
        };
        assert_eq!(last_octet(&link(&["fe80::17", "192.0.2.17", "192.0.2.18"])), Some(17));
        assert_eq!(last_octet(&link(&["fe80::17"])), None);
    }
}
