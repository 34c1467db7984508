//! Where frames come from and go to: a packet socket, a Unix socket to the node process of this
//! machine, or a wire of the simulator. Implemented outside of this crate.

use futures::future::LocalBoxFuture;

use crate::{Frame, MacAddr, PortId};

/// What happened to frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames handed to the kernel.
    pub sent: u64,
    /// Frames handed out.
    pub received: u64,
    /// Not sent: queue full for long, interface down, too long.
    pub send_dropped: u64,
    /// Dropped by the kernel because we were slow.
    pub receive_dropped: u64,
    /// Longer than the MTU allows.
    pub oversized: u64,
}

/// How a port is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortStatus {
    /// Its number.
    pub id: PortId,
    /// Its name.
    pub name: String,
    /// The address that frames leave with.
    pub mac: MacAddr,
    /// Largest Ethernet payload.
    pub mtu_bytes: usize,
    /// What happened to frames so far.
    pub counters: PortCounters,
}

/// An interface to an Ethernet segment, or something that behaves like one.
///
/// It may lose, double and reorder frames, as Ethernet does. It may also come and go: a port that is
/// down swallows what it is given.
pub trait Port {
    /// For messages to people: the interface's name.
    fn name(&self) -> String;

    /// The address that frames leave with.
    fn mac(&self) -> MacAddr;

    /// Largest Ethernet payload in bytes (what `ip link` calls mtu), as it is now.
    fn mtu_bytes(&self) -> usize;

    /// Whether it leads to programs of this machine only, which no list of clients shuts out.
    fn is_trusted(&self) -> bool {
        false
    }

    /// What happened to frames so far.
    fn counters(&self) -> PortCounters {
        PortCounters::default()
    }

    /// Whether frames have somewhere to go: the interface is there, and has a link. What depends on
    /// answers waits for it.
    fn is_up(&self) -> bool {
        true
    }

    /// Sends and empties `frames`. What a full queue doesn't take may be kept, in order and within
    /// bounds, to be sent later; the rest is dropped and counted.
    fn transmit(&self, frames: &mut Vec<Frame>);

    /// Completes when frames may be waiting, or address, MTU or link may have changed. One listener at a
    /// time.
    fn readable(&self) -> LocalBoxFuture<'static, ()>;

    /// Hands all waiting frames to `sink`, a bounded batch at a time; returns how many. When it
    /// returns zero, wait for [`Port::readable`].
    fn receive(&self, sink: &mut dyn FnMut(&[u8])) -> usize;
}
