//! A delta: the blocks written or zeroed since the base, in place in sparse files, and the durable record of which
//! they are.
//!
//! A delta is a folder: `data.000` and following hold the blocks where the disk has them ([`data`]), `map.log` says which
//! blocks count ([`log`]), and `map.boot` which are not recorded yet ([`notes`]). Not for: what a block was before, nor
//! partial blocks of the disk; that is the volume's.
//!
//! Invariants: a block that joined stays in, so a zeroed block hides what lay below it for ever; its record becomes
//! durable only after its data; a failed sync poisons the delta. Explained in `docs/internals/delta.md`.

mod data;
mod flush;
mod lock;
mod log;
mod mark;
mod notes;
mod reader;

#[cfg(test)]
mod tests;

pub use data::Space;
pub use mark::WriteMark;
pub use notes::BOOT_NOTES;
pub use reader::{DeltaReader, DeltaRun, DeltaRuns};

use data::Segments;
use flush::FlushGate;
use lock::FolderLock;
use log::Log;
use mark::Marking;
use notes::Notes;
use roaring::RoaringBitmap;
use silt_sys::{
    durability,
    iobuf::{IoBuf, IoBufMut},
};
use silt_types::{BLOCK_SIZE_BYTES, BlockRange, DeltaId, Error, ErrorKind, Result};
use std::{
    ops::RangeInclusive,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard},
};

/// A delta open for writing; at most one at a time, enforced by a lock on its folder that dies with its holder.
///
/// Every method may be called from many threads at once. Dropping it without [`Delta::close`] is what the end of a process
/// is: all that was answered is there when it is opened again, as long as the machine runs; after a crash of the machine,
/// all that was flushed.
pub struct Delta {
    id: DeltaId,
    size_bytes: u64,
    segments: Arc<Segments>,
    members: RwLock<Members>,
    log: Mutex<Log>,
    flushes: FlushGate,
    marking: Marking,
    poison: OnceLock<String>,
    _lock: FolderLock,
}

struct Members {
    all: RoaringBitmap,
    /// Those that joined since the last flush took them to the log.
    unlogged: RoaringBitmap,
    /// Those that are known to take no space, as they were made zero: a write there needs some. Told about right; where a
    /// block is written and zeroed at once it may be wrong.
    holes: RoaringBitmap,
    /// Has at least those.
    notes: Notes,
}

