//! Counts what the disks hold, by a reader that shares with the engine how bytes are encoded and
//! nothing else (`pool::check`), and compares it with what the oracle knows and with what status claims.
//!
//! Reads through the engine show that one right copy can be found today. That there are as many as the
//! layout promises, durable, each where it fails alone, and that no space is lost or owned twice, only
//! the disks tell: a copy that is missing is found here before the other one is lost, too.
//!
//! What counts is what would be left if the power went now and every cache with it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use block::{BLOCK_SECTORS, SECTOR_BYTES};
use pool::check::{
    BlockCopies, CheckOptions, CheckReport, DiskImage, Finding, Kind, Severity, check_contents,
};

use crate::claim::Claim;
use crate::cluster::Cluster;
use crate::medium::Image;
use crate::oracle::Oracle;

/// Findings that a failure lists.
const LISTED_MAX: usize = 6;

/// What is on the disks at an instant.
pub struct Count {
    report: CheckReport,
    /// Contents that can't be, acknowledged ones that aren't there, and what no step leaves.
    wrong: Vec<String>,
}

impl Count {
    /// Reads all disks of `cluster` as a power cut would leave them.
    pub fn of(cluster: &Cluster, oracles: &[Rc<Oracle>]) -> Count {
        let stable: Vec<(String, u64, Image)> = cluster
            .disks()
            .into_iter()
            .map(|(name, disk)| (name, disk.sectors() * SECTOR_BYTES as u64, disk.snapshot()))
            .collect();
        let images: Vec<DiskImage<'_>> = stable
            .iter()
            .map(|(name, bytes, image)| DiskImage {
                name: name.clone(),
                bytes: *bytes,
                read: Box::new(|offset, into| {
                    read(image, offset, into);
                    Ok(())
                }),
            })
            .collect();
        let by_name: BTreeMap<&str, &Rc<Oracle>> =
            oracles.iter().map(|oracle| (oracle.name(), oracle)).collect();
        let told: RefCell<BTreeSet<(&str, u64)>> = RefCell::default();
        let wrong = RefCell::new(Vec::new());
        let visit = |found: &BlockCopies<'_>| {
            let Some((name, oracle)) = by_name.get_key_value(found.volume) else { return };
            let first = found.offset_bytes / SECTOR_BYTES as u64;
            told.borrow_mut().insert((*name, first / BLOCK_SECTORS));
            let judged = match found.contents {
                Some(contents) => oracle.check_stored(first, contents),
                None => oracle.check_absent(first),
            };
            let place = match found.record {
                Some(record) => format!("in record {record} of the log"),
                None => "in place".to_string(),
            };
            wrong.borrow_mut().extend(judged.err().map(|why| format!("{} ({place})", why.what)));
        };
        let options = CheckOptions { data: true, pool: None };
        let report = check_contents(&images, &options, &visit);
        let (told, mut wrong) = (told.into_inner(), wrong.into_inner());
        for (name, oracle) in &by_name {
            let blocks = oracle.written_sectors().into_iter().map(|sector| sector / BLOCK_SECTORS);
            let absent = blocks.filter(|block| !told.contains(&(*name, *block)));
            for block in absent.collect::<BTreeSet<_>>() {
                wrong.push(format!("{name}: block {block} was acknowledged and is on no disk"));
            }
        }
        let lost = |found: &&Finding| {
            found.kind == Kind::MetadataLost && found.severity == Severity::Damage
        };
        let unused = |found: &&Finding| found.kind == Kind::SegmentUnused;
        wrong.extend(report.all_findings().filter(|found| lost(found) || unused(found)).map(line));
        Count { report, wrong }
    }

    /// What no instant excuses.
    pub fn wrong(&self) -> Result<(), String> {
        let Some(first) = self.wrong.first() else { return Ok(()) };
        let damage = self.report.all_findings().filter(|found| found.severity == Severity::Damage);
        let damage: Vec<String> = damage.take(LISTED_MAX).map(line).collect();
        let (count, damage) = (self.wrong.len(), damage.join("\n  "));
        Err(format!("{first}; {count} such findings on the disks\n  {damage}"))
    }

    /// What a pool at rest, with nothing broken any more, must not have: anything less than the full
    /// number of copies, and space that nobody or two own.
    pub fn at_rest(&self) -> Result<(), String> {
        // A disk of no pool is none of ours (a member that lost its label is missing), nor is a copy of a
        // member that a scenario put beside it.
        let ours = self.report.pools.iter().flat_map(|pool| &pool.findings);
        let serious =
            ours.filter(|found| found.severity != Severity::Note && found.kind != Kind::Twin);
        let serious: Vec<String> = serious.map(line).collect();
        if !serious.is_empty() {
            let listed = serious[..serious.len().min(LISTED_MAX)].join("\n  ");
            return Err(format!("{} findings on the disks:\n  {listed}", serious.len()));
        }
        for pool in &self.report.pools {
            if pool.votes.newest < pool.votes.total {
                return Err(format!("not all votes are the newest: {:?}", pool.votes));
            }
            for volume in &pool.volumes {
                let least = volume.least;
                let counted = [least.log_records, least.data, least.checksum_blocks];
                let few = counted.into_iter().flatten().any(|count| count < volume.copies);
                let fewer = least.metadata < pool.votes.total;
                if few || fewer {
                    let (name, copies) = (&volume.name, volume.copies);
                    return Err(format!("{name}: less than {copies} copies: {least:?}"));
                }
            }
        }
        Ok(())
    }

    /// What no step of our own leaves, wherever it was cut short: a member without its label, or one that hasn't
    /// applied what it is credited with.
    pub fn members_are_known(&self) -> Result<(), String> {
        let kinds = [Kind::DiskMissing, Kind::RolledBack];
        let found = self.report.all_findings().find(|found| kinds.contains(&found.kind));
        found.map_or(Ok(()), |found| Err(line(found)))
    }

    /// A member that isn't said to lack rows or checksums has them.
    pub fn credits_are_durable(&self) -> Result<(), String> {
        let kinds = [Kind::Row, Kind::ChecksumLost, Kind::ChecksumOlder, Kind::RolledBack];
        let found = self.report.all_findings().find(|found| kinds.contains(&found.kind));
        found.map_or(Ok(()), |found| Err(line(found)))
    }

    /// What a scrub leaves nothing of: slots that don't hold what was written to them, also those that aren't the
    /// newest.
    pub fn slots_are_sound(&self) -> Result<(), String> {
        let slots = [Kind::LabelSlot, Kind::VoteSlot];
        let found = self.report.all_findings().find(|found| slots.contains(&found.kind));
        found
            .map_or(Ok(()), |found| Err(format!("a scrub was done and left this: {}", line(found))))
    }

    /// How many machines may be lost by what is on the disks.
    fn survives(&self) -> u32 {
        let pools = self.report.pools.iter().map(|pool| {
            let votes = pool.votes.newest.saturating_sub(pool.votes.majority);
            let volumes = pool.volumes.iter().flat_map(|volume| {
                let least = volume.least;
                let counted = [least.log_records, least.data, least.checksum_blocks];
                counted.into_iter().flatten().chain([least.metadata])
            });
            volumes.map(|copies| copies.saturating_sub(1)).min().unwrap_or(votes).min(votes)
        });
        pools.min().unwrap_or(0)
    }

    /// What status claims beyond what is there.
    pub fn covers(&self, claim: &Claim) -> Result<(), String> {
        let counted = self.survives();
        if claim.survives <= counted {
            return Ok(());
        }
        let least = self.report.pools.iter().flat_map(|pool| {
            pool.volumes.iter().map(|volume| (volume.name.as_str(), volume.least))
        });
        Err(format!(
            "status says {} and that {} more machines may fail; by what is on the disks {counted} \
             may: {:?}, votes {:?}",
            claim.state,
            claim.survives,
            least.collect::<Vec<_>>(),
            self.report.pools.iter().map(|pool| pool.votes).collect::<Vec<_>>(),
        ))
    }
}

/// A finding in a line.
fn line(found: &Finding) -> String {
    let places = [&found.disk, &found.volume];
    let places: String = places.into_iter().flatten().map(|place| format!(" {place}:")).collect();
    format!("{:?} {:?}:{places} {}", found.severity, found.kind, found.what)
}

fn read(image: &Image, offset: u64, into: &mut [u8]) {
    let mut at = offset;
    let mut rest = into;
    while !rest.is_empty() {
        let within = (at % SECTOR_BYTES as u64) as usize;
        let count = rest.len().min(SECTOR_BYTES - within);
        let (part, behind) = rest.split_at_mut(count);
        part.copy_from_slice(&image.sector(at / SECTOR_BYTES as u64)[within..within + count]);
        at += count as u64;
        rest = behind;
    }
}
