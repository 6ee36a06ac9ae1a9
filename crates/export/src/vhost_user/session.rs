//! What one monitor has set up: its answers to the messages of the vhost-user specification.
//!
//! A queue runs while everything it needs is there. A message that changes something under running queues stops them,
//! which waits for the requests that were taken, and starts them again: such messages are rare, and so nothing changes
//! under a request.
//!
//! A message that is refused ends the connection, as its sender would otherwise believe it was heeded; only what is merely
//! not offered ([`not_offered`]) is answered with a refusal.

use super::{
    config::{CONFIG_BYTES, config_space, features, has, protocol_features},
    dirty_log::DirtyLog,
    inflight::Inflight,
    limits::{MEMORY_SLOTS_MAX, QUEUE_SIZE_MAX, QUEUES_MAX},
    memory::{GuestMemory, MemoryTable, Refused},
    queue::Setup,
    ring::RingPlace,
    running::{Patience, Running},
    state,
};
use crate::{StateSource, StopSignal};
use rustix::io::ioctl_fionbio;
use silt_volume::BlockDevice;
use std::{fs::File, io, sync::Arc};
use vhost::vhost_user::{
    Error, GpuBackend, Result, VhostUserBackendReqHandlerMut, VhostUserProtocolFeatures,
    VhostUserVirtioFeatures,
    message::{
        VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags,
        VhostUserInflight, VhostUserLog, VhostUserMemoryRegion, VhostUserShMemConfig,
        VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVringAddrFlags,
        VhostUserVringState,
    },
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

/// What is served, and who tells its state.
pub(super) struct Disk {
    pub(super) device: Arc<dyn BlockDevice>,
    pub(super) state: Option<StateSource>,
}

/// A monitor's view of the device.
pub(super) struct Session {
    device: Arc<dyn BlockDevice>,
    state: Option<StateSource>,
    patience: Patience,
    features: u64,
    protocol: VhostUserProtocolFeatures,
    table: MemoryTable,
    memory: Option<Arc<GuestMemory>>,
    log: Option<Arc<DirtyLog>>,
    inflight: Option<Inflight>,
    queues: Vec<Queue>,
    /// The state that is being handed over, to be looked at when the monitor asks whether it was good.
    transfer: Option<File>,
}

/// One queue, as far as it is set up.
#[derive(Debug, Default)]
struct Queue {
    place: RingPlace,
    has_place: bool,
    is_enabled: bool,
    kick: Option<Arc<File>>,
    call: Option<Arc<File>>,
    error: Option<Arc<File>>,
    running: Option<Running>,
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        Error::ReqHandlerError(io::Error::other(refused.0))
    }
}

fn refused<T>(why: &'static str) -> Result<T> {
    Err(Refused(why).into())
}

fn failed(error: &silt_types::Error) -> Error {
    Error::ReqHandlerError(io::Error::other(error.chain()))
}

/// The monitor asks for what was never offered.
fn not_offered<T>() -> Result<T> {
    Err(Error::InvalidOperation("not offered"))
}

impl Session {
    pub(super) fn new(disk: Disk, stop: StopSignal) -> Session {
        Session {
            device: disk.device,
            state: disk.state,
            patience: Patience::new(stop),
            features: 0,
            protocol: VhostUserProtocolFeatures::empty(),
            table: MemoryTable::default(),
            memory: None,
            log: None,
            inflight: None,
            queues: (0..QUEUES_MAX).map(|_| Queue::default()).collect(),
            transfer: None,
        }
    }

    /// Whether messages may ask for an answer.
    pub(super) fn reply_ack(&self) -> bool {
        self.protocol.contains(VhostUserProtocolFeatures::REPLY_ACK)
    }

    /// Stops every queue; the requests that were taken are answered.
    pub(super) fn stop_all(&mut self) -> std::result::Result<(), Refused> {
        self.queues.iter().filter_map(|queue| queue.running.as_ref()).for_each(Running::ask_to_end);
        let mut stopped = Ok(());
        for queue in &mut self.queues {
            stopped = stopped.and(queue.stop(&mut self.patience));
        }
        stopped
    }

