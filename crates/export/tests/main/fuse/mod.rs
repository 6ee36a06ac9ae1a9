//! The FUSE export, judged by programs that take files. Every test here needs root, or a /dev/fuse that this user may open
//! and `fusermount3` (package fuse3).

mod growing;
mod hostile;
mod mounted;
mod passing;
mod stopping;
mod tools;

use self::mounted::Mounted;
use crate::device::memory;
use silt_sys::iobuf::{IoBuf, IoBufMut};
use silt_testkit::{block_device::conformance, file_client::FileClient};
use silt_types::Result;
use silt_volume::{BlockDevice, BlockStatus, Geometry};
use std::sync::Arc;

/// A server and the client through which it is seen. The client goes first.
struct Served {
    client: FileClient,
    _mounted: Mounted,
}

impl BlockDevice for Served {
    fn geometry(&self) -> Geometry {
        self.client.geometry()
    }

    fn readv_at(&self, buf: IoBufMut<'_>, offset: u64) -> Result<()> {
        self.client.readv_at(buf, offset)
    }

    fn writev_at(&self, buf: IoBuf<'_>, offset: u64) -> Result<()> {
        self.client.writev_at(buf, offset)
    }

    fn flush(&self) -> Result<()> {
        self.client.flush()
    }

    fn discard(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.client.discard(offset, len_bytes)
    }

    fn write_zeroes(&self, offset: u64, len_bytes: u64, may_unmap: bool) -> Result<()> {
        self.client.write_zeroes(offset, len_bytes, may_unmap)
    }

    fn block_status(&self, offset: u64, len: u64, runs_max: usize) -> Result<Vec<BlockStatus>> {
        self.client.block_status(offset, len, runs_max)
    }
}

#[test]
fn a_disk_behind_a_fuse_file_keeps_to_the_contract_of_a_device() {
    conformance(&|size| {
        let mounted = Mounted::serve(memory(size));
        Arc::new(Served { client: FileClient::open(&mounted.file).unwrap(), _mounted: mounted })
    });
}
