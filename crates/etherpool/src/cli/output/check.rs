//! What `pool check` found.

use block::size::Human;
use pool::check::{CheckReport, CopyState, DiskCheck, Finding, PoolCheck, Severity, VolumeCheck};

use super::{facts, layout, lines, table};

/// `pool check`.
pub fn pool_check(report: &CheckReport) -> String {
    let mut text = String::new();
    for pool in &report.pools {
        text.push_str(&one_pool(pool));
        text.push('\n');
    }
    text.push_str(&findings(&report.findings));
    if report.pools.is_empty() {
        text.push_str("No disk of a pool is among them.\n");
    }
    text
}

fn one_pool(pool: &PoolCheck) -> String {
    let owner = match (&pool.owner, pool.released) {
        (Some(owner), true) => format!("{owner}, which released it in order"),
        (Some(owner), false) => {
            format!("{owner}, which has not released it: it is at work, or it was ended")
        }
        (None, _) => "not known: no vote was found".into(),
    };
    let votes = &pool.votes;
    let mut text = facts(&[
        ("pool", format!("{} ({})", pool.name, pool.id)),
        ("owner", owner),
        (
            "votes",
            format!(
                "{} of {} have the newest configuration, {} are needed",
                votes.newest, votes.total, votes.majority
            ),
        ),
        ("data", if pool.data_read { "read" } else { "not read (--data)" }.into()),
    ]);
    let mut disks = table(&["DISK", "NODE", "EXTENTS", "FREE", "PENDING", "MISSED", "STATE"]);
    for disk in &pool.disks {
        disks.add_row([
            disk.name.clone().unwrap_or_else(|| format!("({})", disk.id)),
            disk.node.clone(),
            disk.owned_extents.to_string(),
            disk.free_extents.to_string(),
            disk.pending_extents.to_string(),
            disk.dirty_regions.to_string(),
            disk_state(disk).into(),
        ]);
    }
    text.push('\n');
    text.push_str(&lines(&disks));
    let mut copies = table(&["METADATA ON", "CURRENT", "STATE", "RECORD"]);
    for copy in &pool.metadata {
        let state = match copy.state {
            CopyState::Newest => "newest",
            CopyState::Older => "older",
            CopyState::Lost => "lost",
            CopyState::Missing => "not given",
        };
        copies.add_row([
            copy.disk.clone(),
            if copy.current { "yes" } else { "no" }.into(),
            state.into(),
            copy.record.map_or("-".into(), |record| record.to_string()),
        ]);
    }
    text.push('\n');
    text.push_str(&lines(&copies));
    if !pool.volumes.is_empty() {
        text.push('\n');
        text.push_str(&volumes(&pool.volumes));
    }
    let counts = pool.counts;
    if !pool.findings.is_empty() {
        text.push('\n');
        text.push_str(&findings(&pool.findings));
    }
    text.push('\n');
    text.push_str(&match counts.damage + counts.redundancy + counts.notes {
        0 => "Nothing is wrong.\n".to_owned(),
        _ => format!(
            "Found: {} of damage, {} of lost redundancy, {} worth knowing.\n",
            counts.damage, counts.redundancy, counts.notes
        ),
    });
    text
}

fn disk_state(disk: &DiskCheck) -> &'static str {
    match (&disk.name, disk.distrusted, disk.out) {
        (None, ..) => "not given",
        (_, true, _) => "not believed",
        (_, _, true) => "out",
        _ => "ok",
    }
}

/// Each with the least number of copies that anything of it has.
fn volumes(volumes: &[VolumeCheck]) -> String {
    let mut table = table(&[
        "VOLUME",
        "LAYOUT",
        "SIZE",
        "WRITTEN",
        "IN LOG",
        "COPIES",
        "DATA",
        "CHECKSUMS",
        "LOG",
        "METADATA",
        "VOTES",
    ]);
    let count = |copies: Option<u32>| copies.map_or("-".into(), |copies| copies.to_string());
    for volume in volumes {
        let unreleased: u64 = volume.segments.iter().map(|segment| segment.unreleased).sum();
        let log = [volume.least.log_records, volume.least.log_tail].into_iter().flatten().min();
        table.add_row([
            volume.name.clone(),
            layout(&volume.layout, volume.converting_to.as_deref()),
            Human(volume.size_bytes).to_string(),
            Human(volume.rows_written.saturating_mul(4096)).to_string(),
            format!("{unreleased} records"),
            volume.copies.to_string(),
            count(volume.least.data),
            count(volume.least.checksum_blocks),
            count(log),
            volume.least.metadata.to_string(),
            volume.least.votes.to_string(),
        ]);
    }
    lines(&table)
}

fn findings(findings: &[Finding]) -> String {
    let mut text = String::new();
    for found in findings {
        let severity = match found.severity {
            Severity::Damage => "DAMAGE",
            Severity::Redundancy => "redundancy",
            Severity::Note => "note",
        };
        let range = |at: Option<u64>, bytes: Option<u64>| match (at, bytes) {
            (Some(at), Some(bytes)) => format!(" at {at}, {bytes} bytes"),
            (Some(at), None) => format!(" at {at}"),
            (None, _) => String::new(),
        };
        let disk = found
            .disk
            .as_ref()
            .map(|disk| format!("{disk}{}", range(found.disk_offset_bytes, found.bytes)));
        let volume = found
            .volume
            .as_ref()
            .map(|volume| format!("volume {volume}{}", range(found.volume_offset_bytes, None)));
        let place: Vec<String> = [volume, disk].into_iter().flatten().collect();
        let place =
            if place.is_empty() { String::new() } else { format!("{}: ", place.join(", ")) };
        text.push_str(&format!("{severity:10}  {place}{}\n", found.what));
        text.push_str(&format!("{:10}  -> {}\n", "", found.means));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_found_is_named_with_its_place() {
        let found: Finding = serde_json::from_value(serde_json::json!({
            "severity": "damage", "kind": "row", "what": "copy 1 does not match its checksum",
            "means": "no other copy that was given is right", "disk": "/d1.img",
            "disk_offset_bytes": 8192, "bytes": 4096, "volume": "v", "volume_offset_bytes": 12288,
        }))
        .unwrap();
        let report = CheckReport { pools: Vec::new(), findings: vec![found] };
        assert_eq!(
            pool_check(&report),
            "DAMAGE      volume v at 12288, /d1.img at 8192, 4096 bytes: copy 1 does not match its \
             checksum\n            -> no other copy that was given is right\n\
             No disk of a pool is among them.\n"
        );
    }
}
