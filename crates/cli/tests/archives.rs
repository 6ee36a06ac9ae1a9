//! `silt build` of tars as tar programs make them, and small edits of what a source has.

use crate::{
    fidelity::everything,
    silt::{Ran, Silt, is_root, judge, pseudo_random},
};
use serde_json::Value;
use silt_ext4::{
    EntryId, EntryKind, Hierarchy,
    reader::{Ext4, FileDisk},
};
use silt_testkit::fault::every_file_of;
use std::{
    ffi::OsStr,
    fs::{self, File, Permissions},
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A tar of what is in a folder.
fn tar(dir: &Path, file: &Path, options: &[&str]) {
    let mut args: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
    args.extend(["--numeric-owner", "-C"].map(OsStr::new));
    args.extend([dir.as_os_str(), "-cf".as_ref(), file.as_os_str(), ".".as_ref()]);
    judge("tar", &args);
}

fn packed(program: &str, file: &Path) -> PathBuf {
    let bytes = Command::new(program).arg("-c").arg(file).output().unwrap();
    assert!(bytes.status.success());
    // A name that says nothing: content decides.
    let to = file.with_extension(format!("by-{program}"));
    fs::write(&to, bytes.stdout).unwrap();
    to
}

/// A build that gets a file through a pipe.
fn build_from_pipe(silt: &Silt, file: &Path, name: &str, options: &[&str]) -> Ran {
    let mut cat = Command::new("cat").arg(file).stdout(Stdio::piped()).spawn().unwrap();
    let mut command = silt.command(&[&["build", "-", name, "--json"], options].concat());
    let ran = Ran::of(command.stdin(cat.stdout.take().unwrap()));
    // It may have been told to stop.
    let _ = cat.wait();
    ran
}

fn ids(built: &Value) -> (String, String) {
    let id = |key: &str| built[key].as_str().unwrap().to_owned();
    (id("tree_id"), id("disk_id"))
}

#[test]
fn root_a_tar_of_a_folder_gives_the_image_of_the_folder() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let root = silt.path("tree");
    everything(&root);
    // What a tar has no word for, and what takes three terabytes unless it is told of holes.
    fs::remove_file(root.join("socket")).unwrap();
    fs::remove_file(root.join("all-hole")).unwrap();
    let folder = ids(&silt.json(&["build", "tree", "folder"]));
    let whole = ["--xattrs", "--xattrs-include=*", "--acls", "--format=pax"];
    let file = silt.path("tree.tar");
    tar(&root, &file, &whole);
    assert_eq!(ids(&silt.json(&["build", "tree.tar", "plain"])), folder);
    let again = silt.json(&["build", "tree.tar", "again"]);
    assert_eq!(again["bytes_new"], 0);
    assert_eq!(again["bytes_read"], fs::metadata(&file).unwrap().len());
    for program in ["gzip", "zstd", "xz"] {
        let packed = packed(program, &file);
        assert_eq!(ids(&silt.json(&["build", packed.to_str().unwrap(), program])), folder);
        let piped = build_from_pipe(&silt, &packed, &format!("piped-{program}"), &[]);
        assert_eq!(ids(&piped.document()), folder);
        fs::remove_file(packed).unwrap();
    }
    for version in ["0.0", "0.1", "1.0"] {
        let sparse = format!("--sparse-version={version}");
        tar(&root, &file, &[&whole[..], &["--sparse", &sparse, "--sort=name"]].concat());
        let built = silt.json(&["build", "tree.tar", &format!("sparse-{version}")]);
        assert_eq!(ids(&built), folder, "{version}");
    }
    silt.assert_verified();
    judge("rm", &["-rf".as_ref(), root.as_os_str()]);
}

#[test]
fn older_kinds_of_tar_keep_what_they_can_hold() {
    let silt = Silt::new();
    let root = silt.small_tree("tree");
    fs::hard_link(root.join("data"), root.join("etc/again")).unwrap();
    fs::create_dir_all(root.join("n".repeat(90)).join("m".repeat(90))).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    for n in 0..40 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", n << 20).unwrap();
    }
    judge(
        "find",
        &["tree", "-exec", "touch", "-hd@1700000000", "{}", "+"]
            .map(|arg| if arg == "tree" { root.as_os_str() } else { OsStr::new(arg) }),
    );
    let folder = ids(&silt.json(&["build", "tree", "folder"]));
    for (format, options) in
        [("gnu", &["--sparse"][..]), ("oldgnu", &["--sparse"]), ("ustar", &[]), ("posix", &[])]
    {
        let file = silt.path(format);
        tar(&root, &file, &[&[&format!("--format={format}")[..]], options].concat());
        assert_eq!(
            ids(&silt.json(&["build", format, &format!("of-{format}")])),
            folder,
            "{format}"
        );
    }
}

