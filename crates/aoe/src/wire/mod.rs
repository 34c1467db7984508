//! Messages as bytes: one file per message, each with parse and emit.

mod address;

pub use address::MacAddr;
