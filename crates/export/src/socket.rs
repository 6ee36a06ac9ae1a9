//! Unix sockets that servers listen on: private, in place only once they accept, gone when the server is.
//!
//! * The file is made under a passing name, mode 0600 whatever the umask, and listened on; only then it gets its name.
//!   So whoever sees the name can connect.
//! * A socket file that nobody listens on any more (its server was killed) is replaced. One that is alive is `Busy`;
//!   anything else under the name is never touched.
//! * Removal checks that the file is still the one made here.

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
    net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use silt_types::{Error, ErrorKind, Result};
use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

/// The longest socket path that a client can name, in bytes: what fits `sun_path` with its terminating zero.
const PATH_BYTES_MAX: usize = 107;

/// Connections that wait in the kernel to be accepted: more than one export's clients open at a time.
pub(crate) const BACKLOG: i32 = 128;

/// A listening Unix socket and its file, which goes with it.
#[derive(Debug)]
pub struct SocketFile {
    listener: OwnedFd,
    path: PathBuf,
    folder: OwnedFd,
    name: OsString,
    identity: (u64, u64),
    /// Somebody else goes on with it, and with its file.
    is_left: AtomicBool,
}

impl SocketFile {
    /// Listens at `path`, which any client can name. `Busy` if a live server does already, `AlreadyExists` if something
    /// else than a socket is there, `Invalid` if it cannot be a socket's path.
    pub(crate) fn bind(path: &Path) -> Result<SocketFile> {
        if path.as_os_str().len() > PATH_BYTES_MAX {
            let why = format!("a socket's path has at most {PATH_BYTES_MAX} bytes");
            return Err(Error::invalid(format!("cannot listen at {path:?}: {why}")));
        }
        SocketFile::bind_private(path)
    }

    /// The same for clients that use [`connect`], to which paths of any length are good.
    pub fn bind_private(path: &Path) -> Result<SocketFile> {
        let (folder, name) = open_folder(path)?;
        let (listener, passing) = listen_under_passing_name(path, &folder)?;
        let placed = place(path, &folder, &passing, name);
        let _ = fs::unlinkat(&folder, &passing, AtFlags::empty());
        let identity = identity(&placed?);
        let path = path.to_owned();
        let (name, is_left) = (name.to_owned(), AtomicBool::new(false));
        Ok(SocketFile { listener, path, folder, name, identity, is_left })
    }

    /// A socket that another process made at `path` and passed on, and that is still there.
    pub(crate) fn adopt(path: &Path, listener: OwnedFd) -> Result<SocketFile> {
        let (folder, name) = open_folder(path)?;
        let found = fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW);
        let identity = identity(&found.map_err(|errno| failed(path, errno))?);
        let (path, name, is_left) = (path.to_owned(), name.to_owned(), AtomicBool::new(false));
        Ok(SocketFile { listener, path, folder, name, identity, is_left })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next client that waits; waits for one.
    pub fn accept(&self) -> Result<UnixStream> {
        let accepted = net::accept_with(&self.listener, SocketFlags::CLOEXEC);
        accepted.map(UnixStream::from).map_err(|errno| Error::io("cannot accept", errno.into()))
    }

    /// Leaves the file to whoever goes on with the socket.
    pub(crate) fn leave(&self) {
        self.is_left.store(true, Ordering::Release);
    }

    /// Takes the file away, so that nobody finds the socket any more. Doing so again does nothing.
    pub(crate) fn remove(&self) {
        if self.is_left.load(Ordering::Acquire) {
            return;
        }
        let found = fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|found| identity(&found) == self.identity) {
            let _ = fs::unlinkat(&self.folder, &self.name, AtFlags::empty());
        }
    }
}

impl AsFd for SocketFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Connects to the socket at `path`, however long that is. `None` if nobody listens there, or there is no such folder.
pub fn connect(path: &Path) -> Result<Option<UnixStream>> {
    let failed =
        |errno: Errno| Error::io(format!("cannot connect to {}", path.display()), errno.into());
    let (folder, name) = split(path)?;
    let folder = match open_path(folder) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(failed)?,
    };
    let socket =
        net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
    match net::connect(&socket, &address_in(&folder, name).map_err(failed)?) {
        Ok(()) => Ok(Some(UnixStream::from(socket))),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
        Err(errno) => Err(failed(errno)),
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn failed(path: &Path, errno: Errno) -> Error {
    Error::io(format!("cannot listen at {}", path.display()), errno.into())
}

fn open_folder(path: &Path) -> Result<(OwnedFd, &OsStr)> {
    let (folder, name) = split(path)?;
    Ok((open_path(folder).map_err(|errno| failed(path, errno))?, name))
}

fn open_path(folder: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::open(folder, flags, Mode::empty())
}

/// The folder and the name of a socket.
fn split(path: &Path) -> Result<(&Path, &OsStr)> {
    let invalid = |why: &str| Error::invalid(format!("cannot listen at {path:?}: {why}"));
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(invalid("a path has no zero byte"));
    }
    let name = path.file_name().ok_or_else(|| invalid("this names no file"))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok((folder, name))
}

