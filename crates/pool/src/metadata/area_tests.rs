#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use seal::{Digest, KeyPair, SecretKey, Signature};

use super::*;
use crate::format::FailureDomain;
use crate::metadata::testing::{POOL, empty_pool, history, recover_bytes};
use crate::metadata::{
    AreaFault, ChooseError, EncodedCheckpoint, Metadata, Recovered, StoredCheckpoint, choose_copy,
    encode_checkpoint,
};

const SECTOR: usize = 512;

/// One copy of an area, written as an engine would.
#[derive(Clone)]
struct Copy {
    layout: AreaLayout,
    bytes: Vec<u8>,
    position: AreaPosition,
    metadata: Metadata,
    newest: StoredCheckpoint,
    former: Vec<BlockRun>,
}

/// A write of whole sectors.
struct Write {
    at: usize,
    bytes: Buffer,
}

/// The writes of a checkpoint, in their order.
fn writes_of(layout: &AreaLayout, checkpoint: &EncodedCheckpoint) -> Vec<Write> {
    let runs = checkpoint.fresh().flat_map(|placed| placed.runs());
    let mut writes: Vec<Write> =
        runs.map(|(run, bytes)| Write { at: layout.run_offset(&run) as usize, bytes }).collect();
    let at = layout.checkpoint_offset(checkpoint.after.slot()) as usize;
    writes.push(Write { at, bytes: checkpoint.header.clone() });
    writes
}

impl Copy {
    /// An area that holds an empty pool's first checkpoint.
    fn new(quarter_blocks: u64) -> Copy {
        let layout = AreaLayout::new(4 * quarter_blocks * BLOCK_BYTES as u64).unwrap();
        let mut metadata = empty_pool(FailureDomain::Node);
        let stamp = CheckpointStamp { sequence: 2, epoch: Epoch(1), number: RecordNumber(0) };
        let first = encode_checkpoint(&layout, &metadata, (stamp, None), None, &[]).unwrap();
        let bytes = vec![0; layout.area_bytes() as usize];
        metadata.forget_changes();
        let (position, newest) = (first.after, first.stored.clone());
        let mut copy = Copy { layout, bytes, position, metadata, newest, former: Vec::new() };
        writes_of(&layout, &first).iter().for_each(|write| copy.store(write));
        copy
    }

    /// The write that commits a transaction; this copy knows it, its bytes don't have it yet.
    fn commit(&mut self, records: &[MetaRecord]) -> Result<Write, LogFull> {
        let entry = encode_entry(&self.layout, &self.position, (ConfigNumber(7), None), records)?;
        self.metadata.apply_all(records).unwrap();
        let at = (self.layout.log_offset(self.position.slot()) + entry.log_at) as usize;
        self.position = entry.after;
        Ok(Write { at, bytes: entry.bytes })
    }

    /// The writes of the next sequence.
    fn checkpoint(&mut self, epoch: u64) -> Vec<Write> {
        let above = self.position.sequence + 1;
        let stamp = CheckpointStamp {
            sequence: above + u64::from(slot_of(above) == self.newest.head.slot()),
            epoch: Epoch(epoch),
            number: self.position.number,
        };
        let newest = Some(&self.newest);
        let stamp = (stamp, None);
        let encoded = encode_checkpoint(&self.layout, &self.metadata, stamp, newest, &self.former);
        let encoded = encoded.unwrap();
        self.position = encoded.after;
        self.former = self.newest.in_use();
        self.newest = encoded.stored.clone();
        self.metadata.forget_changes();
        writes_of(&self.layout, &encoded)
    }

    fn store(&mut self, write: &Write) {
        self.bytes[write.at..write.at + write.bytes.len()].copy_from_slice(&write.bytes);
    }

    fn recover(&self) -> Result<Recovered, AreaFault> {
        recover_bytes(POOL, &self.layout, &self.bytes)
    }

    fn recovered(&self) -> Recovered {
        self.recover().unwrap()
    }

