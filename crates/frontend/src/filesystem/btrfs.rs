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
    // It still refuses a device that is mounted. Sectors of 4 KiB can be used by every machine.
    let mut arguments = vec!["-f", "--sectorsize", "4096"];
    if let Some(label) = label {
        arguments.extend(["--label", cut(label, LABEL_BYTES_MAX)]);
    }
    run_beside_dead_mounts("mkfs.btrfs", &arguments, device, progress).await
}

/// Runs `tool` for `device`, which no mount that has lost its device keeps it from: these tools look at everything
/// that is mounted on this machine, and give up where they can't (btrfs-progs, `check_mounted_where`). Then it runs
/// again where no mounts are listed. It refuses a device that is mounted still: it opens it exclusively.
pub(super) async fn run_beside_dead_mounts(
    tool: &'static str,
    arguments: &[&str],
    device: &Path,
    mut progress: impl FnMut(&str),
) -> Result<(), FilesystemError> {
    let with_arguments = |mut command: Command| {
        command.args(arguments).arg("--").arg(device);
        command
    };
    let mut listed = with_arguments(Command::new(tool));
    match run_well(tool, &mut listed, TOOL_LIMIT, &mut progress).await {
        Err(FilesystemError::Tool { output, .. }) if output.contains("check mount status") => {}
        other => return other.map(drop),
    }
    // What is unmounted meanwhile goes there too where the machine's mounts are shared, as systemd has them.
    let mut unlisted = Command::new("unshare");
    unlisted.args(["--mount", "--propagation", "slave", "sh", "-c"]);
    unlisted.args(["mount --bind /dev/null /proc/$$/mounts && exec \"$@\"", "sh", tool]);
    run_well(tool, &mut with_arguments(unlisted), TOOL_LIMIT, progress).await.map(drop)
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
    run_beside_dead_mounts("btrfs", &["check", "--readonly"], device, |_| {}).await
}
