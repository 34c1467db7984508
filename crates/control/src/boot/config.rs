//! `boot.toml`.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use aoe_wire::MacAddr;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{ConfigError, LogConfig, line_and_column, parse_toml};
use crate::duration::Span;

/// The boot server's configuration. Without `[dhcp]` it is a proxy: another server gives out addresses.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct BootConfig {
    /// The interface that it answers on; needed, here or by `-i`, which goes before it.
    pub interface: Option<String>,
    /// The directory of what it knows of machines, and of images.
    pub state_dir: PathBuf,
    /// The TCP port of files, scripts and what nodes ask for.
    pub http_port: u16,
    /// Addresses to give out. Without it the server is a proxy beside the DHCP server that there is.
    pub dhcp: Option<DhcpConfig>,
    /// Machines that have the same address always; only with `[dhcp]`.
    #[serde(rename = "static")]
    pub fixed: Vec<StaticConfig>,
    /// Programs for firmware: files of this directory alone.
    pub ipxe: IpxeConfig,
    /// What is logged, on the standard error.
    pub log: LogConfig,
}

/// What is given out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DhcpConfig {
    /// First and last address, of the interface's network.
    pub range: [Ipv4Addr; 2],
    /// Where packets to other networks go; nowhere by default.
    #[serde(default)]
    pub router: Option<Ipv4Addr>,
    /// The servers that know names.
    #[serde(default)]
    pub name_servers: Vec<Ipv4Addr>,
    /// The domain of names.
    #[serde(default)]
    pub domain: Option<String>,
    /// How long an address is one's own; a minute at least.
    #[serde(default = "default_lease")]
    pub lease: Span,
}

/// A machine that has the same address always.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticConfig {
    /// The address of its interface.
    pub mac: MacAddr,
    /// Its own, of the range or not.
    pub address: Ipv4Addr,
    /// What it is told that it is called.
    #[serde(default)]
    pub name: Option<String>,
}

/// Where iPXE is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct IpxeConfig {
    /// Where they are.
    pub directory: PathBuf,
    /// For a PC's BIOS.
    pub bios: String,
    /// For UEFI on x86-64; a link that leads out of the directory isn't followed.
    pub efi_x64: String,
}

