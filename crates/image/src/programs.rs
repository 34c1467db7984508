//! Programs with the libraries that they need, as the dynamic linker of this machine would find them (ld.so(8)).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::elf::{self, Needs};
use crate::{Error, read};

/// Where libraries are beside what /etc/ld.so.conf says.
const PLACES: [&str; 8] = [
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib64",
    "usr/lib64",
    "lib",
    "usr/lib",
];
/// Where programs are that have no path.
const PROGRAM_PLACES: [&str; 6] =
    ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"];
/// Files of /etc/ld.so.conf may name others.
const INCLUDE_DEPTH_MAX: usize = 4;

/// What a program needs: where each is to be in the image, and where it is here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// The program that loads it, at the path by which programs name it; none for a static one.
    pub interpreter: Option<(String, PathBuf)>,
    /// Libraries, by name.
    pub libraries: BTreeMap<String, PathBuf>,
}

/// Where things are on a machine.
pub struct Host {
    root: PathBuf,
    places: Vec<PathBuf>,
}

impl Host {
    /// The machine whose files are below `root`.
    pub fn at(root: &Path) -> Host {
        let mut places = Vec::new();
        configured(root, &root.join("etc/ld.so.conf"), INCLUDE_DEPTH_MAX, &mut places);
        places.extend(PLACES.iter().map(|place| root.join(place)));
        Host { root: root.to_owned(), places }
    }

    /// The program that people mean: a path, or a name.
    pub fn program(&self, name: &str) -> Result<PathBuf, Error> {
        let is_file = |path: &PathBuf| path.is_file();
        let found = match name.contains('/') {
            true => Some(PathBuf::from(name)).filter(is_file),
            false => {
                PROGRAM_PLACES.iter().map(|place| self.root.join(place).join(name)).find(is_file)
            }
        };
        found.ok_or_else(|| Error::NoProgram(name.to_owned()))
    }

    /// All that a program needs.
    pub fn needed_by(&self, program: &Path) -> Result<Needed, Error> {
        let mut needed = Needed::default();
        let first = needs_of(program)?;
        if let Some(interpreter) = &first.interpreter {
            let at = self.root.join(interpreter.trim_start_matches('/'));
            needed.interpreter = Some((interpreter.clone(), at));
        }
        let mut left = vec![(program.to_owned(), first)];
        while let Some((path, needs)) = left.pop() {
            for library in &needs.libraries {
                // What loads is what libraries name, too.
                let is_interpreter = needed.interpreter.as_ref();
                let is_interpreter =
                    is_interpreter.is_some_and(|(at, _)| at.rsplit('/').next() == Some(library));
                if is_interpreter || needed.libraries.contains_key(library) {
                    continue;
                }
                let (found, its) = self.find(library, &path, &needs)?;
                needed.libraries.insert(library.clone(), found.clone());
                left.push((found, its));
            }
        }
        Ok(needed)
    }

    fn find(&self, library: &str, of: &Path, needs: &Needs) -> Result<(PathBuf, Needs), Error> {
        let origin = of.canonicalize().unwrap_or_else(|_| of.to_owned());
        let origin = origin.parent().unwrap_or(Path::new("/")).display().to_string();
        let own = needs.places.iter().map(|place| {
            let place = place.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin);
            PathBuf::from(place)
        });
        let candidates = own.chain(self.places.iter().cloned()).map(|place| place.join(library));
        for path in candidates.filter(|path| path.is_file()) {
            // Libraries for other processors may lie beside it.
            if let Ok(its) = needs_of(&path)
                && its.machine == needs.machine
            {
                return Ok((path, its));
            }
        }
        Err(Error::NoLibrary { program: of.to_owned(), library: library.to_owned() })
    }
}

fn needs_of(path: &Path) -> Result<Needs, Error> {
    let form = |error: elf::NoElf| Error::Form { path: path.to_owned(), what: error.to_string() };
    elf::needs(&read(path)?).map_err(form)
}

/// The directories that a file of the form of /etc/ld.so.conf names.
fn configured(root: &Path, file: &Path, depth: usize, places: &mut Vec<PathBuf>) {
    let Ok(text) = std::fs::read_to_string(file) else { return };
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(pattern) = line.strip_prefix("include ").map(str::trim) {
            let pattern = match pattern.strip_prefix('/') {
                Some(pattern) => root.join(pattern),
                None => root.join("etc").join(pattern),
            };
            for file in files_like(&pattern).iter().filter(|_| depth > 0) {
                configured(root, file, depth - 1, places);
            }
        } else if let Some(place) = line.strip_prefix('/') {
            places.push(root.join(place));
        }
    }
}

/// The files of a directory whose names have the beginning and end that a pattern says, in order.
fn files_like(pattern: &Path) -> Vec<PathBuf> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy();
    let Some((begin, end)) = name.split_once('*') else { return vec![pattern.to_owned()] };
    let Some(entries) = pattern.parent().and_then(|directory| std::fs::read_dir(directory).ok())
    else {
        return Vec::new();
    };
    let is_like = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.len() >= begin.len() + end.len() && name.starts_with(begin) && name.ends_with(end)
    };
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(is_like).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_that_this_program_needs_is_found() {
        let host = Host::at(Path::new("/"));
        let needed = host.needed_by(Path::new("/proc/self/exe")).unwrap();
        let (at, loader) = needed.interpreter.unwrap();
        assert!(loader.is_file() && at.starts_with("/lib"));
        assert!(needed.libraries.keys().any(|name| name.starts_with("libc.so")));
        assert!(needed.libraries.values().all(|path| path.is_file()));
        // It has a place of its own.
        let loader_name = at.rsplit('/').next().unwrap();
        assert!(!needed.libraries.contains_key(loader_name));
    }

    #[test]
    fn what_is_missing_is_named() {
        let empty = tempfile::tempdir().unwrap();
        let host = Host::at(empty.path());
        let error = host.needed_by(Path::new("/proc/self/exe")).unwrap_err();
        assert!(matches!(error, Error::NoLibrary { .. }), "{error}");
        assert!(matches!(host.program("none").unwrap_err(), Error::NoProgram(_)));
        let script = empty.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        let error = host.needed_by(&script).unwrap_err();
        assert!(error.to_string().contains("script: it is no ELF program"), "{error}");
    }

    #[test]
    fn the_linkers_configuration_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("etc/ld.so.conf.d")).unwrap();
        let put = |name: &str, text: &str| std::fs::write(root.join(name), text).unwrap();
        put("etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf # more\n/opt/lib\n");
        put("etc/ld.so.conf.d/b.conf", "/b\ninclude ld.so.conf\n");
        put("etc/ld.so.conf.d/a.conf", "/a\n");
        put("etc/ld.so.conf.d/c.txt", "/c\n");
        let host = Host::at(root);
        assert!(host.places.starts_with(&[root.join("a"), root.join("b"), root.join("a")]));
        assert!(host.places.contains(&root.join("opt/lib")));
        assert!(!host.places.contains(&root.join("c")));
    }
}
