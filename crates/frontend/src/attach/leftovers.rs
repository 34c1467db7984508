//! What is attached, as the kernel tells it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use block::VolumeName;

use super::{AttachError, MOUNT_KIND, Places, loops};
use crate::fuse::FILE_NAME;
use crate::kernel;

/// A volume of which something is attached: by this process or a predecessor, in use or dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The volume.
    pub name: VolumeName,
    /// Where its file's directory is mounted.
    pub directory: Option<PathBuf>,
    /// Its loop device.
    pub device: Option<PathBuf>,
}

/// All volumes in `places` of which a mount or a loop device exists, by name.
pub fn list(places: &Places) -> Result<Vec<Attached>, AttachError> {
    let run = places.real_run()?;
    let mounts =
        kernel::mounts().map_err(|error| AttachError::system("reading the mount table", error))?;
    let mut found: BTreeMap<VolumeName, (Option<PathBuf>, Option<PathBuf>)> = BTreeMap::new();
    for entry in mounts.into_iter().filter(|entry| entry.kind == MOUNT_KIND) {
        if let Some(name) =
            entry.target.strip_prefix(&run).ok().and_then(|rest| rest.to_str()?.parse().ok())
        {
            found.entry(name).or_default().0 = Some(entry.target);
        }
    }
    for number in loops::bound()?.into_iter().filter(|number| !loops::is_leaving(*number)) {
        let by_path = loops::backing_file(number).and_then(|file| {
            let directory = file.strip_prefix(&run).ok()?.to_str()?.strip_suffix(FILE_NAME)?;
            directory.strip_suffix('/')?.parse().ok()
        });
        if let Some(name) = by_path {
            found.entry(name).or_default().1 = Some(loops::device_path(number));
        }
    }
    let attached = |(name, (directory, device))| Attached { name, directory, device };
    Ok(found.into_iter().map(attached).collect())
}
