//! Any request from the kernel, with any numbers in it: the server must answer, never panic, and answer the next one. The first
//! byte says which operation. What the kernel itself counts or puts in order is right: the length of a message and of a write's
//! data, and times, which it keeps within what it can count (`timestamp_truncate`; fuser panics beyond that).

#![no_main]

use libfuzzer_sys::fuzz_target;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use silt_export::fuse;
use silt_volume::MemoryDevice;
use std::{
    os::fd::OwnedFd,
    sync::{Arc, LazyLock},
};

const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const WRITE: u32 = 16;
const INIT: u32 = 26;
/// Those that end the connection, carry data that the kernel has counted, or have no answer.
const LEFT_OUT: [u32; 6] = [2, 21, INIT, 38, 39, 42];

/// One connection for the life of the process, over a small disk.
static KERNEL: LazyLock<OwnedFd> = LazyLock::new(|| {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("there are file descriptors");
    let device = Arc::new(MemoryDevice::new(vec![7; 64 << 10], false));
    std::thread::spawn(move || fuse::answer(device, theirs));
    let mut init: Vec<u8> =
        [7_u32, 45, 1 << 20, !(1 << 30)].iter().flat_map(|word| word.to_ne_bytes()).collect();
    init.resize(64, 0);
    ask(&ours, &message(INIT, 1, &init));
    ours
});

fn message(operation: u32, node: u64, arguments: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((40 + arguments.len() as u32).to_ne_bytes());
    bytes.extend(operation.to_ne_bytes());
    bytes.extend(1_u64.to_ne_bytes());
    bytes.extend(node.to_ne_bytes());
    bytes.extend([0; 16]);
    bytes.extend(arguments);
    bytes
}

/// Sends a request and waits for its answer; the error in it.
fn ask(kernel: &OwnedFd, message: &[u8]) -> i32 {
    let mut reply = vec![0; 2 << 20];
    send(kernel, message, SendFlags::NOSIGNAL).expect("the server lives");
    let (len, _) = recv(kernel, &mut reply, RecvFlags::empty()).expect("the server lives");
    assert!(len >= 16);
    i32::from_ne_bytes([reply[4], reply[5], reply[6], reply[7]])
}

/// The nanoseconds of a time are less than a second, and there are none at either end of all times.
fn put_in_order(arguments: &mut [u8], seconds_at: usize, nanoseconds_at: usize) {
    let seconds = i64::from_ne_bytes(arguments[seconds_at..][..8].try_into().expect("eight"));
    let nanoseconds = &mut arguments[nanoseconds_at..][..4];
    let given = u32::from_ne_bytes((&*nanoseconds).try_into().expect("four"));
    let is_last = seconds == i64::MIN || seconds == i64::MAX;
    let kept = if is_last { 0 } else { given % 1_000_000_000 };
    nanoseconds.copy_from_slice(&kept.to_ne_bytes());
}

fuzz_target!(|data: &[u8]| {
    let Some((operation, arguments)) = data.split_first() else { return };
    let operation = u32::from(operation % 54);
    if LEFT_OUT.contains(&operation) || arguments.len() > 100_000 {
        return;
    }
    let mut arguments = arguments.to_vec();
    if operation == WRITE && arguments.len() >= 40 {
        let len = arguments.len() as u32 - 40;
        arguments[16..20].copy_from_slice(&len.to_ne_bytes());
    }
    if operation == SETATTR && arguments.len() >= 72 {
        (0..3).for_each(|time| put_in_order(&mut arguments, 32 + 8 * time, 56 + 4 * time));
    }
    assert_ne!(ask(&KERNEL, &message(operation, 1, &arguments)), -5, "the server failed");
    assert_eq!(ask(&KERNEL, &message(GETATTR, 1, &[0; 16])), 0);
});
