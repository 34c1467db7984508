//! The files that are served: below two directories that are opened once, and nothing else.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use boot::tftp::Name;
use os::dir::Directory;
use serde::Deserialize;

/// The directories.
#[derive(Clone, Debug)]
pub struct Files {
    /// Of iPXE's programs; none where there was none at the start.
    pub ipxe: Option<Directory>,
    /// Of kernels and what goes with them.
    pub images: Directory,
}

/// What a build of an image says of itself.
#[derive(Deserialize)]
struct ImageFile {
    vmlinuz_sha256: String,
    initrd_sha256: String,
}

/// That, in the image's directory.
const IMAGE_FILE: &str = "image.json";
/// More than it says.
const IMAGE_FILE_BYTES_MAX: u64 = 64 << 10;
/// Of each of the two sums: by both together two builds are told from one another.
const SUM_CHARS: usize = 8;

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
        let file = match whole.strip_prefix("images/").and_then(split_build) {
            Some((image, build, file)) => self.open_of_build(image, build, file)?,
            None => directory.open_file(Path::new(path))?,
        };
        let len = file.metadata()?.len();
        Ok(Served { file, len })
    }

    /// The build of an image, in the words of a URL; none of one that says nothing of itself. Blocks.
    pub fn build_of(&self, image: &str) -> Option<String> {
        self.images.present(image).ok().and_then(|directory| build_in(&directory))
    }

    /// Of the build that is in its place, or of the one before: whoever has fetched the kernel of that gets its initrd, too.
    fn open_of_build(&self, image: &str, build: &str, file: &str) -> io::Result<File> {
        for name in [image.to_owned(), format!(".{image}.former")] {
            // The directory first: by its name it may be another one between two look-ups.
            let Ok(directory) = self.images.present(&name) else { continue };
            if build_in(&directory).is_some_and(|found| found == build) {
                return directory.open_file(Path::new(file));
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

/// `IMAGE/BUILD/FILE`.
fn split_build(path: &str) -> Option<(&str, &str, &str)> {
    let (image, rest) = path.split_once('/')?;
    let (build, file) = rest.split_once('/')?;
    let is_build = build.len() == 2 * SUM_CHARS && build.bytes().all(|c| c.is_ascii_hexdigit());
    (is_build && !file.contains('/')).then_some((image, build, file))
}

fn build_in(directory: &Directory) -> Option<String> {
    let file = directory.open_file(Path::new(IMAGE_FILE)).ok()?;
    let mut text = Vec::new();
    file.take(IMAGE_FILE_BYTES_MAX).read_to_end(&mut text).ok()?;
    let said: ImageFile = serde_json::from_slice(&text).ok()?;
    let [vmlinuz, initrd] =
        [&said.vmlinuz_sha256, &said.initrd_sha256].map(|sum| sum.get(..SUM_CHARS));
    let build = format!("{}{}", vmlinuz?, initrd?);
    build.bytes().all(|c| c.is_ascii_hexdigit()).then_some(build)
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

    #[test]
    fn kernel_and_initrd_are_of_one_build() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let make = |directory: &str, of: char| {
            std::fs::create_dir_all(path(directory)).unwrap();
            let sum = of.to_string().repeat(64);
            let said = serde_json::json!({
                "version": 1, "vmlinuz_sha256": "0".repeat(64), "initrd_sha256": sum,
            });
            std::fs::write(path(directory).join("image.json"), said.to_string()).unwrap();
            for file in ["vmlinuz", "initrd.img"] {
                std::fs::write(path(directory).join(file), format!("{file} {of}")).unwrap();
            }
        };
        make("images/node", 'a');
        let images = Directory::open(&path("images")).unwrap();
        let files = Files { ipxe: None, images };
        let read = |name: &str| {
            let served = files.open(&Name::parse(name.as_bytes()).unwrap()).ok()?;
            Some(io::read_to_string(served.file).unwrap())
        };
        let build = files.build_of("node").unwrap();
        assert_eq!(build, "00000000aaaaaaaa");
        let kernel = format!("images/node/{build}/vmlinuz");
        assert_eq!(read(&kernel).as_deref(), Some("vmlinuz a"));
        // Between the two a new one takes its place.
        std::fs::rename(path("images/node"), path("images/.node.former")).unwrap();
        make("images/node", 'b');
        let initrd = format!("images/node/{build}/initrd.img");
        assert_eq!(read(&initrd).as_deref(), Some("initrd.img a"));
        assert_eq!(read("images/node/initrd.img").as_deref(), Some("initrd.img b"));
        let build = files.build_of("node").unwrap();
        let initrd = |build: &str| read(&format!("images/node/{build}/initrd.img"));
        assert_eq!(initrd(&build).as_deref(), Some("initrd.img b"));
        assert_eq!(initrd("00000000cccccccc"), None);
        assert_eq!(read("images/.node.former/initrd.img"), None);
        std::fs::write(path("images/node/image.json"), "{}").unwrap();
        assert_eq!((files.build_of("node"), initrd(&build)), (None, None));
    }
}
