//! What passes between a node that was booted from the network and the boot server: by HTTP, as JSON. The node says hello,
//! and hears who it is.
//!
//! Nothing of it is proved but a hello's slots: whoever reaches the server says what he likes. So what arrives is bounded
//! before it is read, and text of it is plain.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use aoe_wire::MacAddr;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The form of what is said here. Fields may be added without another one: who doesn't know them doesn't miss them.
pub const VERSION: u32 = 1;
/// Where a node says hello.
pub const HELLO_PATH: &str = "/node/hello";
/// Longest hello.
pub const HELLO_BYTES_MAX: usize = 256 << 10;
/// Longest answer: with a configuration, which is text that people wrote.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Disks of a hello.
pub const DISKS_MAX: usize = 1024;
/// Interfaces of a hello.
pub const MACS_MAX: usize = 64;
/// Disks whose slots are told: no shelf has more.
pub const SLOTS_MAX: usize = 255;
/// Keys of an answer.
pub const SUPERVISORS_MAX: usize = 64;
/// Characters of any text that goes to tables and logs.
pub const TEXT_CHARS_MAX: usize = 256;
/// UUIDs that makers left in firmware as it was given to them.
const OF_MANY_MACHINES: [u128; 5] = [
    0x03000200_0400_0500_0006_000700080009,
    // The same with its first parts in the other order of bytes.
    0x00020003_0004_0005_0006_000700080009,
    0x12345678_1234_5678_90ab_cddeefaabbcc,
    0x12345678_1234_5678_1234_567812345678,
    0xfefefefe_fefe_fefe_fefe_fefefefefefe,
];
/// Characters of a key, or of a part of one.
const KEY_CHARS_MAX: usize = 16 << 10;

/// Which slot each disk of a node has: by the disk's WWN, its serial number or, where it has neither, its path.
pub type Slots = BTreeMap<String, u8>;

/// A node says hello: at its start, and again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// Of its SMBIOS.
    pub uuid: Option<Uuid>,
    /// Of its Ethernet interfaces.
    pub macs: Vec<MacAddr>,
    /// What it is called, if somebody has told it.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Which etherpool it runs.
    pub program_version: String,
    /// Which kernel.
    pub kernel: String,
    /// How far it is.
    pub phase: Phase,
    /// More about that, for people.
    #[serde(default)]
    pub message: Option<String>,
    /// What it has.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Which slots it has given its disks. It forgets them when it is off.
    #[serde(default)]
    pub slots: Slots,
    /// That those are its own: they are kept for it, and a stranger's would have its disks take turns.
    #[serde(default)]
    pub slots_signature: Option<String>,
    /// The key that it has made itself in this boot; none where it was handed one.
    #[serde(default)]
    pub identity: Option<Identity>,
}

/// How far a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It runs.
    Started,
    /// It exports disks, or would if it had some.
    Serving,
    /// Something hinders it; the message says what.
    Failed,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Started => "started",
            Phase::Serving => "serving",
            Phase::Failed => "failed",
        })
    }
}

/// A disk of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// By which path it is there.
    pub path: String,
    /// How large it is.
    pub size_bytes: u64,
    /// What the maker calls it.
    #[serde(default)]
    pub model: Option<String>,
    /// Its number.
    #[serde(default)]
    pub serial: Option<String>,
    /// Its name in the world.
    #[serde(default)]
    pub wwn: Option<String>,
    /// What is on it; nothing on a blank one.
    #[serde(default)]
    pub contents: Option<String>,
    /// Whether it is exported at the moment.
    #[serde(default)]
    pub exported: bool,
}

/// The key of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// As `etherpool key show` prints it.
    pub public: String,
    /// What is kept of it while the node is off.
    pub kept: Kept,
}

/// What the boot server keeps of a node's key, and hands to it at its next boot.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// The secret itself: whoever has this is the node.
    Plain {
        /// As in `identity.key`.
        secret: String,
    },
    /// Sealed to the node's TPM, and of no use without it.
    Tpm {
        /// The public part of the sealed object, in base64.
        public: String,
        /// The private part, in base64.
        private: String,
    },
}

/// Secrets don't go to logs.
impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kept::Plain { .. } => "Plain",
            Kept::Tpm { .. } => "Tpm",
        })
    }
}

/// What the boot server says to that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`].
    pub version: u32,
    /// What it is here.
    pub state: State,
    /// What it is called.
    #[serde(default)]
    pub name: Option<String>,
    /// The shelf of its disks.
    #[serde(default)]
    pub shelf: Option<u16>,
    /// The text of its `node.toml`.
    #[serde(default)]
    pub configuration: Option<String>,
    /// Public keys of those whom it obeys, beside those of its configuration.
    #[serde(default)]
    pub supervisors: Vec<String>,
    /// Which slots its disks have.
    #[serde(default)]
    pub slots: Slots,
    /// Who it is. Of an accepted node none where it has been handed it in this boot already: it stays who it is then.
    #[serde(default)]
    pub identity: Option<Identity>,
}

