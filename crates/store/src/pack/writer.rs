//! Writing a pack: appended under a temporary name, closed with its footer, synced, renamed.

use crate::paths::StorePaths;
use silt_format::{Codec, FileHeader, PACK_MAGIC, PackEntry, PackFooter, RootRecord};
use silt_sys::durability;
use silt_types::{ChunkId, Context as _, LeaseId, PackId, Result};
use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
};

/// Appends are gathered to writes of this size: large enough that the system call does not count.
const BUFFER_SIZE_BYTES: usize = 1 << 20;

/// A pack being written. Dropped before [`PackWriter::finish`], it leaves nothing behind.
pub(crate) struct PackWriter {
    paths: StorePaths,
    id: PackId,
    temp: PathBuf,
    file: File,
    buffer: Vec<u8>,
    size: u64,
    footer: PackFooter,
    renamed: bool,
}

impl PackWriter {
    /// A new pack of the holder of `lease`.
    pub(crate) fn create(paths: &StorePaths, lease: LeaseId) -> Result<PackWriter> {
        let id = PackId::from_bytes(durability::random_bytes()?);
        let temp = paths.unfinished_pack(id, lease);
        let file = durability::create_file(&temp)?;
        let mut buffer = Vec::with_capacity(BUFFER_SIZE_BYTES + (64 << 10));
        buffer.extend_from_slice(&FileHeader::growing(PACK_MAGIC, *id.as_bytes()).encode());
        let size = buffer.len() as u64;
        let footer = PackFooter::default();
        Ok(PackWriter {
            paths: paths.clone(),
            id,
            temp,
            file,
            buffer,
            size,
            footer,
            renamed: false,
        })
    }

    /// Appends a chunk as it is to be stored.
    pub(crate) fn append(
        &mut self,
        id: ChunkId,
        kind: u8,
        codec: Codec,
        stored: &[u8],
        len: usize,
    ) -> Result<()> {
        let entry = PackEntry {
            id,
            offset: self.size,
            stored_len: stored.len() as u32,
            len: len as u32,
            kind,
            codec,
        };
        self.footer.entries.push(entry);
        self.size += stored.len() as u64;
        self.buffer.extend_from_slice(stored);
        if self.buffer.len() >= BUFFER_SIZE_BYTES { self.write_buffer() } else { Ok(()) }
    }

    /// Bytes so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Chunks so far.
    pub(crate) fn chunks(&self) -> usize {
        self.footer.entries.len()
    }

    /// Closes the pack with these root records and makes it durable under its name: two fsyncs. Answers its id, its
    /// length and its footer, which are for the index.
    pub(crate) fn finish(mut self, roots: Vec<RootRecord>) -> Result<(PackId, u64, PackFooter)> {
        self.footer.roots = roots;
        let footer = self.footer.encode(self.id);
        self.buffer.extend_from_slice(&footer);
        self.size += footer.len() as u64;
        self.write_buffer()?;
        self.file.sync_all().context(|| format!("cannot sync pack {}", self.id))?;
        let path = self.paths.pack(self.id);
        fs::rename(&self.temp, &path)
            .context(|| format!("cannot rename pack {} into place", self.id))?;
        self.renamed = true;
        durability::sync_dir(&self.paths.packs())?;
        Ok((self.id, self.size, std::mem::take(&mut self.footer)))
    }

    fn write_buffer(&mut self) -> Result<()> {
        self.file
            .write_all(&self.buffer)
            .context(|| format!("cannot append to pack {}", self.id))?;
        self.buffer.clear();
        Ok(())
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        if !self.renamed {
            // What stays behind when this fails is invisible, and removed by the next ingest.
            let _ = fs::remove_file(&self.temp);
        }
    }
}
