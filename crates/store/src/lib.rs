//! The content-addressed store: chunks in packs, their index, the catalog of names, leases, verification.

mod chunk;

pub use chunk::{Chunk, ChunkKind, ChunkSink, ChunkSource, Domain, KeyContext, MemoryChunks};