    fn apply(&mut self, records: &[MetaRecord]) {
        let write = match self.commit(records) {
            Ok(write) => write,
            Err(LogFull::CheckpointDue) => {
                self.checkpoint(1).iter().for_each(|write| self.store(write));
                self.commit(records).unwrap()
            }
            Err(error) => panic!("{error}"),
        };
        self.store(&write);
    }

    fn assert_recovers(&self) {
        let found = self.recovered();
        assert_eq!(found.metadata, self.metadata);
        assert_eq!(found.position, self.position);
        assert_eq!(found.newest, self.newest);
    }
}

#[test]
fn what_was_committed_is_recovered_over_many_sequences() {
    let mut copy = Copy::new(12);
    copy.assert_recovers();
    for record in history() {
        copy.apply(&[record]);
        copy.assert_recovers();
    }
    for round in 0..100 {
        let name = format!("pond-{round}");
        copy.apply(&[MetaRecord::PoolRenamed { name }]);
        copy.assert_recovers();
    }
    assert!(copy.position.sequence > 10);
}

/// Every subset of sectors of a short write and every prefix of a long one leaves old or new.
fn assert_torn_is_old_or_new(old: &Copy, new: &Copy, write: &Write) {
    let sectors = write.bytes.len() / SECTOR;
    let masks: Vec<u64> = if sectors <= 8 {
        (0..1 << sectors).collect()
    } else {
        (0..=sectors.min(63)).map(|prefix| (1 << prefix) - 1).collect()
    };
    for mask in masks {
        let mut torn = old.clone();
        for sector in (0..sectors.min(64)).filter(|sector| mask & 1 << sector != 0) {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            torn.bytes[write.at + range.start..write.at + range.end]
                .copy_from_slice(&write.bytes[range]);
        }
        let found = torn.recovered();
        let whole = torn.bytes == new.bytes;
        assert!(
            found.metadata == old.metadata && found.position.number == old.position.number
                || found.metadata == new.metadata && found.position.number == new.position.number,
            "mask {mask:b}"
        );
        assert!(!whole || found.position == new.recovered().position);
    }
}

#[test]
fn every_torn_write_recovers_to_old_or_new() {
    let mut copy = Copy::new(12);
    for record in history() {
        for round in 0..2 {
            let old = copy.clone();
            let writes: Vec<Write> = if round == 0 {
                match copy.commit(std::slice::from_ref(&record)) {
                    Ok(write) => vec![write],
                    Err(_) => continue,
                }
            } else {
                copy.checkpoint(1)
            };
            let mut before = old;
            for write in writes {
                let mut new = copy.clone();
                new.bytes.clone_from(&before.bytes);
                new.store(&write);
                assert_torn_is_old_or_new(&before, &new, &write);
                before.bytes.clone_from(&new.bytes);
            }
            copy.bytes = before.bytes;
            copy.assert_recovers();
        }
    }
}

