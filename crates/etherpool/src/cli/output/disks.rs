//! Disks and targets.

use block::size::Human;
use block::{DriveHealth, HealthState};
use control::api::SeenTarget;
use pool::{DiskReport, DiskState, PoolDisk, PoolReport};

use super::labels::labels_of;
use super::{Cell, Failure, ListArgs, Listing, calendar_time, lines, or_dash, table};

/// `disk list`, not wider than the terminal where there is one.
pub fn disks(disks: &[DiskReport], args: &ListArgs, width: Option<u16>) -> Result<String, Failure> {
    if disks.is_empty() && args.is_for_people() {
        return Ok("No disks found: check the interfaces in the supervisor's configuration, and that nodes run\n".into());
    }
    let mut heads =
        vec!["DISK", "SIZE", "NODE", "DEVICE", "CONTENT", "POOL", "OWNER", "HEALTH", "STATE"];
    // A script that asks for it gets it, whatever is labelled at the moment.
    let are_labelled = disks.iter().any(|disk| !disk.labels.is_empty());
    let shows_labels = are_labelled || args.names("labels");
    heads.extend(shows_labels.then_some("LABELS"));
    let mut listing = Listing::new(&heads);
    for disk in disks {
        let mut row = vec![
            disk.name.clone().into(),
            Cell::Bytes(disk.size_bytes),
            disk.node.clone().into(),
            disk.device_name.clone().into(),
            disk.content.clone().into(),
            or_dash(disk.pool.as_deref()).into(),
            or_dash(disk.owner.as_deref()).into(),
            health(disk.health.as_ref()).into(),
            whereabouts(disk).into(),
        ];
        row.extend(shows_labels.then(|| labels_of(&disk.labels).into()));
        listing.add(row);
    }
    let mut text = listing.text(args, width)?;
    if args.is_for_people() {
        text.extend(disks.iter().filter_map(|disk| health_line(&disk.name, disk.health.as_ref())));
    }
    Ok(text)
}

/// The disks of pools of ours that aren't present, behind those that are.
pub fn with_missing(mut disks: Vec<DiskReport>, pools: &[PoolReport]) -> Vec<DiskReport> {
    for pool in pools.iter().filter(|pool| pool.is_ours()) {
        for disk in &pool.disks {
            let is_missing = disk.state == DiskState::Missing;
            if !is_missing && disk.state != DiskState::Offline {
                continue;
            }
            // Another one may be at its address by now.
            let is_it = |listed: &&mut DiskReport| {
                listed.name == disk.name && (!is_missing || listed.state == DiskState::Missing)
            };
            match disks.iter_mut().find(is_it) {
                Some(listed) if is_missing => {
                    listed.serial.clone_from(&disk.serial);
                    listed.last_seen_secs = disk.last_seen_secs;
                }
                Some(_) => {}
                None => disks.push(gone(pool, disk)),
            }
        }
    }
    disks
}

/// A disk as its pool knows it.
fn gone(pool: &PoolReport, disk: &PoolDisk) -> DiskReport {
    DiskReport {
        name: disk.name.clone(),
        node: disk.node.clone(),
        device_name: disk.device_name.clone(),
        serial: disk.serial.clone(),
        last_seen_secs: disk.last_seen_secs,
        health: None,
        size_bytes: disk.size_bytes,
        content: "etherpool".into(),
        pool: Some(pool.name.clone()),
        owner: Some(pool.owner.clone()),
        state: disk.state.clone(),
        labels: disk.labels.clone(),
    }
}

/// What there is to say of one that is gone.
fn whereabouts(disk: &DiskReport) -> String {
    let mut known = disk_state(&disk.state);
    if let Some(secs) = disk.last_seen_secs {
        if !disk.serial.is_empty() {
            known.push_str(&format!(", serial {}", disk.serial));
        }
        known.push_str(&format!(", last seen {}", calendar_time(secs)));
    }
    known
}

/// How a drive says that it is, in a word.
pub fn health(health: Option<&DriveHealth>) -> String {
    or_dash(health.map(|health| health.state.name()))
}

/// Why a drive isn't well, as a line.
pub fn health_line(name: &str, health: Option<&DriveHealth>) -> Option<String> {
    let health = health.filter(|health| health.state != HealthState::Good)?;
    Some(format!("The drive of {name} is {}: {}\n", health.state, health.reason))
}

/// A disk's state in a word; where there is more to say, that is a line.
pub fn disk_state_word(state: &DiskState) -> String {
    match state {
        DiskState::Refused { .. } => "refused".into(),
        state => disk_state(state),
    }
}

