//! A device that is counted and limited is the same device.

use crate::{
    device::{Odd, memory},
    running::Running,
};
use silt_export::{Counts, Limited, Limits, Metered, OpCounts, Rate, StopSignal};
use silt_testkit::block_device::conformance;
use silt_types::ErrorKind;
use silt_volume::BlockDevice as _;
use std::sync::Arc;

fn counts(operations: u64, bytes: u64, errors: u64) -> OpCounts {
    OpCounts { operations, bytes, errors }
}

#[test]
fn a_device_that_is_counted_and_limited_keeps_to_the_model() {
    conformance(&|size| {
        // Limits that are met all the time, and cost microseconds.
        let limits = Limits {
            iops: Rate::new(1_000_000, Some(1)),
            bandwidth: Rate::new(100 << 30, Some(4096)),
        };
        let limited = Limited::new(memory(size), limits, StopSignal::new().unwrap());
        Arc::new(Metered::new(Arc::new(limited)))
    });
}

#[test]
fn every_operation_is_counted_once_with_its_bytes_or_as_an_error() {
    let odd = Odd::new(1 << 20, false);
    let device = Metered::new(odd.clone());
    let mut buf = [0; 1000];
    device.read_at(&mut buf, 0).unwrap();
    assert!(device.read_hot(buf.as_mut_slice().into(), 0).unwrap());
    odd.is_cold.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(!device.read_hot(buf.as_mut_slice().into(), 0).unwrap());
    device.write_at(&buf[..512], 0).unwrap();
    device.discard(0, 8192).unwrap();
    device.write_zeroes(5, 10, true).unwrap();
    device.write_zeroes(5, 10, false).unwrap();
    device.flush().unwrap();
    odd.fail(Some(ErrorKind::NoSpace));
    assert!(device.write_at(&buf, 0).is_err());
    assert!(device.read_at(&mut buf, 0).is_err());
    assert!(device.flush().is_err());
    let counted = device.meter().counts();
    let expected = Counts {
        read: counts(2, 2000, 1),
        write: counts(1, 512, 1),
        flush: counts(1, 0, 1),
        discard: counts(1, 8192, 0),
        write_zeroes: counts(2, 20, 0),
        flush_ns: counted.flush_ns,
    };
    assert_eq!(counted, expected);
}

/// The thread that receives is not the one that waits, and what was received when the server is to end is done.
#[test]
fn a_write_over_the_limit_holds_up_nothing_that_was_sent_after_it() {
    // The first write begins at once, and a second one in a minute.
    let limits = Limits { iops: None, bandwidth: Rate::new(70, Some(0)) };
    let device = memory(1 << 20);
    let stop = StopSignal::new().unwrap();
    let limited = Limited::new(device.clone(), limits, stop.clone());
    let running = Running::serve(Arc::new(limited));
    let mut session = running.enter(true);
    for cookie in [1, 2] {
        let range = (4096 * cookie, 4096);
        session.request((0, 1), cookie, range, &[cookie as u8; 4096]).unwrap();
    }
    session.request((0, 3), 3, (0, 0), b"").unwrap();
    session.request((0, 77), 4, (0, 0), b"").unwrap();
    let mut early = [0; 3].map(|_: u64| session.reply().unwrap().cookie);
    early.sort_unstable();
    assert_eq!(early, [1, 3, 4], "the second write waits alone, and a flush does not wait for it");
    stop.trigger();
    assert_eq!(session.reply().unwrap().cookie, 2);
    let mut written = [0; 1];
    device.read_at(&mut written, 8192).unwrap();
    assert_eq!(written, [2]);
}
