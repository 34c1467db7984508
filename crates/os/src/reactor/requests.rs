//! The requests to the kernel that this crate makes. Each owns what it points to.
#![allow(unsafe_code)] // builds entries with raw pointers into buffers that the request owns

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use block::{Buffer, BufferMut};
use io_uring::{opcode, types};

use super::ReactorHandle;
use super::ops::Op;

type Fd = Rc<OwnedFd>;

fn raw(fd: &Fd) -> types::Fd {
    types::Fd(fd.as_raw_fd())
}

/// Which part of a buffer a request is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// First byte, in the buffer.
    pub(crate) start: usize,
    /// Where that byte lies on the file.
    pub(crate) offset_bytes: u64,
}

impl ReactorHandle {
    /// Polls once for `events`; taken back when dropped.
    pub(crate) fn poll(&self, fd: Fd, events: i16) -> Op<Fd> {
        let entry = opcode::PollAdd::new(raw(&fd), u32::from(events as u16)).build();
        // SAFETY: no memory; `fd` is kept open by the resources.
        unsafe { self.submit(entry, fd, true) }
    }

    /// Reads into `buffer` from `part.start` to its end.
    ///
    /// # Panics
    /// When `part.start` is beyond the buffer: the caller's arithmetic is wrong.
    pub(crate) fn read_at(&self, fd: Fd, mut buffer: BufferMut, part: Part) -> Op<(BufferMut, Fd)> {
        let target = &mut buffer[part.start..];
        let len = u32::try_from(target.len()).unwrap_or(u32::MAX);
        let entry =
            opcode::Read::new(raw(&fd), target.as_mut_ptr(), len).offset(part.offset_bytes).build();
        // SAFETY: the pointer is into the heap memory of `buffer`, which the resources own alone.
        unsafe { self.submit(entry, (buffer, fd), false) }
    }

    /// Writes `data` from `part.start` to its end, with `RWF_*` flags.
    ///
    /// # Panics
    /// When `part.start` is beyond the buffer: the caller's arithmetic is wrong.
    pub(crate) fn write_at(
        &self,
        fd: Fd,
        data: Buffer,
        part: Part,
        flags: i32,
    ) -> Op<(Buffer, Fd)> {
        let source = &data[part.start..];
        let len = u32::try_from(source.len()).unwrap_or(u32::MAX);
        let entry = opcode::Write::new(raw(&fd), source.as_ptr(), len)
            .offset(part.offset_bytes)
            .rw_flags(flags)
            .build();
        // SAFETY: the pointer is into the shared heap memory of `data`, of which the resources hold
        // a share; nobody may write to it meanwhile.
        unsafe { self.submit(entry, (data, fd), false) }
    }

    /// Reads into all of `buffer`, from `offset_bytes` on.
    pub(crate) fn read_call(
        &self,
        fd: Fd,
        mut buffer: BufferMut,
        offset_bytes: u64,
        done: impl FnOnce(io::Result<u32>, BufferMut) + 'static,
    ) {
        let len = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let entry =
            opcode::Read::new(raw(&fd), buffer.as_mut_ptr(), len).offset(offset_bytes).build();
        // SAFETY: the pointer is into the heap memory of `buffer`, which the resources own alone.
        unsafe {
            self.submit_call(entry, (buffer, fd), |result, (buffer, _)| done(result, buffer))
        };
    }

    /// Writes all of `data`, with `RWF_*` flags.
    pub(crate) fn write_call(
        &self,
        fd: Fd,
        data: Buffer,
        offset_bytes: u64,
        flags: i32,
        done: impl FnOnce(io::Result<u32>, Buffer) + 'static,
    ) {
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let entry = opcode::Write::new(raw(&fd), data.as_ptr(), len)
            .offset(offset_bytes)
            .rw_flags(flags)
            .build();
        // SAFETY: the pointer is into the shared heap memory of `data`, of which the resources hold
        // a share; nobody may write to it meanwhile.
        unsafe { self.submit_call(entry, (data, fd), |result, (data, _)| done(result, data)) };
    }

    /// Makes durable what was written.
    pub(crate) fn data_sync(&self, fd: Fd) -> Op<Fd> {
        let entry = opcode::Fsync::new(raw(&fd)).flags(types::FsyncFlags::DATASYNC).build();
        // SAFETY: no memory; `fd` is kept open by the resources.
        unsafe { self.submit(entry, fd, false) }
    }

    /// `fallocate(2)`.
    pub(crate) fn allocate(&self, fd: Fd, mode: i32, offset_bytes: u64, len_bytes: u64) -> Op<Fd> {
        let entry =
            opcode::Fallocate::new(raw(&fd), len_bytes).offset(offset_bytes).mode(mode).build();
        // SAFETY: no memory; `fd` is kept open by the resources.
        unsafe { self.submit(entry, fd, false) }
    }
}
