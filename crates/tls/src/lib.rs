//! TLS, whoever speaks it, at either end: certificates, keys and authorities out of files, what is made of them, and
//! connections to others. One form for all, so that a file that does for one server does for the other, and is refused with
//! the same words.

mod connection;
mod files;

pub use connection::{ConnectError, Stream, alert_of, connect, keep_watch};
pub use files::{KeyContents, KeyFiles, TlsError, authorities, nameless_client, trusted};
