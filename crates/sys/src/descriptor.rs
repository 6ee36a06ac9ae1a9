//! A descriptor that another library owns and uses by its number, and that is to mean something else one day: so its
//! threads can be given another end to read from without being asked.

use rustix::fs::{Stat, fstat};
use silt_types::{Error, ErrorKind, Result};
use std::{
    any::Any,
    fmt, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd},
};

/// The right to change what a descriptor means.
pub struct Switch {
    number: RawFd,
    meaning: Identity,
    _keeper: Box<dyn Any + Send + Sync>,
}

/// Device and inode.
type Identity = (u64, u64);

impl Switch {
    /// For the descriptor `of`, which `keeper` keeps open for as long as it is not dropped: its number is nobody else's
    /// meanwhile.
    pub fn new(of: BorrowedFd<'_>, keeper: impl Any + Send + Sync) -> Result<Switch> {
        let meaning = identity(of)?;
        Ok(Switch { number: of.as_raw_fd(), meaning, _keeper: Box::new(keeper) })
    }

    /// Lets the descriptor mean what `to` means, from one call that uses it to the next. Calls that wait in the old one go on
    /// with that. `Internal` if it does not mean what it did.
    pub fn switch(&mut self, to: BorrowedFd<'_>) -> Result<()> {
        // SAFETY: whoever keeps it open, as `new` demands, is kept by this value.
        let of = unsafe { BorrowedFd::borrow_raw(self.number) };
        if identity(of.as_fd())? != self.meaning {
            return Err(Error::internal("a descriptor means something else than it did"));
        }
        let meaning = identity(to)?;
        // SAFETY: a plain call on numbers. The number stays open, so its owner's use and close of it stay good, and it is what
        // it was said to be, not one that was given out again.
        while unsafe { libc::dup3(to.as_raw_fd(), self.number, libc::O_CLOEXEC) } < 0 {
            let error = io::Error::last_os_error();
            if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) {
                return Err(Error::with_source(ErrorKind::Io, "cannot switch a descriptor", error));
            }
        }
        self.meaning = meaning;
        Ok(())
    }
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Switch({})", self.number)
    }
}

fn identity(of: BorrowedFd<'_>) -> Result<Identity> {
    let failed = |errno: rustix::io::Errno| Error::io("cannot look at a descriptor", errno.into());
    fstat(of).map(|Stat { st_dev, st_ino, .. }| (st_dev, st_ino)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::File,
        io::{Read as _, Write as _, pipe},
        os::fd::OwnedFd,
        sync::Arc,
    };

    #[test]
    fn whoever_uses_a_number_finds_what_it_was_switched_to() {
        let (first, mut into_first) = pipe().unwrap();
        let (second, mut into_second) = pipe().unwrap();
        into_first.write_all(b"a").unwrap();
        into_second.write_all(b"b").unwrap();
        let user = Arc::new(File::from(OwnedFd::from(first)));
        let mut switch = Switch::new(user.as_fd(), user.clone()).unwrap();
        let next = || {
            let mut byte = [0];
            (&*user).read_exact(&mut byte).unwrap();
            byte[0]
        };
        assert_eq!(next(), b'a');
        switch.switch(second.as_fd()).unwrap();
        drop(second);
        assert_eq!(next(), b'b');
    }

    #[test]
    fn a_number_that_was_given_to_somebody_else_is_left_alone() {
        let (end, _) = pipe().unwrap();
        let mut switch = Switch::new(end.as_fd(), ()).unwrap();
        let number = end.as_raw_fd();
        drop(end);
        let (other, _write) = pipe().unwrap();
        // It may be free, or given to another test's thread; never what it was, as no other pipe has its inode.
        assert!(switch.switch(other.as_fd()).is_err(), "{number}");
    }
}
