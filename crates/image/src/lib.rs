//! What the image of a node consists of: a kernel of the host's distribution, and an initramfs with etherpool as PID 1,
//! the programs that are asked for with their libraries, and drivers.
//!
//! [`tree`] is a file system that is to be, [`cpio`] the form in which the kernel takes it. [`modules`] reads what
//! depmod(8) wrote, for who chooses drivers here ([`drivers`]) and for PID 1, which loads them. [`programs`] finds what a
//! program needs to run, by [`elf`]. [`build`] makes an image of all that, and [`kept`] keeps it in a directory, whole or
//! not at all. **The same files make the same bytes.**

pub mod build;
pub mod cpio;
pub mod drivers;
pub mod elf;
pub mod kept;
pub mod kernel;
pub mod modules;
pub mod pack;
pub mod programs;
pub mod tree;

use std::io;
use std::path::{Path, PathBuf};

/// Why an image can't be made, or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read or written.
    #[error("{what} {}: {error}", .path.display())]
    File {
        /// What was done with it.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// No kernel is installed here, or not that one.
    #[error("there is no kernel{}", .version.as_ref().map_or_else(|| " in /boot".to_owned(), |version| format!(" {version} in /boot")))]
    NoKernel {
        /// Which was asked for.
        version: Option<String>,
    },
    /// The modules of a kernel are missing, or nobody has listed what depends on what.
    #[error("{} has no modules.dep: the kernel's modules aren't there, or depmod(8) wasn't run", .0.display())]
    NoModules(PathBuf),
    /// A module that was asked for isn't this kernel's.
    #[error("this kernel has no module {0}")]
    NoModule(String),
    /// A file has a form that isn't understood.
    #[error("{}: {what}", .path.display())]
    Form {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A library isn't to be found.
    #[error("{} needs the library {library}, which isn't here", .program.display())]
    NoLibrary {
        /// Of which program.
        program: PathBuf,
        /// Which.
        library: String,
    },
    /// A program that was asked for isn't here.
    #[error("there is no program {0} here")]
    NoProgram(String),
    /// Nothing has such a name.
    #[error("no firmware in {} is called {pattern}", .directory.display())]
    NoFirmware {
        /// Where was looked.
        directory: PathBuf,
        /// For what.
        pattern: String,
    },
    /// Two different things have one place in the image.
    #[error("two files would be {path} in the image: {} and {}", .first.display(), .second.display())]
    Twice {
        /// Where.
        path: String,
        /// One of them.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A name that would lead elsewhere.
    #[error(
        "{0:?} can't be an image's name: letters, digits, `-`, `_` and `.`, and no dot at its beginning"
    )]
    Name(String),
}

impl Error {
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |error| Error::File { what, path, error }
    }
}

/// Reads a whole file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(Error::file("cannot read", path))
}
