//! Hierarchies that several tests write.

use silt_ext4::{EntryId, EntryKind, Hierarchy, Metadata, Timestamp};
use silt_types::BlockRange;

/// Metadata of a plain entry; `n` makes entries differ.
pub fn plain(n: u64) -> Metadata {
    Metadata {
        permissions: 0o644,
        uid: 1000,
        gid: 1000,
        mtime: Timestamp { seconds: 1_600_000_000 + n as i64, nanoseconds: 123_456_789 },
    }
}

/// A root directory alone.
pub fn empty() -> Hierarchy {
    Hierarchy::new(Metadata { permissions: 0o755, ..plain(0) }).unwrap()
}

/// Adds a file without holes.
pub fn add_file(hierarchy: &mut Hierarchy, parent: EntryId, name: &str, size: u64) -> EntryId {
    let n = hierarchy.len() as u64;
    let entry = hierarchy.add(parent, name.as_bytes(), EntryKind::File, plain(n)).unwrap();
    let blocks = size.div_ceil(4096);
    let runs = [BlockRange { start: 0, len: blocks }];
    hierarchy.set_file_content(entry, size, if blocks > 0 { &runs } else { &[] }).unwrap();
    entry
}

/// Adds a directory.
pub fn add_directory(hierarchy: &mut Hierarchy, parent: EntryId, name: &str) -> EntryId {
    let metadata = Metadata { permissions: 0o755, ..plain(hierarchy.len() as u64) };
    hierarchy.add(parent, name.as_bytes(), EntryKind::Directory, metadata).unwrap()
}
