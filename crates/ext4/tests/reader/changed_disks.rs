//! What changed between two disks: disks changed by the tools that people use, the expected list by hand, and `diff -r` of
//! two mounts as judge.

use super::{
    images::{Mounted, can_mount, noise, sh},
    made_disks::open,
    used_disks::UsedDisk,
};
use silt_ext4::reader::{Aspect, Change, DiskPair, Ext4, FileDisk, NothingKnown, changes};
use silt_types::{ErrorKind, Result};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// What two disks are known to have in common, from all their bytes. Keeps both in memory.
struct BytesKnown([Vec<u8>; 2]);

impl BytesKnown {
    fn of(before: &Path, after: &Path) -> BytesKnown {
        BytesKnown([fs::read(before).unwrap(), fs::read(after).unwrap()])
    }
}

impl DiskPair for BytesKnown {
    fn known_equal(&self, before: u64, after: u64, len_bytes: u64) -> Result<u64> {
        let [a, b] = &self.0;
        let (a, b) = (&a[before as usize..], &b[after as usize..]);
        let len = a.len().min(b.len()).min(len_bytes as usize);
        // By sector, as a map tells by block.
        let equal = a[..len].chunks(512).zip(b[..len].chunks(512)).take_while(|(a, b)| a == b);
        Ok(equal.map(|(a, _)| a.len() as u64).sum())
    }
}

/// The changes, each as its aspects and path, and the old path behind an arrow.
fn lines(changes: &[Change]) -> Vec<String> {
    let line = |change: &Change| {
        let what: Vec<&str> = change.what.iter().map(Aspect::as_str).collect();
        let path = String::from_utf8_lossy(&change.path);
        let from = change.from.as_ref();
        let from =
            from.map_or(String::new(), |from| format!(" <- {}", String::from_utf8_lossy(from)));
        format!("{} {path}{from}", what.join(","))
    };
    changes.iter().map(line).collect()
}

/// The changes, which must not depend on what is known.
fn compare(before: &Path, after: &Path) -> Vec<String> {
    let (a, b): (Ext4<FileDisk>, Ext4<FileDisk>) = (open(before), open(after));
    let known = changes(&a, &b, &BytesKnown::of(before, after)).unwrap();
    assert!(known.windows(2).all(|two| two[0].path < two[1].path), "in order, each path once");
    assert_eq!(known, changes(&a, &b, &NothingKnown).unwrap());
    // The other way round it is as much.
    assert_eq!(known.len(), changes(&b, &a, &NothingKnown).unwrap().len());
    lines(&known)
}

/// Makes a disk, runs one script on it mounted, copies it, runs another, and copies it again.
fn changed(folder: &Path, features: &str, first: &str, second: &str) -> (PathBuf, PathBuf) {
    let (disk, before, after) = (folder.join("disk"), folder.join("before"), folder.join("after"));
    sh(&format!("rm -f {0}; mke2fs -q -F {features} {0} 32M", disk.display()));
    for (script, copy) in [(first, &before), (second, &after)] {
        let mounted = Mounted::new(&disk, "noatime");
        sh(&format!("cd {}; {script}", mounted.at.display()));
        drop(mounted);
        sh(&format!("cp --sparse=always {} {}", disk.display(), copy.display()));
    }
    (before, after)
}

/// Paths that `diff -r` of two mounts tells of. What is on one side only it tells without what is below.
fn told_by_diff(before: &Path, after: &Path) -> BTreeSet<String> {
    let (a, b) = (Mounted::new(before, "ro,noload"), Mounted::new(after, "ro,noload"));
    let mut diff = Command::new("diff");
    let output = diff.args(["-rq", "--no-dereference"]).arg(&a.at).arg(&b.at).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (at_a, at_b) = (a.at.display().to_string(), b.at.display().to_string());
    text.lines()
        .map(|line| {
            let line = line.replace(&at_a, "").replace(&at_b, "");
            let path = match line.strip_prefix("Only in ") {
                Some(rest) => rest.replacen(": ", "/", 1),
                None => {
                    line.split_whitespace().find(|word| word.starts_with('/')).unwrap().to_owned()
                }
            };
            path.trim_start_matches('/').to_owned()
        })
        .collect()
}

