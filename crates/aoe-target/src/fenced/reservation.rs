//! The reservation record: a 4 KiB structure in four slots of a disk, written by targets only.
//!
//! | off | size | field (little-endian) |
//! |---|---|---|
//! | 0 | 8 | magic `EPFIELD\0` |
//! | 8 | 4 | version: 1 with a grant, 0 without |
//! | 12 | 4 | CRC32C of the 4096 bytes with this field as zeros |
//! | 16 | 8 | sequence: one above the highest ever seen |
//! | 24 | 8 | labelled size of the disk in sectors, a multiple of 8 |
//! | 32 | 4 | slot (0-3), so that a copy in another's place isn't believed |
//! | 36 | 4 | number of reserved clients, at most 16 |
//! | 40 | 8 | highest accepted epoch, not 0 |
//! | 48 | 16 | its owner |
//! | 64 | 96 | Ethernet addresses of the reserved clients, unused ones zero |
//! | 160 | 2 | bytes of the grant ([`seal::Grant`]); 0 where the disk obeys nobody's key |
//! | 162 | n | the grant |
//! | 162 + n | 3934 − n | zero |
//!
//! Slots 0 and 1 lie at 8 and 12 KiB, slots 2 and 3 at the same offsets behind (labelled size −
//! 1 MiB). Sequence n goes to slots n mod 2 and 2 + n mod 2. The newest valid copy counts: a torn
//! write leaves the pair before it, a lost end of the disk leaves the other end.

use std::rc::Rc;

use block::{
    Epoch, Holder, Lba, OwnerId, SECTOR_BYTES, SectorRange, crc32c, probe::RESERVATION_MAGIC,
};

use aoe_wire::MacAddr;
use seal::{GRANT_BYTES_MAX, Grant};

/// Bytes of a slot.
pub(super) const RECORD_BYTES: usize = 4096;
const RECORD_SECTORS: u64 = (RECORD_BYTES / SECTOR_BYTES) as u64;
/// Slots on a disk.
pub(super) const SLOTS: u32 = 4;
const RESERVED_MAX: usize = 16;

const VERSION: usize = 8;
const CRC: usize = 12;
const SEQUENCE: usize = 16;
const SIZE: usize = 24;
const SLOT: usize = 32;
const RESERVED_COUNT: usize = 36;
const EPOCH: usize = 40;
const OWNER: usize = 48;
const RESERVED: usize = 64;
const GRANT_LEN: usize = RESERVED + RESERVED_MAX * 6;
const GRANT: usize = GRANT_LEN + 2;
const _: () = assert!(GRANT_LEN == 160 && GRANT + GRANT_BYTES_MAX < RECORD_BYTES);

pub(super) const FIRST_SLOT_BYTES: u64 = 8 * 1024;
const TAIL_BYTES: u64 = 1 << 20;
/// Nobody counts that far: what says so is somebody's forgery, and none would be above it.
const SEQUENCE_MAX: u64 = 1 << 48;
/// Below this the two ends would overlap: such a device can't be claimed.
const CLAIMABLE_SECTORS_MIN: u64 = 2 * TAIL_BYTES / SECTOR_BYTES as u64;

/// The contents of a valid slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationRecord {
    /// Its number.
    pub sequence: u64,
    /// The disk's labelled size.
    pub labelled_sectors: u64,
    /// The highest accepted epoch and its owner.
    pub holder: Holder,
    /// Reserved clients.
    pub reserved: Vec<MacAddr>,
    /// Whom it obeys; without one, whoever claims it.
    pub grant: Option<Rc<Grant>>,
}

/// What a slot turned out to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Nothing was ever written there.
    Zero,
    /// A copy to be believed.
    Valid(ReservationRecord),
    /// Ours once, or unreadable: somebody may have been promised something here.
    Damaged,
    /// Something else's bytes.
    Foreign,
}

