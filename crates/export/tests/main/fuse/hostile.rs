//! Requests that no kernel sends: odd offsets and lengths, truncated and overlong messages, any operation. What may happen is
//! an error; what may not is a panic, a range outside the disk, or that the next request is not answered.
//!
//! What the kernel itself counts and no program can choose, how much data a message carries, is as it says: the library that
//! decodes messages asserts it.

use crate::device::memory;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use silt_export::fuse;
use std::{
    collections::HashSet,
    os::fd::OwnedFd,
    thread::{self, JoinHandle},
};

const SIZE: u64 = 64 << 10;

/// Numbers of operations, as the kernel's `fuse.h` has them.
mod operation {
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const SETXATTR: u32 = 21;
    pub(super) const INIT: u32 = 26;
    pub(super) const DESTROY: u32 = 38;
    pub(super) const IOCTL: u32 = 39;
    pub(super) const BATCH_FORGET: u32 = 42;
    pub(super) const FALLOCATE: u32 = 43;
    pub(super) const LSEEK: u32 = 46;
    pub(super) const LAST: u32 = 53;
}

/// Said once; data that the kernel has counted; and the end of the connection.
const LEFT_OUT: [u32; 4] =
    [operation::INIT, operation::SETXATTR, operation::IOCTL, operation::DESTROY];

/// A request with a right length in its header.
fn message(operation: u32, unique: u64, node: u64, arguments: &[u8]) -> Vec<u8> {
    let len = 40 + arguments.len() as u32;
    let mut bytes = Vec::with_capacity(len as usize);
    bytes.extend(len.to_ne_bytes());
    bytes.extend(operation.to_ne_bytes());
    bytes.extend(unique.to_ne_bytes());
    bytes.extend(node.to_ne_bytes());
    bytes.extend([0; 16]); // uid, gid, pid, lengths of extensions
    bytes.extend(arguments);
    bytes
}

/// A kernel of our own, and who answers it.
struct Kernel {
    socket: OwnedFd,
    server: JoinHandle<silt_types::Result<()>>,
}

impl Kernel {
    fn start() -> Kernel {
        let flags = SocketFlags::CLOEXEC;
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let server = thread::spawn(move || fuse::answer(memory(SIZE), theirs));
        let kernel = Kernel { socket, server };
        let mut init = Vec::new();
        // Version 7.45, readahead, every flag but the one for a second word of them.
        [7_u32, 45, 1 << 20, !(1 << 30)].iter().for_each(|word| init.extend(word.to_ne_bytes()));
        init.extend([0; 48]);
        kernel.send(&message(operation::INIT, 1, 0, &init));
        let (unique, error, _) = kernel.receive();
        assert_eq!((unique, error), (1, 0));
        kernel
    }

    fn send(&self, bytes: &[u8]) {
        send(&self.socket, bytes, SendFlags::NOSIGNAL).unwrap();
    }

    /// The next reply: to which request, with which error, how long.
    fn receive(&self) -> (u64, i32, usize) {
        let mut bytes = vec![0; 2 << 20];
        let (len, _) = recv(&self.socket, &mut bytes, RecvFlags::empty()).unwrap();
        assert!(len >= 16, "a reply of {len} bytes");
        let error = i32::from_ne_bytes(bytes[4..8].try_into().unwrap());
        let unique = u64::from_ne_bytes(bytes[8..16].try_into().unwrap());
        (unique, error, len - 16)
    }

    fn end(self) {
        drop(self.socket);
        // However the connection ended, the server noticed.
        let _ = self.server.join().unwrap();
    }
}

/// Numbers that are the same in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number near some border, or any.
    fn odd(&mut self) -> u64 {
        let near = [0, 512, 4096, SIZE, 1 << 20, 1 << 31, 1 << 32, i64::MAX as u64, u64::MAX];
        let base = near[(self.next() % 9) as usize];
        match self.next() % 4 {
            0 => self.next(),
            1 => base,
            2 => base.wrapping_add(self.next() % 5),
            _ => base.wrapping_sub(self.next() % 5),
        }
    }
}

/// The arguments of an operation, the numbers in them odd, sometimes cut.
fn arguments(operation: u32, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.next() % 12 {
        bytes.extend(random.odd().to_ne_bytes());
    }
    if operation == operation::WRITE {
        // handle, offset, length, flags, owner of locks, flags: then the data.
        let len = (random.next() % 9000) as usize;
        bytes.clear();
        bytes.extend(0_u64.to_ne_bytes());
        bytes.extend(random.odd().to_ne_bytes());
        bytes.extend((len as u32).to_ne_bytes());
        bytes.extend([0; 20]);
        bytes.resize(bytes.len() + len, 9);
    }
    if random.next().is_multiple_of(8) {
        bytes.truncate((random.next() % 40) as usize);
    }
    bytes
}

#[test]
fn fuse_requests_that_no_kernel_sends_are_answered_and_the_next_one_is_served() {
    const ROUNDS: u64 = 100_000;
    let (kernel, mut random) = (Kernel::start(), Random(0xf0_5e));
    let often = [operation::READ, operation::WRITE, operation::FALLOCATE, operation::LSEEK];
    let mut waiting = HashSet::new();
    for unique in 2..ROUNDS {
        let operation = match random.next() % 3 {
            0 => (random.next() % u64::from(operation::LAST)) as u32,
            _ => often[(random.next() % 4) as usize],
        };
        if LEFT_OUT.contains(&operation) {
            continue;
        }
        let node = if random.next().is_multiple_of(4) { random.odd() } else { 1 };
        kernel.send(&message(operation, unique, node, &arguments(operation, &mut random)));
        if ![operation::FORGET, operation::BATCH_FORGET].contains(&operation) {
            waiting.insert(unique);
        }
        while waiting.len() > 16 {
            take_reply(&kernel, &mut waiting);
        }
    }
    while !waiting.is_empty() {
        take_reply(&kernel, &mut waiting);
    }
    kernel.send(&message(operation::GETATTR, ROUNDS, 1, &[0; 16]));
    let (unique, error, len) = kernel.receive();
    assert_eq!((unique, error), (ROUNDS, 0));
    assert!(len >= 96, "attributes of {len} bytes");
    kernel.end();
}

/// A forget that is cut short is answered, as nothing that can be told from other operations: such replies are passed over.
fn take_reply(kernel: &Kernel, waiting: &mut HashSet<u64>) {
    let (unique, error, len) = kernel.receive();
    waiting.remove(&unique);
    assert_ne!(error, -5, "request {unique} made the server fail");
    assert!(error <= 0 && (error == 0 || len == 0), "{error} with {len} bytes");
    assert!(len <= 1 << 20);
}

#[test]
fn what_is_no_fuse_request_ends_the_connection_and_nothing_else() {
    let whole = message(operation::GETATTR, 2, 1, &[0; 16]);
    let mut lying = whole.clone();
    lying[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
    for bytes in [&whole[..0], &whole[..1], &whole[..39], &lying] {
        let kernel = Kernel::start();
        for _ in 0..8 {
            // Once the server has gone there is nobody to send to.
            let _ = send(&kernel.socket, bytes, SendFlags::NOSIGNAL);
        }
        kernel.end();
    }
}