proptest! {
    /// Crashes at any write with any sectors of it done, and recovery from each, over and over.
    #[test]
    fn torn_writes_in_any_order_lose_nothing(
        steps in prop::collection::vec((0_u8..4, any::<u64>(), 1_usize..200), 1..60),
    ) {
        let mut copy = Copy::new(12);
        for (kind, mask, length) in steps {
            let old = copy.clone();
            let name = "n".repeat(length.min(64));
            let renamed = [MetaRecord::PoolRenamed { name }];
            let writes: Vec<Write> = match kind {
                0 => copy.checkpoint(copy.position.epoch.0),
                _ => match copy.commit(&renamed) {
                    Ok(write) => vec![write],
                    Err(_) => copy.checkpoint(copy.position.epoch.0),
                },
            };
            if kind == 3 {
                // A crash: what the mask says arrives. The next owner adopts what it finds and
                // writes a checkpoint under its own epoch.
                let (new, epoch) = (copy.clone(), copy.position.epoch.0 + 1);
                let mut torn = old.clone();
                let last = length % writes.len();
                writes[..last].iter().for_each(|write| torn.store(write));
                let write = &writes[last];
                for sector in (0..write.bytes.len() / SECTOR).filter(|s| mask >> (s % 64) & 1 != 0) {
                    let range = sector * SECTOR..(sector + 1) * SECTOR;
                    torn.bytes[write.at + range.start..write.at + range.end]
                        .copy_from_slice(&write.bytes[range]);
                }
                let found = torn.recovered();
                prop_assert!(found.metadata == old.metadata || found.metadata == new.metadata);
                torn.position = found.position;
                torn.position.sequence = found.highest_sequence;
                torn.former = found.former.iter().flat_map(StoredCheckpoint::in_use).collect();
                (torn.metadata, torn.newest) = (found.metadata, found.newest);
                torn.checkpoint(epoch).iter().for_each(|write| torn.store(write));
                copy = torn;
            } else {
                writes.iter().for_each(|write| copy.store(write));
            }
            copy.assert_recovers();
        }
    }
}

#[test]
fn every_damaged_byte_is_noticed() {
    let mut copy = Copy::new(12);
    copy.apply(&history()[..1]);
    let before = copy.recovered();
    let entry_at = copy.layout.log_offset(0) as usize;
    let write = copy.commit(&history()[1..2]).unwrap();
    copy.store(&write);
    for at in entry_at + BLOCK_BYTES..entry_at + 2 * BLOCK_BYTES {
        let mut damaged = copy.clone();
        damaged.bytes[at] ^= 8;
        let found = damaged.recovered();
        let used = encode_records(&history()[1..2]).len() + ENTRY_HEADER_BYTES;
        if at < entry_at + BLOCK_BYTES + used {
            assert_eq!(found.metadata, before.metadata, "byte {at}");
        } else {
            assert_eq!(found.metadata, copy.metadata, "byte {at} of the padding");
        }
    }
    let named = copy
        .newest
        .head
        .place
        .iter()
        .chain(copy.newest.table.sections.iter().flat_map(|s| &s.place));
    let named: Vec<usize> = named.map(|run| copy.layout.run_offset(run) as usize).collect();
    let used: Vec<usize> = [copy.newest.head.table_bytes]
        .into_iter()
        .chain(copy.newest.table.sections.iter().map(|section| section.bytes))
        .map(|bytes| bytes as usize)
        .collect();
    let places = named.into_iter().zip(used).chain([(0, BLOCK_BYTES)]);
    for (at, len) in places {
        for at in at..at + len {
            let mut damaged = copy.clone();
            damaged.bytes[at] ^= 8;
            assert!(damaged.recover().is_err(), "byte {at}");
        }
    }
}

#[test]
fn a_damaged_checkpoint_that_was_in_use_is_not_replaced_by_an_older_one() {
    let mut copy = Copy::new(12);
    copy.apply(&history()[..1]);
    let mut writes = copy.checkpoint(1);
    let header = writes.pop().unwrap();
    let mut torn = copy.clone();
    writes.iter().for_each(|write| torn.store(write));
    assert_eq!(torn.recovered().position.sequence, 2);
    writes.iter().for_each(|write| copy.store(write));
    copy.store(&header);
    torn.store(&header);
    torn.bytes[header.at + 20] ^= 1;
    assert_eq!(torn.recovered().metadata, copy.metadata);
    // A header is written once all that it names is durable.
    let newest = AreaFault::NewestDamaged { sequence: 3 };
    for write in &writes {
        let mut damaged = copy.clone();
        damaged.bytes[write.at + 7] ^= 1;
        assert_eq!(damaged.recover().unwrap_err(), newest);
    }
    copy.apply(&history()[1..2]);
    let mut damaged = copy.clone();
    damaged.bytes[header.at + 20] ^= 1;
    assert_eq!(damaged.recover().unwrap_err(), newest);
}

