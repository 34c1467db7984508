//! Where frames come from and go to: a packet socket, a Unix socket to the node process of this
//! machine, or a wire of the simulator. Implemented outside of this crate.

use arrayvec::ArrayVec;
use block::Buffer;
use futures::future::LocalBoxFuture;

use crate::wire::MacAddr;

/// Room for Ethernet, AoE and session header (96 bytes) with some to spare.
pub const HEAD_BYTES_MAX: usize = 128;

/// An outgoing frame: headers, then data that is shared, not copied. The port pads it to 60 bytes.
#[derive(Clone, Debug)]
pub struct Frame {
    /// From the destination address to the end of the last header.
    pub head: ArrayVec<u8, HEAD_BYTES_MAX>,
    /// What follows; empty for most requests.
    pub payload: Buffer,
}

impl Frame {
    /// Bytes of the frame before padding.
    pub fn len_bytes(&self) -> usize {
        self.head.len() + self.payload.len()
    }
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

    /// Sends and empties `frames`. What doesn't fit into the send queue is dropped and counted.
    fn transmit(&self, frames: &mut Vec<Frame>);

    /// Completes when frames may be waiting, or address or MTU may have changed. One listener at a
    /// time.
    fn readable(&self) -> LocalBoxFuture<'static, ()>;

    /// Hands all waiting frames to `sink`, a bounded batch at a time; returns how many. When it
    /// returns zero, wait for [`Port::readable`].
    fn receive(&self, sink: &mut dyn FnMut(&[u8])) -> usize;
}
