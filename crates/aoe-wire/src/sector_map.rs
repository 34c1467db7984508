//! Some of the sectors of a command: a bit for each, that of the first sector the highest one of the first
//! byte. In the answer *incomplete* those that the target lacks, in a READ those that the client wants.

use std::ops::Range;

use block::{Buffer, SECTOR_BYTES};

use super::ParseError;

/// Most sectors of a command whose data travels in fragments: 1 MiB.
pub const COMMAND_SECTORS_MAX: u32 = (1 << 20) / SECTOR_BYTES as u32;

/// So much is read, and answered, at once. Of an answer all frames leave together, and where several targets answer one
/// client at a time a small switch has to hold what they send: it has half a megabyte for each port.
pub const READ_BYTES_MAX: u64 = 128 << 10;

const WORD_BITS: u32 = u64::BITS;
const WORDS: usize = (COMMAND_SECTORS_MAX / WORD_BITS) as usize;

/// Some of the sectors of a command, counted from its first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectorMap {
    /// Bits behind the last sector are never set.
    words: [u64; WORDS],
    sectors: u32,
}

impl SectorMap {
    /// All sectors of a command that has so many, of which [`COMMAND_SECTORS_MAX`] count.
    pub fn full(sectors: u32) -> SectorMap {
        let sectors = sectors.min(COMMAND_SECTORS_MAX);
        let mut map = SectorMap { words: [0; WORDS], sectors };
        for (index, word) in map.words.iter_mut().enumerate() {
            let before = index as u32 * WORD_BITS;
            *word = bits(0, sectors.saturating_sub(before).min(WORD_BITS));
        }
        map
    }

    /// How many bytes the map of a command has that has so many sectors.
    pub(crate) fn len_bytes(sectors: u32) -> usize {
        sectors.div_ceil(8) as usize
    }

    /// Reads the payload that is the map of a command of so many sectors.
    pub fn parse(payload: &[u8], sectors: u32) -> Result<SectorMap, ParseError> {
        if sectors > COMMAND_SECTORS_MAX || payload.len() != SectorMap::len_bytes(sectors) {
            return Err(ParseError::Length);
        }
        let all = SectorMap::full(sectors);
        let mut map = SectorMap { words: [0; WORDS], sectors };
        for ((word, all), part) in map.words.iter_mut().zip(all.words).zip(payload.chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..part.len()].copy_from_slice(part);
            *word = u64::from_be_bytes(bytes);
            if *word & !all != 0 {
                return Err(ParseError::Reserved);
            }
        }
        Ok(map)
    }

    /// The payload.
    pub fn emit(&self) -> Buffer {
        let mut bytes = [0; WORDS * 8];
        for (part, word) in bytes.chunks_exact_mut(8).zip(self.words) {
            part.copy_from_slice(&word.to_be_bytes());
        }
        Buffer::copy_of(&bytes[..SectorMap::len_bytes(self.sectors)])
    }

    /// Of how many sectors these are some.
    pub fn sectors(&self) -> u32 {
        self.sectors
    }

    /// How many they are.
    pub fn len(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether they are none.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Takes sectors out; how many of them were in.
    pub fn remove(&mut self, taken: Range<u32>) -> u32 {
        let end = taken.end.min(self.sectors);
        let (mut at, mut removed) = (taken.start, 0);
        while at < end {
            let from = at % WORD_BITS;
            let to = WORD_BITS.min(from + (end - at));
            let (word, taken) = (&mut self.words[(at / WORD_BITS) as usize], bits(from, to));
            removed += (*word & taken).count_ones();
            *word &= !taken;
            at += to - from;
        }
        removed
    }

    /// From the first of them to the last; empty for none.
    pub fn hull(&self) -> Range<u32> {
        let first = self.next(0, true).unwrap_or(0);
        let last =
            self.words.iter().rposition(|word| *word != 0).map_or(0, |index| {
                (index as u32 + 1) * WORD_BITS - self.words[index].trailing_zeros()
            });
        first..last
    }

    /// Those that follow each other, in order.
    pub fn runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.next(at, true)?;
            at = self.next(start, false).unwrap_or(self.sectors);
            Some(start..at)
        })
    }

    /// The same, in parts of at most `sectors`, as many as one frame carries.
    pub fn fragments(&self, sectors: u32) -> impl Iterator<Item = Range<u32>> + '_ {
        let step = sectors.max(1);
        self.runs().flat_map(move |run| {
            let end = run.end;
            run.step_by(step as usize).map(move |start| start..end.min(start.saturating_add(step)))
        })
    }

    /// The first sector from `from` on that is in, or isn't.
    fn next(&self, mut from: u32, is_in: bool) -> Option<u32> {
        while from < self.sectors {
            let word = self.words[(from / WORD_BITS) as usize];
            let sought = if is_in { word } else { !word } & bits(from % WORD_BITS, WORD_BITS);
            if sought != 0 {
                let found = from / WORD_BITS * WORD_BITS + sought.leading_zeros();
                return (found < self.sectors).then_some(found);
            }
            from = (from / WORD_BITS + 1) * WORD_BITS;
        }
        None
    }
}

