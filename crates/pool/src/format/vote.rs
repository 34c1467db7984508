//! The vote record: a pool's configuration, as one voter holds it.
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 8 | magic "epVOTE\0\0" |
//! | 8 | 4 | CRC32C of the record, this field as zeros |
//! | 12 | 1 | slot, 0 or 1 |
//! | 13 | 1 | flags: 0x01 cleanly released, 0x02 witness |
//! | 14 | 1 | current metadata copies: a bit per entry of the label's list of vote disks |
//! | 15 | 1 | zero |
//! | 16 | 16 | pool |
//! | 32 | 16 | disk (or witness) that this record lies on |
//! | 48 | 16 | machine that a witness is bound to; zero for disks |
//! | 64 | 8 | epoch |
//! | 72 | 8 | configuration number |
//! | 80 | 16 | owner |
//! | 96 | 64 | owner's name, UTF-8, zero padded |
//! | 160 | 8 | last metadata record that was committed |
//! | 168 | 4 | number of disks that are out |
//! | 172 | 4 | zero |
//! | 176 | 12 each | disk number 4, configuration number since when 8 |
//! | … | | zero up to 16 KiB |
//!
//! Protects against: two owners, and a stale copy of metadata or log that is taken for a current one:
//! what is out, and which copies count, changes only by a record with a higher number on a majority
//! of votes. A record of another disk or pool, or in the other slot, isn't believed. Two slots: a torn
//! write leaves the former one. Metadata that ends before the record that a vote knows isn't adopted.

use block::{Buffer, BufferMut, Epoch, OwnerId};
use uuid::Uuid;

use super::field::{Field, crc_without};
use super::{ConfigNumber, DiskId, DiskNumber, PoolId, RecordNumber};

const MAGIC_BYTES: &[u8; 8] = b"epVOTE\0\0";
const FLAG_RELEASED: u64 = 0x01;
const FLAG_WITNESS: u64 = 0x02;

const MAGIC: Field = Field::first(8);
const CRC: Field = MAGIC.then(4);
const SLOT: Field = CRC.then(1);
const FLAGS: Field = SLOT.then(1);
const COPIES: Field = FLAGS.then(1);
const ZERO: Field = COPIES.then(1);
const POOL: Field = ZERO.then(16);
const DISK: Field = POOL.then(16);
const MACHINE: Field = DISK.then(16);
const EPOCH: Field = MACHINE.then(8);
const NUMBER: Field = EPOCH.then(8);
const OWNER: Field = NUMBER.then(16);
const OWNER_NAME: Field = OWNER.then(64);
const RECORD: Field = OWNER_NAME.then(8);
const OUT_COUNT: Field = RECORD.then(4);
const ZERO_TOO: Field = OUT_COUNT.then(4);
const OUT: Field = ZERO_TOO.then(OUT_DISKS_MAX * OUT_BYTES);
const REST: Field = OUT.then(VOTE_BYTES - OUT.end());

const OUT_DISK: Field = Field::first(4);
const OUT_SINCE: Field = OUT_DISK.then(8);
const OUT_BYTES: usize = OUT_SINCE.end();

/// Bytes in a slot.
pub const VOTE_BYTES: usize = 16 << 10;
/// Disks that can be out at once: as many as fit.
pub const OUT_DISKS_MAX: usize = (VOTE_BYTES - ZERO_TOO.end()) / OUT_BYTES;

const _: () = assert!(REST.end() == VOTE_BYTES);
const _: () = assert!(ZERO_TOO.end() == 176 && OUT_BYTES == 12);

/// A set over the pool's vote disks, in the order of the label's list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CopySet(pub u8);

impl CopySet {
    /// The first `count` vote disks.
    pub fn first(count: usize) -> CopySet {
        CopySet(((1_u16 << count.min(8)) - 1) as u8)
    }

    /// Whether the vote disk at `index` is in.
    pub fn contains(self, index: usize) -> bool {
        index < 8 && self.0 & 1 << index != 0
    }

    /// The set with the vote disk at `index`.
    #[must_use]
    pub fn with(self, index: usize) -> CopySet {
        if index < 8 { CopySet(self.0 | 1 << index) } else { self }
    }

    /// The set without the vote disk at `index`.
    #[must_use]
    pub fn without(self, index: usize) -> CopySet {
        if index < 8 { CopySet(self.0 & !(1 << index)) } else { self }
    }

    /// The indices that are in, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..8).filter(move |index| self.contains(*index))
    }

    /// How many are in.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether none is in.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A disk that is out: nothing reaches it until it is taken in again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutDisk {
    /// Which.
    pub disk: DiskNumber,
    /// The configuration that evicted it.
    pub since: ConfigNumber,
}

/// What a majority of votes agrees on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The owner's epoch.
    pub epoch: Epoch,
    /// Counts up with each configuration.
    pub number: ConfigNumber,
    /// Who owns the pool.
    pub owner: OwnerId,
    /// Its name, for people; cut at 64 bytes.
    pub owner_name: String,
    /// Whether the owner gave the pool up: nobody need wait for its lease.
    pub released: bool,
    /// The metadata copies that hold everything that is committed.
    pub copies: CopySet,
    /// The last metadata record that was committed by then.
    pub record: RecordNumber,
    /// The disks that are out, ascending.
    pub out: Vec<OutDisk>,
}

