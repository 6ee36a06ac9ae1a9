//! A volume does what every block device does.

use silt_testkit::block_device::conformance;
use silt_types::DeltaId;
use silt_volume::Delta;
use std::{cell::Cell, sync::Arc};

#[test]
fn a_volume_conforms() {
    let temp = tempfile::tempdir().unwrap();
    let count = Cell::new(0);
    conformance(&|size| {
        count.set(count.get() + 1);
        let dir = temp.path().join(count.get().to_string());
        Delta::create(&dir, DeltaId::from_bytes([1; 16]), size).unwrap();
        Arc::new(super::open(&dir, size).unwrap())
    });
}
