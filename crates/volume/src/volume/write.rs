//! Writing and zeroing: into the own delta, block by block where a block joins, in place where it is in already.

use super::{Layer, Layers, Volume};
use crate::delta::{Delta, Space};
use silt_sys::iobuf::IoBuf;
use silt_types::{BLOCK_SIZE_BYTES, BlockRange, Result};
use std::sync::{Arc, PoisonError, RwLockReadGuard};

const BLOCK: usize = BLOCK_SIZE_BYTES as usize;
const ZERO_BLOCK: [u8; BLOCK] = [0; BLOCK];

/// A block in one page, as the delta writes it without a copy.
#[repr(align(4096))]
struct Merged([u8; BLOCK]);

/// Blocks zeroed at a time, 1 GiB, so that a guest that discards its whole disk does not hold others up.
const ZERO_BLOCKS_MAX: u64 = 1 << 18;

impl Volume {
    pub(super) fn write(&self, buf: IoBuf<'_>, offset: u64) -> Result<()> {
        self.write_over(&self.layers_to_write(), buf, offset)
    }

    /// The layers, which stay as they are until the guard is dropped: a rotation waits for it.
    fn layers_to_write(&self) -> RwLockReadGuard<'_, Arc<Layers>> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_over(&self, layers: &Layers, buf: IoBuf<'_>, offset: u64) -> Result<()> {
        let own = layers.writable()?;
        self.check(offset, buf.len() as u64)?;
        let touched = blocks_touched(offset, buf.len() as u64);
        if own.members().all_take_space(touched) {
            return own.overwrite(buf, offset);
        }
        self.growing(layers, own, touched, || self.write_and_join(layers, own, buf, offset))
    }

    /// Writes where not every block is in.
    fn write_and_join(
        &self,
        layers: &Layers,
        own: &Delta,
        buf: IoBuf<'_>,
        offset: u64,
    ) -> Result<()> {
        if own.members().contains_all(blocks_touched(offset, buf.len() as u64)) {
            return own.overwrite(buf, offset);
        }
        let head_len =
            ((offset.next_multiple_of(BLOCK_SIZE_BYTES) - offset) as usize).min(buf.len());
        let mut tail = buf;
        let head = tail.take(head_len);
        let whole = tail.take(tail.len() / BLOCK * BLOCK);
        let first = (offset + head_len as u64) / BLOCK_SIZE_BYTES;
        if !head.is_empty() {
            self.write_part(layers, own, head, offset)?;
        }
        if !whole.is_empty() {
            let blocks = BlockRange { start: first, len: (whole.len() / BLOCK) as u64 };
            let _no_merges = self.first_touch.replace(blocks);
            own.write_blocks(whole, first)?;
        }
        if !tail.is_empty() {
            self.write_part(layers, own, tail, first * BLOCK_SIZE_BYTES + whole.len() as u64)?;
        }
        Ok(())
    }

    /// Writes a part of one block. See [`super::first_touch`] for the lock.
    fn write_part(&self, layers: &Layers, own: &Delta, part: IoBuf<'_>, offset: u64) -> Result<()> {
        let block = offset / BLOCK_SIZE_BYTES;
        if own.members().contains(block) {
            return own.overwrite(part, offset);
        }
        let _alone = self.first_touch.merge(block);
        if own.members().contains(block) {
            return own.overwrite(part, offset);
        }
        let mut merged = Merged(ZERO_BLOCK);
        self.read_block(layers, &mut merged.0, block)?;
        let start = (offset % BLOCK_SIZE_BYTES) as usize;
        part.copy_to(&mut merged.0[start..start + part.len()]);
        own.write_blocks(merged.0.as_slice().into(), block)
    }

    pub(super) fn discard_whole_blocks(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.layers_to_write().writable()?;
        self.check(offset, len_bytes)?;
        self.zero_blocks(blocks_inside(offset, len_bytes), Space::Release)
    }

    pub(super) fn zero(&self, offset: u64, len_bytes: u64, may_unmap: bool) -> Result<()> {
        self.layers_to_write().writable()?;
        self.check(offset, len_bytes)?;
        let space = if may_unmap { Space::Release } else { Space::Keep };
        let whole = blocks_inside(offset, len_bytes);
        if whole.len == 0 {
            // At most two parts of blocks.
            let head_len = (offset.next_multiple_of(BLOCK_SIZE_BYTES) - offset).min(len_bytes);
            self.write_zeroes(head_len, offset)?;
            return self.write_zeroes(len_bytes - head_len, offset + head_len);
        }
        let (start, end) = (whole.start * BLOCK_SIZE_BYTES, whole.end() * BLOCK_SIZE_BYTES);
        self.write_zeroes(start - offset, offset)?;
        self.zero_blocks(whole, space)?;
        self.write_zeroes(offset + len_bytes - end, end)
    }

    /// Writes less than a block of zeros.
    fn write_zeroes(&self, len_bytes: u64, offset: u64) -> Result<()> {
        self.write(ZERO_BLOCK[..len_bytes as usize].into(), offset)
    }

    fn zero_blocks(&self, blocks: BlockRange, space: Space) -> Result<()> {
        let mut start = blocks.start;
        while start < blocks.end() {
            // Taken for each part anew, so that a rotation does not wait for a guest that discards its whole disk.
            let layers = self.layers_to_write();
            let own = layers.writable()?;
            let len = (blocks.end() - start).min(ZERO_BLOCKS_MAX);
            let part = BlockRange { start, len };
            match space {
                Space::Keep => {
                    let zero = || self.zero_now(own, part, space);
                    self.growing(&layers, own, part, zero)?;
                }
                Space::Release => self.zero_where_needed(&layers, own, part)?,
            }
            start += len;
        }
        Ok(())
    }

    /// Zeroes what does not read as zero for ever already: blocks that no delta has and the base does not map need no
    /// record. So a guest that discards a fresh disk, as mkfs does, adds nothing.
    fn zero_where_needed(&self, layers: &Layers, own: &Delta, blocks: BlockRange) -> Result<()> {
        let mut needed = BlockRange { start: blocks.start, len: 0 };
        let mut at = blocks.start;
        while at < blocks.end() {
            let (layer, len) = layers.locate(at, blocks.end());
            let run_end = at + len;
            while at < run_end {
                let (zero, len) = match layer {
                    Layer::Own(_) | Layer::Frozen(_) => (false, run_end - at),
                    Layer::Base => layers.base_zero_at(at, run_end)?,
                };
                if zero {
                    self.zero_now(own, needed, Space::Release)?;
                    needed = BlockRange { start: at + len, len: 0 };
                } else {
                    needed.len += len;
                }
                at += len;
            }
        }
        self.zero_now(own, needed, Space::Release)
    }

    fn zero_now(&self, own: &Delta, blocks: BlockRange, space: Space) -> Result<()> {
        if blocks.len == 0 {
            return Ok(());
        }
        let _no_merges = self.first_touch.replace(blocks);
        own.zero_blocks(blocks, space)
    }
}

/// Blocks that have a byte in the range.
fn blocks_touched(offset: u64, len_bytes: u64) -> BlockRange {
    let start = offset / BLOCK_SIZE_BYTES;
    let end = (offset + len_bytes).div_ceil(BLOCK_SIZE_BYTES);
    BlockRange { start, len: end.saturating_sub(start) }
}

/// Blocks that lie wholly in the range.
fn blocks_inside(offset: u64, len_bytes: u64) -> BlockRange {
    let start = offset.div_ceil(BLOCK_SIZE_BYTES);
    let end = (offset + len_bytes) / BLOCK_SIZE_BYTES;
    BlockRange { start, len: end.saturating_sub(start) }
}
