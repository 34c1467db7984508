//! The kernel that an image is made of: one that is installed on this machine, or files that somebody names.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use crate::{Error, modules};

/// A kernel, with its modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// As `uname -r` says it.
    pub version: String,
    /// What firmware starts.
    pub image: PathBuf,
    /// The directory with modules.dep.
    pub modules: PathBuf,
}

const IMAGE_PREFIX: &str = "vmlinuz-";

impl Kernel {
    /// The one of that version that is installed below `root`, or the newest of those whose modules are there.
    pub fn installed(root: &Path, version: Option<&str>) -> Result<Kernel, Error> {
        let of_version = |version: &str| Kernel {
            version: version.to_owned(),
            image: root.join("boot").join(format!("{IMAGE_PREFIX}{version}")),
            modules: root.join("lib/modules").join(version),
        };
        let none = || Error::NoKernel { version: version.map(str::to_owned) };
        if let Some(version) = version {
            let kernel = of_version(version);
            let is_there = !version.contains('/') && kernel.image.is_file();
            return if is_there { kernel.with_modules() } else { Err(none()) };
        }
        let entries = std::fs::read_dir(root.join("boot")).map_err(|_| none())?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let versions = names.filter_map(|name| Some(name.strip_prefix(IMAGE_PREFIX)?.to_owned()));
        let mut kernels: Vec<Kernel> = versions.map(|version| of_version(&version)).collect();
        kernels.sort_by(|a, b| compare(&a.version, &b.version));
        let newest = kernels.last().cloned().ok_or_else(none)?;
        let whole = kernels.into_iter().rev().find_map(|kernel| kernel.with_modules().ok());
        whole.map_or_else(|| newest.with_modules(), Ok)
    }

    /// These files; the version is the name of the modules' directory.
    pub fn of_files(image: &Path, modules: &Path) -> Result<Kernel, Error> {
        let real = modules.canonicalize().map_err(Error::file("cannot open", modules))?;
        let version = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !image.is_file() {
            let missing = std::io::ErrorKind::NotFound.into();
            return Err(Error::file("cannot read", image)(missing));
        }
        Kernel { version, image: image.to_owned(), modules: real }.with_modules()
    }

    fn with_modules(self) -> Result<Kernel, Error> {
        match self.modules.join(modules::DEPENDENCIES).is_file() {
            true => Ok(self),
            false => Err(Error::NoModules(self.modules)),
        }
    }
}

/// Versions by their numbers: 6.9 is older than 6.10.
fn compare(a: &str, b: &str) -> Ordering {
    fn parts(version: &str) -> Vec<(u64, &str)> {
        let mut parts = Vec::new();
        let mut rest = version;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, after) = rest.split_at(digits);
            let words = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
            let (word, after) = after.split_at(words);
            parts.push((number.parse().unwrap_or(u64::MAX), word));
            rest = after;
        }
        parts
    }
    parts(a).cmp(&parts(b))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_newest_with_modules_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert!(matches!(Kernel::installed(root, None), Err(Error::NoKernel { .. })));
        std::fs::create_dir_all(root.join("boot")).unwrap();
        assert!(matches!(Kernel::installed(root, None), Err(Error::NoKernel { .. })));
        for version in ["6.1.0-9-amd64", "6.1.0-10-amd64", "6.1.0-11-amd64"] {
            std::fs::write(root.join("boot").join(format!("vmlinuz-{version}")), "").unwrap();
        }
        assert!(matches!(Kernel::installed(root, None), Err(Error::NoModules(_))));
        for version in ["6.1.0-9-amd64", "6.1.0-10-amd64"] {
            let modules = root.join("lib/modules").join(version);
            std::fs::create_dir_all(&modules).unwrap();
            std::fs::write(modules.join("modules.dep"), "").unwrap();
        }
        assert_eq!(Kernel::installed(root, None).unwrap().version, "6.1.0-10-amd64");
        let named = Kernel::installed(root, Some("6.1.0-9-amd64")).unwrap();
        assert!(named.image.ends_with("boot/vmlinuz-6.1.0-9-amd64"));
        for wrong in ["6.2", "../boot/vmlinuz"] {
            let error = Kernel::installed(root, Some(wrong)).unwrap_err();
            assert_eq!(error.to_string(), format!("there is no kernel {wrong} in /boot"));
        }
        assert!(Kernel::installed(root, Some("6.1.0-11-amd64")).is_err());
        let files = Kernel::of_files(&named.image, &named.modules).unwrap();
        assert_eq!(files.version, "6.1.0-9-amd64");
        assert!(Kernel::of_files(&root.join("none"), &named.modules).is_err());
    }
}
