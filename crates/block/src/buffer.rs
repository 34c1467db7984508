//! Buffers of data on their way to or from a device.
//!
//! A [`Buffer`] is shared and read-only, so one write can go to two mirrors without a copy; its
//! memory starts on a 4 KiB boundary, so direct I/O takes it as it is. An operation owns its buffer
//! until it completes, whoever drops the future meanwhile.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::BLOCK_BYTES;

/// The unit of allocation; its alignment is the point.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(4096))]
struct Page([u8; BLOCK_BYTES]);

/// Writable memory with one owner. [`BufferMut::freeze`] makes it a [`Buffer`].
pub struct BufferMut {
    pages: Vec<Page>,
    len_bytes: usize,
}

impl BufferMut {
    /// `len_bytes` zero bytes, aligned to 4 KiB.
    pub fn zeroed(len_bytes: usize) -> BufferMut {
        let pages = Page::new_vec_zeroed(len_bytes.div_ceil(BLOCK_BYTES))
            .unwrap_or_else(|_| std::alloc::handle_alloc_error(std::alloc::Layout::new::<Page>()));
        BufferMut { pages, len_bytes }
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> BufferMut {
        let mut buffer = BufferMut::zeroed(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// Gives up the right to write in exchange for the right to share.
    pub fn freeze(self) -> Buffer {
        Buffer { end: self.len_bytes, pages: Arc::new(self.pages), start: 0 }
    }
}

impl Deref for BufferMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.pages.as_slice().as_bytes()[..self.len_bytes]
    }
}

impl DerefMut for BufferMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.pages.as_mut_slice().as_mut_bytes()[..self.len_bytes]
    }
}

impl fmt::Debug for BufferMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferMut({} bytes)", self.len_bytes)
    }
}

/// Read-only bytes that several may hold; cloning and slicing copy nothing.
#[derive(Clone)]
pub struct Buffer {
    pages: Arc<Vec<Page>>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// No bytes.
    pub fn empty() -> Buffer {
        Buffer { pages: Arc::new(Vec::new()), start: 0, end: 0 }
    }

    /// `len_bytes` zero bytes.
    pub fn zeroed(len_bytes: usize) -> Buffer {
        BufferMut::zeroed(len_bytes).freeze()
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Buffer {
        BufferMut::copy_of(bytes).freeze()
    }

    /// The bytes from `start` to `end` of this buffer, sharing its memory.
    ///
    /// # Panics
    /// When `start > end` or `end` is beyond this buffer: the caller's arithmetic is wrong.
    pub fn slice(&self, start: usize, end: usize) -> Buffer {
        assert!(start <= end && end <= self.len(), "slice {start}..{end} of {}", self.len());
        Buffer { pages: Arc::clone(&self.pages), start: self.start + start, end: self.start + end }
    }

    /// Whether the bytes start at a multiple of `alignment_bytes` in memory.
    pub fn is_aligned_to(&self, alignment_bytes: usize) -> bool {
        (self.as_ptr() as usize).is_multiple_of(alignment_bytes)
    }

    /// The bytes as writable memory: without a copy when nobody else holds them and they are the
    /// whole allocation, else copied.
    pub fn into_mut(self) -> BufferMut {
        if self.start == 0 {
            let len_bytes = self.end;
            match Arc::try_unwrap(self.pages) {
                Ok(pages) => return BufferMut { pages, len_bytes },
                Err(pages) => {
                    return BufferMut::copy_of(&Buffer { pages, start: self.start, end: self.end });
                }
            }
        }
        BufferMut::copy_of(&self)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.pages.as_slice().as_bytes()[self.start..self.end]
    }
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Buffer) -> bool {
        **self == **other
    }
}

impl Eq for Buffer {}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_share_and_stay_aligned() {
        let mut made = BufferMut::zeroed(10_000);
        made[4096] = 7;
        let whole = made.freeze();
        assert!(whole.is_aligned_to(4096));
        let part = whole.slice(4096, 10_000);
        assert_eq!(part[0], 7);
        assert!(part.is_aligned_to(4096));
        assert_eq!(part.slice(512, 1024).len(), 512);
        assert_eq!(whole.clone().into_mut().len(), 10_000);
        assert_eq!(part.into_mut()[0], 7);
    }
}
