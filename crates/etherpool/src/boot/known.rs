//! What is decided about machines, as the server knows it: read again where files have changed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aoe_wire::MacAddr;
use control::boot::{Assignment, Machine, MachineError, MachineId};
use os::dir::{Directory, Stat};
use uuid::Uuid;

use super::state::{DEFAULT_FILE, MACHINES_MAX, State, is_machine, owner_of};

/// How long what was read is good without a look at each file: whoever edits one in its place changes nothing of the
/// directory.
const AGE_MAX: Duration = Duration::from_secs(1);

/// The files, and what they said.
pub struct Known {
    state: State,
    read: Mutex<Read>,
}

#[derive(Default)]
struct Read {
    looked: Option<Instant>,
    /// The directories' own marks.
    marks: Option<[Mark; 2]>,
    files: BTreeMap<OsString, (Mark, Result<Machine, MachineError>)>,
    default: Option<(Mark, Result<Option<Assignment>, MachineError>)>,
    table: Arc<Table>,
}

/// By which a change of a file is noticed: number, length and times.
type Mark = (u64, i64, [i64; 4]);

/// All of it at one time.
#[derive(Default, Debug)]
pub struct Table {
    machines: Vec<Machine>,
    /// Whose files can't be read.
    broken: Vec<MachineId>,
    default: Option<Assignment>,
}

/// What a machine is to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    /// This.
    Boots(Assignment),
    /// Nobody has said anything of it.
    Unknown,
    /// What somebody has said can't be read, or two files say it: it gets nothing, whatever others get.
    Unreadable,
}

impl Known {
    /// Of this directory.
    pub fn new(state: State) -> Known {
        Known { state, read: Mutex::default() }
    }

    /// As it is now. Blocks.
    pub fn now(&self) -> Arc<Table> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let marks = self.marks();
        let is_young = read.looked.is_some_and(|looked| looked.elapsed() < AGE_MAX);
        if !is_young || marks.is_none() || marks != read.marks {
            read.look(&self.state);
            // Of a directory that has changed within a tick of its clock the next change may not be seen.
            read.marks = marks.filter(|marks| marks.iter().all(is_settled));
            read.looked = Some(Instant::now());
        }
        Arc::clone(&read.table)
    }

    fn marks(&self) -> Option<[Mark; 2]> {
        let own = |directory: &Directory| directory.own_status().ok().map(|stat| to_mark(&stat));
        Some([own(&self.state.root)?, own(&self.state.machines)?])
    }
}

fn mark_of(directory: &Directory, name: &OsString) -> Option<Mark> {
    directory.status(name).ok().map(|stat| to_mark(&stat))
}

fn to_mark(stat: &Stat) -> Mark {
    let times =
        [stat.st_mtime, stat.st_mtime_nsec as i64, stat.st_ctime, stat.st_ctime_nsec as i64];
    (stat.st_ino, stat.st_size, times)
}

fn is_settled((_, _, [seconds, nanos, ..]): &Mark) -> bool {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let changed = Duration::new(u64::try_from(*seconds).unwrap_or(0), *nanos as u32);
    now.is_ok_and(|now| now > changed + Duration::from_millis(50))
}

impl Read {
    fn look(&mut self, state: &State) {
        let names = state.machines.names().unwrap_or_else(|error| {
            tracing::error!("{}: {error}", state.machines.path().display());
            Vec::new()
        });
        let mut names: Vec<_> = names.into_iter().filter(|name| is_machine(name)).collect();
        names.sort();
        if names.len() > MACHINES_MAX {
            tracing::error!("more than {MACHINES_MAX} files of machines: the rest isn't known");
            names.truncate(MACHINES_MAX);
        }
        self.files.retain(|name, _| names.binary_search(name).is_ok());
        for name in names {
            let Some(mark) = mark_of(&state.machines, &name) else { continue };
            if self.files.get(&name).is_some_and(|(known, _)| *known == mark) {
                continue;
            }
            let read = match state.machine(&name) {
                Ok(Some(machine)) => Ok(machine),
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!("{error}; correct it: the machine gets nothing until then");
                    Err(error)
                }
            };
            self.files.insert(name, (mark, read));
        }
        let mark = mark_of(&state.root, &OsString::from(DEFAULT_FILE));
        match (mark, &self.default) {
            (Some(mark), Some((known, _))) if mark == *known => {}
            (Some(mark), _) => {
                let read = state.default();
                if let Err(error) = &read {
                    tracing::error!("{error}; correct it: there is no default until then");
                }
                self.default = Some((mark, read));
            }
            (None, _) => self.default = None,
        }
        self.table = Arc::new(self.to_table());
    }

    fn to_table(&self) -> Table {
        let mut table = Table::default();
        for (name, (_, read)) in &self.files {
            match read {
                Ok(machine) => table.machines.push(machine.clone()),
                Err(_) => table.broken.extend(name.to_str().and_then(owner_of)),
            }
        }
        if let Some((_, Ok(default))) = &self.default {
            table.default.clone_from(default);
        }
        table
    }
}

