//! The operations that change something. Each passes the gate, happens, and is written down, under one lock.

use std::{
    ffi::OsStr,
    fs::File,
    os::{fd::OwnedFd, unix::fs::FileExt as _},
    sync::MutexGuard,
    time::{SystemTime, UNIX_EPOCH},
};

use fuser::{FileAttr, FileHandle, INodeNo, Request, TimeOrNow};
use rustix::{
    fs::{
        AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, SeekFrom, Stat,
        Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
    },
    io::{Errno, Result},
};

use super::{Passthrough, node::self_path};
use crate::fault::{
    journal::State,
    op::{Allocation, FileId, Made, Op, RenameKind, Slot},
    plan::OpClass,
};

/// What space is counted in, in bytes.
const PAGE: u64 = 4096;

/// Who asks for a new file, and with which permission bits.
pub(super) struct Birth {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Birth {
    pub(super) fn new(mode: u32, request: &Request) -> Birth {
        Birth { mode: mode & 0o7777, uid: request.uid(), gid: request.gid() }
    }
}

/// What setattr shall set.
pub(super) struct Wanted {
    pub(super) mode: Option<u32>,
    pub(super) owner: (Option<u32>, Option<u32>),
    pub(super) size: Option<u64>,
    pub(super) atime: Option<TimeOrNow>,
    pub(super) mtime: Option<TimeOrNow>,
    pub(super) handle: Option<FileHandle>,
}

impl Passthrough {
    fn enter(&self, class: OpClass) -> Result<MutexGuard<'_, State>> {
        let mut state = self.journal.lock();
        state.gate.admit(class)?;
        Ok(state)
    }

    /// Makes a file and opens it with `flags`; an existing one is opened unless `flags` forbid that.
    pub(super) fn create(
        &self,
        dir: INodeNo,
        name: &OsStr,
        birth: &Birth,
        flags: OFlags,
    ) -> Result<(FileAttr, OwnedFd)> {
        let mut state = self.enter(OpClass::Name)?;
        needs_a_page(&mut state)?;
        let folder = self.nodes.fd(dir)?;
        let new = flags | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = match rustix::fs::openat(&*folder, name, new, Mode::from_raw_mode(birth.mode)) {
            Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => {
                drop(state);
                let attr = self.nodes.look_up(dir, name)?;
                return Ok((attr, self.nodes.open(attr.ino, flags)?));
            }
            fd => fd?,
        };
        let attr = self.finish_birth(&mut state, dir, name, Made::File, birth)?;
        Ok((attr, fd))
    }

    /// Makes anything but an opened file. `device` matters for device nodes.
    pub(super) fn make(
        &self,
        dir: INodeNo,
        name: &OsStr,
        made: Made,
        birth: &Birth,
        device: u32,
    ) -> Result<FileAttr> {
        let mut state = self.enter(OpClass::Name)?;
        needs_a_page(&mut state)?;
        let folder = &*self.nodes.fd(dir)?;
        let mode = Mode::from_raw_mode(birth.mode);
        match &made {
            Made::File => {
                rustix::fs::mknodat(folder, name, FileType::RegularFile, mode, 0)?;
            }
            Made::Dir => rustix::fs::mkdirat(folder, name, mode)?,
            Made::Symlink(target) => rustix::fs::symlinkat(target, folder, name)?,
            Made::Special(kind) => {
                let kind = FileType::from_raw_mode(*kind);
                rustix::fs::mknodat(folder, name, kind, mode, u64::from(device))?;
            }
        }
        self.finish_birth(&mut state, dir, name, made, birth)
    }

