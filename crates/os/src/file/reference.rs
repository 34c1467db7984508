//! A second hold on an open file, which may be taken to another thread: for the calls on a disk that
//! io_uring has no request for and that hang with it. The last close is one of them; it writes back
//! what the page cache holds of a block device.

use std::fs::File;
use std::io;

use super::open;

/// An open file that can be asked its size, and keeps the file open.
#[derive(Debug)]
pub struct FileReference {
    file: File,
    is_block_device: bool,
}

impl FileReference {
    pub(super) fn new(file: File, is_block_device: bool) -> FileReference {
        FileReference { file, is_block_device }
    }

    /// The present size. Blocks, on a file of a network file system for as long as that hangs.
    pub fn size_bytes(&self) -> io::Result<u64> {
        open::size_bytes(&self.file, self.is_block_device)
    }
}
