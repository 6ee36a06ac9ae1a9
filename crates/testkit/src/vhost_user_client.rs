//! A small vhost-user-blk client for tests: what a virtual machine monitor and the virtio-blk driver of its guest do.
//! [`VhostUserClient`] is a [`BlockDevice`] over guest memory and virtqueues, so that what is asked of every device can be
//! asked through an export; its parts are open, to say odd things to a server.
//!
//! Messages go through the `vhost` crate's frontend; the rest is written from the specifications apart from the server, so
//! that a number which one of them has wrong is seen. Slow and simple: one request at a time on each queue. Not for
//! production: it panics where it can go no further.

use crate::{
    block_device::{read_through_private_memory, write_through_private_memory},
    virtqueue::{Part, QUEUE_BYTES, VirtQueue},
};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use silt_sys::iobuf::{IoBuf, IoBufMut};
use silt_types::{BLOCK_SIZE_BYTES, Context as _, Error, ErrorKind, Result};
use silt_volume::{BlockDevice, BlockStatus, Geometry};
use std::{
    fs::File,
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};
use vhost::{
    VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData,
    vhost_user::{
        Frontend, VhostUserFrontend as _, VhostUserProtocolFeatures,
        message::{VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight},
    },
};
use vm_memory::{Bytes as _, FileOffset, GuestAddress, GuestMemoryMmap};

const SECTOR: usize = 512;
const BLOCK: usize = BLOCK_SIZE_BYTES as usize;

/// Where the guest's memory begins, for the guest and for its monitor: far from zero and from each other, so that whoever
/// mixes them up is seen.
pub const GUEST_START: u64 = 5 << 32;
const USER_START: u64 = 0x7000_0000_0000;

/// Length of the guest's memory. Two regions that meet in the middle.
pub const MEMORY_BYTES: u64 = 64 << 20;

/// Data of one request of the client's own: the buffer of the first queue lies across the middle of memory.
const DATA_BYTES: u64 = 512 << 10;
const DATA_START: u64 = GUEST_START + MEMORY_BYTES / 2 - DATA_BYTES / 2;

/// Virtio features that the client can use.
pub mod feature {
    /// Indirect descriptors.
    pub const INDIRECT: u64 = 1 << 28;
    /// Event index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Protocol features of vhost-user.
    pub const PROTOCOL: u64 = 1 << 30;
    /// Dirty log.
    pub const LOG_ALL: u64 = 1 << 26;
    /// Flushes.
    pub const FLUSH: u64 = 1 << 9;
    /// Virtio 1.0.
    pub const VERSION_1: u64 = 1 << 32;
    /// Read-only.
    pub const READ_ONLY: u64 = 1 << 5;
}

/// Request types.
pub mod request {
    /// Read.
    pub const IN: u32 = 0;
    /// Write.
    pub const OUT: u32 = 1;
    /// Flush.
    pub const FLUSH: u32 = 4;
    /// Name of the disk.
    pub const GET_ID: u32 = 8;
    /// Discard.
    pub const DISCARD: u32 = 11;
    /// Write zeroes.
    pub const WRITE_ZEROES: u32 = 13;
}

/// How to connect.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// Queues to set up.
    pub queues: usize,
    /// Descriptors of each.
    pub queue_size: u16,
    /// Virtio features to do without.
    pub without: u64,
}

impl Default for Wishes {
    fn default() -> Wishes {
        Wishes { queues: 1, queue_size: 128, without: feature::LOG_ALL }
    }
}

/// A guest with its memory, which outlives connections.
#[derive(Clone)]
pub struct Guest {
    /// Mapped.
    pub memory: Arc<GuestMemoryMmap>,
    /// What it is mapped from.
    pub file: Arc<File>,
}

impl Guest {
    /// Memory of zeroes.
    pub fn new() -> Guest {
        let fd = memfd_create("silt-guest", MemfdFlags::CLOEXEC).expect("no memory for a guest");
        ftruncate(&fd, MEMORY_BYTES).expect("no memory for a guest");
        let file = Arc::new(File::from(fd));
        let half = MEMORY_BYTES / 2;
        let ranges = [0, half].map(|at| {
            let from = FileOffset::from_arc(file.clone(), at);
            (GuestAddress(GUEST_START + at), half as usize, Some(from))
        });
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges);
        Guest { memory: Arc::new(memory.expect("no memory for a guest")), file }
    }

    /// As a monitor describes it: two regions.
    pub fn regions(&self) -> [VhostUserMemoryRegionInfo; 2] {
        let half = MEMORY_BYTES / 2;
        [0, half].map(|at| VhostUserMemoryRegionInfo {
            guest_phys_addr: GUEST_START + at,
            memory_size: half,
            userspace_addr: USER_START + at,
            mmap_offset: at,
            mmap_handle: self.file.as_raw_fd(),
        })
    }
}

