//! What of a boot server's directory is copied into pools, so that it isn't lost with the machine: read by the supervisor's
//! services from the same files that commands write. The boot server itself hasn't to run, and knows no pools.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use control::boot::{BootConfig, CopiedFiles};
use os::dir::Directory;
use pool::KeeperId;

use super::kept::read_needed;
use super::known::{Mark, is_settled, to_mark};
use super::lineage::{self, Lineage};
use super::slots::{self, AllSlots};
use super::state::{DEFAULT_FILE, State};

/// What there is to be copied.
#[derive(Debug, PartialEq, Eq)]
pub struct ToCopy {
    /// Of which boot server.
    pub id: KeeperId,
    /// What it calls this state of it.
    pub mark: u64,
    /// All of its states that are known to be its own.
    pub known: BTreeSet<u64>,
    /// That.
    pub files: CopiedFiles,
    /// Nothing else is known of machines: what isn't in it is gone. A file that can't be read may be any machine's.
    pub are_all: bool,
}

/// Where the boot server of a supervisor has its directory, which is read again where it has changed.
pub struct Looker {
    /// Its configuration; none where the supervisor has no boot server of its own.
    configuration: Option<PathBuf>,
    /// Where it is else.
    usual: PathBuf,
    seen: Option<Seen>,
}

/// The directory as it was.
struct Seen {
    path: PathBuf,
    marks: BTreeMap<OsString, Mark>,
    found: Option<Arc<ToCopy>>,
}

impl Looker {
    /// Of a supervisor with this state directory, and that file for a boot server.
    pub fn new(state_dir: &Path, configuration: Option<PathBuf>) -> Looker {
        Looker { configuration, usual: state_dir.join("boot"), seen: None }
    }

    /// What there is now; none where no machine is known. **Nothing is no wish**: a directory that is empty, or new, takes
    /// nothing away that pools have. Blocks.
    pub fn look(&mut self) -> anyhow::Result<Option<Arc<ToCopy>>> {
        let path = self.path()?;
        let Some(state) = State::present(&path)? else { return Ok(None) };
        let marks = marks_of(&state)?;
        if let Some(seen) = self.seen.as_ref().filter(|seen| seen.path == path)
            && seen.marks == marks
            && marks.values().all(is_settled)
        {
            return Ok(seen.found.clone());
        }
        let found = read(&state)?.map(|(files, are_all)| self.copy_of(&state, files, are_all));
        let found = found.transpose()?;
        self.seen = Some(Seen { path, marks, found: found.clone() });
        Ok(found)
    }

    /// A state of its own, unless it is the one that was seen before.
    fn copy_of(
        &self,
        state: &State,
        files: CopiedFiles,
        are_all: bool,
    ) -> anyhow::Result<Arc<ToCopy>> {
        let before = self.seen.as_ref().and_then(|seen| seen.found.as_ref());
        let lineage = Lineage::of(state)?;
        if let Some((before, lineage)) = before.zip(lineage)
            && (&before.files, before.are_all) == (&files, are_all)
            && (before.id, &before.known) == (lineage.id, &lineage.marks())
        {
            return Ok(Arc::clone(before));
        }
        let (lineage, mark) = Lineage::with(state, None)?;
        let known = lineage.marks();
        Ok(Arc::new(ToCopy { id: lineage.id, mark, known, files, are_all }))
    }

    fn path(&self) -> anyhow::Result<PathBuf> {
        let Some(file) = &self.configuration else { return Ok(self.usual.clone()) };
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("{} can't be read", file.display()))?;
        let config = BootConfig::parse(&text).with_context(|| file.display().to_string())?;
        Ok(config.state_dir)
    }
}

/// By what a change is seen: of all files, and of the directory of machines.
fn marks_of(state: &State) -> anyhow::Result<BTreeMap<OsString, Mark>> {
    let mut marks = BTreeMap::new();
    let mut look = |directory: &Directory, name: &OsStr| {
        // One that is gone has none.
        if let Ok(stat) = directory.status(name) {
            marks.insert(name.to_owned(), to_mark(&stat));
        }
    };
    look(&state.root, OsStr::new(DEFAULT_FILE));
    look(&state.root, OsStr::new(slots::FILE));
    look(&state.machines, OsStr::new(lineage::FILE));
    state.machine_files()?.iter().for_each(|name| look(&state.machines, name));
    Ok(marks)
}

