//! Which disks a node offers without being told to: whole, real, unused, and blank or etherpool's.
//! Everything else is listed with the reason and left alone (design, promise 5).

use std::path::Path;

use block::BlockDevice;
pub use block::glob::matches;
use block::probe::{Signature, probe};
use os::disks::Disk;
use os::{FileDevice, FileOptions, ReactorHandle};

/// Why a blank disk isn't exported where only those with etherpool's label are.
pub const BLANK: &str = "blank, and not exported by export-blank = false";

/// Whether a disk may be offered automatically.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It may.
    Export,
    /// Nobody needs to hear of it: not asked for.
    Skip,
    /// It may not, and people should know why.
    Refuse(String),
}

/// Judges a disk by what Linux knows about it; its contents are another question.
pub fn judge_use(disk: &Disk, scan: &[String]) -> Choice {
    let named = scan.iter().any(|pattern| matches(pattern, &disk.name));
    if !named && (!scan.is_empty() || !disk.hardware) {
        return Choice::Skip;
    }
    if let Some(usage) = &disk.usage {
        return Choice::Refuse(format!("in use: {usage}"));
    }
    if !disk.partitions.is_empty() {
        return Choice::Refuse(format!("has partitions ({})", disk.partitions.join(", ")));
    }
    if disk.read_only {
        return Choice::Refuse("read-only".to_owned());
    }
    if disk.sectors == 0 {
        return Choice::Skip;
    }
    Choice::Export
}

/// Judges a disk by what is on it, without the right to write. `takes_blank`: one with nothing on it is exported, too.
pub async fn judge(handle: &ReactorHandle, path: &Path, takes_blank: bool) -> Choice {
    let options = FileOptions { read_only: true, ..FileOptions::default() };
    match FileDevice::open_apart(handle, path, options).await {
        Ok(device) => judge_contents(&device, takes_blank).await,
        Err(error) => Choice::Refuse(error.to_string()),
    }
}

async fn judge_contents(device: &dyn BlockDevice, takes_blank: bool) -> Choice {
    let found = match probe(device).await {
        Ok(found) => found,
        Err(error) => return Choice::Refuse(format!("can't be read: {error}")),
    };
    if found.is_empty() && !takes_blank {
        return Choice::Refuse(BLANK.to_owned());
    }
    if found.iter().all(|signature| *signature == Signature::Etherpool) {
        return Choice::Export;
    }
    let names: Vec<_> = found.iter().map(ToString::to_string).collect();
    Choice::Refuse(format!(
        "carries {}; name it in node.toml to export it all the same",
        names.join(" and ")
    ))
}

/// What a disk is remembered by: names that stay when the kernel finds disks in another order.
pub fn identity_of(disk: &Disk) -> String {
    disk.wwn
        .clone()
        .or_else(|| disk.serial.clone())
        .unwrap_or_else(|| disk.path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use os::disks::Usage;

    fn disk(name: &str) -> Disk {
        Disk {
            name: name.to_owned(),
            path: format!("/dev/{name}").into(),
            sectors: 1000,
            read_only: false,
            rotational: false,
            hardware: true,
            model: None,
            serial: None,
            wwn: None,
            links: Vec::new(),
            partitions: Vec::new(),
            usage: None,
            writes: None,
        }
    }

    #[test]
    fn only_what_nobody_uses() {
        assert_eq!(judge_use(&disk("sda"), &[]), Choice::Export);
        let mounted = Disk { usage: Some(Usage::Mounted("/".into())), ..disk("sda") };
        assert!(matches!(judge_use(&mounted, &[]), Choice::Refuse(_)));
        let parted = Disk { partitions: vec!["sda1".into()], ..disk("sda") };
        assert!(matches!(judge_use(&parted, &[]), Choice::Refuse(_)));
        let array = Disk { hardware: false, ..disk("md0") };
        assert_eq!(judge_use(&array, &[]), Choice::Skip);
        assert_eq!(judge_use(&array, &["md*".into()]), Choice::Export);
        assert_eq!(judge_use(&disk("sda"), &["sd[ab]".into(), "nvme*n1".into()]), Choice::Skip);
    }
}
