//! Disks and targets.

use block::size::Human;
use control::api::SeenTarget;
use pool::{DiskReport, DiskState};

use super::{lines, or_dash, table};

/// `disk list`.
pub fn disks(disks: &[DiskReport]) -> String {
    if disks.is_empty() {
        return "No disks found: check the interfaces in the supervisor's configuration, and that nodes run\n".into();
    }
    let mut table = table(&["DISK", "SIZE", "NODE", "DEVICE", "CONTENT", "POOL", "OWNER", "STATE"]);
    for disk in disks {
        table.add_row([
            disk.name.clone(),
            Human(disk.size_bytes).to_string(),
            disk.node.clone(),
            disk.device_name.clone(),
            disk.content.clone(),
            or_dash(disk.pool.as_deref()),
            or_dash(disk.owner.as_deref()),
            disk_state(&disk.state),
        ]);
    }
    lines(&table)
}

/// A disk's state in words.
pub fn disk_state(state: &DiskState) -> String {
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
    use super::super::samples;
    use super::*;

    #[test]
    fn disks_as_people_see_them() {
        let mut refused = samples::disk("e2.0");
        refused.content = "ext4".into();
        refused.state = DiskState::Refused { why: "label damaged".into() };
        let text = disks(&[samples::disk("e1.0"), refused]);
        let expected = "\
DISK  SIZE      NODE  DEVICE    CONTENT  POOL  OWNER  STATE
e1.0  1.00 GiB  n1    /dev/sdb  blank    -     -      free
e2.0  1.00 GiB  n1    /dev/sdb  ext4     -     -      refused: label damaged
";
        assert_eq!(text, expected, "\n{text}");
        assert!(disks(&[]).starts_with("No disk"));
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
