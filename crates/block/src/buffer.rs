//! Buffers of data on their way to or from a device.
//!
//! A [`Buffer`] is shared and read-only, so one write can go to two mirrors without a copy; its
//! memory starts on a 4 KiB boundary, so direct I/O takes it as it is. An operation owns its buffer
//! until it completes, whoever drops the future meanwhile.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::BLOCK_BYTES;

/// The unit of allocation; its alignment is the point.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(4096))]
struct Page([u8; BLOCK_BYTES]);

/// What a frame needs at most. Aligned allocation costs more than the copy of a sector.
const SMALL_PAGES_MAX: usize = 4;
/// Of each small size so many pages are kept, 4 MiB: a destage gives back what hundreds of writes brought.
const KEPT_SMALL_PAGES_MAX: usize = 1024;
/// Of what is larger so many pages are kept, 8 MiB: memory that is fresh from the kernel costs more than the
/// copy of what shall stand in it.
const KEPT_PAGES_MAX: usize = 2048;

/// Memory that nobody needs at the moment.
struct Kept {
    small: [Vec<Vec<Page>>; SMALL_PAGES_MAX],
    /// By number of pages.
    large: BTreeMap<usize, Vec<Vec<Page>>>,
    large_pages: usize,
}

thread_local! {
    static KEPT: RefCell<Kept> = const {
        RefCell::new(Kept {
            small: [const { Vec::new() }; SMALL_PAGES_MAX],
            large: BTreeMap::new(),
            large_pages: 0,
        })
    };
}

impl Kept {
    fn take(&mut self, count: usize) -> Option<Vec<Page>> {
        if let Some(small) = self.small.get_mut(count.checked_sub(1)?) {
            return small.pop();
        }
        let pages = self.large.get_mut(&count)?.pop()?;
        self.large_pages -= count;
        Some(pages)
    }

    fn keep(&mut self, pages: Vec<Page>) {
        let count = pages.len();
        match count.checked_sub(1).and_then(|class| self.small.get_mut(class)) {
            Some(small) if (small.len() + 1) * count <= KEPT_SMALL_PAGES_MAX => small.push(pages),
            None if (1..=KEPT_PAGES_MAX).contains(&count) => {
                if self.large_pages + count > KEPT_PAGES_MAX {
                    // Perhaps of sizes that nobody asks for any more.
                    self.large.clear();
                    self.large_pages = 0;
                }
                self.large_pages += count;
                self.large.entry(count).or_default().push(pages);
            }
            _ => {}
        }
    }
}

/// Pages that are allocated for so many: of large sizes there are four for each doubling, so that what was
/// kept of one length serves for the next.
fn size_class(count: usize) -> usize {
    if count <= SMALL_PAGES_MAX {
        return count;
    }
    count.next_multiple_of(1 << (count.ilog2() - 2))
}

/// Memory that returns to its thread's store when nobody needs it any more.
#[derive(Default)]
struct Memory(Vec<Page>);

impl Memory {
    /// `count` pages that were kept, with what was in them.
    fn kept(count: usize) -> Option<Memory> {
        let taken = KEPT.try_with(|kept| kept.try_borrow_mut().ok()?.take(size_class(count)));
        taken.ok().flatten().map(Memory)
    }

    fn zeroed(count: usize) -> Memory {
        Memory(
            Page::new_vec_zeroed(size_class(count)).unwrap_or_else(|_| {
                std::alloc::handle_alloc_error(std::alloc::Layout::new::<Page>())
            }),
        )
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let pages = std::mem::take(&mut self.0);
        // At the end of a thread there is no store any more.
        let _ = KEPT.try_with(|kept| {
            if let Ok(mut kept) = kept.try_borrow_mut() {
                kept.keep(pages);
            }
        });
    }
}

/// Writable memory with one owner. [`BufferMut::freeze`] makes it a [`Buffer`].
pub struct BufferMut {
    memory: Memory,
    len_bytes: usize,
}

