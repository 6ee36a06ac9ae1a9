//! Any bytes as an ext4 disk: everything that can be asked of it is asked, and nothing may panic or run away.
//!
//! A good start is a corpus of small disks, `mke2fs -t ext4 -O ^metadata_csum -b 1024 -d FOLDER disk 2M` and the like: without
//! checksums, what is changed is not found out at the door. The same walk runs over mutated disks in the tests of `silt-ext4`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use silt_ext4::{
    hierarchy::EntryKind,
    reader::{DiskRead, Ext4},
};
use silt_types::Result;

fuzz_target!(|disk: &[u8]| {
    let _ = walk(disk);
});

fn walk(disk: impl DiskRead) -> Result<()> {
    let ext4 = Ext4::open(disk)?;
    for number in ext4.used_inodes().flatten() {
        let Ok(inode) = ext4.inode(number) else { continue };
        ext4.extents(&inode).for_each(drop);
        let _ = ext4.xattrs(&inode);
        let _ = ext4.read_link(&inode);
        let _ = ext4.read_dir(&inode, &mut |_, _| Ok(()));
    }
    ext4.for_each_file_extent(&mut |_, _| Ok(()))?;
    ext4.for_each_file_extent_where(&|from| from.checked_next_multiple_of(3), &mut |_, _| Ok(()))?;
    let read = ext4.hierarchy()?;
    let mut buf = vec![0; 20_000];
    for entry in read.hierarchy.entries() {
        if !matches!(read.hierarchy.kind(entry), EntryKind::File) {
            continue;
        }
        let inode = ext4.inode(read.inode(entry))?;
        let len = inode.size_bytes.min(buf.len() as u64);
        for offset in [0, inode.size_bytes - len] {
            let _ = ext4.read_file_at(&inode, &mut buf[..len as usize], offset);
        }
    }
    Ok(())
}
