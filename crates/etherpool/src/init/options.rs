//! What the kernel's command line says to a node: whoever boots it chooses that.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use aoe_wire::MacAddr;

/// Where the boot server listens if nobody says otherwise.
pub const HTTP_PORT: u16 = 8069;
/// Of syslog by UDP (RFC 5426).
const SYSLOG_PORT: u16 = 514;
/// Payloads of Ethernet that are worth a try.
const MTU_BYTES: std::ops::RangeInclusive<u32> = 576..=65_535;

/// What was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `etherpool.boot=`.
    pub boot: Boot,
    /// `etherpool.syslog=`.
    pub syslog: Option<Syslog>,
    /// `etherpool.mtu=`: of every wired interface.
    pub mtu_bytes: Option<u32>,
    /// `BOOTIF=`: the interface by which firmware booted, which is the same at each boot.
    pub booted_by: Option<MacAddr>,
    /// What wasn't understood.
    pub wrong: Vec<String>,
}

/// Who says what the node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Boot {
    /// Whoever the DHCP server says the machine was booted by.
    #[default]
    Found,
    /// The server there.
    At(SocketAddr),
    /// Nobody.
    None,
}

/// Who gets the log beside the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syslog {
    /// The boot server.
    BootServer,
    /// Somebody else.
    At(SocketAddr),
}

impl Options {
    /// Whether to ask a boot server that a DHCP server names, in place of this one. Who has accepted the node stays the one:
    /// whoever answers to DHCP doesn't get it by that.
    pub fn may_follow(
        &self,
        server: Option<SocketAddr>,
        found: SocketAddr,
        is_accepted: bool,
    ) -> bool {
        let is_asked = self.boot == Boot::Found && server != Some(found);
        is_asked && (server.is_none() || !is_accepted)
    }

    /// Of /proc/cmdline. Words of others say nothing here, and the last of several counts.
    pub fn parse(command_line: &str) -> Options {
        let mut options = Options::default();
        for word in command_line.split_ascii_whitespace() {
            if let Some(value) = word.strip_prefix("BOOTIF=") {
                // Of somebody else, who may mean anything by it.
                options.booted_by = booted_by(value);
            }
            let Some((key, value)) =
                word.strip_prefix("etherpool.").and_then(|word| word.split_once('='))
            else {
                continue;
            };
            let understood = match key {
                "boot" if value == "none" => {
                    options.boot = Boot::None;
                    Some(())
                }
                "boot" => server(value).map(|at| options.boot = Boot::At(at)),
                "syslog" if value == "boot" => {
                    options.syslog = Some(Syslog::BootServer);
                    Some(())
                }
                "syslog" => {
                    address(value, SYSLOG_PORT).map(|at| options.syslog = Some(Syslog::At(at)))
                }
                "mtu" => {
                    let bytes = value.parse().ok().filter(|bytes| MTU_BYTES.contains(bytes));
                    bytes.map(|bytes| options.mtu_bytes = Some(bytes))
                }
                _ => None,
            };
            if understood.is_none() {
                options.wrong.push(word.to_owned());
            }
        }
        options
    }

    /// Where the boot server collects logs, if it does.
    pub fn syslog_of(server: SocketAddr) -> SocketAddr {
        SocketAddr::new(server.ip(), SYSLOG_PORT)
    }

    /// The boot server at that address.
    pub fn found(address: Ipv4Addr) -> SocketAddr {
        SocketAddr::from((address, HTTP_PORT))
    }
}

/// `http://ADDRESS[:PORT][/]`. By address only: a node that boots knows no names.
fn server(text: &str) -> Option<SocketAddr> {
    let text = text.strip_prefix("http://").unwrap_or(text);
    address(text.strip_suffix('/').unwrap_or(text), HTTP_PORT)
}

/// `01-` for Ethernet, and its address.
fn booted_by(text: &str) -> Option<MacAddr> {
    let mac: MacAddr = text.strip_prefix("01-")?.replace('-', ":").parse().ok()?;
    (mac.0 != [0; 6] && !mac.is_group()).then_some(mac)
}

fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let with_port = text.parse::<SocketAddr>().ok();
    let alone = || {
        let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, port))
    };
    with_port.or_else(alone)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn whoever_answers_to_dhcp_does_not_get_a_node_that_somebody_has() {
        let [ours, theirs] = ["10.0.0.1:8069", "10.0.0.9:8069"].map(|at| at.parse().unwrap());
        let may = |words, server, is_accepted| {
            Options::parse(words).may_follow(server, theirs, is_accepted)
        };
        assert!(may("", None, false) && may("", None, true) && may("", Some(ours), false));
        assert!(!may("", Some(ours), true) && !may("", Some(theirs), false));
        for words in ["etherpool.boot=none", "etherpool.boot=http://10.0.0.1:8069"] {
            assert!(!may(words, None, false), "{words}");
        }
    }

    #[test]
    fn the_command_line_is_understood() {
        let line = "BOOT_IMAGE=x etherpool.boot=http://10.0.0.1:80/ console=ttyS0 etherpool.mtu=9000 etherpool.syslog=boot\n";
        let options = Options::parse(line);
        assert_eq!(options.boot, Boot::At("10.0.0.1:80".parse().unwrap()));
        assert_eq!((options.mtu_bytes, options.syslog), (Some(9000), Some(Syslog::BootServer)));
        assert!(options.wrong.is_empty());
        for (word, boot) in [
            ("etherpool.boot=http://10.0.0.1", Boot::At("10.0.0.1:8069".parse().unwrap())),
            ("etherpool.boot=[fd00::1]:99", Boot::At("[fd00::1]:99".parse().unwrap())),
            ("etherpool.boot=[fd00::1]", Boot::At("[fd00::1]:8069".parse().unwrap())),
            ("etherpool.boot=none", Boot::None),
            ("", Boot::Found),
        ] {
            assert_eq!(Options::parse(word).boot, boot, "{word}");
        }
    }

    #[test]
    fn who_booted_is_known_by_the_card_that_it_booted_by() {
        let booted_by = |words: &str| {
            let options = Options::parse(words);
            assert!(options.wrong.is_empty());
            options.booted_by.map(|mac| mac.to_string())
        };
        let known = booted_by("quiet BOOTIF=01-52-54-00-E7-00-77 console=ttyS0");
        assert_eq!(known.as_deref(), Some("52:54:00:e7:00:77"));
        for words in [
            "",
            "BOOTIF=",
            "BOOTIF=eth0",
            "BOOTIF=01-00-00-00-00-00-00",
            "BOOTIF=01-ff-ff-ff-ff-ff-ff",
            "BOOTIF=20-52-54-00-e7-00-77",
        ] {
            assert_eq!(booted_by(words), None, "{words}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told_and_does_nothing() {
        for word in [
            "etherpool.boot=http://name",
            "etherpool.boot=",
            "etherpool.mtu=1",
            "etherpool.mtu=x",
            "etherpool.syslog=somebody",
            "etherpool.else=1",
        ] {
            let options = Options::parse(word);
            let wrong = vec![word.to_owned()];
            assert_eq!(options, Options { wrong, ..Options::default() });
        }
    }
}
