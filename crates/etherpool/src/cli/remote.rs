//! Which supervisor a command asks: one of this machine by its socket, or one elsewhere by TLS, as the command line, the
//! environment or the user's own file says, in this order. Where that says two things nothing is asked: what is meant for
//! one supervisor must not reach another.

use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use client::{Address, Named};
use control::config::SupervisorConfig;

use super::Failure;
use crate::supervisor::{DEFAULT_CONFIG, Identity};

const ELSEWHERE: &str = "A supervisor elsewhere (or in ~/.config/etherpool/client.toml)";

/// Options by which a supervisor elsewhere is asked.
#[derive(Debug, Default, Args)]
pub struct RemoteArgs {
    /// A supervisor elsewhere: https://HOST:PORT
    #[arg(long, global = true, help_heading = ELSEWHERE, value_name = "URL", env = "ETHERPOOL_API")]
    api: Option<String>,

    /// File with the certificate that --api is shown, PEM
    #[arg(long, global = true, help_heading = ELSEWHERE, value_name = "FILE", env = "ETHERPOOL_CERTIFICATE")]
    certificate: Option<PathBuf>,

    /// File with the certificate's secret key, PEM
    #[arg(long, global = true, help_heading = ELSEWHERE, value_name = "FILE", env = "ETHERPOOL_CERTIFICATE_KEY")]
    certificate_key: Option<PathBuf>,

    /// File with whom to trust at --api, PEM; whom this machine trusts without it
    #[arg(long, global = true, help_heading = ELSEWHERE, value_name = "FILE", env = "ETHERPOOL_CA")]
    ca: Option<PathBuf>,
}

impl RemoteArgs {
    fn named(self) -> Named {
        let RemoteArgs { api, certificate, certificate_key: key, ca } = self;
        Named { api, certificate, key, ca }
    }
}

/// Where the socket and the URL of a command come from.
pub struct Sources {
    /// The command's words, without its arguments.
    command: String,
    socket: Option<ValueSource>,
    api: Option<ValueSource>,
}

impl Sources {
    pub fn of(matches: &ArgMatches) -> Sources {
        let mut words = Vec::new();
        let mut below = matches.subcommand();
        while let Some((word, matches)) = below {
            words.push(word);
            below = matches.subcommand();
        }
        Sources {
            command: words.join(" "),
            socket: matches.value_source("socket"),
            api: matches.value_source("api"),
        }
    }

    /// Whether the command line itself names a socket: the environment and the default mean a supervisor's, never a
    /// target's.
    pub fn name_socket(&self) -> bool {
        self.socket == Some(ValueSource::CommandLine)
    }

    /// Refuses a command of this machine that is to be another's.
    pub fn check_local(&self) -> Result<(), Failure> {
        if self.api != Some(ValueSource::CommandLine) {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "`etherpool {}` works on the machine that it runs on: leave --api away, and run it there",
            self.command
        )))
    }
}

/// The supervisor that is meant.
pub fn address(socket: PathBuf, args: RemoteArgs, sources: &Sources) -> Result<Address, Failure> {
    use ValueSource::{CommandLine, EnvVariable};
    match (sources.socket, sources.api) {
        (Some(CommandLine), Some(CommandLine)) => {
            Err(Failure::usage("--socket names one supervisor, and --api another"))
        }
        (Some(EnvVariable), Some(EnvVariable)) => Err(Failure::usage(
            "ETHERPOOL_SOCKET names one supervisor, and ETHERPOOL_API another: unset one of them",
        )),
        (Some(CommandLine), _) | (Some(EnvVariable), None) => Ok(Address::Socket(socket)),
        _ => match args.named().or(Named::of_user()?).address()? {
            Some(address) => Ok(address),
            None => Ok(Address::Socket(of_this_machine(socket))),
        },
    }
}