#[test]
fn a_gap_in_the_log_is_no_end_of_it() {
    let mut copy = Copy::new(12);
    for record in &history()[..5] {
        copy.apply(std::slice::from_ref(record));
    }
    let log_at = copy.layout.log_offset(0) as usize;
    for lost in 0..4_u64 {
        for zeroed in [false, true] {
            let mut damaged = copy.clone();
            let at = log_at + lost as usize * BLOCK_BYTES;
            match zeroed {
                true => damaged.bytes[at..at + BLOCK_BYTES].fill(0),
                false => damaged.bytes[at + 70] ^= 1,
            }
            let (after, found) = (RecordNumber(lost), RecordNumber(lost + 2));
            assert_eq!(damaged.recover().unwrap_err(), AreaFault::Gap { after, found });
        }
    }
    // Nor is one that can't be read at all, when more than one was begun.
    let mut damaged = copy.clone();
    for entry in 2..5 {
        damaged.bytes[log_at + entry * BLOCK_BYTES + 70] ^= 1;
    }
    let (after, begun) = (RecordNumber(2), RecordNumber(4));
    assert_eq!(damaged.recover().unwrap_err(), AreaFault::EndDamaged { after, begun });
    // The last one may be torn. What an earlier sequence left behind isn't of this log.
    let mut torn = copy.clone();
    torn.bytes[log_at + 4 * BLOCK_BYTES + 70] ^= 1;
    assert_eq!(torn.recovered().position.number, RecordNumber(4));
    for _ in 0..2 {
        copy.checkpoint(1).iter().for_each(|write| copy.store(write));
    }
    copy.apply(&history()[5..6]);
    copy.assert_recovers();
    assert_eq!(copy.recovered().config, ConfigNumber(7));
}

#[test]
fn blank_and_foreign_areas_are_named() {
    let copy = Copy::new(12);
    let mut blank = copy.clone();
    blank.bytes.fill(0);
    assert_eq!(blank.recover().unwrap_err(), AreaFault::Empty);
    let other = PoolId(uuid::Uuid::from_u128(5));
    let found = recover_bytes(other, &copy.layout, &copy.bytes);
    assert_eq!(found.unwrap_err(), AreaFault::Damaged);
}

#[test]
fn sound_bytes_without_sense_are_refused() {
    let mut copy = Copy::new(12);
    // A log entry whose record doesn't fit: disk 0 of nothing is moved.
    let moved = MetaRecord::DiskMoved {
        number: crate::format::DiskNumber(0),
        node: uuid::Uuid::nil(),
        node_name: String::new(),
    };
    let entry =
        encode_entry(&copy.layout, &copy.position, (ConfigNumber(7), None), &[moved]).unwrap();
    let at = copy.layout.log_offset(0) as usize;
    copy.bytes[at..at + BLOCK_BYTES].copy_from_slice(&entry.bytes);
    assert!(matches!(copy.recover().unwrap_err(), AreaFault::Inconsistent { .. }));
    let tag = at + ENTRY_HEADER_BYTES;
    copy.bytes[tag] = 200;
    let used = encode_records(&[]).len() + ENTRY_HEADER_BYTES + 1;
    let entry = &mut copy.bytes[at..at + used];
    ENTRY_LENGTH.put_number(entry, 1);
    let crc = crc_without(entry, CRC);
    CRC.put_number(entry, u64::from(crc));
    assert!(matches!(copy.recover().unwrap_err(), AreaFault::Malformed { .. }));
}

#[test]
fn the_longest_tail_of_the_newest_owner_is_chosen() {
    let mut a = Copy::new(12);
    a.apply(&history()[..1]);
    let mut b = a.clone();
    b.apply(&history()[1..2]);
    assert_eq!(choose_copy(&[a.recovered(), b.recovered()]), Ok(1));
    // Another owner adopted the shorter one: what the longer one has beyond is void.
    a.checkpoint(2).iter().for_each(|write| a.store(write));
    assert_eq!(choose_copy(&[b.recovered(), a.recovered()]), Ok(1));
    assert_eq!(choose_copy(&[]), Err(ChooseError::None));
}

