//! The content-addressed store: chunks in packs, their index, the catalog of names, leases, verification.
//!
//! Begin at [`Store`]. Reading goes through [`ChunkSource`], adding through [`Ingest`], which is a [`ChunkSink`]; the
//! names are in the catalog. Knows nothing of what is in a chunk: maps are `silt-volume`'s, trees `silt-tree`'s.

mod catalog;
mod chunk;
mod codec;
mod database;
mod gc;
mod index;
mod ingest;
mod lease;
mod pack;
mod paths;
mod quarantine;
mod reader;
mod repair;
mod space;
mod store;
mod stored;
mod upgrade;
mod verify;

pub use catalog::{
    Change, FrozenDelta, ImageRecord, Listing, Named, Root, SnapshotPurpose, SnapshotRecord,
    VolumeRecord,
};
pub use chunk::{Chunk, ChunkKind, ChunkSink, ChunkSource, Domain, KeyContext, MemoryChunks};
pub use codec::Compression;
pub use gc::{CollectRequest, Collected, Freed, Holder, Marks, PackContent, RootWalker};
pub use index::PackTotals;
pub use ingest::{Ingest, IngestCounts};
pub use lease::Lease;
pub use paths::StorePaths;
pub use quarantine::quarantine;
pub use reader::{ChunkReader, PackPlace, Places};
pub use repair::{Healed, Rebuild, Salvaged, mend_layout};
pub use silt_format::{LimitsFile, WhenFull};
pub use space::{
    Allowance, Allowed, DeltaSpace, FileSystemSpace, Portions, SpaceAsked, StoreSpace, disk_usage,
};
pub use store::{CollectionHeld, Store, StoreTotals};
pub use stored::StoredChunk;
pub use upgrade::upgrade_store;
pub use verify::{Damaged, Finding, Findings, Sample};
