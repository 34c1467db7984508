//! INTENTs at an opening (docs/engine.md, 10.11, 10.12 and 10.20): whether their rows have arrived. What was
//! acknowledged has arrived everywhere; of the others the checksums tell, row by row. What is found is adopted
//! like DATA, and goes to all members, whatever they hold: also what was there before, since a position that
//! was being written over may have neither.

use std::collections::BTreeMap;
use std::rc::Rc;

use block::{BLOCK_BYTES, Buffer, IoError};
use futures::future::join_all;

use super::belief::LoadError;
use super::lease::Ended;
use super::limits::{LOOKS_MAX, READ_TRIES};
use super::pool::GroupPlace;
use super::right_copy::{is_right, is_unreadable};
use super::torn::compose;
use super::volume::{Serving, Volume};
use crate::format::{
    ChecksumBlock, DiskNumber, Entry, ROW_SECTORS, Record, RecordBody, RecordNumber, Role, Row,
    row_checksum, sector_checksum,
};

/// Rows read at once.
const RUN_ROWS: usize = 256;

/// Rows of an INTENT whose newest record it is.
struct Asked<'a> {
    group: &'a GroupPlace,
    first: Row,
    crcs: &'a [u32],
    /// For each sector, if something may have been there.
    sectors: &'a [u32],
    /// Whether a newer record says what the row is.
    is_superseded: Vec<bool>,
    /// Whether an older record says what the row was.
    has_older: Vec<bool>,
    /// Whether the INTENT is known to be complete.
    is_complete: bool,
}

/// What a row was before.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Was {
    /// What says it isn't in its place: nothing is there, an older record has it, or it can't be read anyhow.
    #[default]
    Elsewhere,
    /// In its place, with this checksum.
    Kept(u32),
    /// What those have who are there may not be the newest that says it.
    Doubtful,
    /// Nobody who is there can tell.
    Unknown,
}

/// What was seen of a row.
#[derive(Clone, Default)]
struct Seen {
    right: Option<Buffer>,
    /// A position that has all that it ever took has something else.
    differs: bool,
    was: Was,
    /// What it was.
    old: Option<Buffer>,
    /// The same, as a disk with older contents has it: another one may have more.
    old_of_older: Option<Buffer>,
    /// What positions have that should have all of it, when they were asked last, and whether they had the same
    /// the time before: nothing else tells whether an answer was right.
    copies: BTreeMap<usize, (Buffer, bool)>,
}

impl Seen {
    /// What counts of a row that wasn't acknowledged and isn't there, if it is known: old contents that are in
    /// its place, or nothing if they are elsewhere. `is_last`: nobody else will say more.
    fn undecided(
        &self,
        asked: &Asked<'_>,
        index: usize,
        is_last: bool,
    ) -> Option<Option<(Buffer, u32)>> {
        let crc = match self.was {
            Was::Doubtful if !is_last => return None,
            Was::Elsewhere | Was::Doubtful => return self.differs.then_some(None),
            Was::Unknown => return None,
            Was::Kept(crc) => crc,
        };
        let old = self.old.clone().map(|old| (old, crc));
        let found = old.or_else(|| self.composed(asked, index, crc));
        let older = || self.old_of_older.clone().filter(|_| is_last).map(|old| (old, crc));
        Some(Some(found.or_else(older)?))
    }

    fn composed(&self, asked: &Asked<'_>, index: usize, was: u32) -> Option<(Buffer, u32)> {
        let (group, row) = (asked.group.generation, Row(asked.first.0 + index as u32));
        let sectors = asked.sectors.chunks(ROW_SECTORS).nth(index)?;
        let is_new =
            |at: usize, bytes: &[u8]| sector_checksum(group, row, at, bytes) == sectors[at];
        let crc_of = |bytes: &[u8]| row_checksum(group, row, Role::Data(0), bytes);
        if self.copies.values().any(|(_, same)| !same) {
            return None;
        }
        let copies: Vec<&[u8]> = self.copies.values().map(|(copy, _)| &**copy).collect();
        // The first position is written before the others.
        let first = self.copies.keys().position(|member| *member == 0);
        let found = compose(&copies, first, is_new, |bytes| crc_of(bytes) == was)?;
        Some((Buffer::copy_of(&found), crc_of(&found)))
    }
}

/// What a position answered: rows, `None` for those that its medium can't read.
type Answer = Result<Vec<Option<Buffer>>, IoError>;

impl Volume {
    /// Decides what became of the INTENTs among these records, and puts what counts of them where destaging
    /// looks; the other records are there. All up to `complete` were acknowledged.
    pub(super) async fn decide_intents(
        self: &Rc<Self>,
        records: &[Record],
        complete: RecordNumber,
    ) -> Result<(), Ended> {
        // The newest first: what it is known to say no older one needs to be asked for.
        for record in records.iter().rev() {
            let RecordBody::Intent { rows, checksums, sectors } = &record.body else { continue };
            let Some(group) = self.adoptable(rows) else { continue };
            let mut sectors = sectors.chunks(RUN_ROWS * ROW_SECTORS);
            for (index, crcs) in checksums.chunks(RUN_ROWS).enumerate() {
                let first = Row(rows.first.0 + (index * RUN_ROWS) as u32);
                let says = (crcs, sectors.next().unwrap_or_default());
                self.decide_run(&group, record.number, first, says, complete).await?;
            }
        }
        Ok(())
    }

