//! The checksum blocks of a volume's groups: both slots on every holder, which of them the metadata's
//! root names, and whether every holder has those. One group at a time, so that a large pool takes no more memory than a small one.

use std::collections::BTreeSet;

use block::BLOCK_BYTES;

use super::data::{RowJob, check_rows};
use super::disks::Disk;
use super::findings::{Findings, finding};
use super::intents::IntentRows;
use super::log::NamedRows;
use super::report::{Kind, LeastCopies, Severity, VolumeCheck};
use super::space::{extent_offset, volume_offset};
use super::view::View;
use crate::format::{
    ChecksumBlock, ChecksumVersion, Entry, ExtentShape, GenerationId, Row, UncheckedChecksumBlock,
    version_hash,
};
use crate::metadata::{Group, GroupRun, Volume};

/// A member of a group that can be read.
pub(super) struct Leg<'d, 'a> {
    pub(super) index: usize,
    pub(super) disk: &'d Disk<'a>,
    /// Where its extent begins on the disk.
    pub(super) start: u64,
    /// Regions that it lacks.
    pub(super) dirty: u64,
}

/// One holder's two slots of a checksum block.
struct Slots {
    leg: usize,
    sound: [Option<ChecksumBlock>; 2],
}

impl Slots {
    fn with(&self, version: ChecksumVersion) -> Option<&ChecksumBlock> {
        self.sound.iter().flatten().find(|block| block.version == version)
    }
}

/// Combinations of slots that are tried for a span, at most.
const COMBINATIONS_MAX: u32 = 1 << 20;
/// How far behind what the root names the newest sound slot of a block may be that is told from a span
/// of which nothing is known.
const LATER_MAX: u64 = 3;

/// Tries combinations of candidates, one block after the other, until their hashes sum to the root.
struct Search<'c> {
    candidates: &'c [Vec<(u64, ChecksumVersion)>],
    left: u32,
}

