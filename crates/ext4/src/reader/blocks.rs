//! The blocks of the disk as they would be after a mount: what the journal committed lies over what stands in place.
//!
//! Everything the reader learns passes through here, so nothing is seen half old and half new. A few metadata blocks are
//! kept, because sixteen inodes share one; file data is not.

use super::disk::DiskRead;
use crate::format::journal::MAGIC;
use silt_types::{Error, Result};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Metadata blocks kept: 1 MiB at 4 KiB each. Holds the inode table and directory blocks in use while a tree is walked.
const CACHED_BLOCKS: usize = 256;

/// Where the newest committed copy of a block stands in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoggedBlock {
    /// The block of the disk that holds the copy.
    pub(super) at: u64,
    /// The copy's first word stands as zero for the log's magic number.
    pub(super) escaped: bool,
}

/// The newest committed copies, by the block they belong to.
pub(super) type Overlay = BTreeMap<u64, LoggedBlock>;

type Cached = Option<(u64, Arc<[u8]>)>;

/// A disk cut into file system blocks, with the journal's overlay.
pub(super) struct Blocks<D> {
    disk: D,
    block_size_bytes: usize,
    overlay: Overlay,
    cache: Mutex<Vec<Cached>>,
}

impl<D: DiskRead> Blocks<D> {
    pub(super) fn new(disk: D, block_size_bytes: usize) -> Blocks<D> {
        Blocks {
            disk,
            block_size_bytes,
            overlay: Overlay::new(),
            cache: Mutex::new(vec![None; CACHED_BLOCKS]),
        }
    }

    /// The same disk with the committed blocks of `overlay` over it.
    pub(super) fn with_overlay(self, overlay: Overlay) -> Blocks<D> {
        Blocks { overlay, ..Blocks::new(self.disk, self.block_size_bytes) }
    }

    pub(super) fn block_size_bytes(&self) -> usize {
        self.block_size_bytes
    }

    /// Whole blocks on the disk, whatever the file system claims.
    pub(super) fn count(&self) -> u64 {
        self.disk.size_bytes() / self.block_size_bytes as u64
    }

    /// The first block at or behind `block` that the journal has a newer copy of.
    pub(super) fn next_overlaid(&self, block: u64) -> Option<u64> {
        self.overlay.range(block..).next().map(|(block, _)| *block)
    }

    pub(super) fn overlay_len(&self) -> usize {
        self.overlay.len()
    }

    /// Whether any of these blocks comes from the journal.
    pub(super) fn is_logged(&self, blocks: std::ops::Range<u64>) -> bool {
        !self.overlay.is_empty() && self.overlay.range(blocks).next().is_some()
    }

    /// A metadata block.
    pub(super) fn read(&self, block: u64) -> Result<Arc<[u8]>> {
        let slot = block as usize % CACHED_BLOCKS;
        // A panic elsewhere leaves a slot whole: it is replaced in one assignment.
        if let Some((held, bytes)) =
            &self.cache.lock().unwrap_or_else(PoisonError::into_inner)[slot]
            && *held == block
        {
            return Ok(Arc::clone(bytes));
        }
        let mut bytes = vec![0; self.block_size_bytes];
        self.read_data(&mut bytes, block, 0)?;
        let bytes: Arc<[u8]> = bytes.into();
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)[slot] =
            Some((block, Arc::clone(&bytes)));
        Ok(bytes)
    }

    /// Fills `buf` from the blocks that start with `block`, leaving out their first `skip` bytes.
    pub(super) fn read_data(&self, buf: &mut [u8], block: u64, skip: u64) -> Result<()> {
        let size = self.block_size_bytes as u64;
        let start = self.offset(block)?.checked_add(skip).ok_or_else(|| self.outside(block))?;
        let end = start.checked_add(buf.len() as u64).ok_or_else(|| self.outside(block))?;
        let blocks = start / size..end.div_ceil(size);
        if blocks.end > self.count() {
            return Err(self.outside(blocks.end - 1));
        }
        if !self.is_logged(blocks) {
            return self.disk.read_at(buf, start);
        }
        let mut rest = buf;
        let mut at = start;
        while !rest.is_empty() {
            let len = rest.len().min((size - at % size) as usize);
            let (piece, tail) = rest.split_at_mut(len);
            self.read_piece(piece, at / size, at % size)?;
            (rest, at) = (tail, at + len as u64);
        }
        Ok(())
    }

    /// A block as it stands in place: for the log itself, over which nothing is ever laid.
    pub(super) fn read_in_place(&self, buf: &mut [u8], block: u64) -> Result<()> {
        self.disk.read_at(buf, self.offset(block)?)
    }

    /// Fills `piece` from one block, from its byte `skip` on.
    fn read_piece(&self, piece: &mut [u8], block: u64, skip: u64) -> Result<()> {
        let Some(logged) = self.overlay.get(&block) else {
            return self.disk.read_at(piece, self.offset(block)? + skip);
        };
        self.disk.read_at(piece, self.offset(logged.at)? + skip)?;
        if logged.escaped {
            for (byte, magic) in
                piece.iter_mut().zip(MAGIC.to_be_bytes().into_iter().skip(skip as usize))
            {
                *byte = magic;
            }
        }
        Ok(())
    }

    fn offset(&self, block: u64) -> Result<u64> {
        if block >= self.count() {
            return Err(self.outside(block));
        }
        Ok(block * self.block_size_bytes as u64)
    }

    fn outside(&self, block: u64) -> Error {
        Error::corrupt(format!("block {block} lies outside the disk of {} blocks", self.count()))
    }
}
