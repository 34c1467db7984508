//! btrfs by its own tools. It grows while it is mounted only, and kernels before 6.7 don't mount two of the same
//! UUID at once.

use std::path::Path;

use block::FsType;
use tokio::process::Command;

use super::FilesystemError;
use super::make::{TOOL_LIMIT, check_size, cut};
use super::tool::run_well;

/// What mkfs.btrfs makes nothing smaller than.
const BYTES_MIN: u64 = 109 << 20;
/// Longest label.
const LABEL_BYTES_MAX: usize = 255;

/// Makes one. Metadata is kept twice, as the tool does by itself: the pool's copies don't help against what
/// the machine's own memory did to them before they were written.
pub(super) async fn make(
    device: &Path,
    label: Option<&str>,
    progress: impl FnMut(&str),
) -> Result<(), FilesystemError> {
    check_size(device, FsType::Btrfs, BYTES_MIN)?;
    let mut command = Command::new("mkfs.btrfs");
    // It still refuses a device that is mounted. Sectors of 4 KiB can be used by every machine.
    command.args(["-f", "--sectorsize", "4096"]);
    if let Some(label) = label {
        command.arg("--label").arg(cut(label, LABEL_BYTES_MAX));
    }
    command.arg("--").arg(device);
    run_well("mkfs.btrfs", &mut command, TOOL_LIMIT, progress).await.map(drop).map_err(explained)
}

/// Adds to what mkfs.btrfs says what to do: it looks at everything that is mounted on this machine, and gives up
/// where one of that has lost its device, without a word on which (btrfs-progs, `check_mounted_where`).
fn explained(error: FilesystemError) -> FilesystemError {
    match error {
        FilesystemError::Tool { tool, status, mut output }
            if output.contains("cannot check mount status") =>
        {
            output.push_str(
                "; something else that is mounted on this machine has lost its device: find it with \
                 `losetup --list` and unmount it with `umount --lazy`, then try again",
            );
            FilesystemError::Tool { tool, status, output }
        }
        other => other,
    }
}

/// Grows the one that is mounted at `mounted_at` to the size of its device.
pub(super) async fn grow(
    mounted_at: &Path,
    progress: impl FnMut(&str),
) -> Result<(), FilesystemError> {
    let mut command = Command::new("btrfs");
    command.args(["filesystem", "resize", "max"]).arg(mounted_at);
    run_well("btrfs", &mut command, TOOL_LIMIT, progress).await.map(drop)
}

/// Checks one that isn't mounted.
pub(super) async fn check(device: &Path) -> Result<(), FilesystemError> {
    let mut command = Command::new("btrfs");
    command.args(["check", "--readonly", "--"]).arg(device);
    run_well("btrfs", &mut command, TOOL_LIMIT, |_| {}).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_device_elsewhere_is_told_with_what_to_do() {
        let said =
            "ERROR: cannot check mount status of /dev/loop1: Transport endpoint is not connected";
        let failed = |output: &str| FilesystemError::Tool {
            tool: "mkfs.btrfs",
            status: "exit code 1".to_owned(),
            output: output.to_owned(),
        };
        assert!(explained(failed(said)).to_string().contains("umount --lazy"));
        assert!(!explained(failed("ERROR: no space")).to_string().contains("umount"));
    }
}
