//! Disks made to do harm, with checksums that hold: each is refused with the reason.

use super::{
    images::{noise, sh},
    log_writer::blocks_of,
    walk::walk,
};
use silt_ext4::{
    format::{
        extent::{BLOCK_ENTRIES_MAX, Extent, ExtentIndex, ExtentNode, INODE_ENTRIES_MAX},
        inode::{FLAG_EXTENTS, RawInode},
    },
    reader::Ext4,
};
use silt_types::ErrorKind;
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

const BLOCK: usize = 4096;

/// The first inode after `lost+found`: the only file of [`flat_disk`].
const FILE: u32 = 12;

fn small_disk(folder: &Path) -> PathBuf {
    let (source, disk) = (folder.join("source"), folder.join("disk"));
    fs::create_dir_all(source.join("a/b")).unwrap();
    fs::write(source.join("file"), noise(20_000)).unwrap();
    fs::write(source.join("a/other"), b"other").unwrap();
    symlink("x".repeat(30), source.join("short")).unwrap();
    symlink("x".repeat(90), source.join("long")).unwrap();
    sh(&format!("mke2fs -q -F -t ext4 -b 4096 -d {} {} 4M", source.display(), disk.display()));
    disk
}

#[test]
fn what_debugfs_can_break_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let disk = small_disk(folder.path());
    walk(fs::read(&disk).unwrap()).unwrap();
    // Command of debugfs, which keeps checksums right; a part of the reason.
    let cases = [
        ("ln <2> a/up", "a hard link to a directory"),
        ("ln a a/b/self", "a hard link to a directory"),
        ("ln <8> a/journal", "names a reserved"),
        ("clri file", "not in use"),
        ("sif file links_count 0", "is deleted"),
        ("sif file size 0x7fffffffffffff", "larger than"),
        ("sif file mode 0170644", "no known kind"),
        ("sif file extra_isize 0x200", "do not fit"),
        ("sif file mtime_extra 0xffffffff", "nanoseconds"),
        ("sif file file_acl 0xffffff", "outside the file system"),
        ("sif file block[0] 0x0005f30a", "5 of 4 entries"),
        ("sif file block[1] 0x00060004", "depth 6"),
        ("sif file block[4] 0", "empty, overlaps another or is out of order"),
        ("sif file block[4] 0x7fff", "outside the file system"),
        ("sif short size 0", "target"),
        ("sif long size 5000", "target"),
        ("sif long size 0xffffffff", "target"),
        ("sif a size 4097", "whole blocks"),
        ("sif a size 0x10000000000", "more blocks than there are"),
        ("sif a size 0x20000", "ends in a hole"),
        ("sif <2> mode 0100755", "root inode is not a directory"),
        ("ssv blocks_count 5000", "larger than it is"),
        ("ssv inodes_per_group 0", "impossible number of inodes"),
        ("ssv blocks_per_group 1", "impossible number of blocks"),
        ("ssv inodes_count 77", "not those of its groups"),
        ("ssv inode_size 100", "inode size"),
        ("ssv first_ino 3", "reserves an impossible"),
        ("ssv desc_size 48", "descriptor size"),
        ("ssv log_block_size 9", "block size"),
        ("ssv first_data_block 1", "first block"),
    ];
    for (command, reason) in cases {
        let broken = disk.with_extension("broken");
        sh(&format!("cp {0} {1}; debugfs -w -R '{command}' {1}", disk.display(), broken.display()));
        let error = walk(fs::read(&broken).unwrap()).err();
        let error = error.unwrap_or_else(|| panic!("{command}: no error"));
        assert!(error.chain().contains(reason), "{command}: {error:?}");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{command}");
    }
}

#[test]
fn features_that_are_not_known_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let disk = fs::read(small_disk(folder.path())).unwrap();
    // Offset and bits of the features, part of the message. The checksum is that of the superblock as it was.
    let cases = [
        (0x60, 0x1, "compression"),
        (0x60, 0x8, "journal_dev"),
        (0x60, 0x1000, "dirdata"),
        (0x60, 0x8000_0000_u32, "0x80000000"),
        (0x64, 0x200, "bigalloc"),
        (0x4C, 2, "revision"),
        (0x18, 6, "65536"),
    ];
    for (offset, bits, name) in cases {
        let mut changed = disk.clone();
        let field = &mut changed[1024 + offset..1024 + offset + 4];
        let value = u32::from_le_bytes(field.try_into().unwrap());
        field.copy_from_slice(&(value | bits).to_le_bytes());
        let sum = silt_ext4::format::checksum::crc32c(!0, &changed[1024..2044]);
        changed[2044..2048].copy_from_slice(&sum.to_le_bytes());
        let error = Ext4::open(&changed).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}");
        assert!(error.chain().contains(name), "{name}: {error:?}");
    }
    for bytes in [vec![], vec![0; 1500], vec![0; 1 << 20]] {
        assert_eq!(Ext4::open(&bytes).err().unwrap().kind(), ErrorKind::Invalid, "no ext4 at all");
    }
}

