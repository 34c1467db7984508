//! What a machine that knows nothing is told when it is switched on: an address, a program to begin with, and what to
//! boot.
//!
//! [`dhcp`] and [`tftp`] are state machines without sockets, clocks and files, as all protocols here; [`script`] is what
//! iPXE is told, [`crowd`] who has to go where too many come, [`node`] what passes between a node that was booted so and the server, and [`tpm`] what such a node has its
//! TPM do.

pub mod crowd;
pub mod dhcp;
pub mod node;
pub mod script;
pub mod tftp;
pub mod tpm;
