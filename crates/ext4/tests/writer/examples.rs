//! Hierarchies that several tests write.

use silt_ext4::{EntryId, EntryKind, Hierarchy, Layout, LayoutOptions, Metadata, Timestamp};
use silt_testkit::ext4_image::UUID;
use silt_types::BlockRange;
use std::{collections::BTreeMap, os::unix::fs::FileExt as _, path::Path};

/// Metadata of a plain entry; `n` makes entries differ.
pub(crate) fn plain(n: u64) -> Metadata {
    Metadata {
        permissions: 0o644,
        uid: 1000,
        gid: 1000,
        mtime: Timestamp { seconds: 1_600_000_000 + n as i64, nanoseconds: 123_456_789 },
    }
}

/// A root directory alone.
pub(crate) fn empty() -> Hierarchy {
    Hierarchy::new(Metadata { permissions: 0o755, ..plain(0) }).unwrap()
}

/// Adds a file without holes.
pub(crate) fn add_file(
    hierarchy: &mut Hierarchy,
    parent: EntryId,
    name: &str,
    size: u64,
) -> EntryId {
    let n = hierarchy.len() as u64;
    let entry = hierarchy.add(parent, name.as_bytes(), EntryKind::File, plain(n)).unwrap();
    let blocks = size.div_ceil(4096);
    let runs = [BlockRange { start: 0, len: blocks }];
    hierarchy.set_file_content(entry, size, if blocks > 0 { &runs } else { &[] }).unwrap();
    entry
}

/// Adds a directory.
pub(crate) fn add_directory(hierarchy: &mut Hierarchy, parent: EntryId, name: &str) -> EntryId {
    let metadata = Metadata { permissions: 0o755, ..plain(hierarchy.len() as u64) };
    hierarchy.add(parent, name.as_bytes(), EntryKind::Directory, metadata).unwrap()
}

/// Writes a layout without its data, which e2fsck does not look at.
pub(crate) fn write_metadata(hierarchy: &Hierarchy, size: Option<u64>, path: &Path) -> Layout {
    let layout = Layout::plan(hierarchy, &LayoutOptions { uuid: UUID, size_bytes: size }).unwrap();
    let file = std::fs::File::create(path).unwrap();
    file.set_len(layout.size_bytes()).unwrap();
    layout
        .for_each_metadata_block(hierarchy, &mut |block, bytes| {
            file.write_all_at(bytes, block * 4096).unwrap();
            Ok(())
        })
        .unwrap();
    layout
}

/// All metadata blocks.
pub(crate) fn metadata_blocks(layout: &Layout, hierarchy: &Hierarchy) -> BTreeMap<u64, Vec<u8>> {
    let mut blocks = BTreeMap::new();
    let collect = &mut |block, bytes: &[u8]| {
        blocks.insert(block, bytes.to_vec());
        Ok(())
    };
    layout.for_each_metadata_block(hierarchy, collect).unwrap();
    blocks
}

/// A POSIX ACL as `getxattr(2)` gives it, from tags, permissions and ids.
pub(super) fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}
