//! The applied block: up to which release this disk holds everything that was meant for it.
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 8 | magic "epCONFRM" |
//! | 8 | 4 | CRC32C of the block, this field as zeros |
//! | 12 | 4 | zero |
//! | 16 | 16 | pool |
//! | 32 | 16 | disk |
//! | 48 | 8 | sequence; the block lies in slot (sequence mod 2) |
//! | 56 | 8 | release number |
//! | 64 | 8 | last metadata record that was committed |
//! | 72 | 96 | signature of bytes 0 to 72, the CRC as zeros, by the supervisor that wrote it; zero where it has no key |
//! | 168 | 3928 | zero |
//!
//! Protects against: a disk that was rolled back as a whole (a snapshot, a cloned image, a cache that
//! forgot): its number is below the one in the metadata, so nothing on it is trusted; and against
//! metadata that is older than that of any disk; and, by the signature, against a node that makes up a record which
//! nobody has, for which openings would wait. Two slots: a torn write leaves the former one.

use block::{BLOCK_BYTES, Buffer, BufferMut};

use seal::{KeyPair, PublicKey, SIGNATURE_BYTES, Signature};

use super::field::{Field, crc_without};
use super::{DiskId, PoolId, RecordNumber, ReleaseNumber, SEQUENCE_MAX};

const MAGIC_BYTES: &[u8; 8] = b"epCONFRM";

const MAGIC: Field = Field::first(8);
const CRC: Field = MAGIC.then(4);
const ZERO: Field = CRC.then(4);
const POOL: Field = ZERO.then(16);
const DISK: Field = POOL.then(16);
const SEQUENCE: Field = DISK.then(8);
const RELEASE: Field = SEQUENCE.then(8);
const RECORD: Field = RELEASE.then(8);
const SIGNATURE: Field = RECORD.then(SIGNATURE_BYTES);
const REST: Field = SIGNATURE.then(APPLIED_BYTES - SIGNATURE.end());

/// In which its signature counts.
const CONTEXT: &str = "etherpool applied block";

/// Bytes in a slot.
pub const APPLIED_BYTES: usize = BLOCK_BYTES;

const _: () = assert!(REST.end() == APPLIED_BYTES);

/// An applied block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The disk's pool.
    pub pool: PoolId,
    /// The disk.
    pub disk: DiskId,
    /// How new it is; decides the slot.
    pub sequence: u64,
    /// All that was released up to this number and was meant for this disk is on it.
    pub release: ReleaseNumber,
    /// The last metadata record that was committed before it was written.
    pub record: RecordNumber,
    /// The supervisor that wrote it, if it signed that.
    pub by: Option<PublicKey>,
}

impl Applied {
    /// The slot that it lies in.
    pub fn slot(&self) -> usize {
        (self.sequence % 2) as usize
    }

    /// Its bytes, signed by these keys, whoever it names.
    pub fn encode(&self, keys: Option<&KeyPair>) -> Buffer {
        let mut block = BufferMut::zeroed(APPLIED_BYTES);
        MAGIC.of_mut(&mut block).copy_from_slice(MAGIC_BYTES);
        POOL.put_uuid(&mut block, self.pool.0);
        DISK.put_uuid(&mut block, self.disk.0);
        SEQUENCE.put_number(&mut block, self.sequence);
        RELEASE.put_number(&mut block, self.release.0);
        RECORD.put_number(&mut block, self.record.0);
        if let Some(keys) = keys {
            let signature = keys.sign(CONTEXT, &said(&block));
            SIGNATURE.of_mut(&mut block).copy_from_slice(&signature.0);
        }
        let crc = crc_without(&block, CRC);
        CRC.put_number(&mut block, u64::from(crc));
        block.freeze()
    }

    fn decode(bytes: &[u8]) -> Option<Applied> {
        let sound = bytes.len() == APPLIED_BYTES
            && MAGIC.of(bytes) == MAGIC_BYTES
            && CRC.number32(bytes) == crc_without(bytes, CRC)
            && ZERO.number(bytes) == 0
            && SEQUENCE.number(bytes) <= SEQUENCE_MAX
            && REST.of(bytes).iter().all(|byte| *byte == 0);
        if !sound {
            return None;
        }
        let signature = SIGNATURE.of(bytes);
        let by = match signature.iter().all(|byte| *byte == 0) {
            true => None,
            false => Some(Signature(signature.try_into().ok()?).signer(CONTEXT, &said(bytes))?),
        };
        Some(Applied {
            pool: PoolId(POOL.uuid(bytes)),
            disk: DiskId(DISK.uuid(bytes)),
            sequence: SEQUENCE.number(bytes),
            release: ReleaseNumber(RELEASE.number(bytes)),
            record: RecordNumber(RECORD.number(bytes)),
            by,
        })
    }
}

/// What the signature covers.
fn said(block: &[u8]) -> Vec<u8> {
    let mut said = block[..RECORD.end()].to_vec();
    CRC.of_mut(&mut said).fill(0);
    said
}

/// What the two slots hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedSlots {
    /// The newest valid one.
    pub newest: Option<Applied>,
    /// The valid one in the other slot.
    pub former: Option<Applied>,
    /// The sequence to write next: it goes to the slot that doesn't hold the newest.
    pub next_sequence: u64,
    /// The other slot holds the one before the newest, or nothing where there was none: no newer one is
    /// hidden by a slot that can't be read, or was read elsewhere.
    pub is_whole: bool,
}