/// What a slot says, for who looks at a disk that nobody serves; nothing where it holds no sound record.
pub fn read_reservation(bytes: &[u8], slot: u32) -> Option<ReservationRecord> {
    match Slot::parse(bytes, slot) {
        Slot::Valid(record) => Some(record),
        Slot::Zero | Slot::Damaged | Slot::Foreign => None,
    }
}

/// The labelled size that a claim gives to a device of `sectors`; `None` if it is too small.
pub(super) fn labelled_sectors(sectors: u64) -> Option<u64> {
    let whole_blocks = sectors & !(RECORD_SECTORS - 1);
    (whole_blocks >= CLAIMABLE_SECTORS_MIN).then_some(whole_blocks)
}

/// Where a slot lies on a disk of this labelled size.
pub(super) fn slot_range(slot: u32, labelled_sectors: u64) -> SectorRange {
    let tail = labelled_sectors.saturating_sub(TAIL_BYTES / SECTOR_BYTES as u64);
    let base = if slot < 2 { 0 } else { tail };
    let offset = FIRST_SLOT_BYTES / SECTOR_BYTES as u64 + u64::from(slot % 2) * RECORD_SECTORS;
    SectorRange::new(Lba(base.saturating_add(offset)), RECORD_SECTORS)
}

/// The two slots that sequence n is written to.
pub(super) fn slots_of(sequence: u64) -> [u32; 2] {
    let parity = (sequence % 2) as u32;
    [parity, 2 + parity]
}

impl Slot {
    /// Judges the bytes read from `slot`.
    pub(super) fn parse(bytes: &[u8], slot: u32) -> Slot {
        if bytes.iter().all(|byte| *byte == 0) {
            return Slot::Zero;
        }
        if !bytes.starts_with(&RESERVATION_MAGIC) {
            return Slot::Foreign;
        }
        ReservationRecord::parse(bytes, slot).map_or(Slot::Damaged, Slot::Valid)
    }
}

impl ReservationRecord {
    fn parse(bytes: &[u8], slot: u32) -> Option<ReservationRecord> {
        let bytes: &[u8; RECORD_BYTES] = bytes.try_into().ok()?;
        let mut unsealed = *bytes;
        unsealed[CRC..SEQUENCE].fill(0);
        let count = u32_at(bytes, RESERVED_COUNT) as usize;
        let holder = Holder::new(
            Epoch(u64_at(bytes, EPOCH)),
            OwnerId(uuid::Uuid::from_slice(&bytes[OWNER..RESERVED]).ok()?),
        );
        let labelled_sectors = u64_at(bytes, SIZE);
        let grant_len = usize::from(u16::from_le_bytes([bytes[GRANT_LEN], bytes[GRANT_LEN + 1]]));
        let (grant, rest) = bytes[GRANT..].split_at_checked(grant_len)?;
        let valid = u32_at(bytes, CRC) == crc32c(&unsealed)
            && u32_at(bytes, VERSION) == u32::from(grant_len > 0)
            && u32_at(bytes, SLOT) == slot
            && u64_at(bytes, SEQUENCE) <= SEQUENCE_MAX
            && holder.epoch != Epoch::OBSERVER
            && labelled_sectors >= CLAIMABLE_SECTORS_MIN
            && labelled_sectors.is_multiple_of(RECORD_SECTORS)
            && count <= RESERVED_MAX
            && rest.iter().all(|byte| *byte == 0);
        if !valid {
            return None;
        }
        let grant = match grant {
            [] => None,
            grant => Some(Rc::new(Grant::parse(grant)?)),
        };
        let reserved = bytes[RESERVED..GRANT_LEN]
            .chunks_exact(6)
            .take(count)
            .filter_map(|mac| mac.try_into().ok().map(MacAddr))
            .collect();
        let sequence = u64_at(bytes, SEQUENCE);
        Some(ReservationRecord { sequence, labelled_sectors, holder, reserved, grant })
    }

