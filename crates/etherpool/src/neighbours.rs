//! Who on a segment answers for an address: asked by frames, as any client asks. Nobody is heard who
//! shuts us out by an access list, nor a process that has the same interface as we do: the kernel shows
//! no process what leaves by its own interface.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use aoe_wire::Port;
use aoe_wire::{Command, ConfigCommand, ConfigMessage, Header, MacAddr, ShelfSlot};
use futures::future::{select, select_all};
use runtime::Handle;

/// How insistently is asked.
#[derive(Clone, Copy, Debug)]
pub struct Asking {
    /// Questions before an address counts as free: any of them may be lost.
    pub questions: u32,
    /// The time for an answer to each.
    pub timeout: Duration,
}

/// Somebody who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The address that it answers for.
    pub address: ShelfSlot,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// The interface on which it was heard.
    pub interface: String,
}

/// The first who answers for `address`, which may be all of a shelf, and isn't one of ours.
pub async fn who_answers(
    handle: &Handle,
    ports: &[Rc<dyn Port>],
    address: ShelfSlot,
    asking: Asking,
    is_ours: impl Fn(MacAddr) -> bool,
) -> Option<Neighbour> {
    if ports.is_empty() {
        return None;
    }
    for question in 0..asking.questions {
        for port in ports {
            let header =
                Header::request(MacAddr::BROADCAST, port.mac(), address, Command::Config, question);
            let query = ConfigMessage::request(header, ConfigCommand::Read);
            port.transmit(&mut vec![query.emit(&[])]);
        }
        let end = handle.now() + asking.timeout;
        loop {
            let heard = select_all(ports.iter().map(|port| port.readable()));
            select(heard, pin!(handle.sleep_until(end))).await;
            let found = ports.iter().find_map(|port| heard_on(port, address, &is_ours));
            if found.is_some() {
                return found;
            }
            if handle.now() >= end {
                break;
            }
            // Who floods us with other answers holds nobody up.
            handle.yield_now().await;
        }
    }
    None
}

fn heard_on(
    port: &Rc<dyn Port>,
    address: ShelfSlot,
    is_ours: &impl Fn(MacAddr) -> bool,
) -> Option<Neighbour> {
    let mut found = None;
    let mut look = |frame: &[u8]| {
        if let Ok(header) = Header::parse(frame)
            && header.response
            && header.command == Command::Config
            && address.matches(header.address)
            && !is_ours(header.source)
        {
            found.get_or_insert_with(|| Neighbour {
                address: header.address,
                mac: header.source,
                interface: port.name(),
            });
        }
    };
    // What a segment answers fits into a few batches.
    for _ in 0..16 {
        if port.receive(&mut look) == 0 {
            break;
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use aoe_wire::Frame;
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
            OURS
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

    const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn ask(answers: (u16, MacAddr), address: ShelfSlot) -> (Option<MacAddr>, u32) {
        let segment =
            Rc::new(Segment { answers, asked: RefCell::default(), waiting: RefCell::default() });
        let executor = Executor::new(block::Instant::default(), 1, Order::Fifo, || {});
        let handle = executor.handle();
        let found = Rc::new(RefCell::new(None));
        let (slot, port) = (Rc::clone(&found), Rc::clone(&segment) as Rc<dyn Port>);
        executor.handle().spawn(async move {
            let asking = Asking { questions: 3, timeout: Duration::from_millis(100) };
            let answer = who_answers(&handle, &[port], address, asking, |mac| mac == OURS).await;
            *slot.borrow_mut() = Some(answer.map(|neighbour| neighbour.mac));
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
    fn an_address_is_free_when_nobody_else_answers() {
        let shelf = |shelf| ShelfSlot::new(shelf, ShelfSlot::ANY_SLOT);
        assert_eq!(ask((17, OTHER), shelf(17)), (Some(OTHER), 2));
        assert_eq!(ask((17, OTHER), ShelfSlot::new(17, 3)), (Some(OTHER), 2));
        assert_eq!(ask((17, OTHER), ShelfSlot::new(17, 4)), (None, 3));
        assert_eq!(ask((18, OTHER), shelf(17)), (None, 3));
        assert_eq!(ask((17, OURS), shelf(17)), (None, 3));
    }
}
