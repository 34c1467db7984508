//! FTP on a volume's mount, by libunftp, with what a storage server must add to it:
//!
//! - Confined to the mount: every path is opened beneath its root by the kernel's own rule
//!   (`openat2`), symbolic links included. It refuses to start unless the expected device is mounted.
//! - 226 is sent after fsync of the file and its directory; so are the answers to MKD, RMD, DELE and
//!   RNTO. Uploads are written in place, so that an interrupted one can be resumed; a file that is
//!   being replaced is therefore not its former self from the first byte on.
//! - The control connection passes a relay that limits lines and sessions, asks for the lease before
//!   each command and gives REST to one transfer only (the library forgets neither and bounds no
//!   line). Data connections pass one too, because the library compares their peers.

mod accounts;
mod backend;
mod beneath;
mod control;
mod data;
mod server;

pub use accounts::{UsersFileError, hash_password};
pub use server::{FtpConfig, FtpError, FtpServer, Lease};
