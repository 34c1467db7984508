//! What a machine that knows nothing is told when it is switched on: an address, a program to begin with, and what to
//! boot.
//!
//! [`dhcp`] and [`tftp`] are state machines without sockets, clocks and files, as all protocols here; [`script`] is what
//! iPXE is told.

pub mod dhcp;
pub mod script;
pub mod tftp;
