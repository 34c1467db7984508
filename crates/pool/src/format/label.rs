//! The label: whose disk this is, and where everything on it is.
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 8 | magic "EPLABEL\0", by which `block::probe` knows it too |
//! | 8 | 4 | CRC32C of the label, this field as zeros |
//! | 12 | 1 | slot, 0 to 3 |
//! | 13 | 1 | failure domain: 1 node, 2 disk |
//! | 14 | 2 | format version: 0 |
//! | 16 | 8 | compatible features: who doesn't know one ignores it |
//! | 24 | 8 | read-only-compatible features: who doesn't know one only reads |
//! | 32 | 8 | incompatible features: who doesn't know one refuses |
//! | 40 | 8 | sequence |
//! | 48 | 16 | pool |
//! | 64 | 16 | disk |
//! | 80 | 4 | disk number |
//! | 84 | 4 | number of vote disks |
//! | 88 | 8 | labelled size in bytes |
//! | 96 | 8 | extent size in bytes |
//! | 104 | 4 | metadata area: its first extent |
//! | 108 | 4 | metadata area: how many extents; 0 (and 0 as the first) for none |
//! | 112 | 16 | machine that the disk was labelled on |
//! | 128 | 16 | owner that made the pool |
//! | 144 | 80 | ids of the disks that had a vote when it was written, 16 each |
//! | 224 | 64 | pool's name, UTF-8, zero padded |
//! | 288 | 64 | machine's name, UTF-8, zero padded |
//! | 352 | 3744 | zero |
//!
//! The metadata area lies within the extents, which begin at 1 MiB and end before the labels at the end.
//! The label only says where to look: what is found there must name the same place (`metadata::Disk`),
//! or it isn't this disk's copy of the metadata.
//!
//! Magic, CRC, slot and version keep their places in all versions, so that a newer format is told
//! from damage.
//!
//! Protects against: a disk of another pool, a disk that shrank, a newer format, damage to either end
//! of the disk, and a torn update: sequence n goes to the slots n mod 2 at both ends, and the newest
//! label of which **two** valid copies exist counts. A lone copy is an update that wasn't completed,
//! or an older label that surfaced. The two are at different ends, so that what was copied from another
//! disk in part, or used for something else since, doesn't pass for the disk.

use block::{BLOCK_BYTES, Buffer, BufferMut, Lba, OwnerId};
use uuid::Uuid;

use super::field::{Field, crc_without};
use super::voters::VOTE_DISKS_MAX;
use super::{DiskGeometry, DiskId, DiskNumber, ExtentNumber, ExtentRange, PoolId, SEQUENCE_MAX};

const MAGIC_BYTES: &[u8; 8] = &block::probe::LABEL_MAGIC;
const VERSION_NOW: u64 = 0;

const MAGIC: Field = Field::first(8);
const CRC: Field = MAGIC.then(4);
const SLOT: Field = CRC.then(1);
const DOMAIN: Field = SLOT.then(1);
const VERSION: Field = DOMAIN.then(2);
const COMPATIBLE: Field = VERSION.then(8);
const READ_ONLY: Field = COMPATIBLE.then(8);
const INCOMPATIBLE: Field = READ_ONLY.then(8);
const SEQUENCE: Field = INCOMPATIBLE.then(8);
const POOL: Field = SEQUENCE.then(16);
const DISK: Field = POOL.then(16);
const NUMBER: Field = DISK.then(4);
const VOTE_COUNT: Field = NUMBER.then(4);
const LABELLED: Field = VOTE_COUNT.then(8);
const EXTENT: Field = LABELLED.then(8);
const AREA_FIRST: Field = EXTENT.then(4);
const AREA_COUNT: Field = AREA_FIRST.then(4);
const NODE: Field = AREA_COUNT.then(16);
const FIRST_OWNER: Field = NODE.then(16);
const VOTES: Field = FIRST_OWNER.then(16 * VOTE_DISKS_MAX);
const POOL_NAME: Field = VOTES.then(NAME_BYTES_MAX);
const NODE_NAME: Field = POOL_NAME.then(NAME_BYTES_MAX);
const REST: Field = NODE_NAME.then(LABEL_BYTES - NODE_NAME.end());

