//! A file system that hands every operation on to a folder. What only looks is here; what changes something is
//! in `change`.
//!
//! Locks (POSIX, open-file-description, flock) are left to the kernel, which then keeps them for this mount alone:
//! everyone who shares a store must come through the same mount. Writes go through the page cache and arrive
//! at once; pages of a shared memory map arrive when they are flushed. Extended attributes, `O_TMPFILE` and
//! cloning of ranges answer "not supported"; copy_file_range becomes reads and writes. The kernel keeps syncfs(2)
//! to itself: it passes unseen and promises nothing here.

mod change;
mod handle;
mod node;

use std::{
    ffi::OsStr,
    os::{fd::OwnedFd, unix::fs::FileExt as _},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::{
    fs::{AtFlags, FallocateFlags, OFlags, RenameFlags, SeekFrom},
    io::Result,
};

use self::{
    change::{Birth, Wanted, errno_of},
    handle::Handles,
    node::Nodes,
};
use super::{
    image::PERMISSIONS,
    journal::Journal,
    op::{Made, Op},
};

/// How long the kernel may believe what it was told. Nobody else changes the backing folder.
const BELIEVE: Duration = Duration::from_secs(1);

/// The file system of one mount.
pub(super) struct Passthrough {
    nodes: Nodes,
    handles: Handles,
    journal: Arc<Journal>,
}

impl Passthrough {
    /// `root` is the backing folder, opened.
    pub(super) fn new(root: OwnedFd, journal: Arc<Journal>) -> Result<Passthrough> {
        Ok(Passthrough { nodes: Nodes::new(root)?, handles: Handles::default(), journal })
    }

    fn open_file(&self, node: INodeNo, flags: OpenFlags) -> Result<FileHandle> {
        self.journal.look()?;
        Ok(self.handles.add_file(self.nodes.open(node, backing_flags(flags.0))?))
    }

    fn open_folder(&self, node: INodeNo) -> Result<FileHandle> {
        self.journal.look()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Ok(self.handles.add_folder(self.nodes.open(node, flags)?))
    }

    fn read_at(&self, handle: FileHandle, offset: u64, size: u32) -> Result<Vec<u8>> {
        self.journal.look()?;
        let file = self.handles.file(handle)?;
        let mut bytes = vec![0; size as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(errno_of(&error)),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    fn list(&self, handle: FileHandle, offset: u64, reply: &mut ReplyDirectory) -> Result<()> {
        self.journal.look()?;
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let listing = self.handles.folder(handle)?.list(&self.nodes, skip)?;
        for (line, listed) in listing.iter().enumerate().skip(skip) {
            if reply.add(listed.node, line as u64 + 1, listed.kind, &listed.name) {
                break;
            }
        }
        Ok(())
    }

    fn read_link(&self, node: INodeNo) -> Result<Vec<u8>> {
        self.journal.look()?;
        Ok(rustix::fs::readlinkat(&*self.nodes.fd(node)?, "", Vec::new())?.into_bytes())
    }

    fn seek(&self, handle: FileHandle, offset: i64, whence: i32) -> Result<u64> {
        self.journal.look()?;
        let at = u64::try_from(offset).map_err(|_| rustix::io::Errno::NXIO)?;
        let to = match whence {
            SEEK_DATA => SeekFrom::Data(at),
            SEEK_HOLE => SeekFrom::Hole(at),
            _ => return Err(rustix::io::Errno::INVAL),
        };
        rustix::fs::seek(&*self.handles.file(handle)?, to)
    }

    fn answer_statfs(&self, reply: ReplyStatfs) -> Result<()> {
        self.journal.look()?;
        let stat = rustix::fs::fstatvfs(&*self.nodes.fd(INodeNo::ROOT)?)?;
        let size = stat.f_frsize.max(1);
        let room = self.journal.lock().gate.room().map(|room| room / size);
        let free = |blocks: u64| room.map_or(blocks, |room| room.min(blocks));
        let (free_all, free_user) = (free(stat.f_bfree), free(stat.f_bavail));
        let small = |size: u64| u32::try_from(size).unwrap_or(4096);
        let name = small(stat.f_namemax);
        let (files, free_files) = (stat.f_files, stat.f_ffree);
        let block = small(stat.f_bsize);
        reply.statfs(
            stat.f_blocks,
            free_all,
            free_user,
            files,
            free_files,
            block,
            name,
            small(size),
        );
        Ok(())
    }
}

/// Of lseek(2); the protocol carries only these two.
const SEEK_DATA: i32 = 3;
/// Of lseek(2).
const SEEK_HOLE: i32 = 4;

/// The flags with which the backing file is opened: offsets, truncation and syncs are the kernel's affair, and the
/// buffers here are not aligned for direct I/O.
fn backing_flags(flags: i32) -> OFlags {
    let taken = OFlags::RDONLY | OFlags::WRONLY | OFlags::RDWR | OFlags::EXCL;
    OFlags::from_bits_truncate(flags.cast_unsigned()) & taken
}

/// The number the protocol wants.
fn code(errno: rustix::io::Errno) -> Errno {
    Errno::from_i32(errno.raw_os_error())
}

/// Answers with nothing but success, or the error.
fn done(answer: Result<()>, reply: ReplyEmpty) {
    match answer {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(code(errno)),
    }
}

/// Answers with a node, or the error.
fn entry(answer: Result<fuser::FileAttr>, reply: ReplyEntry) {
    match answer {
        Ok(attr) => reply.entry(&BELIEVE, &attr, Generation(0)),
        Err(errno) => reply.error(code(errno)),
    }
}

/// Answers with a handle, or the error.
fn opened(answer: Result<FileHandle>, reply: ReplyOpen) {
    match answer {
        Ok(handle) => reply.opened(handle, FopenFlags::empty()),
        Err(errno) => reply.error(code(errno)),
    }
}

impl Filesystem for Passthrough {
    fn lookup(&self, _: &Request, dir: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(self.journal.look().and_then(|()| self.nodes.look_up(dir, name)), reply);
    }

    fn forget(&self, _: &Request, node: INodeNo, lookups: u64) {
        self.nodes.forget(node, lookups);
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.journal.look().and_then(|()| self.nodes.attr(node)) {
            Ok(attr) => reply.attr(&BELIEVE, &attr),
            Err(errno) => reply.error(code(errno)),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let wanted = Wanted { mode, owner: (uid, gid), size, atime, mtime, handle };
        match self.set_attr(node, &wanted) {
            Ok(attr) => reply.attr(&BELIEVE, &attr),
            Err(errno) => reply.error(code(errno)),
        }
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        match self.read_link(node) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(code(errno)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        dir: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let regular = rustix::fs::FileType::RegularFile.as_raw_mode();
        let made = match mode & !PERMISSIONS {
            kind if kind == regular => Made::File,
            kind => Made::Special(kind),
        };
        entry(self.make(dir, name, made, &Birth::new(mode, request), device), reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        dir: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        entry(self.make(dir, name, Made::Dir, &Birth::new(mode, request), 0), reply);
    }

    fn unlink(&self, _: &Request, dir: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(Passthrough::unlink(self, dir, name, AtFlags::empty()), reply);
    }

    fn rmdir(&self, _: &Request, dir: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(Passthrough::unlink(self, dir, name, AtFlags::REMOVEDIR), reply);
    }

    fn symlink(
        &self,
        request: &Request,
        dir: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let made = Made::Symlink(target.as_os_str().to_owned());
        entry(self.make(dir, name, made, &Birth::new(0o777, request), 0), reply);
    }

    fn rename(
        &self,
        _: &Request,
        dir: INodeNo,
        name: &OsStr,
        to_dir: INodeNo,
        to_name: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let flags = RenameFlags::from_bits_retain(flags.bits());
        done(Passthrough::rename(self, (dir, name), (to_dir, to_name), flags), reply);
    }

    fn link(&self, _: &Request, node: INodeNo, dir: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(Passthrough::link(self, node, dir, name), reply);
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        opened(self.open_file(node, flags), reply);
    }

    fn create(
        &self,
        request: &Request,
        dir: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let birth = Birth::new(mode, request);
        match Passthrough::create(self, dir, name, &birth, backing_flags(flags)) {
            Ok((attr, fd)) => {
                let handle = self.handles.add_file(fd);
                reply.created(&BELIEVE, &attr, Generation(0), handle, FopenFlags::empty());
            }
            Err(errno) => reply.error(code(errno)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read_at(handle, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(code(errno)),
        }
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        write_flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mapped = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let file = self.handles.file(handle);
        match file.and_then(|file| Passthrough::write(self, node, &file, offset, bytes, mapped)) {
            Ok(()) => reply.written(bytes.len() as u32),
            Err(errno) => reply.error(code(errno)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        done(self.journal.look(), reply);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.handles.close(handle);
        reply.ok();
    }

    fn fsync(&self, _: &Request, node: INodeNo, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        done(Passthrough::fsync(self, node, |file| Op::Fsync { file, data_only }), reply);
    }

    fn opendir(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        opened(self.open_folder(node), reply);
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.list(handle, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(code(errno)),
        }
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.handles.close(handle);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        done(Passthrough::fsync(self, node, |dir| Op::FsyncDir { dir }), reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // A failed answer drops the reply, which then says EIO.
        let _ = self.answer_statfs(reply);
    }

    fn fallocate(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let flags = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        let range = offset..offset.saturating_add(length);
        let file = self.handles.file(handle);
        let answer = file.and_then(|file| Passthrough::fallocate(self, node, &file, range, flags));
        done(answer, reply);
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.seek(handle, offset, whence) {
            Ok(offset) => reply.offset(offset.cast_signed()),
            Err(errno) => reply.error(code(errno)),
        }
    }
}
