//! The files by which a supervisor votes in pools: one for each pool, each called by its address on the network. Their
//! process exports them as a node exports disks, services make and remove them.
//!
//! A vote that comes back in an older state can let a pool open with data that isn't its newest. So a file counts only
//! as the very one that was made: beside it its origin is noted (`e1030.0.origin`, a line of JSON), which a file that
//! was restored or copied doesn't have. A snapshot of the whole machine has it.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::UNIX_EPOCH;

use aoe_wire::ShelfSlot;
use clap::Args;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::node::{Source, Spec, run_server};
use crate::supervisor::{die_with_parent, load_config};

/// How the name of a file's origin ends.
const ORIGIN: &str = ".origin";

/// Arguments of the hidden `witnesses`.
#[derive(Clone, Debug, Args)]
pub struct WitnessesArgs {
    /// The supervisor's configuration
    #[arg(long)]
    config: Option<PathBuf>,
}

/// The process.
pub fn run(args: WitnessesArgs) -> anyhow::Result<ExitCode> {
    die_with_parent()?;
    let config = load_config(args.config.as_deref())?;
    let log_level = config.log.level.clone();
    run_server(Spec { source: Source::Witnesses(Box::new(config)), replace: false, log_level })
}

/// The files in a directory, which needn't be there. Blocks.
pub fn files(directory: &Path) -> io::Result<BTreeMap<ShelfSlot, PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries?,
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        if let Some(address) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.insert(address, entry.path());
        }
    }
    Ok(found)
}

/// Which file on which machine one is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    machine: Uuid,
    inode: u64,
    /// Seconds and nanoseconds since 1970; none where the file system doesn't know.
    born: Option<(u64, u32)>,
}

impl Origin {
    fn of(file: &Metadata, machine: Uuid) -> Origin {
        let born = file.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        let born = born.map(|born| (born.as_secs(), born.subsec_nanos()));
        Origin { machine, inode: file.ino(), born }
    }
}

/// Where a file's origin is noted.
pub fn origin_of(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(ORIGIN);
    path.into()
}

/// The file whose origin is noted there, if one is.
pub fn file_of(origin: &Path) -> Option<PathBuf> {
    let path = origin.to_str()?.strip_suffix(ORIGIN)?;
    Some(path.into())
}

/// Notes that `file` is the one that is about to get this name. Blocks.
pub fn note_origin(name: &Path, file: &File, machine: Uuid) -> io::Result<()> {
    let origin = Origin::of(&file.metadata()?, machine);
    os::process::write_durably(&origin_of(name), &serde_json::to_vec(&origin)?)?;
    Ok(())
}

/// Why a file isn't the one that was made under its name, if it isn't. Blocks.
pub fn why_not_the_made(file: &Path, machine: Uuid) -> Option<String> {
    let looked = || -> io::Result<bool> {
        let noted: Origin = serde_json::from_slice(&std::fs::read(origin_of(file))?)?;
        Ok(noted == Origin::of(&std::fs::metadata(file)?, machine))
    };
    let why = match looked() {
        Ok(true) => return None,
        Ok(false) => "it was restored, copied or moved".to_owned(),
        Err(error) => format!("{}: {error}", origin_of(file).display()),
    };
    Some(format!(
        "{why}, and its vote may be outdated; remove the file, then `pool extend POOL --witness supervisor`, and \
         `pool remove` the former"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_is_one_that_is_called_by_an_address() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["e1030.0", "e1030.7", "e1030.7.origin", ".e1030.1.new", "notes"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let found = files(directory.path()).unwrap();
        let addresses: Vec<String> = found.keys().map(ToString::to_string).collect();
        assert_eq!(addresses, ["e1030.0", "e1030.7"]);
        assert!(files(&directory.path().join("missing")).unwrap().is_empty());
        let first = &found[&"e1030.0".parse().unwrap()];
        assert_eq!(file_of(&origin_of(first)).as_ref(), Some(first));
        assert_eq!(file_of(first), None);
    }

    #[test]
    fn a_copy_a_restored_file_and_one_of_another_machine_are_not_the_one_that_was_made() {
        let directory = tempfile::tempdir().unwrap();
        let (file, kept) = (directory.path().join("e1030.0"), directory.path().join("kept"));
        let (machine, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        std::fs::write(&file, "vote").unwrap();
        assert!(why_not_the_made(&file, machine).unwrap().contains("e1030.0.origin"));
        note_origin(&file, &File::open(&file).unwrap(), machine).unwrap();
        assert_eq!(why_not_the_made(&file, machine), None);
        std::fs::write(&file, "later").unwrap();
        assert_eq!(why_not_the_made(&file, machine), None);
        assert!(why_not_the_made(&file, other).unwrap().contains("copied"));
        std::fs::copy(&file, &kept).unwrap();
        std::fs::rename(&kept, &file).unwrap();
        assert!(why_not_the_made(&file, machine).unwrap().contains("restored"));
    }
}