/// The names of hard links come in the order of the folder, so in any.
#[test]
fn the_order_of_members_does_not_show() {
    let silt = Silt::new();
    let root = silt.small_tree("tree");
    for n in 0..50 {
        fs::hard_link(root.join("data"), root.join(format!("etc/name-{n}"))).unwrap();
    }
    let folder = ids(&silt.json(&["build", "tree", "folder"]));
    let names = String::from_utf8(
        Command::new("find")
            .args([".", "-printf", "%P\\n"])
            .current_dir(&root)
            .output()
            .unwrap()
            .stdout,
    )
    .unwrap();
    let mut names: Vec<&str> =
        names.lines().map(|name| if name.is_empty() { "." } else { name }).collect();
    for turn in 0..3 {
        names.rotate_left(17);
        names.reverse();
        fs::write(silt.path("names"), names.join("\n")).unwrap();
        let file = silt.path("shuffled.tar");
        judge(
            "tar",
            &[
                "--no-recursion".as_ref(),
                "--format=pax".as_ref(),
                "--numeric-owner".as_ref(),
                "-C".as_ref(),
                root.as_os_str(),
                "-cf".as_ref(),
                file.as_os_str(),
                "-T".as_ref(),
                silt.path("names").as_os_str(),
            ],
        );
        assert_eq!(ids(&silt.json(&["build", "shuffled.tar", &format!("turn-{turn}")])), folder);
    }
}

#[test]
fn bad_archives_are_refused_by_name_and_leave_nothing() {
    let silt = Silt::new();
    let root = silt.small_tree("tree");
    silt.json(&["build", "tree", "image"]);
    let file = silt.path("good.tar");
    tar(&root, &file, &["--format=pax"]);
    let good = fs::read(&file).unwrap();
    let before = every_file_of(&silt.store()).unwrap();
    let refuse = |name: &str, bytes: &[u8], code: i32, says: &str| {
        fs::write(silt.path(name), bytes).unwrap();
        let message = silt.fails(code, &["build", name, "bad"]);
        assert!(message.contains(name) && message.contains(says), "{message}");
        let piped = build_from_pipe(&silt, &silt.path(name), "bad", &["--from", "tar"]);
        assert_eq!(piped.status.code(), Some(code), "{piped:?}");
        assert_eq!(silt.names(), ["image"]);
    };
    refuse("truncated.tar", &good[..good.len() / 2], 6, "cut off");
    for (program, name) in [("gzip", "cut.tgz"), ("zstd", "cut.tzst"), ("xz", "cut.txz")] {
        let packed = fs::read(packed(program, &file)).unwrap();
        refuse(name, &packed[..packed.len() / 2], 6, "");
        let mut flipped = packed.clone();
        let middle = packed.len() / 2;
        flipped[middle..middle + 8].fill(0x5A);
        refuse(&format!("flipped-{name}"), &flipped, 6, "");
        let garbage = [&packed[..20], &pseudo_random(4000, 3)].concat();
        refuse(&format!("garbage-{name}"), &garbage, 6, "");
    }
    let message = silt.fails(6, &["build", "tree", "bad", "--from", "tar"]);
    assert!(message.contains("folder"), "{message}");
    silt.fails(10, &["build", "missing.tar", "bad"]);
    let message = silt.fails(6, &["build", "good.tar", "bad", "--max-size", "100K"]);
    assert!(message.contains("100 KiB allowed"), "{message}");
    silt.fails(4, &["build", "good.tar", "image"]);
    assert_eq!(silt.names(), ["image"]);
    assert_eq!(every_file_of(&silt.store()).unwrap(), before);
    silt.assert_verified();
}

/// A few kilobytes that come to gigabytes: of zeros, which are holes and are kept as such, but not beyond what is allowed.
#[test]
fn a_small_archive_of_five_gibibytes_of_zeros_is_a_hole() {
    let silt = Silt::new();
    let root = silt.path("tree");
    fs::create_dir(&root).unwrap();
    File::create(root.join("zeros")).unwrap().set_len(5 << 30).unwrap();
    let file = silt.path("zeros.tar.zst");
    let mut tar = Command::new("tar");
    tar.args(["--format=pax", "-C"]).arg(&root).args(["-cf", "-", "."]);
    let mut tar = tar.stdout(Stdio::piped()).spawn().unwrap();
    let mut zstd = Command::new("zstd");
    zstd.args(["-q", "-1", "-o"]).arg(&file).stdin(tar.stdout.take().unwrap());
    assert!(zstd.status().unwrap().success() && tar.wait().unwrap().success());
    let built = silt.json(&["build", "zeros.tar.zst", "zeros"]);
    assert!(built["bytes_nonzero"].as_u64().unwrap() < 1 << 20, "{built:#}");
    assert_eq!(ids(&built).0, ids(&silt.json(&["build", "tree", "folder"])).0);
    let message = silt.fails(6, &["build", "zeros.tar.zst", "bomb", "--max-size", "1GiB"]);
    assert!(message.contains("1.00 GiB allowed"), "{message}");
}

fn hierarchy_of(silt: &Silt, name: &str) -> Hierarchy {
    let image = silt.path(format!("{name}.img"));
    silt.ok(&["export", name, image.to_str().unwrap()]);
    let disk = FileDisk::new(File::open(image).unwrap()).unwrap();
    Ext4::open(disk).unwrap().hierarchy().unwrap().hierarchy
}