impl BufferMut {
    /// `len_bytes` zero bytes, aligned to 4 KiB.
    pub fn zeroed(len_bytes: usize) -> BufferMut {
        let count = len_bytes.div_ceil(BLOCK_BYTES);
        match Memory::kept(count) {
            Some(memory) => {
                let mut buffer = BufferMut { memory, len_bytes };
                buffer.fill(0);
                buffer
            }
            None => BufferMut { memory: Memory::zeroed(count), len_bytes },
        }
    }

    /// `len_bytes` bytes, aligned to 4 KiB, in which anything may stand that a former buffer held:
    /// for those who overwrite all of it before anybody else sees it.
    pub fn for_overwriting(len_bytes: usize) -> BufferMut {
        let count = len_bytes.div_ceil(BLOCK_BYTES);
        let memory = Memory::kept(count).unwrap_or_else(|| Memory::zeroed(count));
        BufferMut { memory, len_bytes }
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> BufferMut {
        let mut buffer = BufferMut::for_overwriting(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// Gives up the right to write in exchange for the right to share.
    pub fn freeze(self) -> Buffer {
        Buffer { end: self.len_bytes, memory: Some(Arc::new(self.memory)), start: 0 }
    }
}

impl Deref for BufferMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory.0.as_slice().as_bytes()[..self.len_bytes]
    }
}

impl DerefMut for BufferMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory.0.as_mut_slice().as_mut_bytes()[..self.len_bytes]
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
    /// None for no bytes, which is what most replies carry.
    memory: Option<Arc<Memory>>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// No bytes.
    pub fn empty() -> Buffer {
        Buffer { memory: None, start: 0, end: 0 }
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
        Buffer { memory: self.memory.clone(), start: self.start + start, end: self.start + end }
    }

    /// Whether the bytes start at a multiple of `alignment_bytes` in memory.
    pub fn is_aligned_to(&self, alignment_bytes: usize) -> bool {
        (self.as_ptr() as usize).is_multiple_of(alignment_bytes)
    }

    /// The bytes as writable memory: without a copy when nobody else holds them and they are the
    /// whole allocation, else copied.
    pub fn into_mut(mut self) -> BufferMut {
        match self.memory.take().map(Arc::try_unwrap) {
            None => BufferMut::zeroed(0),
            Some(Ok(memory)) if self.start == 0 => BufferMut { memory, len_bytes: self.end },
            Some(Ok(memory)) => BufferMut::copy_of(&memory.0.as_bytes()[self.start..self.end]),
            Some(Err(memory)) => BufferMut::copy_of(&memory.0.as_bytes()[self.start..self.end]),
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Some(memory) => &memory.0.as_slice().as_bytes()[self.start..self.end],
            None => &[],
        }
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

    #[test]
    fn what_is_kept_is_bounded_and_serves_similar_lengths() {
        assert_eq!(
            [1, 4, 5, 7, 8, 9, 16, 17, 257].map(size_class),
            [1, 4, 5, 7, 8, 10, 16, 20, 320]
        );
        let large = |count: usize| drop(Buffer::zeroed(count * BLOCK_BYTES));
        (5..1200).for_each(large);
        KEPT.with_borrow(|kept| {
            let pages = kept.large.values().flatten().map(Vec::len).sum::<usize>();
            assert_eq!(pages, kept.large_pages);
            assert!((1..=KEPT_PAGES_MAX).contains(&pages));
        });
        large(10);
        let kept = || KEPT.with_borrow(|kept| kept.large_pages);
        let before = kept();
        let buffer = Buffer::zeroed(9 * BLOCK_BYTES);
        assert_eq!(before - kept(), 10);
        drop(buffer);
        assert_eq!(kept(), before);
    }

    #[test]
    fn memory_that_is_used_again_is_as_new() {
        for len in [1, 512, 4096, 8192, 16_384, 20_000, 1 << 20, (4 << 20) + 4096] {
            BufferMut::copy_of(&vec![0xff; len]).freeze().slice(0, len / 2);
            assert!(Buffer::zeroed(len).iter().all(|byte| *byte == 0), "{len}");
            drop(Buffer::copy_of(&vec![0xee; len]));
            assert_eq!(BufferMut::for_overwriting(len).len(), len);
            assert_eq!(Buffer::copy_of(&vec![3; len])[..], vec![3; len]);
        }
    }
}
