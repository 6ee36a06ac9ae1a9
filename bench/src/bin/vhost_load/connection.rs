//! The monitor's part: a guest's memory, shared, and one queue in it.

use crate::Result;
use crate::queue::{AVAILABLE_AT, Kind, MEMORY_BYTES, Queue, SIZE, USED_AT};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserInflight};
use vhost::vhost_user::{Frontend, VhostUserFrontend as _, VhostUserProtocolFeatures as Protocol};
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};

/// Where the guest has its memory, and its monitor.
pub const GUEST_START: u64 = 1 << 32;
const USER_START: u64 = 0x7000_0000_0000;

/// Virtio: flushes, indirect descriptors, event index, version 1. vhost-user: protocol features.
const FEATURES: u64 = 1 << 9 | 1 << 28 | 1 << 29 | 1 << 32 | 1 << 30;

pub struct Connection {
    pub queue: Queue,
    /// Ends the queue with it.
    _frontend: Frontend,
    /// The monitor keeps it for the next server.
    _inflight: Option<File>,
}

impl Connection {
    /// Connects and starts the queue.
    pub fn open(socket: &str, kind: Kind, block: u32, depth: u16) -> Result<Self> {
        let mut frontend = Frontend::from_stream(UnixStream::connect(socket)?, 1);
        frontend.set_owner()?;
        let offered = frontend.get_features()?;
        if offered & FEATURES != FEATURES {
            return Err(format!("features {offered:#x} lack some of {FEATURES:#x}").into());
        }
        let wanted = Protocol::CONFIG | Protocol::REPLY_ACK | Protocol::INFLIGHT_SHMFD;
        let protocol = frontend.get_protocol_features()? & wanted;
        frontend.set_protocol_features(protocol)?;
        if protocol.contains(Protocol::REPLY_ACK) {
            frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        frontend.set_features(FEATURES)?;

        let file = File::from(memfd_create("vhost-load", MemfdFlags::CLOEXEC)?);
        ftruncate(&file, MEMORY_BYTES)?;
        let queue = Queue::new(file.try_clone()?, kind, block, depth)?;
        frontend.set_mem_table(&[VhostUserMemoryRegionInfo {
            guest_phys_addr: GUEST_START,
            memory_size: MEMORY_BYTES,
            userspace_addr: USER_START,
            mmap_offset: 0,
            mmap_handle: file.as_raw_fd(),
        }])?;
        let mut inflight = None;
        if protocol.contains(Protocol::INFLIGHT_SHMFD) {
            let (found, file) = frontend.get_inflight_fd(&VhostUserInflight::new(0, 0, 1, SIZE))?;
            frontend.set_inflight_fd(&found, file.as_raw_fd())?;
            inflight = Some(file);
        }
        frontend.set_vring_num(0, SIZE)?;
        frontend.set_vring_base(0, 0)?;
        frontend.set_vring_addr(
            0,
            &VringConfigData {
                queue_max_size: SIZE,
                queue_size: SIZE,
                flags: 0,
                desc_table_addr: USER_START,
                used_ring_addr: USER_START + USED_AT as u64,
                avail_ring_addr: USER_START + AVAILABLE_AT as u64,
                log_addr: None,
            },
        )?;
        frontend.set_vring_call(0, &queue.call)?;
        frontend.set_vring_kick(0, &queue.kick)?;
        frontend.set_vring_enable(0, true)?;
        Ok(Self { queue, _frontend: frontend, _inflight: inflight })
    }
}