/// The paths of changes that `diff -r` would tell of: not metadata alone, and not what is below a folder that is told.
fn as_diff_tells(changes: &[String]) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for line in changes {
        let (what, path) = line.split_once(' ').unwrap();
        let (path, from) =
            path.split_once(" <- ").map_or((path, None), |(p, from)| (p, Some(from)));
        let seen = ["added", "removed", "renamed", "content", "target", "kind", "device"];
        if what.split(',').any(|aspect| seen.contains(&aspect)) {
            paths.insert(path.to_owned());
            paths.extend(from.map(str::to_owned));
        }
    }
    let all = paths.clone();
    paths.retain(|path| {
        let above = path.match_indices('/').map(|(at, _)| &path[..at]);
        above.clone().all(|above| !all.contains(above))
    });
    paths
}

const FIRST: &str = "
    mkdir -p etc home/user old/deep gone/deep kinds
    echo one > etc/one; echo two > etc/two; echo three > etc/three
    seq 500000 > home/big; truncate -s 3000000 home/big; cp home/big home/rewritten; cp home/big home/sneaky
    cp home/big home/in-place; truncate -s 20M home/sparse; echo end >> home/sparse
    echo a > old/a; echo b > old/deep/b; echo c > old/c; echo x > gone/x; echo y > gone/deep/y
    echo m > etc/mode; echo o > etc/owner; echo t > etc/times; echo x > etc/xattr; setfattr -n user.a -v 1 etc/xattr
    echo attributes > etc/block; for i in $(seq 12); do setfattr -n user.name$i -v some-longer-value-$i etc/block; done
    ln -s target etc/link; ln -s $(printf 'l%.0s' $(seq 200)) etc/long-link; ln -s same etc/same-link
    mknod etc/device c 1 3
    echo linked > etc/hard; ln etc/hard home/hard; ln etc/hard home/hard-gone
    echo f > kinds/file; mkdir kinds/folder; echo inner > kinds/folder/inner; ln -s x kinds/link
    echo replaced > etc/replaced; echo replaced > etc/replaced-alike; echo moved > home/user/moved
    mkdir many; for i in $(seq 300); do echo $i > many/file-of-a-longer-name-$i; done
    echo swap1 > home/swap1; touch -d 2001-01-01 home/swap1; echo swap2 > home/swap2; mkdir touched; mkdir other; echo z > other/z";

const SECOND: &str = "
    echo new > etc/new; mkdir -p added/deep; echo n > added/deep/n
    rm etc/one; rm -r gone; mv etc/two etc/zwei; echo more >> etc/three
    r() { touch -r $1 /tmp/reference.$$; $2; touch -r /tmp/reference.$$ $1; rm /tmp/reference.$$; }
    patch() { printf X | dd of=home/sneaky bs=1 seek=2000000 conv=notrunc status=none; }; r home/sneaky patch
    printf Y | dd of=home/in-place bs=1 seek=100 conv=notrunc status=none
    again() { cp home/rewritten /tmp/again.$$; cat /tmp/again.$$ > home/rewritten; rm /tmp/again.$$; }; r home/rewritten again
    printf Z | dd of=home/sparse bs=1 seek=9000000 conv=notrunc status=none
    mv old renamed; echo B > renamed/deep/b; echo d > renamed/d; rm renamed/c
    chmod 600 etc/mode; chown 7:8 etc/owner; touch -d 2001-02-03 etc/times; setfattr -n user.a -v 2 etc/xattr
    setfattr -n user.name12 -v some-other-value etc/block
    ln -sfn elsewhere etc/link; ln -sfn $(printf 'm%.0s' $(seq 200)) etc/long-link; ln -sfn same etc/same-link
    rm etc/device; mknod etc/device c 1 5
    echo more >> etc/hard; rm home/hard-gone; ln etc/hard home/hard-new
    rm kinds/file; mkdir kinds/file; echo in > kinds/file/in; rm -r kinds/folder; echo now > kinds/folder
    rm kinds/link; echo link > kinds/link
    echo other > etc/r.new; mv etc/r.new etc/replaced; cp -p etc/replaced-alike etc/r.new; mv etc/r.new etc/replaced-alike
    mv home/user/moved moved; chmod 711 moved
    mv home/swap1 t; mv home/swap2 home/swap1; mv t home/swap2; touch -d 2001-02-03 touched; chmod 700 other";

