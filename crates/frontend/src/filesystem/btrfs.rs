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
    run_well("mkfs.btrfs", &mut command, TOOL_LIMIT, progress).await.map(drop)
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
