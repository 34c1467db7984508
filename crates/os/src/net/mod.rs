//! The network as Linux has it: namespaces, links, and ports for frames.

mod batch;
mod device;
mod dhcp_socket;
mod filter;
mod link;
pub mod netlink;
pub mod netns;
mod outgoing;
mod packet;
mod raw;
mod receive_ring;
pub mod setup;
mod unix;

pub use device::bind_to_device;
pub use dhcp_socket::DhcpSocket;
pub use packet::{InterfaceSpec, PacketPort, PacketPortError, Role};
pub use raw::FrameSocket;
pub use unix::{UNIX_MTU_BYTES, UnixPort, UnixPortListener};
