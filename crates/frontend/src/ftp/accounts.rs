//! Who may log in. Users stand in a file, one per line:
//!
//! ```text
//! # name:argon2-hash[:home][:uid=N:gid=N[:groups=N,N]]
//! alice:$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$...:projects/alice:uid=1000:gid=100
//! ```
//!
//! The hash is what [`hash_password`] gives; home is a directory of the volume that the user can't
//! leave, all of it by default. Files are used as the user and groups of these numbers, by default as those to whom
//! the volume's root directory belongs. These users may write. `anonymous` and `ftp` need no password and
//! only read, as nobody. The file is asked for at each login, so changes count at once.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Argon2, password_hash};
use os::FileUser;
use tokio::sync::Semaphore;

use super::outside::Outside;
use crate::places::network_of;

/// A file longer than this is no list of users.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// A password longer than this isn't hashed.
const PASSWORD_BYTES_MAX: usize = 1024;
/// Wrong passwords that an address may try within [`FAILURE_WINDOW`].
const FAILURES_MAX: usize = 10;
const FAILURE_WINDOW: Duration = Duration::from_secs(600);
/// Addresses that are remembered for their failures.
const FAILURE_ADDRESSES_MAX: usize = 4096;

/// Why the file of users is of no use.
#[derive(Debug, thiserror::Error)]
pub enum UsersFileError {
    /// It can't be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line isn't as above.
    #[error(
        "{path}, line {line}: expected name:argon2-hash[:home][:uid=N:gid=N[:groups=N,N]] with a relative home"
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
    },
    /// The password can't be hashed.
    #[error("the password can't be hashed: {0}")]
    Hash(password_hash::Error),
}

/// The hash of `password` for the file of users.
pub fn hash_password(password: &str) -> Result<String, UsersFileError> {
    let mut salt = [0; 16];
    let random = Path::new("/dev/urandom");
    std::fs::File::open(random)
        .and_then(|mut file| file.read_exact(&mut salt))
        .map_err(|source| UsersFileError::Unreadable { path: random.to_owned(), source })?;
    let salt = SaltString::encode_b64(&salt).map_err(UsersFileError::Hash)?;
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt);
    Ok(hash.map_err(UsersFileError::Hash)?.to_string())
}

/// Somebody who has logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FtpUser {
    pub(super) name: String,
    pub(super) may_write: bool,
    /// Relative to the volume's root; empty for all of it.
    pub(super) home: PathBuf,
    /// As whom files are used; else as the owner of the volume's root.
    pub(super) files: Option<FileUser>,
}

impl FtpUser {
    /// By which the user logs in.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Relative to the volume's root; empty for all of it.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// As whom files are used; else as the owner of the volume's root.
    pub fn files(&self) -> Option<&FileUser> {
        self.files.as_ref()
    }

    pub(super) fn is_anonymous(&self) -> bool {
        is_anonymous(&self.name)
    }
}

/// Whether that is nobody in particular.
pub(super) fn is_anonymous(name: &str) -> bool {
    name == "anonymous" || name == "ftp"
}

impl fmt::Display for FtpUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Why somebody isn't let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoginRefused {
    /// There is none of that name, or it is another password.
    Wrong,
    /// Too many wrong passwords came from there; for so long no other one is looked at.
    Locked(Duration),
}

/// The users, shared by all sessions.
pub(super) struct Accounts {
    outside: Arc<dyn Outside>,
    anonymous: bool,
    /// One hash at a time: each takes 19 MiB and much of a core.
    hashing: Semaphore,
    /// When an address gave wrong passwords; what it logs in with besides doesn't excuse them.
    failures: Mutex<BTreeMap<IpAddr, Vec<Instant>>>,
}

struct Entry {
    user: FtpUser,
    hash: String,
}

impl Accounts {
    pub(super) fn new(outside: Arc<dyn Outside>, anonymous: bool) -> Accounts {
        let failures = Mutex::default();
        Accounts { outside, anonymous, hashing: Semaphore::new(1), failures }
    }

