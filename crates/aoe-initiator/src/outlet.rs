//! Where a client's frames leave: headers for the active path, and the frames not yet fetched.

use std::collections::VecDeque;

use block::DeviceEvent;

use super::operations::Operations;
use super::paths::{PathId, Paths};
use super::statistics::Statistics;
use aoe_wire::{Command, Frame, Header, PortId, ShelfSlot};

/// A frame and the port that it is to leave through.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// The port.
    pub port: PortId,
    /// The frame.
    pub frame: Frame,
}

/// The sending side of a client.
pub(crate) struct Outlet {
    pub address: ShelfSlot,
    pub paths: Paths,
    next_tag: u32,
    queue: VecDeque<Transmit>,
}

impl Outlet {
    /// Nothing to send, tags from `first_tag` on.
    pub fn new(address: ShelfSlot, first_tag: u32) -> Outlet {
        Outlet { address, paths: Paths::default(), next_tag: first_tag, queue: VecDeque::new() }
    }

    /// The header of a request on the active path, with a new tag; `None` without a path.
    pub fn header(&mut self, command: Command) -> Option<(PathId, Header)> {
        let (path, _) = self.paths.active()?;
        self.header_on(path, command).map(|header| (path, header))
    }

    /// The header of a request on a certain path, with a new tag.
    pub fn header_on(&mut self, path: PathId, command: Command) -> Option<Header> {
        let local = self.paths.port_of(path)?;
        // Linux ignores replies whose tag has bit 31 set; a tap on our port must not confuse it.
        let tag = self.next_tag & 0x7fff_ffff;
        self.next_tag = self.next_tag.wrapping_add(1);
        Some(Header::request(path.target, local.mac, self.address, command, tag))
    }

    /// Queues a frame.
    pub fn push(&mut self, path: PathId, frame: Frame) {
        self.queue.push_back(Transmit { port: path.port, frame });
    }

    /// Takes back the frames not yet fetched.
    pub fn clear(&mut self) {
        self.queue.clear();
    }

    /// The next frame.
    pub fn poll(&mut self) -> Option<Transmit> {
        self.queue.pop_front()
    }
}

/// What a client's parts share: the operations, the way out, the counters, the hints not yet fetched.
pub(crate) struct Traffic {
    pub operations: Operations,
    pub outlet: Outlet,
    pub statistics: Statistics,
    pub events: VecDeque<DeviceEvent>,
}

impl Traffic {
    /// None yet.
    pub fn new(address: ShelfSlot, first_tag: u32) -> Traffic {
        Traffic {
            operations: Operations::default(),
            outlet: Outlet::new(address, first_tag),
            statistics: Statistics::default(),
            events: VecDeque::new(),
        }
    }

    /// The path by which a reply for this disk came. One that came by no path of ours is late.
    pub fn path_of(&mut self, port: PortId, header: &Header) -> Option<PathId> {
        if header.address != self.outlet.address {
            return None;
        }
        let path = PathId { port, target: header.source };
        let is_known = self.outlet.paths.contains(path) && self.outlet.paths.admits(path);
        self.statistics.late_replies += u64::from(!is_known);
        is_known.then_some(path)
    }
}