/// The socket of this machine's supervisor; where it has none, of its lab: what is tried there is typed as it would be
/// elsewhere. It is said each time, as nobody may take the one for the other.
fn of_this_machine(socket: PathBuf) -> PathBuf {
    let lab = std::env::var_os(lab::LAB_DIR_VARIABLE).filter(|dir| !dir.is_empty());
    let lab = lab::api_socket(&lab.map_or_else(|| lab::LAB_DIR.into(), PathBuf::from));
    // One that runs, or ran, has made the first, or the third.
    let identity = Identity::file(&SupervisorConfig::default().state_dir);
    let supervisors = [&socket, Path::new(DEFAULT_CONFIG), &identity];
    if !is_labs(&supervisors, &lab) {
        return socket;
    }
    eprintln!("etherpool: this machine has no supervisor; asking its lab, {}", lab.display());
    lab
}

/// Whether the lab is meant: a supervisor that only doesn't run is asked all the same, and says so.
fn is_labs(supervisors: &[&Path], lab: &Path) -> bool {
    let is_absent = |file: &&Path| file.try_exists().is_ok_and(|exists| !exists);
    supervisors.iter().all(is_absent) && std::os::unix::net::UnixStream::connect(lab).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn args(api: &str) -> RemoteArgs {
        let file = |name: &str| Some(PathBuf::from(name));
        RemoteArgs {
            api: Some(api.to_owned()),
            certificate: file("/c"),
            certificate_key: file("/k"),
            ca: None,
        }
    }

    fn of(socket: Option<ValueSource>, api: Option<ValueSource>) -> Sources {
        Sources { command: "join".to_owned(), socket, api }
    }

    fn asked(socket: Option<ValueSource>, api: Option<ValueSource>) -> Result<String, String> {
        let found = address("/s".into(), args("https://h:1"), &of(socket, api));
        found.map(|found| found.to_string()).map_err(|failure| failure.error.message)
    }

    #[test]
    fn the_nearer_word_counts_and_two_of_the_same_are_refused() {
        use ValueSource::{CommandLine, DefaultValue, EnvVariable};
        let (socket, api) = (Ok("/s".to_owned()), Ok("https://h:1".to_owned()));
        assert_eq!(asked(Some(CommandLine), None), socket);
        assert_eq!(asked(Some(CommandLine), Some(EnvVariable)), socket);
        assert_eq!(asked(Some(EnvVariable), None), socket);
        assert_eq!(asked(Some(EnvVariable), Some(CommandLine)), api);
        assert_eq!(asked(Some(DefaultValue), Some(CommandLine)), api);
        assert_eq!(asked(Some(DefaultValue), Some(EnvVariable)), api);
        assert!(asked(Some(CommandLine), Some(CommandLine)).unwrap_err().contains("--socket"));
        assert!(asked(Some(EnvVariable), Some(EnvVariable)).unwrap_err().contains("unset"));
    }

    #[test]
    fn the_lab_is_asked_where_no_other_supervisor_is_meant() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let (socket, config, identity) = (file("socket"), file("config"), file("owner-id"));
        let is_asked = || is_labs(&[&socket, &config, &identity], &file("lab"));
        assert!(!is_asked(), "no lab either");
        let lab = std::os::unix::net::UnixListener::bind(file("lab")).unwrap();
        assert!(is_asked());
        for name in ["socket", "config", "owner-id"] {
            std::fs::write(file(name), "").unwrap();
            assert!(!is_asked(), "{name}");
            std::fs::remove_file(file(name)).unwrap();
        }
        drop(lab);
        assert!(!is_asked(), "what is left of it answers nobody");
    }

    #[test]
    fn what_belongs_to_this_machine_is_not_sent_elsewhere() {
        let failure = of(None, Some(ValueSource::CommandLine)).check_local().unwrap_err();
        assert!(failure.error.message.contains("`etherpool join`"), "{failure:?}");
        assert!(of(None, Some(ValueSource::EnvVariable)).check_local().is_ok());
        assert!(of(None, None).check_local().is_ok());
    }
}
