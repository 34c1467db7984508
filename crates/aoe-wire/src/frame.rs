//! A frame on its way out, and the ports by which frames come and go.

use arrayvec::ArrayVec;
use block::Buffer;

/// Room for Ethernet, AoE and session header.
pub const HEAD_BYTES_MAX: usize = 128;

/// An outgoing frame: headers, then data that is shared, not copied. The port pads it to 60 bytes.
#[derive(Clone, Debug)]
pub struct Frame {
    /// From the destination address to the end of the last header.
    pub head: ArrayVec<u8, HEAD_BYTES_MAX>,
    /// What follows; empty for most requests.
    pub payload: Buffer,
    /// How long a frame may be in which this travels together with others ([`crate::join`]); 0 for alone.
    pub together_bytes: usize,
}

impl Frame {
    /// A frame that travels alone.
    pub fn alone(head: ArrayVec<u8, HEAD_BYTES_MAX>, payload: Buffer) -> Frame {
        Frame { head, payload, together_bytes: 0 }
    }

    /// The same, together with others where that makes a frame no longer than this.
    pub fn together(self, together_bytes: usize) -> Frame {
        Frame { together_bytes, ..self }
    }

    /// Bytes of the frame before padding.
    pub fn len_bytes(&self) -> usize {
        self.head.len() + self.payload.len()
    }
}

/// The number of a port: an interface to an Ethernet segment, of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u32);
