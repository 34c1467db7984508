//! What people and processes say to each other: configuration files, the types of the HTTP API and
//! of the engine's control channel, the settings that a pool remembers for its services, and the
//! decisions about mounting that follow from them.
//!
//! It decides and parses; it opens nothing. Files and sockets belong to the binary, so that all of
//! this can be tested without root, a pool or a network.

pub mod alerts;
pub mod api;
pub mod boot;
pub mod catalogue;
pub mod channel;
pub mod client;
pub mod config;
pub mod duration;
pub mod exit;
mod exposition;
pub mod ftp;
pub mod metrics;
pub mod names;
pub mod node;
pub mod reconcile;
pub mod reference;
pub mod registry;
pub mod settings;
pub mod url;