impl Default for Guest {
    fn default() -> Guest {
        Guest::new()
    }
}

/// A connection, its queues, and its guest.
pub struct VhostUserClient {
    /// The guest.
    pub guest: Guest,
    /// Messages.
    pub frontend: Mutex<Frontend>,
    /// Features that were agreed on.
    pub features: u64,
    queues: Vec<Mutex<VirtQueue>>,
    next_queue: AtomicUsize,
    /// Held while a part of a sector is written.
    edges: Mutex<()>,
    geometry: Mutex<Geometry>,
}

/// Protocol features that the client uses.
pub const PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::CONFIG)
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::BACKEND_REQ)
    .union(VhostUserProtocolFeatures::LOG_SHMFD)
    .union(VhostUserProtocolFeatures::INFLIGHT_SHMFD)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS);

impl VhostUserClient {
    /// Connects and starts every queue.
    pub fn connect(path: &Path, wishes: Wishes) -> Result<VhostUserClient> {
        let client = VhostUserClient::negotiate(path, Guest::new(), wishes)?;
        client.start(None)?;
        Ok(client)
    }

    /// Connects and agrees on features; nothing runs yet.
    pub fn negotiate(path: &Path, guest: Guest, wishes: Wishes) -> Result<VhostUserClient> {
        let stream = UnixStream::connect(path).context(|| "cannot connect".into())?;
        let mut frontend = Frontend::from_stream(stream, 256);
        let what = |what: &'static str| move || what.to_owned();
        frontend.set_owner().map_err(told)?;
        let offered = frontend.get_features().map_err(told)?;
        let features = offered & !wishes.without;
        let protocol = frontend.get_protocol_features().map_err(told)?;
        frontend.set_protocol_features(protocol).map_err(told)?;
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        if (frontend.get_queue_num().map_err(told)? as usize) < wishes.queues {
            return Err(Error::invalid("the device has fewer queues"));
        }
        frontend.set_features(features).map_err(told)?;
        let event_idx = features & feature::EVENT_IDX != 0;
        let queue = |index: usize| {
            let start = GUEST_START + index as u64 * QUEUE_BYTES;
            let memory = guest.memory.clone();
            VirtQueue::new(memory, start, wishes.queue_size, event_idx).map(Mutex::new)
        };
        let queues = (0..wishes.queues).map(queue).collect::<Result<Vec<_>>>();
        let client = VhostUserClient {
            queues: queues.context(what("no queues"))?,
            guest,
            frontend: Mutex::new(frontend),
            features,
            next_queue: AtomicUsize::new(0),
            edges: Mutex::new(()),
            geometry: Mutex::new(Geometry { size_bytes: 0, read_only: false }),
        };
        client.look_again()?;
        Ok(client)
    }

    /// Shares memory and starts every queue at its beginning.
    pub fn start(&self, inflight: Option<(&VhostUserInflight, &File)>) -> Result<()> {
        self.lock_frontend().set_mem_table(&self.guest.regions()).map_err(told)?;
        if let Some((inflight, file)) = inflight {
            let mut frontend = self.lock_frontend();
            frontend.set_inflight_fd(inflight, file.as_raw_fd()).map_err(told)?;
        }
        (0..self.queues.len()).try_for_each(|index| self.start_queue(index, 0))
    }

