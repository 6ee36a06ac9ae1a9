//! The NBD export, judged by other people's clients (`tools`) and by a client that misbehaves (`odd_clients`).

mod errors;
mod odd_clients;
mod passing_on;
mod protocol;
mod random_requests;
mod stopping;
mod tools;

use crate::{device::memory, running::Running};
use silt_sys::iobuf::{IoBuf, IoBufMut};
use silt_testkit::{block_device::conformance, nbd_client::NbdClient};
use silt_types::Result;
use silt_volume::{BlockDevice, BlockStatus, Geometry};
use std::sync::Arc;

/// A server and the client through which it is seen. The client goes first.
struct Served {
    client: NbdClient,
    _running: Running,
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
fn a_disk_in_memory_keeps_to_the_contract_of_a_device() {
    conformance(&memory);
}

#[test]
fn a_disk_behind_nbd_keeps_to_the_contract_of_a_device() {
    conformance(&|size| {
        let running = Running::serve(memory(size));
        Arc::new(Served { client: NbdClient::connect(&running.socket).unwrap(), _running: running })
    });
    conformance(&|size| {
        let running = Running::serve(memory(size));
        let client = NbdClient::connect_extended(&running.socket).unwrap();
        Arc::new(Served { client, _running: running })
    });
}
