//! A device that is counted and limited is the same device.

use crate::device::{Odd, memory};
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
