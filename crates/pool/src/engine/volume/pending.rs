//! What is acknowledged and not in place yet: per block its newest durable record. Reads look here
//! first; destaging takes from here. The log's size bounds it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use block::{BLOCK_BYTES, Buffer, Instance};

use crate::format::{DiskNumber, RecordBody, RecordNumber};

/// What a block shall hold.
#[derive(Clone, Debug)]
pub(crate) struct PendingBlock {
    /// The record that says so.
    pub(crate) number: RecordNumber,
    /// Its contents; `None` for zeros.
    pub(crate) data: Option<BlockData>,
}

/// A block within the payload of its record; neighbours share the buffer, so that destaging can write
/// them as one run without a copy.
#[derive(Clone, Debug)]
pub(crate) struct BlockData {
    payload: Buffer,
    index: usize,
    /// Checksum of the contents in their place.
    pub(crate) crc: u32,
    /// The contents are damaged in every copy of the log: nobody has them, unless it is their place.
    pub(crate) is_lost: bool,
    /// Disks that have it in its place, durably.
    in_place: Option<Rc<InPlaceOn>>,
}

/// Disks, and the instances that took something.
pub(crate) type InPlaceOn = Vec<(DiskNumber, Instance)>;

impl BlockData {
    /// The contents.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.payload[self.index * BLOCK_BYTES..(self.index + 1) * BLOCK_BYTES]
    }

    /// The contents, sharing the payload's memory.
    pub(crate) fn buffer(&self) -> Buffer {
        self.payload.slice(self.index * BLOCK_BYTES, (self.index + 1) * BLOCK_BYTES)
    }

    /// Whether the log doesn't have it.
    pub(crate) fn is_only_in_place(&self) -> bool {
        self.is_lost || self.went_in_place()
    }

    /// Whether it was written to its place when it was written.
    pub(crate) fn went_in_place(&self) -> bool {
        self.in_place.is_some()
    }

    /// Whether this instance of a disk took it in its place. What another one holds may be older.
    pub(crate) fn is_on(&self, disk: DiskNumber, instance: Option<Instance>) -> bool {
        let took =
            |on: &Rc<InPlaceOn>| on.iter().any(|took| (took.0, Some(took.1)) == (disk, instance));
        self.in_place.as_ref().is_some_and(took)
    }

    /// Whether `next` lies right behind this block in memory.
    fn is_followed_by(&self, next: &BlockData) -> bool {
        next.index == self.index + 1 && self.payload.as_ptr() == next.payload.as_ptr()
    }

    /// `count` blocks from this one on, which the caller knows to follow each other.
    fn run(&self, count: usize) -> Buffer {
        self.payload.slice(self.index * BLOCK_BYTES, (self.index + count) * BLOCK_BYTES)
    }
}

/// The pending blocks of a volume.
#[derive(Default)]
pub(crate) struct Pending {
    blocks: BTreeMap<u64, PendingBlock>,
}

impl Pending {
    /// Puts what a durable record says, whose first row is `block`, where readers and destaging look. An INTENT
    /// says nothing yet.
    pub(crate) fn put_record(&mut self, block: u64, number: RecordNumber, body: &RecordBody) {
        match body {
            RecordBody::Data { rows, checksums, payload } => {
                self.put(block, u64::from(rows.count), number, Some((payload, checksums)));
            }
            RecordBody::Zero { rows, .. } => self.put(block, u64::from(rows.count), number, None),
            RecordBody::Lost { rows, checksums } => {
                self.put_lost(block, rows.count, number, checksums)
            }
            RecordBody::Intent { .. } | RecordBody::Mark => {}
        }
    }

    /// A durable record says what `blocks` hold. Older records of the same blocks are forgotten:
    /// they need not reach their place any more.
    pub(crate) fn put(
        &mut self,
        first: u64,
        count: u64,
        number: RecordNumber,
        payload: Option<(&Buffer, &[u32])>,
    ) {
        self.put_as((first, count), number, payload, None);
    }

    /// The same of what these disks have in its place.
    pub(crate) fn put_in_place(
        &mut self,
        first: u64,
        number: RecordNumber,
        (payload, crcs): (&Buffer, &[u32]),
        on: InPlaceOn,
    ) {
        let on = Some(Rc::new(on));
        self.put_as((first, crcs.len() as u64), number, Some((payload, crcs)), on.as_ref());
    }

