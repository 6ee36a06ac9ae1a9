//! The kernel's requests for the one file of a disk, each handed to what answers it.

use super::{
    attributes::{Attributes, PERMISSIONS},
    disk::Disk,
    kernel::Introduction,
    mount::Access,
    request::check_resize,
    session::{self, negotiate},
    workers::Workers,
};
use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, KernelConfig, LockOwner,
    OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use silt_types::Result;
use silt_volume::BlockDevice;
use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

/// Attributes are asked for each time: the length may change by a resize, and nothing on the path of data asks for them.
const BELIEVE: Duration = Duration::ZERO;

/// One disk, mounted as one file.
pub(super) struct DiskFile {
    pub(super) disk: Disk,
    pub(super) attributes: Arc<Mutex<Attributes>>,
    /// Opens that were not closed yet.
    pub(super) opens: Arc<AtomicUsize>,
    /// What the kernel said first, once it did.
    pub(super) kernel: Arc<OnceLock<Introduction>>,
}

/// Answers on a connection to the kernel that somebody else has mounted, until it is unmounted. The device is flushed when
/// that is asked for, and not at the end.
pub fn answer(device: Arc<dyn BlockDevice>, connection: OwnedFd) -> Result<()> {
    let workers = Workers::default();
    let disk = Disk::new(device, workers.clone());
    let attributes = Arc::new(Mutex::new(Attributes::of_own(Access::Owner)));
    let (opens, kernel) = (Arc::default(), Arc::default());
    let file = DiskFile { disk, attributes, opens, kernel };
    let answered = session::answer(file, connection);
    workers.close();
    answered
}

impl DiskFile {
    fn attributes(&self) -> Attributes {
        *self.attributes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer_attributes(&self, node: INodeNo, reply: ReplyAttr) {
        match self.disk.geometry() {
            Ok(geometry) => reply.attr(&BELIEVE, &self.attributes().disk(node, geometry)),
            Err(errno) => reply.error(errno),
        }
    }
}

impl Filesystem for DiskFile {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config);
        let _ = self.kernel.set(Introduction::of(config));
        Ok(())
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.answer_attributes(node, reply);
    }

    /// Mode and owner are kept for the life of the mount, so that a file for all can be narrowed to some; the kernel checks
    /// who may. Times are taken and forgotten. The length stays.
    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let checked = self.disk.geometry().and_then(|geometry| check_resize(size, geometry));
        if let Err(errno) = checked {
            return reply.error(errno);
        }
        let mut kept = self.attributes.lock().unwrap_or_else(PoisonError::into_inner);
        kept.mode = mode.map_or(kept.mode, |mode| (mode & PERMISSIONS) as u16);
        (kept.uid, kept.gid) = (uid.unwrap_or(kept.uid), gid.unwrap_or(kept.gid));
        drop(kept);
        self.answer_attributes(node, reply);
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let held = match self.disk.hold() {
            Ok(held) => held,
            Err(errno) => return reply.error(errno),
        };
        if held.get().geometry().read_only && flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        self.opens.fetch_add(1, Ordering::Relaxed);
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        drop(held);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.disk.read(offset, len, reply);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.disk.write(offset, data, flags, reply);
    }

    /// Of close(2), which promises nothing.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        // Counted where it is answered, once.
        let _held = match self.disk.hold() {
            Ok(held) => held,
            Err(errno) => return reply.error(errno),
        };
        // A kernel that closes more than it opened is none.
        let _ = self.opens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.disk.flush(reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let block = silt_types::BLOCK_SIZE_BYTES;
        match self.disk.geometry() {
            Ok(disk) => {
                let blocks = disk.size_bytes.div_ceil(block);
                reply.statfs(blocks, 0, 0, 1, 0, block as u32, 255, block as u32);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.disk.allocate(mode, offset, len, reply);
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.disk.seek(offset, whence, reply);
    }
}
