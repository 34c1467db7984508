//! Who asks by the API, and which role that has. By the socket the kernel says who is connected: root administers, the group
//! of readers look. By TLS the client's certificate does, and the configuration its role.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::serve::{IncomingStream, Listener};
use control::api::{ApiError, ErrorCode, Role};
use frontend::places::{Place, Places};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

use crate::local_users::{GROUPS, USERS, group_id, user_name};

/// Who is connected.
#[derive(Clone, Debug)]
pub enum Peer {
    /// By the socket.
    Local {
        /// By the kernel's word.
        uid: Option<u32>,
        /// As whom somebody logged in who is another by now (`sudo`).
        login: Option<u32>,
    },
    /// By TLS.
    Client {
        /// As the configuration calls it.
        name: String,
        /// What it may.
        role: Role,
        /// From where.
        address: IpAddr,
    },
}

/// Connections of a user who may only look: nobody keeps root out by having all of them.
const OF_A_READER_MAX: usize = 32;
/// Before the next accept when the last one failed (no descriptors).
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The socket, with so many connections for each user.
pub struct LocalListener {
    socket: UnixListener,
    readers: Arc<Places<u32>>,
}

impl LocalListener {
    /// Of this socket.
    pub fn new(socket: UnixListener) -> LocalListener {
        LocalListener { socket, readers: Places::new(OF_A_READER_MAX) }
    }

    /// A place for a connection, if its user may have one more.
    fn admit(&self, stream: UnixStream) -> Option<LocalStream> {
        let place = self.place_of(stream.peer_cred().ok()?.uid())?;
        Some(LocalStream { stream, _place: place })
    }

    fn place_of(&self, uid: u32) -> Option<Option<Place<u32>>> {
        if is_administrator(uid) {
            return Some(None);
        }
        self.readers.admit(uid).map(Some)
    }
}

impl Listener for LocalListener {
    type Io = LocalStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (LocalStream, SocketAddr) {
        loop {
            match self.socket.accept().await {
                Ok((stream, address)) => {
                    if let Some(stream) = self.admit(stream) {
                        return (stream, address);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the API's socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// A connection by the socket.
pub struct LocalStream {
    stream: UnixStream,
    _place: Option<Place<u32>>,
}

impl AsyncRead for LocalStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for LocalStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

fn is_administrator(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

impl Connected<IncomingStream<'_, LocalListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, LocalListener>) -> Peer {
        let credentials = stream.io().stream.peer_cred().ok();
        let login = credentials.and_then(|peer| peer.pid()).and_then(login_uid);
        Peer::Local { uid: credentials.map(|peer| peer.uid()), login }
    }
}

impl Peer {
    /// Who asks.
    pub fn of(request: &Request) -> Peer {
        let known = request.extensions().get::<ConnectInfo<Peer>>();
        known.map_or(Peer::Local { uid: None, login: None }, |ConnectInfo(peer)| peer.clone())
    }

    /// What they may. Whoever could connect to the socket may look.
    fn role(&self) -> Role {
        match self {
            Peer::Client { role, .. } => *role,
            Peer::Local { uid: Some(uid), .. } if is_administrator(*uid) => Role::Administer,
            Peer::Local { .. } => Role::Read,
        }
    }

    /// Whether it is somebody from elsewhere.
    pub fn is_remote(&self) -> bool {
        matches!(self, Peer::Client { .. })
    }

    /// Refuses what takes a role that they don't have.
    pub fn may(&self, needed: Role) -> Result<(), ApiError> {
        let role = self.role();
        let is_known = !matches!(self, Peer::Local { uid: None, .. });
        if is_known && role >= needed {
            return Ok(());
        }
        Err(match self {
            Peer::Local { .. } => {
                let who = self.name();
                let why = format!("{who} may look at everything here, and change nothing");
                ApiError::new(ErrorCode::Refused, why).remedy("ask as root (sudo)")
            }
            Peer::Client { name, .. } => {
                let why = format!("{name} has the role {role} here, and this takes {needed}");
                ApiError::new(ErrorCode::Refused, why).remedy(
                    "ask by a certificate that has it; roles are in [[api.clients]] of supervisor.toml",
                )
            }
        })
    }

    /// For people.
    pub fn name(&self) -> String {
        let (uid, login) = match self {
            Peer::Client { name, role, address } => {
                return format!("{name} ({role}), from {address}");
            }
            Peer::Local { uid: None, .. } => return "somebody".to_owned(),
            Peer::Local { uid: Some(uid), login } => (*uid, *login),
        };
        let users = std::fs::read_to_string(USERS).unwrap_or_default();
        match login.filter(|login| *login != uid) {
            None => user_name(&users, uid),
            Some(login) => {
                format!("{}, logged in as {}", user_name(&users, uid), user_name(&users, login))
            }
        }
    }
}

/// Lets root and this group connect; root alone where there is no such group.
pub fn let_in(socket: &Path, readers: &str) -> io::Result<()> {
    let set = |mode| std::fs::set_permissions(socket, std::fs::Permissions::from_mode(mode));
    set(0o600)?;
    if readers.is_empty() {
        return Ok(());
    }
    let groups = std::fs::read_to_string(GROUPS).unwrap_or_default();
    let Some(gid) = group_id(&groups, readers) else {
        tracing::debug!("there is no group {readers} in /etc/group: only root may look");
        return Ok(());
    };
    chown(socket, None, Some(gid))?;
    set(0o660)
}

/// The login that a process comes from, if it comes from one.
fn login_uid(pid: i32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
    text.trim().parse().ok().filter(|uid| *uid != u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn who_looks_keeps_nobody_out() {
        let dir = tempfile::tempdir().unwrap();
        let listener = LocalListener::new(UnixListener::bind(dir.path().join("s")).unwrap());
        let reader = || listener.place_of(65_534);
        let places: Vec<_> = (0..OF_A_READER_MAX).map(|_| reader().unwrap()).collect();
        assert!(reader().is_none());
        assert!(listener.place_of(65_533).is_some());
        let root: Vec<_> = (0..=OF_A_READER_MAX).map(|_| listener.place_of(0)).collect();
        assert!(root.iter().all(|place| place.as_ref().is_some_and(Option::is_none)));
        drop(places);
        assert!(reader().is_some());
    }

    #[test]
    fn who_isnt_root_looks_only() {
        let of = |uid| Peer::Local { uid, login: None };
        for needed in [Role::Operate, Role::Administer] {
            assert_eq!(of(Some(0)).may(needed), Ok(()));
            for uid in [Some(65_534), None] {
                let refusal = of(uid).may(needed);
                assert!(refusal.is_err_and(|error| error.code == ErrorCode::Refused));
            }
        }
        assert_eq!(of(Some(65_534)).may(Role::Read), Ok(()));
    }

    #[test]
    fn a_client_may_what_its_role_says_whatever_its_name_is() {
        let of = |role| Peer::Client { name: "root".into(), role, address: [192, 0, 2, 1].into() };
        for role in Role::ALL {
            for needed in Role::ALL {
                assert_eq!(of(role).may(needed).is_ok(), role >= needed, "{role}, {needed}");
            }
        }
        assert_eq!(of(Role::Operate).name(), "root (operate), from 192.0.2.1");
        let refusal = of(Role::Read).may(Role::Administer).err().map(|error| error.message);
        assert_eq!(
            refusal.as_deref(),
            Some("root has the role read here, and this takes administer")
        );
    }
}
