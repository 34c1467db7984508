//! The files that are served: below two directories that are opened once, and nothing else.

use std::fs::File;
use std::io;
use std::path::Path;

use boot::tftp::Name;
use os::dir::Directory;

/// The directories.
#[derive(Clone, Debug)]
pub struct Files {
    /// Of iPXE's programs; none where there was none at the start.
    pub ipxe: Option<Directory>,
    /// Of kernels and what goes with them.
    pub images: Directory,
}

/// A file that is served.
#[derive(Debug)]
pub struct Served {
    /// Itself.
    pub file: File,
    /// Its bytes.
    pub len: u64,
}

impl Files {
    /// Opens what a name means: `images/...` a file of images, `ipxe/...` or a bare name a program. Links are followed as
    /// far as they stay in the directory. Blocks.
    pub fn open(&self, name: &Name) -> io::Result<Served> {
        let none = || io::Error::from(io::ErrorKind::NotFound);
        let whole = name.as_str();
        let (directory, path) = match whole.split_once('/') {
            Some(("images", path)) => (&self.images, path),
            Some(("ipxe", path)) => (self.ipxe.as_ref().ok_or_else(none)?, path),
            Some(_) => return Err(none()),
            None => (self.ipxe.as_ref().ok_or_else(none)?, whole),
        };
        // What is made at the moment, and what editors leave.
        if path.split('/').any(|part| part.starts_with('.')) {
            return Err(none());
        }
        let file = directory.open_file(Path::new(path))?;
        let len = file.metadata()?.len();
        Ok(Served { file, len })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_outside_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for directory in ["images/node", "ipxe", "outside"] {
            std::fs::create_dir_all(path(directory)).unwrap();
        }
        for file in ["images/node/vmlinuz", "images/node/.new", "ipxe/ipxe.efi", "outside/secret"] {
            std::fs::write(path(file), file).unwrap();
        }
        symlink("../../outside/secret", path("images/node/out")).unwrap();
        symlink(path("outside/secret"), path("images/node/absolute")).unwrap();
        symlink("../../outside", path("images/node/directory")).unwrap();
        symlink("vmlinuz", path("images/node/inside")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("images/fifo"), 0o600.into()).unwrap();
        let open = |name: &str| Directory::open(&path(name)).unwrap();
        let files = Files { ipxe: Some(open("ipxe")), images: open("images") };
        let opens = |name: &str| {
            files.open(&Name::parse(name.as_bytes()).unwrap()).map(|served| served.len)
        };
        assert_eq!(opens("images/node/vmlinuz").unwrap(), 19);
        assert_eq!(opens("images/node/inside").unwrap(), 19);
        assert_eq!(opens("ipxe.efi").unwrap(), 13);
        assert_eq!(opens("/ipxe/ipxe.efi").unwrap(), 13);
        for name in [
            "images/node/out",
            "images/node/absolute",
            "images/node/directory/secret",
            "images/node/.new",
            "images/fifo",
            "images/node",
            "images",
            "outside/secret",
            "etc/passwd",
            "machines/x.toml",
            "default",
        ] {
            assert!(opens(name).is_err(), "{name}");
        }
        assert!(Files { ipxe: None, ..files }.open(&Name::parse(b"ipxe.efi").unwrap()).is_err());
    }
}
