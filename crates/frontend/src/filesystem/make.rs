//! Making, growing and checking a file system with its own tools.

use std::fmt;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::FutureExt;
use rustix::thread::CapabilitySet;
use tokio::process::Command;

use block::{
    Answer, BLOCK_BYTES, BlockDevice, BufferMut, Completion, Done, DurabilityClass, FsType,
    Geometry, Instance, IoError, Operation, SECTOR_BYTES,
};

use block::probe::Signature;

use super::mount::is_mounted_anywhere;
use super::tool::{failure, run, run_well};
use super::{FilesystemError, blocking};

/// Tools write through the volume, which may be degraded and slow; but not for ever.
pub(super) const TOOL_LIMIT: Duration = Duration::from_secs(3600);
/// Share of the space that only root may fill, in percent: the tool's own five are a lot of a large
/// volume.
const RESERVED_PERCENT: &str = "1";

/// How a file system is made.
#[derive(Clone, Debug)]
pub struct MkfsOptions {
    /// Which one.
    pub fstype: FsType,
    /// Its label, at most 16 bytes count.
    pub label: Option<String>,
    /// Overwrite what is recognised on the device.
    pub force: bool,
}

/// Whether [`mkfs`] would overwrite what is on `device`.
pub async fn check_mkfs(device: PathBuf, force: bool) -> Result<(), FilesystemError> {
    if force {
        return Ok(());
    }
    match contents(device.clone()).await? {
        Contents::Blank => Ok(()),
        Contents::Carries { found, .. } => Err(FilesystemError::NotBlank { device, found }),
        Contents::Unreadable(why) => {
            let what = format!("reading {}", device.display());
            Err(FilesystemError::system(what, std::io::Error::other(why)))
        }
    }
}

/// Makes a file system on `device`. `progress` gets what the tool says, piece by piece.
///
/// Blocks are 4 KiB, the engine's own; a loop device can't tell. Inode tables are left to the
/// kernel (lazily, by write-zeroes), the journal is zeroed at once, so that nothing old is ever
/// replayed.
pub async fn mkfs(
    device: PathBuf,
    options: MkfsOptions,
    progress: impl FnMut(&str),
) -> Result<(), FilesystemError> {
    check_mkfs(device.clone(), options.force).await?;
    match options.fstype {
        FsType::Ext4 => {
            let mut command = Command::new("mke2fs");
            command.args(["-t", "ext4", "-b", "4096", "-m", RESERVED_PERCENT]);
            // Once: don't ask. It still refuses a device that is mounted.
            command.args(["-F", "-E", "lazy_itable_init=1,lazy_journal_init=0"]);
            if let Some(label) = &options.label {
                command.arg("-L").arg(label);
            }
            command.arg("--").arg(&device);
            run_well("mke2fs", &mut command, TOOL_LIMIT, progress).await?;
        }
    }
    Ok(())
}

/// Grows the file system on `device` to the device's size: under its users when it is mounted (the
/// kernel wants CAP_SYS_RESOURCE for that), else after a check.
pub async fn grow(
    device: PathBuf,
    fstype: FsType,
    progress: impl FnMut(&str),
) -> Result<(), FilesystemError> {
    let looked_at = device.clone();
    let mounted = blocking(move || is_mounted_anywhere(&looked_at)).await?;
    match fstype {
        FsType::Ext4 => {
            if mounted && !has_resource_capability() {
                return Err(FilesystemError::MissingCapability {
                    what: "growing a mounted ext4",
                    capability: "CAP_SYS_RESOURCE",
                });
            }
            if !mounted {
                repair(&device).await?;
            }
            let mut command = Command::new("resize2fs");
            command.args(["-p", "--"]).arg(&device);
            run_well("resize2fs", &mut command, TOOL_LIMIT, progress).await?;
        }
    }
    Ok(())
}

/// Whether this process may grow a mounted file system. Containers often lack the right.
pub fn can_grow_mounted() -> bool {
    has_resource_capability()
}