/// In the order of paths.
const EXPECTED: [&str; 41] = [
    "added added",
    "added added/deep",
    "added added/deep/n",
    "xattrs etc/block",
    "device,times etc/device",
    "content,times etc/hard",
    "target,times etc/link",
    "target,times etc/long-link",
    "mode etc/mode",
    "added etc/new",
    "removed etc/one",
    "owner etc/owner",
    "content,times etc/replaced",
    "times etc/same-link",
    "content,times etc/three",
    "times etc/times",
    "xattrs etc/xattr",
    "renamed etc/zwei <- etc/two",
    "removed gone",
    "removed gone/deep",
    "removed gone/deep/y",
    "removed gone/x",
    "content,times home/hard",
    "renamed,content,times home/hard-new <- home/hard-gone",
    "content,times home/in-place",
    "content home/sneaky",
    "content,times home/sparse",
    "content,times home/swap1",
    "content,times home/swap2",
    "kind kinds/file",
    "added kinds/file/in",
    "kind kinds/folder",
    "removed kinds/folder/inner",
    "kind kinds/link",
    "renamed,mode moved <- home/user/moved",
    "removed old/c",
    "mode other",
    "renamed renamed <- old",
    "added renamed/d",
    "content,times renamed/deep/b",
    "times touched",
];

#[test]
fn root_loop_mount_changes_of_every_kind_are_told_by_path() {
    if !can_mount() {
        return;
    }
    for features in ["-t ext4 -b 4096", "-t ext4 -b 1024 -I 128", "-t ext3 -b 4096"] {
        let folder = tempfile::tempdir().unwrap();
        let (before, after) = changed(folder.path(), features, FIRST, SECOND);
        let found = compare(&before, &after);
        // Times of whole seconds may be equal by chance, and then they are not told.
        let coarse = !features.starts_with("-t ext4 -b 4096");
        let seen = |line: &str| match coarse {
            true => line.replace(",times", ""),
            false => line.to_owned(),
        };
        let counts = |line: &String| !coarse || !line.starts_with("times ");
        let found_seen: Vec<_> = found.iter().map(|line| seen(line)).filter(counts).collect();
        let expected: Vec<_> = EXPECTED.into_iter().map(seen).filter(counts).collect();
        assert_eq!(found_seen, expected, "{features}");
        assert_eq!(as_diff_tells(&found), told_by_diff(&before, &after), "{features}");
        assert_eq!(compare(&before, &before), Vec::<String>::new());
    }
}

/// Under another UUID inodes mean nothing: what was renamed is removed and added.
#[test]
fn root_loop_mount_file_systems_without_a_common_past_are_compared_by_path() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (before, after) = changed(folder.path(), "-t ext4 -b 4096", FIRST, SECOND);
    sh(&format!("e2fsck -fy {0} >&2; tune2fs -f -U random {0}", after.display()));
    let found = compare(&before, &after);
    assert!(
        found.iter().all(|line| !line.contains("renamed,") && !line.contains(" <- ")),
        "{found:?}"
    );
    let wanted = ["removed etc/two", "added etc/zwei", "added moved", "removed old/deep/b"];
    for line in wanted {
        assert!(found.contains(&line.to_owned()), "{line}: {found:?}");
    }
    assert_eq!(as_diff_tells(&found), told_by_diff(&before, &after));

    // A file system of another shape altogether, made of the same files.
    let mounted = Mounted::new(&before, "ro,noload");
    let other = folder.path().join("other");
    sh(&format!(
        "mke2fs -q -F -t ext4 -b 1024 -N 3000 -d {} {} 48M",
        mounted.at.display(),
        other.display()
    ));
    drop(mounted);
    // mke2fs copies whole seconds only.
    let found = compare(&before, &other);
    let other_than_times: Vec<_> =
        found.iter().filter(|line| !line.starts_with("times ")).collect();
    assert!(other_than_times.is_empty(), "{other_than_times:?}");
}

/// A file's blocks may change while its inode does not, for instance under a file system that repairs itself, or when
/// the guest was stopped before it wrote the inode.
#[test]
fn content_that_changed_beneath_its_inode_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (source, disk) = (folder.path().join("source"), folder.path().join("disk"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), noise(100_000)).unwrap();
    fs::write(source.join("other"), noise(50_000)).unwrap();
    sh(&format!("mke2fs -q -F -b 4096 -d {} {} 16M", source.display(), disk.display()));
    let changed = folder.path().join("changed");
    sh(&format!("cp {} {}", disk.display(), changed.display()));
    let block = sh(&format!("debugfs -R 'bmap /file 24' {} 2>/dev/null", disk.display()));
    let at = block.trim().parse::<u64>().unwrap() * 4096;
    let file = fs::File::options().write(true).open(&changed).unwrap();
    // Behind the end of the file, then in it.
    file.write_all_at(b"slack", at + 4000).unwrap();
    assert_eq!(compare(&disk, &changed), Vec::<String>::new());
    file.write_all_at(b"!", at + 5).unwrap();
    assert_eq!(compare(&disk, &changed), ["content file"]);
}

