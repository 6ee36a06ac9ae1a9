//! A request's descriptors, copied once out of the guest's memory: where its parts are, of any content.
//!
//! The guest may change its table at any time. So each entry is read once, and only the copy is looked at. A chain has no
//! more descriptors than the queue ("2.7.4 Message Framing" and "2.7.5.3" of virtio 1.3), which ends every loop.

use super::memory::GuestMemory;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _};

use silt_sys::iobuf::PieceMut;

const DESCRIPTOR_BYTES: u64 = 16;

/// A run of guest memory, as the guest named it: it may be anywhere. Never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) address: GuestAddress,
    pub(super) len: u32,
}

/// The parts of a request: those that the guest fills, then those that it wants filled.
#[derive(Debug, Default)]
pub(super) struct Chain {
    pub(super) readable: Vec<Segment>,
    pub(super) writable: Vec<Segment>,
}

/// The descriptors make no chain.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Some of it is no memory of the guest's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OutsideMemory;

impl Chain {
    /// Reads the chain that begins at `head` of the table of a queue of `size`. What was here before is forgotten.
    pub(super) fn read(
        &mut self,
        memory: &GuestMemory,
        mut table: GuestAddress,
        size: u16,
        head: u16,
    ) -> Result<(), Malformed> {
        self.readable.clear();
        self.writable.clear();
        let (mut entries, mut at, mut left) = (u32::from(size), head, size);
        let mut is_indirect = false;
        loop {
            if u32::from(at) >= entries || left == 0 {
                return Err(Malformed);
            }
            let entry = table.0.checked_add(u64::from(at) * DESCRIPTOR_BYTES).ok_or(Malformed)?;
            let found: Descriptor = memory.read_obj(GuestAddress(entry)).map_err(|_| Malformed)?;
            if found.refers_to_indirect_table() {
                if is_indirect || found.has_next() || !found.len().is_multiple_of(16) {
                    return Err(Malformed);
                }
                (table, entries, at) = (found.addr(), found.len() / DESCRIPTOR_BYTES as u32, 0);
                is_indirect = true;
                continue;
            }
            left -= 1;
            self.push(&found)?;
            if !found.has_next() {
                return Ok(());
            }
            at = found.next();
        }
    }

    fn push(&mut self, found: &Descriptor) -> Result<(), Malformed> {
        let segment = Segment { address: found.addr(), len: found.len() };
        let parts = if found.is_write_only() { &mut self.writable } else { &mut self.readable };
        if segment.len > 0 {
            parts.push(segment);
        }
        // What the guest fills must come before what it wants filled.
        if found.is_write_only() || self.writable.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// Length in bytes of all of them.
pub(super) fn total_len(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.len)).sum()
}

/// Takes bytes off the front, however they are cut.
pub(super) fn take_front(
    memory: &GuestMemory,
    segments: &mut Vec<Segment>,
    bytes: &mut [u8],
) -> Result<(), OutsideMemory> {
    let (mut filled, mut used_up) = (0, 0);
    for segment in segments.iter_mut() {
        let part = (bytes.len() - filled).min(segment.len as usize);
        let into = &mut bytes[filled..filled + part];
        memory.read_slice(into, segment.address).map_err(|_| OutsideMemory)?;
        filled += part;
        // It was read, so it does not end beyond the address space.
        segment.address.0 += part as u64;
        segment.len -= part as u32;
        if segment.len > 0 {
            break;
        }
        used_up += 1;
    }
    segments.drain(..used_up);
    if filled == bytes.len() { Ok(()) } else { Err(OutsideMemory) }
}

/// Takes the last byte off; `None` if there is none.
pub(super) fn take_last_byte(segments: &mut Vec<Segment>) -> Option<GuestAddress> {
    let last = segments.last_mut()?;
    last.len -= 1;
    let address = last.address.0.checked_add(u64::from(last.len))?;
    if last.len == 0 {
        segments.pop();
    }
    Some(GuestAddress(address))
}

/// The memory itself, appended to `pieces`.
pub(super) fn find_memory<'m>(
    memory: &'m GuestMemory,
    segments: &[Segment],
    pieces: &mut Vec<PieceMut<'m>>,
) -> Result<(), OutsideMemory> {
    for segment in segments {
        for slice in memory.get_slices(segment.address, segment.len as usize) {
            pieces.push(PieceMut::from(&slice.map_err(|_| OutsideMemory)?));
        }
    }
    Ok(())
}
