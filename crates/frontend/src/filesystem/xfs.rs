//! XFS by its own tools, and what is particular to it: it grows while it is mounted only, its log is replayed
//! by the kernel alone, and two of the same UUID aren't mounted at once.

use std::path::Path;

use block::FsType;
use tokio::process::Command;

use super::FilesystemError;
use super::make::{TOOL_LIMIT, check_size, cut};
use super::tool::{run, run_well};

/// What mkfs.xfs makes nothing smaller than: its log would be too small for the transactions of many.
const BYTES_MIN: u64 = 300 << 20;
/// Longest label.
const LABEL_BYTES_MAX: usize = 12;
/// What xfs_logprint says, before all else, of a log with changes that are nowhere else.
const LOG_DIRTY: &str = "state: <DIRTY>";

/// Makes one. Sectors, the unit of its log and headers, are 4 KiB like the blocks: those of a loop device are
/// smaller, and each change of part of a block would make the engine read the rest.
pub(super) async fn make(
    device: &Path,
    label: Option<&str>,
    progress: impl FnMut(&str),
) -> Result<(), FilesystemError> {
    check_size(device, FsType::Xfs, BYTES_MIN)?;
    let mut command = Command::new("mkfs.xfs");
    // It still refuses a device that is mounted.
    command.args(["-f", "-b", "size=4096", "-s", "size=4096"]);
    if let Some(label) = label {
        command.arg("-L").arg(cut(label, LABEL_BYTES_MAX));
    }
    command.arg("--").arg(device);
    run_well("mkfs.xfs", &mut command, TOOL_LIMIT, progress).await.map(drop)
}

/// Grows the one that is mounted at `mounted_at` to the size of its device.
pub(super) async fn grow(
    mounted_at: &Path,
    progress: impl FnMut(&str),
) -> Result<(), FilesystemError> {
    let mut command = Command::new("xfs_growfs");
    command.args(["-d", "--"]).arg(mounted_at);
    run_well("xfs_growfs", &mut command, TOOL_LIMIT, progress).await.map(drop)
}

/// Checks one that isn't mounted. One whose log wasn't replayed can't be judged: what only the log has looks
/// like damage to a tool that doesn't replay it, and xfs_repair has no other way.
pub(super) async fn check(device: &Path) -> Result<(), FilesystemError> {
    if is_log_dirty(device).await? {
        return Err(FilesystemError::NeedsReplay { device: device.to_owned() });
    }
    let mut command = Command::new("xfs_repair");
    command.args(["-n", "--"]).arg(device);
    run_well("xfs_repair", &mut command, TOOL_LIMIT, |_| {}).await.map(drop)
}

/// Whether changes wait in the log. One that can't be read is xfs_repair's to judge.
async fn is_log_dirty(device: &Path) -> Result<bool, FilesystemError> {
    let mut command = Command::new("xfs_logprint");
    command.args(["-t", "--"]).arg(device);
    let (mut end, mut dirty) = (String::new(), false);
    run("xfs_logprint", &mut command, TOOL_LIMIT, |text| {
        if !dirty {
            end.push_str(text);
            dirty = end.contains(LOG_DIRTY);
            let excess = end.len().saturating_sub(LOG_DIRTY.len());
            end.drain(..end.floor_char_boundary(excess));
        }
    })
    .await?;
    Ok(dirty)
}
