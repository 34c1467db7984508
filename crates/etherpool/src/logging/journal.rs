//! Lines with their fields, as systemd's journal takes them (systemd.io/JOURNAL_NATIVE_PROTOCOL): so that
//! `journalctl ETHERPOOL_POOL=tank` finds what is about a pool.
//!
//! tracing-journald does the same, and waits for the journal on the thread that logs, by a path that confined processes
//! don't see. Here a line is put together where it is logged, and sent by the thread of the log.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use os::dir::Spot;
use sha2::{Digest as _, Sha256};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use uuid::{Builder, Uuid};

use super::LineQueue;
use super::fields::{Fields, NamedValue};

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// What systemd says of a standard error that goes to the journal: its device and inode.
pub const STREAM_VARIABLE: &str = "JOURNAL_STREAM";
/// Longer values are cut: what is sent must fit into one datagram.
const VALUE_BYTES_MAX: usize = 16 << 10;

/// The journal's socket.
pub struct Journal {
    spot: Spot,
}

impl Journal {
    /// The journal, if this process's standard error goes there.
    pub fn find() -> Option<Journal> {
        let stream = std::env::var(STREAM_VARIABLE).ok()?;
        let (device, inode) = stream.split_once(':')?;
        let error = io::stderr().as_fd().try_clone_to_owned().ok()?;
        let error = std::fs::File::from(error).metadata().ok()?;
        let is_there = device.parse() == Ok(error.dev()) && inode.parse() == Ok(error.ino());
        let journal = is_there.then(|| Journal::at(Path::new(SOCKET)))?.ok()?;
        // There may be a journal without this socket in sight, as in some containers.
        journal.connect().is_ok().then_some(journal)
    }

    fn at(path: &Path) -> io::Result<Journal> {
        Ok(Journal { spot: Spot::of(path)? })
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        self.spot.connect(&socket)?;
        Ok(socket)
    }
}

/// Each write is an entry. Connects for each, as the journal may have been restarted, and lines are rare. What it doesn't
/// take goes, as a sentence, where the journal hears standard error.
impl Write for Journal {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        let sent = self.connect().and_then(|socket| socket.send(entry));
        if sent.is_err() {
            let sentence = entry.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
            let sentence = sentence.strip_prefix(b"MESSAGE=").unwrap_or(sentence);
            io::stderr().write_all(sentence)?;
        }
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Puts entries together and queues them.
pub struct Entries(pub LineQueue);

impl<S: Subscriber> Layer<S> for Entries {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        self.0.push(entry(level, target, &Fields::of(&event)));
    }
}

/// An entry of a line.
fn entry(level: Level, target: &str, fields: &Fields) -> Vec<u8> {
    let mut entry = sentence(level, &fields.text());
    add(&mut entry, "TARGET", target);
    for NamedValue { name, value, .. } in &fields.others {
        match value.split_once('/') {
            // As commands name it; of events pool and volume are told apart already.
            Some((pool, volume)) if *name == "volume" => {
                add(&mut entry, "ETHERPOOL_POOL", pool);
                add(&mut entry, "ETHERPOOL_VOLUME", volume);
            }
            _ => add(&mut entry, &format!("ETHERPOOL_{}", field_name(name)), value),
        }
        if *name == "event" {
            add(&mut entry, "MESSAGE_ID", &message_id(value).simple().to_string());
        }
    }
    entry
}

/// An entry that is only a sentence.
pub fn plain(text: &str) -> Vec<u8> {
    sentence(Level::WARN, text)
}

/// What each entry begins with.
fn sentence(level: Level, text: &str) -> Vec<u8> {
    let mut entry = Vec::new();
    add(&mut entry, "MESSAGE", text);
    add(&mut entry, "PRIORITY", priority(level));
    add(&mut entry, "SYSLOG_IDENTIFIER", "etherpool");
    entry
}

/// The catalogue's entries as journalctl reads them (systemd.io/CATALOG).
pub fn catalogue() -> String {
    let mut text = "# What etherpool tells: made by the program itself.\n".to_owned();
    for one in control::catalogue::all() {
        text.push_str(&format!(
            "\n-- {}\nSubject: {}\nDefined-By: etherpool\nDocumentation: man:etherpool-explain(1)\n\n{}\n",
            message_id(one.id).simple(),
            one.title,
            one.meaning
        ));
    }
    text
}