/// A disk's state in words.
fn disk_state(state: &DiskState) -> String {
    match state {
        DiskState::Free => "free".into(),
        DiskState::InUse => "in use".into(),
        DiskState::Seen => "seen".into(),
        DiskState::Usable => "usable".into(),
        DiskState::Out => "out".into(),
        DiskState::Offline => "offline".into(),
        DiskState::Missing => "missing".into(),
        DiskState::Destroyed => "of a destroyed pool; `disk wipe` frees it".into(),
        DiskState::RolledBack => "rolled back, resync".into(),
        DiskState::Refused { why } => format!("refused: {why}"),
    }
}

/// `aoe discover`.
pub fn targets(targets: &[SeenTarget]) -> String {
    if targets.is_empty() {
        return "No target answered\n".into();
    }
    let mut table =
        table(&["TARGET", "INTERFACE", "MAC", "SIZE", "KIND", "NODE", "NAME", "OWNER", "REMARK"]);
    for target in targets {
        table.add_row([
            target.address.to_string(),
            target.interface.clone(),
            target.mac.clone(),
            target.size_bytes.map_or("-".into(), |bytes| Human(bytes).to_string()),
            if target.session { "session" } else { "plain" }.into(),
            or_dash(target.node.as_deref()),
            or_dash(target.name.as_deref()),
            or_dash(target.owner.as_deref()),
            target.trouble.clone().unwrap_or_default(),
        ]);
    }
    lines(&table)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::samples;
    use super::*;

    #[test]
    fn disks_as_people_see_them() {
        let mut refused = samples::disk("e2.0");
        refused.content = "ext4".into();
        refused.state = DiskState::Refused { why: "label damaged".into() };
        let mut ageing = samples::disk("e1.0");
        ageing.health = Some(DriveHealth {
            state: HealthState::Ageing,
            reason: "8 sectors that it can't read".into(),
            temperature_celsius: None,
            wear_percent: None,
            power_on_hours: None,
            reallocated: None,
            unreadable: Some(8),
        });
        let list = |all: &[DiskReport]| disks(all, &ListArgs::default(), None).unwrap();
        let text = list(&[ageing, refused]);
        let expected = "\
DISK  SIZE      NODE  DEVICE    CONTENT  POOL  OWNER  HEALTH  STATE
e1.0  1.00 GiB  n1    /dev/sdb  blank    -     -      ageing  free
e2.0  1.00 GiB  n1    /dev/sdb  ext4     -     -      -       refused: label damaged
The drive of e1.0 is ageing: 8 sectors that it can't read
";
        assert_eq!(text, expected, "\n{text}");
        assert!(list(&[]).starts_with("No disk"));
    }

    #[test]
    fn a_disk_that_is_gone_is_found_on_the_shelf() {
        let mut pool = samples::pool();
        assert_eq!(with_missing(Vec::new(), &[pool.clone()]), [], "it is there");
        pool.disks[0].state = DiskState::Missing;
        pool.disks[0].serial = "WD-123".into();
        pool.disks[0].last_seen_secs = Some(951_782_399);
        let listed = with_missing(vec![samples::disk("e2.0")], &[pool.clone()]);
        let text = disks(&listed, &ListArgs::default(), None).unwrap();
        let expected = "\
e1.0  1.00 GiB  n1    /dev/sda  etherpool  cluster  host   -       missing, serial WD-123, last seen 2000-02-28 23:59:59
";
        assert!(text.ends_with(expected), "\n{text}");
        let mut listed = samples::disk("e1.0");
        listed.state = DiskState::Missing;
        let both = with_missing(vec![listed], &[pool.clone()]);
        assert_eq!((both.len(), both[0].last_seen_secs), (1, Some(951_782_399)), "once");
        let shown = super::super::pool(&pool, 1_000_000);
        let line =
            "e1.0 is missing: /dev/sda on n1, serial WD-123, last seen 2000-02-28 23:59:59\n";
        assert!(shown.contains(line), "\n{shown}");
        // Others' are none of ours to look for.
        pool.state = pool::PoolState::Released;
        assert_eq!(with_missing(Vec::new(), &[pool]), []);
    }

    #[test]
    fn targets_as_people_see_them() {
        let text = targets(&[samples::target()]);
        let expected = "\
TARGET  INTERFACE  MAC                SIZE      KIND     NODE  NAME      OWNER  REMARK
e1.0    eth0       02:00:00:00:00:01  1.00 GiB  session  n1    /dev/sdb  -
";
        assert_eq!(text, expected, "\n{text}");
    }
}
