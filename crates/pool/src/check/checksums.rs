//! The checksum blocks of a volume's groups: both slots on every holder, which is newest, and whether
//! the holders agree. One group at a time, so that a large pool takes no more memory than a small one.

use block::BLOCK_BYTES;

use super::data::{RowJob, check_rows};
use super::disks::Disk;
use super::findings::{Findings, finding};
use super::log::NamedRows;
use super::report::{Kind, LeastCopies, Severity, VolumeCheck};
use super::space::{extent_offset, volume_offset};
use super::view::View;
use crate::format::{BirthId, ChecksumBlock, Row, UncheckedChecksumBlock};
use crate::metadata::{Group, GroupRun, Volume};

/// A member of a group that can be read.
pub(super) struct Leg<'d, 'a> {
    pub(super) index: usize,
    pub(super) disk: &'d Disk<'a>,
    /// Where its extent begins on the disk.
    pub(super) start: u64,
    /// Regions that it lacks.
    pub(super) missed: u64,
}

/// One holder's two slots of a checksum block.
struct Slots {
    leg: usize,
    sound: [Option<ChecksumBlock>; 2],
}

impl Slots {
    fn newest(&self) -> Option<u64> {
        self.sound.iter().flatten().map(|block| block.sequence).max()
    }

    fn with(&self, sequence: u64) -> Option<&ChecksumBlock> {
        self.sound.iter().flatten().find(|block| block.sequence == sequence)
    }
}

/// How far written rows are covered, by what the metadata knows.
#[derive(Debug, Default)]
struct Cover {
    /// The least copies of any region with written rows that isn't only in the log.
    least: Option<u32>,
    /// Groups with a region on fewer members than there should be, on none, and the first of them.
    thin: u64,
    thin_at: Option<u64>,
    bare: u64,
    bare_at: Option<u64>,
}

/// Checks all groups of a volume.
pub(super) fn check_groups(
    view: &View<'_, '_>,
    volume: &Volume,
    named: &NamedRows,
    check: &mut VolumeCheck,
    findings: &mut Findings,
) {
    let mut cover = Cover::default();
    for run in volume.runs.values() {
        check.groups += u64::from(run.count);
        let initialised = run.initialised.min(run.count);
        check.initialised_groups += u64::from(initialised);
        if initialised == 0 {
            continue;
        }
        if !run.members.iter().any(|member| view.disk(member.disk).is_some()) {
            // Nothing can be read, so nothing is gone through one by one.
            cover.bare += u64::from(initialised);
            let at = volume_offset(view.metadata, volume, run.key.first_set, run.key.lane, Row(0));
            cover.bare_at = cover.bare_at.or(at);
            cover.least = Some(0);
            check.least.checksum_blocks = Some(0);
            continue;
        }
        for index in 0..initialised {
            let group = Group { volume: volume.id, run, index };
            let worker = GroupCheck { view, volume, named, group, run };
            worker.check(check, &mut cover, findings);
        }
    }
    tell_cover(view, volume, &cover, findings);
    if !view.data {
        check.least.data = cover.least;
    } else if cover.least == Some(0) {
        check.least.data = Some(0);
    }
}

fn tell_cover(view: &View<'_, '_>, volume: &Volume, cover: &Cover, findings: &mut Findings) {
    let copies = volume.layout.copies();
    if cover.bare > 0 {
        let what = format!("parts of {} groups are right on no disk that was given", cover.bare);
        let means = match view.by_number.len() < view.metadata.disks().len() {
            true => "give the missing disks too, or bring them back",
            false => "what was written there can't be read",
        };
        let found = finding(Severity::Damage, Kind::Missed, what, means);
        findings.add(found.of(&volume.name).volume_at(cover.bare_at));
    }
    if cover.thin > 0 {
        let what = format!("parts of {} groups are right on fewer than {copies} disks", cover.thin);
        let means = "an engine with all disks brings them up to date";
        let found = finding(Severity::Redundancy, Kind::Missed, what, means);
        findings.add(found.of(&volume.name).volume_at(cover.thin_at));
    }
}

struct GroupCheck<'s, 'd, 'a> {
    view: &'s View<'d, 'a>,
    volume: &'s Volume,
    named: &'s NamedRows,
    group: Group<'s>,
    run: &'s GroupRun,
}

