//! Bytes <-> types for every record that Siltstone persists. No I/O, no policy.
//!
//! Each module is one format and holds its encoder, its decoder, its golden bytes and its layout table.
//! `docs/internals/formats.md` shows the tables and is tested against them. Decoders take hostile bytes: they check
//! every length before they allocate and answer `Corrupt` or `Unsupported`, never a panic.

mod file_header;
mod layout;
mod pack;
mod row_sum;
mod store_file;
mod tree_node;
mod wire;

pub use file_header::{Features, FileHeader};
pub use layout::{Field, Record};
pub use pack::{
    Codec, PACK_MAGIC, PACK_TRAILER_MAGIC, PACK_VERSION, PackEntry, PackFooter, RootRecord,
};
pub use row_sum::RowSum;
pub use store_file::{COMMIT_MAGIC, CommitSlot, STORE_MAGIC, STORE_VERSION, StoreFile};
pub use tree_node::{
    TREE_INLINE_CHUNKS_MAX, TREE_NODE_RECORD, TREE_PATH_LEN_MAX, TREE_XATTRS_LEN_MAX, TreeChild,
    TreeContent, TreeEntry, TreeKind, TreeNode, TreeNodeWriter, TreeXattr, path_before,
};
pub use wire::{WireReader, WireWrite};