#[test]
fn a_copy_with_the_next_checkpoint_agrees_with_one_without() {
    let mut a = Copy::new(12);
    a.apply(&history()[..1]);
    let b = a.clone();
    a.checkpoint(1).iter().for_each(|write| a.store(write));
    assert_eq!(choose_copy(&[b.recovered(), a.recovered()]), Ok(1));
    let mut b = b;
    b.apply(&history()[1..2]);
    let contradiction = ChooseError::Contradiction { first: 1, second: 0, number: RecordNumber(2) };
    assert_eq!(choose_copy(&[b.recovered(), a.recovered()]), Err(contradiction));
}

#[test]
fn two_histories_are_refused() {
    let mut a = Copy::new(12);
    a.apply(&history()[..1]);
    let mut b = a.clone();
    a.apply(&[MetaRecord::PoolRenamed { name: "a".into() }]);
    b.apply(&[MetaRecord::PoolRenamed { name: "b".into() }]);
    b.apply(&[MetaRecord::PoolRenamed { name: "c".into() }]);
    let contradiction = ChooseError::Contradiction { first: 1, second: 0, number: RecordNumber(2) };
    assert_eq!(choose_copy(&[a.recovered(), b.recovered()]), Err(contradiction));
}

#[test]
fn what_is_too_large_for_the_area_is_an_error() {
    let mut copy = Copy::new(12);
    let long = |count: usize| vec![MetaRecord::PoolRenamed { name: "n".repeat(60) }; count];
    for _ in 0..6 {
        assert!(copy.commit(&long(100)).is_ok());
    }
    assert_eq!(copy.commit(&long(250)).err(), Some(LogFull::EntryTooLong));
    assert_eq!(copy.commit(&long(1)).err(), Some(LogFull::CheckpointDue));
    let created = |number: u32| MetaRecord::VolumeCreated {
        id: crate::format::VolumeId(number),
        name: format!("{number:060}"),
        layout: crate::metadata::Layout::Raid0,
        width: 1,
    };
    copy.metadata.apply_all(&(1..600).map(created).collect::<Vec<_>>()).unwrap();
    let stamp = CheckpointStamp { sequence: 2, epoch: Epoch(1), number: RecordNumber(4) };
    let checkpoint = encode_checkpoint(&copy.layout, &copy.metadata, (stamp, None), None, &[]);
    assert!(matches!(checkpoint, Err(LogFull::AreaTooSmall { .. })));
}

#[test]
fn areas_grow_with_the_pool_within_bounds() {
    assert_eq!(area_bytes_for(6 << 30, 4 * MIB), 8 * MIB);
    assert_eq!(area_bytes_for(1 << 40, 4 * MIB), 4 * 63 * MIB);
    assert_eq!(area_bytes_for(u64::MAX, 4 * MIB), 1 << 30);
    for bytes in [8 * MIB, 256 * MIB, 1 << 30] {
        assert_eq!(AreaLayout::new(bytes).unwrap().area_bytes(), bytes);
    }
    for bad in [0, 4096, 16384, 8 * MIB + 4096, u64::MAX] {
        assert!(AreaLayout::new(bad).is_none(), "{bad}");
    }
    let layout = AreaLayout::new(8 * MIB).unwrap();
    let offsets = [0, 1].map(|slot| (layout.checkpoint_offset(slot), layout.log_offset(slot)));
    assert_eq!(offsets, [(0, 2 * MIB), (4 * MIB, 6 * MIB)]);
    // Blocks have the same numbers in a longer area.
    let [first, second] = layout.section_space();
    assert_eq!(
        (first, second),
        (BlockRun { first: 1, count: 511 }, BlockRun { first: 65537, count: 511 })
    );
    assert_eq!([first, second].map(|run| layout.run_offset(&run)), [4096, 4 * MIB + 4096]);
    let longer = AreaLayout::new(16 * MIB).unwrap();
    assert_eq!([first, second].map(|run| longer.run_offset(&run)), [4096, 8 * MIB + 4096]);
    for (first, count, has) in [
        (1, 511, true),
        (0, 2, false),
        (500, 13, false),
        (65537, 1, true),
        (65536, 1, false),
        (7, 0, false),
        (u32::MAX, u32::MAX, false),
    ] {
        assert_eq!(layout.has_run(&BlockRun { first, count }), has, "{first} {count}");
    }
}