    fn put_as(
        &mut self,
        (first, count): (u64, u64),
        number: RecordNumber,
        payload: Option<(&Buffer, &[u32])>,
        in_place: Option<&Rc<InPlaceOn>>,
    ) {
        for index in 0..count {
            let data = payload.and_then(|(payload, crcs)| {
                let crc = *crcs.get(index as usize)?;
                let (payload, index) = (payload.clone(), index as usize);
                let in_place = in_place.cloned();
                Some(BlockData { payload, index, crc, is_lost: false, in_place })
            });
            let newer = PendingBlock { number, data };
            match self.blocks.entry(first + index) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(newer);
                }
                std::collections::btree_map::Entry::Occupied(mut entry) => {
                    if entry.get().number < number {
                        entry.insert(newer);
                    }
                }
            }
        }
    }

    /// A durable record says of these blocks no more than the checksums of their contents.
    pub(crate) fn put_lost(&mut self, first: u64, count: u32, number: RecordNumber, crcs: &[u32]) {
        let nothing = Buffer::zeroed(BLOCK_BYTES);
        for (block, crc) in (first..first + u64::from(count)).zip(crcs) {
            self.put(block, 1, number, Some((&nothing, &[*crc])));
            self.lose(block, number);
        }
    }

    /// What this record says of a block is known by its checksum only.
    pub(crate) fn lose(&mut self, block: u64, number: RecordNumber) {
        let said = self.blocks.get_mut(&block).filter(|pending| pending.number == number);
        if let Some(data) = said.and_then(|pending| pending.data.as_mut()) {
            data.is_lost = true;
        }
    }

    /// The blocks whose contents the log doesn't have.
    pub(crate) fn only_in_place(&self) -> impl Iterator<Item = u64> + '_ {
        let is_only =
            |block: &PendingBlock| block.data.as_ref().is_some_and(BlockData::is_only_in_place);
        self.blocks.iter().filter(move |(_, block)| is_only(block)).map(|(block, _)| *block)
    }

    /// The pending contents of one block.
    pub(crate) fn get(&self, block: u64) -> Option<&PendingBlock> {
        self.blocks.get(&block)
    }

    /// The pending blocks of a range.
    pub(crate) fn range(
        &self,
        blocks: Range<u64>,
    ) -> impl Iterator<Item = (u64, &PendingBlock)> + '_ {
        self.blocks.range(blocks).map(|(block, pending)| (*block, pending))
    }

    /// What the records up to `last` still have to bring into place.
    pub(crate) fn up_to(&self, last: RecordNumber) -> Vec<(u64, PendingBlock)> {
        let due = self.blocks.iter().filter(|(_, pending)| pending.number <= last);
        due.map(|(block, pending)| (*block, pending.clone())).collect()
    }

    /// Forgets what the records up to `last` said: it is in place.
    pub(crate) fn release(&mut self, last: RecordNumber) {
        self.blocks.retain(|_, pending| pending.number > last);
    }

    /// Forgets what records say of this block and all beyond.
    pub(crate) fn forget_from(&mut self, block: u64) {
        self.blocks.split_off(&block);
    }

    /// Whether nothing is pending.
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Bytes that aren't in place.
    pub(crate) fn bytes(&self) -> u64 {
        (self.blocks.len() * BLOCK_BYTES) as u64
    }

    /// Number of blocks.
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }
}

/// Blocks that follow each other, as one buffer: shared where they lie together in memory, else
/// copied.
pub(crate) fn gather(blocks: &[&BlockData]) -> Buffer {
    let Some(first) = blocks.first() else { return Buffer::empty() };
    if blocks.windows(2).all(|pair| pair[0].is_followed_by(pair[1])) {
        return first.run(blocks.len());
    }
    let mut joined = block::BufferMut::for_overwriting(blocks.len() * BLOCK_BYTES);
    for (window, block) in joined.chunks_exact_mut(BLOCK_BYTES).zip(blocks) {
        window.copy_from_slice(block.bytes());
    }
    joined.freeze()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_record_wins_and_release_keeps_what_is_newer() {
        let payload = Buffer::copy_of(&[[1; BLOCK_BYTES], [2; BLOCK_BYTES]].concat());
        let mut pending = Pending::default();
        pending.put(10, 2, RecordNumber(5), Some((&payload, &[7, 8])));
        pending.put(11, 1, RecordNumber(6), None);
        pending.put(11, 1, RecordNumber(4), Some((&payload, &[7])));
        assert!(pending.get(11).unwrap().data.is_none());
        assert_eq!(pending.up_to(RecordNumber(5)).len(), 1);
        pending.release(RecordNumber(5));
        assert!(pending.get(10).is_none());
        assert_eq!(pending.len(), 1);
    }

    #[test]
    fn neighbours_are_gathered_without_a_copy() {
        let payload = Buffer::copy_of(&[[1; BLOCK_BYTES], [2; BLOCK_BYTES]].concat());
        let mut pending = Pending::default();
        pending.put(0, 2, RecordNumber(1), Some((&payload, &[7, 8])));
        let first = pending.get(0).unwrap().data.clone().unwrap();
        let second = pending.get(1).unwrap().data.clone().unwrap();
        let run = gather(&[&first, &second]);
        assert_eq!(run.as_ptr(), payload.as_ptr());
        let turned = gather(&[&second, &first]);
        assert_eq!((turned[0], turned[BLOCK_BYTES]), (2, 1));
    }
}