/// What a node is to the boot server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It isn't kept in mind: it says too little of itself, or there are too many.
    Unknown,
    /// Nobody has accepted it yet.
    Pending,
    /// It is a node of this cluster.
    Accepted,
}

/// Why bytes are no hello, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// They are too many.
    #[error("more than {0} bytes")]
    Long(usize),
    /// They are no JSON, or lack something.
    #[error("not as it should be: {0}")]
    Form(#[from] serde_json::Error),
    /// Somebody's of another time.
    #[error("version {0} isn't known here")]
    Version(u32),
    /// There is more of something than anybody has.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// A key that is none.
    #[error("a key is too long, or not of printable characters")]
    Key,
}

impl Hello {
    /// From the body of a request. Text of it is plain afterwards, and no longer than people read.
    pub fn parse(bytes: &[u8]) -> Result<Hello, Malformed> {
        let mut hello: Hello = bounded(bytes, HELLO_BYTES_MAX)?;
        check_version(hello.version)?;
        check_count("disks", hello.disks.len(), DISKS_MAX)?;
        check_count("interfaces", hello.macs.len(), MACS_MAX)?;
        check_count("slots", hello.slots.len(), SLOTS_MAX)?;
        hello.slots = sound(hello.slots);
        hello.slots_signature.as_deref().map_or(Ok(()), check_key)?;
        hello.identity.as_ref().map_or(Ok(()), Identity::check)?;
        hello.uuid = hello.uuid.filter(names_a_machine);
        hello.macs.retain(|mac| !mac.is_group() && mac.0 != [0; 6]);
        for text in [&mut hello.program_version, &mut hello.kernel] {
            *text = plain(text);
        }
        for text in [&mut hello.hostname, &mut hello.message] {
            *text = text.as_deref().map(plain);
        }
        for disk in &mut hello.disks {
            disk.path = plain(&disk.path);
            for text in [&mut disk.model, &mut disk.serial, &mut disk.wwn, &mut disk.contents] {
                *text = text.as_deref().map(plain);
            }
        }
        Ok(hello)
    }
}

impl Answer {
    /// From the body of a response.
    pub fn parse(bytes: &[u8]) -> Result<Answer, Malformed> {
        let mut answer: Answer = bounded(bytes, ANSWER_BYTES_MAX)?;
        check_version(answer.version)?;
        check_count("supervisors", answer.supervisors.len(), SUPERVISORS_MAX)?;
        check_count("slots", answer.slots.len(), SLOTS_MAX)?;
        answer.slots = sound(answer.slots);
        answer.supervisors.iter().try_for_each(|key| check_key(key))?;
        answer.identity.as_ref().map_or(Ok(()), Identity::check)?;
        Ok(answer)
    }
}

impl Identity {
    fn check(&self) -> Result<(), Malformed> {
        check_key(&self.public)?;
        match &self.kept {
            Kept::Plain { secret } => check_key(secret),
            Kept::Tpm { public, private } => check_key(public).and(check_key(private)),
        }
    }
}

fn bounded<'de, T: Deserialize<'de>>(bytes: &'de [u8], most: usize) -> Result<T, Malformed> {
    if bytes.len() > most {
        return Err(Malformed::Long(most));
    }
    Ok(serde_json::from_slice(bytes)?)
}

fn check_version(version: u32) -> Result<(), Malformed> {
    if version == VERSION { Ok(()) } else { Err(Malformed::Version(version)) }
}

fn check_count(what: &'static str, count: usize, most: usize) -> Result<(), Malformed> {
    if count > most { Err(Malformed::TooMany(what)) } else { Ok(()) }
}

/// Each slot once, and such as there are; of disks whose names are what they are in tables. What is signed is what is left:
/// nodes and servers have to have one idea of it.
pub fn sound(mut slots: Slots) -> Slots {
    let mut given = BTreeSet::new();
    let is_slot = |slot: u8| usize::from(slot) < SLOTS_MAX;
    slots.retain(|disk, slot| is_slot(*slot) && plain(disk) == *disk && given.insert(*slot));
    slots
}

/// What is signed of slots: lines of slot and disk, in the order of disks.
pub fn signed_slots(slots: &Slots) -> Vec<u8> {
    slots.iter().map(|(disk, slot)| format!("{slot} {disk}\n")).collect::<String>().into_bytes()
}

/// Whether slots are such as a node is told: none of it would be left out.
pub fn are_sound(slots: &Slots) -> bool {
    slots.len() <= SLOTS_MAX && sound(slots.clone()) == *slots
}

fn check_key(text: &str) -> Result<(), Malformed> {
    let is_one = text.len() <= KEY_CHARS_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_one { Ok(()) } else { Err(Malformed::Key) }
}

/// Whether a UUID of an SMBIOS is one machine's. Boards whose maker set nothing all say the same.
pub fn names_a_machine(uuid: &Uuid) -> bool {
    !uuid.is_nil() && !uuid.is_max() && !OF_MANY_MACHINES.contains(&uuid.as_u128())
}

