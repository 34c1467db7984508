//! Who this supervisor is: an id made once and kept in the state directory, because pools name
//! their owner by it, and a supervisor that forgot it couldn't open its own pools after a reboot.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use block::OwnerId;
use uuid::Uuid;

const FILE: &str = "owner-id";

/// A supervisor's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The owner that pools name.
    pub owner: OwnerId,
    /// The machine's name, for people.
    pub host: String,
}

impl Identity {
    /// Where it is kept: it is there once a supervisor has run.
    pub fn file(state_dir: &Path) -> PathBuf {
        state_dir.join(FILE)
    }

    /// Reads the identity, or makes it at the first start.
    pub fn load_or_create(state_dir: &Path) -> anyhow::Result<Identity> {
        std::fs::create_dir_all(state_dir).with_context(|| {
            format!("the state directory {} can't be made", state_dir.display())
        })?;
        let file = Identity::file(state_dir);
        let owner = match std::fs::read_to_string(&file) {
            Ok(text) => parse(&text).with_context(|| {
                format!(
                    "{} does not hold an owner id; put the id back that `pool show` of a pool of \
                     this supervisor names, or put the file aside and import its pools anew",
                    file.display()
                )
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(state_dir, &file)?,
            Err(error) => {
                return Err(error).with_context(|| format!("{} can't be read", file.display()));
            }
        };
        Ok(Identity { owner, host: os::process::hostname() })
    }
}

fn parse(text: &str) -> anyhow::Result<OwnerId> {
    let id: Uuid = text.trim().parse().context("not a UUID")?;
    if id.is_nil() {
        bail!("the nil UUID is nobody");
    }
    Ok(OwnerId(id))
}

/// Durable before it is used: a pool must never name an owner that a power cut made forgotten.
fn create(state_dir: &Path, file: &Path) -> anyhow::Result<OwnerId> {
    let id = uuid::Builder::from_random_bytes(os::random_bytes()?).into_uuid();
    let mut temporary = tempfile::NamedTempFile::new_in(state_dir)
        .with_context(|| format!("{} can't be written", state_dir.display()))?;
    writeln!(temporary, "{id}")?;
    temporary.as_file().sync_all()?;
    match temporary.persist_noclobber(file) {
        Ok(_) => {}
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {
            return parse(&std::fs::read_to_string(file)?);
        }
        Err(error) => {
            return Err(error.error)
                .with_context(|| format!("{} can't be written", file.display()));
        }
    }
    std::fs::File::open(state_dir)?.sync_all()?;
    Ok(OwnerId(id))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn made_once_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("deep/state");
        let first = Identity::load_or_create(&state).unwrap();
        assert_eq!(Identity::load_or_create(&state).unwrap(), first);
        assert_ne!(first.owner, OwnerId::NONE);
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_identity_is_refused_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        for text in ["", "garbage", "00000000-0000-0000-0000-000000000000"] {
            std::fs::write(directory.path().join(FILE), text).unwrap();
            let error = Identity::load_or_create(directory.path()).unwrap_err();
            assert!(error.to_string().contains("owner id"), "{error:#}");
            assert_eq!(std::fs::read_to_string(directory.path().join(FILE)).unwrap(), text);
        }
    }
}
