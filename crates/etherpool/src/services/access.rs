//! Who may do what by the API's socket: root everything, the group of readers look. The kernel says who is connected.

use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::http::Method;
use axum::serve::IncomingStream;
use control::api::{ApiError, ErrorCode};
use tokio::net::UnixListener;

/// Who is connected, by the kernel's word.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    uid: Option<u32>,
    /// As whom somebody logged in who is another by now (`sudo`).
    login: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Peer {
        let credentials = stream.io().peer_cred().ok();
        let login = credentials.and_then(|peer| peer.pid()).and_then(login_uid);
        Peer { uid: credentials.map(|peer| peer.uid()), login }
    }
}

impl Peer {
    /// Who asks.
    pub fn of(request: &Request) -> Peer {
        let known = request.extensions().get::<ConnectInfo<Peer>>();
        known.map_or(Peer { uid: None, login: None }, |ConnectInfo(peer)| *peer)
    }

    /// Why a request of theirs isn't answered, if it isn't. Whoever could connect may look.
    pub fn refused(self, method: &Method) -> Option<ApiError> {
        let administers =
            self.uid.is_some_and(|uid| uid == 0 || uid == rustix::process::geteuid().as_raw());
        if administers || method == Method::GET {
            return None;
        }
        let why = format!("{} may look at everything here, and change nothing", self.name());
        Some(ApiError::new(ErrorCode::Refused, why).remedy("ask as root (sudo)"))
    }

    /// For people.
    pub fn name(self) -> String {
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let Some(uid) = self.uid else { return "somebody".to_owned() };
        match self.login.filter(|login| *login != uid) {
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
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
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

/// A user's name by the local users file alone: who asks a directory service may wait for it.
fn user_name(users: &str, uid: u32) -> String {
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| format!("uid {uid}"))
}

/// A group's number by the local file alone.
fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_names_where_the_file_says() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\njoe:x:1000:1000::/home/joe:/bin/sh\n";
        assert_eq!(user_name(users, 0), "root");
        assert_eq!(user_name(users, 1000), "joe");
        assert_eq!(user_name(users, 7), "uid 7");
        let groups = "root:x:0:\nbroken\netherpool:x:990:joe,ann\n";
        assert_eq!(group_id(groups, "etherpool"), Some(990));
        assert_eq!(group_id(groups, "nobody"), None);
        assert_eq!(group_id("etherpool:x:many:\n", "etherpool"), None);
    }

    #[test]
    fn who_isnt_root_looks_only() {
        let of = |uid| Peer { uid, login: None };
        for method in [Method::POST, Method::DELETE, Method::PUT, Method::PATCH] {
            assert!(of(Some(0)).refused(&method).is_none());
            for uid in [Some(65_534), None] {
                let refusal = of(uid).refused(&method);
                assert!(refusal.is_some_and(|error| error.code == ErrorCode::Refused));
            }
        }
        assert!(of(Some(65_534)).refused(&Method::GET).is_none());
    }
}
