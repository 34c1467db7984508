//! By what pools know a boot server, and which states of its copies are its own: a directory that was brought back from a
//! backup, or copied and changed apart, has the id of the one that wrote to a pool, and mustn't overwrite what it never had.
//!
//! It lies beside the machines: who takes those away takes this away, too.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use anyhow::Context as _;
use os::process::ProcessLock;
use pool::KeeperId;
use serde::{Deserialize, Serialize};

use super::state::State;

/// The file, beside those of machines.
pub(super) const FILE: &str = ".copies.json";
const VERSION: u32 = 1;
/// States that are remembered, the last ones. A pool that was away for longer is told of as one that has something unknown.
const MARKS_MAX: usize = 1024;
/// More than the file has.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The id, and the states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    version: u32,
    /// The boot server's.
    pub id: KeeperId,
    /// The oldest first.
    marks: Vec<u64>,
}

impl Lineage {
    /// That of a directory; none where nothing of it was ever copied. Blocks.
    pub fn of(state: &State) -> anyhow::Result<Option<Lineage>> {
        let read = || -> anyhow::Result<Option<Lineage>> {
            let Some(bytes) = state.machines.read(FILE, FILE_BYTES_MAX)? else { return Ok(None) };
            let lineage: Lineage = serde_json::from_slice(&bytes)?;
            if lineage.version != VERSION {
                anyhow::bail!("version {} isn't known to this etherpool", lineage.version);
            }
            Ok(Some(lineage))
        };
        read().with_context(|| {
            let path = state.machines.path_of(FILE);
            format!("{}: take it away, and it is another boot server to pools", path.display())
        })
    }

    /// With a further state: a new one, or one that was found in a pool and is all here. Blocks.
    pub fn with(state: &State, mark: Option<u64>) -> anyhow::Result<(Lineage, u64)> {
        let _lock = ProcessLock::acquire(state.root.path(), "copies")
            .context("another process changes it at the moment")?;
        let mut lineage = match Lineage::of(state)? {
            Some(lineage) => lineage,
            None => {
                let id = KeeperId(os::random_u64()?);
                Lineage { version: VERSION, id, marks: Vec::new() }
            }
        };
        let mark = mark.map_or_else(os::random_u64, Ok)?;
        lineage.marks.retain(|known| *known != mark);
        lineage.marks.push(mark);
        let many = lineage.marks.len().saturating_sub(MARKS_MAX);
        lineage.marks.drain(..many);
        let text = serde_json::to_vec(&lineage)?;
        state.machines.replace(OsStr::new(FILE), &text).with_context(|| {
            format!("{} can't be written", state.machines.path_of(FILE).display())
        })?;
        Ok((lineage, mark))
    }

    /// All states.
    pub fn marks(&self) -> BTreeSet<u64> {
        self.marks.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn states_are_remembered_with_the_id_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        assert_eq!(Lineage::of(&state).unwrap(), None);
        let (first, mark) = Lineage::with(&state, None).unwrap();
        assert_eq!(first.marks(), BTreeSet::from([mark]));
        let many = Lineage { marks: (0..MARKS_MAX as u64).collect(), ..first.clone() };
        let text = serde_json::to_vec(&many).unwrap();
        state.machines.replace(OsStr::new(FILE), &text).unwrap();
        let (last, new) = Lineage::with(&state, None).unwrap();
        assert_eq!((last.id, last.marks().len()), (first.id, MARKS_MAX));
        assert!(!last.marks().contains(&0) && last.marks().contains(&1));
        // One that is known already is only the last one again.
        Lineage::with(&state, Some(1)).unwrap();
        let last = Lineage::of(&state).unwrap().unwrap();
        assert_eq!(
            (last.marks[MARKS_MAX - 2..].to_vec(), last.marks.len()),
            (vec![new, 1], MARKS_MAX)
        );
        let most = Lineage { marks: vec![u64::MAX; MARKS_MAX], ..last };
        assert!((serde_json::to_vec(&most).unwrap().len() as u64) < FILE_BYTES_MAX);
        for text in ["", "{}", r#"{"version":2,"id":"0000000000000001","marks":[]}"#] {
            std::fs::write(dir.path().join("machines").join(FILE), text).unwrap();
            assert!(Lineage::of(&state).is_err() && Lineage::with(&state, None).is_err());
        }
    }
}
