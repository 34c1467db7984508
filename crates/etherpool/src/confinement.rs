//! Which process may what: each gives up all that it doesn't need as soon as it has done what takes more, and before
//! it hears anybody. How that is done is in `os::confine`; what each one keeps is said here, and for administrators in
//! docs/security.md. What can't be given up is logged, and no reason not to serve.

use std::path::Path;

use control::config::SupervisorConfig;
use os::confine::{CapabilitySet, Rights, calls};
use std::os::unix::fs::MetadataExt;

/// Environment variable by which processes keep all rights, and write core files.
const SWITCH: &str = "ETHERPOOL_CONFINEMENT";

/// A process, and what it depends on what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process<'c> {
    /// The parent of the next five.
    Supervisor,
    /// Pools and volumes, by the supervisor's configuration.
    Engine(&'c SupervisorConfig),
    /// What is made of volumes for people.
    Services,
    /// Serves volumes by FTP.
    Ftp(&'c SupervisorConfig),
    /// Exports a supervisor's votes.
    Witnesses(&'c SupervisorConfig),
    /// Answers machines that boot, by what is in this directory.
    Boot(&'c Path),
    /// A node, a target or vblade.
    Exporter {
        /// It runs commands of its configuration when it ends.
        has_last_commands: bool,
    },
}

/// Of who sends and receives frames: packet sockets, whose buffers may be larger than the system's limit, and memory
/// that stays.
const FRAMES: CapabilitySet =
    CapabilitySet::NET_RAW.union(CapabilitySet::NET_ADMIN).union(CapabilitySet::IPC_LOCK);
/// Of who has to do with files of others.
const FILES: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::DAC_READ_SEARCH);
/// Of the services and what they run: mounts (`SYS_ADMIN`), file systems that grow (`SYS_RESOURCE`), who holds a mount
/// (`SYS_PTRACE`), FTP's ports, mailers and people's own commands.
const SERVICES: CapabilitySet = FILES
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_RESOURCE)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::AUDIT_WRITE);
/// Of who uses files as whom it serves.
const USERS: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID);
/// The first port that everybody may listen at.
const PORTS_OF_ALL: u16 = 1024;
/// Of an exporter: files and disks of everybody, commands to drives (`SYS_RAWIO`), metrics at any port.
const EXPORTER: CapabilitySet = FRAMES
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::SYS_RAWIO)
    .union(CapabilitySet::NET_BIND_SERVICE);

impl Process<'_> {
    fn rights(self) -> Rights {
        let none = CapabilitySet::empty();
        match self {
            Process::Supervisor => Rights {
                // Its program may lie anywhere.
                own: CapabilitySet::DAC_READ_SEARCH,
                // They give up themselves what they don't need (`SETPCAP`).
                of_programs: FRAMES | SERVICES | CapabilitySet::SETPCAP,
                programs_gain: true,
                refused: vec![calls::MACHINE],
                alone_at: None,
                is_nobody: false,
            },
            Process::Services => Rights {
                own: SERVICES,
                of_programs: none,
                // Mailers do (setgid).
                programs_gain: true,
                refused: vec![calls::MACHINE],
                alone_at: None,
                is_nobody: false,
            },
            Process::Ftp(config) => {
                // Services listen where clients begin; these ports are those of data.
                let is_low = config.ftp.passive_ports.first < PORTS_OF_ALL;
                let ports = if is_low { CapabilitySet::NET_BIND_SERVICE } else { none };
                Rights {
                    own: USERS | ports,
                    of_programs: none,
                    programs_gain: false,
                    refused: calls::ALL.to_vec(),
                    alone_at: Some(config.run_dir.clone()),
                    is_nobody: true,
                }
            }
            Process::Engine(config) | Process::Witnesses(config) => {
                let has_namespaces = config.interfaces.iter().any(|one| one.netns.is_some());
                let (own, mut refused) = match has_namespaces {
                    true => (FRAMES | CapabilitySet::SYS_ADMIN, Vec::new()),
                    false => (FRAMES, vec![calls::NAMESPACES]),
                };
                refused.extend([calls::MACHINE, calls::OTHERS, calls::MOUNTS, calls::PROGRAMS]);
                let own = own | files_of(config);
                Rights {
                    own,
                    of_programs: none,
                    programs_gain: false,
                    refused,
                    alone_at: None,
                    is_nobody: false,
                }
            }
            Process::Boot(state_dir) => Rights {
                // Its ports are open, and so are its directories: another user's take rights to files.
                own: if is_roots(state_dir) { none } else { FILES },
                of_programs: none,
                programs_gain: false,
                refused: calls::ALL.to_vec(),
                alone_at: Some(state_dir.to_owned()),
                is_nobody: false,
            },
            Process::Exporter { has_last_commands: false } => Rights {
                own: EXPORTER,
                // smartctl asks NVMe drives.
                of_programs: CapabilitySet::SYS_ADMIN,
                programs_gain: false,
                refused: vec![calls::MACHINE, calls::OTHERS, calls::MOUNTS, calls::NAMESPACES],
                alone_at: None,
                is_nobody: false,
            },
            // They may stop arrays, unmount and whatever else.
            Process::Exporter { has_last_commands: true } => Rights {
                own: EXPORTER,
                of_programs: CapabilitySet::all(),
                programs_gain: true,
                refused: vec![calls::MACHINE],
                alone_at: None,
                is_nobody: false,
            },
        }
    }
}

