//! The whole tree as a hierarchy, and the map from disk to files: both against the kernel.

use super::{
    facts::of_mount,
    images::{Mounted, can_mount, fill, noise, sh},
    made_disks::open,
    used_disks::UsedDisk,
};
use silt_ext4::{
    hierarchy::{EntryId, EntryKind},
    reader::{DiskRead, Ext4, FileDisk, InodeNumber, SurveyGaps},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::{self, File},
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _},
    path::Path,
};

fn made_disk(folder: &Path, features: &str) -> std::path::PathBuf {
    let (source, disk) = (folder.join("source"), folder.join("disk"));
    fill(&source);
    sh(&format!("mke2fs -q -F {features} -d {} {} 64M", source.display(), disk.display()));
    disk
}

#[test]
fn root_loop_mount_and_hierarchy_hold_the_same() {
    if !can_mount() {
        return;
    }
    for features in [
        "-t ext4 -b 4096",
        "-t ext4 -b 1024",
        "-t ext4 -O inline_data -I 512 -b 4096",
        "-t ext2 -b 2048",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let disk = made_disk(folder.path(), features);
        let ext4 = open(&disk);
        let read = ext4.hierarchy().unwrap();
        let mounted = Mounted::new(&disk, "ro,noload");
        let listing = of_mount(&mounted.at);
        let entries: BTreeSet<u64> =
            read.hierarchy.entries().map(|entry| read.inode(entry).get().into()).collect();
        assert_eq!(
            entries,
            listing.values().map(|facts| facts.inode).collect(),
            "{features}: inodes"
        );
        let used: BTreeSet<u64> =
            ext4.used_inodes().map(|number| number.unwrap().get().into()).collect();
        assert_eq!(used, entries, "{features}: used inodes");
        for (path, facts) in &listing {
            let what = format!("{features}: {:?}", String::from_utf8_lossy(path));
            let steps = path.split(|byte| *byte == b'/').filter(|step| !step.is_empty());
            let entry =
                steps.fold(EntryId::ROOT, |at, step| read.hierarchy.lookup(at, step).unwrap());
            assert_eq!(u64::from(read.inode(entry).get()), facts.inode, "{what}");
            let metadata = read.hierarchy.metadata(entry);
            assert_eq!((metadata.uid, metadata.gid), facts.owner, "{what}");
            assert_eq!(
                (metadata.permissions, metadata.mtime),
                (facts.permissions, facts.mtime),
                "{what}"
            );
            let xattrs = read.hierarchy.xattrs(entry).iter();
            let xattrs: BTreeMap<_, _> =
                xattrs.map(|xattr| (xattr.name.to_vec(), xattr.value.to_vec())).collect();
            assert_eq!(xattrs, facts.xattrs, "{what}");
            match read.hierarchy.kind(entry) {
                EntryKind::File => {
                    assert_eq!(read.hierarchy.size_bytes(entry), facts.content.0, "{what}");
                    assert_eq!(read.hierarchy.links(entry), u32::from(facts.links), "{what}");
                    let runs: Vec<_> = read.hierarchy.content_runs(entry).collect();
                    assert_eq!(data_outside(&mounted.at.join(path_of(path)), &runs), 0, "{what}");
                }
                EntryKind::Symlink(target) => {
                    assert_eq!(crc32c::crc32c(target), facts.content.1, "{what}")
                }
                _ => {}
            }
        }
    }
}

fn path_of(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

/// Bytes other than zero of a file outside the given runs of 4 KiB blocks.
fn data_outside(path: &Path, runs: &[silt_types::BlockRange]) -> usize {
    let mut content = fs::read(path).unwrap();
    for run in runs {
        let end = (run.end() as usize * 4096).min(content.len());
        content[run.start as usize * 4096..end].fill(0);
    }
    content.iter().filter(|byte| **byte != 0).count()
}

#[test]
fn the_disk_holds_at_each_extent_what_the_file_holds_there() {
    for features in ["-t ext4 -b 4096", "-t ext3 -b 1024"] {
        let folder = tempfile::tempdir().unwrap();
        let disk = made_disk(folder.path(), features);
        let ext4 = open(&disk);
        let file = FileDisk::new(File::open(&disk).unwrap()).unwrap();
        let block_size = u64::from(ext4.block_size_bytes());
        let (mut seen, mut owners) = (0, BTreeMap::<u64, InodeNumber>::new());
        let gaps = ext4.for_each_file_extent(&mut |inode, extent| {
            let end = (extent.logical_end() * block_size).min(inode.size_bytes);
            let start = extent.logical * block_size;
            let (mut on_disk, mut in_file) =
                (vec![0; (end - start) as usize], vec![1; (end - start) as usize]);
            file.read_at(&mut on_disk, extent.physical * block_size)?;
            ext4.read_file_at(inode, &mut in_file, start)?;
            assert!(on_disk == in_file, "inode {}, {extent:?}", inode.number);
            for block in extent.physical..extent.physical + extent.len {
                assert_eq!(
                    owners.insert(block, inode.number),
                    None,
                    "block {block} has two owners"
                );
            }
            seen += 1;
            Ok(())
        });
        assert_eq!(gaps.unwrap(), SurveyGaps::default());
        assert!(seen > 2000, "{features}: {seen} extents");
        // debugfs knows the owners of some of these blocks too.
        for (block, owner) in owners.iter().step_by(owners.len() / 7) {
            let told = sh(&format!("debugfs -R 'icheck {block}' {} 2>/dev/null", disk.display()));
            assert!(told.ends_with(&format!("{block}\t{owner}\n")), "{told}");
        }
    }
}

#[test]
fn a_survey_passes_over_what_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let disk = made_disk(folder.path(), "-t ext4 -b 4096");
    let count = |disk: &Path| {
        let mut files = BTreeSet::new();
        let ext4 = open(disk);
        let gaps = ext4.for_each_file_extent(&mut |inode, _| {
            files.insert(inode.number);
            Ok(())
        });
        (files.len(), gaps.unwrap())
    };
    let (files, gaps) = count(&disk);
    assert_eq!(gaps, SurveyGaps::default());
    sh(&format!("debugfs -w -R 'sif border block[0] 0' {}", disk.display()));
    assert_eq!(count(&disk), (files - 1, SurveyGaps { files: 1, ..SurveyGaps::default() }));
}