/// A disk without checksums with one file, and where the file's inode stands.
fn flat_disk(features: &str) -> (Vec<u8>, usize) {
    let folder = tempfile::tempdir().unwrap();
    let (source, disk) = (folder.path().join("source"), folder.path().join("disk"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), noise(10 * BLOCK)).unwrap();
    let made = format!("{features} -b 4096 -I 256 -d {} {} 4M", source.display(), disk.display());
    sh(&format!("mke2fs -q -F {made}"));
    let place = sh(&format!("debugfs -R 'imap <{FILE}>' {} 2>/dev/null", disk.display()));
    let (_, place) = place.split_once("located at block ").unwrap();
    let (block, offset) = place.trim().split_once(", offset 0x").unwrap();
    let (block, offset): (usize, _) = (block.parse().unwrap(), usize::from_str_radix(offset, 16));
    let offset = offset.unwrap();
    (fs::read(&disk).unwrap(), block * BLOCK + offset)
}

/// Nodes, by the block of the file that they take the place of.
type BelowRoot = Vec<(usize, ExtentNode)>;

/// The disk with this node as the root of the file's extent tree.
fn with_root(disk: &[u8], at: usize, root: &ExtentNode) -> Vec<u8> {
    let mut disk = disk.to_vec();
    let mut area = [0; 60];
    root.encode(&mut area, INODE_ENTRIES_MAX);
    disk[at + 0x28..at + 0x64].copy_from_slice(&area);
    disk
}

fn put_node(disk: &mut [u8], block: u64, node: &ExtentNode) {
    let bytes = &mut disk[block as usize * BLOCK..][..BLOCK];
    bytes.fill(0);
    node.encode(bytes, BLOCK_ENTRIES_MAX);
}

fn extent(logical: u32, physical: u64, len: u32) -> Extent {
    Extent { logical, physical, len, unwritten: false }
}

#[test]
fn extent_trees_that_loop_overlap_or_lie_are_corrupt() {
    let (disk, at) = flat_disk("-t ext4 -O ^metadata_csum");
    let blocks = blocks_of(&disk, FILE);
    assert_ne!(RawInode::decode(&disk[at..at + 256]).flags & FLAG_EXTENTS, 0);
    let index = |logical, block: usize| ExtentIndex { logical, physical: blocks[block] };
    let leaf = |extents: &[Extent]| ExtentNode::Leaf(extents.to_vec());
    let one = |logical| leaf(&[extent(logical, blocks[9], 1)]);
    let cases: [(&str, ExtentNode, BelowRoot); 8] = [
        ("overlap", leaf(&[extent(0, blocks[0], 5), extent(4, blocks[5], 2)]), vec![]),
        ("descending", leaf(&[extent(5, blocks[0], 1), extent(0, blocks[1], 1)]), vec![]),
        (
            "itself",
            ExtentNode::Index(1, vec![index(0, 0)]),
            vec![(0, ExtentNode::Index(1, vec![index(0, 0)]))],
        ),
        ("twice", ExtentNode::Index(1, vec![index(0, 0), index(3, 0)]), vec![(0, one(0))]),
        ("before its key", ExtentNode::Index(1, vec![index(2, 0)]), vec![(0, one(1))]),
        (
            "behind the next key",
            ExtentNode::Index(1, vec![index(0, 0), index(3, 1)]),
            vec![(0, one(3)), (1, one(4))],
        ),
        ("empty", ExtentNode::Index(1, vec![index(0, 0)]), vec![(0, leaf(&[]))]),
        ("the superblock", leaf(&[extent(0, 0, 1)]), vec![]),
    ];
    for (what, root, nodes) in cases {
        let mut disk = with_root(&disk, at, &root);
        nodes.iter().for_each(|(block, node)| put_node(&mut disk, blocks[*block], node));
        let error = walk(&disk).err().unwrap_or_else(|| panic!("{what}: no error"));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error:?}");
    }
    // A tree that claims to be larger than the disk.
    let long = (0..4).map(|part| extent(part * 500, blocks[0] + 1, 400)).collect();
    let error = walk(with_root(&disk, at, &ExtentNode::Leaf(long))).err().unwrap();
    assert!(error.chain().contains("more blocks than there are"), "{error:?}");
}

#[test]
fn block_maps_that_point_to_themselves_end() {
    let (mut disk, at) = flat_disk("-t ext2");
    let block = blocks_of(&disk, FILE)[3] as u32;
    let pointers = block.to_le_bytes().repeat(BLOCK / 4);
    disk[block as usize * BLOCK..][..BLOCK].copy_from_slice(&pointers);
    for level in 12..15 {
        let mut disk = disk.clone();
        disk[at + 0x28 + level * 4..][..4].copy_from_slice(&block.to_le_bytes());
        let error = walk(&disk).err().unwrap_or_else(|| panic!("level {level}: no error"));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "level {level}: {error:?}");
    }
}