fn has_resource_capability() -> bool {
    let effective = rustix::thread::capabilities(None).map(|sets| sets.effective);
    effective.is_ok_and(|set| set.contains(CapabilitySet::SYS_RESOURCE))
}

/// What resizing offline demands first. Exit code 1 is "repaired".
pub(super) async fn repair(device: &Path) -> Result<(), FilesystemError> {
    let mut command = Command::new("e2fsck");
    command.args(["-f", "-p", "--"]).arg(device);
    let outcome = run("e2fsck", &mut command, TOOL_LIMIT, |_| {}).await?;
    match outcome.code {
        Some(0 | 1) => Ok(()),
        _ => Err(failure("e2fsck", outcome)),
    }
}

/// Checks the unmounted file system on `device` without writing. An error says what is wrong.
pub async fn check(device: PathBuf, fstype: FsType) -> Result<(), FilesystemError> {
    match fstype {
        FsType::Ext4 => {
            let mut command = Command::new("e2fsck");
            command.args(["-f", "-n", "--"]).arg(&device);
            let outcome = run("e2fsck", &mut command, TOOL_LIMIT, |_| {}).await?;
            if outcome.code != Some(0) {
                return Err(failure("e2fsck", outcome));
            }
        }
    }
    Ok(())
}

/// What a device carries, as far as it can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Everything where something would be recognised was read, and nothing was.
    Blank,
    /// Something.
    Carries {
        /// What, in words.
        found: String,
        /// Whether it is a file system of a kind that volumes carry.
        known: bool,
    },
    /// It can't be told.
    Unreadable(String),
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Contents::Blank => f.write_str("it is blank: it has no file system yet"),
            Contents::Carries { found, .. } => write!(f, "it carries: {found}"),
            Contents::Unreadable(why) => write!(f, "what it carries can't be read ({why})"),
        }
    }
}

/// Looks at what a device carries.
pub async fn contents(device: PathBuf) -> Result<Contents, FilesystemError> {
    blocking(move || Ok(recognise(&device))).await
}

pub(super) fn recognise(device: &Path) -> Contents {
    match signatures(device) {
        Ok(signatures) if signatures.is_empty() => Contents::Blank,
        Ok(signatures) => {
            let known = signatures.contains(&Signature::Ext);
            Contents::Carries { found: in_words(&signatures), known }
        }
        Err(why) => Contents::Unreadable(why),
    }
}

/// For people.
pub(super) fn in_words(signatures: &[Signature]) -> String {
    let names: Vec<String> = signatures.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// What is recognised on a device, or why it can't be told.
pub(super) fn signatures(device: &Path) -> Result<Vec<Signature>, String> {
    let opened = File::open(device).and_then(|mut file| {
        let sectors = file.seek(SeekFrom::End(0))? / SECTOR_BYTES as u64;
        Ok(Reader { file, sectors })
    });
    let reader = opened.map_err(|error| error.to_string())?;
    match block::probe::probe(&reader).now_or_never() {
        Some(found) => found.map_err(|error| error.to_string()),
        // The reader below answers at once.
        None => Err("no answer".to_owned()),
    }
}

/// A device for the recogniser: reads at once, and nothing else.
struct Reader {
    file: File,
    sectors: u64,
}

impl BlockDevice for Reader {
    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: self.sectors,
            physical_block_bytes: BLOCK_BYTES as u32,
            max_transfer_bytes: 1 << 20,
            read_only: true,
            class: DurabilityClass::Unknown,
        }
    }

    fn submit(&self, operation: Operation, done: Done) {
        let Operation::Read(range) = operation else { return done(Err(IoError::ReadOnly)) };
        if !range.fits(self.sectors) {
            return done(Err(IoError::OutOfRange(range)));
        }
        let mut data = BufferMut::zeroed(range.len_bytes() as usize);
        let read = self.file.read_exact_at(&mut data, range.start.byte_offset());
        let answer = Completion::new(Instance(1), Answer::Data(data.freeze()));
        done(read.map(|()| answer).map_err(|_| IoError::Medium(range)));
    }
}
