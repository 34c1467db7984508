//! Every written row of every copy against its checksum.

use block::BLOCK_BYTES;

use super::checksums::Leg;
use super::contents::{BlockCopies, Visit};
use super::findings::{Findings, finding};
use super::report::{Kind, Severity, VolumeCheck};
use crate::format::{ChecksumBlock, ExtentShape, GenerationId, Role, Row, row_checksum};

/// Rows read by one transfer: 1 MiB.
const RUN_ROWS: usize = 256;

/// The rows of one checksum block.
pub(super) struct RowJob<'s, 'd, 'a> {
    pub(super) volume: &'s str,
    pub(super) generation: GenerationId,
    /// The first row that the block has an entry for.
    pub(super) first: Row,
    pub(super) shape: ExtentShape,
    pub(super) legs: &'s [Leg<'d, 'a>],
    pub(super) block: &'s ChecksumBlock,
    /// Written rows that aren't in the log, ascending.
    pub(super) rows: Vec<Row>,
    pub(super) pool: uuid::Uuid,
    /// Who wants to see the contents.
    pub(super) visit: Option<Visit<'s>>,
}

/// What was read of a row.
#[derive(Clone, Default)]
struct RowCopies {
    /// Copies that match the checksum.
    right: u32,
    /// One of them, when somebody wants to see it.
    contents: Option<Vec<u8>>,
}

/// Reads them on every member that should have them, and tells of those that are wrong.
pub(super) fn check_rows(
    job: &RowJob<'_, '_, '_>,
    volume_at: &dyn Fn(Row) -> Option<u64>,
    check: &mut VolumeCheck,
    findings: &mut Findings,
) {
    if job.rows.is_empty() {
        return;
    }
    let mut copies = vec![RowCopies::default(); job.rows.len()];
    let mut wrong: Vec<Vec<usize>> = Vec::new();
    for leg in job.legs {
        let mut bad = Vec::new();
        let has = |row: Row| leg.dirty & 1 << job.shape.region_of_row(row) == 0;
        let mut from = 0;
        while from < job.rows.len() {
            if !has(job.rows[from]) {
                from += 1;
                continue;
            }
            let mut end = from + 1;
            while end < job.rows.len()
                && end - from < RUN_ROWS
                && job.rows[end].0 == job.rows[end - 1].0 + 1
                && has(job.rows[end])
            {
                end += 1;
            }
            read_run(job, leg, from..end, &mut copies, &mut bad);
            check.row_copies_read += (end - from) as u64;
            from = end;
        }
        check.row_copies_bad += bad.len() as u64;
        wrong.push(bad);
    }
    let least = copies.iter().map(|copies| copies.right).min().unwrap_or(0);
    check.least.data = Some(check.least.data.unwrap_or(u32::MAX).min(least));
    for (leg, bad) in job.legs.iter().zip(wrong) {
        for index in bad {
            let (severity, means) = match copies[index].right {
                0 => (Severity::Damage, "no other copy that was given is right"),
                _ => {
                    (Severity::Redundancy, "another copy is right; volume verify repairs this one")
                }
            };
            let row = job.rows[index];
            let what = format!("copy {} does not match its checksum", leg.index);
            let at = leg.start.saturating_add(offset_of(job, row));
            let found = finding(severity, Kind::Row, what, means).on(leg.disk.name());
            let found = found.at(at, BLOCK_BYTES as u64).of(job.volume);
            findings.add(found.volume_at(volume_at(row)));
        }
    }
    let Some(visit) = job.visit else { return };
    for (row, copies) in job.rows.iter().zip(&copies) {
        let Some(offset_bytes) = volume_at(*row) else { continue };
        visit(&BlockCopies {
            pool: job.pool,
            volume: job.volume,
            offset_bytes,
            contents: copies.contents.as_deref(),
            copies: copies.right,
            record: None,
        });
    }
}

fn offset_of(job: &RowJob<'_, '_, '_>, row: Row) -> u64 {
    job.shape.row_sector(row) * block::SECTOR_BYTES as u64
}

fn read_run(
    job: &RowJob<'_, '_, '_>,
    leg: &Leg<'_, '_>,
    run: std::ops::Range<usize>,
    copies: &mut [RowCopies],
    bad: &mut Vec<usize>,
) {
    let at = leg.start.saturating_add(offset_of(job, job.rows[run.start]));
    let (bytes, unreadable) = leg.disk.image.blocks_at(at, run.len() * BLOCK_BYTES);
    for (offset, (block, index)) in bytes.chunks(BLOCK_BYTES).zip(run).enumerate() {
        let row = job.rows[index];
        let stored = job.block.get((row.0 - job.first.0) as usize);
        let found = row_checksum(job.generation, row, Role::Data(0), block);
        if stored.checksum() == Some(found) && !unreadable.contains(&offset) {
            copies[index].right += 1;
            if job.visit.is_some() && copies[index].contents.is_none() {
                copies[index].contents = Some(block.to_vec());
            }
        } else {
            bad.push(index);
        }
    }
}