    /// Starts what may run.
    fn start_all(&mut self) -> Result<()> {
        (0..self.queues.len()).try_for_each(|index| self.start(index))
    }

    fn start(&mut self, index: usize) -> Result<()> {
        let log = self.log.clone().filter(|_| self.is_logging());
        let (Some(queue), Some(memory)) = (self.queues.get_mut(index), &self.memory) else {
            return Ok(());
        };
        let Some(kick) = queue.kick.as_ref().filter(|_| queue.is_enabled && queue.has_place) else {
            return Ok(());
        };
        if queue.running.is_some() || queue.place.size == 0 {
            return Ok(());
        }
        let size = queue.place.size;
        let inflight = self.inflight.as_ref().map(|inflight| inflight.queue(index, size));
        let setup = Setup {
            device: self.device.clone(),
            memory: memory.clone(),
            place: RingPlace {
                event_idx: has(self.features, VIRTIO_RING_F_EVENT_IDX),
                ..queue.place
            },
            inflight: inflight.transpose()?,
            log,
            kick: kick.clone(),
            call: queue.call.clone(),
            error: queue.error.clone(),
            features: self.features,
        };
        queue.running = Some(Running::start(setup, index)?);
        Ok(())
    }

    fn is_logging(&self) -> bool {
        self.features & VhostUserVirtioFeatures::LOG_ALL.bits() != 0
    }

    /// Changes one queue while it does not run.
    fn change_queue(&mut self, index: usize, change: impl FnOnce(&mut Queue)) -> Result<()> {
        let Some(queue) = self.queues.get_mut(index) else { return refused("no such queue") };
        queue.stop(&mut self.patience)?;
        change(queue);
        self.start(index)
    }

    /// Changes what all queues stand on while none runs.
    fn change_all(&mut self, change: impl FnOnce(&mut Session) -> Result<()>) -> Result<()> {
        self.stop_all()?;
        change(self)?;
        self.memory = None;
        let log = self.log.as_ref().filter(|_| self.is_logging());
        self.memory = self.table.map(log)?.map(Arc::new);
        self.start_all()
    }
}