#[test]
fn root_loop_mount_of_an_old_file_of_five_gib_is_read_to_its_end() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    sh(&format!("mke2fs -q -F -t ext2 -b 4096 {} 16M", disk.display()));
    let (at, content) = (5u64 << 30, noise(9000));
    let mounted = Mounted::new(&disk, "noatime");
    let file = File::create(mounted.at.join("large")).unwrap();
    file.write_all_at(b"start", 3).unwrap();
    file.write_all_at(&content, at - 1).unwrap();
    drop((file, mounted));
    let ext4: Ext4<FileDisk> = open(&disk);
    let read = ext4.hierarchy().unwrap();
    let entry = read.hierarchy.lookup(EntryId::ROOT, b"large").unwrap();
    let inode = ext4.inode(read.inode(entry)).unwrap();
    assert_eq!(inode.size_bytes, at - 1 + 9000);
    let mut found = vec![9; 9004];
    ext4.read_file_at(&inode, &mut found, at - 5).unwrap();
    assert!(found[..4] == [0; 4] && found[4..] == content);
    let runs: Vec<_> = read.hierarchy.content_runs(entry).map(|run| (run.start, run.len)).collect();
    assert_eq!(runs, [(0, 1), ((at >> 12) - 1, 4)]);
    let beyond = ext4.read_file_at(&inode, &mut found, at);
    assert_eq!(beyond.unwrap_err().kind(), silt_types::ErrorKind::Invalid);
}

/// The files that a survey with these blocks picked tells of.
fn files_where(ext4: &Ext4<FileDisk>, next: &dyn Fn(u64) -> Option<u64>) -> BTreeSet<InodeNumber> {
    let mut files = BTreeSet::new();
    let gaps = ext4.for_each_file_extent_where(next, &mut |inode, _| {
        files.insert(inode.number);
        Ok(())
    });
    assert_eq!(gaps.unwrap(), SurveyGaps::default());
    files
}

#[test]
fn a_survey_of_picked_blocks_tells_of_the_inodes_in_them_alone() {
    for features in ["-t ext4 -b 4096", "-t ext3 -b 1024", "-t ext4 -b 4096 -g 1024 -O ^flex_bg"] {
        let folder = tempfile::tempdir().unwrap();
        let disk = made_disk(folder.path(), features);
        let ext4 = open(&disk);
        let mut all = BTreeSet::new();
        let gaps = ext4.for_each_file_extent(&mut |inode, _| {
            all.insert(inode.number);
            Ok(())
        });
        assert_eq!(gaps.unwrap(), SurveyGaps::default());
        assert_eq!(files_where(&ext4, &Some), all, "{features}: every block");
        assert_eq!(files_where(&ext4, &|_| None), BTreeSet::new(), "{features}: none");
        assert_eq!(files_where(&ext4, &|_| Some(0)), BTreeSet::new(), "{features}: one before");
        let (mut found, mut blocks) = (BTreeSet::new(), BTreeSet::new());
        for file in all.iter().step_by(97) {
            let told = sh(&format!("debugfs -R 'imap <{file}>' {} 2>/dev/null", disk.display()));
            let (_, after) = told.split_once("located at block ").unwrap();
            let block: u64 = after.split(',').next().unwrap().parse().unwrap();
            let one = files_where(&ext4, &|from| (from <= block).then_some(block));
            assert!(one.contains(file) && one.len() <= 16, "{features}: {one:?}");
            blocks.insert(block);
            found.extend(one);
        }
        let several = files_where(&ext4, &|from| blocks.range(from..).next().copied());
        assert_eq!(several, found, "{features}: several");
    }
}

#[test]
fn root_loop_mount_a_survey_of_picked_blocks_tells_of_inodes_in_the_journal_too() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut disk = UsedDisk::new(folder.path(), "-t ext4 -b 4096", "data=ordered");
    disk.write("synced", &noise(100_000));
    let copy = disk.copy();
    let ext4 = open(&copy);
    assert!(ext4.journal_blocks() > 0);
    assert_eq!(files_where(&ext4, &|_| None).len(), 1);
}