    /// Gives a new file the owner and the bits that were asked for: this process has an owner and a umask of
    /// its own. The group comes from a folder that passes its group on.
    fn finish_birth(
        &self,
        state: &mut State,
        dir: INodeNo,
        name: &OsStr,
        made: Made,
        birth: &Birth,
    ) -> Result<FileAttr> {
        let folder = self.nodes.fd(dir)?;
        let born = self.nodes.look_up(dir, name)?;
        let fd = self.nodes.fd(born.ino)?;
        let inherits = self.nodes.attr(dir)?.perm & 0o2000 != 0;
        let gid = if inherits { born.gid } else { birth.gid };
        if rustix::process::geteuid().is_root() && (born.uid, born.gid) != (birth.uid, gid) {
            let (uid, gid) = (Uid::from_raw(birth.uid), Gid::from_raw(gid));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&*folder, name, Some(uid), Some(gid), flags)?;
        }
        if !matches!(made, Made::Symlink(_)) {
            let kept = u32::from(born.perm) & if inherits { 0o2000 } else { 0 };
            rustix::fs::chmod(self_path(&fd), Mode::from_raw_mode(birth.mode | kept))?;
        }
        let attr = self.nodes.attr(born.ino)?;
        state.record(|ids| Op::Create {
            at: Slot { dir: ids.of(dir.0), name: name.to_owned() },
            file: ids.fresh(attr.ino.0),
            made,
            mode: u32::from(attr.perm),
            owner: (attr.uid, attr.gid),
        });
        Ok(attr)
    }

    pub(super) fn unlink(&self, dir: INodeNo, name: &OsStr, flags: AtFlags) -> Result<()> {
        let mut state = self.enter(OpClass::Name)?;
        let folder = self.nodes.fd(dir)?;
        let freed = bytes_of_last_name(&state, &folder, name);
        rustix::fs::unlinkat(&*folder, name, flags)?;
        state.gate.settle(freed, 0);
        state.record(|ids| {
            let at = Slot { dir: ids.of(dir.0), name: name.to_owned() };
            if flags.contains(AtFlags::REMOVEDIR) { Op::Rmdir { at } } else { Op::Unlink { at } }
        });
        Ok(())
    }

    pub(super) fn rename(
        &self,
        from: (INodeNo, &OsStr),
        to: (INodeNo, &OsStr),
        flags: RenameFlags,
    ) -> Result<()> {
        let mut state = self.enter(OpClass::Name)?;
        let (from_dir, to_dir) = (self.nodes.fd(from.0)?, self.nodes.fd(to.0)?);
        let kind = match flags {
            RenameFlags::EXCHANGE => RenameKind::Exchange,
            RenameFlags::NOREPLACE => RenameKind::NoReplace,
            _ if flags.is_empty() => RenameKind::Replace,
            _ => return Err(Errno::INVAL),
        };
        let freed = match kind {
            RenameKind::Replace => bytes_of_last_name(&state, &to_dir, to.1),
            _ => 0,
        };
        rustix::fs::renameat_with(&*from_dir, from.1, &*to_dir, to.1, flags)?;
        state.gate.settle(freed, 0);
        state.record(|ids| Op::Rename {
            from: Slot { dir: ids.of(from.0.0), name: from.1.to_owned() },
            to: Slot { dir: ids.of(to.0.0), name: to.1.to_owned() },
            kind,
        });
        Ok(())
    }

    pub(super) fn link(&self, file: INodeNo, dir: INodeNo, name: &OsStr) -> Result<FileAttr> {
        let mut state = self.enter(OpClass::Name)?;
        needs_a_page(&mut state)?;
        let (fd, folder) = (self.nodes.fd(file)?, self.nodes.fd(dir)?);
        rustix::fs::linkat(CWD, self_path(&fd), &*folder, name, AtFlags::SYMLINK_FOLLOW)?;
        state.record(|ids| Op::Link {
            file: ids.of(file.0),
            at: Slot { dir: ids.of(dir.0), name: name.to_owned() },
        });
        self.nodes.look_up(dir, name)
    }

    /// Writes all of `bytes`. A write from a memory map has no number, see `Plan`.
    pub(super) fn write(
        &self,
        node: INodeNo,
        file: &File,
        offset: u64,
        bytes: &[u8],
        mapped: bool,
    ) -> Result<()> {
        let mut state = self.journal.lock();
        match mapped {
            true => state.gate.admit_unnumbered()?,
            false => state.gate.admit(OpClass::Write)?,
        }
        let end = offset.checked_add(bytes.len() as u64).ok_or(Errno::FBIG)?;
        spending(&mut state, file, offset..end, || {
            file.write_all_at(bytes, offset).map_err(|error| errno_of(&error))
        })?;
        state.record(|ids| Op::Write { file: ids.of(node.0), offset, bytes: bytes.into() });
        Ok(())
    }

    pub(super) fn fallocate(
        &self,
        node: INodeNo,
        file: &File,
        range: std::ops::Range<u64>,
        flags: FallocateFlags,
    ) -> Result<()> {
        let mut state = self.enter(OpClass::Size)?;
        let allocation = if flags.contains(FallocateFlags::PUNCH_HOLE) {
            Allocation::Punch
        } else if flags.contains(FallocateFlags::ZERO_RANGE) {
            Allocation::Zero
        } else {
            Allocation::Reserve
        };
        let taken = if allocation == Allocation::Punch { 0..0 } else { range.clone() };
        let length = range.end - range.start;
        spending(&mut state, file, taken, || {
            rustix::fs::fallocate(file, flags, range.start, length)
        })?;
        let size = rustix::fs::fstat(file)?.st_size.cast_unsigned();
        state.record(|ids| Op::Fallocate { file: ids.of(node.0), range, allocation, size });
        Ok(())
    }

    /// Takes note of an fsync; nothing is synced, for what survives is worked out from the recording.
    pub(super) fn fsync(&self, node: INodeNo, op: impl FnOnce(FileId) -> Op) -> Result<()> {
        let mut state = self.journal.lock();
        let answer = state.gate.admit(OpClass::Sync);
        match answer {
            Ok(()) => state.record(|ids| op(ids.of(node.0))),
            Err(_) if state.gate.crashed() => {}
            Err(_) => state.record(|ids| Op::FsyncFailed { file: ids.of(node.0) }),
        }
        answer
    }

    pub(super) fn set_attr(&self, node: INodeNo, wanted: &Wanted) -> Result<FileAttr> {
        let class = if wanted.size.is_some() { OpClass::Size } else { OpClass::Attr };
        let mut state = self.enter(class)?;
        let fd = self.nodes.fd(node)?;
        let (uid, gid) = wanted.owner;
        if uid.is_some() || gid.is_some() {
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            rustix::fs::chownat(&*fd, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = wanted.mode {
            rustix::fs::chmod(self_path(&fd), Mode::from_raw_mode(mode & 0o7777))?;
        }
        if let Some(size) = wanted.size {
            self.truncate(&mut state, node, size, wanted.handle)?;
        }
        if wanted.atime.is_some() || wanted.mtime.is_some() {
            let last_access = timespec(wanted.atime);
            let times = Timestamps { last_access, last_modification: timespec(wanted.mtime) };
            rustix::fs::utimensat(&*fd, "", &times, AtFlags::EMPTY_PATH)?;
        }
        let attr = self.nodes.attr(node)?;
        if uid.is_some() || gid.is_some() || wanted.mode.is_some() {
            state.record(|ids| Op::SetAttr {
                file: ids.of(node.0),
                mode: u32::from(attr.perm),
                owner: (attr.uid, attr.gid),
            });
        }
        Ok(attr)
    }

    fn truncate(
        &self,
        state: &mut State,
        node: INodeNo,
        size: u64,
        handle: Option<FileHandle>,
    ) -> Result<()> {
        let open = handle.and_then(|handle| self.handles.file(handle).ok());
        let opened = match &open {
            Some(_) => None,
            None => Some(File::from(self.nodes.open(node, OFlags::WRONLY)?)),
        };
        // One of the two is there: the second is opened where the first is missing.
        let Some(file) = open.as_deref().or(opened.as_ref()) else { return Err(Errno::BADF) };
        spending(state, file, 0..0, || rustix::fs::ftruncate(file, size))?;
        state.record(|ids| Op::Truncate { file: ids.of(node.0), size });
        Ok(())
    }
}

/// Does something that fills the holes of `range`, where there is room for that, and settles what it took.
fn spending(
    state: &mut State,
    file: &File,
    range: std::ops::Range<u64>,
    act: impl FnOnce() -> Result<()>,
) -> Result<()> {
    if state.gate.room().is_none() {
        return act();
    }
    let before = rustix::fs::fstat(file)?;
    state.gate.require(bytes_missing(file, &before, range)?)?;
    act()?;
    state.gate.settle(allocated(&before), allocated(&rustix::fs::fstat(file)?));
    Ok(())
}

/// The bytes of the pages of `range` that are holes. A file allocated in full has none, written or not.
fn bytes_missing(file: &File, stat: &Stat, range: std::ops::Range<u64>) -> Result<u64> {
    let size = stat.st_size.cast_unsigned();
    let reserved = if allocated(stat) >= size { size } else { 0 };
    let (mut at, end) = (range.start.max(reserved) / PAGE * PAGE, range.end.next_multiple_of(PAGE));
    let mut missing = 0;
    while at < end {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(end),
            Err(Errno::NXIO) => end,
            Err(errno) => return Err(errno),
        };
        missing += data.saturating_sub(at);
        if data == end {
            break;
        }
        at = rustix::fs::seek(file, SeekFrom::Hole(data))?.next_multiple_of(PAGE);
    }
    Ok(missing)
}