/// What a machine says, so that it can stand in a table or a log: in one line, nothing that moves the cursor, or hides or
/// reorders what stands beside it, and cut.
pub fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !block::is_format(*c)).take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn hello() -> serde_json::Value {
        json!({
            "version": 1,
            "uuid": "00112233-4455-6677-8899-aabbccddeeff",
            "macs": ["02:00:00:00:00:07"],
            "program_version": "0.1.0",
            "kernel": "6.1.0",
            "phase": "serving",
            "disks": [{ "path": "/dev/vda", "size_bytes": 1 << 30 }],
            "slots": { "wwn-a": 1 },
            "identity": { "public": "AAAA=", "kept": { "plain": { "secret": "BBBB=" } } },
            "of_a_later_version": 7,
        })
    }

    fn parse(value: &serde_json::Value) -> Result<Hello, Malformed> {
        Hello::parse(&serde_json::to_vec(value).unwrap())
    }

    #[test]
    fn a_hello_comes_as_it_was_said() {
        let read = parse(&hello()).unwrap();
        assert_eq!((read.phase, read.disks[0].path.as_str()), (Phase::Serving, "/dev/vda"));
        assert_eq!(Hello::parse(&serde_json::to_vec(&read).unwrap()).unwrap(), read);
        let answer = Answer {
            version: VERSION,
            state: State::Accepted,
            name: Some("node-7".into()),
            shelf: Some(7),
            configuration: None,
            supervisors: vec!["AAAA=".into()],
            slots: read.slots,
            identity: read.identity,
        };
        assert_eq!(Answer::parse(&serde_json::to_vec(&answer).unwrap()).unwrap(), answer);
        let shown = format!("{answer:?}");
        assert!(shown.contains("AAAA=") && !shown.contains("BBBB="), "{shown}");
    }

    #[test]
    fn there_is_no_more_of_anything_than_anybody_has() {
        let with = |name: &str, value: serde_json::Value| {
            let mut hello = hello();
            hello[name] = value;
            parse(&hello)
        };
        let disk = hello()["disks"][0].clone();
        assert!(with("disks", vec![disk.clone(); DISKS_MAX].into()).is_ok());
        let many = with("disks", vec![disk; DISKS_MAX + 1].into());
        assert!(matches!(many, Err(Malformed::TooMany("disks"))), "{many:?}");
        let many = with("macs", vec!["02:00:00:00:00:07"; MACS_MAX + 1].into());
        assert!(matches!(many, Err(Malformed::TooMany("interfaces"))), "{many:?}");
        let slots: Slots = (0..=255).map(|slot| (format!("wwn-{slot:03}"), slot)).collect();
        let many = with("slots", json!(slots));
        assert!(matches!(many, Err(Malformed::TooMany("slots"))), "{many:?}");
        assert!(matches!(with("version", 2.into()), Err(Malformed::Version(2))));
        for key in ["A".repeat(KEY_CHARS_MAX + 1), "A\nB".into()] {
            let kept =
                json!({ "public": "A", "kept": { "tpm": { "public": "A", "private": key } } });
            assert!(matches!(with("identity", kept), Err(Malformed::Key)));
        }
        let long = with("kernel", "x".repeat(HELLO_BYTES_MAX).into());
        assert!(matches!(long, Err(Malformed::Long(_))), "{long:?}");
    }

    #[test]
    fn what_machines_call_things_is_plain_text() {
        let mut said = hello();
        said["hostname"] = "a\u{1b}[2J\nb\u{202e}".into();
        said["disks"][0]["model"] = "é".repeat(1000).into();
        said["uuid"] = Uuid::max().to_string().into();
        said["macs"] = json!(["ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "02:00:00:00:00:07"]);
        let read = parse(&said).unwrap();
        assert_eq!(read.hostname.as_deref(), Some("a[2Jb"));
        assert_eq!(read.disks[0].model.as_deref(), Some("é".repeat(TEXT_CHARS_MAX).as_str()));
        assert_eq!((read.uuid, read.macs.len()), (None, 1));
        for (text, is_one) in [
            ("03000200-0400-0500-0006-000700080009", false),
            ("00000000-0000-0000-0000-000000000000", false),
            ("03000200-0400-0500-0006-00070008000a", true),
        ] {
            assert_eq!(names_a_machine(&text.parse().unwrap()), is_one, "{text}");
        }
    }

    #[test]
    fn a_slot_is_one_disks() {
        let mut said = hello();
        said["slots"] = json!({ "a": 3, "b": 3, "c": 255, "d\u{1b}": 4, "e": 254 });
        let slots = parse(&said).unwrap().slots;
        assert_eq!(slots, Slots::from([("a".into(), 3), ("e".into(), 254)]));
    }

    proptest! {
        #[test]
        fn hostile_hellos_are_harmless(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0_usize..400) {
            let _ = Hello::parse(&bytes);
            let mut sound = serde_json::to_vec(&hello()).unwrap();
            let at = cut % sound.len();
            sound.splice(at..at + 1, bytes.into_iter().take(3));
            let _ = Hello::parse(&sound);
        }
    }
}
