//! The disk to be sealed: a delta over a base, each to be read apart or both as one.

use super::DirtyBlocks;
use crate::map::{ChunkPlace, DiskMap};
use silt_ext4::reader::DiskRead;
use silt_store::{Chunk, ChunkSource, KeyContext};
use silt_types::{BLOCK_SIZE_BYTES, BlockRange, ChunkId, DiskId, Error, ErrorKind, Result};
use std::{cell::RefCell, sync::Arc};

/// Bytes of a block, as an index.
pub(super) const BLOCK: usize = BLOCK_SIZE_BYTES as usize;

/// A delta over a base. Shared by all workers.
pub(super) struct FrozenDisk<'a> {
    pub(super) source: Arc<dyn ChunkSource>,
    pub(super) base: DiskMap,
    pub(super) delta: &'a dyn DirtyBlocks,
}

impl<'a> FrozenDisk<'a> {
    pub(super) fn new(
        source: Arc<dyn ChunkSource>,
        base: DiskId,
        delta: &'a dyn DirtyBlocks,
    ) -> Result<FrozenDisk<'a>> {
        Ok(FrozenDisk { base: DiskMap::open(source.clone(), base)?, source, delta })
    }

    /// A reader of the base for one thread.
    pub(super) fn base_reader(&self) -> BaseReader<'_> {
        BaseReader { source: &*self.source, map: &self.base, last: None }
    }

    /// The block in which the base ends, if the disk has grown beyond and the delta has not this block. A base hides what
    /// its chunk holds behind its end; in a longer disk that would come to light, so the block counts as changed.
    pub(super) fn uncovered_block(&self) -> Option<u64> {
        let len_bytes = self.base.disk_id().size_bytes;
        let block = len_bytes / BLOCK_SIZE_BYTES;
        let within = !len_bytes.is_multiple_of(BLOCK_SIZE_BYTES);
        let grown = self.delta.size_bytes() > len_bytes;
        (within && grown && !self.delta.contains(block)).then_some(block)
    }
}

/// Reads the base, and remembers the last chunk: neighbouring blocks often share it.
pub(super) struct BaseReader<'a> {
    source: &'a dyn ChunkSource,
    map: &'a DiskMap,
    last: Option<(ChunkId, Chunk)>,
}

impl BaseReader<'_> {
    /// Where blocks that follow each other are in the base; nowhere behind its end. `places` is as long as the range.
    pub(super) fn places(
        &self,
        range: BlockRange,
        places: &mut [Option<ChunkPlace>],
    ) -> Result<()> {
        let base_blocks = self.map.disk_id().size_bytes.div_ceil(BLOCK_SIZE_BYTES);
        let mut at = range.start;
        while at < range.end() {
            let left = &mut places[(at - range.start) as usize..];
            if at >= base_blocks {
                left.fill(None);
                return Ok(());
            }
            let extent = self.map.lookup(at)?;
            let len = extent.len_blocks.min(range.end() - at);
            for (n, place) in (0..len).zip(left) {
                *place = extent
                    .place
                    .map(|first| ChunkPlace { offset_blocks: first.offset_blocks + n, ..first });
            }
            at += len;
        }
        Ok(())
    }

    /// Whether the block at `place` holds just this, a block's length.
    pub(super) fn holds(&mut self, place: ChunkPlace, content: &[u8]) -> Result<bool> {
        let found = self.block(place)?;
        let (same, rest) = content.split_at(found.len());
        Ok(same == found && rest.iter().all(|byte| *byte == 0))
    }

    /// The bytes of the block at `place`, fewer where the chunk ends before it does.
    fn block(&mut self, place: ChunkPlace) -> Result<&[u8]> {
        let chunk = match self.last.take() {
            Some((id, chunk)) if id == place.chunk => chunk,
            _ => self.source.get(KeyContext::Content, &place.chunk)?,
        };
        let (_, chunk) = self.last.insert((place.chunk, chunk));
        let start = (place.offset_blocks as usize * BLOCK).min(chunk.len());
        Ok(&chunk[start..chunk.len().min(start + BLOCK)])
    }

    /// Fills `buf`, at most the rest of a block, from byte `skip` of a block on; zero behind the end of the base.
    pub(super) fn read(&mut self, buf: &mut [u8], block: u64, skip: usize) -> Result<()> {
        buf.fill(0);
        let left = self.map.disk_id().size_bytes.saturating_sub(block * BLOCK_SIZE_BYTES);
        if left == 0 {
            return Ok(());
        }
        let Some(place) = self.map.lookup(block)?.place else { return Ok(()) };
        let found = self.block(place)?;
        let found = &found[..found.len().min(left.min(BLOCK_SIZE_BYTES) as usize)];
        let found = found.get(skip..).unwrap_or_default();
        let len = found.len().min(buf.len());
        buf[..len].copy_from_slice(&found[..len]);
        Ok(())
    }
}

/// The whole disk for one reader of its file system.
pub(super) struct WholeDisk<'a> {
    frozen: &'a FrozenDisk<'a>,
    base: RefCell<BaseReader<'a>>,
    /// The first error that is not about what is stored but about getting at it.
    failed: RefCell<Option<Error>>,
}

impl<'a> WholeDisk<'a> {
    pub(super) fn new(frozen: &'a FrozenDisk<'a>) -> WholeDisk<'a> {
        let base = RefCell::new(frozen.base_reader());
        WholeDisk { frozen, base, failed: RefCell::default() }
    }

    /// Whether the operating system refused a read. That must not pass for damage of the file system: a seal that is
    /// done again has to cut alike.
    pub(super) fn failure(&self) -> Option<Error> {
        self.failed.take()
    }

    fn read_block(&self, piece: &mut [u8], block: u64, skip: usize) -> Result<()> {
        if self.frozen.delta.contains(block) {
            self.frozen.delta.read_at(piece, block * BLOCK_SIZE_BYTES + skip as u64)
        } else {
            self.base.borrow_mut().read(piece, block, skip)
        }
    }
}

impl DiskRead for WholeDisk<'_> {
    fn size_bytes(&self) -> u64 {
        self.frozen.delta.size_bytes()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size_bytes()) {
            return Err(Error::invalid(format!(
                "{} bytes at {offset} are beyond the disk",
                buf.len()
            )));
        }
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let skip = at as usize % BLOCK;
            let len = rest.len().min(BLOCK - skip);
            let (piece, behind) = rest.split_at_mut(len);
            if let Err(error) = self.read_block(piece, at / BLOCK_SIZE_BYTES, skip) {
                if error.kind() != ErrorKind::Io {
                    return Err(error);
                }
                let told = Error::new(ErrorKind::Io, "the disk cannot be read");
                self.failed.borrow_mut().get_or_insert(error);
                return Err(told);
            }
            (rest, at) = (behind, at + len as u64);
        }
        Ok(())
    }
}