    /// Starts a queue.
    pub fn start_queue(&self, index: usize, base: u16) -> Result<()> {
        let queue = self.queue(index);
        let mut frontend = self.lock_frontend();
        let [table, available, used] = queue.places().map(|place| place - GUEST_START + USER_START);
        let place = VringConfigData {
            queue_max_size: queue.size(),
            queue_size: queue.size(),
            flags: 0,
            desc_table_addr: table,
            used_ring_addr: used,
            avail_ring_addr: available,
            log_addr: None,
        };
        frontend.set_vring_num(index, queue.size()).map_err(told)?;
        frontend.set_vring_base(index, base).map_err(told)?;
        frontend.set_vring_addr(index, &place).map_err(told)?;
        frontend.set_vring_err(index, &queue.error).map_err(told)?;
        frontend.set_vring_call(index, &queue.call).map_err(told)?;
        frontend.set_vring_kick(index, &queue.kick).map_err(told)?;
        frontend.set_vring_enable(index, true).map_err(told)
    }

    /// Stops a queue: where another server goes on.
    pub fn stop_queue(&self, index: usize) -> Result<u16> {
        let base = self.lock_frontend().get_vring_base(index).map_err(told)?;
        u16::try_from(base).map_err(|_| Error::invalid("no ring has such an index"))
    }

    /// Messages.
    pub fn lock_frontend(&self) -> MutexGuard<'_, Frontend> {
        self.frontend.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A queue.
    pub fn queue(&self, index: usize) -> MutexGuard<'_, VirtQueue> {
        self.queues[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device's configuration space.
    pub fn config(&self) -> Result<Vec<u8>> {
        let mut frontend = self.lock_frontend();
        let flags = VhostUserConfigFlags::empty();
        let config = frontend.get_config(0, 60, flags, &[0; 60]).map_err(told)?;
        Ok(config.1)
    }

    /// Takes the disk's size anew.
    pub fn look_again(&self) -> Result<()> {
        let sectors = number(&self.config()?[..8]);
        let read_only = self.features & feature::READ_ONLY != 0;
        *self.geometry.lock().unwrap_or_else(PoisonError::into_inner) =
            Geometry { size_bytes: sectors * SECTOR as u64, read_only };
        Ok(())
    }

    /// Memory for the data of the requests of a queue.
    pub fn data_place(index: usize) -> u64 {
        DATA_START + index as u64 * 2 * DATA_BYTES
    }

    /// One request on a queue, from beginning to end: its header, data for the device, room to be filled. Answers the
    /// status, and what was filled.
    pub fn ask(
        &self,
        index: usize,
        (kind, sector): (u32, u64),
        data: &[u8],
        room: usize,
    ) -> Result<(u8, Vec<u8>)> {
        // The queue's data goes with it.
        let mut queue = self.queue(index);
        let place = VhostUserClient::data_place(index);
        let memory = &self.guest.memory;
        let put = |bytes: &[u8], at| {
            memory.write_slice(bytes, GuestAddress(at)).expect("data lies in memory");
        };
        let header = header(kind, sector);
        put(&header, place - 64);
        put(data, place);
        put(&[0xee], place - 16);
        let part = |address, len, is_writable| Part { address, len, is_writable };
        let mut parts = vec![part(place - 64, 16, false)];
        // In two pieces where that can be.
        for (len, is_writable) in [(data.len() as u32, false), (room as u32, true)] {
            let first = len.min(700);
            parts.push(part(place, first, is_writable));
            parts.push(part(place + u64::from(first), len - first, is_writable));
        }
        parts.retain(|part| part.len > 0);
        parts.push(part(place - 16, 1, true));
        let is_indirect =
            self.features & feature::INDIRECT != 0 && (data.len() + room).is_multiple_of(1024);
        queue.submit(0, &parts, is_indirect);
        queue.tell(1);
        let (head, len) = queue.wait_used()?;
        assert_eq!((head, len as usize), (0, room + 1), "an answer to another request");
        let mut status = [0];
        memory.read_slice(&mut status, GuestAddress(place - 16)).expect("status lies in memory");
        let mut filled = vec![0; room];
        memory.read_slice(&mut filled, GuestAddress(place)).expect("data lies in memory");
        Ok((status[0], filled))
    }

    /// The same, which has to succeed.
    fn succeed(&self, request: (u32, u64), data: &[u8], room: usize) -> Result<Vec<u8>> {
        let index = self.next_queue.fetch_add(1, Ordering::Relaxed) % self.queues.len();
        match self.ask(index, request, data, room)? {
            (0, filled) => Ok(filled),
            (status, _) => {
                let message = format!("the device answered {request:?} with {status}");
                Err(Error::new(ErrorKind::Io, message))
            }
        }
    }

    fn check(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.geometry().size_bytes => Ok(()),
            _ => Err(Error::invalid(format!("{len} bytes at {offset} are beyond the disk"))),
        }
    }

