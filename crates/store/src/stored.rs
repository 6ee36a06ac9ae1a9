//! Chunks as they are stored, on their way from one store to another: nothing is compressed twice.
//!
//! There is none whose content was not decoded and compared with its id, so whoever is handed one may store it.

use crate::{
    chunk::{ChunkKind, Domain, check_content_length},
    codec,
};
use silt_format::{ArchivedChunk, Codec};
use silt_types::{ChunkId, Context as _, Error, Result};

/// A chunk as it is stored, whose content is what its id says.
#[derive(Debug)]
pub struct StoredChunk {
    about: ArchivedChunk,
    bytes: Vec<u8>,
}

impl StoredChunk {
    /// Decodes the chunk and compares it with its id, in private memory. `Corrupt`, naming it, if it is anything else.
    pub fn verify(domain: &Domain, about: ArchivedChunk, bytes: Vec<u8>) -> Result<StoredChunk> {
        let (name, len) = (|| format!("chunk {} is damaged", about.id), about.len as usize);
        let kind = ChunkKind::from_u8(about.kind)
            .ok_or_else(|| Error::corrupt("its kind is unknown").context(name()))?;
        let matches = |content: &[u8]| {
            check_content_length(content).is_ok()
                && content.len() == len
                && domain.chunk_id(kind.context(), content) == about.id
        };
        // Before anything of that length is made.
        let whole = len <= silt_types::CHUNK_SIZE_BYTES_MAX
            && match about.codec {
                Codec::Raw => matches(&bytes),
                coded => matches(&codec::decompress(&bytes, coded, len).context(name)?),
            };
        match whole && bytes.len() <= len {
            true => Ok(StoredChunk { about, bytes }),
            false => Err(Error::corrupt(name())),
        }
    }

    /// One that was verified where it was read.
    pub(crate) fn of_verified(about: ArchivedChunk, bytes: Vec<u8>) -> StoredChunk {
        StoredChunk { about, bytes }
    }

    /// Its id.
    pub fn id(&self) -> &ChunkId {
        &self.about.id
    }

    /// What it is, as an archive says it.
    pub fn about(&self) -> &ArchivedChunk {
        &self.about
    }

    /// Its bytes as they are stored.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
