//! Who still has files of a mount open, to name them instead of only saying "busy".

use std::fmt;
use std::path::{Path, PathBuf};

/// More than this is not listed.
const HOLDERS_MAX: usize = 64;
/// Descriptors of one process that are looked at.
const DESCRIPTORS_MAX: usize = 65_536;

/// A process that has a file or directory of a mount open, or works in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// One of the things that it holds.
    pub path: PathBuf,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}: {})", self.name, self.pid, self.path.display())
    }
}

pub(super) fn describe(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "the kernel (another mount, a loop device or an export)".to_owned();
    }
    holders.iter().map(Holder::to_string).collect::<Vec<_>>().join(", ")
}

/// The processes that hold something under `target`. Only links in `/proc` are read, nothing on the
/// file system itself, which may be dead.
pub fn holders(target: &Path) -> Vec<Holder> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| holder(pid, target)).take(HOLDERS_MAX).collect()
}

fn holder(pid: u32, target: &Path) -> Option<Holder> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let held =
        |link: PathBuf| std::fs::read_link(link).ok().filter(|path| path.starts_with(target));
    let links = ["cwd", "root", "exe"].into_iter().map(|name| process.join(name));
    let entries = |directory: &str| {
        let entries = std::fs::read_dir(process.join(directory)).ok();
        entries
            .into_iter()
            .flatten()
            .take(DESCRIPTORS_MAX)
            .filter_map(|entry| Some(entry.ok()?.path()))
    };
    let path = links.chain(entries("fd")).chain(entries("map_files")).find_map(held)?;
    let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
    Some(Holder { pid, name: name.trim().to_owned(), path })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_open_file_names_its_process() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().canonicalize().unwrap();
        assert_eq!(holders(&target), []);
        let file = std::fs::File::create(target.join("held")).unwrap();
        let found = holders(&target);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].pid, std::process::id());
        assert_eq!(found[0].path, target.join("held"));
        drop(file);
        assert_eq!(holders(&target), []);
    }
}
