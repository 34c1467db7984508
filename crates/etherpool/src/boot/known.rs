//! What is decided about machines, as the server knows it: read again where files have changed.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aoe_wire::MacAddr;
use control::boot::{Assignment, Machine, MachineId, without_covered};
use os::dir::{Directory, Stat};
use uuid::Uuid;

use super::state::{DEFAULT_FILE, FileError, MACHINES_MAX, State, is_machine, owner_of};

/// How long what was read is good without a look at each file: whoever edits one in its place changes nothing of the
/// directory.
const AGE_MAX: Duration = Duration::from_secs(1);

/// The files, and what they said.
pub struct Known {
    state: State,
    read: Mutex<Read>,
}

struct Read {
    looked: Option<Instant>,
    /// The directories' own marks.
    marks: Option<[Mark; 2]>,
    files: BTreeMap<OsString, Seen<Machine>>,
    default: Option<Seen<Option<Assignment>>>,
    /// Why there is no list of the files, as it was told.
    unlisted: Option<String>,
    table: Arc<Table>,
}

/// A file, as it was read.
struct Seen<T> {
    /// As long as it has this it says the same; none where the system couldn't read it, which may pass.
    mark: Option<Mark>,
    /// What it says, or why that isn't known.
    says: Result<T, String>,
}

/// By which a change of a file is noticed: number, length and times.
pub(super) type Mark = (u64, i64, [i64; 4]);

/// All of it at one time.
#[derive(Default, Debug)]
pub struct Table {
    machines: Vec<Machine>,
    /// Whose files can't be read.
    broken: Vec<MachineId>,
    /// There is something of which it isn't known whose it is: whoever isn't found may be meant by it.
    is_partial: bool,
    default: Option<Assignment>,
}

