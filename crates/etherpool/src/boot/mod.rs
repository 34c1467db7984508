//! The boot server: what machines are told that are switched on and know nothing, and what is known of them.
//!
//! What is decided about a machine is in files of the [`state`] directory, which commands write and the server reads; what
//! the server has seen it writes there itself ([`kept`]). So commands need no server, and the directory is all that has to be
//! copied for another machine to be one.

pub mod copied;
mod dhcp;
mod files;
mod guests;
pub mod hellos;
mod http;
pub mod kept;
mod known;
pub mod lineage;
pub mod restoring;
mod serve;
pub mod sightings;
pub mod slots;
pub mod state;
mod tftp;
mod told;

pub use serve::{ServeArgs, read_config, run};