fn allocated(stat: &Stat) -> u64 {
    stat.st_blocks.cast_unsigned().saturating_mul(512)
}

fn needs_a_page(state: &mut State) -> Result<()> {
    match state.gate.room() {
        Some(_) => state.gate.require(PAGE),
        None => Ok(()),
    }
}

/// What removing a name would give back, where space is counted at all.
fn bytes_of_last_name(state: &State, folder: &OwnedFd, name: &OsStr) -> u64 {
    let stat = || rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok();
    let stat = state.gate.room().and_then(|_| stat());
    stat.filter(|stat| stat.st_nlink == 1).map_or(0, |stat| allocated(&stat))
}

fn timespec(time: Option<TimeOrNow>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(TimeOrNow::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(TimeOrNow::SpecificTime(time)) => since_1970(time),
    }
}

/// fuser hands times before 1970 over as the seconds and the nanoseconds both subtracted, though the kernel's
/// nanoseconds count forwards; this undoes it.
fn since_1970(time: SystemTime) -> Timespec {
    let (sign, distance) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (1, after),
        Err(before) => (-1, before.duration()),
    };
    let seconds = i64::try_from(distance.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec: sign * seconds, tv_nsec: distance.subsec_nanos().into() }
}

/// The number behind an I/O error; EIO where there is none.
pub(super) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