/// Bytes in a slot.
pub const LABEL_BYTES: usize = BLOCK_BYTES;
/// Longest name of a pool or machine, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 64;

const _: () = assert!(REST.end() == LABEL_BYTES);
const _: () = assert!(NODE_NAME.end() == 352);

/// What members of a group must not share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, schemars::JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum FailureDomain {
    /// A machine with all its disks.
    #[default]
    Node,
    /// A disk.
    Disk,
}

block::words!(FailureDomain { Node = "node", Disk = "disk" });
block::serde_as_text!(FailureDomain);

/// What a format has beyond its version, by how much one must know of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Ignored by who doesn't know them.
    pub compatible: u64,
    /// Who doesn't know one may read but not write.
    pub read_only: u64,
    /// Who doesn't know one stays away.
    pub incompatible: u64,
}

impl Features {
    /// What this code knows.
    pub const KNOWN: Features = Features { compatible: 0, read_only: 0, incompatible: 0 };
    /// Names of bits that are given out, so that older code can say what it lacks.
    const INCOMPATIBLE_NAMES: [&'static str; 4] =
        ["parity groups", "thin volumes", "several logs per volume", "witnesses"];

    /// The names of features that keep off who doesn't know them, of which this code knows nothing.
    fn unknown_names(self) -> Vec<String> {
        let name = |bit: usize| match Self::INCOMPATIBLE_NAMES.get(bit) {
            Some(name) => (*name).to_string(),
            None => format!("feature {bit}"),
        };
        unknown_bits(self.incompatible, Self::KNOWN.incompatible).map(name).collect()
    }

    /// Those that let who doesn't know them read, and not write.
    pub fn unknown_to_writers(self) -> Vec<String> {
        let name = |bit| format!("feature {bit} (without it a pool may only be read)");
        unknown_bits(self.read_only, Self::KNOWN.read_only).map(name).collect()
    }
}

fn unknown_bits(used: u64, known: u64) -> impl Iterator<Item = usize> {
    (0..64_usize).filter(move |bit| used & !known & 1 << bit != 0)
}

/// A label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// What the pool's format has beyond its version.
    pub features: Features,
    /// The pool.
    pub pool: PoolId,
    /// Its name.
    pub pool_name: String,
    /// The disk.
    pub disk: DiskId,
    /// Its index in the pool.
    pub number: DiskNumber,
    /// Where things are.
    pub geometry: DiskGeometry,
    /// The extents that are its metadata area, if it has one.
    pub area: Option<ExtentRange>,
    /// What members of the pool's groups must not share.
    pub failure_domain: FailureDomain,
    /// The machine that it was labelled on.
    pub node: Uuid,
    /// That machine's name.
    pub node_name: String,
    /// Who made the pool. (Who owns it now is in the votes.)
    pub first_owner: OwnerId,
    /// The disks that had a vote when it was written, at most [`VOTE_DISKS_MAX`]: whom to look for where no
    /// vote can be read. Who votes now is in the votes.
    pub vote_disks: Vec<DiskId>,
}

impl Label {
    /// Whether it is a witness's: its metadata area takes all that the disk has.
    pub fn is_witness(&self) -> bool {
        self.area.is_some_and(|area| area.is_all_of(self.geometry.extents()))
    }

    /// Where a witness's extents are, and how many bytes they have.
    pub(crate) fn witness_place(&self) -> Option<(Lba, u64)> {
        self.geometry.run_place(self.area.filter(|_| self.is_witness())?)
    }

