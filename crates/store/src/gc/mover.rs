//! Moves what is needed of some packs into new ones, as it is stored, verified on the way.

use super::Marks;
use crate::{
    chunk::ChunkKind,
    index::{self, PackRow},
    ingest::{PACK_CHUNKS_TARGET, PACK_SIZE_BYTES_TARGET},
    pack::PackWriter,
    reader::{ChunkReader, PackPlace},
    store::Shared,
};
use silt_format::{PackEntry, PackFooter, RootRecord};
use silt_types::{Error, LeaseId, Progress, Result};

/// Writes packs of what is moved. Dropped before [`Mover::finish`], it leaves what it has moved so far where it was.
pub(crate) struct Mover<'a> {
    shared: &'a Shared,
    reader: &'a ChunkReader,
    lease: LeaseId,
    progress: &'a dyn Progress,
    writer: Option<PackWriter>,
    /// The chunk that was read last, as it is stored.
    stored: Vec<u8>,
    /// Where the chunks of the pack being written come from.
    sources: Vec<i64>,
    roots: Vec<RootRecord>,
    moved: Moved,
}

/// What was moved.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    pub(crate) chunks: u64,
    /// Bytes of those as stored.
    pub(crate) bytes: u64,
    /// Bytes of the packs written.
    pub(crate) bytes_packs: u64,
}

impl<'a> Mover<'a> {
    pub(crate) fn new(
        shared: &'a Shared,
        reader: &'a ChunkReader,
        lease: LeaseId,
        progress: &'a dyn Progress,
    ) -> Mover<'a> {
        Mover {
            shared,
            reader,
            lease,
            progress,
            writer: None,
            stored: Vec::new(),
            sources: Vec::new(),
            roots: Vec::new(),
            moved: Moved::default(),
        }
    }

    /// Moves what is needed of a pack and found there, and keeps `roots`. `Corrupt` if something of it is damaged.
    pub(super) fn take(
        &mut self,
        pack: &PackRow,
        footer: &PackFooter,
        marks: &Marks,
        roots: Vec<RootRecord>,
    ) -> Result<()> {
        for entry in footer.entries.iter().filter(|entry| marks.is_needed(&entry.id)) {
            let found = index::find(&self.shared.database, &entry.id)?;
            if found.is_some_and(|place| place.pack == pack.number && place.entry == *entry) {
                self.read(&PackPlace { pack: pack.id, entry: *entry })?;
                self.append(pack, entry)?;
            }
        }
        self.keep(roots)
    }

    /// Reads a chunk as it is stored, to be appended next. `Corrupt` if it is damaged.
    pub(crate) fn read(&mut self, place: &PackPlace) -> Result<()> {
        let unknown = || Error::corrupt(format!("chunk {} has an unknown kind", place.entry.id));
        let kind = ChunkKind::from_u8(place.entry.kind).ok_or_else(unknown)?;
        self.reader.read_stored(kind.context(), place, &mut self.stored)
    }

    /// Appends the chunk that was read last, which the index has in `pack`, to the packs being written.
    pub(crate) fn append(&mut self, pack: &PackRow, entry: &PackEntry) -> Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(PackWriter::create(&self.shared.paths, self.lease)?),
        };
        writer.append(entry.id, entry.kind, entry.codec, &self.stored, entry.len as usize)?;
        let is_full =
            writer.size() >= PACK_SIZE_BYTES_TARGET || writer.chunks() >= PACK_CHUNKS_TARGET;
        self.sources.push(pack.number);
        self.moved.chunks += 1;
        self.moved.bytes += u64::from(entry.stored_len);
        self.progress.advance(u64::from(entry.stored_len));
        if is_full { self.close() } else { Ok(()) }
    }

    /// Keeps root records.
    pub(crate) fn keep(&mut self, roots: Vec<RootRecord>) -> Result<()> {
        for root in roots {
            self.roots.push(root);
            if self.roots.len() == PackFooter::ROOTS_MAX {
                self.close()?;
            }
        }
        Ok(())
    }

    /// Everything moved is durable and found in its new place when this returns.
    pub(crate) fn finish(mut self) -> Result<Moved> {
        if self.writer.is_some() || !self.roots.is_empty() {
            self.close()?;
        }
        Ok(self.moved)
    }

    fn close(&mut self) -> Result<()> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => PackWriter::create(&self.shared.paths, self.lease)?,
        };
        let (pack, size, footer) = writer.finish(std::mem::take(&mut self.roots))?;
        let sources = std::mem::take(&mut self.sources);
        index::move_to(&self.shared.database, pack, self.lease, size, &footer, &sources)?;
        self.moved.bytes_packs += size;
        Ok(())
    }
}
