//! Reading from a disk that may be anything: no length or offset that a disk names makes more memory
//! be reserved than its caller allows, and what can't be read is told from what is there.

use std::fmt;

use block::BLOCK_BYTES;

/// These bytes can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be read there")]
pub struct Unreadable;

/// How the bytes of a disk are had.
pub type ReadBytes<'a> = Box<dyn Fn(u64, &mut [u8]) -> Result<(), Unreadable> + 'a>;

/// A disk to be checked: a name for people, a size, and a way to its bytes.
pub struct DiskImage<'a> {
    /// How findings call it.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Fills a buffer from an offset on, or says that it can't. Only asked for what lies within the
    /// size.
    pub read: ReadBytes<'a>,
}

impl<'a> DiskImage<'a> {
    /// A disk in memory.
    pub fn of_bytes(name: impl Into<String>, bytes: &'a [u8]) -> DiskImage<'a> {
        let read = move |offset: u64, into: &mut [u8]| {
            let from = usize::try_from(offset).map_err(|_| Unreadable)?;
            let end = from.checked_add(into.len()).ok_or(Unreadable)?;
            into.copy_from_slice(bytes.get(from..end).ok_or(Unreadable)?);
            Ok(())
        };
        DiskImage { name: name.into(), bytes: bytes.len() as u64, read: Box::new(read) }
    }

    /// Bytes that are there as a whole.
    pub(super) fn bytes_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, Unreadable> {
        let end = offset.checked_add(len as u64).ok_or(Unreadable)?;
        if end > self.bytes {
            return Err(Unreadable);
        }
        let mut bytes = vec![0; len];
        (self.read)(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// The same; blocks that can't be read are zeros, which no structure is, and listed by their index.
    pub(super) fn blocks_at(&self, offset: u64, len: usize) -> (Vec<u8>, Vec<usize>) {
        if let Ok(bytes) = self.bytes_at(offset, len) {
            return (bytes, Vec::new());
        }
        let mut bytes = vec![0; len];
        let mut unreadable = Vec::new();
        for (index, block) in bytes.chunks_mut(BLOCK_BYTES).enumerate() {
            let at = offset.saturating_add((index * BLOCK_BYTES) as u64);
            match self.bytes_at(at, block.len()) {
                Ok(found) => block.copy_from_slice(&found),
                Err(Unreadable) => unreadable.push(index),
            }
        }
        (bytes, unreadable)
    }
}

impl fmt::Debug for DiskImage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskImage").field("name", &self.name).field("bytes", &self.bytes).finish()
    }
}
