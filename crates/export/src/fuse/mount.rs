//! Mounting and unmounting: the one room where that is done, so that another process than the server can do it.
//!
//! Root mounts by itself; everybody else through `fusermount3`, which has the right. Taking a mount off is lazy: its name
//! is gone at once, programs that have files open keep them until their server ends.
//!
//! A mount is known by its source, a name that no other mount ever has and that says whether the place was made for it.
//! So whatever cleans up, and whenever, it never takes off what somebody else has mounted there since.

use super::{
    mount_point::{MountPoint, PointKind, remove, remove_unless_taken},
    mount_table::mounted_at,
};
use rustix::{
    fs::{Mode, OFlags},
    io::{Errno, retry_on_intr},
    mount::{MountFlags, UnmountFlags},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    process::{getgid, getuid},
};
use silt_sys::durability::random_bytes;
use silt_types::{Context as _, Error, ErrorKind, Result};
use std::{
    ffi::CString,
    fmt,
    io::{self, IoSliceMut, Read as _},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

/// The type that our mounts have.
const SUBTYPE: &str = "silt";
/// How the source of a mount begins whose place was there before.
const FOUND: &str = "silt-";
/// How the source of a mount begins whose place was made for it.
const MADE: &str = "silt-made-";

/// Whom the kernel lets in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// The user who mounts, and nobody else, not even root.
    #[default]
    Owner,
    /// Every user, as far as the file's mode goes. Others than root need `user_allow_other` in /etc/fuse.conf.
    AllowOther,
}

/// What is to be undone at the end: plain words, good for any process that has the right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Where; absolute, without links.
    pub path: PathBuf,
    /// What the mount is called in the mount table.
    pub source: String,
}

impl Mounted {
    pub(super) fn is_ours(&self) -> bool {
        self.source.starts_with(FOUND)
    }

    pub(super) fn is_made(&self) -> bool {
        self.source.starts_with(MADE)
    }

    /// Takes the mount off if it is still there, and removes the place if it was made for it and nobody else has taken it
    /// since: the process that mounted there has it until it ends. Doing so again does nothing. `Io` if it cannot be taken off.
    pub fn undo(&self) -> Result<()> {
        self.detach()?;
        if self.is_made() { remove_unless_taken(&self.path) } else { Ok(()) }
    }

    /// The same for the process that mounted it.
    fn undo_own(&self) -> Result<()> {
        self.detach()?;
        if self.is_made() { remove(&self.path) } else { Ok(()) }
    }

    pub(super) fn detach(&self) -> Result<()> {
        match mounted_at(&self.path)? {
            Some(found) if found.source == self.source => unmount(&self.path),
            _ => Ok(()),
        }
    }
}

/// A mount that is taken off with this value, by this process or by whoever it is left to.
pub struct Mount {
    mounted: Mounted,
    undo: Mutex<Undo>,
    /// Of the place: nobody else mounts there while it is held.
    lock: OwnedFd,
}

/// Who takes a mount off.
enum Undo {
    Here,
    Elsewhere(Box<dyn Fn() -> Result<()> + Send + Sync>),
    /// Nobody here: it is off, or somebody else's.
    Done,
}

impl Mount {
    /// Goes on with what another process mounted, and has left with the lock of its place. `Invalid` if it is not there.
    pub(super) fn adopt(mounted: Mounted, lock: OwnedFd) -> Result<Mount> {
        let found = mounted_at(&mounted.path)?;
        if !mounted.is_ours() || found.is_none_or(|found| found.source != mounted.source) {
            let path = mounted.path.display();
            return Err(Error::invalid(format!("{} is not mounted at {path}", mounted.source)));
        }
        Ok(Mount { mounted, undo: Mutex::new(Undo::Here), lock })
    }

    /// Leaves it to another process, which takes it off in time. Answers the lock of its place.
    pub(super) fn leave(&self) -> io::Result<OwnedFd> {
        let lock = self.lock.try_clone()?;
        *self.undo.lock().unwrap_or_else(PoisonError::into_inner) = Undo::Done;
        Ok(lock)
    }

    /// What another process needs to know to take it off.
    pub fn mounted(&self) -> &Mounted {
        &self.mounted
    }

    /// From now on `undo` takes it off: for a process that will not have the right any more.
    pub fn leave_to(&self, undo: impl Fn() -> Result<()> + Send + Sync + 'static) {
        *self.undo.lock().unwrap_or_else(PoisonError::into_inner) = Undo::Elsewhere(Box::new(undo));
    }

    /// Takes it off: nobody finds it any more. Who has files open keeps them. Doing so again does nothing.
    pub fn undo(&self) -> Result<()> {
        let mut undo = self.undo.lock().unwrap_or_else(PoisonError::into_inner);
        match &*undo {
            Undo::Here => self.mounted.undo_own()?,
            Undo::Elsewhere(undo) => undo()?,
            Undo::Done => (),
        }
        *undo = Undo::Done;
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // If it fails, the next one who mounts there does it.
        let _ = self.undo();
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mounted.fmt(f)
    }
}