/// What it takes to reach the supervisor's own directories: nothing, unless they or the way to them are another
/// user's, as where root tries it in somebody's home.
fn files_of(config: &SupervisorConfig) -> CapabilitySet {
    let are_roots = [&config.state_dir, &config.run_dir].into_iter().all(|one| is_roots(one));
    if are_roots { CapabilitySet::empty() } else { FILES }
}

/// Whether root reaches and writes a directory as any user reaches and writes his own. One that doesn't exist is made.
fn is_roots(directory: &Path) -> bool {
    let Ok(directory) = std::path::absolute(directory) else { return false };
    // As it is, and by what its links mean.
    let real = directory.canonicalize().unwrap_or_else(|_| directory.clone());
    let mut ways = directory.ancestors().chain(real.ancestors());
    let own = real.metadata().map_or(true, |found| found.uid() == 0);
    own && ways.all(|way| {
        way.metadata().map_or(true, |found| found.uid() == 0 || found.mode() & 0o001 != 0)
    })
}

fn is_off() -> bool {
    std::env::var_os(SWITCH).is_some_and(|value| value == "off")
}

/// Keeps what is in memory out of core files: keys, tokens, passwords, in whichever command. Called first thing.
pub fn begin() {
    if !is_off() {
        // Linux knows this since long before any that this runs on.
        let _ = os::confine::forbid_core_files();
    }
}

/// Gives up what the process doesn't need; returns what is to be said of it. Called while there is no thread but that
/// of the log, which has given up all of its own.
pub fn confine(process: Process) -> Vec<String> {
    if is_off() {
        return vec![format!(
            "not confined, and its memory may be in core files: {SWITCH}=off is in its environment"
        )];
    }
    let failed = os::confine::confine(&process.rights());
    failed.iter().map(|error| format!("not fully confined: {error}")).collect()
}

