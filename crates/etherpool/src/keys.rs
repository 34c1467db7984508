//! The machine's key: a file in the state directory that only root reads, made when it is first needed. Node and
//! supervisor of one machine have one, as they have one machine identity.

use std::ffi::OsStr;
use std::io;
use std::rc::Rc;

use anyhow::{Context as _, bail};
use control::config::SupervisorConfig;
use os::dir::Directory;
use seal::{Claim, Identity, KeyPair, Members, PublicKey, SecretKey, Security};
use zeroize::Zeroizing;

/// Its name in the state directory.
pub const FILE: &str = "identity.key";
/// Longer than the file ever is.
const FILE_BYTES_MAX: u64 = 256;

/// What a configuration says of those at the other end of sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    /// The least that is demanded.
    pub least: Security,
    /// Whose keys are taken; everybody's without a list.
    pub peers: Option<Vec<PublicKey>>,
    /// Who may have disks that obey nobody.
    pub claim: Claim,
}

impl Demands {
    /// Whether nobody is spoken with who has no key.
    pub fn demand_keys(&self) -> bool {
        self.least != Security::None
    }
}

/// What a supervisor demands of those who open sessions with it: of its votes, and of the volumes that it exports. Where
/// it demands anything and names nobody it is nobody: its own engine isn't asked.
pub fn clients(supervisor: &SupervisorConfig) -> Demands {
    let least = supervisor.security;
    let nobody = (least != Security::None).then(Vec::new);
    Demands { least, peers: supervisor.supervisors.clone().or(nobody), claim: Claim::Anyone }
}

/// The key of the machine with this state directory; made if there is none. Blocks.
///
/// # Errors
/// When it can't be read or kept, or the file holds something else: another key would make a stranger of the machine.
pub fn load_or_make(state_dir: &Directory) -> anyhow::Result<KeyPair> {
    let path = state_dir.path_of(FILE);
    let Some(pair) = load(state_dir)? else {
        let pair = fresh()?;
        let text = Zeroizing::new(format!("{}\n", *pair.secret().to_text()));
        return match state_dir.create_private(OsStr::new(FILE), text.as_bytes()) {
            Ok(()) => Ok(pair),
            // Another process of this machine was first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => load(state_dir)?
                .with_context(|| format!("{} leads nowhere; take it away", path.display())),
            Err(error) => Err(error)
                .with_context(|| format!("cannot keep the machine's key in {}", path.display())),
        };
    };
    Ok(pair)
}

fn load(state_dir: &Directory) -> anyhow::Result<Option<KeyPair>> {
    let path = state_dir.path_of(FILE);
    let read = state_dir.read(FILE, FILE_BYTES_MAX);
    let read = read.with_context(|| format!("cannot read the machine's key {}", path.display()))?;
    let Some(bytes) = read.map(Zeroizing::new) else { return Ok(None) };
    let text = std::str::from_utf8(&bytes).ok();
    match text.and_then(|text| SecretKey::parse(text).ok()).map(KeyPair::of) {
        Some(Ok(pair)) => Ok(Some(pair)),
        _ => bail!(
            "{} holds no key; bring it back from a copy, or take it away, and the machine gets another key by which nobody knows it",
            path.display()
        ),
    }
}

/// Who this machine is in sessions; without a state directory somebody else at each start. Blocks.
pub fn identity(
    state_dir: Option<&Directory>,
    demands: &Demands,
    members: Option<Rc<dyn Members>>,
) -> anyhow::Result<Rc<Identity>> {
    let kept = state_dir.map(load_or_make).transpose();
    let keys = match kept {
        Ok(Some(keys)) => keys,
        Ok(None) => fresh()?,
        // Nobody asks for it: a state directory that can't be written stops no target.
        Err(error) if demands.least == Security::None => {
            tracing::warn!("this machine has no key that lasts: {error:#}");
            fresh()?
        }
        Err(error) => return Err(error),
    };
    Ok(with_demands(keys, demands, members))
}

/// Who has these keys and demands that; where nobody proves who he is there are no members.
pub fn with_demands(
    keys: KeyPair,
    demands: &Demands,
    members: Option<Rc<dyn Members>>,
) -> Rc<Identity> {
    let identity =
        Identity::new(keys, Box::new(fill)).with_least(demands.least).with_aes(has_aes());
    if demands.least != Security::None {
        let key = identity.public();
        tracing::info!(%key, security = %demands.least, "sessions are sealed");
        if members.is_none() && demands.peers.is_none() {
            tracing::warn!(
                "whose keys are taken isn't configured: nobody can listen, but whoever makes a key of his own can take part"
            );
        }
    }
    let identity = match &demands.peers {
        Some(peers) => identity.with_peers(peers.iter().copied()),
        None => identity,
    };
    let tells_own = demands.demand_keys() && demands.claim != Claim::Anyone;
    Rc::new(match members.filter(|_| tells_own) {
        Some(members) => identity.with_members(members),
        None => identity,
    })
}

/// Keys that nobody has had before.
pub fn fresh() -> anyhow::Result<KeyPair> {
    let bytes = os::random_bytes().context("random numbers")?;
    Ok(KeyPair::of(SecretKey::new(bytes))?)
}

fn fill(bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(32) {
        match os::random_bytes::<32>() {
            Ok(random) => chunk.copy_from_slice(&random[..chunk.len()]),
            Err(error) => {
                // A secret that could be foretold would be worse than none of this machine's disks.
                tracing::error!(%error, "the kernel has no random numbers: this process ends");
                crate::logging::finish();
                std::process::abort();
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_machine_keeps_its_key_and_shows_it_to_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = Directory::open(dir.path()).unwrap();
        let pair = load_or_make(&state_dir).unwrap();
        assert_eq!(load_or_make(&state_dir).unwrap().public(), pair.public());
        let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        let other = load_or_make(&Directory::open(other.path()).unwrap()).unwrap();
        assert_ne!(other.public(), pair.public());
    }

    #[test]
    fn what_isnt_a_key_is_neither_used_nor_replaced() {
        for contents in ["", "no key", "\u{ff}", &"A".repeat(300)] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(FILE), contents).unwrap();
            let error = load_or_make(&Directory::open(dir.path()).unwrap()).unwrap_err();
            assert!(error.to_string().contains("holds no key"), "{error:#}");
            assert_eq!(std::fs::read_to_string(dir.path().join(FILE)).unwrap(), contents);
        }
    }

    #[test]
    fn without_a_key_that_lasts_nothing_is_demanded() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "no key").unwrap();
        let state_dir = Directory::open(dir.path()).unwrap();
        assert!(identity(Some(&state_dir), &Demands::default(), None).is_ok());
        let demands = Demands { least: Security::Authenticate, ..Demands::default() };
        assert!(identity(Some(&state_dir), &demands, None).is_err());
    }

    #[test]
    fn who_is_named_is_taken_and_without_names_everybody() {
        let key = |number| KeyPair::of(SecretKey::new([number; 32])).unwrap().public();
        let all = identity(None, &Demands::default(), None).unwrap();
        assert!(all.admits(&key(1)) && all.least() == Security::None);
        let peers = Some(vec![key(1)]);
        let demands = Demands { least: Security::Encrypt, peers, claim: Claim::Anyone };
        let some = identity(None, &demands, None).unwrap();
        assert!(some.admits(&key(1)) && !some.admits(&key(2)));
        assert_ne!(some.draw(), some.draw());
    }
}
