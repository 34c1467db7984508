//! `etherpopulate.conf`, as the Perl script of the old system read it:
//!
//! ```text
//! # comment
//! node-194 start exec mdadm --assemble --scan
//! node-194 start ataoe /dev/md0 0
//! node-194 stop exec mdadm --stop --scan
//! ```
//!
//! A line is for the machine of that name, or with that number at the end of its name. The number is
//! the shelf of its exports.

use std::path::PathBuf;

use super::{ExportConfig, NodeConfig};

/// All machines of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Etherpopulate {
    nodes: Vec<(String, NodeConfig)>,
}

/// A line that isn't of the known form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: line {line}: {what}", file = .file.display())]
pub struct EtherpopulateError {
    /// The file.
    pub file: PathBuf,
    /// Counted from one.
    pub line: usize,
    /// What is wrong with it and what was expected.
    pub what: String,
}

impl Etherpopulate {
    /// The configuration of the machine called `name`, if the file has lines for it.
    pub fn node(&self, name: &str) -> Option<&NodeConfig> {
        self.nodes.iter().find(|(node, _)| node == name).map(|(_, config)| config)
    }

    /// The machines that the file has lines for.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|(name, _)| name.as_str())
    }
}

/// Reads a whole file; lines for other machines are checked too, so that a mistake shows wherever
/// the file is tried first.
///
/// # Errors
/// The first line that isn't of the known form.
pub fn parse_etherpopulate(
    text: &str,
    file: &std::path::Path,
) -> Result<Etherpopulate, EtherpopulateError> {
    let mut all = Etherpopulate::default();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        parse_line(line, &mut all).map_err(|what| EtherpopulateError {
            file: file.to_owned(),
            line: index + 1,
            what,
        })?;
    }
    Ok(all)
}

fn parse_line(line: &str, all: &mut Etherpopulate) -> Result<(), String> {
    let (name, rest) = word(line);
    let (when, rest) = word(rest);
    let (what, rest) = word(rest);
    let shelf = shelf_of(name)?;
    let config = match all.nodes.iter().position(|(node, _)| node == name) {
        Some(index) => &mut all.nodes[index].1,
        None => {
            let config = NodeConfig {
                name: Some(name.to_owned()),
                shelf: Some(shelf),
                automatic: Some(false),
                ..NodeConfig::default()
            };
            all.nodes.push((name.to_owned(), config));
            let last = all.nodes.len() - 1;
            &mut all.nodes[last].1
        }
    };
    match (when, what) {
        ("start" | "stop", "exec") if rest.is_empty() => Err("exec needs a command".to_owned()),
        ("start", "exec") => {
            config.before_start.push(rest.to_owned());
            Ok(())
        }
        ("stop", "exec") => {
            config.after_stop.push(rest.to_owned());
            Ok(())
        }
        ("start", "ataoe") => {
            let (path, rest) = word(rest);
            let (slot, rest) = word(strip_comment(rest));
            let slot: u8 = slot
                .parse()
                .ok()
                .filter(|slot| *slot < 255)
                .ok_or("ataoe needs a device and a slot from 0 to 254")?;
            if path.is_empty() || !rest.is_empty() {
                return Err("ataoe needs a device and a slot, and nothing else".to_owned());
            }
            let address = format!("e{shelf}.{slot}");
            if config.export.iter().any(|export| export.address == address) {
                return Err(format!("{address} is exported twice"));
            }
            let path = path.to_owned();
            config.export.push(ExportConfig { address, path, ..ExportConfig::default() });
            Ok(())
        }
        _ => Err("want NODE start exec CMD, NODE start ataoe DEVICE SLOT, or NODE stop exec CMD"
            .to_owned()),
    }
}

fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    match text.find(char::is_whitespace) {
        Some(end) => (&text[..end], text[end..].trim()),
        None => (text, ""),
    }
}

fn strip_comment(text: &str) -> &str {
    text.split('#').next().unwrap_or_default().trim()
}

fn shelf_of(name: &str) -> Result<u16, String> {
    let digits = name.rfind(|c: char| !c.is_ascii_digit()).map_or(name, |last| {
        let behind = last + name[last..].chars().next().map_or(1, char::len_utf8);
        &name[behind..]
    });
    digits.parse::<u16>().ok().filter(|shelf| *shelf < 0xffff).ok_or_else(|| {
        format!("{name:?} does not end in a shelf number (want for example node-194)")
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::Path;

    fn parse(text: &str) -> Result<Etherpopulate, EtherpopulateError> {
        parse_etherpopulate(text, Path::new("etherpopulate.conf"))
    }

    #[test]
    fn the_old_file_is_taken_as_it_is() {
        let all = parse(
            "# the cluster\n\nnode-194 start exec mdadm --assemble /dev/md0  # really\n\
             node-194 start ataoe /dev/md0 0\nnode-194\tstart ataoe /dev/sdc 1 # spare\n\
             node-194 stop exec mdadm --stop /dev/md0\nnode-7 start ataoe /dev/sdb 0\n",
        )
        .unwrap();
        let node = all.node("node-194").unwrap();
        assert_eq!(node.before_start, ["mdadm --assemble /dev/md0  # really"]);
        assert_eq!(node.after_stop, ["mdadm --stop /dev/md0"]);
        let addresses: Vec<_> = node.export.iter().map(|e| (&*e.address, &*e.path)).collect();
        assert_eq!(addresses, [("e194.0", "/dev/md0"), ("e194.1", "/dev/sdc")]);
        assert_eq!(all.node("node-7").unwrap().export[0].address, "e7.0");
        assert!(all.node("node-8").is_none());
        assert_eq!(node.plans().unwrap().len(), 2);
        assert_eq!(node.automatic, Some(false));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, line) in [
            ("node-1 start ataoe /dev/sda\n", 1),
            ("# x\nnode-1 begin exec ls\n", 2),
            ("node start ataoe /dev/sda 0", 1),
            ("node-1 start ataoe /dev/sda 255", 1),
            ("node-1 start ataoe /dev/a 0\nnode-1 start ataoe /dev/b 0", 2),
            ("node-65535 start ataoe /dev/a 0", 1),
            ("node-1 start exec", 1),
            ("é start exec x", 1),
        ] {
            assert_eq!(parse(text).unwrap_err().line, line, "{text}");
        }
    }
}
