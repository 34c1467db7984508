//! A file system that is to be: what is where, and where its contents come from. They are read when it is written, one
//! file after the other.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::cpio::{Kind, Writer};
use crate::{Error, elf, pack, read};

/// Where the contents of a file come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// They are these.
    Bytes(Vec<u8>),
    /// As they are in a file of this machine.
    File(PathBuf),
    /// The same, unpacked where the file is packed: a module of the kernel.
    Unpacked(PathBuf),
    /// The same, without what only debuggers need: a program or library.
    Stripped(PathBuf),
}

impl Source {
    fn path(&self) -> Option<&Path> {
        match self {
            Source::Bytes(_) => None,
            Source::File(path) | Source::Unpacked(path) | Source::Stripped(path) => Some(path),
        }
    }

    fn read(&self) -> Result<Vec<u8>, Error> {
        match self {
            Source::Bytes(bytes) => Ok(bytes.clone()),
            Source::File(path) => read(path),
            Source::Unpacked(path) => pack::unpacked(path),
            Source::Stripped(path) => Ok(elf::stripped(read(path)?)),
        }
    }
}

#[derive(Clone, Debug)]
enum Node {
    Directory(u32),
    File(u32, Source),
    Link(String),
    Device(u32, (u32, u32)),
}

/// The whole. Paths have no slash at their beginning.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Sorted: so directories come before what is in them, and each time in the same order.
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    /// A directory with these permissions, and those above it.
    pub fn directory(&mut self, path: &str, mode: u32) {
        self.above(path);
        self.nodes.insert(path.to_owned(), Node::Directory(mode));
    }

    /// A file with these permissions.
    ///
    /// # Errors
    /// When another file is there already.
    pub fn file(&mut self, path: &str, mode: u32, source: Source) -> Result<(), Error> {
        self.above(path);
        let is_other = |node: &Node| !matches!(node, Node::File(_, there) if *there == source);
        if let Some(node) = self.nodes.get(path).filter(|node| is_other(node)) {
            let path_of = |source: &Source| source.path().unwrap_or(Path::new("-")).to_owned();
            let first = match node {
                Node::File(_, there) => path_of(there),
                _ => PathBuf::from(path),
            };
            return Err(Error::Twice { path: path.to_owned(), first, second: path_of(&source) });
        }
        self.nodes.insert(path.to_owned(), Node::File(mode, source));
        Ok(())
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.above(path);
        self.nodes.insert(path.to_owned(), Node::Link(target.to_owned()));
    }

    /// A character device with these permissions.
    pub fn device(&mut self, path: &str, mode: u32, number: (u32, u32)) {
        self.above(path);
        self.nodes.insert(path.to_owned(), Node::Device(mode, number));
    }

    /// Whether something is there.
    pub fn has(&self, path: &str) -> bool {
        self.nodes.contains_key(path)
    }

    /// How many files there are.
    pub fn files(&self) -> usize {
        self.nodes.values().filter(|node| matches!(node, Node::File(..))).count()
    }

    /// How much there is, about: of packed files what they take packed.
    pub fn size_bytes(&self) -> u64 {
        let sizes = self.nodes.values().map(|node| match node {
            Node::File(_, Source::Bytes(bytes)) => bytes.len() as u64,
            Node::File(_, source) => {
                let size = source.path().and_then(|path| std::fs::metadata(path).ok());
                size.map_or(0, |found| found.len())
            }
            _ => 0,
        });
        sizes.sum()
    }

    /// Writes all of it, and tells of each file: how many are written, and how large it is.
    pub fn write(&self, out: impl Write, mut told: impl FnMut(&str, u64)) -> Result<(), Error> {
        let failed = Error::file("cannot write", Path::new("the archive"));
        let mut writer = Writer::new(out);
        let written = (|| {
            for (path, node) in &self.nodes {
                match node {
                    Node::Directory(mode) => writer.append(path, Kind::Directory(*mode))?,
                    Node::Link(target) => writer.append(path, Kind::Link(target))?,
                    Node::Device(mode, number) => {
                        writer.append(path, Kind::Device(*mode, *number))?;
                    }
                    Node::File(mode, source) => {
                        let contents = match source.read() {
                            Ok(contents) => contents,
                            Err(error) => return Ok(Err(error)),
                        };
                        told(path, contents.len() as u64);
                        writer.append(path, Kind::File(*mode, &contents))?;
                    }
                }
            }
            writer.finish()?.flush().map(Ok)
        })();
        written.map_err(failed)?
    }

    fn above(&mut self, path: &str) {
        let ends = path.match_indices('/').map(|(end, _)| &path[..end]);
        for directory in ends {
            self.nodes.entry(directory.to_owned()).or_insert(Node::Directory(0o755));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cpio::tests::read as read_archive;

    #[test]
    fn directories_come_first_and_the_order_is_always_the_same() {
        let bytes = |text: &str| Source::Bytes(text.as_bytes().to_vec());
        let mut tree = Tree::default();
        tree.file("usr/bin/b", 0o755, bytes("b")).unwrap();
        tree.link("init", "usr/bin/b");
        tree.file("usr/bin/a", 0o755, bytes("a")).unwrap();
        tree.device("dev/console", 0o600, (5, 1));
        let mut archive = Vec::new();
        let mut told = Vec::new();
        tree.write(&mut archive, |path, size| told.push((path.to_owned(), size))).unwrap();
        let paths: Vec<String> = read_archive(&archive).into_iter().map(|one| one.path).collect();
        let expected = ["dev", "dev/console", "init", "usr", "usr/bin", "usr/bin/a", "usr/bin/b"];
        assert_eq!(paths, expected);
        assert_eq!(told, [("usr/bin/a".to_owned(), 1), ("usr/bin/b".to_owned(), 1)]);
        assert_eq!((tree.files(), tree.has("init")), (2, true));
    }

    #[test]
    fn no_file_takes_the_place_of_another() {
        let mut tree = Tree::default();
        let source = |name: &str| Source::File(name.into());
        tree.file("lib/x", 0o755, source("/one/x")).unwrap();
        tree.file("lib/x", 0o755, source("/one/x")).unwrap();
        let error = tree.file("lib/x", 0o755, source("/two/x")).unwrap_err();
        assert!(error.to_string().contains("/one/x and /two/x"), "{error}");
    }

    #[test]
    fn a_file_that_is_gone_is_an_error() {
        let mut tree = Tree::default();
        tree.file("x", 0o644, Source::File("/nonexistent/x".into())).unwrap();
        let error = tree.write(std::io::sink(), |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("cannot read /nonexistent/x"), "{error}");
    }
}