/// Selects the newest valid applied block of a disk. `None` is a slot that couldn't be read.
pub fn select_applied(pool: PoolId, disk: DiskId, slots: [Option<&[u8]>; 2]) -> AppliedSlots {
    let found = [0, 1].map(|slot| {
        slots[slot].and_then(Applied::decode).filter(|applied| {
            applied.pool == pool && applied.disk == disk && applied.slot() == slot
        })
    });
    let [former, newest] = match found {
        [Some(even), Some(odd)] if even.sequence > odd.sequence => [Some(odd), Some(even)],
        [Some(even), None] => [None, Some(even)],
        found => found,
    };
    let next_sequence = newest.map_or(1, |applied| applied.sequence + 1);
    let is_whole = match (found, slots) {
        ([Some(even), Some(odd)], _) => even.sequence.abs_diff(odd.sequence) == 1,
        ([None, Some(only)], [Some(blank), _]) => {
            only.sequence == 1 && blank.iter().all(|byte| *byte == 0)
        }
        _ => false,
    };
    AppliedSlots { newest, former, next_sequence, is_whole }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const POOL_ID: PoolId = PoolId(Uuid::from_u128(0x11));
    const DISK_ID: DiskId = DiskId(Uuid::from_u128(0x22));

    const SIGNATURE_AT: std::ops::Range<usize> = 72..168;

    fn applied(sequence: u64, release: u64) -> Applied {
        let (release, record) = (ReleaseNumber(release), RecordNumber(release + 0x100));
        Applied { pool: POOL_ID, disk: DISK_ID, sequence, release, record, by: None }
    }

    #[test]
    fn the_newer_slot_wins_and_the_older_one_is_written_next() {
        let (old, new) = (applied(4, 70).encode(None), applied(5, 71).encode(None));
        let slots = select_applied(POOL_ID, DISK_ID, [Some(&old), Some(&new)]);
        let (former, newest) = (Some(applied(4, 70)), Some(applied(5, 71)));
        assert_eq!(slots, AppliedSlots { newest, former, next_sequence: 6, is_whole: true });
        let newer = applied(6, 72).encode(None);
        let slots = select_applied(POOL_ID, DISK_ID, [Some(&newer), Some(&new)]);
        assert_eq!((slots.former, slots.newest), (Some(applied(5, 71)), Some(applied(6, 72))));
        let slots = select_applied(POOL_ID, DISK_ID, [Some(&old), None]);
        assert_eq!((slots.former, slots.newest), (None, Some(applied(4, 70))));
    }

    #[test]
    fn no_sequence_comes_to_the_end_of_numbers() {
        let [last, beyond] = [SEQUENCE_MAX, SEQUENCE_MAX + 2].map(|sequence| applied(sequence, 70));
        let newest = |of: Applied| {
            let bytes = of.encode(None);
            select_applied(POOL_ID, DISK_ID, [Some(&bytes), None]).newest
        };
        assert_eq!((newest(last), newest(beyond)), (Some(last), None));
    }

    #[test]
    fn a_slot_that_hides_something_is_noticed() {
        let [first, second, fourth] = [1, 2, 4].map(|sequence| applied(sequence, 70).encode(None));
        let blank = [0; APPLIED_BYTES];
        let is_whole = |slots| select_applied(POOL_ID, DISK_ID, slots).is_whole;
        assert!(is_whole([Some(&blank), Some(&first)]));
        assert!(is_whole([Some(&second), Some(&first)]));
        assert!(!is_whole([None, Some(&first)]));
        assert!(!is_whole([Some(&second), None]));
        assert!(!is_whole([Some(&second), Some(&blank)]));
        assert!(!is_whole([Some(&fourth), Some(&first)]));
        assert!(!is_whole([Some(&blank), Some(&blank)]));
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let (old, new) = (applied(4, 70).encode(None), applied(5, 71).encode(None));
        for at in 0..new.len() {
            let mut damaged = new.to_vec();
            damaged[at] ^= 1;
            let slots = select_applied(POOL_ID, DISK_ID, [Some(&old), Some(&damaged)]);
            assert_eq!(slots.newest, Some(applied(4, 70)), "byte {at}");
            assert!(!slots.is_whole, "byte {at}");
        }
    }

    #[test]
    fn what_was_signed_is_who_signed_it_and_unchanged() {
        let keys = KeyPair::of(seal::SecretKey::new([1; 32])).unwrap();
        let signed = applied(5, 71).encode(Some(&keys));
        let newest = |bytes: &[u8]| select_applied(POOL_ID, DISK_ID, [None, Some(bytes)]).newest;
        assert_eq!(newest(&signed), Some(Applied { by: Some(keys.public()), ..applied(5, 71) }));
        // With a CRC that is right: who writes it makes that so.
        for at in (48..72).chain(SIGNATURE_AT) {
            let mut forged = signed.to_vec();
            forged[at] ^= 2;
            let crc = crc_without(&forged, CRC);
            CRC.put_number(&mut forged, u64::from(crc));
            assert_eq!(newest(&forged), None, "byte {at}");
        }
    }

    #[test]
    fn another_place_is_refused() {
        let bytes = applied(5, 71).encode(None);
        let none = AppliedSlots { newest: None, former: None, next_sequence: 1, is_whole: false };
        assert_eq!(select_applied(POOL_ID, DISK_ID, [Some(&bytes), None]), none);
        let other = DiskId(Uuid::from_u128(0x23));
        assert_eq!(select_applied(POOL_ID, other, [None, Some(&bytes)]), none);
        let other = PoolId(Uuid::from_u128(0x12));
        assert_eq!(select_applied(other, DISK_ID, [None, Some(&bytes)]), none);
    }

    #[test]
    fn golden_bytes() {
        let bytes = applied(5, 0x47).encode(None);
        let mut expected = b"epCONFRM".to_vec();
        expected.extend_from_slice(&CRC.number32(&bytes).to_le_bytes());
        expected.extend_from_slice(&[0; 4]);
        expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11]);
        expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x22]);
        expected.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0, 0x47, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[0x47, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[..72], &expected[..]);
    }
}
