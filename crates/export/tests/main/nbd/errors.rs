//! Errors of the device and of requests, as clients see them.

use crate::{
    device::{Odd, memory},
    running::Running,
};
use silt_types::ErrorKind;
use silt_volume::MemoryDevice;
use std::sync::{Arc, atomic::Ordering};

const READ: (u16, u16) = (0, 0);
const WRITE: (u16, u16) = (0, 1);
const FLUSH: (u16, u16) = (0, 3);
const TRIM: (u16, u16) = (0, 4);
const ZERO: (u16, u16) = (0, 6);
const STATUS: (u16, u16) = (0, 7);
const FUA: u16 = 1;

#[test]
fn errors_of_the_device_reach_the_client_with_their_message() {
    let device = Odd::new(4 << 20, false);
    let running = Running::serve(device.clone());
    for structured in [true, false] {
        let mut session = running.enter(structured);
        for (kind, errno) in [
            (ErrorKind::NoSpace, 28),
            (ErrorKind::Invalid, 22),
            (ErrorKind::Corrupt, 5),
            (ErrorKind::Io, 5),
            (ErrorKind::Internal, 5),
        ] {
            device.fail(Some(kind));
            let payload = vec![1; 2 << 20];
            let mut cases = vec![
                (READ, (0, 4096)),
                (READ, (5, 1 << 20)),
                (READ, (0, 3 << 20)),
                (WRITE, (0, 4096)),
                (WRITE, (1, 512)),
                (WRITE, (7, 2 << 20)),
                ((FUA, 1), (0, 4096)),
                (FLUSH, (0, 0)),
                (TRIM, (0, 8192)),
                (ZERO, (0, 8192)),
            ];
            if structured {
                cases.push((STATUS, (0, 4096)));
            }
            for (command, (offset, len)) in cases {
                let payload = if command.1 == 1 { &payload[..len as usize] } else { b"" };
                let reply = session.ask(command, (offset, len), payload).unwrap();
                assert_eq!(reply.error, errno, "{kind:?} {command:?} at {offset}+{len}");
                assert!(reply.data.is_empty() && reply.extents.is_empty());
                assert_eq!(reply.message.contains("as the test wants it"), structured);
            }
            device.fail(None);
            let reply = session.ask(READ, (0, 4096), b"").unwrap();
            assert_eq!((reply.error, reply.data[0].1.len()), (0, 4096), "the connection lives");
        }
    }
}

#[test]
fn refused_requests_leave_the_connection_in_step() {
    let running = Running::serve(memory(1 << 20));
    let mut session = running.enter(true);
    let payload = vec![1; 1 << 20];
    for (command, (offset, len), errno) in [
        (READ, ((1 << 20) - 1, 2), 22),
        (READ, (u64::MAX, 1), 22),
        (READ, (0, u32::MAX.into()), 22),
        (WRITE, (1 << 20, 4096), 28),
        (WRITE, (1, 1 << 20), 28),
        (WRITE, (u64::MAX, 700_000), 28),
        (ZERO, (1 << 20, 1), 28),
        (TRIM, (1 << 20, 1), 22),
        (STATUS, (0, 0), 22),
        ((0, 5), (1 << 20, 1), 22),
        ((1 << 4, 6), (0, 4096), 0),
        ((0, 99), (0, 0), 22),
        ((1 << 4, 6), (0, 1), 95),
        ((1 << 15, 1), (0, 4096), 22),
        ((4, 0), (0, 1 << 20), 0),
    ] {
        let payload = if command.1 == 1 { &payload[..len as usize] } else { b"" };
        let reply = session.ask(command, (offset, len), payload).unwrap();
        assert_eq!(reply.error, errno, "{command:?} at {offset}+{len}: {}", reply.message);
    }
    let reply = session.ask(READ, (0, 1 << 20), b"").unwrap();
    assert!(reply.data.iter().all(|(_, data)| data.iter().all(|byte| *byte == 0)));
}

#[test]
fn a_read_only_disk_permits_no_change_and_answers_flush() {
    let running = Running::serve(Arc::new(MemoryDevice::new(vec![9; 1 << 20], true)));
    let mut session = running.enter(true);
    for (command, len) in [(WRITE, 4096), (WRITE, 100), (ZERO, 4096), (TRIM, 4096)] {
        let payload = if command.1 == 1 { vec![0; len as usize] } else { Vec::new() };
        let reply = session.ask(command, (0, len), &payload).unwrap();
        assert_eq!((reply.error, &*reply.message), (1, "the export is read-only"));
    }
    assert_eq!(session.ask(FLUSH, (0, 0), b"").unwrap().error, 0);
    let reply = session.ask(READ, (0, 4096), b"").unwrap();
    assert_eq!(reply.data, [(0, vec![9; 4096])]);
    drop(session);
    running.stop().unwrap();
}

#[test]
fn fua_flushes_before_it_is_answered_and_plain_writes_do_not() {
    let device = Odd::new(4 << 20, false);
    let running = Running::serve(device.clone());
    let mut session = running.enter(true);
    let mut flushes = 0;
    for (command, len, costs) in [
        (WRITE, 4096, 0),
        ((FUA, 1), 4096, 1),
        ((FUA, 1), 100, 1),
        ((FUA, 1), 3 << 20, 1),
        ((FUA, 4), 4096, 1),
        ((FUA, 6), 4096, 1),
        (TRIM, 4096, 0),
        (ZERO, 4096, 0),
        ((FUA, 0), 4096, 0),
        (FLUSH, 0, 1),
    ] {
        let payload = if command.1 == 1 { vec![3; len as usize] } else { Vec::new() };
        assert_eq!(session.ask(command, (0, len), &payload).unwrap().error, 0);
        flushes += costs;
        assert_eq!(device.flushes.load(Ordering::Relaxed), flushes, "{command:?} of {len}");
    }
}

#[test]
fn a_panicking_device_ends_one_connection_and_not_the_server() {
    let device = Odd::new(1 << 20, false);
    let running = Running::serve(device.clone());
    let mut bystander = running.enter(true);
    for command in [READ, FLUSH, STATUS] {
        let mut session = running.enter(true);
        device.panics.store(true, Ordering::Relaxed);
        assert!(session.ask(command, (0, 4096), b"").is_err(), "{command:?}");
        device.panics.store(false, Ordering::Relaxed);
        assert_eq!(bystander.ask(READ, (0, 4096), b"").unwrap().error, 0);
    }
    running.wait_for_clients(1);
    drop(bystander);
    running.stop().unwrap();
}
