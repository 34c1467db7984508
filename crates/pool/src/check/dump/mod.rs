//! Everything that disks of pools say, one structure after the other: for people who must find out what is
//! wrong, and for tests that damage each structure in turn.
//!
//! It shares with the check how disks are read and which copy of the metadata is the newest; it judges nothing but
//! whether a structure is sound. Everything is told as it is read, so that neither a large pool nor a wreck
//! takes more memory than the metadata and a few MiB. Keys of log segments are left out: who has one can forge
//! records in what he writes.

mod area;
mod metadata;
mod segments;
mod slots;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::copies;
use super::disks::{Disk, part_twins, read_disk};
use super::findings::Findings;
use super::source::DiskImage;
use super::view::View;
use super::votes::judge_votes;
use super::{is_wanted, match_members};
use crate::format::PoolId;

/// A kind of structure that disks carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StructureKind {
    /// A slot of the label.
    Label,
    /// A slot of the reservation record, which targets write.
    Reservation,
    /// A slot of the vote.
    Vote,
    /// A slot of the applied block.
    Applied,
    /// The header of a checkpoint of the metadata.
    CheckpointHeader,
    /// The table of a checkpoint.
    CheckpointTable,
    /// A section of a checkpoint.
    CheckpointSection,
    /// An entry of the metadata log.
    MetadataEntry,
    /// The header of a log segment.
    SegmentHeader,
    /// A record of a volume's log: rows with their contents.
    DataRecord,
    /// A record: rows that are zeros now.
    ZeroRecord,
    /// A record: how far the log was.
    MarkRecord,
    /// A record: rows of which only checksums are known.
    LostRecord,
    /// A record: rows that are written where nothing was.
    FreshIntent,
    /// A record: rows that are written where something was.
    OverwriteIntent,
    /// A slot of a checksum block.
    ChecksumBlock,
}

block::words!(StructureKind {
    Label = "label",
    Reservation = "reservation",
    Vote = "vote",
    Applied = "applied",
    CheckpointHeader = "checkpoint-header",
    CheckpointTable = "checkpoint-table",
    CheckpointSection = "checkpoint-section",
    MetadataEntry = "metadata-entry",
    SegmentHeader = "segment-header",
    DataRecord = "data-record",
    ZeroRecord = "zero-record",
    MarkRecord = "mark-record",
    LostRecord = "lost-record",
    FreshIntent = "fresh-intent",
    OverwriteIntent = "overwrite-intent",
    ChecksumBlock = "checksum-block",
});
block::serde_as_text!(StructureKind);

/// Whether a structure can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StructureState {
    /// It is what belongs there.
    Sound,
    /// Something else is there.
    Damaged,
    /// Zeros: nothing was ever written there, or it was wiped.
    Blank,
    /// The disk can't read it.
    Unreadable,
}

block::words!(StructureState {
    Sound = "sound",
    Damaged = "damaged",
    Blank = "blank",
    Unreadable = "unreadable",
});
block::serde_as_text!(StructureState);

/// A value of a structure.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A number; bytes are in fields whose names end so.
    Number(u64),
    /// Whether.
    Flag(bool),
    /// A name, id, or word.
    Text(String),
    /// Several.
    List(Vec<Value>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => write!(f, "{number}"),
            Value::Flag(true) => f.write_str("yes"),
            Value::Flag(false) => f.write_str("no"),
            // What a disk says may hold anything, also what a terminal would obey.
            Value::Text(text) if text.chars().any(|c| c.is_control() || c == '"' || c == ' ') => {
                write!(f, "{text:?}")
            }
            Value::Text(text) if text.is_empty() => f.write_str("\"\""),
            Value::Text(text) => f.write_str(text),
            Value::List(values) if values.is_empty() => f.write_str("none"),
            Value::List(values) => values.iter().enumerate().try_for_each(|(index, value)| {
                let comma = if index > 0 { "," } else { "" };
                write!(f, "{comma}{value}")
            }),
        }
    }
}

macro_rules! value_of {
    ($($type:ty => $form:expr),+ $(,)?) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Value {
                $form(value)
            }
        }
    )+};
}

value_of! {
    u64 => Value::Number,
    u32 => |number| Value::Number(u64::from(number)),
    u16 => |number| Value::Number(u64::from(number)),
    u8 => |number| Value::Number(u64::from(number)),
    usize => |number| Value::Number(number as u64),
    bool => Value::Flag,
    &str => |text: &str| Value::Text(text.to_owned()),
    String => Value::Text,
    uuid::Uuid => |id: uuid::Uuid| Value::Text(id.to_string()),
    Vec<Value> => Value::List,
}

/// Fields with their names, in the order in which they are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn with(mut self, name: &'static str, value: impl Into<Value>) -> Fields {
        self.0.push((name, value.into()));
        self
    }

    fn with_if(self, name: &'static str, value: Option<impl Into<Value>>) -> Fields {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(index, (name, value))| {
            let space = if index > 0 { " " } else { "" };
            write!(f, "{space}{name}={value}")
        })
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// A structure where it lies.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Structure {
    /// Its disk, as it was given.
    pub disk: String,
    /// What it is.
    pub kind: StructureKind,
    /// Where it begins.
    pub disk_offset_bytes: u64,
    /// How long it is there. (A record's rows aren't counted, a section's other runs are told each for itself.)
    pub bytes: u64,
    /// Whether it can be believed.
    pub state: StructureState,
    /// What it says.
    #[serde(flatten)]
    pub says: Fields,
}

