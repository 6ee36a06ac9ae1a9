//! `silt export`: the exact bytes, to whatever takes them.

use crate::silt::{Ran, Silt, pseudo_random};
use silt_engine::{Engine, ExportFormat};
use silt_types::Progress;
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

/// What was begun last, and how much of it is done.
#[derive(Default)]
struct Heard {
    total: AtomicU64,
    done: AtomicU64,
}

impl Progress for Heard {
    fn begin(&self, _task: &'static str, total_bytes: u64) {
        self.total.store(total_bytes, SeqCst);
        self.done.store(0, SeqCst);
    }

    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, SeqCst);
    }
}

/// A bar counted what was written and not the holes, so that of a sparse disk it ended where it began.
#[test]
fn progress_ends_with_the_work_however_sparse_the_disk() {
    let silt = Silt::new();
    let dir = silt.small_tree("tree");
    silt.json(&["build", dir.to_str().unwrap(), "image", "--size", "3G"]);
    silt.json(&["clone", "image", "volume"]);
    crate::volumes::write(&silt, "volume", 2 << 30, &pseudo_random(10_000, 1));
    let engine = Engine::open(&silt.store(), 1 << 20).unwrap();
    let (image, volume) = ("image".parse().unwrap(), "volume".parse().unwrap());
    let ends = |what: &str, heard: &Heard| {
        let (total, done) = (heard.total.load(SeqCst), heard.done.load(SeqCst));
        assert!(total > 0 && total == done, "{what}: {done} of {total}");
    };
    for format in [ExportFormat::Raw, ExportFormat::Qcow2] {
        let heard = Heard::default();
        engine.export_file(&volume, &silt.path("file"), format, &heard).unwrap();
        ends(&format!("{format:?}"), &heard);
    }
    let heard = Heard::default();
    engine.export_changes(&volume, &image, &silt.path("file"), &heard).unwrap();
    ends("changes", &heard);
}

#[test]
fn a_file_is_exact_and_sparse_and_a_stream_is_the_same() {
    let silt = Silt::new();
    let dir = silt.small_tree("tree");
    let built = silt.json(&["build", dir.to_str().unwrap(), "image", "--size", "3G"]);
    assert_eq!(built["size"], 3u64 << 30);
    let exported = silt.json(&["export", "image", "file"]);
    let file = fs::metadata(silt.path("file")).unwrap();
    assert_eq!(file.len(), 3 << 30);
    assert!(file.blocks() * 512 < 64 << 20, "{} blocks", file.blocks());
    assert_eq!(exported["size"], 3u64 << 30);
    let script = format!("'{}' export image - | cmp - file", env!("CARGO_BIN_EXE_silt"));
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).env("SILT_STORE", silt.store()).current_dir(silt.path(""));
    let ran = Ran::of(&mut shell);
    assert!(ran.status.success(), "{ran:?}");
}

#[test]
fn an_existing_file_is_replaced_whole_and_a_failure_leaves_it() {
    let silt = Silt::new();
    silt.small_image("image");
    let expected = silt.exported("image");
    let file = silt.path("file");
    fs::write(&file, pseudo_random(20 << 20, 1)).unwrap();
    silt.json(&["export", "image", "file"]);
    assert!(fs::read(&file).unwrap() == expected);
    fs::write(&file, "precious").unwrap();
    silt.fails(3, &["export", "missing", "file"]);
    silt.fails(10, &["export", "image", "no/such/folder/file"]);
    silt.fails(10, &["export", "image", "small-tree"]);
    silt.fails(10, &["export", "image", ".."]);
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    let left: Vec<_> =
        fs::read_dir(silt.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn devices_and_pipes_are_written_to() {
    let silt = Silt::new();
    silt.small_image("image");
    let expected = silt.exported("image");
    silt.json(&["export", "image", "/dev/null"]);
    let pipe = silt.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut reader = Command::new("cat").arg(&pipe).stdout(Stdio::piped()).spawn().unwrap();
    let mut writer =
        silt.command(&["export", "image", "pipe"]).stdout(Stdio::null()).spawn().unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut reader.stdout.take().unwrap(), &mut bytes).unwrap();
    assert!(writer.wait().unwrap().success() && reader.wait().unwrap().success());
    assert!(bytes == expected);
    silt.fails(8, &["export", "image", "/dev/full"]);
}

#[test]
fn a_link_to_a_file_keeps_pointing_at_it() {
    let silt = Silt::new();
    silt.small_image("image");
    let expected = silt.exported("image");
    fs::write(silt.path("target"), "old").unwrap();
    symlink("target", silt.path("link")).unwrap();
    silt.json(&["export", "image", "link"]);
    assert!(fs::symlink_metadata(silt.path("link")).unwrap().is_symlink());
    assert!(fs::read(silt.path("target")).unwrap() == expected);
}
