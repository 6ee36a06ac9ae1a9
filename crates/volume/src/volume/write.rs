//! Writing and zeroing: into the own delta, block by block where a block joins, in place where it is in already.

use super::{Layer, Volume};
use crate::delta::{Delta, Space};
use silt_types::{BLOCK_SIZE_BYTES, BlockRange, Result};

const BLOCK: usize = BLOCK_SIZE_BYTES as usize;
const ZERO_BLOCK: [u8; BLOCK] = [0; BLOCK];

/// Blocks zeroed at a time, 1 GiB, so that a guest that discards its whole disk does not hold others up.
const ZERO_BLOCKS_MAX: u64 = 1 << 18;

impl Volume {
    pub(super) fn write(&self, buf: &[u8], offset: u64) -> Result<()> {
        let own = self.writable()?;
        self.check(offset, buf.len() as u64)?;
        if own.members().contains_all(blocks_touched(offset, buf.len() as u64)) {
            return own.overwrite(buf, offset);
        }
        let head_len =
            ((offset.next_multiple_of(BLOCK_SIZE_BYTES) - offset) as usize).min(buf.len());
        let (head, rest) = buf.split_at(head_len);
        let (whole, tail) = rest.split_at(rest.len() / BLOCK * BLOCK);
        let first = (offset + head_len as u64) / BLOCK_SIZE_BYTES;
        if !head.is_empty() {
            self.write_part(own, head, offset)?;
        }
        if !whole.is_empty() {
            let blocks = BlockRange { start: first, len: (whole.len() / BLOCK) as u64 };
            let _no_merges = self.first_touch.replace(blocks);
            own.write_blocks(whole, first)?;
        }
        if !tail.is_empty() {
            self.write_part(own, tail, first * BLOCK_SIZE_BYTES + whole.len() as u64)?;
        }
        Ok(())
    }

    /// Writes a part of one block. See [`super::first_touch`] for the lock.
    fn write_part(&self, own: &Delta, part: &[u8], offset: u64) -> Result<()> {
        let block = offset / BLOCK_SIZE_BYTES;
        if own.members().contains(block) {
            return own.overwrite(part, offset);
        }
        let _alone = self.first_touch.merge(block);
        if own.members().contains(block) {
            return own.overwrite(part, offset);
        }
        let mut merged = ZERO_BLOCK;
        self.read_block(&mut merged, block)?;
        let start = (offset % BLOCK_SIZE_BYTES) as usize;
        merged[start..start + part.len()].copy_from_slice(part);
        own.write_blocks(&merged, block)
    }

    pub(super) fn discard_whole_blocks(&self, offset: u64, len_bytes: u64) -> Result<()> {
        let own = self.writable()?;
        self.check(offset, len_bytes)?;
        self.zero_blocks(own, blocks_inside(offset, len_bytes), Space::Release)
    }

    pub(super) fn zero(&self, offset: u64, len_bytes: u64, may_unmap: bool) -> Result<()> {
        let own = self.writable()?;
        self.check(offset, len_bytes)?;
        let space = if may_unmap { Space::Release } else { Space::Keep };
        let whole = blocks_inside(offset, len_bytes);
        if whole.len == 0 {
            // At most two parts of blocks.
            let head_len = (offset.next_multiple_of(BLOCK_SIZE_BYTES) - offset).min(len_bytes);
            self.write(&ZERO_BLOCK[..head_len as usize], offset)?;
            return self.write(&ZERO_BLOCK[..(len_bytes - head_len) as usize], offset + head_len);
        }
        let (start, end) = (whole.start * BLOCK_SIZE_BYTES, whole.end() * BLOCK_SIZE_BYTES);
        self.write(&ZERO_BLOCK[..(start - offset) as usize], offset)?;
        self.zero_blocks(own, whole, space)?;
        self.write(&ZERO_BLOCK[..(offset + len_bytes - end) as usize], end)
    }

    fn zero_blocks(&self, own: &Delta, blocks: BlockRange, space: Space) -> Result<()> {
        let mut start = blocks.start;
        while start < blocks.end() {
            let len = (blocks.end() - start).min(ZERO_BLOCKS_MAX);
            let part = BlockRange { start, len };
            match space {
                Space::Keep => self.zero_now(own, part, space)?,
                Space::Release => self.zero_where_needed(own, part)?,
            }
            start += len;
        }
        Ok(())
    }

    /// Zeroes what does not read as zero for ever already: blocks that no delta has and the base does not map need no
    /// record. So a guest that discards a fresh disk, as mkfs does, adds nothing.
    fn zero_where_needed(&self, own: &Delta, blocks: BlockRange) -> Result<()> {
        let mut needed = BlockRange { start: blocks.start, len: 0 };
        let mut at = blocks.start;
        while at < blocks.end() {
            let (layer, len) = self.locate(at, blocks.end());
            let run_end = at + len;
            while at < run_end {
                let (zero, len) = match layer {
                    Layer::Own(_) | Layer::Frozen(_) => (false, run_end - at),
                    Layer::Base => self.base_zero_at(at, run_end)?,
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

    /// Whether the base reads as zero at a block, and for how many blocks up to `end` that can be told at once.
    pub(super) fn base_zero_at(&self, block: u64, end: u64) -> Result<(bool, u64)> {
        if block * BLOCK_SIZE_BYTES >= self.base.disk_id().size_bytes {
            return Ok((true, end - block));
        }
        let extent = self.base.lookup(block)?;
        Ok((extent.place.is_none(), extent.len_blocks.min(end - block)))
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
