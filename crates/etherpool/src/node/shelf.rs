//! The shelf of a node that was given none: the last number of its IPv4 address, as people who look
//! for "the disks of .17" expect, unless somebody else answers on that shelf. It is chosen once and
//! remembered; another IPv4 address later doesn't move the disks.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use aoe::driver::Port;
use aoe::wire::{Command, ConfigCommand, ConfigMessage, Header, MacAddr, ShelfSlot};
use os::ReactorHandle;
use os::net::netlink::{Link, links};
use os::net::{InterfaceSpec, PacketPort, Role};
use runtime::Handle;

/// Questions that are asked before a shelf counts as free, and the time for each answer.
const QUESTIONS: u32 = 3;
const PATIENCE: Duration = Duration::from_millis(100);

/// The shelf that follows from the address of the first interface that is `wanted` and has one, if
/// nobody else is there.
pub async fn from_address(handle: &ReactorHandle, wanted: impl Fn(&Link) -> bool) -> Option<u16> {
    let links = handle.blocking(|| links(None)).await.ok()?.ok()?;
    let used: Vec<&Link> = links.iter().filter(|link| wanted(link)).collect();
    let shelf = used.iter().find_map(|link| last_octet(link))?;
    let mut ports = Vec::new();
    for link in used.iter().filter(|link| link.up) {
        let interface = InterfaceSpec { name: link.name.clone(), netns: None };
        match PacketPort::open(handle, interface, Role::Replies) {
            Ok(port) => ports.push(Rc::new(port) as Rc<dyn Port>),
            Err(error) => tracing::warn!(%error, "can't ask who is on shelf {shelf}"),
        }
    }
    let ours: BTreeSet<MacAddr> = links.iter().filter_map(|link| link.mac).collect();
    match neighbour(handle.runtime(), &ports, shelf, &ours).await {
        None => Some(shelf),
        Some(mac) => {
            tracing::warn!(
                "shelf {shelf}, the last number of this machine's address, is used by {mac}; choosing another"
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

/// Somebody who isn't one of `ours` and answers on a shelf.
async fn neighbour(
    handle: &Handle,
    ports: &[Rc<dyn Port>],
    shelf: u16,
    ours: &BTreeSet<MacAddr>,
) -> Option<MacAddr> {
    let all = ShelfSlot::new(shelf, ShelfSlot::ANY_SLOT);
    for question in 0..QUESTIONS {
        for port in ports {
            let header =
                Header::request(MacAddr::BROADCAST, port.mac(), all, Command::Config, question);
            let query = ConfigMessage::request(header, ConfigCommand::Read);
            port.transmit(&mut vec![query.emit(&[])]);
        }
        handle.sleep(PATIENCE).await;
        for port in ports {
            let mut found = None;
            let mut look = |frame: &[u8]| {
                if let Ok(header) = Header::parse(frame)
                    && header.response
                    && header.command == Command::Config
                    && header.address.shelf == shelf
                    && !ours.contains(&header.source)
                {
                    found.get_or_insert(header.source);
                }
            };
            // A flood must not keep this up: what a segment answers fits into a few batches.
            for _ in 0..16 {
                if port.receive(&mut look) == 0 {
                    break;
                }
            }
            if found.is_some() {
                return found;
            }
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use aoe::driver::Frame;
    use futures::FutureExt;
    use futures::future::LocalBoxFuture;
    use std::cell::RefCell;

    use runtime::{Executor, Order};

    /// A segment with one machine, which answers on a shelf at the second question.
    struct Segment {
        answers: (u16, MacAddr),
        asked: RefCell<u32>,
        waiting: RefCell<Vec<Vec<u8>>>,
    }

    impl Port for Segment {
        fn name(&self) -> String {
            "test".to_owned()
        }

        fn mac(&self) -> MacAddr {
            MacAddr([2, 0, 0, 0, 0, 1])
        }

        fn mtu_bytes(&self) -> usize {
            1500
        }

        fn transmit(&self, frames: &mut Vec<Frame>) {
            for frame in frames.drain(..) {
                let asked = Header::parse(&frame.head).unwrap();
                let (shelf, mac) = self.answers;
                let own = ShelfSlot::new(shelf, 3);
                *self.asked.borrow_mut() += 1;
                if asked.address.matches(own) && *self.asked.borrow() == 2 {
                    let header = asked.answer(mac, own);
                    let answer = ConfigMessage::request(header, ConfigCommand::Read).emit(b"x");
                    let bytes = [answer.head.as_slice(), &answer.payload].concat();
                    self.waiting.borrow_mut().push(bytes);
                }
            }
        }

        fn readable(&self) -> LocalBoxFuture<'static, ()> {
            futures::future::pending().boxed_local()
        }

        fn receive(&self, sink: &mut dyn FnMut(&[u8])) -> usize {
            let waiting = self.waiting.take();
            waiting.iter().for_each(|frame| sink(frame));
            waiting.len()
        }
    }

    fn ask(answers: (u16, MacAddr), shelf: u16) -> (Option<MacAddr>, u32) {
        let segment =
            Rc::new(Segment { answers, asked: RefCell::default(), waiting: RefCell::default() });
        let executor = Executor::new(block::Instant::default(), 1, Order::Fifo, || {});
        let handle = executor.handle();
        let found = Rc::new(RefCell::new(None));
        let (slot, port) = (Rc::clone(&found), Rc::clone(&segment) as Rc<dyn Port>);
        executor.handle().spawn(async move {
            let ours = BTreeSet::from([MacAddr([2, 0, 0, 0, 0, 1])]);
            *slot.borrow_mut() = Some(neighbour(&handle, &[port], shelf, &ours).await);
        });
        loop {
            executor.run_ready(usize::MAX);
            if let Some(found) = found.borrow_mut().take() {
                return (found, *segment.asked.borrow());
            }
            executor.set_now(executor.next_deadline().unwrap());
        }
    }

    #[test]
    fn a_shelf_is_free_when_nobody_else_answers() {
        let (ours, other) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 9]));
        assert_eq!(ask((17, other), 17), (Some(other), 2));
        assert_eq!(ask((18, other), 17), (None, 3));
        assert_eq!(ask((17, ours), 17), (None, 3));
    }

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