/// Mounts over a place; answers the connection to the kernel, on which the first request waits. Until that is answered
/// everybody who looks at the place waits.
///
/// `Unsupported` without /dev/fuse, or without fusermount3 where that is needed; `Io` where the system does not permit it.
pub fn mount(point: MountPoint, access: Access) -> Result<(OwnedFd, Mount)> {
    let prefix = if point.is_made { MADE } else { FOUND };
    let token = u64::from_le_bytes(random_bytes()?);
    let mounted = Mounted { path: point.path.clone(), source: format!("{prefix}{token:016x}") };
    let direct = if rustix::process::geteuid().is_root() {
        mount_directly(&mounted, point.kind, access)
    } else {
        Ok(None)
    };
    let device = match direct {
        Ok(Some(device)) => Ok(device),
        // Root of a container, it may be, which others may help.
        Ok(None) => mount_by_helper(&mounted, access),
        Err(error) => Err(error),
    };
    match device {
        Ok(device) => {
            let undo = Mutex::new(Undo::Here);
            Ok((device, Mount { mounted, undo, lock: point.lock }))
        }
        Err(error) => {
            // Only the place is there to be undone.
            let _ = mounted.undo_own();
            Err(error)
        }
    }
}

/// Takes off whatever is mounted at `path`, lazily. Nothing mounted is fine.
pub fn unmount(path: &Path) -> Result<()> {
    let failed = || format!("cannot unmount {}", path.display());
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
        Err(Errno::PERM) => (),
        Err(errno) => return Err(Error::io(failed(), errno.into())),
    }
    let mut helper = Command::new("fusermount3");
    helper.args(["-u", "-z", "--"]).arg(path).stdin(Stdio::null()).stdout(Stdio::null());
    let ended = helper.output().map_err(no_helper)?;
    match ended.status.success() {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Io, format!("{}: {}", failed(), said(&ended.stderr)))),
    }
}

fn cannot_mount(mounted: &Mounted) -> String {
    format!("cannot mount at {}", mounted.path.display())
}

fn no_helper(error: io::Error) -> Error {
    let message = match error.kind() {
        io::ErrorKind::NotFound => "there is no fusermount3 here: install the package fuse3",
        _ => "cannot run fusermount3",
    };
    Error::with_source(ErrorKind::Unsupported, message, error)
}

fn said(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let last = text.lines().last().unwrap_or("it did not say why");
    last.strip_prefix("fusermount3: ").unwrap_or(last).to_owned()
}

/// `None` where this process does not have the right.
fn mount_directly(mounted: &Mounted, kind: PointKind, access: Access) -> Result<Option<OwnedFd>> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| {
            let message = "/dev/fuse does not open: this kernel, or this container, has no FUSE";
            Error::with_source(ErrorKind::Unsupported, message, io::Error::from(errno))
        })?;
    let root_mode = match kind {
        PointKind::File => 0o100_000,
        PointKind::Folder => 0o040_000,
    };
    let (fd, uid, gid) = (device.as_raw_fd(), getuid().as_raw(), getgid().as_raw());
    let allow_other = if access == Access::AllowOther { ",allow_other" } else { "" };
    let data = format!(
        "fd={fd},rootmode={root_mode:o},user_id={uid},group_id={gid},default_permissions{allow_other}"
    );
    let data = CString::new(data).expect("numbers and words have no zero byte");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let kind = format!("fuse.{SUBTYPE}");
    match rustix::mount::mount(&mounted.source, &mounted.path, kind, flags, Some(data.as_c_str())) {
        Ok(()) => Ok(Some(device)),
        Err(Errno::PERM) => Ok(None),
        Err(errno) => Err(Error::io(cannot_mount(mounted), errno.into())),
    }
}

/// Has `fusermount3` mount, which passes the connection to the kernel back over a socket.
fn mount_by_helper(mounted: &Mounted, access: Access) -> Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair().context(|| cannot_mount(mounted))?;
    let allow_other = if access == Access::AllowOther { ",allow_other" } else { "" };
    let options =
        format!("default_permissions,fsname={},subtype={SUBTYPE}{allow_other}", mounted.source);
    let mut helper = Command::new("fusermount3");
    helper.args(["-o", &options, "--"]).arg(&mounted.path);
    // Its standard input is the one descriptor that every program is given.
    helper.env("_FUSE_COMMFD", "0").stdin(OwnedFd::from(theirs));
    helper.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = helper.spawn().map_err(no_helper)?;
    // It holds the other end of the socket, which the child alone shall have.
    drop(helper);
    let received = receive_device(&ours);
    drop(ours);
    let mut errors = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(64 << 10).read_to_end(&mut errors);
    }
    let status = child.wait().context(|| cannot_mount(mounted))?;
    match received {
        Ok(Some(device)) if status.success() => Ok(device),
        _ => Err(refusal(mounted, &said(&errors))),
    }
}

/// Why `fusermount3` did not mount, and what to do about it.
fn refusal(mounted: &Mounted, said: &str) -> Error {
    let why = match said {
        _ if said.contains("user_allow_other") => {
            "other users are let in by root alone, unless a line user_allow_other in /etc/fuse.conf permits it"
        }
        _ if said.contains("/dev/fuse: Permission denied") => {
            "/dev/fuse is not for this user: its mode should be 0666"
        }
        _ => said,
    };
    Error::new(ErrorKind::Io, format!("{}: {why}", cannot_mount(mounted)))
}

fn receive_device(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    retry_on_intr(|| {
        let mut pieces = [IoSliceMut::new(&mut byte)];
        recvmsg(socket, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let rights = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(rights)
}