#[test]
fn golden_bytes() {
    let mut copy = Copy::new(12);
    let write = copy.commit(&[MetaRecord::PoolRenamed { name: "p".into() }]).unwrap();
    let header = &copy.bytes[..BLOCK_BYTES];
    assert_eq!(&header[..8], b"epCHECKP");
    assert_eq!(&header[12..16], &[0, 0, 0, 0]);
    let table = b"\x80\x80\x80\x02\x01\x07cluster\x01\x01\x00\x01\x00";
    assert_eq!(&header[30..64], &{
        let mut expected = [0; 34];
        expected[0] = 0x09;
        expected[2] = 2;
        expected[10] = 1;
        expected[26] = table.len() as u8;
        expected
    });
    assert_eq!(&header[68..80], &[1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
    assert!(header[80..368].iter().all(|byte| *byte == 0));
    assert_eq!(
        (&header[368..376], &header[376..408]),
        (&[1, 0, 0, 0, 0, 0, 0, 0][..], &Digest::of(table).0[..])
    );
    assert!(header[408..].iter().all(|byte| *byte == 0));
    assert_eq!(&copy.bytes[4096..4096 + table.len()], table);
    let entry = &write.bytes;
    assert_eq!(&entry[..8], b"epMETLOG");
    assert_eq!(entry[12..16], header[64..68]);
    assert_eq!(&entry[32..75], &{
        let mut expected = [0; 43];
        expected[0] = 2;
        expected[8] = 1;
        expected[16] = 1;
        expected[24] = 3;
        expected[32] = 7;
        expected[40..].copy_from_slice(&[20, 1, b'p']);
        expected
    });
}

#[test]
fn golden_bytes_of_signatures() {
    let keys = KeyPair::of(SecretKey::new([7; 32])).unwrap();
    let layout = AreaLayout::new(48 * BLOCK_BYTES as u64).unwrap();
    let metadata = empty_pool(FailureDomain::Node);
    let stamp = CheckpointStamp { sequence: 2, epoch: Epoch(1), number: RecordNumber(0) };
    let checkpoint =
        encode_checkpoint(&layout, &metadata, (stamp, Some(&keys)), None, &[]).unwrap();
    let signer = |context: &str, bytes: &[u8], at: usize| {
        let mut said = bytes.to_vec();
        let signature = Signature(said[at..at + 96].try_into().unwrap());
        said[8..12].fill(0);
        (signature, context.to_owned(), said)
    };
    let (signature, context, mut said) = signer("etherpool metadata", &checkpoint.header, 408);
    said[408..504].fill(0);
    assert_eq!(checkpoint.header[368], 3);
    assert_eq!(signature.signer(&context, &said), Some(keys.public()));
    let renamed = [MetaRecord::PoolRenamed { name: "p".into() }];
    let signed = (ConfigNumber(7), Some(&keys));
    let entry = encode_entry(&layout, &checkpoint.after, signed, &renamed).unwrap().bytes;
    assert_eq!((&entry[60..64], &entry[168..171]), (&[96, 0, 0, 0][..], &[20, 1, b'p'][..]));
    let (signature, context, said) = signer("etherpool metadata entry", &entry, 72);
    let said = [&said[..72], &said[168..171]].concat();
    assert_eq!(signature.signer(&context, &said), Some(keys.public()));
}