/// The bits of a word from the one of number `from`, counted from the highest, to before that of `to`.
fn bits(from: u32, to: u32) -> u64 {
    let since = u64::MAX.checked_shr(from).unwrap_or(0);
    let behind = u64::MAX.checked_shr(to).unwrap_or(0);
    since & !behind
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn map(sectors: u32, out: &[Range<u32>]) -> SectorMap {
        let mut map = SectorMap::full(sectors);
        out.iter().for_each(|out| {
            map.remove(out.clone());
        });
        map
    }

    #[test]
    fn literal_bytes() {
        let some = map(20, &[1..9, 12..19]);
        assert_eq!(some.emit()[..], [0x80, 0x70, 0x10]);
        assert_eq!(SectorMap::parse(&[0x80, 0x70, 0x10], 20), Ok(some.clone()));
        assert_eq!(some.runs().collect::<Vec<_>>(), [0..1, 9..12, 19..20]);
        assert_eq!((some.len(), some.hull(), some.sectors()), (5, 0..20, 20));
        assert_eq!(SectorMap::full(2048).emit()[..], [0xff; 256]);
        assert_eq!(SectorMap::full(0).emit().len(), 0);
    }

    #[test]
    fn other_lengths_and_bits_behind_the_end_are_refused() {
        assert_eq!(SectorMap::parse(&[0xff; 2], 17), Err(ParseError::Length));
        assert_eq!(SectorMap::parse(&[0xff; 4], 17), Err(ParseError::Length));
        assert_eq!(SectorMap::parse(&[0xff, 0xff, 0xc0], 17), Err(ParseError::Reserved));
        assert!(SectorMap::parse(&[0xff, 0xff, 0x80], 17).is_ok());
        assert_eq!(SectorMap::parse(&[0; 257], 2056), Err(ParseError::Length));
        assert_eq!(SectorMap::full(u32::MAX).sectors(), COMMAND_SECTORS_MAX);
    }

    #[test]
    fn fragments_are_runs_in_parts() {
        let some = map(100, &[40..42, 80..100]);
        let parts: Vec<_> = some.fragments(17).collect();
        assert_eq!(parts, [0..17, 17..34, 34..40, 42..59, 59..76, 76..80]);
        assert_eq!(some.fragments(u32::MAX).collect::<Vec<_>>(), [0..40, 42..80]);
        assert_eq!(map(3, &[]).fragments(0).count(), 3);
    }

    #[test]
    fn removing_tells_what_was_in() {
        let mut some = SectorMap::full(2048);
        assert_eq!(some.remove(60..70), 10);
        assert_eq!(some.remove(0..100), 90);
        assert_eq!(some.remove(2040..9000), 8);
        assert_eq!(some.remove(5000..6000), 0);
        assert_eq!(some.hull(), 100..2040);
        some.remove(103..u32::MAX);
        assert!(some.runs().eq(std::iter::once(100..103)));
        some.remove(0..u32::MAX);
        assert!(some.is_empty() && some.hull().is_empty());
    }

    proptest! {
        /// Against a set of numbers.
        #[test]
        fn as_a_set(
            sectors in 0u32..=2048,
            out in prop::collection::vec((0u32..2100, 0u32..300), 0..20),
            size in 1u32..200,
        ) {
            let mut map = SectorMap::full(sectors);
            let mut set: BTreeSet<u32> = (0..sectors).collect();
            for (start, count) in out {
                let before = set.len();
                set.retain(|sector| !(start..start + count).contains(sector));
                prop_assert_eq!(map.remove(start..start + count) as usize, before - set.len());
            }
            prop_assert_eq!(SectorMap::parse(&map.emit(), sectors), Ok(map.clone()));
            prop_assert_eq!(map.len() as usize, set.len());
            prop_assert_eq!(map.is_empty(), set.is_empty());
            prop_assert!(map.runs().flatten().eq(set.iter().copied()));
            prop_assert!(map.fragments(size).flatten().eq(set.iter().copied()));
            prop_assert!(map.fragments(size).all(|part| (1..=size).contains(&(part.end - part.start))));
            let hull = set.first().map_or(0..0, |first| *first..set.last().unwrap() + 1);
            prop_assert_eq!(map.hull(), hull);
        }

        #[test]
        fn no_payload_panics(payload in prop::collection::vec(any::<u8>(), 0..300), sectors in 0u32..2500) {
            if let Ok(map) = SectorMap::parse(&payload, sectors) {
                prop_assert_eq!(&map.emit()[..], &payload[..]);
            }
        }
    }
}