/// The same for who has a log already.
pub fn confine_and_tell(process: Process) {
    confine(process).iter().for_each(|warning| tracing::warn!("{warning}"));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// What a child needs can't be regained where its parent is confined.
    #[test]
    fn a_supervisor_has_for_its_children_what_they_need() {
        let config = SupervisorConfig::parse(
            "interfaces = [{ name = 'eth0' }, { name = 'eth1', netns = 'storage' }]",
        );
        let config = config.unwrap();
        let parent = Process::Supervisor.rights();
        let children = [
            Process::Engine(&config),
            Process::Services,
            Process::Ftp(&config),
            Process::Witnesses(&config),
            Process::Boot(Path::new("/")),
        ];
        for child in children {
            let rights = child.rights();
            let needed = rights.own | rights.of_programs;
            assert!((parent.own | parent.of_programs).contains(needed), "{child:?}");
            let refused = |list: &&'static [i64]| rights.refused.contains(list);
            assert!(parent.refused.iter().all(refused), "{child:?}: it inherits refusals");
        }
    }

    /// The capabilities of a table's cell.
    fn named(cell: &str) -> CapabilitySet {
        let words = cell.split('`').skip(1).step_by(2);
        words
            .map(|word| CapabilitySet::from_name(word).unwrap_or_else(|| panic!("{word}")))
            .collect()
    }

    #[test]
    fn it_is_as_documented() {
        let text = std::fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/security.md"),
        );
        let text = text.unwrap();
        let config = "interfaces = [{ name = 'eth1', netns = 'storage' }]\n[ftp]\npassive-ports = [1023, 1024]";
        let config = SupervisorConfig::parse(config).unwrap();
        for (name, process) in [
            ("supervisor", Process::Supervisor),
            ("engine", Process::Engine(&config)),
            ("witnesses", Process::Witnesses(&config)),
            ("services", Process::Services),
            ("ftp", Process::Ftp(&config)),
            ("boot", Process::Boot(Path::new("/"))),
            ("node", Process::Exporter { has_last_commands: false }),
        ] {
            let begin = format!("| `{name}`");
            let row = text.lines().find(|line| line.starts_with(&begin)).unwrap();
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let rights = process.rights();
            // Of directories that aren't root's, as on a machine where this isn't run as root.
            let own = match process {
                Process::Engine(config) | Process::Witnesses(config) => {
                    rights.own - files_of(config)
                }
                _ => rights.own,
            };
            assert_eq!(own, named(cells[2]), "{row}");
            assert_eq!(rights.of_programs - rights.own, named(cells[3]), "{row}");
            assert_eq!(rights.programs_gain, cells[4] == "yes", "{row}");
            let lists = [
                ("machine", calls::MACHINE),
                ("others", calls::OTHERS),
                ("mounts", calls::MOUNTS),
                ("programs", calls::PROGRAMS),
                ("users", calls::USERS),
            ];
            for (word, list) in lists {
                assert_eq!(
                    rights.refused.contains(&list),
                    cells[5].contains(word),
                    "{word}: {row}"
                );
            }
        }
    }

    #[test]
    fn an_engine_enters_namespaces_only_where_its_configuration_names_some() {
        let rights = |text: &str| {
            let config = SupervisorConfig::parse(text).unwrap();
            Process::Engine(&config).rights()
        };
        let (with, without) = (
            rights("interfaces = [{ name = 'eth1', netns = 'storage' }]"),
            rights("interfaces = [{ name = 'eth1' }]"),
        );
        assert!(with.own.contains(CapabilitySet::SYS_ADMIN));
        assert!(!with.refused.contains(&calls::NAMESPACES));
        assert!(!without.own.contains(CapabilitySet::SYS_ADMIN));
        assert!(without.refused.contains(&calls::NAMESPACES));
    }

    #[test]
    fn ftp_has_a_right_to_ports_only_where_its_configuration_names_such() {
        let own = |text: &str| {
            let config = SupervisorConfig::parse(text).unwrap();
            Process::Ftp(&config).rights().own
        };
        assert_eq!(own(""), USERS);
        let low = own("[ftp]\npassive-ports = [1000, 2000]");
        assert_eq!(low, USERS | CapabilitySet::NET_BIND_SERVICE);
    }

    #[test]
    fn a_directory_of_another_user_takes_rights_to_files() {
        let directory = tempfile::tempdir().unwrap();
        let made = directory.path().join("made");
        std::fs::create_dir(&made).unwrap();
        let later = made.join("later");
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!((is_roots(&made), is_roots(&later)), (is_root, is_root));
        if is_root {
            let closed = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(&made, closed).unwrap();
            assert!(is_roots(&later));
            std::os::unix::fs::chown(&made, Some(1), None).unwrap();
            assert!(!is_roots(&later), "it can't be passed");
            assert!(!is_roots(&made));
        }
    }
}