    /// The user of that name, as the file has it now.
    async fn find(&self, name: &str) -> Option<Entry> {
        let text = self.outside.users().await;
        let entries = text.and_then(|text| {
            parse(&text).map_err(|line| format!("line {line} of the users-file can't be read"))
        });
        match entries {
            Ok(entries) => entries.into_iter().find(|entry| entry.user.name == name),
            Err(error) => {
                tracing::error!(parent: None, error, "nobody can log in to FTP");
                None
            }
        }
    }

    fn anonymous(&self, name: &str) -> Option<FtpUser> {
        let is = self.anonymous && is_anonymous(name);
        is.then(|| FtpUser {
            name: name.to_owned(),
            may_write: false,
            home: PathBuf::new(),
            files: Some(FileUser::NOBODY),
        })
    }

    /// The user, if the password is theirs.
    pub(super) async fn log_in(
        self: &Arc<Self>,
        name: &str,
        password: &[u8],
        peer: IpAddr,
    ) -> Result<FtpUser, LoginRefused> {
        if let Some(user) = self.anonymous(name) {
            return Ok(user);
        }
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(LoginRefused::Wrong);
        }
        let _permit = self.hashing.acquire().await.map_err(|_| LoginRefused::Wrong)?;
        // Those who waited in front of this one count.
        if let Some(left) = self.locked_for(peer) {
            return Err(LoginRefused::Locked(left));
        }
        let entry = self.find(name).await;
        let password = password.to_owned();
        let verified = tokio::task::spawn_blocking(move || {
            // An unknown name takes as long as a wrong password.
            let hash = entry.as_ref().map_or(UNKNOWN_USERS_HASH, |entry| entry.hash.as_str());
            let matches = PasswordHash::new(hash)
                .is_ok_and(|hash| Argon2::default().verify_password(&password, &hash).is_ok());
            entry.filter(|_| matches).map(|entry| entry.user)
        });
        let user = verified.await.ok().flatten();
        if user.is_none() {
            self.count_failure(peer);
        }
        user.ok_or(LoginRefused::Wrong)
    }

    /// For how long nobody is let in from there, if so: until one of the failures that count is too old to.
    fn locked_for(&self, peer: IpAddr) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        // In the order in which they happened.
        let times = failures.get(&network_of(peer))?;
        let deciding = times.len().checked_sub(FAILURES_MAX).map(|at| times[at])?;
        FAILURE_WINDOW.checked_sub(deciding.elapsed()).filter(|left| !left.is_zero())
    }

    fn count_failure(&self, peer: IpAddr) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, times| {
            times.retain(is_recent);
            !times.is_empty()
        });
        let network = network_of(peer);
        if failures.len() >= FAILURE_ADDRESSES_MAX && !failures.contains_key(&network) {
            failures.pop_first();
        }
        failures.entry(network).or_default().push(Instant::now());
    }
}

fn is_recent(time: &Instant) -> bool {
    time.elapsed() < FAILURE_WINDOW
}

/// The hash of a random password that nobody knows.
const UNKNOWN_USERS_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$b2Zub2JvZHlhdGFsbA$\
                                  3yrYzEo4aLBOcWxWzn2YLkyyOxUQPFy1Q2pmVPbqHwA";

/// The contents of a file of users, if all of its lines can be read. Blocks.
pub(super) fn read_users(path: &Path) -> Result<String, UsersFileError> {
    let text = read(path)
        .map_err(|source| UsersFileError::Unreadable { path: path.to_owned(), source })?;
    parse(&text).map_err(|line| UsersFileError::Line { path: path.to_owned(), line })?;
    Ok(text)
}

/// The users in a file. Blocks.
pub fn list_users(path: &Path) -> Result<Vec<FtpUser>, UsersFileError> {
    let entries = parse(&read_users(path)?).unwrap_or_default();
    Ok(entries.into_iter().map(|entry| entry.user).collect())
}

