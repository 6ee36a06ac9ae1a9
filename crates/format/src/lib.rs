//! Bytes <-> types for every record that Siltstone persists. No I/O, no policy.
//!
//! Each module is one format and holds its encoder, its decoder, its golden bytes and its layout table.
//! `docs/internals/formats.md` shows the tables and is tested against them. Decoders take hostile bytes: they check
//! every length before they allocate and answer `Corrupt` or `Unsupported`, never a panic.

mod archive;
mod delta_log;
mod delta_note;
mod file_header;
mod folder_cache;
mod layer_cache;
mod layout;
mod lease_file;
mod limits_file;
mod map_node;
mod pack;
mod root_record;
mod row_sum;
mod scrub_file;
mod state_id;
mod store_file;
mod tree_node;
mod volume_header;
mod wire;

pub use archive::{
    ARCHIVE_MAGIC, ARCHIVE_NAMES_MAX, ARCHIVE_VERSION, ArchiveDigest, ArchiveEnd, ArchiveFrame,
    ArchiveFrameHead, ArchivedChunk, ArchivedName, archive_header,
};
pub use delta_log::{
    DELTA_LOG_MAGIC, DELTA_LOG_VERSION, DELTA_SECTOR_LEN, DeltaLogHeader, DeltaLogState,
    DeltaRecord,
};
pub use delta_note::DeltaNotes;
pub use file_header::{Features, FileHeader};
pub use folder_cache::{
    FOLDER_CACHE_FRAME_LEN_MAX, FOLDER_CACHE_MAGIC, FOLDER_CACHE_STEPS_MAX, FOLDER_CACHE_VERSION,
    FileStep, FolderCache, FolderCacheFrame, FolderCacheKeys, FolderCacheRecord, LaidOut,
    folder_cache_id,
};
pub use layer_cache::{
    LAYER_CACHE_MAGIC, LAYER_CACHE_VERSION, LAYER_RECORD_LEN_MAX, LAYER_STEPS_MAX, LayerKind,
    LayerMember, LayerRecord, layer_cache_header,
};
pub use layout::{Field, Record};
pub use lease_file::{LEASE_MAGIC, LEASE_RECORD, LEASE_VERSION, LeaseFile};
pub use limits_file::{LIMITS_MAGIC, LIMITS_VERSION, LimitsFile, WhenFull};
pub use map_node::{
    MAP_LEAF_BLOCKS, MAP_LEVEL_MAX, MAP_NODE_RECORD, MAP_RADIX, MapChildren, MapNode, MapRun,
    map_node_blocks, map_root_level,
};
pub use pack::{Codec, PACK_MAGIC, PACK_TRAILER_MAGIC, PACK_VERSION, PackEntry, PackFooter};
pub use root_record::RootRecord;
pub use row_sum::RowSum;
pub use scrub_file::{SCRUB_MAGIC, SCRUB_VERSION, ScrubFile};
pub use state_id::{state_of_delta, state_of_disk, state_of_length};
pub use store_file::{COMMIT_MAGIC, CommitSlot, STORE_MAGIC, STORE_VERSION, StoreFile};
pub use tree_node::{
    TREE_INLINE_CHUNKS_MAX, TREE_NODE_RECORD, TREE_PATH_LEN_MAX, TREE_XATTRS_LEN_MAX, TreeChild,
    TreeContent, TreeEntry, TreeKind, TreeNode, TreeNodeWriter, TreeXattr, path_before,
};
pub use volume_header::{FROZEN_DELTAS_MAX, VOLUME_MAGIC, VOLUME_VERSION, VolumeHeader};
pub use wire::{WireReader, WireWrite};
