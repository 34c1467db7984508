//! What a program needs to run, by its dynamic section; and a program without what it doesn't need for that.

use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, ReadRef};

/// What a program or library needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The program that loads it; none for a static one, and for libraries.
    pub interpreter: Option<String>,
    /// Names of libraries.
    pub libraries: Vec<String>,
    /// Where they are looked for first.
    pub places: Vec<String>,
    /// For which processor it is.
    pub machine: u16,
}

/// What isn't understood of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no ELF program of 64 bits that can be read: {0}")]
pub struct NoElf(String);

impl From<object::Error> for NoElf {
    fn from(error: object::Error) -> NoElf {
        NoElf(error.to_string())
    }
}

type Header = FileHeader64<Endianness>;

/// Of e_shoff, e_shnum and e_shstrndx in the header of 64 bits.
const SECTIONS_AT: std::ops::Range<usize> = 0x28..0x30;
const SECTION_COUNTS_AT: std::ops::Range<usize> = 0x3c..0x40;

/// Reads what a program or library needs.
pub fn needs(bytes: &[u8]) -> Result<Needs, NoElf> {
    let header = Header::parse(bytes)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, bytes)?;
    let mut needs = Needs { machine: header.e_machine(endian).0, ..Needs::default() };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    for segment in segments {
        if let Some(interpreter) = segment.interpreter(endian, bytes)? {
            needs.interpreter = Some(text(interpreter));
        }
    }
    for segment in segments {
        let Some(entries) = segment.dynamic(endian, bytes)? else { continue };
        let value_of = |tag| {
            let found = entries.iter().find(|entry| entry.d_tag(endian) == tag);
            found.map(|entry| entry.d_val(endian))
        };
        let Some(strings_at) = value_of(elf::DT_STRTAB) else { continue };
        // The table is where the program sees it: some segment has it from the file.
        let strings = segments.iter().find_map(|segment| {
            let size = segment.p_vaddr(endian).checked_add(segment.p_filesz(endian))?;
            let left = size.checked_sub(strings_at)?;
            segment.data_range(endian, bytes, strings_at, left).ok().flatten()
        });
        let strings = strings.ok_or_else(|| NoElf("its names are nowhere".to_owned()))?;
        let string = |at: u64| {
            let found = strings.read_bytes_at_until(at..strings.len() as u64, 0);
            found.map(text).map_err(|()| NoElf("a name of it is nowhere".to_owned()))
        };
        for entry in entries {
            let tag = entry.d_tag(endian);
            if tag == elf::DT_NULL {
                break;
            } else if tag == elf::DT_NEEDED {
                needs.libraries.push(string(entry.d_val(endian))?);
            } else if tag == elf::DT_RUNPATH || tag == elf::DT_RPATH {
                let places = string(entry.d_val(endian))?;
                needs.places.extend(places.split(':').map(str::to_owned));
            }
        }
    }
    Ok(needs)
}

/// The program without names of functions and what debuggers read: whatever is loaded into memory is described by
/// segments, and lies before all else. What isn't understood stays as it is.
pub fn stripped(mut bytes: Vec<u8>) -> Vec<u8> {
    let Some(end) = end_of_segments(&bytes).filter(|end| *end < bytes.len()) else { return bytes };
    bytes.truncate(end);
    bytes[SECTIONS_AT].fill(0);
    bytes[SECTION_COUNTS_AT].fill(0);
    bytes
}

fn end_of_segments(bytes: &[u8]) -> Option<usize> {
    let header = Header::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, bytes).ok()?;
    let table = u64::from(header.e_phentsize(endian)) * segments.len() as u64;
    let table_end = header.e_phoff(endian).checked_add(table)?;
    let ends = segments.iter().map(|one| one.p_offset(endian).checked_add(one.p_filesz(endian)));
    let ends = ends.collect::<Option<Vec<u64>>>()?;
    usize::try_from(ends.into_iter().fold(table_end, u64::max)).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_program_of_this_machine_is_understood() {
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        let needs = needs(&bytes).unwrap();
        assert!(needs.libraries.iter().any(|name| name.starts_with("libc.so")), "{needs:?}");
        assert!(needs.interpreter.is_some_and(|path| path.starts_with("/lib")));
    }

    #[test]
    fn what_is_no_program_is_told() {
        for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF", &[0; 100]] {
            assert!(needs(bytes).is_err());
            assert_eq!(stripped(bytes.to_vec()), bytes);
        }
        // Cut off anywhere it is an error, and nothing worse.
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        for length in (0..bytes.len()).step_by(bytes.len() / 97) {
            let _ = needs(&bytes[..length]);
            stripped(bytes[..length].to_vec());
        }
    }

    /// It runs, and does the same.
    #[test]
    fn a_stripped_program_runs() {
        use std::os::unix::fs::PermissionsExt;
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        let whole = bytes.len();
        let stripped = stripped(bytes);
        assert!(stripped.len() < whole);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, stripped).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let listed = std::process::Command::new(&path).arg("--list").output().unwrap();
        let text = String::from_utf8(listed.stdout).unwrap();
        assert!(text.contains("a_stripped_program_runs"), "{text}");
    }
}