fn find(hierarchy: &Hierarchy, path: &str) -> Option<EntryId> {
    path.split('/').try_fold(EntryId::ROOT, |at, name| hierarchy.lookup(at, name.as_bytes()))
}

#[test]
fn edits_change_what_they_name_and_nothing_else() {
    let silt = Silt::new();
    let root = silt.small_tree("tree");
    fs::create_dir_all(root.join("var/cache/apt")).unwrap();
    fs::write(root.join("var/cache/apt/list"), pseudo_random(200_000, 1)).unwrap();
    fs::write(root.join("etc/a.pyc"), "x").unwrap();
    fs::write(silt.path("key"), "ssh-ed25519 AAAA\n").unwrap();
    fs::set_permissions(silt.path("key"), Permissions::from_mode(0o600)).unwrap();
    let edits = [
        "--owner",
        "5:6",
        "--exclude",
        "*.pyc",
        "--exclude",
        "/var/cache/*",
        "--rm",
        "etc/hostname",
        "--add",
        "key:/root/.ssh/authorized_keys",
        "--add",
        "key:/etc/",
        "--chmod",
        "4711:/data",
        "--chown",
        "7:8:/link",
    ];
    let built = silt.json(&[&["build", "tree", "edited"], &edits[..]].concat());
    let hierarchy = hierarchy_of(&silt, "edited");
    assert!(find(&hierarchy, "etc/a.pyc").is_none() && find(&hierarchy, "etc/hostname").is_none());
    assert!(find(&hierarchy, "var/cache").is_some() && find(&hierarchy, "var/cache/apt").is_none());
    for path in ["root/.ssh/authorized_keys", "etc/key"] {
        let added = find(&hierarchy, path).unwrap();
        assert_eq!(
            (hierarchy.size_bytes(added), hierarchy.metadata(added).permissions),
            (17, 0o600)
        );
        assert_eq!(hierarchy.metadata(added).uid, 5);
    }
    let data = hierarchy.metadata(find(&hierarchy, "data").unwrap());
    assert_eq!((data.permissions, data.uid, data.gid), (0o4711, 5, 6));
    assert_eq!(hierarchy.metadata(find(&hierarchy, "link").unwrap()).uid, 7);
    // What was left out was not read.
    assert!(built["bytes_read"].as_u64().unwrap() < 310_000, "{built:#}");
    // The same of a tar, whatever the source.
    tar(&root, &silt.path("tree.tar"), &["--format=pax"]);
    let of_tar = silt.json(&[&["build", "tree.tar", "of-tar"], &edits[..]].concat());
    assert_eq!(ids(&of_tar), ids(&built));
    silt.assert_verified();
}

#[test]
fn edits_that_cannot_be_done_are_refused_by_name() {
    let silt = Silt::new();
    let root = silt.small_tree("tree");
    symlink("etc", root.join("folder-link")).unwrap();
    let mut key = File::create(silt.path("key")).unwrap();
    key.write_all(b"key").unwrap();
    let cases: [(i32, &str, &str, &str); 14] = [
        (3, "--rm", "etc/none", "etc/none"),
        (6, "--rm", "/", "root"),
        (6, "--rm", "../etc", "'..'"),
        (6, "--rm", "folder-link/hostname", "symbolic link"),
        (6, "--add", "key:/etc", "folder of that name"),
        (6, "--add", "key:/folder-link/x", "symbolic link"),
        (6, "--add", "key", "path is missing"),
        (10, "--add", "none:/x", "none"),
        (6, "--add", "tree:/x", "no regular file"),
        (6, "--chmod", "9:/data", "bad mode"),
        (6, "--chmod", "755:/link", "symbolic link"),
        (3, "--chmod", "755:/none", "/none"),
        (6, "--chown", "root:root:/data", "bad owner"),
        (6, "--exclude", "[a", "bad pattern"),
    ];
    for (code, option, value, says) in cases {
        let message = silt.fails(code, &["build", "tree", "image", option, value]);
        assert!(message.contains(says), "{option} {value}: {message}");
    }
    assert!(!silt.store().join("catalog.db").exists() || silt.names().is_empty());
}

#[test]
fn root_what_is_left_out_need_not_be_readable() {
    if !is_root() {
        return;
    }
    let silt = Silt::as_user(crate::silt::NOBODY);
    let dir = silt.small_tree("tree");
    fs::create_dir(dir.join("closed")).unwrap();
    fs::set_permissions(dir.join("closed"), Permissions::from_mode(0o700)).unwrap();
    silt.fails(10, &["build", "tree", "image"]);
    silt.json(&["build", "tree", "image", "--exclude", "closed"]);
    let hierarchy = hierarchy_of(&silt, "image");
    assert!(find(&hierarchy, "closed").is_none());
    assert_eq!(hierarchy.kind(find(&hierarchy, "data").unwrap()), EntryKind::File);
}