impl<'d, 'a> GroupCheck<'_, 'd, 'a> {
    fn birth(&self) -> BirthId {
        self.group.birth()
    }

    fn volume_at(&self, row: Row) -> Option<u64> {
        let set = self.run.key.first_set.saturating_add(u64::from(self.group.index));
        volume_offset(self.view.metadata, self.volume, set, self.run.key.lane, row)
    }

    fn check(&self, check: &mut VolumeCheck, cover: &mut Cover, findings: &mut Findings) {
        let shape = self.view.metadata.shape();
        let head = 2 * shape.checksum_blocks() as usize * BLOCK_BYTES;
        let mut legs: Vec<Leg<'d, 'a>> = Vec::new();
        let mut heads: Vec<Vec<u8>> = Vec::new();
        for (index, (disk, extent)) in self.group.members().enumerate() {
            let Some(disk) = self.view.disk(disk) else { continue };
            let Some(start) = extent_offset(disk, extent) else { continue };
            let missed = self.view.metadata.missed(self.birth(), index as u8);
            heads.push(disk.image.blocks_at(start, head).0);
            legs.push(Leg { index, disk, start, missed });
        }
        let mut written = 0_u64;
        for index in 0..shape.checksum_blocks() {
            check.checksum_blocks += 1;
            let (first, rows) = shape.rows_of_block(index);
            let named = self.named.has(self.birth(), first, rows);
            let newest = self.judge(index, named, &legs, &heads, &mut check.least, findings);
            let Some(newest) = newest else { continue };
            let mut job = RowJob {
                volume: &self.volume.name,
                birth: self.birth(),
                first,
                shape,
                legs: &legs,
                block: &newest,
                rows: Vec::new(),
                pool: self.view.metadata.pool().id.0,
                visit: self.view.visit,
            };
            for entry in 0..rows {
                let row = Row(first.0 + entry);
                if newest.get(entry as usize).is_none() {
                    continue;
                }
                check.rows_written += 1;
                if named && self.named.has(self.birth(), row, 1) {
                    check.rows_in_log += 1;
                } else {
                    written |= 1 << shape.region_of_row(row);
                    job.rows.push(row);
                }
            }
            if self.view.data {
                check_rows(&job, &|row| self.volume_at(row), check, findings);
            }
        }
        self.cover(written, &legs, cover);
    }

    /// How many members have each region with written rows.
    fn cover(&self, written: u64, legs: &[Leg<'d, 'a>], cover: &mut Cover) {
        if written == 0 {
            return;
        }
        let regions = (0..64).filter(|region| written & 1 << region != 0);
        let have = |region: u32| legs.iter().filter(|leg| leg.missed & 1 << region == 0).count();
        let least = regions.map(have).min().unwrap_or(0) as u32;
        cover.least = Some(cover.least.unwrap_or(u32::MAX).min(least));
        if least == 0 {
            cover.bare += 1;
            cover.bare_at = cover.bare_at.or(self.volume_at(Row(0)));
        } else if least < u32::from(self.volume.layout.copies()) {
            cover.thin += 1;
            cover.thin_at = cover.thin_at.or(self.volume_at(Row(0)));
        }
    }

    /// The newest state of a checksum block. `named` tells whether the log still names its rows: then a
    /// fold of it may have been cut short.
    fn judge(
        &self,
        index: u32,
        named: bool,
        legs: &[Leg<'d, 'a>],
        heads: &[Vec<u8>],
        least: &mut LeastCopies,
        findings: &mut Findings,
    ) -> Option<ChecksumBlock> {
        let mask = self.view.metadata.shape().checksum_regions(index);
        let holders = legs.iter().zip(heads).enumerate();
        let holders: Vec<Slots> = holders
            .filter(|(_, (leg, _))| leg.missed & mask == 0)
            .map(|(leg, (_, head))| Slots {
                leg,
                sound: [0, 1].map(|slot| self.slot(index, slot, head)),
            })
            .collect();
        let newest = holders.iter().filter_map(Slots::newest).max();
        let Some(newest) = newest else {
            if let Some(holder) = holders.first() {
                let what = "no holder has a sound slot of a checksum block";
                let means = "rows of it can't be told right from wrong: reading them fails";
                let found = self.finding(Severity::Damage, Kind::ChecksumLost, what, means, index);
                findings.add(self.place(found, &legs[holder.leg], index, 0));
            }
            least.checksum_blocks = Some(0);
            return None;
        };
        // A sound slot where the next block would be shows that there is none on that holder; and no
        // holder that is right lags behind the others.
        let next_slot = ((newest + 1) % 2) as usize;
        let known = holders.iter().any(|holder| holder.sound[next_slot].is_some());
        if !known {
            let (severity, means) = match named {
                true => (
                    Severity::Note,
                    "the write of the next one was cut short; the log has all \
                                          that it was to add",
                ),
                false => (
                    Severity::Damage,
                    "the newest may be lost: what was written since the \
                                             older one would read as zeros, so reading fails",
                ),
            };
            let what = "no holder can show the newest state of a checksum block";
            let found = self.finding(severity, Kind::ChecksumLost, what, means, index);
            let at = holders.first().map(|holder| &legs[holder.leg]);
            findings.add(match at {
                Some(leg) => self.place(found, leg, index, next_slot),
                None => found,
            });
        }
        let mut copies = 0;
        let mut first: Option<(&Leg<'d, 'a>, &ChecksumBlock)> = None;
        for holder in &holders {
            let leg = &legs[holder.leg];
            match (holder.with(newest), first) {
                (Some(block), Some((other, theirs))) if block != theirs => {
                    let what = format!(
                        "a checksum block and that on {} differ, both with sequence {newest}",
                        other.disk.name()
                    );
                    let means = "two histories of what was written; neither can be chosen";
                    let kind = Kind::ChecksumHistories;
                    let found = self.finding(Severity::Damage, kind, &what, means, index);
                    findings.add(self.place(found, leg, index, (newest % 2) as usize));
                }
                (Some(block), _) => {
                    copies += 1;
                    first = first.or(Some((leg, block)));
                }
                (None, _) => {}
            }
            self.tell_slots(holder, leg, newest, named, index, findings);
        }
        if !named {
            let copies = if known { copies } else { 0 };
            let before = least.checksum_blocks.unwrap_or(u32::MAX);
            least.checksum_blocks = Some(before.min(copies));
        }
        first.map(|(_, block)| block.clone()).filter(|_| known || named)
    }

    /// A holder's damaged slots, and whether it lags.
    fn tell_slots(
        &self,
        holder: &Slots,
        leg: &Leg<'d, 'a>,
        newest: u64,
        named: bool,
        index: u32,
        findings: &mut Findings,
    ) {
        let (severity, cut_short) = match named {
            true => {
                (Severity::Note, "; the write that the log still names may have been cut short")
            }
            false => (Severity::Redundancy, ""),
        };
        for slot in (0..2).filter(|slot| holder.sound[*slot].is_none()) {
            let what = format!("slot {slot} of a checksum block is damaged");
            let means = match holder.with(newest) {
                Some(_) => "the slot with the newest is sound; an engine writes both anew",
                None => "it had the newest, or should; other holders have it",
            };
            let means = format!("{means}{cut_short}");
            let found = self.finding(severity, Kind::ChecksumSlot, &what, &means, index);
            findings.add(self.place(found, leg, index, slot));
        }
        let has = holder.newest().filter(|has| *has < newest);
        if let Some(has) = has.filter(|_| holder.sound.iter().all(Option::is_some)) {
            let what = format!("a checksum block has sequence {has}, the newest is {newest}");
            let means = format!("this holder lost a write, or never got it{cut_short}");
            let found = self.finding(severity, Kind::ChecksumOlder, &what, &means, index);
            findings.add(self.place(found, leg, index, (newest % 2) as usize));
        }
    }

    fn slot(&self, index: u32, slot: u32, head: &[u8]) -> Option<ChecksumBlock> {
        let shape = self.view.metadata.shape();
        let at = shape.checksum_sector(index, slot) as usize * block::SECTOR_BYTES;
        let bytes = head.get(at..at + BLOCK_BYTES)?;
        UncheckedChecksumBlock(bytes).check(self.birth(), index, slot).ok()
    }

    fn finding(
        &self,
        severity: Severity,
        kind: Kind,
        what: &str,
        means: &str,
        index: u32,
    ) -> super::report::Finding {
        let (first, _) = self.view.metadata.shape().rows_of_block(index);
        let found = finding(severity, kind, what, means);
        found.of(&self.volume.name).volume_at(self.volume_at(first))
    }

    fn place(
        &self,
        found: super::report::Finding,
        leg: &Leg<'d, 'a>,
        index: u32,
        slot: usize,
    ) -> super::report::Finding {
        let shape = self.view.metadata.shape();
        let sector = shape.checksum_sector(index, slot as u32);
        let at = leg.start.saturating_add(sector * block::SECTOR_BYTES as u64);
        found.on(leg.disk.name()).at(at, BLOCK_BYTES as u64)
    }
}
