//! Chunks: what kinds there are, how they are named, and the two seams through which the rest of the engine reads and
//! writes them, with the simplest implementation beside them.

use silt_types::{CHUNK_SIZE_BYTES_MAX, ChunkId, Error, ErrorKind, Result};
use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
};

/// What a chunk is for. Kept beside every chunk so that the store can account for them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ChunkKind {
    /// Content of a file, at a 64 KiB step of it.
    FileData = 1,
    /// Other content of a disk: metadata of its file system, or blocks whose file is not known.
    DiskData = 2,
    /// A node of a disk map.
    MapNode = 3,
    /// A node of a tree manifest.
    TreeNode = 4,
}

impl ChunkKind {
    /// Every kind.
    pub const ALL: [ChunkKind; 4] =
        [ChunkKind::FileData, ChunkKind::DiskData, ChunkKind::MapNode, ChunkKind::TreeNode];

    /// The key context under which chunks of this kind are named.
    pub const fn context(self) -> KeyContext {
        match self {
            ChunkKind::FileData | ChunkKind::DiskData => KeyContext::Content,
            ChunkKind::MapNode => KeyContext::MapNode,
            ChunkKind::TreeNode => KeyContext::TreeNode,
        }
    }

    /// The kind with this persisted number.
    pub fn from_u8(number: u8) -> Option<ChunkKind> {
        ChunkKind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// Contexts of the hash key. A node can never be mistaken for content, nor content crafted to be a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyContext {
    /// Bytes of disks and files.
    Content,
    /// Nodes of disk maps.
    MapNode,
    /// Nodes of tree manifests.
    TreeNode,
}

/// A dedup domain: stores with the same domain name equal content alike.
#[derive(Clone)]
pub struct Domain {
    keys: [[u8; 32]; 3],
}

impl Domain {
    /// The published domain that every store has unless it is given its own: secret `[0; 32]`.
    pub fn published() -> Domain {
        Domain::from_secret(&[0; 32])
    }

    /// The domain of a tenant. Keys are derived from the secret by BLAKE3's key derivation, one per [`KeyContext`].
    pub fn from_secret(secret: &[u8; 32]) -> Domain {
        Domain {
            keys: [
                blake3::derive_key("siltstone 1 chunk content", secret),
                blake3::derive_key("siltstone 1 disk map node", secret),
                blake3::derive_key("siltstone 1 tree node", secret),
            ],
        }
    }

    /// Tells domains apart without telling their secret: where it is the same, equal content has equal names.
    pub fn id(&self) -> [u8; 16] {
        let id = self.chunk_id(KeyContext::Content, b"siltstone 1 domain");
        let (id, _) = id.as_bytes().split_first_chunk().expect("an id of 32 bytes has 16");
        *id
    }

    /// The name of `content`. Costs one pass over it.
    pub fn chunk_id(&self, context: KeyContext, content: &[u8]) -> ChunkId {
        ChunkId::from_bytes(*blake3::keyed_hash(&self.keys[context as usize], content).as_bytes())
    }
}

/// Verified content of a chunk in private memory; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk(Arc<Vec<u8>>);

impl Chunk {
    /// Wraps content whose id has been checked, or was just computed.
    pub fn new(verified: Vec<u8>) -> Chunk {
        Chunk(Arc::new(verified))
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Where chunks are read from.
pub trait ChunkSource: Send + Sync {
    /// The content of a chunk, verified against its id. `NotFound` if there is none; `Corrupt`, naming the chunk, if
    /// what is stored is something else.
    fn get(&self, context: KeyContext, id: &ChunkId) -> Result<Chunk>;

    /// As [`ChunkSource::get`], if it needs neither I/O nor decoding.
    fn get_hot(&self, context: KeyContext, id: &ChunkId) -> Option<Chunk>;
}

/// Where chunks are written to.
pub trait ChunkSink: Send + Sync {
    /// Names and stores 1 to 64 KiB of content, unless it is there already. Durable only once the work that the sink
    /// belongs to is published. `Invalid` for content that is empty or too long.
    fn put(&self, kind: ChunkKind, content: &[u8]) -> Result<ChunkId>;
}

/// Chunks in memory, for tests.
pub struct MemoryChunks {
    domain: Domain,
    chunks: Mutex<HashMap<(KeyContext, ChunkId), Chunk>>,
}

impl MemoryChunks {
    /// No chunks, in the published domain.
    pub fn new() -> MemoryChunks {
        MemoryChunks { domain: Domain::published(), chunks: Mutex::default() }
    }

    /// Number of distinct chunks.
    pub fn len(&self) -> usize {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for MemoryChunks {
    fn default() -> Self {
        MemoryChunks::new()
    }
}

impl ChunkSource for MemoryChunks {
    fn get(&self, context: KeyContext, id: &ChunkId) -> Result<Chunk> {
        self.get_hot(context, id).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("chunk {id} is not in the store"))
        })
    }

    fn get_hot(&self, context: KeyContext, id: &ChunkId) -> Option<Chunk> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner).get(&(context, *id)).cloned()
    }
}

impl ChunkSink for MemoryChunks {
    fn put(&self, kind: ChunkKind, content: &[u8]) -> Result<ChunkId> {
        check_content_length(content)?;
        let id = self.domain.chunk_id(kind.context(), content);
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        chunks.entry((kind.context(), id)).or_insert_with(|| Chunk::new(content.to_vec()));
        Ok(id)
    }
}

pub(crate) fn check_content_length(content: &[u8]) -> Result<()> {
    match content.len() {
        1..=CHUNK_SIZE_BYTES_MAX => Ok(()),
        len => Err(Error::invalid(format!(
            "a chunk holds 1 to {CHUNK_SIZE_BYTES_MAX} bytes, not {len}"
        ))),
    }
}
