//! The messages of the kernel's FUSE protocol that a single file needs, in the machine's byte
//! order. Layouts are those of linux/fuse.h, protocol 7.31 (kernel 5.4) and later.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Largest read or write of one request: 256 pages, what kernels since 4.20 allow.
pub const TRANSFER_BYTES_MAX: usize = 1 << 20;
/// Bytes in front of a write's data: both of its headers.
pub(super) const WRITE_HEADER_BYTES: usize = size_of::<InHeader>() + size_of::<WriteIn>();
/// Longest request body that is looked at, data of writes apart: a name of a file.
pub(super) const BODY_BYTES_MAX: usize = 512;

pub(super) const PROTOCOL_MAJOR: u32 = 7;
/// The minor version whose layouts this file has.
pub(super) const PROTOCOL_MINOR: u32 = 31;
/// Protocol of kernel 5.10's predecessors is refused rather than half understood.
pub(super) const PROTOCOL_MINOR_MIN: u32 = 31;

pub(super) mod init_flag {
    pub const ASYNC_READ: u32 = 1 << 0;
    pub const BIG_WRITES: u32 = 1 << 5;
    pub const ASYNC_DIO: u32 = 1 << 15;
    pub const PARALLEL_DIROPS: u32 = 1 << 18;
    pub const MAX_PAGES: u32 = 1 << 22;
    /// There are more of them, in the next word of both messages.
    pub const EXTENDED: u32 = 1 << 30;
    /// Of those: requests by io_uring.
    pub const OVER_IO_URING: u32 = 1 << (41 - 32);
}

pub(super) mod open_flag {
    pub const DIRECT_IO: u32 = 1 << 0;
    /// Ignored by kernels before 6.2, which serialise writes to a file.
    pub const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
}

/// What the kernel asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Lookup,
    Forget,
    GetAttr,
    SetAttr,
    Open,
    Read,
    Write,
    StatFs,
    Release,
    Fsync,
    Flush,
    Init,
    OpenDir,
    ReadDir,
    ReleaseDir,
    FsyncDir,
    Access,
    Interrupt,
    Destroy,
    BatchForget,
    Fallocate,
    Unknown,
}

impl Opcode {
    pub(super) fn from_raw(raw: u32) -> Opcode {
        match raw {
            1 => Opcode::Lookup,
            2 => Opcode::Forget,
            3 => Opcode::GetAttr,
            4 => Opcode::SetAttr,
            14 => Opcode::Open,
            15 => Opcode::Read,
            16 => Opcode::Write,
            17 => Opcode::StatFs,
            18 => Opcode::Release,
            20 => Opcode::Fsync,
            25 => Opcode::Flush,
            26 => Opcode::Init,
            27 => Opcode::OpenDir,
            28 => Opcode::ReadDir,
            29 => Opcode::ReleaseDir,
            30 => Opcode::FsyncDir,
            34 => Opcode::Access,
            36 => Opcode::Interrupt,
            38 => Opcode::Destroy,
            42 => Opcode::BatchForget,
            43 => Opcode::Fallocate,
            _ => Opcode::Unknown,
        }
    }
}

/// Head of each request.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct InHeader {
    pub len: u32,
    pub opcode: u32,
    pub unique: u64,
    pub node: u64,
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    pub extension_len: u16,
    pub padding: u16,
}

/// Head of each answer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct OutHeader {
    pub len: u32,
    /// Zero or a negative error number.
    pub error: i32,
    pub unique: u64,
}

/// The part of INIT that all versions have; [`init_flag::EXTENDED`] has more flags behind it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct InitIn {
    pub major: u32,
    pub minor: u32,
    pub max_readahead: u32,
    pub flags: u32,
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct InitOut {
    pub major: u32,
    pub minor: u32,
    pub max_readahead: u32,
    pub flags: u32,
    pub max_background: u16,
    pub congestion_threshold: u16,
    pub max_write: u32,
    pub time_granularity: u32,
    pub max_pages: u16,
    pub map_alignment: u16,
    pub flags2: u32,
    pub unused: [u32; 7],
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Attr {
    pub ino: u64,
    pub size: u64,
    pub blocks: u64,
    pub times: [u64; 3],
    pub times_nanos: [u32; 3],
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub block_bytes: u32,
    pub flags: u32,
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct EntryOut {
    pub node: u64,
    pub generation: u64,
    pub entry_valid_secs: u64,
    pub attr_valid_secs: u64,
    pub entry_valid_nanos: u32,
    pub attr_valid_nanos: u32,
    pub attr: Attr,
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct AttrOut {
    pub valid_secs: u64,
    pub valid_nanos: u32,
    pub padding: u32,
    pub attr: Attr,
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct OpenOut {
    pub handle: u64,
    pub flags: u32,
    pub padding: u32,
}

/// READ and READDIR.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct ReadIn {
    pub handle: u64,
    pub offset: u64,
    pub size: u32,
    pub read_flags: u32,
    pub lock_owner: u64,
    pub flags: u32,
    pub padding: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct WriteIn {
    pub handle: u64,
    pub offset: u64,
    pub size: u32,
    pub write_flags: u32,
    pub lock_owner: u64,
    pub flags: u32,
    pub padding: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct WriteOut {
    pub size: u32,
    pub padding: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct FallocateIn {
    pub handle: u64,
    pub offset: u64,
    pub length: u64,
    pub mode: u32,
    pub padding: u32,
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct StatFsOut {
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub block_bytes: u32,
    pub name_bytes_max: u32,
    pub fragment_bytes: u32,
    pub padding: u32,
    pub spare: [u32; 6],
}

/// Head of an entry in READDIR's answer; the name follows, padded to eight bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct DirEntry {
    pub ino: u64,
    pub next_offset: u64,
    pub name_len: u32,
    pub kind: u32,
}

const _: () = {
    assert!(size_of::<InHeader>() == 40);
    assert!(size_of::<OutHeader>() == 16);
    assert!(size_of::<InitOut>() == 64);
    assert!(size_of::<Attr>() == 88);
    assert!(size_of::<EntryOut>() == 128);
    assert!(size_of::<AttrOut>() == 104);
    assert!(size_of::<OpenOut>() == 16);
    assert!(size_of::<ReadIn>() == 40);
    assert!(size_of::<WriteIn>() == 40);
    assert!(size_of::<FallocateIn>() == 32);
    assert!(size_of::<StatFsOut>() == 80);
    assert!(size_of::<DirEntry>() == 24);
};

/// The head of `bytes` as a `T`; `None` when they are too few.
pub(super) fn head<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_prefix(bytes).ok().map(|(value, _)| value)
}
