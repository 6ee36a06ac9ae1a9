//! Rebuilding a folder: what did not change is not read, what did is noticed, and nothing that befalls the cache matters.

use crate::silt::{Silt, is_root, pseudo_random};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
use serde_json::Value;
use silt_testkit::fault::{every_file_of, flip_bit};
use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::Duration,
};

/// Until what was written last may be kept in the cache.
fn settle() {
    thread::sleep(Duration::from_millis(2100));
}

fn build(silt: &Silt, dir: &Path, name: &str, options: &[&str]) -> Value {
    silt.json(&[&["build", dir.to_str().unwrap(), name, "--replace"], options].concat())
}

fn number(built: &Value, key: &str) -> u64 {
    built[key].as_u64().unwrap()
}

/// What must be equal however the image came to be.
fn identity(built: &Value) -> Vec<&Value> {
    let keys = ["disk_id", "tree_id", "size", "bytes_nonzero", "chunks", "inodes", "bytes_free"];
    keys.map(|key| &built[key]).to_vec()
}

/// The same folder built where nothing is known of it.
fn afresh(dir: &Path, options: &[&str]) -> Value {
    build(&Silt::new(), dir, "image", options)
}

fn caches(silt: &Silt) -> Vec<PathBuf> {
    every_file_of(&silt.store().join("caches")).unwrap_or_default()
}

/// 20 small files, a sparse one and a long one, long unchanged.
fn tree(silt: &Silt, name: &str) -> PathBuf {
    let dir = silt.small_tree(name);
    for n in 0..20 {
        fs::write(dir.join(format!("etc/{n}")), pseudo_random(100 + n, n as u64)).unwrap();
    }
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.write_all_at(&pseudo_random(70_000, 3), 300_000).unwrap();
    sparse.set_len(20 << 20).unwrap();
    File::create(dir.join("one hole")).unwrap().set_len(100_000).unwrap();
    // More steps than one record of the cache has.
    let long = File::create(dir.join("long")).unwrap();
    for step in 0..1100 {
        long.write_all_at(&[1 + (step % 250) as u8; 100], step * 65_536 + step).unwrap();
    }
    dir
}

fn set_mtime_of(path: &Path, like: &fs::Metadata) {
    let mtime = Timespec { tv_sec: like.mtime(), tv_nsec: like.mtime_nsec() };
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: omit, last_modification: mtime };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn an_unchanged_folder_is_not_read_and_gives_the_same_image() {
    let silt = Silt::new();
    let dir = tree(&silt, "tree");
    std::os::unix::fs::symlink("tree", silt.path("link")).unwrap();
    settle();
    let first = build(&silt, &dir, "image", &[]);
    assert!(number(&first, "bytes_read") > 300_000);
    let disk = silt.exported("image");
    // The folder counts, neither the image's name nor the way to the folder.
    for (name, path) in [("image", "tree"), ("other", "tree"), ("link", "./link/../tree/")] {
        let again = build(&silt, Path::new(path), name, &[]);
        assert_eq!(number(&again, "bytes_read"), 0, "{name}");
        assert_eq!(
            (identity(&again), number(&again, "chunks_new")),
            (identity(&first), 0),
            "{name}"
        );
        assert!(silt.exported(name) == disk, "{name}");
    }
    assert_eq!(caches(&silt).len(), 1);
    silt.assert_verified();
}

#[test]
fn what_depends_on_the_request_is_made_anew_without_reading() {
    let silt = Silt::new();
    let dir = tree(&silt, "tree");
    settle();
    build(&silt, &dir, "image", &[]);
    for options in [&["--owner", "12:34"][..], &["--size", "200M"], &["--owner", "0:0"], &[]] {
        let again = build(&silt, &dir, "image", options);
        assert_eq!(number(&again, "bytes_read"), 0, "{options:?}");
        assert_eq!(identity(&again), identity(&afresh(&dir, options)), "{options:?}");
    }
    silt.assert_verified();
}

