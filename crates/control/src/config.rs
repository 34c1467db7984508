//! `supervisor.toml`. Without a file all defaults hold; with one, an unknown field or a value that
//! can't be meant is an error with line and column, because a misspelt `anonymous = false` that is
//! silently ignored opens a server to everybody.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use seal::{PublicKey, Security};
use serde::{Deserialize, Serialize};

use crate::alerts::AlertsConfig;
use crate::api::{ApiConfig, one_or_more};

/// The supervisor's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct SupervisorConfig {
    /// Ethernet interfaces on which disks are looked for and exports answer.
    pub interfaces: Vec<InterfaceConfig>,
    /// What must survive a reboot: who the supervisor is and its key, which pools it has, and what came with them.
    #[serde(alias = "state_dir")]
    pub state_dir: PathBuf,
    /// The directory of sockets, pid file and devices' files.
    #[serde(alias = "run_dir")]
    pub run_dir: PathBuf,
    /// Where links POOL/VOLUME to the block devices are made.
    #[serde(alias = "device_dir")]
    pub device_dir: PathBuf,
    /// The group that may look at everything by the API's socket; where it is empty, or there is no such group, only root
    /// may.
    pub readers: String,
    /// The API's socket; `api.sock` in `run-dir` without it.
    #[serde(alias = "api_socket")]
    pub api_socket: Option<PathBuf>,
    /// The socket of this machine's node process, for its own disks; `node.sock` in `run-dir` without it.
    #[serde(alias = "node_socket")]
    pub node_socket: Option<PathBuf>,
    /// What sessions over the wire have at least.
    pub security: Security,
    /// The keys of the machines whose disks are used, beside those that joined; all that have one are looked at without a
    /// list, but only disks of those that joined are taken into pools.
    pub nodes: Option<Vec<PublicKey>>,
    /// The keys of other supervisors, which may reach this one's votes and exported volumes by sessions; where keys
    /// are demanded nobody without a list.
    pub supervisors: Option<Vec<PublicKey>>,
    /// Where Prometheus may ask for metrics, in clear and without a password: `"127.0.0.1:9101"`; nowhere by default.
    pub metrics: Option<SocketAddr>,
    /// The configuration of a boot server that is a child of the supervisor; there is none without.
    pub boot: Option<PathBuf>,
    /// The API by TLS, for clients with a certificate; on its Unix socket it is served in any case. It takes all three files and a
    /// client at least. Files that were renewed are used within ten seconds.
    pub api: ApiConfig,
    /// The live page for browsers on this machine, in clear; by TLS it is where the API is.
    pub page: PageConfig,
    /// FTP for served volumes. With `certificate` and `key` there is TLS (`AUTH TLS`).
    pub ftp: FtpConfig,
    /// Where and how volumes are mounted.
    pub mount: MountConfig,
    /// Who is told what goes wrong. The journal has it in any case.
    pub alerts: AlertsConfig,
    /// What is logged, on the standard error.
    pub log: LogConfig,
}

/// Where the page is served in clear; by TLS it is where the API is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PageConfig {
    /// `"127.0.0.1:8480"`, or a list of such: at `127.0.0.1` and `[::1]` alone. Nowhere by default.
    #[serde(deserialize_with = "one_or_more")]
    #[schemars(with = "Vec<String>", extend("type" = ["string", "array"]))]
    pub listen: Vec<SocketAddr>,
}

impl PageConfig {
    fn check(&self) -> Result<(), (String, String)> {
        for (index, address) in self.listen.iter().enumerate() {
            let wrong = |why: String| Err((address.to_string(), why));
            if !["127.0.0.1", "::1"].contains(&address.ip().to_string().as_str()) {
                return wrong(format!(
                    "the page is served in clear at 127.0.0.1 and [::1] alone, as 127.0.0.1:8480: from \
                     elsewhere it is reached by TLS at the addresses of [api], or by ssh -L; not at {address}"
                ));
            }
            if self.listen[..index].contains(address) {
                return wrong(format!("{address} is named twice"));
            }
        }
        Ok(())
    }
}

/// An Ethernet interface, perhaps in another network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InterfaceConfig {
    /// Name as in `ip link`.
    pub name: String,
    /// Network namespace: a name under /run/netns or a path.
    #[serde(default)]
    pub netns: Option<String>,
}