impl Default for BootConfig {
    fn default() -> BootConfig {
        BootConfig {
            interface: None,
            state_dir: "/var/lib/etherpool/boot".into(),
            http_port: BootConfig::HTTP_PORT,
            dhcp: None,
            fixed: Vec::new(),
            ipxe: IpxeConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Default for IpxeConfig {
    fn default() -> IpxeConfig {
        IpxeConfig {
            directory: "/usr/lib/ipxe".into(),
            bios: "undionly.kpxe".into(),
            // Debian's `ipxe.efi` is a link out of the directory, and firmware that has booted by its card drives that well.
            efi_x64: "snponly.efi".into(),
        }
    }
}

fn default_lease() -> Span {
    Span(std::time::Duration::from_secs(3600))
}

/// What goes into replies: a label and its dots (RFC 1123, 2.1).
const NAME_BYTES_MAX: usize = 63;

impl BootConfig {
    /// By default.
    pub const HTTP_PORT: u16 = 8069;

    /// Parses and checks the text of a configuration file.
    pub fn parse(text: &str) -> Result<BootConfig, ConfigError> {
        let config: BootConfig = parse_toml(text)?;
        if let Err((needle, reason)) = config.check() {
            let (line, column) = line_and_column(text, text.find(&needle).unwrap_or(0));
            return Err(ConfigError { line, column, reason });
        }
        Ok(config)
    }

    fn check(&self) -> Result<(), (String, String)> {
        for path in [&self.state_dir, &self.ipxe.directory] {
            if !path.is_absolute() {
                let text = path.display().to_string();
                return Err((text.clone(), format!("'{text}' must be an absolute path")));
            }
        }
        for file in [&self.ipxe.bios, &self.ipxe.efi_x64] {
            if Path::new(file).components().count() != 1 || block::check_name(file).is_err() {
                return Err((file.clone(), format!("'{file}' is not the name of a file")));
            }
        }
        if self.http_port == 0 {
            return Err(("http-port".into(), "port 0 can't be listened on".into()));
        }
        let Some(dhcp) = &self.dhcp else {
            return match self.fixed.is_empty() {
                true => Ok(()),
                false => Err((
                    "[[static]]".into(),
                    "who gives out no addresses ([dhcp]) gives no machine the same one".into(),
                )),
            };
        };
        let [first, last] = dhcp.range;
        if first > last {
            return Err(("range".into(), "the range ends before it begins".into()));
        }
        if dhcp.lease.0.as_secs() < 60 {
            return Err(("lease".into(), "a lease of less than a minute is none".into()));
        }
        let names = self.fixed.iter().filter_map(|one| one.name.as_ref()).chain(&dhcp.domain);
        for name in names {
            let is_sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
            if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_sound) {
                return Err((
                    name.clone(),
                    format!("'{name}' is not a name of letters and digits"),
                ));
            }
        }
        let (mut macs, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for StaticConfig { mac, address, .. } in &self.fixed {
            if mac.is_group() {
                return Err((mac.to_string(), format!("{mac} is the address of a group")));
            }
            if !macs.insert(mac) {
                return Err((mac.to_string(), format!("{mac} has two addresses")));
            }
            if !addresses.insert(address) {
                return Err((address.to_string(), format!("{address} is two machines'")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_empty_file_is_a_proxy() {
        let config = BootConfig::parse("").unwrap();
        assert_eq!(config, BootConfig::default());
        assert!(config.dhcp.is_none());
    }

    #[test]
    fn a_full_file_is_read_as_written() {
        let config = BootConfig::parse(
            "interface = 'eth1'\nstate-dir = '/s'\nhttp-port = 80\n\
             [dhcp]\nrange = ['10.0.0.10', '10.0.0.20']\nrouter = '10.0.0.1'\n\
             name-servers = ['10.0.0.1']\ndomain = 'lan'\nlease = '2h'\n\
             [[static]]\nmac = '02:00:00:00:00:07'\naddress = '10.0.0.7'\nname = 'node-7'\n\
             [ipxe]\ndirectory = '/i'\nbios = 'ipxe.pxe'\nefi-x64 = 'snponly.efi'\n\
             [log]\nlevel = 'debug'\n",
        );
        let config = config.unwrap();
        let dhcp = config.dhcp.unwrap();
        assert_eq!((dhcp.lease.0.as_secs(), dhcp.domain.as_deref()), (7200, Some("lan")));
        assert_eq!(config.fixed[0].name.as_deref(), Some("node-7"));
        assert_eq!(config.ipxe.efi_x64, "snponly.efi");
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let dhcp = "[dhcp]\nrange = ['10.0.0.10', '10.0.0.20']\n";
        let mac = "[[static]]\nmac = '02:00:00:00:00:07'\n";
        for (text, line, reason) in [
            ("interfaces = 'eth1'\n", 1, "unknown field"),
            ("\nstate-dir = 'x'\n", 2, "absolute"),
            ("http-port = 0\n", 1, "port 0"),
            ("[ipxe]\nbios = '../x'\n", 2, "not the name of a file"),
            ("[dhcp]\n", 1, "missing field `range`"),
            ("[dhcp]\nrange = ['10.0.0.20', '10.0.0.10']\n", 2, "before it begins"),
            (&format!("{dhcp}lease = '5'\n"), 3, "no span"),
            (&format!("{dhcp}lease = '5s'\n"), 3, "less than a minute"),
            (&format!("{dhcp}domain = 'a b'\n"), 3, "not a name"),
            (&format!("\n{mac}address = '10.0.0.7'\n"), 2, "gives out no addresses"),
            (&format!("{dhcp}{mac}address = '10.0.0'\n"), 5, "invalid IPv4"),
            (
                &format!("{dhcp}{mac}address = '10.0.0.7'\n{mac}address = '10.0.0.8'\n"),
                4,
                "two addresses",
            ),
        ] {
            let error = BootConfig::parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(error.reason.contains(reason), "{text}: {error}");
        }
    }
}