#[test]
fn paranoid_reads_everything_and_keeps_it_again() {
    let silt = Silt::new();
    let dir = tree(&silt, "tree");
    settle();
    let first = build(&silt, &dir, "image", &[]);
    let cache = caches(&silt).remove(0);
    let before = fs::metadata(&cache).unwrap().ino();
    let again = build(&silt, &dir, "image", &["--paranoid"]);
    assert_eq!(again["bytes_read"], first["bytes_read"]);
    assert_eq!(identity(&again), identity(&first));
    assert_ne!(fs::metadata(&cache).unwrap().ino(), before, "it was written again");
    assert_eq!(number(&build(&silt, &dir, "image", &[]), "bytes_read"), 0);
}

/// A change of a folder, and the bytes that must be read for it.
type Changed = (&'static str, u64, fn(&Path));

const CHANGES: [Changed; 9] = [
    ("content of the same length and time", 300_000, |dir| {
        let path = dir.join("data");
        let before = fs::metadata(&path).unwrap();
        File::options().write(true).open(&path).unwrap().write_all_at(b"X", 70_000).unwrap();
        set_mtime_of(&path, &before);
    }),
    ("touched", 300_000, |dir| {
        File::options()
            .write(true)
            .open(dir.join("data"))
            .unwrap()
            .set_modified(std::time::SystemTime::now())
            .unwrap();
    }),
    ("renamed", 300_000, |dir| fs::rename(dir.join("data"), dir.join("etc/data")).unwrap()),
    ("a folder renamed", 10 + 20 * 100 + 190, |dir| {
        fs::rename(dir.join("etc"), dir.join("etc2")).unwrap();
    }),
    ("replaced by a file of the same length and time", 300_000, |dir| {
        let (path, new) = (dir.join("data"), dir.join("new"));
        fs::write(&new, pseudo_random(300_000, 99)).unwrap();
        set_mtime_of(&new, &fs::metadata(&path).unwrap());
        fs::rename(new, path).unwrap();
    }),
    ("hard-linked", 300_000, |dir| {
        fs::hard_link(dir.join("data"), dir.join("a first name")).unwrap()
    }),
    ("names exchanged", 100 + 101, |dir| {
        let [a, b, c] = ["etc/0", "etc/1", "etc/c"].map(|name| dir.join(name));
        fs::rename(&a, &c).unwrap();
        fs::rename(&b, &a).unwrap();
        fs::rename(&c, &b).unwrap();
    }),
    ("a folder's mode", 0, |dir| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(dir.join("etc"), fs::Permissions::from_mode(0o711)).unwrap();
    }),
    ("removed", 0, |dir| fs::remove_file(dir.join("data")).unwrap()),
];

#[test]
fn what_changed_is_read_and_nothing_else() {
    let silt = Silt::new();
    let dirs: Vec<PathBuf> =
        (0..CHANGES.len()).map(|n| tree(&silt, &format!("tree-{n}"))).collect();
    settle();
    dirs.iter().for_each(|dir| drop(build(&silt, dir, "image", &[])));
    for (dir, (what, bytes, change)) in dirs.iter().zip(CHANGES) {
        change(dir);
        let again = build(&silt, dir, "image", &[]);
        assert_eq!(number(&again, "bytes_read"), bytes, "{what}");
        assert_eq!(identity(&again), identity(&afresh(dir, &[])), "{what}");
    }
    silt.assert_verified();
}

#[test]
fn hard_links_are_found_whichever_name_the_walk_meets_first() {
    let silt = Silt::new();
    let dir = silt.small_tree("tree");
    for n in 0..50 {
        fs::create_dir(dir.join(format!("dir-{n}"))).unwrap();
        fs::hard_link(dir.join("data"), dir.join(format!("dir-{n}/data"))).unwrap();
    }
    settle();
    build(&silt, &dir, "image", &[]);
    for _ in 0..5 {
        assert_eq!(number(&build(&silt, &dir, "image", &[]), "bytes_read"), 0);
    }
}

