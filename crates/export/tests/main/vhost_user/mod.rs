//! The vhost-user-blk export, judged by a client of our own that can misbehave. Other people's clients, QEMU with a real
//! guest, judge it in `e2e/`.

mod features;
mod fuzz;
mod hostile;
mod reconnect;
mod stopping;
mod waiting;

use crate::device::memory;
use silt_export::{Export, ExportAddress, StateSource, StopSignal};
use silt_sys::iobuf::{IoBuf, IoBufMut};
use silt_testkit::{
    block_device::conformance,
    vhost_user_client::{VhostUserClient, Wishes, feature},
};
use silt_types::Result;
use silt_volume::{BlockDevice, BlockStatus, Geometry};
use std::{path::PathBuf, sync::Arc, thread::JoinHandle};
use tempfile::TempDir;

/// A server on a socket in a folder of its own. Stopped when dropped.
pub(crate) struct Running {
    _folder: TempDir,
    pub(crate) socket: PathBuf,
    pub(crate) server: Arc<dyn Export>,
    pub(crate) stop: StopSignal,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Running {
    pub(crate) fn serve(device: Arc<dyn BlockDevice>) -> Running {
        Running::serve_in(None, device)
    }

    /// A device whose state somebody tells.
    pub(crate) fn serve_in(state: Option<StateSource>, device: Arc<dyn BlockDevice>) -> Running {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("vhost");
        let address = ExportAddress::VhostUser(socket.clone());
        let server: Arc<dyn Export> = Arc::from(address.bind().unwrap());
        if let Some(state) = state {
            server.tell_state(state);
        }
        let stop = StopSignal::new().unwrap();
        let thread = std::thread::spawn({
            let (server, stop) = (server.clone(), stop.clone());
            move || server.run(device, &stop)
        });
        Running { _folder: folder, socket, server, stop, thread: Some(thread) }
    }

    pub(crate) fn connect(&self, wishes: Wishes) -> VhostUserClient {
        VhostUserClient::connect(&self.socket, wishes).unwrap()
    }

    /// What the server answers, once it was told to stop.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.stop.trigger();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.trigger();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A server and the client through which it is seen. The client goes first.
struct Served {
    client: VhostUserClient,
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

fn conforms(wishes: Wishes) {
    conformance(&|size| {
        let running = Running::serve(memory(size));
        Arc::new(Served { client: running.connect(wishes), _running: running })
    });
}

#[test]
fn a_disk_behind_vhost_user_keeps_to_the_contract_of_a_device() {
    conforms(Wishes::default());
}

#[test]
fn a_disk_behind_four_queues_keeps_to_the_contract_of_a_device() {
    conforms(Wishes { queues: 4, ..Wishes::default() });
}

#[test]
fn a_driver_that_can_do_little_is_served_as_well() {
    let little = feature::INDIRECT | feature::EVENT_IDX | feature::FLUSH | feature::LOG_ALL;
    conforms(Wishes { queues: 1, queue_size: 16, without: little });
}
