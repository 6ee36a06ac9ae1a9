//! Everything that can be asked of a disk, asked once.

use silt_ext4::{
    hierarchy::EntryKind,
    reader::{DiskRead, Ext4},
};
use silt_types::Result;

/// Reads all of `disk` but the middle of long files. Gives the number of steps that took; the first error ends a part.
pub(super) fn walk(disk: impl DiskRead) -> Result<u64> {
    let ext4 = Ext4::open(disk)?;
    let mut steps = 0;
    for number in ext4.used_inodes().flatten() {
        steps += 1;
        if let Ok(inode) = ext4.inode(number) {
            steps += ext4.extents(&inode).count() as u64;
            steps += ext4.xattrs(&inode).map_or(0, |xattrs| xattrs.len() as u64);
            let _ = ext4.read_link(&inode);
            let _ = ext4.read_dir(&inode, &mut |_, _| {
                steps += 1;
                Ok(())
            });
        }
    }
    ext4.for_each_file_extent(&mut |_, _| {
        steps += 1;
        Ok(())
    })?;
    ext4.for_each_file_extent_where(&|from| from.checked_next_multiple_of(3), &mut |_, _| {
        steps += 1;
        Ok(())
    })?;
    let read = ext4.hierarchy()?;
    let mut buf = vec![0; 20_000];
    for entry in read.hierarchy.entries() {
        steps += 1;
        if !matches!(read.hierarchy.kind(entry), EntryKind::File) {
            continue;
        }
        let inode = ext4.inode(read.inode(entry))?;
        let len = inode.size_bytes.min(buf.len() as u64);
        for offset in [0, inode.size_bytes / 2, inode.size_bytes - len] {
            let len = len.min(inode.size_bytes - offset);
            let _ = ext4.read_file_at(&inode, &mut buf[..len as usize], offset);
        }
    }
    Ok(steps)
}
