//! What a request means, however it came: by the descriptor or by a ring.

use zerocopy::{Immutable, IntoBytes};

use block::{BLOCK_BYTES, Buffer, Lba, SECTOR_BYTES, SectorRange};

use super::errno::errno_of;
use super::namespace::{self, FILE_NODE, ROOT_NODE};
use super::request::{Answer, VolumeRequest};
use super::wire::{self, InHeader, Opcode, TRANSFER_BYTES_MAX};

/// A request as it lies in memory.
pub(super) struct Incoming<'a> {
    pub header: InHeader,
    /// The first bytes behind it: all of the operation's own head, if it has one.
    pub front: &'a [u8],
    /// The bytes behind those: of a write its data.
    pub rest: &'a [u8],
}

/// What is to be done about a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It wants no answer.
    Silence,
    /// The connection begins.
    Init,
    /// This is the answer: a body, or an error number.
    Answer(Result<Vec<u8>, i32>),
    /// Somebody must ask the volume.
    Perform(Operation),
}

/// A request about the volume's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// `len` bytes are wanted of these sectors, behind the first `skip`.
    Read { range: SectorRange, skip: usize, len: usize },
    /// `len` bytes of data, which are [`Incoming::rest`].
    Write { start: Lba, len: usize },
    /// As [`VolumeRequest::Zero`].
    Zero { range: SectorRange, unmap: bool },
}

impl Operation {
    /// The request for the volume; `take` gives the data of a write.
    pub(super) fn request(self, take: impl FnOnce(usize) -> Buffer) -> VolumeRequest {
        match self {
            Operation::Read { range, .. } => VolumeRequest::Read(range),
            Operation::Write { start, len } => VolumeRequest::Write { start, data: take(len) },
            Operation::Zero { range, unmap } => VolumeRequest::Zero { range, unmap },
        }
    }

    /// Tells the kernel what the volume answered: zero or a negative error number, and a body.
    pub(super) fn tell<T>(self, answer: &Answer, tell: impl FnOnce(i32, &[u8]) -> T) -> T {
        match (answer, self) {
            (Err(error), _) => tell(-errno_of(*error), &[]),
            (Ok(data), Operation::Read { skip, len, .. }) => match data.get(skip..skip + len) {
                Some(wanted) => tell(0, wanted),
                None => tell(-libc::EIO, &[]),
            },
            (Ok(_), Operation::Write { len, .. }) => {
                tell(0, wire::WriteOut { size: len as u32, padding: 0 }.as_bytes())
            }
            (Ok(_), Operation::Zero { .. }) => tell(0, &[]),
        }
    }
}

/// What `incoming` means for a volume of that size.
pub(super) fn meaning_of(incoming: &Incoming<'_>, size_bytes: u64, read_only: bool) -> Meaning {
    let Incoming { header, front, .. } = incoming;
    let opcode = Opcode::from_raw(header.opcode);
    let answer = match opcode {
        Opcode::Read | Opcode::Write | Opcode::Fallocate => {
            match operation(opcode, incoming, size_bytes, read_only) {
                Ok(Some(operation)) => return Meaning::Perform(operation),
                Ok(None) => Ok(Vec::new()),
                Err(errno) => Err(errno),
            }
        }
        Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt => return Meaning::Silence,
        Opcode::Init => return Meaning::Init,
        Opcode::Lookup => {
            let named = name(incoming);
            found(namespace::look_up(header.node, &named, size_bytes))
        }
        Opcode::GetAttr => found(namespace::get_attributes(header.node, size_bytes)),
        Opcode::Open if header.node == FILE_NODE => {
            let flags = wire::open_flag::DIRECT_IO | wire::open_flag::PARALLEL_DIRECT_WRITES;
            bytes(wire::OpenOut { flags, ..Default::default() })
        }
        Opcode::OpenDir if header.node == ROOT_NODE => bytes(wire::OpenOut::default()),
        Opcode::ReadDir => wire::head::<wire::ReadIn>(front).ok_or(libc::EINVAL).map(|read| {
            let limit = read.size.min(BLOCK_BYTES as u32);
            namespace::read_directory(read.offset, limit)
        }),
        Opcode::StatFs => bytes(namespace::stat_file_system(size_bytes)),
        Opcode::Release | Opcode::ReleaseDir | Opcode::Flush | Opcode::Access | Opcode::Destroy => {
            Ok(Vec::new())
        }
        Opcode::Open | Opcode::OpenDir | Opcode::SetAttr => Err(libc::EPERM),
        // A volume's writes are durable when they are answered. The kernel takes this answer for success,
        // and asks no more (fs/fuse/file.c, `no_fsync`): the loop device's flushes end there. Its cache
        // could be declared write-through as well, but that outlives the volume: the next user of the
        // same loop device would lose his flushes.
        Opcode::Fsync | Opcode::FsyncDir | Opcode::Unknown => Err(libc::ENOSYS),
    };
    Meaning::Answer(answer)
}

