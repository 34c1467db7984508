//! File systems on a volume's block device: made, mounted, grown, shut down and checked with the
//! system's own tools.
//!
//! Runs in the services' process on tokio. What may wait for the volume runs on tokio's blocking
//! threads.

mod holders;
mod make;
mod mount;
mod place;
mod probe;
mod shrink;
mod tool;

use std::io;
use std::path::PathBuf;

pub use holders::{Holder, holders};
pub use make::{Contents, MkfsOptions, can_grow_mounted, check, check_mkfs, contents, grow, mkfs};
pub(crate) use mount::device_number;
pub use mount::{Mounted, check_place, is_mounted, mount, shutdown, unmount};
pub use place::{NeededDirectory, PlaceRules};
pub(crate) use probe::is_fatal;
pub use probe::{Condition, probe};
pub use shrink::{Extent, Shrinking, extent, shrink, smallest};

/// Why an operation on a file system failed.
#[derive(Debug, thiserror::Error)]
pub enum FilesystemError {
    /// The device carries something.
    #[error("{device} already carries {found}")]
    NotBlank {
        /// The device.
        device: PathBuf,
        /// What was recognised.
        found: String,
    },
    /// The mount point isn't one that may be used.
    #[error("mount point {path}: {reason}")]
    MountPoint {
        /// What was given.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The system didn't mount.
    #[error("mounting {device} at {target}: {source}; {contents}")]
    NotMountable {
        /// The device.
        device: PathBuf,
        /// The mount point.
        target: PathBuf,
        /// What the system says.
        source: io::Error,
        /// What the device carries.
        contents: Contents,
    },
    /// A mount is in the way.
    #[error("{target} has {source_name} mounted already")]
    OtherMount {
        /// The mount point.
        target: PathBuf,
        /// What is mounted there.
        source_name: String,
    },
    /// Nothing is mounted there.
    #[error("nothing is mounted at {0}")]
    NotMounted(PathBuf),
    /// Somebody has files open.
    #[error("{target} is in use by {}", holders::describe(.holders))]
    Busy {
        /// The mount point.
        target: PathBuf,
        /// Who.
        holders: Vec<Holder>,
    },
    /// A tool isn't installed.
    #[error(
        "{0} is not installed or not executable; install the package that has it (e2fsprogs for ext4)"
    )]
    NoTool(&'static str),
    /// A tool failed.
    #[error("{tool} failed ({status}): {output}")]
    Tool {
        /// Its name.
        tool: &'static str,
        /// How it ended.
        status: String,
        /// The end of what it said.
        output: String,
    },
    /// There is more on it than would be left.
    #[error("the file system on {device} can't be made smaller than {smallest_bytes} bytes now")]
    TooFull {
        /// The device.
        device: PathBuf,
        /// What it needs.
        smallest_bytes: u64,
    },
    /// A tool didn't end in time and was killed.
    #[error("{tool} did not finish within {limit_secs} s: {output}")]
    Timeout {
        /// Its name.
        tool: &'static str,
        /// How long it had.
        limit_secs: u64,
        /// The end of what it said.
        output: String,
    },
    /// The process may not do it.
    #[error("{what} needs {capability}, which this process doesn't have; unmount it and try again")]
    MissingCapability {
        /// What was wanted.
        what: &'static str,
        /// The capability.
        capability: &'static str,
    },
    /// The system refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Its answer.
        source: io::Error,
    },
}

impl FilesystemError {
    fn system(what: impl Into<String>, source: impl Into<io::Error>) -> FilesystemError {
        FilesystemError::System { what: what.into(), source: source.into() }
    }
}

/// Runs what blocks where blocking is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FilesystemError> + Send + 'static,
) -> Result<T, FilesystemError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            Err(FilesystemError::system("running in the background", io::Error::other(error)))
        }
    }
}
