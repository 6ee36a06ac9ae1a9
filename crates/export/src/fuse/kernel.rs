//! What a server and the kernel say to one another beside requests and answers, when one server takes over from another.
//!
//! The kernel introduces itself once, to the first server; the next ones are told of it in the same words. It can be asked
//! to send requests again that were read and not answered, and to send one that means nothing, so that a thread that waits
//! for the next request wakes. Source: linux/include/uapi/linux/fuse.h, fs/fuse/dev.c.

use fuser::{InitFlags, KernelConfig, Version};
use serde::{Deserialize, Serialize};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    os::unix::net::UnixStream,
};

const FUSE_INIT: u32 = 26;
const FUSE_NOTIFY_RETRIEVE: u32 = 5;
const FUSE_NOTIFY_RESEND: u32 = 7;
const FUSE_ROOT_ID: u64 = 1;

/// What the kernel said that it can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Introduction {
    major: u32,
    minor: u32,
    capabilities: u64,
}

impl Introduction {
    pub(super) fn of(config: &KernelConfig) -> Introduction {
        let Version(major, minor) = config.kernel_abi();
        Introduction { major, minor, capabilities: config.capabilities().bits() }
    }

    /// Whether requests that were read and not answered can be had again: Linux 6.9 and later.
    pub(super) fn can_resend(&self) -> bool {
        InitFlags::from_bits_retain(self.capabilities).contains(InitFlags::FUSE_HAS_RESEND)
    }

    /// The same as the kernel's request, to be read from the first of two sockets. The answer goes to the second one, and is
    /// nobody's concern.
    pub(super) fn again(&self) -> io::Result<[OwnedFd; 2]> {
        let (session, kernel) = UnixStream::pair()?;
        // One write, which is one read: shorter than any buffer.
        let written = rustix::io::write(&kernel, &self.request())?;
        debug_assert_eq!(written, self.request().len());
        Ok([session.into(), kernel.into()])
    }

    /// `struct fuse_in_header` and `struct fuse_init_in`, in the byte order of this machine.
    fn request(&self) -> Vec<u8> {
        let flags = self.capabilities | InitFlags::FUSE_INIT_EXT.bits();
        let (low, high) = (flags as u32, (flags >> 32) as u32);
        let mut words = vec![0u32; 26];
        // Of the header only these two are looked at.
        (words[0], words[1]) = (26 * 4, FUSE_INIT);
        words[10..15].copy_from_slice(&[self.major, self.minor, 0, low, high]);
        words.into_iter().flat_map(u32::to_ne_bytes).collect()
    }
}

/// Has the kernel send a request that needs no answer, which one thread that waits for a request gets: what is cached of the
/// file, of which no byte is wanted.
pub(super) fn wake(device: impl AsFd) -> io::Result<()> {
    // Number of the answer (none of a request's), inode, offset, length and filling.
    let words = [0, FUSE_ROOT_ID, 0, 0];
    notify(device, FUSE_NOTIFY_RETRIEVE, &words.map(u64::to_ne_bytes).concat())
}

/// Has the kernel send everything again that was read and not answered, before what nobody has read yet.
pub(super) fn resend(device: impl AsFd) -> io::Result<()> {
    notify(device, FUSE_NOTIFY_RESEND, &[])
}

/// `struct fuse_out_header`, with a code where errors are and no request that it answers.
fn notify(device: impl AsFd, code: u32, body: &[u8]) -> io::Result<()> {
    let len = 16 + body.len() as u32;
    let header = [&len.to_ne_bytes()[..], &code.to_ne_bytes(), &0u64.to_ne_bytes()].concat();
    rustix::io::write(device, &[&header, body].concat())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_said_is_said_again() {
        let capabilities = InitFlags::FUSE_HAS_RESEND | InitFlags::FUSE_ASYNC_DIO;
        let said = Introduction { major: 7, minor: 41, capabilities: capabilities.bits() };
        assert!(said.can_resend());
        let [session, _kernel] = said.again().unwrap();
        let mut bytes = [0; 4096];
        assert_eq!(rustix::io::read(&session, &mut bytes).unwrap(), 104);
        let word = |at: usize| u32::from_ne_bytes(*bytes[at * 4..].first_chunk().unwrap());
        assert_eq!([word(0), word(1), word(10), word(11)], [104, 26, 7, 41]);
        assert_eq!((word(13), word(14)), (1 << 15 | 1 << 30, 1 << 7));
        let old = Introduction { capabilities: 0, ..said };
        assert!(!old.can_resend());
    }
}