    /// Whole sectors.
    fn read_sectors(&self, buf: &mut [u8], sector: u64) -> Result<()> {
        for (index, part) in buf.chunks_mut(DATA_BYTES as usize).enumerate() {
            let at = sector + index as u64 * DATA_BYTES / SECTOR as u64;
            part.copy_from_slice(&self.succeed((request::IN, at), b"", part.len())?);
        }
        Ok(())
    }

    fn write_sectors(&self, buf: &[u8], sector: u64) -> Result<()> {
        for (index, part) in buf.chunks(DATA_BYTES as usize).enumerate() {
            let at = sector + index as u64 * DATA_BYTES / SECTOR as u64;
            self.succeed((request::OUT, at), part, 0)?;
        }
        Ok(())
    }

    fn zero(&self, kind: u32, (offset, len): (u64, u64), flags: u32) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let sector = SECTOR as u64;
        let mut range = (offset / sector).to_le_bytes().to_vec();
        range.extend(((len / sector) as u32).to_le_bytes());
        range.extend(flags.to_le_bytes());
        self.succeed((kind, 0), &range, 0).map(drop)
    }
}

/// The header of a request.
pub fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    header
}

fn told(error: vhost::Error) -> Error {
    Error::with_source(ErrorKind::Io, "the server refused a message", error)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl BlockDevice for VhostUserClient {
    fn geometry(&self) -> Geometry {
        *self.geometry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn readv_at(&self, buf: IoBufMut<'_>, offset: u64) -> Result<()> {
        read_through_private_memory(self, buf, offset)
    }

    fn writev_at(&self, buf: IoBuf<'_>, offset: u64) -> Result<()> {
        write_through_private_memory(self, buf, offset)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.check(offset, buf.len() as u64)?;
        let first = offset as usize / SECTOR;
        let end = (offset as usize + buf.len()).div_ceil(SECTOR);
        let mut sectors = vec![0; (end - first) * SECTOR];
        self.read_sectors(&mut sectors, first as u64)?;
        buf.copy_from_slice(&sectors[offset as usize % SECTOR..][..buf.len()]);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.check(offset, buf.len() as u64)?;
        let is_whole = |at: usize| at.is_multiple_of(SECTOR);
        let first = offset as usize / SECTOR;
        if is_whole(offset as usize) && is_whole(buf.len()) {
            return self.write_sectors(buf, first as u64);
        }
        let _alone = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        let end = (offset as usize + buf.len()).div_ceil(SECTOR);
        let mut sectors = vec![0; (end - first) * SECTOR];
        self.read_sectors(&mut sectors, first as u64)?;
        sectors[offset as usize % SECTOR..][..buf.len()].copy_from_slice(buf);
        self.write_sectors(&sectors, first as u64)
    }

    fn flush(&self) -> Result<()> {
        self.succeed((request::FLUSH, 0), b"", 0).map(drop)
    }

    fn discard(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.check(offset, len_bytes)?;
        let start = (offset as usize).next_multiple_of(BLOCK) as u64;
        let end = (offset + len_bytes) / BLOCK as u64 * BLOCK as u64;
        self.zero(request::DISCARD, (start, end.saturating_sub(start)), 0)
    }

    fn write_zeroes(&self, offset: u64, len_bytes: u64, may_unmap: bool) -> Result<()> {
        self.check(offset, len_bytes)?;
        let sector = SECTOR as u64;
        let (start, end) =
            (offset.next_multiple_of(sector), (offset + len_bytes) / sector * sector);
        if start >= end {
            return self.write_at(&vec![0; len_bytes as usize], offset);
        }
        self.write_at(&vec![0; (start - offset) as usize], offset)?;
        self.zero(request::WRITE_ZEROES, (start, end - start), may_unmap.into())?;
        self.write_at(&vec![0; (offset + len_bytes - end) as usize], end)
    }

    /// Virtio has no way to ask.
    fn block_status(&self, offset: u64, len_bytes: u64, _runs: usize) -> Result<Vec<BlockStatus>> {
        self.check(offset, len_bytes)?;
        Ok(vec![BlockStatus { len_bytes, hole: false, zero: false }])
    }
}