    /// The bytes for a slot, 0 to 3. A sequence n goes to the slots n mod 2 and 2 + n mod 2. Names
    /// and vote disks beyond the maximum are cut: who makes a pool has refused them.
    pub fn encode(&self, sequence: u64, slot: usize) -> Buffer {
        let mut label = BufferMut::zeroed(LABEL_BYTES);
        MAGIC.of_mut(&mut label).copy_from_slice(MAGIC_BYTES);
        SLOT.put_number(&mut label, slot as u64);
        let domain = match self.failure_domain {
            FailureDomain::Node => 1,
            FailureDomain::Disk => 2,
        };
        DOMAIN.put_number(&mut label, domain);
        VERSION.put_number(&mut label, VERSION_NOW);
        COMPATIBLE.put_number(&mut label, self.features.compatible);
        READ_ONLY.put_number(&mut label, self.features.read_only);
        INCOMPATIBLE.put_number(&mut label, self.features.incompatible);
        SEQUENCE.put_number(&mut label, sequence);
        POOL.put_uuid(&mut label, self.pool.0);
        DISK.put_uuid(&mut label, self.disk.0);
        NUMBER.put_number(&mut label, u64::from(self.number.0));
        VOTE_COUNT.put_number(&mut label, self.vote_disks.len().min(VOTE_DISKS_MAX) as u64);
        LABELLED.put_number(&mut label, self.geometry.labelled_bytes());
        EXTENT.put_number(&mut label, self.geometry.extent_bytes());
        if let Some(area) = self.area {
            AREA_FIRST.put_number(&mut label, u64::from(area.first.0));
            AREA_COUNT.put_number(&mut label, u64::from(area.count));
        }
        NODE.put_uuid(&mut label, self.node);
        FIRST_OWNER.put_uuid(&mut label, self.first_owner.0);
        let votes = VOTES.of_mut(&mut label).chunks_exact_mut(16);
        for (field, disk) in votes.zip(&self.vote_disks) {
            field.copy_from_slice(disk.0.as_bytes());
        }
        POOL_NAME.put_text(&mut label, &self.pool_name);
        NODE_NAME.put_text(&mut label, &self.node_name);
        let crc = crc_without(&label, CRC);
        CRC.put_number(&mut label, u64::from(crc));
        label.freeze()
    }

    /// The slots that a sequence goes to.
    pub fn slots_of(sequence: u64) -> [usize; 2] {
        let parity = (sequence % 2) as usize;
        [parity, 2 + parity]
    }
}

/// Which of the four slots aren't sound labels though this is a labelled disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LabelFaults {
    /// By slot.
    pub damaged: [bool; 4],
}

/// The label that counts on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedLabel {
    /// The label.
    pub label: Label,
    /// Its sequence.
    pub sequence: u64,
    /// The sequence for the next update: above the highest ever seen, and never in the slots of the
    /// label that counts.
    pub next_sequence: u64,
    /// Slots that hold something else than a sound label.
    pub faults: LabelFaults,
}

/// What a disk's label slots say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelState {
    /// All slots could be read and none has ever held a label.
    Blank,
    /// A disk of a pool. (Whether it is one's own pool is the caller's to compare.)
    Labelled(Box<SelectedLabel>),
    /// It can't be used as it is.
    Refused(LabelError),
}

/// Why a labelled disk can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// No label has two sound copies.
    #[error("the label is damaged (slots {})", slots(.faults))]
    Damaged {
        /// Which slots.
        faults: LabelFaults,
        /// The pool and disk that a lone sound copy names.
        named: Option<(PoolId, DiskId)>,
        /// The newest label, where the slots of the newest whole one aren't all damaged and all that is left names
        /// the same disk. It may be another disk's all the same, copied here: who takes it has another reason to.
        left: Option<Box<SelectedLabel>>,
    },
    /// The device is smaller than its label says.
    #[error("the disk is truncated: labelled {labelled_bytes} bytes, it has {device_bytes}")]
    Truncated {
        /// The pool that the label names.
        pool: PoolId,
        /// The disk that the label names.
        disk: DiskId,
        /// Its size by the label.
        labelled_bytes: u64,
        /// Its size.
        device_bytes: u64,
    },
    /// Made by a newer etherpool.
    #[error("format version {version} is newer than this etherpool knows (0)")]
    NewerVersion {
        /// Its version.
        version: u16,
    },
    /// Uses what this etherpool doesn't know.
    #[error("the pool uses what this etherpool does not know: {}", .names.join(", "))]
    UnknownFeatures {
        /// Their names.
        names: Vec<String>,
    },
}

