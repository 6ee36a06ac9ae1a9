//! Growing a disk in a file, with what every growth must keep checked on the way.

use crate::writer::examples::{add_directory, add_file, empty};
use silt_ext4::{
    EntryId, Hierarchy,
    growth::{Growth, grow},
    reader::{Ext4, FileDisk},
};
use silt_testkit::ext4_image::run;
use silt_types::Result;
use std::{
    collections::BTreeMap, fs::File, os::unix::fs::FileExt as _, path::Path, process::Command,
};

pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

/// A few dozen files, one of them of 3 MiB.
pub(super) fn tree() -> Hierarchy {
    let mut hierarchy = empty();
    let folder = add_directory(&mut hierarchy, EntryId::ROOT, "folder");
    for n in 0..50 {
        add_file(&mut hierarchy, folder, &format!("file{n}"), n * 100);
    }
    hierarchy
}

/// The blocks that growing the disk in a file would change.
pub(super) fn changes(path: &Path, size: u64) -> Result<(Growth, BTreeMap<u64, Vec<u8>>)> {
    let mut blocks = BTreeMap::new();
    let mut next = 0;
    let growth = grow(open(path), size, &mut |block, bytes| {
        assert!(block >= next && bytes.len() == 4096 && block < size / 4096, "block {block}");
        next = block + 1;
        blocks.insert(block, bytes.to_vec());
        Ok(())
    })?;
    assert_eq!(growth.blocks_written, blocks.len() as u64);
    Ok((growth, blocks))
}

/// Grows the disk in a file. Every file keeps its inode and blocks, none of which is written.
pub(super) fn grow_file(path: &Path, size: u64) -> Growth {
    let places = places(path);
    let (growth, blocks) = changes(path, size).unwrap();
    for (_, start, len) in places.values().flatten() {
        assert!(blocks.range(*start..start + len).next().is_none(), "a block of a file changes");
    }
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(size).unwrap();
    for (block, bytes) in blocks {
        file.write_all_at(&bytes, block * 4096).unwrap();
    }
    assert_eq!(self::places(path), places);
    assert_eq!(Ext4::open(open(path)).unwrap().size_bytes(), growth.blocks * 4096);
    growth
}

/// By inode, the runs of every file: first block of the file, first block of the disk, number of blocks.
pub(super) fn places(path: &Path) -> BTreeMap<u32, Vec<(u64, u64, u64)>> {
    let ext4 = Ext4::open(open(path)).unwrap();
    let mut places = BTreeMap::<_, Vec<_>>::new();
    let gaps = ext4.for_each_file_extent(&mut |inode, extent| {
        let runs = places.entry(inode.number.get()).or_default();
        runs.push((extent.logical, extent.physical, extent.len));
        Ok(())
    });
    assert_eq!(gaps.unwrap(), Default::default());
    places
}

pub(super) fn open(path: &Path) -> FileDisk {
    FileDisk::new(File::open(path).unwrap()).unwrap()
}

/// A number in the header that dumpe2fs shows.
pub(super) fn dumped(path: &Path, name: &str) -> u64 {
    let header = run(Command::new("dumpe2fs").arg("-h").arg(path)).unwrap();
    let header = String::from_utf8_lossy(&header.stdout).into_owned();
    let value = header.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or("0").trim().parse().unwrap()
}
