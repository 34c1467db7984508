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

/// Judges a disk by what is on it and by who holds it.
pub async fn judge(handle: &ReactorHandle, path: &Path, takes_blank: bool) -> Choice {
    match judge_contents(handle, path, takes_blank).await {
        Choice::Export => judge_holder(handle, path).await,
        choice => choice,
    }
}

/// Judges a disk by what is on it, without the right to write. `takes_blank`: one with nothing on it is exported, too.
///
/// It isn't held meanwhile: what others have on it stays theirs, and their tools take it exclusively at any time.
pub async fn judge_contents(handle: &ReactorHandle, path: &Path, takes_blank: bool) -> Choice {
    let options = FileOptions { read_only: true, exclusive: false, ..FileOptions::default() };
    match FileDevice::open_apart(handle, path, options).await {
        Ok(device) => judge_signatures(&device, takes_blank).await,
        Err(error) => Choice::Refuse(error.to_string()),
    }
}

/// Judges a disk that would be exported otherwise by whether another program holds it exclusively.
pub async fn judge_holder(handle: &ReactorHandle, path: &Path) -> Choice {
    let asked = path.to_owned();
    match handle.blocking(move || os::disks::tried_usage_of(&asked)).await {
        Ok(None) => Choice::Export,
        Ok(Some(usage)) => Choice::Refuse(format!("in use: {usage}")),
        Err(error) => Choice::Refuse(error.to_string()),
    }
}

async fn judge_signatures(device: &dyn BlockDevice, takes_blank: bool) -> Choice {
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
#[allow(clippy::unwrap_used)]
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
    fn what_others_hold_is_looked_at_without_holding_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        let mut contents = vec![0; 1 << 20];
        contents[512..520].copy_from_slice(b"LABELONE");
        contents[536..544].copy_from_slice(b"LVM2 001");
        std::fs::write(&disk, contents).unwrap();
        let (mut reactor, handle) = os::Reactor::new().unwrap();
        let choice = reactor
            .run_until(async move {
                let options = FileOptions::default();
                let _held = FileDevice::open_apart(&handle, &disk, options).await.unwrap();
                judge_contents(&handle, &disk, true).await
            })
            .unwrap();
        assert!(matches!(&choice, Choice::Refuse(why) if why.contains("LVM")), "{choice:?}");
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
