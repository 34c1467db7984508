//! Which supervisor a command asks: one of this machine by its socket, or one elsewhere by TLS, as the command line, the
//! environment or the user's own file says, in this order. Where that says two things nothing is asked: what is meant for
//! one supervisor must not reach another.

use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use control::alerts::webhook_url;
use control::config::{SupervisorConfig, parse_toml};
use frontend::tls::KeyFiles;
use serde::Deserialize;

use super::Failure;
use crate::client::{Address, Remote};
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

/// The user's own file: `etherpool/client.toml` below `$XDG_CONFIG_HOME`, or `~/.config`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ClientFile {
    api: Option<String>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    ca: Option<PathBuf>,
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
        (_, Some(_)) => remote(args, read_own()?),
        _ => match read_own()? {
            own if own.api.is_some() => remote(args, own),
            _ => Ok(Address::Socket(of_this_machine(socket))),
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

fn remote(args: RemoteArgs, own: ClientFile) -> Result<Address, Failure> {
    let url = args.api.or(own.api).unwrap_or_default();
    let parsed = webhook_url(&url)
        .and_then(|parsed| if parsed.tls { Ok(parsed) } else { Err("is not https://HOST:PORT") })
        .and_then(|parsed| match parsed.path.as_str() {
            "/" => Ok(parsed),
            _ => Err("has a path, which the API has none of"),
        });
    let parsed = parsed.map_err(|why| {
        Failure::usage(format!("the API's URL '{url}' {why}")).remedy(
            "write it as https://HOST:PORT, as `listen` of [api] in supervisor.toml has it there",
        )
    })?;
    let certificate = args.certificate.or(own.certificate);
    let key = args.certificate_key.or(own.key);
    let Some((certificate, key)) = certificate.zip(key) else {
        return Err(Failure::usage(format!(
            "{url} is asked by who has a certificate with its key"
        ))
        .remedy(
            "name their files by --certificate and --certificate-key, or in the environment, or in \
                 ~/.config/etherpool/client.toml",
        ));
    };
    let files = KeyFiles { certificate, key };
    Ok(Address::Remote(Box::new(Remote { url: parsed, files, ca: args.ca.or(own.ca) })))
}

fn read_own() -> Result<ClientFile, Failure> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".config")));
    config.map_or_else(
        || Ok(ClientFile::default()),
        |config| read(&config.join("etherpool/client.toml")),
    )
}

fn read(file: &Path) -> Result<ClientFile, Failure> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(ClientFile::default());
        }
        Err(error) => return Err(Failure::usage(format!("{}: {error}", file.display()))),
    };
    let own: ClientFile = parse_toml(&text)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    // Beside the file, wherever the command runs.
    let beside = file.parent().unwrap_or(file);
    let beside = |named: Option<PathBuf>| named.map(|named| beside.join(named));
    let ClientFile { api, certificate, key, ca } = own;
    Ok(ClientFile { api, certificate: beside(certificate), key: beside(key), ca: beside(ca) })
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
    fn only_a_supervisor_by_tls_is_asked_and_by_who_can_show_who_he_is() {
        for url in
            ["http://h:1", "h:1", "https://", "https://h:x", "https://u@h:1", "https://h:1/v1"]
        {
            let failure = remote(args(url), ClientFile::default()).unwrap_err();
            assert!(failure.error.message.contains(url), "{failure:?}");
        }
        let bare = RemoteArgs { certificate_key: None, ..args("https://[::1]:1") };
        let failure = remote(bare, ClientFile::default()).unwrap_err();
        assert!(failure.text(false).contains("--certificate-key"), "{failure:?}");
    }

    #[test]
    fn the_users_file_fills_in_what_is_not_said() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("client.toml");
        assert!(read(&file).unwrap().api.is_none());
        std::fs::write(&file, "api = 'https://own:2'\ncertificate = 'c.pem'\nkey = '/k.pem'\n")
            .unwrap();
        let own = read(&file).unwrap();
        let Address::Remote(found) = remote(RemoteArgs::default(), own).unwrap() else { panic!() };
        assert_eq!((found.url.host.as_str(), found.url.port), ("own", 2));
        assert_eq!(found.files.certificate, directory.path().join("c.pem"));
        assert_eq!(found.files.key, Path::new("/k.pem"));
        let Address::Remote(found) = remote(args("https://h"), read(&file).unwrap()).unwrap()
        else {
            panic!()
        };
        assert_eq!((found.url.port, found.files.certificate.as_path()), (443, Path::new("/c")));
        std::fs::write(&file, "password = 'x'\n").unwrap();
        let failure = read(&file).unwrap_err();
        assert!(failure.error.message.contains("line 1, column 1: unknown field"), "{failure:?}");
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