impl LabelError {
    /// The newest label that is left, if it names this disk ([`LabelError::Damaged`]).
    pub fn left_of(&self, disk: (PoolId, DiskId)) -> Option<&SelectedLabel> {
        let LabelError::Damaged { left: Some(left), .. } = self else { return None };
        ((left.label.pool, left.label.disk) == disk).then_some(left)
    }
}

fn slots(faults: &LabelFaults) -> String {
    let numbers = (0..4).filter(|slot| faults.damaged[*slot]).map(|slot| slot.to_string());
    numbers.collect::<Vec<_>>().join(", ")
}

/// The labelled size that the slots at the beginning tell, for finding those at the end: what a sound
/// label says, else the device's size in whole blocks.
pub fn end_of_labelled(front: [Option<&[u8]>; 2], device_bytes: u64) -> u64 {
    let sizes = front.into_iter().enumerate().filter_map(|(slot, bytes)| {
        let Slot::Sound(label, sequence) = Slot::read(bytes?, slot) else { return None };
        Some((sequence, label.geometry.labelled_bytes()))
    });
    let newest = sizes.max_by_key(|(sequence, _)| *sequence);
    newest.map_or(DiskGeometry::labelled_bytes_of(device_bytes), |(_, bytes)| bytes)
}

/// What one slot holds for itself, with its sequence; nothing where it holds no sound label.
///
/// # Errors
/// When it is sound, and of a format that this code doesn't know.
pub fn read_label_slot(bytes: &[u8], slot: usize) -> Result<Option<(Label, u64)>, LabelError> {
    match Slot::read(bytes, slot) {
        Slot::Sound(label, sequence) => Ok(Some((label, sequence))),
        Slot::Newer(error) => Err(error),
        Slot::Unreadable | Slot::Blank | Slot::Damaged => Ok(None),
    }
}

/// Judges the four slots of a disk; `None` is a slot that couldn't be read or isn't on the device.
pub fn select_label(slots: [Option<&[u8]>; 4], device_bytes: u64) -> LabelState {
    let mut sound: Vec<(u64, Label)> = Vec::new();
    let mut faults = LabelFaults::default();
    let mut labelled = false;
    let mut newer = None;
    for (slot, bytes) in slots.into_iter().enumerate() {
        let read = bytes.map_or(Slot::Unreadable, |bytes| Slot::read(bytes, slot));
        faults.damaged[slot] = !matches!(read, Slot::Sound(..));
        match read {
            Slot::Blank => {}
            // What can't be read may be a label: such a disk isn't free to take.
            Slot::Damaged | Slot::Unreadable => labelled = true,
            Slot::Newer(error) => newer = Some(error),
            Slot::Sound(label, sequence) => sound.push((sequence, label)),
        }
    }
    if let Some(error) = newer {
        return LabelState::Refused(error);
    }
    if sound.is_empty() && !labelled {
        return LabelState::Blank;
    }
    sound.sort_by_key(|(sequence, _)| std::cmp::Reverse(*sequence));
    let highest = sound.first().map_or(0, |(sequence, _)| *sequence);
    let truncated = sound.iter().find(|(_, label)| label.geometry.labelled_bytes() > device_bytes);
    if let Some((_, label)) = truncated {
        return LabelState::Refused(LabelError::Truncated {
            pool: label.pool,
            disk: label.disk,
            labelled_bytes: label.geometry.labelled_bytes(),
            device_bytes,
        });
    }
    let pair = sound.windows(2).find(|pair| pair[0] == pair[1]);
    let Some([(sequence, label), _]) = pair else {
        let named = sound.first().map(|(_, label)| (label.pool, label.disk));
        let left = newest_left(&sound, faults).map(Box::new);
        return LabelState::Refused(LabelError::Damaged { faults, named, left });
    };
    let mut next_sequence = highest + 1;
    if next_sequence % 2 == sequence % 2 {
        // A lone newer copy exists. Its slots are the ones to write; the label that counts stays.
        next_sequence += 1;
    }
    let label = label.clone();
    LabelState::Labelled(Box::new(SelectedLabel {
        label,
        sequence: *sequence,
        next_sequence,
        faults,
    }))
}

