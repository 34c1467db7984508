//! INTENTs at an opening (docs/engine.md, 10.11 and 10.12): whether their rows have arrived. What was
//! acknowledged has arrived everywhere; of the others the checksums tell, row by row. What is found is adopted
//! like DATA, and goes to all members, whatever they hold.

use std::collections::BTreeMap;
use std::rc::Rc;

use block::{BLOCK_BYTES, Buffer, IoError};
use futures::future::join_all;

use super::lease::Ended;
use super::limits::{LOOKS_MAX, READ_TRIES};
use super::pool::GroupPlace;
use super::right_copy::{is_right, is_unreadable};
use super::volume::{Serving, Volume};
use crate::format::{DiskNumber, Record, RecordBody, RecordNumber, Row};

/// Rows read at once.
const RUN_ROWS: usize = 256;

/// Rows of an INTENT whose newest record it is.
struct Asked<'a> {
    group: &'a GroupPlace,
    first: Row,
    crcs: &'a [u32],
    /// Whether a newer record says what the row is.
    is_superseded: Vec<bool>,
    /// Whether the INTENT is known to be complete.
    is_complete: bool,
}

/// What was seen of a row.
#[derive(Clone, Default)]
struct Seen {
    right: Option<Buffer>,
    /// A position that has all that it ever took has something else.
    differs: bool,
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
            let RecordBody::Intent { rows, checksums } = &record.body else { continue };
            let Some(group) = self.adoptable(rows) else { continue };
            for (index, crcs) in checksums.chunks(RUN_ROWS).enumerate() {
                let first = Row(rows.first.0 + (index * RUN_ROWS) as u32);
                self.decide_run(&group, record.number, first, crcs, complete).await?;
            }
        }
        Ok(())
    }

    async fn decide_run(
        self: &Rc<Self>,
        group: &GroupPlace,
        number: RecordNumber,
        first: Row,
        crcs: &[u32],
        complete: RecordNumber,
    ) -> Result<(), Ended> {
        let block = |index: usize| self.block_of(group, Row(first.0 + index as u32));
        let blocks: Vec<Option<u64>> = (0..crcs.len()).map(block).collect();
        let is_superseded = |block: &Option<u64>| {
            let pending = self.pending.borrow();
            block.is_none_or(|block| pending.get(block).is_some_and(|newer| newer.number > number))
        };
        let is_superseded = blocks.iter().map(is_superseded).collect();
        let is_complete = number <= complete;
        let asked = Asked { group, first, crcs, is_superseded, is_complete };
        let seen = self.look_at_intent(&asked, number).await?;
        let mut pending = self.pending.borrow_mut();
        for (index, seen) in seen.into_iter().enumerate().filter(|(i, _)| !asked.is_superseded[*i])
        {
            let (Some(block), crc) = (blocks[index], crcs[index]) else { continue };
            match seen.right {
                Some(contents) => pending.put(block, 1, number, Some((&contents, &[crc]))),
                None if is_complete || !seen.differs => pending.put_lost(block, 1, number, &[crc]),
                // It was being written, and is what it was.
                None => {}
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
            let members = 0..asked.group.members.len();
            let asks = members.clone().map(|member| self.ask_for_intent(asked, member));
            let answers = self.pool.unless_over(join_all(asks)).await?;
            let (mut away, mut silent) = (Vec::new(), BTreeMap::new());
            for (member, answer) in members.zip(answers) {
                let (disk, _) = asked.group.members[member];
                match answer {
                    None => away.push(disk),
                    Some(Ok(rows)) => note_rows(asked, disk, rows, &mut seen, self),
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
            let is_unread = |row: (usize, &Seen)| is_open(&row) && !row.1.differs;
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
            break;
        }
        if self.log.damage.take().is_some() {
            // What comes next may wait for something else.
            self.set_serving(Serving::Opening);
        }
        Ok(seen)
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
        self.set_serving(Serving::Suspended(format!(
            "{loss}; bring back {names}; if nobody can, `etherpool volume accept-loss {}/{}` does without \
             them for ever",
            self.pool.name, self.name
        )));
        *self.log.damage.borrow_mut() = Some(loss);
        self.wait_for_change().await
    }
}

fn note_rows(
    asked: &Asked<'_>,
    disk: DiskNumber,
    rows: Vec<Option<Buffer>>,
    seen: &mut [Seen],
    volume: &Volume,
) {
    // What a disk with older contents lacks may have been there.
    let is_older = volume.pool.member(disk).is_none_or(|member| member.rolled_back.get());
    for (index, row) in rows.into_iter().enumerate() {
        let Some(row) = row else { continue };
        let at = Row(asked.first.0 + index as u32);
        let is_right = is_right(asked.group, at, asked.crcs[index], &row);
        let seen = &mut seen[index];
        seen.differs |= !is_right && !is_older;
        if is_right && seen.right.is_none() {
            seen.right = Some(row);
        }
    }
}