fn bytes(body: impl IntoBytes + Immutable) -> Result<Vec<u8>, i32> {
    Ok(body.as_bytes().to_vec())
}

fn found(body: Option<impl IntoBytes + Immutable>) -> Result<Vec<u8>, i32> {
    body.map_or(Err(libc::ENOENT), bytes)
}

/// The name that a request is about, as far as it is looked at.
fn name(incoming: &Incoming<'_>) -> Vec<u8> {
    let rest = &incoming.rest[..incoming.rest.len().min(wire::BODY_BYTES_MAX)];
    [incoming.front, rest].concat()
}

/// `None` for what is behind the end of the file.
fn operation(
    opcode: Opcode,
    incoming: &Incoming<'_>,
    size_bytes: u64,
    read_only: bool,
) -> Result<Option<Operation>, i32> {
    if incoming.header.node != FILE_NODE {
        return Err(libc::EISDIR);
    }
    match opcode {
        Opcode::Read => {
            let wanted = read_request(incoming.front, size_bytes)?;
            Ok(wanted.map(|(range, skip, len)| Operation::Read { range, skip, len }))
        }
        Opcode::Write if read_only => Err(libc::EROFS),
        Opcode::Write => {
            let write: wire::WriteIn = wire::head(incoming.front).ok_or(libc::EINVAL)?;
            let len = write.size as usize;
            if incoming.rest.len() != len || len > TRANSFER_BYTES_MAX {
                return Err(libc::EINVAL);
            }
            let range = whole_sectors(write.offset, len as u64, size_bytes)?;
            Ok(Some(Operation::Write { start: range.start, len }))
        }
        _ => {
            let (range, unmap) = zero_request(incoming.front, size_bytes)?;
            if read_only {
                return Err(libc::EROFS);
            }
            Ok(Some(Operation::Zero { range, unmap }))
        }
    }
}

/// The sectors that cover what is to be read, and where in them it lies; `None` behind the end.
/// People may read the file in any piece; only the loop device does so in sectors.
fn read_request(body: &[u8], size_bytes: u64) -> Result<Option<(SectorRange, usize, usize)>, i32> {
    const SECTOR: u64 = SECTOR_BYTES as u64;
    let read: wire::ReadIn = wire::head(body).ok_or(libc::EINVAL)?;
    let wanted = u64::from(read.size).min(TRANSFER_BYTES_MAX as u64);
    let len = wanted.min(size_bytes.saturating_sub(read.offset));
    if len == 0 {
        return Ok(None);
    }
    let first = read.offset / SECTOR;
    let count = (read.offset + len).div_ceil(SECTOR) - first;
    let skip = (read.offset % SECTOR) as usize;
    Ok(Some((SectorRange::new(Lba(first), count), skip, len as usize)))
}

fn zero_request(body: &[u8], size_bytes: u64) -> Result<(SectorRange, bool), i32> {
    const PUNCH: u32 = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32;
    const ZERO: u32 = libc::FALLOC_FL_ZERO_RANGE as u32;
    const ZERO_KEEP: u32 = ZERO | libc::FALLOC_FL_KEEP_SIZE as u32;
    let request: wire::FallocateIn = wire::head(body).ok_or(libc::EINVAL)?;
    let unmap = match request.mode {
        PUNCH => true,
        ZERO | ZERO_KEEP => false,
        _ => return Err(libc::EOPNOTSUPP),
    };
    Ok((whole_sectors(request.offset, request.length, size_bytes)?, unmap))
}