impl Search<'_> {
    fn find(&mut self, at: usize, missing: u64, chosen: &mut Vec<ChecksumVersion>) -> bool {
        let Some(of_block) = self.candidates.get(at) else { return missing == 0 };
        for (hash, version) in of_block {
            if self.left == 0 {
                return false;
            }
            self.left -= 1;
            chosen.push(*version);
            if self.find(at + 1, missing.wrapping_sub(*hash), chosen) {
                return true;
            }
            chosen.pop();
        }
        false
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
    (named, intents): (&NamedRows, &mut IntentRows),
    check: &mut VolumeCheck,
    findings: &mut Findings,
) {
    let mut cover = Cover::default();
    for run in volume.runs.values() {
        check.groups += u64::from(run.count);
        let initialised = run.initialised().min(run.count);
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
            worker.check(intents, check, &mut cover, findings);
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
    if cover.bare > 0 {
        let what = format!("parts of {} groups are right on no disk that was given", cover.bare);
        let means = match view.by_number.len() < view.metadata.disks().size() {
            true => "give the missing disks too, or bring them back",
            false => "what was written there can't be read",
        };
        let found = finding(Severity::Damage, Kind::Dirty, what, means);
        findings.add(found.of(&volume.name).volume_at(cover.bare_at));
    }
    if cover.thin > 0 {
        let what =
            format!("parts of {} groups are right on fewer disks than they are on", cover.thin);
        let means = "an engine with all disks brings them up to date";
        let found = finding(Severity::Redundancy, Kind::Dirty, what, means);
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
    fn generation(&self) -> GenerationId {
        self.group.generation()
    }

    fn volume_at(&self, row: Row) -> Option<u64> {
        let set = self.run.key.first_set.saturating_add(u64::from(self.group.index));
        volume_offset(self.view.metadata, self.volume, set, self.run.key.lane, row)
    }

    fn check(
        &self,
        intents: &mut IntentRows,
        check: &mut VolumeCheck,
        cover: &mut Cover,
        findings: &mut Findings,
    ) {
        let shape = self.view.metadata.shape();
        let head = 2 * shape.checksum_blocks() as usize * BLOCK_BYTES;
        let mut legs: Vec<Leg<'d, 'a>> = Vec::new();
        let mut heads: Vec<Vec<u8>> = Vec::new();
        for (index, (number, extent)) in self.group.members().enumerate() {
            let Some(disk) = self.view.disk(number) else { continue };
            let Some(start) = extent_offset(disk, extent) else { continue };
            let dirty = self.view.metadata.dirty(self.generation(), number);
            heads.push(disk.image.blocks_at(start, head).0);
            legs.push(Leg { index, disk, start, dirty });
        }
        let mut written = 0_u64;
        let mut lost = 0_u64;
        let mut lost_at = None;
        let slots: Vec<Vec<Slots>> = (0..shape.checksum_blocks())
            .map(|index| {
                let holders = heads.iter().enumerate();
                let slot = |head: &Vec<u8>| [0, 1].map(|slot| self.slot(index, slot, head));
                holders.map(|(leg, head)| Slots { leg, sound: slot(head) }).collect()
            })
            .collect();
        let versions = self.versions(&slots);
        for index in 0..shape.checksum_blocks() {
            check.checksum_blocks += 1;
            let (first, rows) = shape.rows_of_block(index);
            let named = self.named.has(self.generation(), first, rows);
            let holders = &slots[index as usize];
            let version = versions[index as usize];
            let newest = self.judge(index, version, holders, &legs, &mut check.least, findings);
            let Some(newest) = newest else { continue };
            let mut job = RowJob {
                volume: &self.volume.name,
                generation: self.generation(),
                first,
                shape,
                legs: &legs,
                block: &newest,
                rows: Vec::new(),
                pool: self.view.pool.0,
                visit: self.view.visit,
            };
            for entry in 0..rows {
                let row = Row(first.0 + entry);
                let crc = match newest.get(entry as usize) {
                    Entry::Written(crc) => crc,
                    Entry::Unwritten => continue,
                    Entry::Lost => {
                        lost += 1;
                        lost_at = lost_at.or(self.volume_at(row));
                        continue;
                    }
                };
                check.rows_written += 1;
                if named && self.named.has(self.generation(), row, 1) {
                    check.rows_in_log += 1;
                    intents.was(self.generation(), row, crc);
                } else {
                    written |= 1 << shape.region_of_row(row);
                    job.rows.push(row);
                }
            }
            if self.view.data {
                check_rows(&job, &|row| self.volume_at(row), check, findings);
            }
        }
        if lost > 0 {
            let what = format!("the checksums of {lost} rows were lost with all copies of them");
            let means =
                "nobody can tell what they should be: reading them fails until they are written";
            let found = finding(Severity::Damage, Kind::ChecksumLost, what, means);
            findings.add(found.of(&self.volume.name).volume_at(lost_at));
        }
        self.cover(written, &legs, cover);
    }

    /// How many members have each region with written rows.
    fn cover(&self, written: u64, legs: &[Leg<'d, 'a>], cover: &mut Cover) {
        if written == 0 {
            return;
        }
        let regions = (0..64).filter(|region| written & 1 << region != 0);
        let have = |region: u32| legs.iter().filter(|leg| leg.dirty & 1 << region == 0).count();
        let least = regions.map(have).min().unwrap_or(0) as u32;
        cover.least = Some(cover.least.unwrap_or(u32::MAX).min(least));
        if least == 0 {
            cover.bare += 1;
            cover.bare_at = cover.bare_at.or(self.volume_at(Row(0)));
        // While the layout changes, groups differ in that.
        } else if least < self.run.members.len() as u32 {
            cover.thin += 1;
            cover.thin_at = cover.thin_at.or(self.volume_at(Row(0)));
        }
    }

    /// Which version of each block the root names, as far as slots with them are there.
    fn versions(&self, slots: &[Vec<Slots>]) -> Vec<Option<ChecksumVersion>> {
        let lineage = self.view.metadata.pool().lineage;
        let root = self.group.root().unwrap_or_default();
        let hash =
            |index: usize, version| version_hash(lineage, self.generation(), index as u32, version);
        let candidates: Vec<Vec<(u64, ChecksumVersion)>> = slots
            .iter()
            .enumerate()
            .map(|(index, holders)| {
                let sound = holders.iter().flat_map(|holder| holder.sound.iter().flatten());
                let versions: BTreeSet<ChecksumVersion> =
                    sound.map(|block| block.version).collect();
                versions.into_iter().rev().map(|version| (hash(index, version), version)).collect()
            })
            .collect();
        let mut search = Search { candidates: &candidates, left: COMBINATIONS_MAX };
        let mut chosen = Vec::new();
        if search.find(0, root, &mut chosen) {
            return chosen.into_iter().map(Some).collect();
        }
        // If a later version of one block makes the sum right, the others are known.
        let newest: Vec<_> = candidates.iter().map(|of_block| of_block.first().copied()).collect();
        let epoch = self.view.config.map_or(0, |config| config.epoch.0 as u32);
        for (index, doubtful) in newest.iter().enumerate() {
            let others = newest.iter().enumerate().filter(|(other, _)| *other != index);
            let others: Option<Vec<u64>> =
                others.map(|(_, newest)| newest.map(|(hash, _)| hash)).collect();
            let (Some(others), Some((_, seen))) = (others, doubtful) else { continue };
            let missing = others.into_iter().fold(root, u64::wrapping_sub);
            let mut later = (seen.epoch..=epoch.max(seen.epoch)).rev().take(64).flat_map(|epoch| {
                (1..=LATER_MAX)
                    .map(move |more| ChecksumVersion { epoch, sequence: seen.sequence + more })
            });
            if later.any(|version| hash(index, version) == missing) {
                let known = newest.iter().enumerate();
                let known = known.map(|(other, newest)| {
                    newest.filter(|_| other != index).map(|(_, version)| version)
                });
                return known.collect();
            }
        }
        vec![None; slots.len()]
    }

    /// The block that counts, and whether every holder has it.
    fn judge(
        &self,
        index: u32,
        version: Option<ChecksumVersion>,
        holders: &[Slots],
        legs: &[Leg<'d, 'a>],
        least: &mut LeastCopies,
        findings: &mut Findings,
    ) -> Option<ChecksumBlock> {
        let is_holder = |holder: &&Slots| legs[holder.leg].dirty & ExtentShape::CHECKSUMS == 0;
        let Some(version) = version else {
            let what = "no disk has the checksum block that the metadata names";
            let means = "rows of it can't be told right from wrong: reading them fails";
            let found = self.finding(Severity::Damage, Kind::ChecksumLost, what, means, index);
            // Where it should be: in the place of what is damaged, else of the older one.
            let place = holders.iter().find(is_holder).map(|holder| {
                let [first, second] = &holder.sound;
                let older = first.as_ref().map(|block| block.version)
                    > second.as_ref().map(|block| block.version);
                (&legs[holder.leg], usize::from(older))
            });
            findings.add(match place {
                Some((leg, slot)) => self.place(found, leg, index, slot),
                None => found,
            });
            least.checksum_blocks = Some(0);
            return None;
        };
        let mut copies = 0;
        let mut first: Option<(&Leg<'d, 'a>, &ChecksumBlock)> = None;
        for holder in holders {
            let leg = &legs[holder.leg];
            match (holder.with(version), first) {
                (Some(block), Some((other, theirs))) if block != theirs => {
                    let what = format!(
                        "a checksum block and that on {} differ, both of epoch {} with sequence {}",
                        other.disk.name(),
                        version.epoch,
                        version.sequence
                    );
                    let means = "two histories of what was written; neither can be chosen";
                    let kind = Kind::ChecksumHistories;
                    let found = self.finding(Severity::Damage, kind, &what, means, index);
                    findings.add(self.place(found, leg, index, version.slot() as usize));
                }
                (Some(block), _) => {
                    copies += u32::from(is_holder(&holder));
                    first = first.or(Some((leg, block)));
                }
                (None, _) => {}
            }
            if is_holder(&holder) {
                self.tell_slot(holder, leg, version, index, findings);
            }
        }
        let before = least.checksum_blocks.unwrap_or(u32::MAX);
        least.checksum_blocks = Some(before.min(copies));
        first.map(|(_, block)| block.clone())
    }

    /// Whether a holder lacks what counts. What is in its other slot doesn't matter: the next block goes
    /// there.
    fn tell_slot(
        &self,
        holder: &Slots,
        leg: &Leg<'d, 'a>,
        version: ChecksumVersion,
        index: u32,
        findings: &mut Findings,
    ) {
        let slot = version.slot() as usize;
        if holder.with(version).is_some() {
            return;
        }
        let (kind, what) = match &holder.sound[slot] {
            None => (Kind::ChecksumSlot, format!("slot {slot} of a checksum block is damaged")),
            Some(other) => {
                let (has, should) = (other.version, version);
                let what = format!(
                    "a checksum block has epoch {}, sequence {}; what counts is epoch {}, sequence {}",
                    has.epoch, has.sequence, should.epoch, should.sequence
                );
                (Kind::ChecksumOlder, what)
            }
        };
        let means = "this holder lost what it had, or a write; another one has it";
        let found = self.finding(Severity::Redundancy, kind, &what, means, index);
        findings.add(self.place(found, leg, index, slot));
    }

    fn slot(&self, index: u32, slot: u32, head: &[u8]) -> Option<ChecksumBlock> {
        let shape = self.view.metadata.shape();
        let at = shape.checksum_sector(index, slot) as usize * block::SECTOR_BYTES;
        let bytes = head.get(at..at + BLOCK_BYTES)?;
        UncheckedChecksumBlock(bytes).check(self.generation(), index, slot).ok()
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
