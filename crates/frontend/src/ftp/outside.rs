//! What a server needs to know at the moment when it needs it, and can't look up itself: its process sees no file but
//! those of its volumes.

use std::path::PathBuf;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_rustls::rustls::ServerConfig;

use super::accounts::{UsersFileError, read_users};
use tls::{KeyContents, KeyFiles, TlsError};

/// Who knows it. What isn't answered in time is answered by no.
pub trait Outside: Send + Sync + 'static {
    /// Whether the volume is still ours to serve: asked before each command that uses it.
    fn may_serve(&self) -> BoxFuture<'static, bool>;

    /// The file of users, see [`super`]: asked at each login. An error is for the log.
    fn users(&self) -> BoxFuture<'static, Result<String, String>>;

    /// TLS by the present certificate, for the next who asks for it. An error is for the log.
    fn certificate(&self) -> BoxFuture<'static, Result<ServerConfig, String>>;
}

/// The files of a server, for a process that reads files. The volume may always be served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    users: Option<PathBuf>,
    keys: Option<KeyFiles>,
}

impl Files {
    /// Those of users and of TLS, as far as there are any.
    pub fn new(users: Option<PathBuf>, keys: Option<KeyFiles>) -> Files {
        Files { users, keys }
    }

    /// The present users; none without a file. Blocks.
    pub fn users(&self) -> Result<String, UsersFileError> {
        self.users.as_deref().map_or(Ok(String::new()), read_users)
    }

    /// Whether certificate and key can be used now, if there are any. Blocks.
    pub fn check_keys(&self) -> Result<(), TlsError> {
        self.keys.as_ref().map_or(Ok(()), |keys| keys.server().map(drop))
    }

    /// What those of TLS hold now, if there are any. Blocks.
    pub fn key_contents(&self) -> Result<Option<KeyContents>, TlsError> {
        self.keys.as_ref().map(KeyFiles::contents).transpose()
    }
}

impl Outside for Files {
    fn may_serve(&self) -> BoxFuture<'static, bool> {
        futures::future::ready(true).boxed()
    }

    fn users(&self) -> BoxFuture<'static, Result<String, String>> {
        let files = self.clone();
        blocking(move || files.users().map_err(|error| error.to_string()))
    }

    fn certificate(&self) -> BoxFuture<'static, Result<ServerConfig, String>> {
        let keys = self.keys.clone();
        blocking(move || {
            let keys = keys.ok_or("there is none")?;
            keys.server().map_err(|error| error.to_string())
        })
    }
}

fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> BoxFuture<'static, Result<T, String>> {
    let reading = tokio::task::spawn_blocking(read);
    async move { reading.await.unwrap_or_else(|error| Err(error.to_string())) }.boxed()
}