    async fn decide_run(
        self: &Rc<Self>,
        group: &GroupPlace,
        number: RecordNumber,
        first: Row,
        (crcs, sectors): (&[u32], &[u32]),
        complete: RecordNumber,
    ) -> Result<(), Ended> {
        let block = |index: usize| self.block_of(group, Row(first.0 + index as u32));
        let blocks: Vec<Option<u64>> = (0..crcs.len()).map(block).collect();
        let is_superseded = |block: &Option<u64>| {
            let pending = self.pending.borrow();
            block.is_none_or(|block| pending.get(block).is_some_and(|newer| newer.number > number))
        };
        let is_superseded: Vec<bool> = blocks.iter().map(is_superseded).collect();
        let has_older = {
            let pending = self.pending.borrow();
            let has = |block: &Option<u64>| block.is_some_and(|block| pending.get(block).is_some());
            blocks.iter().map(has).collect()
        };
        let is_complete = number <= complete;
        let asked = Asked { group, first, crcs, sectors, is_superseded, has_older, is_complete };
        let seen = self.look_at_intent(&asked, number).await?;
        let mut pending = self.pending.borrow_mut();
        for (index, seen) in seen.into_iter().enumerate().filter(|(i, _)| !asked.is_superseded[*i])
        {
            let (Some(block), crc) = (blocks[index], crcs[index]) else { continue };
            let undecided = || seen.undecided(&asked, index, true).filter(|_| !is_complete);
            match seen.right.clone().map(|new| Some((new, crc))).or_else(undecided) {
                Some(Some((contents, crc))) => {
                    pending.put(block, 1, number, Some((&contents, &[crc])));
                }
                // It was being written, and is what it was.
                Some(None) => {}
                None => pending.put_lost(block, 1, number, &[crc]),
            }
        }
        Ok(())
    }

    /// Asks all positions until what became of each row is known.
    async fn look_at_intent(
        self: &Rc<Self>,
        asked: &Asked<'_>,
        number: RecordNumber,
    ) -> Result<Vec<Seen>, Ended> {
        let mut seen = vec![Seen::default(); asked.crcs.len()];
        let (mut looks, mut tries, mut refusals) = (0, 0, 0);
        loop {
            let is_open = |(index, seen): &(usize, &Seen)| {
                seen.right.is_none() && !asked.is_superseded[*index]
            };
            if !seen.iter().enumerate().any(|row| is_open(&row)) {
                break;
            }
            let waited_for = match asked.sectors.is_empty() || asked.is_complete {
                true => Vec::new(),
                false => self.note_entries(asked, &mut seen).await,
            };
            let members = 0..asked.group.members.len();
            let asks = members.clone().map(|member| self.ask_for_intent(asked, member));
            let answers = self.pool.unless_over(join_all(asks)).await?;
            let (mut away, mut silent) = (Vec::new(), BTreeMap::new());
            for (member, answer) in members.zip(answers) {
                let (disk, _) = asked.group.members[member];
                match answer {
                    None => away.push(disk),
                    Some(Ok(rows)) => note_rows(asked, (member, disk), rows, &mut seen, self),
                    Some(Err(error)) => drop(silent.insert(disk, error)),
                }
            }
            if !silent.is_empty() {
                // One that began anew is being looked at; one that answers a probe each time and never this
                // is of no use.
                silent.retain(|_, error| !matches!(error, IoError::Restarted { .. }));
                self.pool.evict(&silent, refusals > 1).await?;
                refusals += 1;
                self.wait_for_change().await?;
                continue;
            }
            looks += 1;
            if looks < LOOKS_MAX {
                continue;
            }
            let is_unread = |row: (usize, &Seen)| {
                let is_known = match asked.is_complete {
                    true => row.1.differs,
                    false => row.1.undecided(asked, row.0, false).is_some(),
                };
                is_open(&row) && !is_known
            };
            let unread = seen.iter().enumerate().any(is_unread);
            if unread && tries < READ_TRIES {
                tries += 1;
                self.pool.unless_over(self.pool.runtime.sleep(self.pool.limits.rejoin)).await?;
                continue;
            }
            if unread && !asked.is_complete && !away.is_empty() && !self.log.accepts_loss.get() {
                self.wait_for_positions(number, &away).await?;
                continue;
            }
            if unread && !waited_for.is_empty() && !self.log.accepts_loss.get() {
                self.wait_for_holders(&waited_for).await?;
                continue;
            }
            break;
        }
        if self.log.damage.take().is_some() {
            // What comes next may wait for something else.
            self.set_serving(Serving::Opening);
        }
        Ok(seen)
    }