impl Configuration {
    /// Newer configurations are greater.
    pub fn rank(&self) -> (Epoch, ConfigNumber) {
        (self.epoch, self.number)
    }

    /// Since when a disk is out, if it is.
    pub fn out_entry(&self, disk: DiskNumber) -> Option<OutDisk> {
        self.out.iter().find(|out| out.disk == disk).copied()
    }

    /// Whether a disk is out.
    pub fn is_out(&self, disk: DiskNumber) -> bool {
        self.out.iter().any(|out| out.disk == disk)
    }
}

/// A voter that holds no data: a small file, bound to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The id of the machine that it is bound to; elsewhere it counts nothing.
    pub machine: Uuid,
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VotePlace {
    /// The pool.
    pub pool: PoolId,
    /// The disk, or the witness's own id.
    pub disk: DiskId,
    /// Set for witnesses.
    pub witness: Option<Witness>,
}

/// More disks are out than a vote record can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} disks are out, a vote record holds {OUT_DISKS_MAX}")]
pub struct TooManyOut {
    /// How many are out.
    pub count: usize,
}

impl Configuration {
    /// The record for a slot (0 or 1) of a voter.
    pub fn encode(&self, place: &VotePlace, slot: usize) -> Result<Buffer, TooManyOut> {
        if self.out.len() > OUT_DISKS_MAX {
            return Err(TooManyOut { count: self.out.len() });
        }
        let mut record = BufferMut::zeroed(VOTE_BYTES);
        MAGIC.of_mut(&mut record).copy_from_slice(MAGIC_BYTES);
        SLOT.put_number(&mut record, slot as u64 % 2);
        let released = if self.released { FLAG_RELEASED } else { 0 };
        let witness = if place.witness.is_some() { FLAG_WITNESS } else { 0 };
        FLAGS.put_number(&mut record, released | witness);
        COPIES.put_number(&mut record, u64::from(self.copies.0));
        POOL.put_uuid(&mut record, place.pool.0);
        DISK.put_uuid(&mut record, place.disk.0);
        MACHINE.put_uuid(&mut record, place.witness.map_or(Uuid::nil(), |witness| witness.machine));
        EPOCH.put_number(&mut record, self.epoch.0);
        NUMBER.put_number(&mut record, self.number.0);
        OWNER.put_uuid(&mut record, self.owner.0);
        OWNER_NAME.put_text(&mut record, &self.owner_name);
        RECORD.put_number(&mut record, self.record.0);
        OUT_COUNT.put_number(&mut record, self.out.len() as u64);
        let entries = OUT.of_mut(&mut record).chunks_exact_mut(OUT_BYTES);
        for (entry, out) in entries.zip(&self.out) {
            OUT_DISK.put_number(entry, u64::from(out.disk.0));
            OUT_SINCE.put_number(entry, out.since.0);
        }
        let crc = crc_without(&record, CRC);
        CRC.put_number(&mut record, u64::from(crc));
        Ok(record.freeze())
    }

    fn decode(bytes: &[u8], place: &VotePlace, slot: usize) -> Option<Configuration> {
        let flags = FLAGS.number(bytes);
        let machine = place.witness.map_or(Uuid::nil(), |witness| witness.machine);
        let sound = bytes.len() == VOTE_BYTES
            && MAGIC.of(bytes) == MAGIC_BYTES
            && CRC.number32(bytes) == crc_without(bytes, CRC)
            && SLOT.number(bytes) == slot as u64
            && flags & !(FLAG_RELEASED | FLAG_WITNESS) == 0
            && (flags & FLAG_WITNESS != 0) == place.witness.is_some()
            && MACHINE.uuid(bytes) == machine
            && POOL.uuid(bytes) == place.pool.0
            && DISK.uuid(bytes) == place.disk.0;
        let count = OUT_COUNT.number(bytes) as usize;
        if !sound || count > OUT_DISKS_MAX {
            return None;
        }
        let out = OUT.of(bytes).chunks_exact(OUT_BYTES).take(count).map(|entry| OutDisk {
            disk: DiskNumber(OUT_DISK.number32(entry)),
            since: ConfigNumber(OUT_SINCE.number(entry)),
        });
        Some(Configuration {
            epoch: Epoch(EPOCH.number(bytes)),
            number: ConfigNumber(NUMBER.number(bytes)),
            owner: OwnerId(OWNER.uuid(bytes)),
            owner_name: OWNER_NAME.text(bytes)?,
            released: flags & FLAG_RELEASED != 0,
            copies: CopySet(COPIES.number(bytes) as u8),
            record: RecordNumber(RECORD.number(bytes)),
            out: out.collect(),
        })
    }
}

/// What a voter's two slots hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoteSlots {
    /// The newest valid record.
    pub newest: Option<Configuration>,
    /// The slot to write next: the one that doesn't hold the newest.
    pub next_slot: usize,
}

