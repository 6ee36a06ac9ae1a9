//! What goes in comes out: a folder with everything in it against the exported image, as the kernel mounts it and as
//! two readers see it.

use crate::{
    silt::{Silt, is_root, pseudo_random},
    survey::{Seen, Survey, add_block, assert_same, survey, survey_mounted},
};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, makedev, mknodat,
    utimensat,
};
use silt_ext4::{
    EntryId, EntryKind,
    reader::{Ext4, FileDisk},
};
use silt_testkit::ext4_image::{LoopMount, e2fsck};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File, Permissions},
    hash::{DefaultHasher, Hasher as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileExt as _, PermissionsExt as _, lchown, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
};

/// Makes every kind of entry and every property that this project promises to keep. Needs root.
pub(crate) fn everything(root: &Path) {
    fs::create_dir(root).unwrap();
    contents(root);
    links_and_specials(root);
    odd_names(root);
    attributes(root);
    depth(root);
    owners_and_times(root);
}

fn contents(root: &Path) {
    fs::write(root.join("empty"), b"").unwrap();
    for len in [1usize, 4095, 4096, 4097, 65_535, 65_536, 65_537, 200_000, 17 << 20] {
        fs::write(root.join(format!("file-{len}")), pseudo_random(len, len as u64)).unwrap();
    }
    fs::write(root.join("zeros"), vec![0; 300_000]).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    for block in [0u64, 3, 15, 16, 17, 300, 4095, 40_000] {
        sparse.write_all_at(&[block as u8 | 1; 100], block * 4096 + 4000).unwrap();
    }
    sparse.set_len(200_000_123).unwrap();
    File::create(root.join("all-hole")).unwrap().set_len(3 << 40).unwrap();
    let comb = File::create(root.join("comb")).unwrap();
    for block in (0..4000).step_by(2) {
        comb.write_all_at(&[7], block * 4096).unwrap();
    }
    let many = root.join("many");
    fs::create_dir(&many).unwrap();
    for n in 0..3000 {
        fs::write(many.join(format!("entry number {n}")), n.to_string()).unwrap();
    }
}

fn links_and_specials(root: &Path) {
    fs::hard_link(root.join("file-4097"), root.join("many/hard link")).unwrap();
    fs::hard_link(root.join("file-4097"), root.join("a hard link before")).unwrap();
    for len in [1, 59, 60, 61, 255, 4095] {
        let target: String = (1..=len).map(|n| if n % 64 == 0 { '/' } else { 't' }).collect();
        symlink(target, root.join(format!("link-{len}"))).unwrap();
    }
    fs::hard_link(root.join("link-60"), root.join("link-60-again")).unwrap();
    let devices = [
        ("null", FileType::CharacterDevice, (1, 3)),
        ("old", FileType::BlockDevice, (255, 255)),
        ("new", FileType::BlockDevice, (256, 1)),
        ("newest", FileType::CharacterDevice, (4095, 1_048_575)),
        ("fifo", FileType::Fifo, (0, 0)),
    ];
    for (name, kind, (major, minor)) in devices {
        mknodat(CWD, root.join(name), kind, Mode::from(0o640), makedev(major, minor)).unwrap();
    }
    drop(UnixListener::bind(root.join("socket")).unwrap());
}

fn odd_names(root: &Path) {
    let names: [&[u8]; 9] = [
        &[b'n'; 255],
        b"new\nline",
        b"quotes '\"`",
        b"\xff\xfe invalid",
        b"\x01\x7f\x1b[31m",
        b"\\back\\slash",
        b" ",
        b"...",
        "\u{1f9f1}\u{0301}".as_bytes(),
    ];
    let dir = root.join("odd");
    fs::create_dir(&dir).unwrap();
    for name in names {
        fs::write(dir.join(OsStr::from_bytes(name)), name).unwrap();
    }
}

fn attributes(root: &Path) {
    let set = |name: &str, key: &str, value: &[u8]| {
        lsetxattr(root.join(name), key, value, XattrFlags::empty()).unwrap();
    };
    // Permitted and effective cap_net_raw, revision 2.
    let mut capability = [0; 20];
    (capability[0], capability[3], capability[5]) = (1, 2, 0x20);
    set("file-1", "security.capability", &capability);
    set("file-1", "user.short", b"v");
    set("file-4096", "user.long", &pseudo_random(3000, 3));
    set("file-4096", "user.empty", b"");
    set("many", "trusted.folder", b"\0\xff");
    set("link-60", "trusted.link", b"of a link");
    set("fifo", "trusted.fifo", b"of a fifo");
    let acl = |entries: &[(u16, u16, u32)]| {
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    };
    const NONE: u32 = u32::MAX;
    let access = acl(&[(1, 6, NONE), (2, 7, 4711), (4, 4, NONE), (16, 7, NONE), (32, 0, NONE)]);
    set("file-4095", "system.posix_acl_access", &access);
    let default = acl(&[(1, 7, NONE), (4, 5, NONE), (8, 3, 70_000), (16, 7, NONE), (32, 0, NONE)]);
    set("odd", "system.posix_acl_default", &default);
}

