//! Who asks by the API, and which role that has. By the socket the kernel says who is connected: root administers, the group
//! of readers look. By TLS the client's certificate does, and the configuration its role.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::serve::IncomingStream;
use control::api::{ApiError, ErrorCode, Role};
use tokio::net::UnixListener;

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

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Peer {
        let credentials = stream.io().peer_cred().ok();
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
        let own = rustix::process::geteuid().as_raw();
        match self {
            Peer::Client { role, .. } => *role,
            Peer::Local { uid: Some(uid), .. } if *uid == 0 || *uid == own => Role::Administer,
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
    use super::*;

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