/// Whether a line can stand in a file of users.
pub fn is_users_line(line: &str) -> bool {
    parse_line(line).is_some()
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The users, or the first line that is none, counted from one.
fn parse(text: &str) -> Result<Vec<Entry>, usize> {
    let lines = text.lines().map(str::trim).enumerate();
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(index, line)| parse_line(line).ok_or(index + 1))
        .collect()
}

fn parse_line(line: &str) -> Option<Entry> {
    let mut fields = line.splitn(3, ':');
    let (name, hash) = (fields.next()?, fields.next()?);
    let (home, files) = parse_files(fields.next().unwrap_or_default())?;
    let named = !name.is_empty() && !is_anonymous(name);
    let plain =
        |part| matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir);
    if !named || !home.components().all(plain) || PasswordHash::new(hash).is_err() {
        return None;
    }
    let user = FtpUser { name: name.to_owned(), may_write: true, home, files };
    Some(Entry { user, hash: hash.to_owned() })
}

/// What is behind the hash: the home, in which there may be colons, and the numbers.
fn parse_files(mut rest: &str) -> Option<(PathBuf, Option<FileUser>)> {
    let mut numbers = [None; 3];
    loop {
        let (before, last) = rest.rsplit_once(':').unwrap_or(("", rest));
        let words = ["uid=", "gid=", "groups="];
        let found = words
            .iter()
            .zip(&mut numbers)
            .find_map(|(word, slot)| last.strip_prefix(word).map(|value| (value, slot)));
        let Some((value, slot)) = found else { break };
        if slot.replace(value).is_some() {
            return None;
        }
        rest = before;
    }
    let files = match numbers {
        [None, None, None] => None,
        // One without the other would be somebody whom nobody meant.
        [Some(uid), Some(gid), groups] => {
            let groups = groups.into_iter().flat_map(|groups| groups.split(','));
            let groups = groups.map(|group| group.parse().ok()).collect::<Option<Vec<u32>>>()?;
            let files = FileUser { uid: uid.parse().ok()?, gid: gid.parse().ok()?, groups };
            Some(files).filter(FileUser::is_valid).map(Some)?
        }
        _ => return None,
    };
    Some((rest.into(), files))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::outside::Files;
    use super::*;

    fn accounts(file: &Path) -> Arc<Accounts> {
        let files = Files::new(Some(file.to_owned()), None);
        Arc::new(Accounts::new(Arc::new(files), true))
    }

    #[tokio::test]
    async fn passwords_decide() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let hash = hash_password("secret").unwrap();
        std::fs::write(file.path(), format!("# users\n\nalice:{hash}:in/here\n")).unwrap();
        let accounts = accounts(file.path());
        let peer = IpAddr::from([192, 0, 2, 1]);
        assert!(accounts.log_in("alice", b"secret", peer).await.is_ok());
        assert!(accounts.log_in("alice", b"Secret", peer).await.is_err());
        assert!(accounts.log_in("bob", b"secret", peer).await.is_err());
        assert!(accounts.log_in("anonymous", b"whatever", peer).await.is_ok());
        let user = accounts.find("alice").await.unwrap().user;
        assert_eq!((user.home, user.may_write), (PathBuf::from("in/here"), true));
        assert!(!accounts.anonymous("ftp").unwrap().may_write);
    }

    /// Who had an account could try the passwords of others without limit: each login of their own
    /// began the count anew, and tries that came at once were all let in before the first was counted.
    #[tokio::test]
    async fn failures_lock_an_address_whatever_else_it_does() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let cheap = argon2::Params::new(8, 1, 1, None).unwrap();
        let salt = SaltString::encode_b64(&[7; 16]).unwrap();
        let cheap = Argon2::new(Default::default(), Default::default(), cheap);
        let hash = cheap.hash_password(b"secret", &salt).unwrap();
        std::fs::write(file.path(), format!("alice:{hash}\n")).unwrap();
        let accounts = accounts(file.path());
        let peer = IpAddr::from([192, 0, 2, 1]);
        for _ in 1..FAILURES_MAX {
            assert!(accounts.log_in("alice", b"wrong", peer).await.is_err());
            assert!(accounts.log_in("alice", b"secret", peer).await.is_ok());
        }
        assert_eq!(accounts.log_in("alice", b"wrong", peer).await, Err(LoginRefused::Wrong));
        let locked = accounts.log_in("alice", b"secret", peer).await;
        let Err(LoginRefused::Locked(left)) = locked else { panic!("{locked:?}") };
        assert!(left <= FAILURE_WINDOW && left > FAILURE_WINDOW / 2, "{left:?}");

        let other = IpAddr::from([192, 0, 2, 2]);
        assert!(accounts.log_in("alice", b"secret", other).await.is_ok());
        let mut tries: Vec<&[u8]> = vec![b"wrong"; FAILURES_MAX];
        tries.push(b"secret");
        let at_once = tries.into_iter().map(|password| accounts.log_in("alice", password, other));
        assert!(futures::future::join_all(at_once).await.iter().all(Result::is_err));
    }

    #[test]
    fn lines_that_say_something_else_are_named() {
        assert!(PasswordHash::new(UNKNOWN_USERS_HASH).is_ok());
        let hash = UNKNOWN_USERS_HASH;
        for bad in [
            "alice",
            "alice:plain",
            ":hash",
            &format!("ftp:{hash}"),
            &format!("a:{hash}:../x"),
            &format!("a:{hash}:/x"),
            &format!("a:{hash}:uid=1"),
            &format!("a:{hash}:gid=1"),
            &format!("a:{hash}:x:groups=1"),
            &format!("a:{hash}:x:uid=1:uid=1:gid=1"),
            &format!("a:{hash}:x:uid=:gid=1"),
            &format!("a:{hash}:x:uid=-1:gid=1"),
            &format!("a:{hash}:x:uid=joe:gid=1"),
            &format!("a:{hash}:x:uid=1:gid=1:groups=2,"),
            // No user has this number, and the kernel takes it for a question.
            &format!("a:{hash}:x:uid=4294967295:gid=1"),
        ] {
            assert!(parse_line(bad).is_none(), "{bad}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("a:{hash}\nb:{hash}:x/../..\n")).unwrap();
        assert!(matches!(read_users(file.path()), Err(UsersFileError::Line { line: 2, .. })));
    }

    #[test]
    fn a_line_says_as_whom_files_are_used() {
        let of = |rest: &str| {
            let user = parse_line(&format!("a:{UNKNOWN_USERS_HASH}{rest}")).unwrap().user;
            (user.home.display().to_string(), user.files)
        };
        let files = |uid, gid, groups: &[u32]| Some(FileUser { uid, gid, groups: groups.into() });
        assert_eq!(of(""), (String::new(), None));
        assert_eq!(of(":a:b"), ("a:b".into(), None), "a home may have a colon");
        assert_eq!(of(":uid=7:gid=8"), (String::new(), files(7, 8, &[])));
        assert_eq!(of("::gid=8:uid=7"), (String::new(), files(7, 8, &[])));
        assert_eq!(of(":a:b:uid=0:gid=0:groups=4,5"), ("a:b".into(), files(0, 0, &[4, 5])));
    }

    /// Its end was ignored, and where the cut was a user could lose the home that they can't leave.
    #[tokio::test]
    async fn a_file_that_is_too_long_is_refused_and_not_cut() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let accounts = accounts(file.path());
        let user = format!("\na:{UNKNOWN_USERS_HASH}");
        let comment = "#".repeat(FILE_BYTES_MAX as usize - user.len());
        std::fs::write(file.path(), format!("{comment}{user}:home\n")).unwrap();
        assert!(matches!(read_users(file.path()), Err(UsersFileError::Unreadable { .. })));
        assert!(accounts.find("a").await.is_none());
        std::fs::write(file.path(), format!("{comment}{user}")).unwrap();
        assert!(accounts.find("a").await.is_some());
    }
}
