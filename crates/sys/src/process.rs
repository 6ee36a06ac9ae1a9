//! A second process of the same program, beside this one, that keeps rights which this one is about to give up.

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};
use silt_types::{Context as _, Error, ErrorKind, Result};
use std::{
    ffi::CString,
    fs,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Where a helper finds its end of the connection; 0 to 2 lead nowhere, and nothing else is open.
const HELPER_SOCKET: RawFd = 3;

/// A process that runs beside this one until the connection to it ends. Dropping it ends the connection, and waits for
/// the process to end in turn.
#[derive(Debug)]
pub struct HelperProcess {
    socket: Option<OwnedFd>,
    pid: libc::pid_t,
}

impl HelperProcess {
    /// Starts a process that does `work` on one end of a connection that keeps messages apart (`SOCK_SEQPACKET`), and ends
    /// when `work` does. It shares nothing else with this one: no descriptor, no lock, no terminal; signals by which a
    /// user or a service manager ends this process leave it alone, so that it is there to the end.
    ///
    /// `Internal` if this process has more than one thread: the others' locks would stay locked for ever in the new one.
    pub fn start(work: impl FnOnce(OwnedFd)) -> Result<HelperProcess> {
        must_be_single_threaded()?;
        let failed = |errno: Errno| Error::io("cannot start a helper process", errno.into());
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(failed)?;
        // SAFETY: there is one thread, so the child is in no critical section of another; it never returns from here.
        match unsafe { libc::fork() } {
            -1 => Err(Error::io("cannot start a helper process", std::io::Error::last_os_error())),
            0 => {
                drop(ours);
                be_helper(&theirs, work)
            }
            pid => Ok(HelperProcess { socket: Some(ours), pid }),
        }
    }

    /// This end of the connection.
    pub fn socket(&self) -> &OwnedFd {
        self.socket.as_ref().expect("taken by drop only")
    }
}

impl Drop for HelperProcess {
    fn drop(&mut self) {
        self.socket = None;
        let mut status = 0;
        // SAFETY: the child is this process's own and nobody else waits for it; `status` outlives the call.
        while unsafe { libc::waitpid(self.pid, &raw mut status, 0) } < 0
            && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
        {}
    }
}

/// Becomes a user, given by name or number, with that user's main group and no other, for good. `NotFound` if there is none of
/// that name; `Internal` if there are other threads, which would stay who they are.
pub fn become_user(user: &str) -> Result<()> {
    must_be_single_threaded()?;
    let (uid, gid) = ids_of(user)?;
    // SAFETY: plain calls on numbers, in the order in which each is still allowed.
    let done = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(gid, gid, gid) == 0
            && libc::setresuid(uid, uid, uid) == 0
    };
    if done {
        return Ok(());
    }
    Err(Error::io(format!("cannot become user {user}"), std::io::Error::last_os_error()))
}

fn ids_of(user: &str) -> Result<(libc::uid_t, libc::gid_t)> {
    let nobody = || Error::new(ErrorKind::NotFound, format!("there is no user {user}"));
    let name = CString::new(user).map_err(|_| nobody())?;
    // SAFETY: the one thread there is may use the C library's buffer, and copies what it needs before the next call.
    unsafe {
        let found = match user.parse() {
            Ok(uid) => libc::getpwuid(uid),
            Err(_) => libc::getpwnam(name.as_ptr()),
        };
        found.as_ref().map(|found| (found.pw_uid, found.pw_gid)).ok_or_else(nobody)
    }
}

/// `Internal` if this process has more than one thread.
pub fn must_be_single_threaded() -> Result<()> {
    let threads = fs::read_dir("/proc/self/task").context(|| "cannot count the threads".into())?;
    match threads.count() {
        1 => Ok(()),
        count => {
            Err(Error::internal(format!("this is for a process of one thread, not of {count}")))
        }
    }
}

fn be_helper(socket: &OwnedFd, work: impl FnOnce(OwnedFd)) -> ! {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        // SAFETY: ignoring a signal runs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // SAFETY: plain calls on numbers. Whatever was open before is not used any more: this function never returns, and
    // `work` has its socket by the new number alone. Both go above the numbers that are given out again.
    let socket = unsafe {
        let aside = HELPER_SOCKET + 1;
        let socket = libc::fcntl(socket.as_raw_fd(), libc::F_DUPFD, aside);
        let nowhere = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        let nowhere = libc::fcntl(nowhere, libc::F_DUPFD, aside);
        (0..HELPER_SOCKET).for_each(|fd| _ = libc::dup2(nowhere, fd));
        libc::dup2(socket, HELPER_SOCKET);
        libc::close_range(aside as libc::c_uint, libc::c_uint::MAX, 0);
        OwnedFd::from_raw_fd(HELPER_SOCKET)
    };
    // A panic is its end, and for the other process the end of the connection.
    let _ = catch_unwind(AssertUnwindSafe(|| work(socket)));
    // SAFETY: ends the process without running what the other one registered for its own end.
    unsafe { libc::_exit(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process of its own for what needs one thread is `silt-engine`'s test of confinement.
    #[test]
    fn many_threads_make_no_helper() {
        let error = std::thread::scope(|scope| {
            scope.spawn(|| HelperProcess::start(|_| ()).unwrap_err()).join().unwrap()
        });
        assert_eq!(error.kind(), silt_types::ErrorKind::Internal);
    }
}
