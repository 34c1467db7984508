//! The state directory: a file for each machine, one for all others, and the images.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use control::boot::{Assignment, DefaultFile, Machine, MachineError, MachineId, without_covered};
use control::config::ConfigError;
use os::dir::{Directory, is_mount};
use os::process::ProcessLock;

/// Where it is by default.
pub const DIRECTORY: &str = "/var/lib/etherpool/boot";
/// What all machines boot that have no file of their own, or no assignment in it.
pub const DEFAULT_FILE: &str = "default";
/// Longer than anybody's configuration is.
pub const FILE_BYTES_MAX: u64 = 256 << 10;
/// Machines of one server.
pub const MACHINES_MAX: usize = 4096;

/// The directory, opened.
#[derive(Clone, Debug)]
pub struct State {
    /// Itself.
    pub root: Directory,
    /// A file for each machine.
    pub machines: Directory,
    /// What nodes boot, and whatever else is put there.
    pub images: Directory,
}

/// Whoever changes something has this.
pub struct Turn(#[allow(dead_code)] ProcessLock);

/// All files of machines, as they were when they were read.
pub type Machines = (Vec<Machine>, Vec<FileError>);

/// Why it isn't known what a file says.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// What is in it is wrong, until somebody changes it.
    #[error(transparent)]
    Wrong(MachineError),
    /// The system can't read it, at the moment perhaps.
    #[error("{}: it can't be read: {error}", .file.display())]
    Unread {
        /// The file.
        file: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

fn unopened(path: &Path, error: &io::Error) -> anyhow::Error {
    let path = path.display();
    match is_mount(error) {
        true => anyhow::anyhow!(
            "the state directory {path} can't be opened: machines or images in it is another file system, or a link that leads out of it; mount or link {path} as a whole"
        ),
        false => anyhow::anyhow!("the state directory {path} can't be opened: {error}"),
    }
}

impl State {
    /// Opens it; made if it isn't there. Blocks.
    pub fn open(path: &Path) -> anyhow::Result<State> {
        let open = || {
            let root = Directory::create(path)?;
            let machines = root.subdirectory("machines")?;
            let images = root.subdirectory("images")?;
            for directory in [&root, &machines, &images] {
                make_private(directory.path())?;
            }
            Ok(State { root, machines, images })
        };
        open().map_err(|error| unopened(path, &error))
    }

    /// One that is there already; none where nobody has booted anything.
    pub fn present(path: &Path) -> anyhow::Result<Option<State>> {
        let open = || {
            let root = Directory::open(path)?;
            let (machines, images) = (root.present("machines")?, root.present("images")?);
            Ok(State { root, machines, images })
        };
        match open() {
            Ok(state) => Ok(Some(state)),
            Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unopened(path, &error)),
        }
    }

    /// Nobody else changes anything as long as this lasts.
    pub fn turn(&self) -> anyhow::Result<Turn> {
        let lock = ProcessLock::acquire(self.root.path(), "change");
        lock.map(Turn).context("another command changes something at the moment; try it again")
    }

    /// The same, if machines are still as they were when somebody decided by them.
    pub fn turn_after(&self, seen: &[Machine]) -> anyhow::Result<Turn> {
        let turn = self.turn()?;
        if self.machines()?.0 != seen {
            anyhow::bail!(
                "what is known of machines has changed meanwhile; give the command again"
            );
        }
        Ok(turn)
    }

    /// All machines, and what is wrong with files of others. Blocks.
    pub fn machines(&self) -> anyhow::Result<Machines> {
        let (mut machines, mut wrong) = (Vec::new(), Vec::new());
        for name in self.machine_files()?.into_iter().take(MACHINES_MAX) {
            match self.machine(&name) {
                Ok(Some(machine)) => machines.push(machine),
                Ok(None) => {}
                Err(error) => wrong.push(error),
            }
        }
        Ok((without_covered(machines), wrong))
    }

    /// The machine of a file; none where it is gone.
    pub fn machine(&self, name: &OsStr) -> Result<Option<Machine>, FileError> {
        read(&self.machines, name, Machine::parse)
    }

    /// What all boot that have no assignment of their own. Blocks.
    pub fn default(&self) -> Result<Option<Assignment>, FileError> {
        let file = read(&self.root, OsStr::new(DEFAULT_FILE), DefaultFile::parse)?;
        Ok(file.map(|file| file.boot))
    }

    /// Has all boot that, or nothing.
    pub fn set_default(&self, _turn: &Turn, boot: Option<Assignment>) -> anyhow::Result<()> {
        let name = OsStr::new(DEFAULT_FILE);
        let Some(boot) = boot else {
            // Also where it was gone: who took it away may have been stopped before that was sure to last.
            return take_away(&self.root, name)
                .and_then(|_| self.root.sync())
                .with_context(|| not_kept(&self.root, name));
        };
        let text = DefaultFile::new(boot).to_text().context("the assignment as TOML")?;
        self.root.replace(name, text.as_bytes()).with_context(|| not_kept(&self.root, name))
    }

    /// Keeps a machine, in place of what was known of it.
    pub fn keep(
        &self,
        _turn: &Turn,
        machine: &Machine,
        former: Option<&Machine>,
    ) -> anyhow::Result<()> {
        let text = machine.to_text().context("the machine as TOML")?;
        // What can't be read again would be a machine lost.
        Machine::parse(&text).context("the machine")?;
        if text.len() as u64 > FILE_BYTES_MAX {
            anyhow::bail!("more than {FILE_BYTES_MAX} bytes would be in its file");
        }
        let name = machine.file_name();
        let is_its = former.is_some_and(|former| former.file_name() == name);
        if !is_its && self.machines.status(OsStr::new(&name)).is_ok() {
            // It may have the only copy of a node's key.
            anyhow::bail!(
                "{} is there already, and can't be read or is another machine's; correct it, or take it away",
                self.machines.path_of(&name).display()
            );
        }
        if former.is_none() && self.machine_files()?.len() >= MACHINES_MAX {
            anyhow::bail!("there are {MACHINES_MAX} machines already; take files of some away");
        }
        self.machines
            .replace(OsStr::new(&name), text.as_bytes())
            .with_context(|| not_kept(&self.machines, OsStr::new(&name)))?;
        // Its UUID became known; perhaps a while ago, and who kept it then was stopped before this.
        let former = former.map(Machine::file_name).filter(|former| *former != name);
        let by_address = machine.macs.iter().map(|mac| Machine::new(None, vec![*mac]).file_name());
        let covered = by_address.filter(|name| self.is_covered(machine, OsStr::new(name)));
        let mut is_changed = false;
        for name in former.into_iter().chain(covered) {
            let name = OsStr::new(&name);
            is_changed |=
                take_away(&self.machines, name).with_context(|| not_kept(&self.machines, name))?;
        }
        if is_changed {
            self.machines.sync().with_context(|| not_kept(&self.machines, OsStr::new(".")))?;
        }
        Ok(())
    }

    /// Whether a file says of a machine what is known better by now. A key that isn't the same may be its only copy.
    fn is_covered(&self, machine: &Machine, name: &OsStr) -> bool {
        match self.machine(name) {
            Ok(Some(other)) => {
                let is_kept = other.identity.is_none() || other.identity == machine.identity;
                machine.covers(&other) && is_kept
            }
            _ => false,
        }
    }

    /// The files that are about machines.
    pub fn machine_files(&self) -> anyhow::Result<Vec<OsString>> {
        let names = self.machines.names().with_context(|| {
            format!("the directory {} can't be read", self.machines.path().display())
        })?;
        let mut files: Vec<_> = names.into_iter().filter(|name| is_machine(name)).collect();
        files.sort();
        Ok(files)
    }
}

/// Whether it was there.
fn take_away(directory: &Directory, name: &OsStr) -> io::Result<bool> {
    match directory.remove(name) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Keys are below it. Somebody else's directory is his own concern.
fn make_private(path: &Path) -> io::Result<()> {
    let found = path.metadata()?;
    if found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

fn not_kept(directory: &Directory, name: &OsStr) -> String {
    format!("{} can't be written", directory.path_of(name).display())
}

/// Whether a file of the directory is a machine's: editors and we ourselves leave others there for a while.
pub fn is_machine(name: &OsStr) -> bool {
    let text = name.to_str().unwrap_or_default();
    text.ends_with(".toml") && !text.starts_with('.')
}

/// Whose a file is by its name, if that says it: also where nothing else of it can be read.
pub fn owner_of(name: &str) -> Option<MachineId> {
    let stem = name.strip_suffix(".toml")?;
    if let Ok(uuid) = stem.parse() {
        return Some(MachineId::Uuid(uuid));
    }
    stem.replace('-', ":").parse().ok().map(MachineId::Mac)
}

fn read<T>(
    directory: &Directory,
    name: &OsStr,
    parse: impl FnOnce(&str) -> Result<T, ConfigError>,
) -> Result<Option<T>, FileError> {
    let file = || directory.path_of(name);
    let wrong = |error| FileError::Wrong(MachineError { file: file(), error });
    let unreadable = |reason: String| wrong(ConfigError { line: 1, column: 1, reason });
    let text = name.to_str().unwrap_or_default();
    let bytes = directory
        .read(text, FILE_BYTES_MAX + 1)
        .map_err(|error| FileError::Unread { file: file(), error })?;
    let Some(bytes) = bytes else { return Ok(None) };
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8".to_owned()))?;
    parse(&text).map(Some).map_err(wrong)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use aoe_wire::MacAddr;
    use uuid::Uuid;

    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);

    #[test]
    fn a_file_that_is_wrong_is_none_of_the_others_concern() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let turn = state.turn().unwrap();
        assert!(state.turn().is_err(), "one at a time");
        let machine = Machine::new(None, vec![MAC]);
        state.keep(&turn, &machine, None).unwrap();
        let machines = dir.path().join("machines");
        std::fs::write(machines.join("wrong.toml"), "version = 1\nshelf = 'x'\n").unwrap();
        std::fs::write(machines.join("long.toml"), vec![b'#'; FILE_BYTES_MAX as usize + 1])
            .unwrap();
        std::fs::write(machines.join("latin.toml"), b"\xff").unwrap();
        std::fs::write(machines.join(".hidden.toml"), "x").unwrap();
        std::fs::write(machines.join("copy.toml~"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", machines.join("link.toml")).unwrap();
        let path = machines.join(machine.file_name());
        assert!(state.keep(&turn, &machine, None).is_err(), "it isn't known to be the same");
        let (read, wrong) = state.machines().unwrap();
        assert_eq!(read, std::slice::from_ref(&machine));
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, "nonsense").unwrap();
        assert!(state.keep(&turn, &machine, None).is_err(), "what can't be read isn't replaced");
        std::fs::write(&path, text).unwrap();
        let wrong: Vec<String> = wrong.iter().map(FileError::to_string).collect();
        assert_eq!(wrong.len(), 4, "{wrong:?}");
        assert!(wrong.iter().any(|one| one.contains("wrong.toml: line 2, column 9")), "{wrong:?}");
    }

    #[test]
    fn a_machine_whose_uuid_becomes_known_has_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let turn = state.turn().unwrap();
        let former = Machine::new(None, vec![MAC]);
        state.keep(&turn, &former, None).unwrap();
        let uuid = Some(Uuid::from_u128(7));
        let machine = Machine { uuid, ..former.clone() };
        state.keep(&turn, &machine, Some(&former)).unwrap();
        assert_eq!(state.machines().unwrap().0, std::slice::from_ref(&machine));
        assert_eq!(owner_of(&machine.file_name()), uuid.map(MachineId::Uuid));
        assert_eq!(owner_of(&former.file_name()), Some(MachineId::Mac(MAC)));
        assert_eq!(owner_of("rack7.toml"), None);
    }

    #[test]
    fn who_was_stopped_half_way_is_finished_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let turn = state.turn().unwrap();
        let former = Machine::new(None, vec![MAC]);
        let machine = Machine { uuid: Some(Uuid::from_u128(7)), ..former.clone() };
        state.keep(&turn, &machine, None).unwrap();
        // The new one is there, and the former isn't gone yet.
        state.keep(&turn, &former, None).unwrap();
        assert_eq!(state.machines().unwrap().0, std::slice::from_ref(&machine));
        state.keep(&turn, &machine, Some(&machine)).unwrap();
        assert_eq!(state.machine_files().unwrap(), [OsString::from(machine.file_name())]);
    }

    #[test]
    fn what_somebody_decided_by_is_still_so_when_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert!(State::present(dir.path()).unwrap().is_none());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "who looks makes nothing");
        let state = State::open(dir.path()).unwrap();
        let (seen, _) = state.machines().unwrap();
        drop(state.turn_after(&seen).unwrap());
        let turn = state.turn().unwrap();
        state.keep(&turn, &Machine::new(None, vec![MAC]), None).unwrap();
        drop(turn);
        assert!(state.turn_after(&seen).is_err());
    }

    #[test]
    fn what_is_kept_is_for_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        // As by hand, before there were any keys.
        std::fs::create_dir(dir.path().join("machines")).unwrap();
        for path in [dir.path(), &dir.path().join("machines")] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let state = State::open(dir.path()).unwrap();
        let turn = state.turn().unwrap();
        let machine = Machine::new(None, vec![MAC]);
        state.keep(&turn, &machine, None).unwrap();
        let file = format!("machines/{}", machine.file_name());
        for (name, expected) in [("", 0o700), ("machines", 0o700), (&file, 0o600)] {
            let mode = std::fs::metadata(dir.path().join(name)).unwrap().mode();
            assert_eq!(mode & 0o777, expected, "{name}");
        }
    }

    #[test]
    fn there_are_no_more_machines_than_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let turn = state.turn().unwrap();
        for number in 1..MACHINES_MAX {
            std::fs::write(dir.path().join(format!("machines/{number}.toml")), "").unwrap();
        }
        let machine = Machine::new(None, vec![MAC]);
        state.keep(&turn, &machine, None).unwrap();
        state.keep(&turn, &machine, Some(&machine)).unwrap();
        let other = Machine::new(Some(Uuid::from_u128(7)), Vec::new());
        assert!(state.keep(&turn, &other, None).is_err());
    }

    #[test]
    fn a_default_is_set_and_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let turn = state.turn().unwrap();
        assert_eq!(state.default().unwrap(), None);
        state.set_default(&turn, Some(Assignment::Local)).unwrap();
        assert_eq!(state.default().unwrap(), Some(Assignment::Local));
        state.set_default(&turn, None).unwrap();
        state.set_default(&turn, None).unwrap();
        assert_eq!(state.default().unwrap(), None);
        std::fs::write(dir.path().join(DEFAULT_FILE), "version = 1\n[boot]\nis = 'x'\n").unwrap();
        assert!(state.default().unwrap_err().to_string().contains("default: line 2"));
    }
}