/// The list must not depend on whether the journal has been written in place.
#[test]
fn root_loop_mount_what_the_journal_holds_counts() {
    if !can_mount() {
        return;
    }
    for options in ["data=ordered", "data=journal"] {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = UsedDisk::new(folder.path(), "-t ext4 -b 4096", options);
        disk.make_directory("first");
        let before = disk.copy();
        disk.make_directory("second");
        disk.write("first/synced", b"short now");
        disk.commit();
        let after = disk.copy();
        drop(disk);
        assert!(open(&before).journal_blocks() > 0 && open(&after).journal_blocks() > 0);
        let found = compare(&before, &after);
        assert_eq!(found.len(), 403, "{found:?}");
        assert_eq!(found[0], "content,times first/synced");
        assert!(found[1..].iter().all(|line| line.starts_with("added second")), "{found:?}");
        let replayed = [&before, &after].map(|copy| {
            let replayed = PathBuf::from(format!("{}.replayed", copy.display()));
            sh(&format!(
                "cp {0} {1}; e2fsck -fy {1} >&2 || [ $? = 1 ]",
                copy.display(),
                replayed.display()
            ));
            replayed
        });
        assert_eq!(compare(&replayed[0], &replayed[1]), found);
        assert_eq!(compare(&before, &replayed[1]), found);
        assert_eq!(as_diff_tells(&found), told_by_diff(&replayed[0], &replayed[1]));
    }
}

/// Many names of one large file, against as many files of that size, must not be taken for a disk that claims too much.
#[test]
fn hard_links_are_told_under_each_name_and_compared_once() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
    for source in [&a, &b] {
        fs::create_dir(source).unwrap();
        fs::write(source.join("0"), noise(3_000_000)).unwrap();
    }
    let copies = if b.exists() { 5 } else { 0 };
    for index in 1..=copies {
        fs::hard_link(a.join("0"), a.join(index.to_string())).unwrap();
        fs::copy(b.join("0"), b.join(index.to_string())).unwrap();
    }
    fs::write(b.join("3"), noise(2_999_999)).unwrap();
    let disk_of = |source: &Path, size: &str| {
        let disk = source.with_extension("disk");
        sh(&format!(
            "cd {}; touch -d 2001-01-01 * .; mke2fs -q -F -b 4096 -d . {} {size}",
            source.display(),
            disk.display()
        ));
        disk
    };
    let (linked, copied) = (disk_of(&a, "8M"), disk_of(&b, "32M"));
    assert_eq!(compare(&linked, &copied), ["content 3"]);
    assert_eq!(compare(&copied, &linked), ["content 3"]);
}

#[test]
fn disks_made_to_do_harm_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let (source, disk) = (folder.path().join("source"), folder.path().join("disk"));
    fs::create_dir_all(source.join("one/two")).unwrap();
    fs::write(source.join("file"), noise(100_000)).unwrap();
    sh(&format!(
        "mke2fs -q -F -b 4096 -O ^metadata_csum -d {} {} 16M",
        source.display(),
        disk.display()
    ));
    let cases = [
        ("ln one one/two/loop", "has two names"),
        ("ln file one/name-a\nln file one/name-b", "is there twice"),
        ("sif file links_count 0", "is deleted and has a name"),
        ("sif <2> mode 0100644", "root"),
    ];
    for (number, (commands, expected)) in cases.into_iter().enumerate() {
        let bad = folder.path().join(format!("bad{number}"));
        fs::write(folder.path().join("commands"), commands).unwrap();
        sh(&format!(
            "cp {} {1}; debugfs -w -f {2}/commands {1}",
            disk.display(),
            bad.display(),
            folder.path().display()
        ));
        let bytes = fs::read(&bad).unwrap();
        if let Some(at) = bytes.windows(6).position(|name| name == b"name-b") {
            let file = fs::File::options().write(true).open(&bad).unwrap();
            file.write_all_at(b"name-a", at as u64).unwrap();
        }
        for (a, b) in [(&disk, &bad), (&bad, &disk)] {
            let error = changes(&open(a), &open(b), &NothingKnown).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{commands}");
            assert!(error.chain().contains(expected), "{commands}: {error:?}");
        }
    }
}