    /// The bytes of this field in `slot`.
    pub(super) fn emit(&self, slot: u32) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let reserved = &self.reserved[..self.reserved.len().min(RESERVED_MAX)];
        bytes[..VERSION].copy_from_slice(&RESERVATION_MAGIC);
        bytes[SEQUENCE..SIZE].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[SIZE..SLOT].copy_from_slice(&self.labelled_sectors.to_le_bytes());
        bytes[SLOT..RESERVED_COUNT].copy_from_slice(&slot.to_le_bytes());
        bytes[RESERVED_COUNT..EPOCH].copy_from_slice(&(reserved.len() as u32).to_le_bytes());
        bytes[EPOCH..OWNER].copy_from_slice(&self.holder.epoch.0.to_le_bytes());
        bytes[OWNER..RESERVED].copy_from_slice(self.holder.owner.0.as_bytes());
        for (place, mac) in bytes[RESERVED..GRANT_LEN].chunks_exact_mut(6).zip(reserved) {
            place.copy_from_slice(&mac.0);
        }
        if let Some(grant) = self.grant.as_deref().map(Grant::bytes) {
            bytes[VERSION..CRC].copy_from_slice(&1u32.to_le_bytes());
            bytes[GRANT_LEN..GRANT].copy_from_slice(&(grant.len() as u16).to_le_bytes());
            bytes[GRANT..][..grant.len()].copy_from_slice(grant);
        }
        let crc = crc32c(&bytes);
        bytes[CRC..SEQUENCE].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

fn u32_at(bytes: &[u8; RECORD_BYTES], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8; RECORD_BYTES], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    fn example() -> ReservationRecord {
        ReservationRecord {
            sequence: 0x0102,
            labelled_sectors: 0x10000,
            holder: Holder::new(Epoch(7), OwnerId(uuid::Uuid::from_bytes([9; 16]))),
            reserved: vec![MacAddr([1, 2, 3, 4, 5, 6])],
            grant: None,
        }
    }

    fn granted() -> ReservationRecord {
        let key = seal::PoolKeyPair::of(seal::SecretKey::new([3; 32])).unwrap();
        let grant = key.found(&[seal::PublicKey([4; 32])]).unwrap();
        ReservationRecord { grant: Some(Rc::new(grant)), ..example() }
    }

    #[test]
    fn literal_bytes() {
        let bytes = example().emit(3);
        #[rustfmt::skip]
        assert_eq!(bytes[..12], *b"EPFIELD\0\0\0\0\0");
        assert_eq!(
            bytes[16..40],
            [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0]
        );
        assert_eq!(bytes[40..48], [7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((&bytes[48..64], &bytes[64..71]), (&[9; 16][..], &[1, 2, 3, 4, 5, 6, 0][..]));
        assert_eq!(Slot::parse(&bytes, 3), Slot::Valid(example()));
        let granted = granted();
        let bytes = granted.emit(3);
        assert_eq!((bytes[8], &bytes[160..166]), (1, &[144, 0, b'E', b'P', b'G', b'R'][..]));
        assert_eq!(Slot::parse(&bytes, 3), Slot::Valid(granted));
        assert_eq!(Slot::parse(&bytes, 2), Slot::Damaged, "in another's place");
        assert_eq!(Slot::parse(&[0; RECORD_BYTES], 0), Slot::Zero);
        assert_eq!(Slot::parse(&[7; RECORD_BYTES], 0), Slot::Foreign);
    }

    #[test]
    fn places() {
        let size = 0x10000;
        let starts: Vec<u64> = (0..SLOTS).map(|slot| slot_range(slot, size).start.0).collect();
        assert_eq!(starts, [16, 24, size - 2048 + 16, size - 2048 + 24]);
        assert_eq!((slots_of(6), slots_of(7)), ([0, 2], [1, 3]));
        assert_eq!(labelled_sectors(4095), None);
        assert_eq!(labelled_sectors(4103), Some(4096));
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_never_believed(at in 0..RECORD_BYTES, change in 1u8.., with in any::<bool>()) {
            let record = if with { granted() } else { example() };
            let mut bytes = record.emit(1);
            bytes[at] ^= change;
            prop_assert!(!matches!(Slot::parse(&bytes, 1), Slot::Valid(_)));
        }
    }
}
