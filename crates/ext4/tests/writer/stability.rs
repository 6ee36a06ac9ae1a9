//! Small changes stay small on disk.

use super::examples::{add_directory, add_file, empty, metadata_blocks};
use silt_ext4::{EntryId, Hierarchy, Layout, LayoutOptions};
use silt_testkit::ext4_image::UUID;
use std::collections::BTreeMap;

/// Some 20,000 files in 1,600 folders with the sizes of a system's: mostly small, some large.
fn system(extra: impl Fn(&mut Hierarchy, EntryId, EntryId)) -> Hierarchy {
    let mut hierarchy = empty();
    let mut state = 1u64;
    let mut random = move |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut deep = EntryId::ROOT;
    for top in 0..16 {
        let top = add_directory(&mut hierarchy, EntryId::ROOT, &format!("top{top}"));
        for middle in 0..100 {
            let folder = add_directory(&mut hierarchy, top, &format!("middle{middle}"));
            deep = folder;
            for n in 0..random(25) {
                let size = match random(100) {
                    0..=59 => random(9_000),
                    60..=97 => random(80_000),
                    _ => random(4_000_000),
                };
                add_file(&mut hierarchy, folder, &format!("file{n}"), size);
            }
        }
    }
    extra(&mut hierarchy, EntryId::ROOT, deep);
    hierarchy
}

struct Written {
    metadata: BTreeMap<u64, Vec<u8>>,
    /// By block of the disk: file size and block of the file, which together stand for content.
    data: BTreeMap<u32, (u64, u32)>,
}

fn write(hierarchy: &Hierarchy) -> Written {
    let layout = Layout::plan(hierarchy, &LayoutOptions { uuid: UUID, size_bytes: None }).unwrap();
    let metadata = metadata_blocks(&layout, hierarchy);
    let extents = layout.data_extents(hierarchy).unwrap();
    let data = extents.iter().flat_map(|extent| {
        let size = hierarchy.size_bytes(extent.entry);
        (0..extent.len_blocks)
            .map(move |n| (extent.physical_block + n, (size, extent.logical_block + n)))
    });
    let data = data.collect();
    Written { metadata, data }
}

/// Metadata and data blocks of `after` that `before` has not at the same place.
fn changed(before: &Written, after: &Written) -> (usize, usize) {
    let metadata = after.metadata.iter().filter(|(b, bytes)| before.metadata.get(b) != Some(bytes));
    let data = after.data.iter().filter(|(block, what)| before.data.get(block) != Some(what));
    (metadata.count(), data.count())
}

#[test]
fn a_small_change_changes_few_blocks() {
    let before = write(&system(|_, _, _| {}));
    println!("{} metadata blocks, {} data blocks", before.metadata.len(), before.data.len());
    type Change = fn(&mut Hierarchy, EntryId, EntryId);
    let changes: [(&str, Change, usize, usize); 5] = [
        ("a file in the root", |h, root, _| _ = add_file(h, root, "new", 5000), 40, 100),
        ("a file in a deep folder", |h, _, deep| _ = add_file(h, deep, "file00", 5000), 60, 600),
        ("a folder", |h, _, deep| _ = add_directory(h, deep, "new"), 60, 10),
        ("a large file", |h, _, deep| _ = add_file(h, deep, "new", 30 << 20), 600, 60_000),
        (
            "a file grown by a block",
            |h, _, deep| {
                let file = h.children(deep)[0].entry;
                let size = h.size_bytes(file) + 4096;
                let run = silt_types::BlockRange { start: 0, len: size.div_ceil(4096) };
                h.set_file_content(file, size, &[run]).unwrap();
            },
            40,
            600,
        ),
    ];
    let mut too_many = false;
    for (what, change, metadata_max, data_max) in changes {
        let after = write(&system(change));
        let (metadata, data) = changed(&before, &after);
        println!("{what}: {metadata} metadata blocks, {data} data blocks");
        too_many |= metadata > metadata_max || data > data_max;
    }
    assert!(!too_many);
}
