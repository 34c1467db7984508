//! Asks a supervisor: what `etherpool`'s own commands ask by, for any program.
//!
//! ```no_run
//! # async fn example() -> Result<(), client::Error> {
//! use client::{Address, Client};
//!
//! let client = Client::new(Address::Socket(client::SOCKET.into()));
//! for pool in client.pools().await? {
//!     println!("{} is {}", pool.name, pool.state.word());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] is an [`Address`] and nothing else: each request has a connection of its own, so it may be cloned, kept, and
//! used by many at once. It needs tokio, prints nothing, and waits for no answer for ever: a look is answered within 15 seconds, a
//! change within 150, and work that takes long is silent for 30 at most, unless [`Client::timeout`] says otherwise; else it is [`Error::Late`].
//! Only who asks for [`Client::events`] waits for as long as nothing happens.
//!
//! - **Where**: a socket of this machine, or `https://HOST:PORT` by a certificate ([`Remote`]). What somebody has in his
//!   `~/.config/etherpool/client.toml` is [`Named::of_user`].
//! - **What**: paths and types are those of the API's description (`etherpool openapi`), and the types are in [`control::api`]
//!   and, what is told of pools, in [`pool`]. What is asked for most has a method: [`Client::status`], [`Client::pools`], [`Client::disks`], ...; all
//!   else goes by [`Client::get`], [`Client::post`] and [`Client::delete`].
//! - **What takes long** tells how far it is: [`Client::work`] gives [`Work`], whose `next` does. What happens comes
//!   by [`Client::events`], until the supervisor ends.
//! - **What fails** is an [`Error`]. [`Error::Refused`] is the supervisor's own word, with a code for programs, a sentence, and
//!   what to do. What was told may be anybody's: to show it on a terminal there is [`block::plain`].
//! - **Versions**: asked is version 2 of the API; a supervisor of etherpool 0.1, which speaks the first, is asked in its own
//!   words, and what it answers is brought into ours. [`Client::version`] says who runs what, and fails where a
//!   supervisor speaks neither.
//!
//! `crates/client/examples/watch.rs` is a program that lists pools and then tells what happens to them.

#![warn(clippy::print_stdout, clippy::print_stderr, clippy::exit)]

mod address;
mod asking;
mod error;
pub mod http;
mod lines;

/// Names, sizes and times.
pub use block;
/// What is asked and answered: `control::api`.
pub use control;
/// What is told of pools, volumes and disks: its reports.
pub use pool;
/// Keys of machines.
pub use seal;
/// What a certificate is read from, and why a connection fails.
pub use tls;
/// Why a certificate isn't taken.
pub use tokio_rustls::rustls::AlertDescription;

pub use address::{Address, Misnamed, Named, Remote, SOCKET};
pub use asking::{Aside, Client, pool_path, volume_path};
pub use error::Error;
pub use lines::{Lines, News, Step, Work};