/// Who a node is that says hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who<'t> {
    /// This.
    Known(&'t Machine),
    /// It says the UUID of this one, and has none of its addresses: another machine, or who has read that UUID somewhere.
    Stranger(&'t Machine),
    /// No file is about it.
    Nobody,
    /// What is known of it can't be read, or two files say it. Whoever tells it that it is nobody has it forget who it is.
    Unclear,
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
        let table = Arc::new(Table { is_partial: true, ..Table::default() });
        let read = Read {
            looked: None,
            marks: None,
            files: BTreeMap::new(),
            default: None,
            unlisted: None,
            table,
        };
        Known { state, read: Mutex::new(read) }
    }

    /// As it is now. Blocks.
    pub fn now(&self) -> Arc<Table> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let marks = self.marks();
        let is_young = read.looked.is_some_and(|looked| looked.elapsed() < AGE_MAX);
        if !is_young || marks.is_none() || marks != read.marks {
            read.look(&self.state, self.state.machines.names());
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

/// What a file says: as before, if it hasn't changed; none where it is gone.
fn look_again<T>(
    directory: &Directory,
    name: &OsStr,
    before: Option<Seen<T>>,
    read: impl FnOnce() -> Result<Option<T>, FileError>,
    so_long: &str,
) -> Option<Seen<T>> {
    let mark = match directory.status(name) {
        Ok(stat) => Some(to_mark(&stat)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(_) => None,
    };
    if mark.is_some() && before.as_ref().is_some_and(|before| before.mark == mark) {
        return before;
    }
    let (mark, error) = match read() {
        Ok(says) => return says.map(|says| Seen { mark, says: Ok(says) }),
        Err(error @ FileError::Wrong(_)) => (mark, error.to_string()),
        Err(error @ FileError::Unread { .. }) => (None, error.to_string()),
    };
    let is_told = before.is_some_and(|before| before.says.is_err_and(|told| told == error));
    if !is_told {
        tracing::error!("{error}; correct it: {so_long}");
    }
    Some(Seen { mark, says: Err(error) })
}

/// Whatever commands do to machines is in the log of who goes by it, where anybody may look. `was` is what the file said: none
/// of one that wasn't there, and nothing of one that couldn't be read.
fn tell_changes(was: Option<Option<&Machine>>, is: &Machine) {
    let changes = match was {
        Some(None) => vec!["its file can be read again".to_owned()],
        Some(Some(was)) => changes(Some(was), is),
        None => changes(None, is),
    };
    if !changes.is_empty() {
        let changes = changes.join(", ");
        tracing::info!(machine = is.called(), "what is known of a machine has changed: {changes}");
    }
}

fn changes(was: Option<&Machine>, is: &Machine) -> Vec<String> {
    let none = Machine::new(is.uuid, Vec::new());
    let was = was.unwrap_or(&none);
    let key = |machine: &Machine| machine.identity.as_ref().map(|kept| kept.public());
    let boots = |boot: &Assignment| format!("it boots {boot}");
    let all = [
        (was.name != is.name).then(|| "its name".to_owned()),
        (was.macs != is.macs).then(|| "its addresses".to_owned()),
        (was.shelf != is.shelf).then(|| {
            is.shelf.map_or("no shelf".to_owned(), |shelf| format!("its shelf ({shelf})"))
        }),
        (was.boot != is.boot)
            .then(|| is.boot.as_ref().map_or("it boots what others do".to_owned(), boots)),
        (key(was) != key(is)).then(|| match key(is) {
            Some(key) => format!("accepted with the key {key}"),
            None => "accepted no more".to_owned(),
        }),
        (was.supervisors != is.supervisors).then(|| "whom it obeys".to_owned()),
        (was.configuration != is.configuration).then(|| "its configuration".to_owned()),
        (was.slots != is.slots).then(|| "slots of its disks".to_owned()),
    ];
    all.into_iter().flatten().collect()
}

pub(super) fn to_mark(stat: &Stat) -> Mark {
    let times =
        [stat.st_mtime, stat.st_mtime_nsec as i64, stat.st_ctime, stat.st_ctime_nsec as i64];
    (stat.st_ino, stat.st_size, times)
}

pub(super) fn is_settled((_, _, [seconds, nanos, ..]): &Mark) -> bool {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let changed = Duration::new(u64::try_from(*seconds).unwrap_or(0), *nanos as u32);
    now.is_ok_and(|now| now > changed + Duration::from_millis(50))
}

impl Read {
    fn look(&mut self, state: &State, names: io::Result<Vec<OsString>>) {
        let names = match names {
            Ok(names) => names,
            Err(error) => {
                let why = error.to_string();
                if self.unlisted.as_ref() != Some(&why) {
                    let path = state.machines.path().display();
                    tracing::error!("{path}: {why}; what was known of machines counts so long");
                }
                self.unlisted = Some(why);
                return;
            }
        };
        self.unlisted = None;
        let mut names: Vec<_> = names.into_iter().filter(|name| is_machine(name)).collect();
        names.sort();
        let is_partial = names.len() > MACHINES_MAX;
        if is_partial && (self.looked.is_none() || !self.table.is_partial) {
            tracing::error!("more than {MACHINES_MAX} files of machines: the rest isn't known");
        }
        names.truncate(MACHINES_MAX);
        let mut before = std::mem::take(&mut self.files);
        for name in names {
            let read = || state.machine(&name);
            let so_long = "the machine gets nothing until then";
            let former = before.remove(&name);
            let was = former.as_ref().map(|former| former.says.as_ref().ok().cloned());
            let seen = look_again(&state.machines, &name, former, read, so_long);
            if let Some(seen) = seen {
                if self.looked.is_some()
                    && let Ok(machine) = &seen.says
                {
                    tell_changes(was.as_ref().map(Option::as_ref), machine);
                }
                self.files.insert(name, seen);
            }
        }
        let gone = before.values().filter_map(|former| former.says.as_ref().ok());
        let gone = gone.filter(|_| !is_partial);
        gone.for_each(|machine| tracing::info!(machine = machine.called(), "its file is gone"));
        let read = || state.default().map(Some);
        let so_long = "there is no default until then";
        let name = OsStr::new(DEFAULT_FILE);
        let before = self.default.take();
        let was = before.as_ref().and_then(|before| before.says.as_ref().ok()).cloned();
        self.default = look_again(&state.root, name, before, read, so_long);
        let is = self.default.as_ref().and_then(|seen| seen.says.as_ref().ok());
        if self.looked.is_some()
            && let (Some(was), Some(is)) = (was.flatten(), is.cloned().flatten())
            && was != is
        {
            tracing::info!("what all others boot has changed: {is}");
        }
        self.table = Arc::new(self.to_table(is_partial));
    }

    fn to_table(&self, is_partial: bool) -> Table {
        let mut table = Table { is_partial, ..Table::default() };
        for (name, seen) in &self.files {
            match (&seen.says, name.to_str().and_then(owner_of)) {
                (Ok(machine), _) => table.machines.push(machine.clone()),
                (Err(_), Some(owner)) => table.broken.push(owner),
                (Err(_), None) => table.is_partial = true,
            }
        }
        table.machines = without_covered(table.machines);
        if let Some(Seen { says: Ok(default), .. }) = &self.default {
            table.default.clone_from(default);
        }
        table
    }
}

impl Table {
    /// Whose a hello is: by its UUID and an address, as far as addresses are known; by an address only where no UUID was
    /// kept of it. For what is a machine's own.
    pub fn who(&self, uuid: Option<Uuid>, macs: &[MacAddr]) -> Who<'_> {
        let uuid = uuid.map(MachineId::Uuid);
        let ids = || macs.iter().map(|mac| MachineId::Mac(*mac));
        if uuid.iter().cloned().chain(ids()).any(|id| self.broken.contains(&id)) {
            return Who::Unclear;
        }
        match uuid.as_ref().map(|uuid| (self.count(uuid), self.only(uuid))) {
            Some((_, Some(machine))) => {
                let has = |mac: &MacAddr| machine.macs.contains(mac);
                return match machine.macs.is_empty() || macs.iter().any(has) {
                    true => Who::Known(machine),
                    false => Who::Stranger(machine),
                };
            }
            Some((2.., _)) => return Who::Unclear,
            _ => {}
        }
        if ids().any(|id| self.count(&id) > 1) {
            return Who::Unclear;
        }
        let mut found: Vec<&Machine> = ids().filter_map(|id| self.only(&id)).collect();
        found.retain(|machine| machine.uuid.is_none());
        found.dedup();
        match found.as_slice() {
            [machine] => Who::Known(machine),
            [] if !self.is_partial => Who::Nobody,
            _ => Who::Unclear,
        }
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
        match (own, &self.default) {
            (Some(boot), _) => Decided::Boots(boot.clone()),
            (None, _) if self.is_partial => Decided::Unreadable,
            (None, Some(boot)) => Decided::Boots(boot.clone()),
            (None, None) => Decided::Unknown,
        }
    }

    /// All that are known.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
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
    fn what_commands_change_is_told() {
        let new = boots(Machine::new(Some(UUID), vec![MAC]), Assignment::Local);
        assert_eq!(changes(None, &new), ["its addresses", "it boots local"]);
        assert!(changes(Some(&new), &new).is_empty());
        let key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        let kept = boot::node::Kept::Plain { secret: key.into() };
        let identity = Some(control::boot::KeptIdentity::of(key.parse().unwrap(), &kept));
        let next = Machine { identity, shelf: Some(7), boot: None, ..new.clone() };
        let told = changes(Some(&new), &next);
        assert_eq!(told[..2], ["its shelf (7)", "it boots what others do"]);
        assert_eq!(told[2..], [format!("accepted with the key {key}")]);
        assert_eq!(changes(Some(&next), &new)[2..], ["accepted no more"]);
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
        assert_eq!(two.who(None, &[MAC]), Who::Unclear);
        let one = table(vec![with(Some(UUID), Assignment::Local)]);
        let other = Some(Uuid::from_u128(8));
        assert_eq!(one.decided(other, Some(MAC)), Decided::Boots(Assignment::Local));
        assert_eq!((one.who(other, &[MAC]), one.who(None, &[MAC])), (Who::Nobody, Who::Nobody));
        let without = table(vec![with(None, Assignment::Local)]);
        assert!(matches!(without.who(other, &[MAC]), Who::Known(_)));
    }

    #[test]
    fn a_uuid_with_other_addresses_is_a_stranger() {
        let two = |last| MacAddr([2, 0, 0, 0, 0, last]);
        let machine = Machine::new(Some(UUID), vec![MAC, two(8)]);
        let table = Table { machines: vec![machine], ..Table::default() };
        for macs in [&[two(8)][..], &[two(9), MAC]] {
            assert!(matches!(table.who(Some(UUID), macs), Who::Known(_)), "{macs:?}");
        }
        for macs in [&[][..], &[two(9)]] {
            assert!(matches!(table.who(Some(UUID), macs), Who::Stranger(_)), "{macs:?}");
        }
        let unknown = Table { machines: vec![Machine::new(Some(UUID), vec![])], ..table };
        assert!(matches!(unknown.who(Some(UUID), &[two(9)]), Who::Known(_)));
    }

    #[test]
    fn what_cant_be_read_makes_nobody_of_no_machine() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let turn = state.turn().unwrap();
        state.set_default(&turn, Some(Assignment::Local)).unwrap();
        let machine = Machine::new(Some(UUID), vec![MAC]);
        state.keep(&turn, &machine, None).unwrap();
        let other = MacAddr([2, 0, 0, 0, 0, 8]);
        let known = Known::new(state);
        let again = || {
            known.read.lock().unwrap().looked = None;
            known.now()
        };
        assert_eq!(again().who(Some(UUID), &[MAC]), Who::Known(&machine));
        assert_eq!(again().who(None, &[other]), Who::Nobody);
        let path = dir.path().join("machines").join(machine.file_name());
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(again().who(Some(UUID), &[MAC]), Who::Unclear);
        // Of a file without a name that says whose it is anybody may be meant.
        let rack = dir.path().join("machines/rack7.toml");
        std::fs::rename(&path, &rack).unwrap();
        assert_eq!(again().who(None, &[other]), Who::Unclear);
        assert_eq!(again().decided(None, Some(other)), Decided::Unreadable);
        std::fs::remove_file(&rack).unwrap();
        std::fs::write(&path, text).unwrap();
        assert_eq!(again().decided(None, Some(other)), Decided::Boots(Assignment::Local));
        // What the system can't read is read again, though nothing of it has changed: here a link that leads out.
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(again().who(Some(UUID), &[MAC]), Who::Unclear);
        let name = OsString::from(machine.file_name());
        assert_eq!(known.read.lock().unwrap().files[&name].mark, None);
    }

    #[test]
    fn a_directory_that_cant_be_listed_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let machine = Machine::new(Some(UUID), vec![MAC]);
        state.keep(&state.turn().unwrap(), &machine, None).unwrap();
        let known = Known::new(state.clone());
        assert!(matches!(known.now().who(Some(UUID), &[MAC]), Who::Known(_)));
        let refused = || Err(io::ErrorKind::PermissionDenied.into());
        known.read.lock().unwrap().look(&state, refused());
        let table = Arc::clone(&known.read.lock().unwrap().table);
        assert!(matches!(table.who(Some(UUID), &[MAC]), Who::Known(_)));
        let fresh = Known::new(state.clone());
        let table = {
            let mut read = fresh.read.lock().unwrap();
            read.look(&state, refused());
            Arc::clone(&read.table)
        };
        assert_eq!(table.who(Some(UUID), &[MAC]), Who::Unclear);
        assert_eq!(table.decided(Some(UUID), Some(MAC)), Decided::Unreadable);
    }
}
