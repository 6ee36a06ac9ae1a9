//! A delta that is only read: a frozen one, or one that nobody has open.

use super::{
    WriteMark, contains,
    data::{Segments, SpaceRun},
    log, notes,
};
use roaring::{RoaringBitmap, bitmap};
use silt_format::DeltaLogState;
use silt_sys::iobuf::IoBufMut;
use silt_types::{BLOCK_SIZE_BYTES, BlockRange, DeltaId, Result};
use std::{path::Path, sync::Arc};

/// A delta open for reading, without a lock: nobody may write it meanwhile.
pub struct DeltaReader {
    mark: WriteMark,
    was_closed: bool,
    size_bytes: u64,
    segments: Arc<Segments>,
    members: RoaringBitmap,
}

/// Blocks of a delta that are alike in taking space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaRun {
    /// The blocks.
    pub range: BlockRange,
    /// They take no space and read as zero.
    pub hole: bool,
}

impl DeltaReader {
    /// Opens a delta and changes nothing in it. Has everything that was answered if its last process was killed in this
    /// boot. What a crash left of an append that was never answered is passed over;
    /// `Corrupt`, naming file and sector, if the record is damaged or shorter than it was. A delta that is being written
    /// meanwhile may seem so.
    pub fn open(dir: &Path) -> Result<DeltaReader> {
        let (header, mut members) = log::load(dir)?;
        let was_closed = matches!(header.state, DeltaLogState::Closed { .. });
        if !was_closed {
            members |= notes::load(dir, header.id, header.size_bytes)?;
        }
        let segments = Segments::open_readable(dir, header.size_bytes, &members)?;
        let mark = WriteMark { delta: header.id, generation: header.write_generation };
        let delta = DeltaReader::new(mark, header.size_bytes, Arc::new(segments), members);
        Ok(DeltaReader { was_closed, ..delta })
    }

    pub(super) fn new(
        mark: WriteMark,
        size_bytes: u64,
        segments: Arc<Segments>,
        members: RoaringBitmap,
    ) -> DeltaReader {
        DeltaReader { mark, was_closed: true, size_bytes, segments, members }
    }

    /// The delta's id.
    pub fn id(&self) -> DeltaId {
        self.mark.delta
    }

    /// The generation, if the delta was closed and so is durable as it is.
    pub fn settled(&self) -> Option<WriteMark> {
        self.was_closed.then_some(self.mark)
    }

    /// The generation that it is in, or was left in.
    pub fn mark(&self) -> WriteMark {
        self.mark
    }

    /// Length of the disk in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Number of blocks in the delta.
    pub fn blocks_modified(&self) -> u64 {
        self.members.len()
    }

    /// Space that the blocks take on their file system, in bytes.
    pub fn allocated_bytes(&self) -> Result<u64> {
        self.segments.allocated_bytes()
    }

    /// Whether a block is in.
    pub fn contains(&self, block: u64) -> bool {
        contains(&self.members, block)
    }

    /// Reads bytes of blocks that are in.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.readv_at(buf.into(), offset)
    }

    pub(crate) fn readv_at(&self, buf: IoBufMut<'_>, offset: u64) -> Result<()> {
        self.segments.read_at(buf, offset)
    }

    /// The blocks that are in, ascending, cut where space begins or ends to be taken.
    pub fn runs(&self) -> DeltaRuns<'_> {
        DeltaRuns {
            delta: self,
            members: self.members.iter(),
            rest: BlockRange { start: 0, len: 0 },
        }
    }

    pub(crate) fn members(&self) -> &RoaringBitmap {
        &self.members
    }

    pub(crate) fn space_at(&self, offset: u64, end: u64) -> Result<SpaceRun> {
        self.segments.space_at(offset, end)
    }
}

/// Iterator over the blocks of a delta; see [`DeltaReader::runs`].
pub struct DeltaRuns<'a> {
    delta: &'a DeltaReader,
    members: bitmap::Iter<'a>,
    rest: BlockRange,
}

impl Iterator for DeltaRuns<'_> {
    type Item = Result<DeltaRun>;

    fn next(&mut self) -> Option<Result<DeltaRun>> {
        if self.rest.len == 0 {
            let run = self.members.next_range()?;
            let (start, last) = (u64::from(*run.start()), u64::from(*run.end()));
            self.rest = BlockRange { start, len: last + 1 - start };
        }
        let BlockRange { start, len } = self.rest;
        let (offset, end) = (start * BLOCK_SIZE_BYTES, (start + len) * BLOCK_SIZE_BYTES);
        let found = self.delta.space_at(offset, end).map(|space| {
            // File systems with blocks of another size than ours may end a run inside a block: then it is data.
            let whole = space.len_bytes / BLOCK_SIZE_BYTES;
            let (len, hole) = if whole == 0 { (1, false) } else { (whole, space.hole) };
            DeltaRun { range: BlockRange { start, len }, hole }
        });
        let taken = found.as_ref().map_or(len, |run| run.range.len);
        self.rest = BlockRange { start: start + taken, len: len - taken };
        Some(found)
    }
}