/// A second change within one tick of the clock may leave the ctime as it was: such a file is never kept.
#[test]
fn a_file_that_changed_a_moment_ago_is_read_again() {
    let silt = Silt::new();
    let dir = silt.small_tree("tree");
    settle();
    let file = File::create(dir.join("racy")).unwrap();
    let (path, about) = (dir.join("racy"), file.metadata().unwrap());
    let mut trees = std::collections::HashSet::new();
    for n in 0..30u8 {
        file.write_all_at(&[n + 1; 1000], 0).unwrap();
        set_mtime_of(&path, &about);
        let built = build(&silt, &dir, "image", &[]);
        assert!(trees.insert(built["tree_id"].to_string()), "change {n} was missed");
        assert_eq!(number(&build(&silt, &dir, "image", &[]), "bytes_read"), 1000);
    }
}

#[test]
fn a_cache_that_is_damaged_cut_off_or_anothers_is_as_good_as_none() {
    let silt = Silt::new();
    let (dir, other) = (tree(&silt, "tree"), tree(&silt, "other"));
    fs::write(other.join("data"), pseudo_random(300_000, 55)).unwrap();
    settle();
    build(&silt, &other, "other", &[]);
    let foreign = fs::read(&caches(&silt)[0]).unwrap();
    fs::remove_file(&caches(&silt)[0]).unwrap();
    let first = build(&silt, &dir, "image", &[]);
    let cache = caches(&silt).remove(0);
    let whole = fs::read(&cache).unwrap();
    let check = |what: &str, reads: bool| {
        let again = build(&silt, &dir, "image", &[]);
        assert_eq!(identity(&again), identity(&first), "{what}");
        assert_eq!(number(&again, "bytes_read") > 0, reads, "{what}");
        assert_eq!(number(&build(&silt, &dir, "image", &[]), "bytes_read"), 0, "{what}");
    };
    check("whole", false);
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        flip_bit(&cache, at as u64, (at % 8) as u8).unwrap();
        check(&format!("a bit at {at}"), true);
    }
    for len in [0, 1, 63, 64, 311, 312, 320, whole.len() / 2, whole.len() - 1] {
        fs::write(&cache, &whole[..len]).unwrap();
        check(&format!("cut to {len}"), true);
    }
    for (what, bytes) in [
        ("another's", foreign),
        ("longer", [&whole[..], b"x"].concat()),
        ("zeros", vec![0; 70_000]),
    ] {
        fs::write(&cache, bytes).unwrap();
        check(what, true);
    }
    fs::remove_file(&cache).unwrap();
    check("no file", true);
    fs::remove_dir_all(silt.store().join("caches")).unwrap();
    check("no folder", true);
    silt.assert_verified();
    // Where none can be kept, none is.
    fs::remove_dir_all(silt.store().join("caches")).unwrap();
    fs::write(silt.store().join("caches"), "in the way").unwrap();
    let again = build(&silt, &dir, "image", &[]);
    assert_eq!((identity(&again), &again["bytes_read"]), (identity(&first), &first["bytes_read"]));
}

#[test]
fn a_cache_of_another_store_is_not_believed() {
    let (silt, other) = (Silt::new(), Silt::new());
    let dir = tree(&silt, "tree");
    settle();
    let first = build(&other, &dir, "image", &[]);
    silt.small_image("image");
    let found = caches(&other).remove(0);
    for (n, cache) in caches(&silt).into_iter().enumerate() {
        fs::copy(&found, if n == 0 { cache } else { found.clone() }).unwrap();
    }
    fs::create_dir_all(silt.store().join("caches/folders")).unwrap();
    fs::copy(&found, silt.store().join("caches/folders").join(found.file_name().unwrap())).unwrap();
    let built = build(&silt, &dir, "image", &[]);
    assert_eq!(built["bytes_read"], first["bytes_read"]);
    assert_eq!(identity(&built), identity(&first));
    silt.assert_verified();
}

