//! The driver's part of one split virtqueue ("2.7" of virtio 1.3), as Linux does it. Each slot has its descriptors, header, status
//! and data in one place, which do not change from request to request but for the sector.

use crate::Result;
use crate::connection::GUEST_START;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{Ordering, fence};
use vm_memory::{Bytes as _, FileOffset, MmapRegion, VolatileMemory as _, VolatileSlice};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Descriptors.
pub const SIZE: u16 = 128;

/// Offsets in the guest's memory; the descriptor table is at 0.
pub const AVAILABLE_AT: usize = 8 << 10;
pub const USED_AT: usize = 12 << 10;
const SLOTS_AT: usize = 16 << 10;
const DATA_AT: usize = 1 << 20;

pub const MEMORY_BYTES: u64 = 33 << 20;

/// Requests under way, and data of each.
const DEPTH_MAX: u16 = 32;
const BLOCK_MAX: u32 = 1 << 20;

/// A slot: an indirect table of three descriptors, then header and status.
const SLOT_BYTES: usize = 256;
const HEADER_AT: usize = 64;
const STATUS_AT: usize = 128;

/// Fields behind the flags of both rings.
const INDEX_AT: usize = 2;
const ENTRIES_AT: usize = 4;
/// At which of its answers the device is to tell, behind the available ring; at which request the driver is to, behind the used.
const USED_EVENT_AT: usize = AVAILABLE_AT + ENTRIES_AT + SIZE as usize * 2;
const AVAILABLE_EVENT_AT: usize = USED_AT + ENTRIES_AT + SIZE as usize * 8;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
}

pub struct Queue {
    memory: MmapRegion,
    block: u32,
    next_available: u16,
    next_used: u16,
    /// What `next_available` was when the device was last told.
    told: u16,
    pub kick: EventFd,
    pub call: EventFd,
    /// Tells when that can be read.
    called: Epoll,
}

impl Queue {
    /// A queue whose requests are all of one kind and length.
    pub fn new(file: File, kind: Kind, block: u32, depth: u16) -> Result<Self> {
        if depth == 0 || depth > DEPTH_MAX || block == 0 || block > BLOCK_MAX {
            return Err(format!("at most {DEPTH_MAX} requests of {BLOCK_MAX} bytes").into());
        }
        let memory = MmapRegion::from_file(FileOffset::new(file, 0), MEMORY_BYTES as usize)?;
        let (kick, call, called) =
            (EventFd::new(EFD_NONBLOCK)?, EventFd::new(EFD_NONBLOCK)?, Epoll::new()?);
        let readable = EpollEvent::new(EventSet::IN, 0);
        called.ctl(ControlOperation::Add, call.as_raw_fd(), readable)?;
        let (next_available, next_used, told) = (0, 0, 0);
        let queue = Self { memory, block, next_available, next_used, told, kick, call, called };
        for slot in 0..depth {
            queue.lay_out(slot, kind)?;
        }
        Ok(queue)
    }

    fn lay_out(&self, slot: u16, kind: Kind) -> Result<()> {
        let (at, data_at) = (slot_at(slot), data_at(slot));
        let (data_flags, type_number) = match kind {
            Kind::Read => (NEXT | WRITE, 0_u32),
            Kind::Write => (NEXT, 1),
        };
        self.put_descriptor(usize::from(slot) * 16, at, 48, INDIRECT, 0)?;
        self.put_descriptor(at, at + HEADER_AT, 16, NEXT, 1)?;
        self.put_descriptor(at + 16, data_at, self.block, data_flags, 2)?;
        self.put_descriptor(at + 32, at + STATUS_AT, 1, WRITE, 0)?;
        self.all().write_obj(type_number.to_le(), at + HEADER_AT)?;
        // Every page is there before the first request; what is written differs from slot to slot.
        let pattern: Vec<u8> =
            (0..self.block).map(|byte| (byte % 251) as u8 ^ slot as u8).collect();
        Ok(self.all().write_slice(&pattern, data_at)?)
    }

    fn put_descriptor(&self, at: usize, to: usize, len: u32, flags: u16, next: u16) -> Result<()> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(GUEST_START + to as u64).to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        Ok(self.all().write_slice(&bytes, at)?)
    }

    /// Makes the request of a slot available, at an offset of the disk.
    pub fn submit(&mut self, slot: u16, offset: u64) -> Result<()> {
        let at = slot_at(slot);
        self.all().write_obj((offset / 512).to_le(), at + HEADER_AT + 8)?;
        self.all().write_obj(0xee_u8, at + STATUS_AT)?;
        let entry = AVAILABLE_AT + ENTRIES_AT + usize::from(self.next_available % SIZE) * 2;
        self.all().write_obj(slot.to_le(), entry)?;
        self.next_available = self.next_available.wrapping_add(1);
        let index = self.next_available.to_le();
        Ok(self.all().store(index, AVAILABLE_AT + INDEX_AT, Ordering::Release)?)
    }

    /// Tells the device of new requests, if it wants to be told.
    pub fn tell(&mut self) -> Result<()> {
        fence(Ordering::SeqCst);
        let event: u16 = self.all().load(AVAILABLE_EVENT_AT, Ordering::Acquire)?;
        let (old, new) = (self.told, self.next_available);
        self.told = new;
        if new.wrapping_sub(u16::from_le(event)).wrapping_sub(1) < new.wrapping_sub(old) {
            self.kick.write(1)?;
        }
        Ok(())
    }

    /// Sleeps until there is an answer.
    pub fn wait(&mut self) -> Result<()> {
        while !self.has_answer()? {
            self.all().store(self.next_used.to_le(), USED_EVENT_AT, Ordering::Relaxed)?;
            fence(Ordering::SeqCst);
            if !self.has_answer()? {
                // Servers make the event one that a read does not wait for.
                self.called.wait(-1, &mut [EpollEvent::default()])?;
                self.call.read()?;
            }
        }
        Ok(())
    }

    fn has_answer(&self) -> Result<bool> {
        let end: u16 = self.all().load(USED_AT + INDEX_AT, Ordering::Acquire)?;
        Ok(u16::from_le(end) != self.next_used)
    }

    /// The slot of the next answer that is there.
    pub fn take(&mut self) -> Result<Option<u16>> {
        if !self.has_answer()? {
            return Ok(None);
        }
        let at = USED_AT + ENTRIES_AT + usize::from(self.next_used % SIZE) * 8;
        let head: u32 = self.all().read_obj(at)?;
        let slot = u16::try_from(u32::from_le(head)).ok().filter(|slot| *slot < DEPTH_MAX);
        let slot = slot.ok_or("an answer to no request")?;
        match self.all().read_obj(slot_at(slot) + STATUS_AT)? {
            0_u8 => (),
            status => return Err(format!("the device answered with status {status}").into()),
        }
        self.next_used = self.next_used.wrapping_add(1);
        Ok(Some(slot))
    }

    /// Goes on with a CRC-32C over the data of a slot.
    pub fn add_to_sum(&self, slot: u16, sum: u32) -> Result<u32> {
        let mut data = vec![0; self.block as usize];
        self.all().read_slice(&mut data, data_at(slot))?;
        Ok(crc32c::crc32c_append(sum, &data))
    }

    fn all(&self) -> VolatileSlice<'_> {
        self.memory.as_volatile_slice()
    }
}

fn slot_at(slot: u16) -> usize {
    SLOTS_AT + usize::from(slot) * SLOT_BYTES
}

fn data_at(slot: u16) -> usize {
    DATA_AT + usize::from(slot) * BLOCK_MAX as usize
}