/// Of copies without an equal, from the newest on, the first. An update writes the slots of one parity and leaves those of
/// the other, so that where one of each is sound the newest is of the last update, be that finished or not.
fn newest_left(sound: &[(u64, Label)], faults: LabelFaults) -> Option<SelectedLabel> {
    let (sequence, label) = sound.first()?;
    let of_each = sound.iter().any(|(other, _)| other % 2 != sequence % 2);
    let name = |label: &Label| (label.pool, label.disk, label.number, label.geometry);
    let is_one = sound.iter().all(|(_, other)| name(other) == name(label));
    let (label, sequence) = (label.clone(), *sequence);
    let found = SelectedLabel { label, sequence, next_sequence: sequence + 1, faults };
    (of_each && is_one).then_some(found)
}

/// What one slot holds.
enum Slot {
    Unreadable,
    Blank,
    Damaged,
    Newer(LabelError),
    Sound(Label, u64),
}

impl Slot {
    fn read(bytes: &[u8], slot: usize) -> Slot {
        if bytes.len() != LABEL_BYTES || MAGIC.of(bytes) != MAGIC_BYTES {
            return Slot::Blank;
        }
        if CRC.number32(bytes) != crc_without(bytes, CRC) || SLOT.number(bytes) != slot as u64 {
            return Slot::Damaged;
        }
        if VERSION.number(bytes) != VERSION_NOW {
            let version = VERSION.number(bytes) as u16;
            return Slot::Newer(LabelError::NewerVersion { version });
        }
        let features = Features {
            compatible: COMPATIBLE.number(bytes),
            read_only: READ_ONLY.number(bytes),
            incompatible: INCOMPATIBLE.number(bytes),
        };
        let names = features.unknown_names();
        if !names.is_empty() {
            return Slot::Newer(LabelError::UnknownFeatures { names });
        }
        match Self::body(bytes, features) {
            Some((label, sequence))
                if sequence <= SEQUENCE_MAX && sequence % 2 == slot as u64 % 2 =>
            {
                Slot::Sound(label, sequence)
            }
            _ => Slot::Damaged,
        }
    }

    fn body(bytes: &[u8], features: Features) -> Option<(Label, u64)> {
        let failure_domain = match DOMAIN.number(bytes) {
            1 => FailureDomain::Node,
            2 => FailureDomain::Disk,
            _ => return None,
        };
        let geometry = DiskGeometry::new(LABELLED.number(bytes), EXTENT.number(bytes)).ok()?;
        let first = ExtentNumber(AREA_FIRST.number32(bytes));
        let area = match ExtentRange::new(first, AREA_COUNT.number32(bytes)) {
            ExtentRange { first: ExtentNumber(0), count: 0 } => None,
            area => Some(area),
        };
        let votes = VOTE_COUNT.number(bytes) as usize;
        if area.is_some_and(|area| geometry.run_place(area).is_none()) || votes > VOTE_DISKS_MAX {
            return None;
        }
        let vote_disks = VOTES.of(bytes).chunks_exact(16).take(votes);
        let vote_disks = vote_disks.filter_map(|id| Uuid::from_slice(id).ok()).map(DiskId);
        let label = Label {
            features,
            pool: PoolId(POOL.uuid(bytes)),
            pool_name: POOL_NAME.text(bytes)?,
            disk: DiskId(DISK.uuid(bytes)),
            number: DiskNumber(NUMBER.number32(bytes)),
            geometry,
            area,
            failure_domain,
            node: NODE.uuid(bytes),
            node_name: NODE_NAME.text(bytes)?,
            first_owner: OwnerId(FIRST_OWNER.uuid(bytes)),
            vote_disks: vote_disks.collect(),
        };
        Some((label, SEQUENCE.number(bytes)))
    }
}

#[cfg(test)]
#[path = "label_tests.rs"]
mod tests;