/// The journal's number of an id: what it looks up explanations by.
fn message_id(id: &str) -> Uuid {
    let digest = Sha256::new().chain_update(b"etherpool message ").chain_update(id).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// As the journal allows it: capital letters, digits, underscores.
fn field_name(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(allowed).collect()
}

/// A value in several lines is written with its length.
fn add(entry: &mut Vec<u8>, name: &str, value: &str) {
    let value = &value.as_bytes()[..value.floor_char_boundary(VALUE_BYTES_MAX)];
    entry.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    /// Fields of an entry as the journal reads them.
    fn read(mut entry: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while !entry.is_empty() {
            let end = entry.iter().position(|byte| *byte == b'\n').unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            match entry[..end].iter().position(|byte| *byte == b'=') {
                Some(name) => {
                    fields.push((text(&entry[..name]), text(&entry[name + 1..end])));
                    entry = &entry[end + 1..];
                }
                None => {
                    let (len, rest) = entry[end + 1..].split_first_chunk::<8>().unwrap();
                    let len = u64::from_le_bytes(*len) as usize;
                    fields.push((text(&entry[..end]), text(&rest[..len])));
                    assert_eq!(rest[len], b'\n');
                    entry = &rest[len + 1..];
                }
            }
        }
        fields
    }

    fn logged(log: impl FnOnce()) -> Vec<(String, String)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let queue = LineQueue::start(Journal::at(&path).unwrap(), plain).unwrap();
        let subscriber = tracing_subscriber::registry().with(Entries(queue));
        tracing::subscriber::with_default(subscriber, log);
        let mut bytes = vec![0; 256 << 10];
        let len = socket.recv(&mut bytes).unwrap();
        read(&bytes[..len])
    }

    fn value<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
        fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn what_happened_has_its_id_and_what_it_is_about() {
        let volume: Option<&str> = None;
        let fields = logged(|| {
            tracing::warn!(
                event = "disk-out",
                pool = "tank",
                volume,
                disk = "e1.0",
                after = 3,
                "out"
            );
        });
        assert_eq!(value(&fields, "MESSAGE"), Some("out after=3"));
        assert_eq!(value(&fields, "PRIORITY"), Some("4"));
        assert_eq!(value(&fields, "ETHERPOOL_EVENT"), Some("disk-out"));
        assert_eq!(value(&fields, "ETHERPOOL_POOL"), Some("tank"));
        assert_eq!(value(&fields, "ETHERPOOL_DISK"), Some("e1.0"));
        assert_eq!(value(&fields, "ETHERPOOL_AFTER"), Some("3"));
        assert_eq!(value(&fields, "ETHERPOOL_VOLUME"), None);
        let id = value(&fields, "MESSAGE_ID").unwrap();
        assert!(
            catalogue().contains(&format!("\n-- {id}\nSubject: A pool goes on without a disk\n"))
        );
        // It is in catalogues that are installed: it stays.
        assert_eq!(id, "c51d1c8c7b0f89ff89ff459e91f3f77d");
    }

    #[test]
    fn a_line_without_an_id_says_its_fields() {
        let fields = logged(|| tracing::info!(pool = "tank", pid = 7, "started"));
        assert_eq!(value(&fields, "MESSAGE"), Some("started pool=\"tank\" pid=7"));
        assert_eq!(value(&fields, "ETHERPOOL_POOL"), Some("tank"));
        assert_eq!(value(&fields, "MESSAGE_ID"), None);
        let fields = logged(|| tracing::info!(volume = "tank/files", "mounted"));
        assert_eq!(value(&fields, "MESSAGE"), Some("mounted volume=\"tank/files\""));
        assert_eq!(value(&fields, "ETHERPOOL_POOL"), Some("tank"));
        assert_eq!(value(&fields, "ETHERPOOL_VOLUME"), Some("files"));
    }

    /// Whoever has a line logged that he made up can't add fields by it.
    #[test]
    fn several_lines_and_long_ones_stay_one_value() {
        let said = "a\nETHERPOOL_POOL=other\nb";
        let fields = logged(|| tracing::info!(said, "refused"));
        assert_eq!(value(&fields, "ETHERPOOL_SAID"), Some(said));
        let message = value(&fields, "MESSAGE");
        assert_eq!(message, Some("refused said=\"a\\nETHERPOOL_POOL=other\\nb\""));
        assert_eq!(value(&fields, "ETHERPOOL_POOL"), None);
        let long = "é".repeat(VALUE_BYTES_MAX);
        let fields = logged(|| tracing::info!("{long}"));
        assert_eq!(value(&fields, "MESSAGE").unwrap().len(), VALUE_BYTES_MAX);
    }
}