/// Something that a dump tells.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "about", rename_all = "kebab-case")]
pub enum DumpItem {
    /// A structure on a disk.
    Structure(Structure),
    /// What the newest metadata says of the pool.
    Pool(Fields),
    /// Of a disk.
    Disk(Fields),
    /// Of a volume.
    Volume(Fields),
    /// Of groups that lie together.
    Run(Fields),
    /// Of a segment of a volume's log.
    Segment(Fields),
    /// Of what a disk lacks of a group.
    Dirty(Fields),
    /// Of long work.
    Job(Fields),
    /// Of a setting of a volume or, without one, of the pool.
    Setting(Fields),
    /// A disk of which nothing could be told.
    Stranger(Fields),
}

/// Who is told; he may have enough.
pub type Told<'t> = &'t mut dyn FnMut(DumpItem) -> ControlFlow<()>;

/// What a slot of the reservation record says, if it is sound, by who knows that structure: targets write it.
pub type ReadReservation<'r> = &'r dyn Fn(&[u8], u32) -> Option<Reservation>;

/// What a reservation record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Newer ones have higher ones.
    pub sequence: u64,
    /// The highest epoch that the target accepted.
    pub epoch: u64,
    /// Whose that is.
    pub owner: uuid::Uuid,
    /// The size that the disk had when it was claimed.
    pub labelled_bytes: u64,
    /// Ethernet addresses of clients that it is reserved for.
    pub clients: Vec<String>,
}

/// What is to be told.
#[derive(Clone, Copy)]
pub struct DumpOptions<'o> {
    /// Only the pool with this name or id.
    pub pool: Option<&'o str>,
    /// Also each slot of each checksum block.
    pub checksums: bool,
    /// Reads a slot of the reservation record.
    pub reservation: ReadReservation<'o>,
}

/// Tells everything that these disks say: first what is at fixed places of each, then, pool by pool, its metadata,
/// its logs and, where they are asked for, its checksum blocks. The number of pools that were told of.
pub fn dump(images: &[DiskImage<'_>], options: &DumpOptions<'_>, tell: Told<'_>) -> usize {
    let mut told = 0;
    // Whoever is told has had enough: that is no failure.
    let _ = dump_all(images, options, &mut told, tell);
    told
}

fn dump_all(
    images: &[DiskImage<'_>],
    options: &DumpOptions<'_>,
    told: &mut usize,
    tell: Told<'_>,
) -> ControlFlow<()> {
    let mut findings = Findings::default();
    let mut pools: BTreeMap<PoolId, Vec<Disk<'_>>> = BTreeMap::new();
    for image in images {
        match read_disk(image, &mut findings) {
            Some((pool, disk)) => pools.entry(pool).or_default().push(disk),
            // Its slots may say more than that it can't be used.
            None if options.pool.is_none() => {
                slots::tell_slots(image, None, options.reservation, tell)?;
                let fields = Fields::default().with("disk", image.name.as_str());
                tell(DumpItem::Stranger(fields.with("bytes", image.bytes)))?;
            }
            None => {}
        }
    }
    for (id, disks) in pools {
        if is_wanted(options.pool, id, &disks) {
            *told += 1;
            dump_pool(id, disks, options, tell)?;
        }
    }
    ControlFlow::Continue(())
}

fn dump_pool(
    id: PoolId,
    disks: Vec<Disk<'_>>,
    options: &DumpOptions<'_>,
    tell: Told<'_>,
) -> ControlFlow<()> {
    for disk in &disks {
        slots::tell_slots(disk.image, Some(disk), options.reservation, tell)?;
        area::tell_area(id, disk, tell)?;
    }
    let mut findings = Findings::default();
    let mut disks = part_twins(disks, &mut findings);
    let (config, _) = judge_votes(&mut disks, &mut findings);
    let chosen = copies::read_metadata(id, &disks, config.as_ref(), &mut findings);
    let Some(metadata) = &chosen.metadata else { return ControlFlow::Continue(()) };
    let by_number = match_members(metadata, &mut disks, &mut findings);
    let view = View {
        disks: &disks,
        by_number,
        config: config.as_ref(),
        metadata,
        newest: chosen.newest,
        released: false,
        data: false,
        visit: None,
    };
    metadata::tell_metadata(metadata, tell)?;
    for volume in metadata.volumes().values() {
        metadata::tell_volume(metadata, volume, tell)?;
        for segment in volume.log.segments.values() {
            segments::tell_segment(&view, volume, segment, tell)?;
        }
        if options.checksums {
            segments::tell_checksums(&view, volume, tell)?;
        }
    }
    ControlFlow::Continue(())
}

/// A structure that is described.
struct Place<'p> {
    disk: &'p str,
    kind: StructureKind,
    at: u64,
    bytes: u64,
}

impl Place<'_> {
    fn is(&self, state: StructureState, says: Fields) -> DumpItem {
        DumpItem::Structure(Structure {
            disk: self.disk.to_owned(),
            kind: self.kind,
            disk_offset_bytes: self.at,
            bytes: self.bytes,
            state,
            says,
        })
    }
}

/// How bytes are that aren't a sound structure.
fn unsound(bytes: Option<&[u8]>) -> StructureState {
    match bytes {
        None => StructureState::Unreadable,
        Some(bytes) if bytes.iter().all(|byte| *byte == 0) => StructureState::Blank,
        Some(_) => StructureState::Damaged,
    }
}
