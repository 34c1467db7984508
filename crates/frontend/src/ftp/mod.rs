//! FTP on a volume's mount:
//!
//! - Confined to the mount: every path is opened beneath its root by the kernel's own rule
//!   (`openat2`), symbolic links included. The root is a mount of its own, above which nothing is, of the expected device.
//! - Files are used as the user that a client is mapped to, on the thread that uses them (`root`): whoever is nobody in
//!   particular reads what everybody may read.
//! - 226 is sent after fsync of the file and its directory; so are the answers to MKD, RMD, DELE and
//!   RNTO. Uploads are written in place, so that an interrupted one can be resumed; a file that is
//!   being replaced is therefore not its former self from the first byte on.
//! - A session serves one command after the other (`session`), whenever they arrive, and asks for the
//!   lease before each that uses the volume. A transfer has a thread of its own (`data`), so that data
//!   goes once through TCP and never through the session.
//! - TLS where the client asks for it (`tls`), on both connections; where it is required, no password is taken without.
//! - Data connections are passive and of the client's own address: the server connects to nobody.

mod accounts;
mod beneath;
mod command;
mod control;
mod data;
mod listing;
mod outside;
mod reply;
mod root;
mod server;
mod session;
#[cfg(test)]
mod tests;
mod tls;

pub use accounts::{FtpUser, UsersFileError, hash_password, is_users_line, list_users};
pub use outside::{Files, Outside};
pub use server::{FtpConfig, FtpError, FtpServer, FtpTls, listen, open_root};