fn read(state: &State) -> anyhow::Result<Option<(CopiedFiles, bool)>> {
    let (machines, wrong) = state.machines()?;
    let default = state.default();
    let are_all = wrong.is_empty() && default.is_ok() && !have_one_name(&machines);
    if machines.is_empty() {
        return Ok(None);
    }
    let slots: AllSlots = read_needed(&state.root, slots::FILE)?;
    let machines = machines.into_iter().map(|machine| {
        let slots = slots.of(&machine);
        (machine, slots)
    });
    let files = CopiedFiles::of(machines, default.unwrap_or_default());
    Ok(Some((files.context("machines as TOML")?, are_all)))
}

/// Whether two are the same machine, of which then neither counts.
fn have_one_name(machines: &[control::boot::Machine]) -> bool {
    let names: BTreeSet<String> = machines.iter().map(|machine| machine.file_name()).collect();
    names.len() < machines.len()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use aoe_wire::MacAddr;
    use control::boot::{Assignment, DEFAULT_NOTE, Machine};
    use uuid::Uuid;

    use super::*;

    fn machine(last: u8) -> Machine {
        Machine::new(Some(Uuid::from_u128(last.into())), vec![MacAddr([2, 0, 0, 0, 0, last])])
    }

    #[test]
    fn what_changes_is_seen_and_nothing_is_no_wish() {
        let dir = tempfile::tempdir().unwrap();
        let mut looker = Looker::new(dir.path(), None);
        assert_eq!(looker.look().unwrap(), None, "there is no directory");
        let path = dir.path().join("boot");
        let state = State::open(&path).unwrap();
        assert_eq!(looker.look().unwrap(), None, "it is empty");
        assert_eq!(Lineage::of(&state).unwrap(), None, "and needs no id");
        let turn = state.turn().unwrap();
        state.keep(&turn, &machine(7), None).unwrap();
        let one = looker.look().unwrap().unwrap();
        let known = Lineage::of(&state).unwrap().unwrap();
        assert_eq!((one.id, one.are_all, &one.known), (known.id, true, &known.marks()));
        assert!(one.known.contains(&one.mark));
        assert_eq!(looker.look().unwrap().unwrap(), one);
        state.keep(&turn, &machine(8), None).unwrap();
        state.set_default(&turn, Some(Assignment::Local)).unwrap();
        let slots =
            r#"{"version":1,"nodes":{"00000000-0000-0000-0000-000000000007.toml":{"a":3}}}"#;
        std::fs::write(path.join(slots::FILE), slots).unwrap();
        let two = looker.look().unwrap().unwrap();
        assert_eq!((two.files.0.len(), two.id), (3, one.id));
        assert!(two.known.is_superset(&one.known) && two.mark != one.mark);
        assert!(two.files.0.contains_key(DEFAULT_NOTE));
        assert!(two.files.0[&machine(7).file_name()].contains("a = 3"));
        for name in [machine(7).file_name(), machine(8).file_name()] {
            std::fs::remove_file(path.join("machines").join(name)).unwrap();
        }
        assert_eq!(looker.look().unwrap(), None);
    }

    #[test]
    fn what_cant_be_read_takes_nothing_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("elsewhere");
        let state = State::open(&path).unwrap();
        state.keep(&state.turn().unwrap(), &machine(7), None).unwrap();
        let file = dir.path().join("boot.toml");
        let mut looker = Looker::new(dir.path(), Some(file.clone()));
        assert!(looker.look().is_err(), "there is no configuration");
        std::fs::write(&file, format!("state-dir = '{}'\n", path.display())).unwrap();
        assert!(looker.look().unwrap().unwrap().are_all);
        std::fs::write(path.join("machines/rack.toml"), "nonsense").unwrap();
        let found = looker.look().unwrap().unwrap();
        assert!(!found.are_all && found.files.0.len() == 1);
        std::fs::remove_file(path.join("machines/rack.toml")).unwrap();
        // A second file for one machine.
        let text = machine(7).to_text().unwrap();
        std::fs::write(path.join("machines/copy.toml"), text).unwrap();
        assert!(!looker.look().unwrap().unwrap().are_all);
        std::fs::remove_file(path.join("machines/copy.toml")).unwrap();
        std::fs::write(path.join(slots::FILE), "nonsense").unwrap();
        assert!(looker.look().is_err());
        std::fs::remove_file(path.join(slots::FILE)).unwrap();
        std::fs::write(path.join("machines/.copies.json"), "nonsense").unwrap();
        assert!(looker.look().is_err());
    }
}