impl Delta {
    /// Makes the delta of a disk of `size_bytes` in the new folder `dir`, without any block, and durable but for the name
    /// of `dir` in its parent. `AlreadyExists` if there is something.
    pub fn create(dir: &Path, id: DeltaId, size_bytes: u64) -> Result<Delta> {
        if !durability::create_dir(dir)? {
            let message = format!("the delta folder {} exists", dir.display());
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        let lock = FolderLock::acquire(dir)?;
        let log = Log::create(dir, id, size_bytes)?;
        durability::sync_dir(dir)?;
        let notes = Notes::begin(dir, id);
        Delta::assemble(dir, log, RoaringBitmap::new(), (notes, RoaringBitmap::new()), lock)
    }

    /// Opens a delta, with everything that was answered if its last process was killed in this boot, and cuts off what a
    /// crash left of an append that was never answered. `Busy` if another process has it, `Corrupt`, naming file and sector,
    /// if its record is damaged or shorter than it was.
    pub fn open(dir: &Path) -> Result<Delta> {
        let lock = FolderLock::acquire(dir)?;
        let (log, members) = Log::open(dir)?;
        let id = log.header().id;
        let noted = match log.is_closed() {
            true => (Notes::begin(dir, id), RoaringBitmap::new()),
            false => Notes::go_on(dir, id, log.header().size_bytes)?,
        };
        Delta::assemble(dir, log, members, noted, lock)
    }

    fn assemble(
        dir: &Path,
        log: Log,
        logged: RoaringBitmap,
        (notes, noted): (Notes, RoaringBitmap),
        lock: FolderLock,
    ) -> Result<Delta> {
        let (id, size_bytes) = (log.header().id, log.header().size_bytes);
        let unlogged = noted - &logged;
        let all = logged | &unlogged;
        let segments = Segments::open_writable(dir, size_bytes, &all)?;
        if !log.is_closed() {
            segments.forget_cached();
        }
        Ok(Delta {
            id,
            size_bytes,
            segments: Arc::new(segments),
            members: RwLock::new(Members { all, unlogged, holes: RoaringBitmap::new(), notes }),
            marking: Marking::of(&log),
            log: Mutex::new(log),
            flushes: FlushGate::default(),
            poison: OnceLock::new(),
            _lock: lock,
        })
    }

    /// The delta's id.
    pub fn id(&self) -> DeltaId {
        self.id
    }

    /// Length of the disk in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Number of blocks in the delta.
    pub fn blocks_modified(&self) -> u64 {
        self.members().blocks.all.len()
    }

    /// Whether it was ever written, be it without success.
    pub fn is_written(&self) -> bool {
        self.mark().generation > 0 || self.blocks_modified() > 0
    }

    /// Space that the blocks take on their file system, in bytes.
    pub fn allocated_bytes(&self) -> Result<u64> {
        self.segments.allocated_bytes()
    }

    /// The delta as it is now, to be read on whatever becomes of this one. Nobody may write it any more.
    pub(crate) fn reader(&self) -> DeltaReader {
        let members = self.members().all().clone();
        DeltaReader::new(self.mark(), self.size_bytes, self.segments.clone(), members)
    }

    /// Which blocks are in. Keeps blocks from joining while it is held.
    pub(crate) fn members(&self) -> MembersGuard<'_> {
        MembersGuard { blocks: self.members.read().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Reads bytes of blocks that are in.
    pub(crate) fn readv_at(&self, buf: IoBufMut<'_>, offset: u64) -> Result<()> {
        self.segments.read_at(buf, offset)
    }

    /// How far from `offset` on, up to `end`, bytes of blocks that are in take space or do not.
    pub(crate) fn space_at(&self, offset: u64, end: u64) -> Result<data::SpaceRun> {
        self.segments.space_at(offset, end)
    }

    /// Finds out which blocks take no space, if any: looks for holes in the data files, up to so many that it takes a moment.
    /// Those that are left out count as holes.
    pub(crate) fn find_holes(&self) -> Result<()> {
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        if self.segments.allocated_bytes()? < members.all.len() * BLOCK_SIZE_BYTES {
            members.holes = self.segments.holes_in(&members.all)?;
        }
        Ok(())
    }

    /// Says that blocks were written, and so take space.
    pub(crate) fn takes_space(&self, blocks: BlockRange) {
        if let Some(range) = inclusive(blocks)
            && !self.members().blocks.holes.is_empty()
        {
            let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
            members.holes.remove_range(range);
        }
    }

    /// Writes bytes of blocks that are in already. `NoSpace` leaves each sector old or new.
    pub(crate) fn overwrite(&self, buf: IoBuf<'_>, offset: u64) -> Result<()> {
        self.begin_writing()?;
        self.segments.write_at(buf, offset)
    }

    /// Writes whole blocks, which then are in. After an error those that were not in before still are not.
    pub(crate) fn write_blocks(&self, buf: IoBuf<'_>, first_block: u64) -> Result<()> {
        debug_assert_eq!(buf.len() as u64 % BLOCK_SIZE_BYTES, 0);
        self.begin_writing()?;
        let range = BlockRange { start: first_block, len: buf.len() as u64 / BLOCK_SIZE_BYTES };
        self.segments.write_at(buf, first_block * BLOCK_SIZE_BYTES)?;
        self.join(range)
    }

    /// Makes whole blocks zero, which then are in, and gives their space back or keeps it.
    ///
    /// The data goes before the record, and needs no sync in between: a block that is in reads as its old value or zero
    /// after a crash, which is right for what was not flushed; a block that is not in reads as what lies below it.
    pub(crate) fn zero_blocks(&self, range: BlockRange, space: Space) -> Result<()> {
        self.begin_writing()?;
        let len_bytes = range.len * BLOCK_SIZE_BYTES;
        self.segments.zero(range.start * BLOCK_SIZE_BYTES, len_bytes, space)?;
        self.join(range)?;
        if let Some(range) = inclusive(range).filter(|_| space == Space::Release) {
            let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
            members.holes.insert_range(range);
        }
        Ok(())
    }

    /// Lets blocks join whose data is written. Where there is no space for a note any more, the log takes what was noted.
    fn join(&self, run: BlockRange) -> Result<()> {
        let Some(range) = inclusive(run) else { return Ok(()) };
        if self.members().blocks.all.contains_range(range.clone()) {
            return Ok(());
        }
        match self.join_noted(run, range.clone()) {
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                self.flush()?;
                self.join_noted(run, range)
            }
            other => other,
        }
    }

    fn join_noted(&self, run: BlockRange, range: RangeInclusive<u32>) -> Result<()> {
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        members.notes.note(run)?;
        members.all.insert_range(range.clone());
        // Blocks that were in before are recorded twice then, which is harmless and keeps the runs few.
        members.unlogged.insert_range(range);
        Ok(())
    }

    fn usable(&self) -> Result<()> {
        match self.poison.get() {
            None => Ok(()),
            Some(why) => Err(Error::new(
                ErrorKind::Io,
                format!("delta {} takes no writes until it is opened anew, since: {why}", self.id),
            )),
        }
    }
}

/// The blocks that are in a delta; see [`Delta::members`].
pub(crate) struct MembersGuard<'a> {
    blocks: RwLockReadGuard<'a, Members>,
}

impl MembersGuard<'_> {
    pub(crate) fn all(&self) -> &RoaringBitmap {
        &self.blocks.all
    }

    pub(crate) fn contains(&self, block: u64) -> bool {
        contains(&self.blocks.all, block)
    }

    pub(crate) fn contains_all(&self, range: BlockRange) -> bool {
        inclusive(range).is_none_or(|range| self.blocks.all.contains_range(range))
    }

    /// Whether all blocks are in and take space already: writing them needs none.
    pub(crate) fn all_take_space(&self, range: BlockRange) -> bool {
        let is_hole = || self.without_space(range) > 0;
        self.contains_all(range) && (self.blocks.holes.is_empty() || !is_hole())
    }

    /// Blocks of a range that take no space yet.
    pub(crate) fn without_space(&self, range: BlockRange) -> u64 {
        let Members { all, holes, .. } = &*self.blocks;
        let with_space = |range: RangeInclusive<u32>| {
            all.range_cardinality(range.clone()) - holes.range_cardinality(range)
        };
        range.len - inclusive(range).map_or(0, with_space)
    }
}

fn contains(members: &RoaringBitmap, block: u64) -> bool {
    u32::try_from(block).is_ok_and(|block| members.contains(block))
}

/// The range as the bitmap takes it; `None` if it is empty. Blocks of a disk are below 2^32.
fn inclusive(range: BlockRange) -> Option<RangeInclusive<u32>> {
    (range.len > 0).then(|| range.start as u32..=(range.end() - 1) as u32)
}
