//! ext4 without mount, root or helper program: a deterministic writer and, beside it, a hardened reader, and what makes a
//! disk longer.
//!
//! The crate stands alone: it knows nothing of stores, chunks or images. A caller declares a hierarchy, plans a
//! layout for it, and gets every metadata block and the place of every file's data; content
//! never passes through.

pub mod format;
pub mod growth;
pub mod hierarchy;
pub mod reader;
pub mod writer;

pub use hierarchy::{EntryId, EntryKind, Hierarchy, Metadata, Timestamp, Visit};
pub use writer::{Layout, LayoutOptions};