/// Lets something else go from the store.
fn collect_something(silt: &Silt) {
    let dir = silt.path("something-else");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("file"), "nobody else has this").unwrap();
    silt.ok(&["build", dir.to_str().unwrap(), "something-else"]);
    silt.ok(&["rm", "something-else"]);
    let collected = silt.json(&["gc"]);
    assert!(number(&collected, "chunks_removed") > 0, "{collected}");
}

/// Takes the row of a chunk away.
fn remove_chunk(silt: &Silt) -> u64 {
    let database = rusqlite::Connection::open(silt.store().join("catalog.db")).unwrap();
    database.execute("DELETE FROM chunk WHERE length = 37856", []).unwrap() as u64
}

#[test]
fn a_chunk_that_is_gone_is_read_and_stored_again() {
    let silt = Silt::new();
    let dir = tree(&silt, "tree");
    settle();
    let first = build(&silt, &dir, "image", &[]);
    let disk = silt.exported("image");
    collect_something(&silt);
    // The last of the five chunks of `data`.
    assert_eq!(remove_chunk(&silt), 1);
    let again = build(&silt, &dir, "image", &[]);
    assert_eq!(number(&again, "bytes_read"), 300_000, "the rest is there still");
    assert_eq!((identity(&again), number(&again, "chunks_new")), (identity(&first), 1));
    assert!(silt.exported("image") == disk);
    assert_eq!(number(&build(&silt, &dir, "image", &[]), "bytes_read"), 0);
    // As long as nothing was removed, nothing is looked up; so whoever removes must count.
    assert_eq!(remove_chunk(&silt), 1);
    assert_eq!(number(&build(&silt, &dir, "image", &[]), "bytes_read"), 0);
}

#[test]
fn a_removal_that_spared_the_folder_costs_look_ups_and_no_reading() {
    let silt = Silt::new();
    let dir = tree(&silt, "tree");
    settle();
    let first = build(&silt, &dir, "image", &[]);
    for _ in 0..2 {
        collect_something(&silt);
        let again = build(&silt, &dir, "image", &[]);
        assert_eq!(number(&again, "bytes_read"), 0);
        assert_eq!((identity(&again), number(&again, "chunks_new")), (identity(&first), 0));
    }
    silt.assert_verified();
}

/// The catalog was put back, with everything but the caches, to before the folder was built.
#[test]
fn a_store_that_was_put_back_does_not_believe_a_later_cache() {
    let silt = Silt::new();
    let dir = tree(&silt, "tree");
    silt.small_image("image");
    settle();
    let run = |args: &[&str]| {
        assert!(std::process::Command::new("cp").args(args).status().unwrap().success());
    };
    let (store, backup) = (silt.store(), silt.path("backup"));
    run(&["-a", store.to_str().unwrap(), backup.to_str().unwrap()]);
    let first = build(&silt, &dir, "tree", &[]);
    run(&["-a", silt.store().join("caches").to_str().unwrap(), backup.to_str().unwrap()]);
    fs::remove_dir_all(&store).unwrap();
    fs::rename(&backup, &store).unwrap();
    let again = build(&silt, &dir, "tree", &[]);
    assert_eq!((identity(&again), &again["bytes_read"]), (identity(&first), &first["bytes_read"]));
    silt.assert_verified();
}

#[test]
fn root_another_file_system_at_the_same_place_is_another_folder() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let dir = silt.path("mounted");
    fs::create_dir(&dir).unwrap();
    let mut built = Vec::new();
    let mut inodes = Vec::new();
    for seed in [1, 2] {
        rustix::mount::mount("tmpfs", &dir, "tmpfs", rustix::mount::MountFlags::empty(), None)
            .unwrap();
        fs::write(dir.join("file"), pseudo_random(5000, seed)).unwrap();
        fs::create_dir(dir.join("sub")).unwrap();
        inodes.push(fs::metadata(dir.join("file")).unwrap().ino());
        settle();
        // A folder of the first file system, seen once more within it.
        let twice = [build(&silt, &dir, "image", &[]), build(&silt, &dir, "image", &[])];
        let bind = rustix::mount::mount_bind(&dir, dir.join("sub"));
        bind.unwrap();
        let bound = build(&silt, &dir, "image", &[]);
        assert_eq!(identity(&bound), identity(&afresh(&dir, &[])));
        rustix::mount::unmount(dir.join("sub"), rustix::mount::UnmountFlags::DETACH).unwrap();
        rustix::mount::unmount(&dir, rustix::mount::UnmountFlags::DETACH).unwrap();
        built.push(twice);
    }
    assert_eq!(inodes[0], inodes[1], "the same numbers on both");
    for twice in &built {
        assert_eq!((number(&twice[0], "bytes_read"), number(&twice[1], "bytes_read")), (5000, 0));
    }
    assert_ne!(built[0][0]["tree_id"], built[1][0]["tree_id"]);
}