impl Table {
    /// The machine that has that UUID; by an address only where no UUID was kept of it. For what is a machine's own.
    pub fn find_same(&self, uuid: Option<Uuid>, macs: &[MacAddr]) -> Option<&Machine> {
        if let Some(found) = uuid.and_then(|uuid| self.only(&MachineId::Uuid(uuid))) {
            return Some(found);
        }
        let found = macs.iter().find_map(|mac| self.only(&MachineId::Mac(*mac)));
        found.filter(|machine| machine.uuid.is_none())
    }

    /// What the machine boots that shows itself so when it is switched on. Where nothing is said of its UUID its address
    /// counts: it may have another board, and whoever gave an assignment by address means what has that.
    pub fn decided(&self, uuid: Option<Uuid>, mac: Option<MacAddr>) -> Decided {
        let ids = || {
            let uuid = uuid.map(MachineId::Uuid);
            uuid.into_iter().chain(mac.map(MachineId::Mac))
        };
        if ids().any(|id| self.broken.contains(&id) || self.count(&id) > 1) {
            return Decided::Unreadable;
        }
        let own = ids().filter_map(|id| self.only(&id)).find_map(|machine| machine.boot.as_ref());
        match own.or(self.default.as_ref()) {
            Some(boot) => Decided::Boots(boot.clone()),
            None => Decided::Unknown,
        }
    }

    fn count(&self, id: &MachineId) -> usize {
        self.machines.iter().filter(|machine| machine.is(id)).count()
    }

    fn only(&self, id: &MachineId) -> Option<&Machine> {
        let mut found = self.machines.iter().filter(|machine| machine.is(id));
        found.next().filter(|_| found.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);
    const UUID: Uuid = Uuid::from_u128(7);

    fn boots(machine: Machine, boot: Assignment) -> Machine {
        Machine { boot: Some(boot), ..machine }
    }

    #[test]
    fn changes_are_seen_at_the_next_question() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let known = Known::new(state.clone());
        let decided = || known.now().decided(Some(UUID), Some(MAC));
        assert_eq!(decided(), Decided::Unknown);
        let turn = state.turn().unwrap();
        for _ in 0..20 {
            state.set_default(&turn, Some(Assignment::Local)).unwrap();
            assert_eq!(decided(), Decided::Boots(Assignment::Local));
            let machine = boots(Machine::new(None, vec![MAC]), Assignment::Nothing);
            state.keep(&turn, &machine, None).unwrap();
            assert_eq!(decided(), Decided::Boots(Assignment::Nothing));
            std::fs::remove_file(dir.path().join("machines").join(machine.file_name())).unwrap();
            state.set_default(&turn, None).unwrap();
            assert_eq!(decided(), Decided::Unknown);
        }
    }

    #[test]
    fn a_machine_whose_file_is_wrong_gets_nothing_and_others_get_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let turn = state.turn().unwrap();
        state.set_default(&turn, Some(Assignment::Local)).unwrap();
        let other = MacAddr([2, 0, 0, 0, 0, 8]);
        let path = dir.path().join("machines/02-00-00-00-00-07.toml");
        std::fs::write(&path, "nonsense").unwrap();
        let known = Known::new(state);
        assert_eq!(known.now().decided(None, Some(MAC)), Decided::Unreadable);
        assert_eq!(known.now().decided(None, Some(other)), Decided::Boots(Assignment::Local));
        std::fs::write(&path, "version = 1\nmacs = ['02:00:00:00:00:07']\n[boot]\nis = 'none'\n")
            .unwrap();
        // In its place: the directory is as it was.
        known.read.lock().unwrap().looked = None;
        assert_eq!(known.now().decided(None, Some(MAC)), Decided::Boots(Assignment::Nothing));
    }

    #[test]
    fn who_is_named_twice_gets_nothing_and_what_is_ones_own_goes_by_the_uuid() {
        let with = |uuid, boot| boots(Machine::new(uuid, vec![MAC]), boot);
        let table = |machines| Table { machines, ..Table::default() };
        let two = table(vec![with(None, Assignment::Local), with(Some(UUID), Assignment::Local)]);
        assert_eq!(two.decided(None, Some(MAC)), Decided::Unreadable);
        let one = table(vec![with(Some(UUID), Assignment::Local)]);
        let other = Some(Uuid::from_u128(8));
        assert_eq!(one.decided(other, Some(MAC)), Decided::Boots(Assignment::Local));
        assert!(one.find_same(Some(UUID), &[]).is_some());
        assert!(one.find_same(other, &[MAC]).is_none() && one.find_same(None, &[MAC]).is_none());
        let without = table(vec![with(None, Assignment::Local)]);
        assert!(without.find_same(other, &[MAC]).is_some());
    }
}