/// A path longer than what one system call takes.
fn depth(root: &Path) {
    let name = "d".repeat(250);
    let script = "cd \"$1\"; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
         mkdir \"$2\"; cd -P \"./$2\"; done; echo bottom > file";
    let made = Command::new("sh").args(["-ec", script, "sh"]).arg(root).arg(&name).status();
    assert!(made.unwrap().success());
}

fn owners_and_times(root: &Path) {
    for (name, owner) in [
        ("file-1", (65_535, 65_536)),
        ("empty", (4_000_000_000, 3_999_999_999)),
        ("link-61", (1, 2)),
        ("fifo", (1000, 0)),
    ] {
        let keep = rustix::fs::lgetxattr(root.join(name), "security.capability", &mut [0; 20][..]);
        lchown(root.join(name), Some(owner.0), Some(owner.1)).unwrap();
        if keep.is_ok() {
            // Giving a file away takes its capabilities.
            let mut capability = [0; 20];
            (capability[0], capability[3], capability[5]) = (1, 2, 0x20);
            lsetxattr(root.join(name), "security.capability", &capability, XattrFlags::empty())
                .unwrap();
        }
    }
    for (name, mode) in
        [("file-4096", 0o4755), ("file-4097", 0o2711), ("many", 0o1777), ("zeros", 0)]
    {
        fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
    }
    for (name, seconds, nanoseconds) in [
        ("file-1", 2_147_483_648, 1),
        ("file-4095", 4_294_967_296, 999_999_999),
        ("file-4096", 15_000_000_000, 123_456_789),
        ("link-61", -1, 500_000_000),
        ("fifo", -2_147_483_648, 0),
        ("many", 0, 0),
        ("odd", 4_300_000_000, 7),
    ] {
        set_mtime(&root.join(name), seconds, nanoseconds);
    }
}

fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn exported(silt: &Silt, name: &str) -> PathBuf {
    let image = silt.path(format!("{name}.img"));
    silt.ok(&["export", name, image.to_str().unwrap()]);
    e2fsck(&image).unwrap();
    image
}

fn assert_mount_shows(silt: &Silt, image: &Path, expected: &Survey) {
    let mount_point = silt.path("mnt");
    fs::create_dir_all(&mount_point).unwrap();
    if let Some(mounted) = LoopMount::new(image, &mount_point, "ro").unwrap() {
        assert_same(expected, &survey_mounted(mounted.path()));
    }
}

#[test]
fn root_loop_mount_shows_everything_that_the_folder_had() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let root = silt.path("tree");
    everything(&root);
    let source = survey(&root);
    assert!(source.len() > 3040, "{}", source.len());
    assert!(source.keys().any(|path| path.len() > 5000));
    silt.json(&["build", root.to_str().unwrap(), "all"]);
    let image = exported(&silt, "all");
    assert_mount_shows(&silt, &image, &source);
    own_reader_agrees(&image, &source);
    ext4_view_agrees(&image, &source);
    silt.assert_verified();
    // What was removed from below, so that the folder can be.
    let removed = Command::new("rm").arg("-rf").arg(&root).status();
    assert!(removed.unwrap().success());
}

#[test]
fn root_loop_mount_shows_one_owner_where_one_is_given() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let root = silt.small_tree("tree");
    silt.json(&["build", root.to_str().unwrap(), "owned", "--owner", "7:70000"]);
    let mut source = survey(&root);
    source.values_mut().for_each(|seen| seen.owner = (7, 70_000));
    assert_mount_shows(&silt, &exported(&silt, "owned"), &source);
}

#[test]
fn root_loop_mount_shows_a_lost_and_found_of_the_source() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let root = silt.small_tree("tree");
    fs::create_dir(root.join("lost+found")).unwrap();
    fs::write(root.join("lost+found/found"), "again").unwrap();
    silt.json(&["build", root.to_str().unwrap(), "found"]);
    let image = exported(&silt, "found");
    let mount_point = silt.path("mnt");
    fs::create_dir(&mount_point).unwrap();
    if let Some(mounted) = LoopMount::new(&image, &mount_point, "ro").unwrap() {
        assert_same(&survey(&root), &survey(mounted.path()));
    }
}

#[test]
fn an_empty_folder_becomes_an_empty_file_system() {
    let silt = Silt::new();
    let root = silt.path("tree");
    fs::create_dir(&root).unwrap();
    silt.json(&["build", root.to_str().unwrap(), "nothing"]);
    let image = exported(&silt, "nothing");
    let disk = Ext4::open(FileDisk::new(File::open(image).unwrap()).unwrap()).unwrap();
    let read = disk.hierarchy().unwrap().hierarchy;
    let names: Vec<_> = read.walk().map(|visit| visit.name.to_vec()).collect();
    assert_eq!(names, [b"lost+found"]);
}