fn whole_sectors(offset: u64, len: u64, size_bytes: u64) -> Result<SectorRange, i32> {
    let end = offset.checked_add(len).ok_or(libc::EINVAL)?;
    let start = Lba::from_byte_offset(offset).ok_or(libc::EINVAL)?;
    if !len.is_multiple_of(SECTOR_BYTES as u64) || len == 0 {
        return Err(libc::EINVAL);
    }
    if end > size_bytes {
        return Err(libc::ENOSPC);
    }
    Ok(SectorRange::new(start, len / SECTOR_BYTES as u64))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    fn read(offset: u64, size: u32) -> Vec<u8> {
        let read = wire::ReadIn {
            handle: 0,
            offset,
            size,
            read_flags: 0,
            lock_owner: 0,
            flags: 0,
            padding: 0,
        };
        read.as_bytes().to_vec()
    }

    #[test]
    fn reads_of_any_piece_become_whole_sectors_within_the_file() {
        let sectors = |start, count| SectorRange::new(Lba(start), count);
        assert_eq!(read_request(&read(0, 4096), 8192), Ok(Some((sectors(0, 8), 0, 4096))));
        assert_eq!(read_request(&read(513, 600), 8192), Ok(Some((sectors(1, 2), 1, 600))));
        assert_eq!(read_request(&read(8000, 600), 8192), Ok(Some((sectors(15, 1), 320, 192))));
        assert_eq!(read_request(&read(8192, 1), 8192), Ok(None));
        assert_eq!(read_request(&read(u64::MAX, u32::MAX), 8192), Ok(None));
        assert_eq!(read_request(&[0; 20], 8192), Err(libc::EINVAL));
    }

    #[test]
    fn writes_and_zeroing_are_whole_sectors_or_refused() {
        assert_eq!(whole_sectors(512, 1024, 4096), Ok(SectorRange::new(Lba(1), 2)));
        assert_eq!(whole_sectors(100, 512, 4096), Err(libc::EINVAL));
        assert_eq!(whole_sectors(0, 100, 4096), Err(libc::EINVAL));
        assert_eq!(whole_sectors(0, 0, 4096), Err(libc::EINVAL));
        assert_eq!(whole_sectors(4096, 512, 4096), Err(libc::ENOSPC));
        assert_eq!(whole_sectors(u64::MAX - 511, 512, 4096), Err(libc::EINVAL));
        let zero = |mode: u32| {
            let request = wire::FallocateIn { handle: 0, offset: 0, length: 512, mode, padding: 0 };
            zero_request(request.as_bytes(), 4096).map(|(_, unmap)| unmap)
        };
        assert_eq!(zero(3), Ok(true));
        assert_eq!(zero(0x10), Ok(false));
        assert_eq!(zero(0x11), Ok(false));
        assert_eq!(zero(0), Err(libc::EOPNOTSUPP));
        assert_eq!(zero(0x20), Err(libc::EOPNOTSUPP));
    }

    /// What a kernel that is out of its mind could send, by a ring too.
    #[test]
    fn malformed_requests_are_refused() {
        let meaning = |opcode: u32, node: u64, front: &[u8], rest: &[u8]| {
            let header = InHeader { opcode, node, ..InHeader::default() };
            meaning_of(&Incoming { header, front, rest }, 8192, false)
        };
        let refused = |errno| Meaning::Answer(Err(errno));
        let write = |size: u32| {
            let write = wire::WriteIn {
                handle: 0,
                offset: 512,
                size,
                write_flags: 0,
                lock_owner: 0,
                flags: 0,
                padding: 0,
            };
            write.as_bytes().to_vec()
        };
        let good = Operation::Write { start: Lba(1), len: 512 };
        assert_eq!(meaning(16, FILE_NODE, &write(512), &[1; 512]), Meaning::Perform(good));
        assert_eq!(meaning(16, FILE_NODE, &write(1024), &[1; 512]), refused(libc::EINVAL));
        assert_eq!(meaning(16, FILE_NODE, &write(512)[..39], &[1; 512]), refused(libc::EINVAL));
        assert_eq!(meaning(16, ROOT_NODE, &write(512), &[1; 512]), refused(libc::EISDIR));
        assert_eq!(meaning(15, FILE_NODE, &[], &[]), refused(libc::EINVAL));
        assert_eq!(meaning(43, FILE_NODE, &[0; 31], &[]), refused(libc::EINVAL));
        assert_eq!(meaning(28, ROOT_NODE, &[], &[]), refused(libc::EINVAL));
        assert_eq!(meaning(999, ROOT_NODE, &[], &[]), refused(libc::ENOSYS));
        // A name may come in one piece or in two.
        let Meaning::Answer(Ok(entry)) = meaning(1, ROOT_NODE, b"vol", b"ume\0") else { panic!() };
        assert_eq!(meaning(1, ROOT_NODE, &[], b"volume\0"), Meaning::Answer(Ok(entry)));
        assert_eq!(meaning(1, ROOT_NODE, &[], &[b'v'; 4096]), refused(libc::ENOENT));
    }
}
