//! A mounted image against the hierarchy it was made from: every entry, every property.

use rustix::fs::{SeekFrom, lgetxattr, llistxattr};
use silt_ext4::{EntryId, EntryKind, Hierarchy};
use silt_testkit::ext4_image::{BLOCK_SIZE, content_block};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    os::{
        fd::AsRawFd as _,
        unix::{
            ffi::OsStrExt as _,
            fs::{FileExt as _, MetadataExt as _},
        },
    },
    path::{Path, PathBuf},
};

/// Asserts that the folder shows the hierarchy, and besides it nothing but `lost+found`.
pub(crate) fn assert_shows(hierarchy: &Hierarchy, folder: &Path) {
    let mut comparison = Comparison { hierarchy, inodes: BTreeMap::new() };
    comparison.compare_entry(EntryId::ROOT, folder);
    comparison.compare_children(EntryId::ROOT, folder);
}

struct Comparison<'a> {
    hierarchy: &'a Hierarchy,
    /// Names of one entry are one inode.
    inodes: BTreeMap<EntryId, u64>,
}

impl Comparison<'_> {
    /// Through the open folder, so that paths never get too long.
    fn compare_children(&mut self, directory: EntryId, path: &Path) {
        let open = File::open(path).unwrap();
        let here = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        let children = self.hierarchy.children(directory);
        let mut shown: Vec<_> =
            fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        shown.sort_unstable();
        if directory == EntryId::ROOT && children.iter().all(|child| child.name != b"lost+found") {
            shown.retain(|name| name != "lost+found");
            assert_added_lost_and_found(&here.join("lost+found"), self.hierarchy);
        }
        assert!(shown.iter().map(|name| name.as_bytes()).eq(children.iter().map(|c| c.name)));
        for child in children {
            let path = here.join(OsStr::from_bytes(child.name));
            self.compare_entry(child.entry, &path);
            if self.hierarchy.kind(child.entry) == EntryKind::Directory {
                self.compare_children(child.entry, &path);
            }
        }
    }

    fn compare_entry(&mut self, entry: EntryId, path: &Path) {
        let hierarchy = self.hierarchy;
        let name = String::from_utf8_lossy(&hierarchy.path(entry)).into_owned();
        let shown =
            if entry == EntryId::ROOT { fs::metadata(path) } else { fs::symlink_metadata(path) };
        let shown = shown.unwrap();
        let declared = hierarchy.metadata(entry);
        assert_eq!(shown.mode() & 0o7777, u32::from(declared.permissions), "{name}");
        assert_eq!((shown.uid(), shown.gid()), (declared.uid, declared.gid), "{name}");
        let mtime = (declared.mtime.seconds, i64::from(declared.mtime.nanoseconds));
        assert_eq!((shown.mtime(), shown.mtime_nsec()), mtime, "{name}");
        assert_eq!((shown.ctime(), shown.ctime_nsec()), mtime, "{name}");
        assert_eq!((shown.atime(), shown.atime_nsec()), mtime, "{name}");
        assert_eq!(*self.inodes.entry(entry).or_insert(shown.ino()), shown.ino(), "{name}");
        self.compare_links(entry, shown.nlink());
        assert_eq!(shown_xattrs(path), declared_xattrs(hierarchy, entry), "{name}");
        let device = |major, minor| rustix::fs::makedev(major, minor);
        let (file_type, rdev) = match hierarchy.kind(entry) {
            EntryKind::Directory => (0o4, 0),
            EntryKind::File => (0o10, 0),
            EntryKind::Symlink(target) => {
                assert_eq!(fs::read_link(path).unwrap().as_os_str().as_bytes(), target);
                (0o12, 0)
            }
            EntryKind::CharDevice { major, minor } => (0o2, device(major, minor)),
            EntryKind::BlockDevice { major, minor } => (0o6, device(major, minor)),
            EntryKind::Fifo => (0o1, 0),
            EntryKind::Socket => (0o14, 0),
        };
        assert_eq!((shown.mode() >> 12, shown.rdev()), (file_type, rdev), "{name}");
        if hierarchy.kind(entry) == EntryKind::File {
            assert_eq!(shown.len(), hierarchy.size_bytes(entry), "{name}");
            compare_content(hierarchy, entry, path);
        }
    }

    fn compare_links(&self, entry: EntryId, shown: u64) {
        let hierarchy = self.hierarchy;
        if hierarchy.kind(entry) != EntryKind::Directory {
            assert_eq!(shown, u64::from(hierarchy.links(entry)));
            return;
        }
        let children = hierarchy.children(entry);
        let is_directory = |child: &&silt_ext4::hierarchy::Child<'_>| {
            hierarchy.kind(child.entry) == EntryKind::Directory
        };
        let subdirectories = children.iter().filter(is_directory).count() as u64;
        let added = entry == EntryId::ROOT && hierarchy.lookup(entry, b"lost+found").is_none();
        assert_eq!(shown, 2 + subdirectories + u64::from(added));
    }
}

fn assert_added_lost_and_found(path: &Path, hierarchy: &Hierarchy) {
    let shown = fs::metadata(path).unwrap();
    assert_eq!((shown.mode(), shown.uid(), shown.gid()), (0o040_700, 0, 0));
    assert_eq!(shown.mtime(), hierarchy.metadata(EntryId::ROOT).mtime.seconds);
    assert_eq!((fs::read_dir(path).unwrap().count(), shown.ino()), (0, 11));
}

type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

fn declared_xattrs(hierarchy: &Hierarchy, entry: EntryId) -> Xattrs {
    let xattrs = hierarchy.xattrs(entry).iter();
    xattrs.map(|xattr| (xattr.name.to_vec(), xattr.value.to_vec())).collect()
}

fn shown_xattrs(path: &Path) -> Xattrs {
    let mut list = vec![0; 1 << 16];
    let len = llistxattr(path, &mut list).unwrap();
    let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let len = lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap();
            value.truncate(len);
            (name.to_vec(), value)
        })
        .collect()
}

/// The data that SEEK_DATA finds is what was declared, and reads as it was written.
fn compare_content(hierarchy: &Hierarchy, entry: EntryId, path: &Path) {
    let file = File::open(path).unwrap();
    let block_size = BLOCK_SIZE as u64;
    let (mut runs, mut offset) = (Vec::new(), 0);
    while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(offset)) {
        offset = rustix::fs::seek(&file, SeekFrom::Hole(start)).unwrap();
        runs.push(start / block_size..offset.div_ceil(block_size));
    }
    let declared: Vec<_> = hierarchy.content_runs(entry).map(|run| run.start..run.end()).collect();
    assert_eq!(runs, declared);
    let mut bytes = [0; BLOCK_SIZE];
    for block in declared.into_iter().flatten() {
        let valid = (hierarchy.size_bytes(entry) - block * block_size).min(block_size) as usize;
        file.read_exact_at(&mut bytes[..valid], block * block_size).unwrap();
        assert!(bytes[..valid] == content_block(hierarchy, entry, block)[..valid]);
    }
}
