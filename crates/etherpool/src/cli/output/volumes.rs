//! Volumes.

use std::collections::BTreeMap;

use block::size::Human;
use control::settings::{ACTED_ON, HELD_PREFIX, VolumeSettings};
use pool::{VerifyReport, VolumeReport, VolumeState};
use serde::{Deserialize, Serialize};

use super::labels::survives;
use super::{Cell, Failure, ListArgs, Listing, facts, layout};

/// A volume with the name of its pool, as `volume list --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedVolume {
    /// Its pool.
    pub pool: String,
    /// The volume.
    #[serde(flatten)]
    pub report: VolumeReport,
}

/// `volume list`, not wider than the terminal where there is one.
pub fn volumes(
    volumes: &[NamedVolume],
    args: &ListArgs,
    width: Option<u16>,
) -> Result<String, Failure> {
    if volumes.is_empty() && args.is_for_people() {
        return Ok("No volume; make one with `etherpool volume create POOL/VOLUME --size SIZE --layout LAYOUT`\n".into());
    }
    let named = |NamedVolume { pool, report }: &'_ NamedVolume| format!("{pool}/{}", report.name);
    listed(volumes.iter().map(|one| (named(one), &one.report))).text(args, width)
}

/// A table of a pool's volumes.
pub fn volume_rows<'a>(volumes: impl Iterator<Item = (String, &'a VolumeReport)>) -> String {
    listed(volumes).whole(None)
}

fn listed<'a>(volumes: impl Iterator<Item = (String, &'a VolumeReport)>) -> Listing {
    let heads = ["VOLUME", "SIZE", "LAYOUT", "STATE", "TO CATCH UP", "USED AS"];
    let mut listing = Listing::new(&heads);
    for (name, volume) in volumes {
        listing.add(vec![
            name.into(),
            Cell::Bytes(volume.size_bytes),
            layout(&volume.layout, volume.converting_to.as_deref()).into(),
            state(volume).into(),
            Cell::Bytes(volume.dirty_bytes),
            uses(&volume.properties).into(),
        ]);
    }
    listing
}

/// `volume show`.
pub fn volume(named: &NamedVolume) -> String {
    let report = &named.report;
    let settings = VolumeSettings::from_properties(&report.properties);
    let unreadable: Vec<String> = settings.unreadable.iter().map(ToString::to_string).collect();
    facts(&[
        ("volume", format!("{}/{}", named.pool, report.name)),
        ("id", report.id.clone()),
        ("size", format!("{} ({} bytes)", Human(report.size_bytes), report.size_bytes)),
        ("layout", layout(&report.layout, report.converting_to.as_deref())),
        ("state", state(report)),
        ("copies survive", survives(report)),
        ("to resync", Human(report.dirty_bytes).to_string()),
        ("resynced", Human(report.resynced_bytes).to_string()),
        ("repaired", format!("{} blocks", report.repaired_blocks)),
        ("log", Human(report.log_bytes).to_string()),
        (
            "last opening",
            format!(
                "replayed {} records, {} blocks",
                report.replayed.records, report.replayed.blocks
            ),
        ),
        ("used as", uses(&report.properties)),
        ("unreadable", unreadable.join("; ")),
    ])
}

fn state(volume: &VolumeReport) -> String {
    match &volume.state {
        VolumeState::Online => "online".into(),
        VolumeState::Degraded => "degraded".into(),
        VolumeState::Suspended { why } => format!("suspended: {why}"),
        VolumeState::Incomplete { why } => format!("incomplete: {why}"),
    }
}

/// What a volume is used as, by its settings.
pub fn uses(properties: &BTreeMap<String, String>) -> String {
    let settings = VolumeSettings::from_properties(properties);
    let mut uses = Vec::new();
    if settings.device {
        uses.push("device".into());
    }
    if let Some(mount) = &settings.mount {
        uses.push(format!("mount {}", mount.path.display()));
    }
    if settings.ftp.is_some() {
        uses.push("ftp".into());
    }
    for export in &settings.exports {
        let kind = if export.read_only { " read-only" } else { "" };
        let on = match export.interfaces.as_slice() {
            [] => String::new(),
            interfaces => format!(" on {}", interfaces.join(",")),
        };
        uses.push(format!("aoe:{}{kind}{on}", export.address));
    }
    let waits = |key: &&&str| properties.contains_key(&format!("{HELD_PREFIX}{key}"));
    uses.extend(ACTED_ON.iter().filter(waits).map(|key| format!("({key} waits for confirmation)")));
    uses.join(", ")
}

/// `volume verify`.
pub fn verification(report: &VerifyReport) -> String {
    let mut text = format!(
        "{} blocks read and right, {} never written, {} not compared, because a copy is out of date or away\n",
        report.blocks.saturating_sub(report.bad_blocks()),
        report.unwritten,
        report.dirty
    );
    for bad in &report.bad {
        text.push_str(&format!(
            "BAD: at {} of the volume: disk {} at {} {}\n",
            bad.volume_offset_bytes,
            bad.disk,
            bad.disk_offset_bytes,
            if bad.unreadable { "can't be read" } else { "does not match its checksum" }
        ));
    }
    if report.more_bad > 0 {
        text.push_str(&format!("BAD: {} more blocks\n", report.more_bad));
    }
    if report.bad_blocks() > 0 {
        text.push_str(&format!("{} of the bad ones are right again\n", report.repaired));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::samples;
    use super::*;
    use pool::BadBlock;

    #[test]
    fn a_volume_with_its_uses() {
        let named = NamedVolume { pool: "cluster".into(), report: samples::volume() };
        let text = volumes(std::slice::from_ref(&named), &ListArgs::default(), None).unwrap();
        let expected = "\
VOLUME     SIZE      LAYOUT    STATE   TO CATCH UP  USED AS
cluster/v  1.00 GiB  mirror:2  online  0 B          mount /srv/v
";
        assert_eq!(text, expected, "\n{text}");
        let text = volume(&named);
        assert!(text.contains("size            1.00 GiB (1073741824 bytes)\n"), "\n{text}");
        assert!(text.contains("last opening    replayed 2 records, 9 blocks\n"), "\n{text}");
    }

    #[test]
    fn the_json_of_a_list_is_flat() {
        let named = NamedVolume { pool: "cluster".into(), report: samples::volume() };
        let value = serde_json::to_value(&named).unwrap_or_default();
        assert_eq!(value["pool"], "cluster");
        assert_eq!(value["name"], "v");
        assert_eq!(value["size_bytes"], 1 << 30);
    }

    #[test]
    fn verification_names_bad_blocks() {
        let bad = BadBlock {
            volume_offset_bytes: 4096,
            disk: "e1.0".into(),
            disk_offset_bytes: 8192,
            unreadable: false,
        };
        let report = VerifyReport {
            blocks: 10,
            unwritten: 3,
            dirty: 0,
            bad: vec![bad],
            more_bad: 1,
            repaired: 2,
            lost: 0,
        };
        assert_eq!(
            verification(&report),
            "8 blocks read and right, 3 never written, 0 not compared, because a copy is out of date or away\n\
             BAD: at 4096 of the volume: disk e1.0 at 8192 does not match its checksum\n\
             BAD: 1 more blocks\n\
             2 of the bad ones are right again\n"
        );
    }
}