/// How FTP is served.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct FtpConfig {
    /// The address of the control connection; `etherpool volume serve --listen` has another one for a volume.
    pub listen: SocketAddr,
    /// A file of those who may write: lines of `etherpool user hash`. Nobody may without it.
    #[serde(alias = "users_file")]
    pub users_file: Option<PathBuf>,
    /// Whether everybody may read what everybody may read.
    pub anonymous: bool,
    /// A file with the server's certificate first, then those that lead to a known one, PEM.
    pub certificate: Option<PathBuf>,
    /// A file with the secret key of that, PEM.
    pub key: Option<PathBuf>,
    /// Who uses TLS; `"required"` without it, where there is a certificate.
    pub tls: Option<TlsUse>,
    /// First and last port of passive data connections: one for each transfer at a time.
    #[serde(alias = "passive_ports")]
    pub passive_ports: PortRange,
}

/// Who uses TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TlsUse {
    /// Passwords, and the data of who gave one, go by TLS only.
    Required,
    /// Who asks for it has it.
    Offered,
}

/// A range of ports, `[first, last]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "[u16; 2]", into = "[u16; 2]")]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, not below the first.
    pub last: u16,
}

impl From<PortRange> for [u16; 2] {
    fn from(range: PortRange) -> [u16; 2] {
        [range.first, range.last]
    }
}

impl TryFrom<[u16; 2]> for PortRange {
    type Error = &'static str;

    fn try_from([first, last]: [u16; 2]) -> Result<PortRange, &'static str> {
        if first == 0 {
            Err("port 0 can't be listened on")
        } else if last < first {
            Err("the last port is below the first")
        } else {
            Ok(PortRange { first, last })
        }
    }
}

/// How volumes are mounted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MountConfig {
    /// Directories below which volumes may be mounted, and nowhere else: where a mount goes is
    /// written in the pool, so whoever made the pool chose it. With an empty list nothing is mounted.
    pub roots: Vec<PathBuf>,
    /// Options added to every mount. What these forbid (`nosuid`, `nodev`, `noexec`) no volume's own options allow.
    pub options: Vec<String>,
}