/// Selects the newest valid record of a voter. `None` is a slot that couldn't be read.
pub fn select_vote(place: &VotePlace, slots: [Option<&[u8]>; 2]) -> VoteSlots {
    let [first, second] = slots;
    let first = first.and_then(|bytes| Configuration::decode(bytes, place, 0));
    let second = second.and_then(|bytes| Configuration::decode(bytes, place, 1));
    if second.as_ref().map(Configuration::rank) > first.as_ref().map(Configuration::rank) {
        VoteSlots { newest: second, next_slot: 0 }
    } else {
        let next_slot = usize::from(first.is_some());
        VoteSlots { newest: first, next_slot }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn place() -> VotePlace {
        let pool = PoolId(Uuid::from_u128(0x11));
        VotePlace { pool, disk: DiskId(Uuid::from_u128(0x22)), witness: None }
    }

    fn configuration(epoch: u64, number: u64) -> Configuration {
        let out = OutDisk { disk: DiskNumber(3), since: ConfigNumber(number) };
        Configuration {
            epoch: Epoch(epoch),
            number: ConfigNumber(number),
            owner: OwnerId(Uuid::from_u128(0x33)),
            owner_name: "attic".into(),
            released: true,
            copies: CopySet::first(3).without(1),
            record: RecordNumber(900),
            out: vec![out, OutDisk { disk: DiskNumber(5), ..out }],
        }
    }

    #[test]
    fn the_newest_by_epoch_then_number_wins() {
        let place = place();
        let (a, b) = (configuration(4, 9), configuration(5, 2));
        let slots = [a.encode(&place, 0).unwrap(), b.encode(&place, 1).unwrap()];
        let found = select_vote(&place, [Some(&slots[0]), Some(&slots[1])]);
        assert_eq!(found, VoteSlots { newest: Some(b), next_slot: 0 });
        let found = select_vote(&place, [Some(&slots[0]), None]);
        assert_eq!(found, VoteSlots { newest: Some(a), next_slot: 1 });
        let found = select_vote(&place, [Some(&[0; VOTE_BYTES]), None]);
        assert_eq!(found, VoteSlots { newest: None, next_slot: 0 });
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let place = place();
        let bytes = configuration(4, 9).encode(&place, 0).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x40;
            assert_eq!(select_vote(&place, [Some(&damaged), None]).newest, None, "byte {at}");
        }
        assert_eq!(select_vote(&place, [Some(&bytes[..9000]), None]).newest, None);
    }

    #[test]
    fn another_place_is_refused() {
        let place = place();
        let bytes = configuration(4, 9).encode(&place, 0).unwrap();
        assert_eq!(select_vote(&place, [None, Some(&bytes)]).newest, None);
        let other = VotePlace { disk: DiskId(Uuid::from_u128(0x23)), ..place };
        assert_eq!(select_vote(&other, [Some(&bytes), None]).newest, None);
        let other = VotePlace { pool: PoolId(Uuid::from_u128(0x12)), ..place };
        assert_eq!(select_vote(&other, [Some(&bytes), None]).newest, None);
        let witness = Some(Witness { machine: Uuid::from_u128(0x44) });
        let other = VotePlace { witness, ..place };
        assert_eq!(select_vote(&other, [Some(&bytes), None]).newest, None);
    }

    #[test]
    fn a_witness_counts_on_its_machine_only() {
        let place =
            VotePlace { witness: Some(Witness { machine: Uuid::from_u128(0x44) }), ..place() };
        let bytes = configuration(4, 9).encode(&place, 1).unwrap();
        assert!(select_vote(&place, [None, Some(&bytes)]).newest.is_some());
        let moved =
            VotePlace { witness: Some(Witness { machine: Uuid::from_u128(0x45) }), ..place };
        assert_eq!(select_vote(&moved, [None, Some(&bytes)]).newest, None);
    }

    #[test]
    fn more_disks_out_than_fit_are_an_error() {
        let mut configuration = configuration(4, 9);
        configuration.out = (0..OUT_DISKS_MAX as u32)
            .map(|disk| OutDisk { disk: DiskNumber(disk), since: ConfigNumber(u64::MAX) })
            .collect();
        let bytes = configuration.encode(&place(), 0).unwrap();
        assert_eq!(select_vote(&place(), [Some(&bytes), None]).newest, Some(configuration.clone()));
        configuration.out.push(configuration.out[0]);
        let count = OUT_DISKS_MAX + 1;
        assert_eq!(configuration.encode(&place(), 0), Err(TooManyOut { count }));
    }

    #[test]
    fn golden_bytes() {
        let bytes = configuration(4, 9).encode(&place(), 1).unwrap();
        assert_eq!(&bytes[..8], b"epVOTE\0\0");
        assert_eq!(&bytes[12..16], &[1, 1, 0b101, 0]);
        assert_eq!((bytes[31], bytes[47], bytes[63]), (0x11, 0x22, 0));
        assert_eq!(&bytes[64..80], &[4, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[95], 0x33);
        assert_eq!(&bytes[96..102], b"attic\0");
        assert_eq!(&bytes[160..176], &[0x84, 3, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[176..192], &[3, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0]);
    }
}