/// The reader of `silt-ext4`: every entry, every property, every block.
fn own_reader_agrees(image: &Path, source: &Survey) {
    let disk = Ext4::open(FileDisk::new(File::open(image).unwrap()).unwrap()).unwrap();
    let read = disk.hierarchy().unwrap();
    let mut paths: Vec<Vec<u8>> = Vec::new();
    let mut firsts: BTreeMap<EntryId, Vec<u8>> = BTreeMap::new();
    let mut survey = Survey::new();
    let see = |entry: EntryId, first: Vec<u8>| {
        let hierarchy = &read.hierarchy;
        let metadata = hierarchy.metadata(entry);
        let device = |major, minor| makedev(major, minor);
        let (kind, rdev, target) = match hierarchy.kind(entry) {
            EntryKind::Directory => (0o4, 0, Vec::new()),
            EntryKind::File => (0o10, 0, Vec::new()),
            EntryKind::Symlink(target) => (0o12, 0, target.to_vec()),
            EntryKind::CharDevice { major, minor } => (0o2, device(major, minor), Vec::new()),
            EntryKind::BlockDevice { major, minor } => (0o6, device(major, minor), Vec::new()),
            EntryKind::Fifo => (0o1, 0, Vec::new()),
            EntryKind::Socket => (0o14, 0, Vec::new()),
        };
        let is_dir = kind == 0o4;
        let (mut runs, mut hash) = (Vec::new(), DefaultHasher::new());
        let size = if kind == 0o10 { hierarchy.size_bytes(entry) } else { 0 };
        let inode = disk.inode(read.inode(entry)).unwrap();
        for block in hierarchy.content_runs(entry).flat_map(|run| run.start..run.end()) {
            let mut bytes = vec![0; (size - block * 4096).min(4096) as usize];
            disk.read_file_at(&inode, &mut bytes, block * 4096).unwrap();
            hash.write_u64(block);
            hash.write(&bytes);
            add_block(&mut runs, block);
        }
        let xattrs = hierarchy.xattrs(entry).iter();
        Seen {
            mode: kind << 12 | u32::from(metadata.permissions),
            owner: (metadata.uid, metadata.gid),
            mtime: (metadata.mtime.seconds, i64::from(metadata.mtime.nanoseconds)),
            rdev,
            target,
            xattrs: xattrs.map(|xattr| (xattr.name.to_vec(), xattr.value.to_vec())).collect(),
            size,
            content: if kind == 0o10 { (runs, hash.finish()) } else { Default::default() },
            links: if is_dir {
                (0, Vec::new())
            } else {
                (u64::from(hierarchy.links(entry)), first)
            },
        }
    };
    survey.insert(Vec::new(), see(EntryId::ROOT, Vec::new()));
    for visit in read.hierarchy.walk() {
        paths.truncate(visit.depth - 1);
        let path = paths
            .last()
            .map_or_else(|| visit.name.to_vec(), |parent| [parent, &b"/"[..], visit.name].concat());
        paths.push(path.clone());
        if path != b"lost+found" {
            let first = firsts.entry(visit.entry).or_insert_with(|| path.clone()).clone();
            survey.insert(path, see(visit.entry, first));
        }
    }
    assert_same(source, &survey);
}

/// A reader by others: kinds, modes, owners, targets and contents, as far as it shows them.
fn ext4_view_agrees(image: &Path, source: &Survey) {
    let view = ext4_view::Ext4::load_from_path(image).unwrap();
    // It takes a time whose low 32 bits are 2^31 or more for damage, although that is how ext4 writes those before 1970.
    let can_tell = |seen: &Seen| seen.mtime.0 as u32 >> 31 == 0;
    for (path, seen) in source.iter().filter(|(path, seen)| path.len() < 4000 && can_tell(seen)) {
        let path = [b"/", &path[..]].concat();
        let shown = view.symlink_metadata(path.as_slice()).unwrap();
        let text = String::from_utf8_lossy(&path).into_owned();
        assert_eq!(u32::from(shown.mode() & 0o7777), seen.mode & 0o7777, "{text}");
        assert_eq!((shown.uid(), shown.gid()), seen.owner, "{text}");
        if shown.is_symlink() {
            let target = view.read_link(path.as_slice()).expect(&text);
            assert_eq!(target.as_ref(), &seen.target[..], "{text}");
        }
        if seen.mode >> 12 == 0o10 {
            assert_eq!(shown.len(), seen.size, "{text}");
            if seen.size < 1 << 20 {
                assert_eq!(
                    content_of(&view.read(path.as_slice()).unwrap()),
                    seen.content,
                    "{text}"
                );
            }
        }
    }
}

fn content_of(bytes: &[u8]) -> (Vec<std::ops::Range<u64>>, u64) {
    let (mut runs, mut hash) = (Vec::new(), DefaultHasher::new());
    for (number, block) in (0..).zip(bytes.chunks(4096)) {
        if block.iter().any(|byte| *byte != 0) {
            hash.write_u64(number);
            hash.write(block);
            add_block(&mut runs, number);
        }
    }
    (runs, hash.finish())
}