impl Queue {
    fn stop(&mut self, patience: &mut Patience) -> std::result::Result<(), Refused> {
        if let Some(running) = self.running.take() {
            self.place.base = running.end(patience)?;
        }
        Ok(())
    }
}

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    /// No longer used, says the specification.
    fn reset_owner(&mut self) -> Result<()> {
        not_offered()
    }

    fn reset_device(&mut self) -> Result<()> {
        not_offered()
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(features(self.device.geometry()))
    }

    fn set_features(&mut self, chosen: u64) -> Result<()> {
        if chosen & !features(self.device.geometry()) != 0 {
            return refused("a feature was chosen that was not offered");
        }
        self.change_all(|session| {
            session.features = chosen;
            if chosen & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
                // Then there is no message to enable them.
                session.queues.iter_mut().for_each(|queue| queue.is_enabled = true);
            }
            Ok(())
        })
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        let table = MemoryTable::new(regions, files);
        self.change_all(|session| {
            session.table = table;
            Ok(())
        })?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num).ok().filter(|size| *size <= QUEUE_SIZE_MAX);
        let Some(size) = size.filter(|size| size.is_power_of_two()) else {
            return refused("a queue cannot have this size");
        };
        self.change_queue(index as usize, |queue| queue.place.size = size)
    }

    /// The place for the log of the used ring is not asked for: it is logged where the guest has it.
    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let [table, used, available] =
            [descriptor, used, available].map(|user| self.table.guest_address(user));
        let (Some(table), Some(used), Some(available)) = (table, used, available) else {
            return refused("a ring lies outside the guest's memory");
        };
        self.change_queue(index as usize, |queue| {
            queue.place = RingPlace { table, used, available, ..queue.place };
            queue.has_place = true;
        })
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let Ok(base) = u16::try_from(base) else { return refused("a ring has no such index") };
        self.change_queue(index as usize, |queue| queue.place.base = base)
    }

    /// Stops the queue; every request that was taken is answered by then.
    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let Some(queue) = self.queues.get_mut(index as usize) else {
            return refused("no such queue");
        };
        queue.stop(&mut self.patience)?;
        (queue.kick, queue.call) = (None, None);
        Ok(VhostUserVringState::new(index, queue.place.base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let Some(kick) = fd else { return refused("queues are not polled for requests") };
        // What is there to be read may be gone when it is.
        if ioctl_fionbio(&kick, true).is_err() {
            return refused("this is nothing that kicks");
        }
        self.change_queue(index.into(), |queue| queue.kick = Some(Arc::new(kick)))
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.change_queue(index.into(), |queue| queue.call = fd.map(Arc::new))
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.change_queue(index.into(), |queue| queue.error = fd.map(Arc::new))
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(protocol_features(self.state.is_some()))
    }

    fn set_protocol_features(&mut self, chosen: u64) -> Result<()> {
        let offered = self.get_protocol_features()?;
        match VhostUserProtocolFeatures::from_bits(chosen) {
            Some(chosen) if offered.contains(chosen) => self.protocol = chosen,
            _ => return refused("a protocol feature was chosen that was not offered"),
        }
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(QUEUES_MAX as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.change_queue(index as usize, |queue| queue.is_enabled = enable)
    }

    /// Beyond the end of what the device has, it reads as zero: monitors ask for all that their headers have.
    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        let config = config_space(self.device.geometry());
        let found = config.iter().copied().chain(std::iter::repeat(0));
        Ok(found.skip((offset as usize).min(CONFIG_BYTES)).take(size as usize).collect())
    }

    /// Nothing in it can be written: the write cache cannot be turned off.
    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        not_offered()
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        not_offered()
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        not_offered()
    }

    fn get_inflight_fd(&mut self, wanted: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Inflight::create(wanted).map_err(Error::ReqHandlerError)
    }

    fn set_inflight_fd(&mut self, given: &VhostUserInflight, file: File) -> Result<()> {
        let inflight = Inflight::map(given, file)?;
        self.change_all(|session| {
            session.inflight = Some(inflight);
            Ok(())
        })
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MEMORY_SLOTS_MAX as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<u64>> {
        self.change_all(|session| Ok(session.table.add(region, file)?))?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        self.change_all(|session| Ok(session.table.remove(region)?))
    }

    fn set_device_state_fd(
        &mut self,
        direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        mut file: File,
    ) -> Result<Option<File>> {
        let Some(state) = self.state.clone() else { return not_offered() };
        if self.queues.iter().any(|queue| queue.running.is_some()) {
            return refused("the state of a running device changes");
        }
        self.transfer = None;
        match direction {
            VhostTransferStateDirection::SAVE => {
                let id = state().map_err(|error| failed(&error))?;
                state::save(&id, &mut file).map_err(Error::ReqHandlerError)?;
            }
            VhostTransferStateDirection::LOAD => self.transfer = Some(file),
        }
        Ok(None)
    }

    /// Whether the state that the monitor brought is that of this disk.
    fn check_device_state(&mut self) -> Result<()> {
        let Some(mut file) = self.transfer.take() else { return Ok(()) };
        let Some(state) = &self.state else { return not_offered() };
        let id = state().map_err(|error| failed(&error))?;
        state::check(&id, &mut file).map_err(Error::ReqHandlerError)
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        not_offered()
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> Result<()> {
        let log = DirtyLog::map(file, log.mmap_offset, log.mmap_size)?;
        self.change_all(|session| {
            session.log = Some(Arc::new(log));
            Ok(())
        })
    }
}