#[test]
fn builds_of_one_folder_at_once_all_give_the_same() {
    let silt = Silt::new();
    let dir = tree(&silt, "tree");
    settle();
    let names: Vec<String> = (0..4).map(|n| format!("image-{n}")).collect();
    for _ in 0..3 {
        let built: Vec<Value> = thread::scope(|scope| {
            let started: Vec<_> =
                names.iter().map(|name| scope.spawn(|| build(&silt, &dir, name, &[]))).collect();
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(built.iter().all(|one| identity(one) == identity(&built[0])));
    }
    assert_eq!(number(&build(&silt, &dir, "image-0", &[]), "bytes_read"), 0);
    assert_eq!(caches(&silt).len(), 1, "no draft is left");
    silt.assert_verified();
}

#[test]
fn a_build_killed_at_any_moment_harms_no_later_one() {
    let silt = Silt::new();
    let dir = tree(&silt, "tree");
    settle();
    let first = afresh(&dir, &[]);
    for n in 0..25 {
        if n % 5 == 0 {
            let _ = fs::remove_dir_all(silt.store().join("caches"));
        }
        let args = ["build", dir.to_str().unwrap(), "image", "--replace"];
        let mut command = silt.command(&args);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(4 * n));
        let _ = child.kill();
        child.wait().unwrap();
        if n % 3 == 0 {
            assert_eq!(identity(&build(&silt, &dir, "image", &[])), identity(&first), "{n}");
        }
    }
    // A draft that was cut off in the middle; the next cache that is written takes it away.
    fs::write(silt.store().join("caches/folders/0123.draft"), "half").unwrap();
    let again = build(&silt, &dir, "image", &["--paranoid"]);
    assert_eq!(identity(&again), identity(&first));
    assert_eq!(caches(&silt).len(), 1);
    silt.assert_verified();
}

#[test]
fn a_build_says_what_changed_since_the_last_image_of_that_name() {
    let silt = Silt::new();
    let dir = tree(&silt, "tree");
    let changes = |built: &Value| {
        let changes = &built["changes"];
        ["added", "removed", "changed"].map(|key| changes[key].as_u64().unwrap())
    };
    assert!(build(&silt, &dir, "image", &[])["changes"].is_null());
    assert_eq!(changes(&build(&silt, &dir, "image", &[])), [0, 0, 0]);
    // The root and `etc` get another time as well.
    fs::write(dir.join("etc/new"), pseudo_random(5000, 123)).unwrap();
    fs::remove_file(dir.join("etc/3")).unwrap();
    fs::remove_file(dir.join("etc/4")).unwrap();
    fs::write(dir.join("data"), "other").unwrap();
    fs::hard_link(dir.join("sparse"), dir.join("sparse too")).unwrap();
    let built = build(&silt, &dir, "image", &[]);
    assert_eq!(changes(&built), [2, 2, 3], "{built:#}");
    assert_eq!(built["changes"]["bytes_new"], built["bytes_new"]);
    let text = silt.ok(&["build", dir.to_str().unwrap(), "image", "--replace", "--owner", "1:1"]);
    let line = text.lines().find(|line| line.starts_with("changes ")).unwrap();
    assert!(line.contains("0 paths added, 0 removed, 27 changed"), "{line}");
    assert!(build(&silt, &dir, "another", &[])["changes"].is_null());
}