fn listen_under_passing_name(path: &Path, folder: &OwnedFd) -> Result<(OwnedFd, OsString)> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let failed = |errno| failed(path, errno);
    let listener =
        net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
    // The file of a socket gets the mode of the socket less the umask: nobody else can ever connect.
    fs::fchmod(&listener, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let passing = OsString::from(format!(".silt-{}-{count}", std::process::id()));
    let _ = fs::unlinkat(folder, &passing, AtFlags::empty());
    net::bind(&listener, &address_in(folder, &passing).map_err(failed)?).map_err(failed)?;
    let ready = fs::chmodat(folder, &passing, Mode::RUSR | Mode::WUSR, AtFlags::empty())
        .and_then(|()| net::listen(&listener, BACKLOG));
    if let Err(errno) = ready {
        let _ = fs::unlinkat(folder, &passing, AtFlags::empty());
        return Err(failed(errno));
    }
    Ok((listener, passing))
}

/// A name in an open folder as a socket address, of a length that does not depend on the folder's path.
fn address_in(folder: &OwnedFd, name: &OsStr) -> Result<SocketAddrUnix, Errno> {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    path.push(name);
    SocketAddrUnix::new(path)
}

/// Gives the socket its name; never over a living one.
fn place(path: &Path, folder: &OwnedFd, passing: &OsStr, name: &OsStr) -> Result<Stat> {
    let failed = |errno| failed(path, errno);
    let stat = |name| fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    let linked = match fs::linkat(folder, passing, folder, name, AtFlags::empty()) {
        Err(Errno::EXIST) => {
            let found = stat(name).map_err(failed)?;
            refuse_unless_stale(path, folder, name, &found)?;
            fs::renameat(folder, passing, folder, name)
        }
        other => other,
    };
    linked.and_then(|()| stat(name)).map_err(failed)
}

fn refuse_unless_stale(path: &Path, folder: &OwnedFd, name: &OsStr, found: &Stat) -> Result<()> {
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        let message = format!("cannot listen at {}: a file is there", path.display());
        return Err(Error::new(ErrorKind::AlreadyExists, message));
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let address = address_in(folder, name).map_err(|errno| failed(path, errno))?;
    match probe.and_then(|probe| net::connect(&probe, &address)) {
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(()),
        // Connected, or its queue is full, or it is not ours to ask: somebody lives there.
        _ => {
            let message =
                format!("cannot listen at {}: another server listens there", path.display());
            Err(Error::new(ErrorKind::Busy, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        os::unix::{fs::MetadataExt, net::UnixListener},
        process::Command,
    };

    #[test]
    fn the_file_is_private_alive_and_gone_with_its_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let socket = SocketFile::bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        UnixStream::connect(&path).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(socket);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn our_own_clients_reach_sockets_that_no_other_could_name() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("s");
        assert!(connect(&path).unwrap().is_none());
        assert_eq!(SocketFile::bind(&path).unwrap_err().kind(), ErrorKind::Invalid);
        let socket = SocketFile::bind_private(&path).unwrap();
        let client = connect(&path).unwrap().unwrap();
        assert!(socket.accept().is_ok());
        drop((client, socket));
        assert!(connect(&path).unwrap().is_none());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_busy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let socket = SocketFile::bind(&path).unwrap();
        let error = SocketFile::bind(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.chain().contains(path.to_str().unwrap()), "{error:?}");
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_not_a_socket_is_never_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(SocketFile::bind(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(SocketFile::bind(&link).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn another_servers_socket_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let socket = SocketFile::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let other = SocketFile::bind(&path).unwrap();
        drop(socket);
        UnixStream::connect(&path).unwrap();
        drop(other);
    }

    #[test]
    fn paths_no_client_could_name_are_invalid() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["x".repeat(108), "a\0b".into(), "..".into()] {
            let error = SocketFile::bind(&folder.path().join(name)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
        }
        let error = SocketFile::bind(&folder.path().join("no/such")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
    }

    /// The umask belongs to the whole process, so another one shows it: this test, run again under the odd umask.
    #[test]
    fn the_mode_does_not_depend_on_the_umask() {
        for umask in ["000", "777"] {
            let script = format!("umask {umask}; exec \"$0\" --exact {INNER_TEST}");
            let test = std::env::current_exe().unwrap();
            let status = Command::new("sh").arg("-c").arg(script).arg(test).output().unwrap();
            assert!(status.status.success(), "umask {umask}: {status:?}");
        }
    }

    const INNER_TEST: &str = "socket::tests::the_file_is_private_under_this_umask";

    #[test]
    fn the_file_is_private_under_this_umask() {
        let path = std::env::temp_dir().join(format!("silt-umask-{}", std::process::id()));
        let socket = SocketFile::bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        drop(socket);
    }
}