    /// Finds out what rows were before; returns the disks that would have to say it, if nobody there does.
    async fn note_entries(
        self: &Rc<Self>,
        asked: &Asked<'_>,
        seen: &mut [Seen],
    ) -> Vec<DiskNumber> {
        let mut waited_for = Vec::new();
        // One that can't be had takes its time, and isn't asked for again for each row.
        let mut known: Option<(u32, Result<Rc<ChecksumBlock>, Was>)> = None;
        for (index, seen) in seen.iter_mut().enumerate() {
            let (block, entry) = self.pool.shape().entry_of(Row(asked.first.0 + index as u32));
            if asked.has_older[index] {
                continue;
            }
            let (_, loaded) = match known.take().filter(|(of, _)| *of == block) {
                Some(loaded) => known.insert(loaded),
                None => {
                    let loaded = match self.checksum_block(asked.group, block..block + 1).await {
                        Ok(loaded) => Ok(loaded.block),
                        Err(LoadError::Doubtful(doubt)) if doubt.is_lost => Err(Was::Elsewhere),
                        Err(LoadError::Doubtful(_)) => Err(Was::Doubtful),
                        Err(LoadError::Unreachable(silent)) => {
                            waited_for = silent;
                            Err(Was::Unknown)
                        }
                    };
                    known.insert((block, loaded))
                }
            };
            seen.was = match loaded {
                Ok(block) => match block.get(entry) {
                    Entry::Written(crc) => Was::Kept(crc),
                    Entry::Unwritten | Entry::Lost => Was::Elsewhere,
                },
                Err(was) => *was,
            };
        }
        waited_for
    }

    /// The rows as a position has them; `None` if its disk isn't there.
    async fn ask_for_intent(&self, asked: &Asked<'_>, member: usize) -> Option<Answer> {
        let Asked { group, first, crcs, .. } = asked;
        self.pool.extent_of(group, member)?;
        let (disk, _) = group.members[member];
        let limit = self.pool.limits.background;
        let read = |first: Row, count: usize| {
            let asking = self.ask(group, first, count as u32, member);
            self.pool.within_while_in(disk, limit, asking)
        };
        match read(*first, crcs.len()).await {
            Ok(data) => {
                let row = |index| data.slice(index * BLOCK_BYTES, (index + 1) * BLOCK_BYTES);
                return Some(Ok((0..crcs.len()).map(|index| Some(row(index))).collect()));
            }
            Err(error) if is_unreadable(&error) => {}
            Err(error) => return Some(Err(error)),
        }
        let mut rows = Vec::with_capacity(crcs.len());
        for index in 0..crcs.len() {
            match read(Row(first.0 + index as u32), 1).await {
                Ok(data) => rows.push(Some(data)),
                Err(error) if is_unreadable(&error) => rows.push(None),
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(rows))
    }

    /// Nobody who is there can tell what became of a write: somebody else may.
    async fn wait_for_positions(
        self: &Rc<Self>,
        number: RecordNumber,
        away: &[DiskNumber],
    ) -> Result<(), Ended> {
        let names = self.names_of(away.iter().copied());
        let loss = format!(
            "blocks were being written when the pool was left ({number}), and whether they were is known \
             where they are, and nowhere else (reading them fails until they are written anew)"
        );
        let without = self.doing_without();
        self.set_serving(Serving::Suspended(format!("{loss}; bring back {names}{without}")));
        *self.log.damage.borrow_mut() = Some(loss);
        self.wait_for_change().await
    }
}

fn note_rows(
    asked: &Asked<'_>,
    (member, disk): (usize, DiskNumber),
    rows: Vec<Option<Buffer>>,
    seen: &mut [Seen],
    volume: &Volume,
) {
    // What a disk with older contents lacks may have been there.
    let is_rolled_back = volume.pool.member(disk).is_none_or(|member| member.rolled_back.get());
    for (index, row) in rows.into_iter().enumerate() {
        let Some(row) = row else { continue };
        let at = Row(asked.first.0 + index as u32);
        let is = |crc: u32| is_right(asked.group, at, crc, &row);
        // Nor does it follow from what one has that lacks something there, as where a position moves to.
        let has_all = volume.pool.has_all(asked.group, member, region_of(volume, at));
        let is_older = is_rolled_back || !has_all;
        let seen = &mut seen[index];
        let is_new = is(asked.crcs[index]);
        seen.differs |= !is_new && !is_older;
        if is_new {
            seen.right.get_or_insert(row);
        } else if matches!(seen.was, Was::Kept(crc) if is(crc)) {
            let old = if is_older { &mut seen.old_of_older } else { &mut seen.old };
            old.get_or_insert(row);
        } else if !is_older {
            let same = seen.copies.get(&member).is_some_and(|(before, _)| *before == row);
            seen.copies.insert(member, (row, same));
        }
    }
}

fn region_of(volume: &Volume, row: Row) -> u64 {
    volume.pool.region_mask(row, 1)
}
