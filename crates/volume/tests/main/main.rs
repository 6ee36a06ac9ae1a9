//! The integration tests of volumes: one binary, one module per part.

// The lints know only functions that are tests themselves, not what these share.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod conformance;
mod durability;
mod marks;
mod sealing;

use silt_store::MemoryChunks;
use silt_types::DiskId;
use silt_volume::{Volume, VolumeParts};
use std::{path::Path, sync::Arc};

/// A volume over nothing, with its delta in this folder.
fn open(delta: &Path, size_bytes: u64) -> silt_types::Result<Volume> {
    Volume::open(VolumeParts {
        source: Arc::new(MemoryChunks::new()),
        base: DiskId { root: DiskId::ZERO_ROOT, size_bytes },
        frozen: vec![],
        own: Some(delta.to_owned()),
        size_bytes,
        lease: None,
    })
}