impl Default for MountConfig {
    fn default() -> MountConfig {
        let roots = ["/srv", "/mnt", "/media"].map(PathBuf::from).to_vec();
        MountConfig { roots, options: Vec::new() }
    }
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`), or a filter: `"pool=debug,info"`.
    pub level: String,
}

impl Default for SupervisorConfig {
    fn default() -> SupervisorConfig {
        SupervisorConfig {
            interfaces: Vec::new(),
            state_dir: "/var/lib/etherpool".into(),
            run_dir: "/run/etherpool".into(),
            device_dir: "/dev/etherpool".into(),
            readers: "etherpool".into(),
            api_socket: None,
            node_socket: None,
            security: Security::Encrypt,
            nodes: None,
            supervisors: None,
            metrics: None,
            boot: None,
            api: ApiConfig::default(),
            page: PageConfig::default(),
            ftp: FtpConfig::default(),
            mount: MountConfig::default(),
            alerts: AlertsConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Default for FtpConfig {
    fn default() -> FtpConfig {
        FtpConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 2121)),
            users_file: None,
            anonymous: true,
            certificate: None,
            key: None,
            tls: None,
            passive_ports: PortRange { first: 49152, last: 49407 },
        }
    }
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { level: "info".into() }
    }
}

/// Where and why a configuration can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct ConfigError {
    /// Line, counted from 1.
    pub line: usize,
    /// Column, counted from 1.
    pub column: usize,
    /// What is wrong there.
    pub reason: String,
}

/// Parses any of our TOML files; shared with the node's configuration.
pub fn parse_toml<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let (line, column) = line_and_column(text, offset);
        ConfigError { line, column, reason: error.message().trim().replace('\n', "; ") }
    })
}

pub(crate) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

impl SupervisorConfig {
    /// Parses and checks the text of a configuration file.
    pub fn parse(text: &str) -> Result<SupervisorConfig, ConfigError> {
        let config: SupervisorConfig = parse_toml(text)?;
        if let Err((needle, reason)) = config.check() {
            // The place of a value that is wrong by itself is where it is written.
            let (line, column) = line_and_column(text, text.find(&needle).unwrap_or(0));
            return Err(ConfigError { line, column, reason });
        }
        Ok(config)
    }

    fn check(&self) -> Result<(), (String, String)> {
        for (index, interface) in self.interfaces.iter().enumerate() {
            let name = &interface.name;
            // The kernel's own rule for names (IFNAMSIZ 16 with its zero).
            if name.is_empty()
                || name.len() > 15
                || name.contains(|c: char| c == '/' || c.is_whitespace())
            {
                return Err((name.clone(), format!("'{name}' is not the name of an interface")));
            }
            if self.interfaces[..index].contains(interface) {
                return Err((name.clone(), format!("interface '{name}' is named twice")));
            }
        }
        for path in [Some(&self.state_dir), Some(&self.run_dir), Some(&self.device_dir)]
            .into_iter()
            .chain([
                self.api_socket.as_ref(),
                self.node_socket.as_ref(),
                self.boot.as_ref(),
                self.ftp.users_file.as_ref(),
                self.ftp.certificate.as_ref(),
                self.ftp.key.as_ref(),
                self.api.certificate.as_ref(),
                self.api.key.as_ref(),
                self.api.client_ca.as_ref(),
            ])
            .flatten()
            .chain(&self.mount.roots)
        {
            if !path.is_absolute() {
                let text = path.display().to_string();
                return Err((text.clone(), format!("'{text}' must be an absolute path")));
            }
        }
        let FtpConfig { certificate, key, tls, .. } = &self.ftp;
        if certificate.is_some() != key.is_some() || tls.is_some() && certificate.is_none() {
            let why = "TLS of FTP takes a certificate and its key: both files have to be named";
            return Err(("[ftp]".to_owned(), why.to_owned()));
        }
        self.api.check()?;
        self.page.check()?;
        self.alerts.check()
    }

    /// The API's socket.
    pub fn api_socket(&self) -> PathBuf {
        self.api_socket.clone().unwrap_or_else(|| self.run_dir.join("api.sock"))
    }

    /// The engine's control channel.
    pub fn engine_socket(&self) -> PathBuf {
        self.run_dir.join("engine.sock")
    }

    /// The channel to the process that serves FTP.
    pub fn ftp_socket(&self) -> PathBuf {
        self.run_dir.join("ftp.sock")
    }

    /// The local node's frame socket, also if nobody listens there.
    pub fn node_socket(&self) -> PathBuf {
        self.node_socket.clone().unwrap_or_else(|| self.run_dir.join("node.sock"))
    }

    /// Where the files are by which the supervisor votes in pools.
    pub fn witness_dir(&self) -> PathBuf {
        self.state_dir.join("witnesses")
    }

    /// The run directory of the process that exports them: found by who asks all targets of this machine.
    pub fn witness_run_dir(&self) -> PathBuf {
        self.run_dir.join("target-witnesses")
    }

    /// Where that process takes frames of this machine's engine.
    pub fn witness_socket(&self) -> PathBuf {
        self.witness_run_dir().join("node.sock")
    }

    /// Directories, sockets and files without which its processes can't go on.
    pub fn needed_paths(&self) -> Vec<PathBuf> {
        let directories = [&self.state_dir, &self.run_dir, &self.device_dir].map(PathBuf::clone);
        let sockets =
            [self.api_socket(), self.engine_socket(), self.ftp_socket(), self.node_socket()];
        let FtpConfig { users_file, certificate, key, .. } = &self.ftp;
        let files = [users_file, certificate, key, &self.api.certificate, &self.api.key];
        let files = files.into_iter().chain([&self.api.client_ca, &self.boot]).flatten().cloned();
        directories.into_iter().chain(sockets).chain(files).collect()
    }

    /// The supervisor's pid file.
    pub fn pid_file(&self) -> PathBuf {
        self.run_dir.join("supervisor.pid")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    #[test]
    fn an_empty_file_is_all_defaults() {
        let config = SupervisorConfig::parse("").unwrap();
        assert_eq!(config, SupervisorConfig::default());
        assert_eq!(config.api_socket(), Path::new("/run/etherpool/api.sock"));
        assert_eq!(config.node_socket(), Path::new("/run/etherpool/node.sock"));
        // What nobody has asked for is reached by nobody else.
        assert!(config.ftp.listen.ip().is_loopback() && config.ftp.users_file.is_none());
        assert_eq!(config.mount.roots, ["/srv", "/mnt", "/media"].map(Path::new));
        assert!(config.metrics.is_none() && config.api.listen.is_empty());
        assert!(config.page.listen.is_empty());
    }

    #[test]
    fn a_full_file_is_read_as_written() {
        let config = SupervisorConfig::parse(
            r#"
            interfaces = [{ name = "eth0" }, { name = "eth1", netns = "storage" }]
            state_dir = "/srv/state"
            run-dir = "/run/x"
            api_socket = "/run/x/a.sock"
            node_socket = "/run/n.sock"
            [ftp]
            listen = "0.0.0.0:21"
            users_file = "/etc/etherpool/users"
            anonymous = false
            passive_ports = [50000, 50010]
            [mount]
            roots = ["/data"]
            options = ["noatime"]
            [log]
            level = "debug"
            [page]
            listen = ["127.0.0.1:8480", "[::1]:8480"]
            "#,
        )
        .unwrap();
        let namespaces = config.interfaces.iter().map(|interface| interface.netns.as_deref());
        assert_eq!(namespaces.collect::<Vec<_>>(), [None, Some("storage")]);
        assert_eq!(config.ftp.passive_ports, PortRange { first: 50000, last: 50010 });
        assert!(!config.ftp.anonymous);
        assert_eq!(config.engine_socket(), Path::new("/run/x/engine.sock"));
        assert_eq!(config.log.level, "debug");
        assert_eq!(config.mount.roots, [Path::new("/data")]);
        assert_eq!(config.page.listen.len(), 2);
    }

    #[test]
    fn errors_name_line_column_and_reason() {
        let cases = [
            ("state_dir = 3\n", (1, 13), "invalid type"),
            ("\n\nanonymus = true\n", (3, 1), "unknown field `anonymus`"),
            ("[ftp]\nanonymus = true\n", (2, 1), "unknown field `anonymus`"),
            ("[ftp]\nlisten = \"nowhere\"\n", (2, 10), "invalid socket address"),
            ("\n[ftp]\nkey = \"/key.pem\"\n", (2, 1), "both files have to be named"),
            ("[ftp]\ntls = \"required\"\n", (1, 1), "both files have to be named"),
            ("[ftp]\ntls = \"maybe\"\n", (2, 7), "unknown variant"),
            ("[ftp]\npassive_ports = [9, 3]\n", (2, 17), "the last port is below the first"),
            ("[ftp]\npassive_ports = [0, 3]\n", (2, 17), "port 0"),
            ("interfaces = [{ name = \"\" }]\n", (1, 1), "not the name of an interface"),
            ("interfaces = [{ name = \"eth0\", ns = \"x\" }]\n", (1, 32), "unknown field `ns`"),
            ("interfaces = [{ name = \"eth0\" }, { name = \"eth0\" }]\n", (1, 25), "named twice"),
            ("run_dir = \"here\"\n", (1, 12), "must be an absolute path"),
            ("[mount]\nroots = [\"srv\"]\n", (2, 11), "must be an absolute path"),
            ("boot = \"boot.toml\"\n", (1, 9), "must be an absolute path"),
            ("state_dir = \"/a\nx = 1", (1, 16), ""),
            ("[page]\nlisten = \"0.0.0.0:8480\"\n", (2, 11), "by TLS at the addresses of [api]"),
            ("[page]\nlisten = [\"[::1]:1\", \"192.0.2.1:1\"]\n", (2, 23), "or by ssh -L"),
            ("[page]\nlisten = [\"[::ffff:192.0.2.1]:1\"]\n", (2, 12), "not at [::ffff"),
            ("[page]\nlisten = [\"[::1]:1\", \"[::1]:1\"]\n", (2, 12), "named twice"),
            ("[page]\nlisten = 8480\n", (2, 10), "ADDRESS:PORT"),
        ];
        for (text, (line, column), reason) in cases {
            let error = SupervisorConfig::parse(text).unwrap_err();
            assert_eq!((error.line, error.column), (line, column), "{text}: {error}");
            assert!(error.reason.contains(reason), "{text}: {error}");
            assert!(!error.reason.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn columns_count_characters_even_inside_one() {
        assert_eq!(line_and_column("ä\nöx", 5), (2, 2));
        assert_eq!(line_and_column("ä\nöx", 4), (2, 1));
        assert_eq!(line_and_column("ä", 99), (1, 2));
    }
}
