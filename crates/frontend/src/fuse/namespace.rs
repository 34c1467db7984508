//! The directory with its one file, as far as no data is concerned.

use zerocopy::IntoBytes;

use block::{BLOCK_BYTES, SECTOR_BYTES};

use super::wire::{Attr, AttrOut, DirEntry, EntryOut, StatFsOut};

/// The name of the one file.
pub const FILE_NAME: &str = "volume";

pub(super) const ROOT_NODE: u64 = 1;
pub(super) const FILE_NODE: u64 = 2;
/// Names never change; sizes do, so attributes are asked for each time.
const NAME_VALID_SECS: u64 = 86_400;

/// Attributes of a node; `None` for one that doesn't exist.
pub(super) fn attributes(node: u64, size_bytes: u64) -> Option<Attr> {
    let common = Attr { ino: node, block_bytes: BLOCK_BYTES as u32, ..Attr::default() };
    match node {
        ROOT_NODE => Some(Attr { mode: libc::S_IFDIR | 0o700, links: 2, ..common }),
        FILE_NODE => Some(Attr {
            mode: libc::S_IFREG | 0o600,
            links: 1,
            size: size_bytes,
            blocks: size_bytes / SECTOR_BYTES as u64,
            ..common
        }),
        _ => None,
    }
}

/// The answer to GETATTR.
pub(super) fn get_attributes(node: u64, size_bytes: u64) -> Option<AttrOut> {
    attributes(node, size_bytes).map(|attr| AttrOut { attr, ..AttrOut::default() })
}

/// The answer to LOOKUP of `name`, which ends with a zero byte.
pub(super) fn look_up(parent: u64, name: &[u8], size_bytes: u64) -> Option<EntryOut> {
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    if parent != ROOT_NODE || name != FILE_NAME.as_bytes() {
        return None;
    }
    attributes(FILE_NODE, size_bytes).map(|attr| EntryOut {
        node: FILE_NODE,
        entry_valid_secs: NAME_VALID_SECS,
        attr,
        ..EntryOut::default()
    })
}

/// The answer to READDIR: entries from `offset` on, as far as `limit_bytes` goes.
pub(super) fn read_directory(offset: u64, limit_bytes: u32) -> Vec<u8> {
    let entries = [
        (ROOT_NODE, ".", libc::DT_DIR),
        (ROOT_NODE, "..", libc::DT_DIR),
        (FILE_NODE, FILE_NAME, libc::DT_REG),
    ];
    let mut listing = Vec::new();
    for (index, (ino, name, kind)) in (1_u64..).zip(entries).filter(|(index, _)| *index > offset) {
        let head = DirEntry {
            ino,
            next_offset: index,
            name_len: name.len() as u32,
            kind: u32::from(kind),
        };
        let padded = (size_of::<DirEntry>() + name.len()).next_multiple_of(8);
        if listing.len() + padded > limit_bytes as usize {
            break;
        }
        let end = listing.len() + padded;
        listing.extend_from_slice(head.as_bytes());
        listing.extend_from_slice(name.as_bytes());
        listing.resize(end, 0);
    }
    listing
}

/// The answer to STATFS.
pub(super) fn stat_file_system(size_bytes: u64) -> StatFsOut {
    StatFsOut {
        blocks: size_bytes / BLOCK_BYTES as u64,
        files: 1,
        block_bytes: BLOCK_BYTES as u32,
        fragment_bytes: BLOCK_BYTES as u32,
        name_bytes_max: 255,
        ..StatFsOut::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_name_is_found() {
        assert!(look_up(ROOT_NODE, b"volume\0", 4096).is_some_and(|entry| entry.attr.size == 4096));
        assert!(look_up(ROOT_NODE, b"volume2\0", 4096).is_none());
        assert!(look_up(ROOT_NODE, b"", 4096).is_none());
        assert!(look_up(FILE_NODE, b"volume\0", 4096).is_none());
        assert!(attributes(3, 0).is_none());
    }

    #[test]
    fn a_directory_is_read_in_pieces() {
        let whole = read_directory(0, 4096);
        assert_eq!(whole.len(), 32 + 32 + 32);
        assert_eq!(read_directory(0, 40), whole[..32]);
        assert_eq!(read_directory(2, 4096), whole[64..]);
        assert!(read_directory(3, 4096).is_empty());
        assert!(read_directory(u64::MAX, 4096).is_empty());
    }
}
