//! Programs other people wrote, unchanged, under the layer.

use std::{fs, os::unix::fs::MetadataExt as _, process::Command};

use silt_testkit::fault::{Model, Op, OpClass, Plan};

use super::Mounted;

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{complained}");
    said
}

fn fio(m: &Mounted, engine: &str, more: &[&str]) {
    let mut command = Command::new("fio");
    command
        .args(["--name=verify", "--size=8m", "--bs=4k", "--rw=randwrite", "--verify=crc32c"])
        .args(["--do_verify=1", "--verify_fatal=1", "--randseed=1", "--fsync=64", "--numjobs=2"])
        .args([&format!("--ioengine={engine}"), &format!("--directory={}", m.at("").display())])
        .args(more)
        .current_dir(m.beside());
    succeeds(&mut command);
}

#[test]
fn fuse_fio_verifies_what_it_wrote() {
    let Some(m) = Mounted::new() else { return };
    fio(&m, "psync", &[]);
    fio(&m, "psync", &["--direct=1"]);
    fio(&m, "mmap", &[]);
}

#[test]
fn fuse_cp_keeps_a_tree_and_the_recording_rebuilds_it() {
    let Some(m) = Mounted::new() else { return };
    let source = m.beside().join("source");
    fs::create_dir_all(source.join("deep/er")).unwrap();
    fs::write(source.join("deep/er/file"), vec![3; 200_000]).unwrap();
    fs::hard_link(source.join("deep/er/file"), source.join("again")).unwrap();
    std::os::unix::fs::symlink("nowhere", source.join("dangling")).unwrap();
    succeeds(Command::new("truncate").arg("-s1M").arg(source.join("sparse")));
    succeeds(Command::new("mkfifo").arg(source.join("fifo")));
    m.fs.start_recording().unwrap();
    succeeds(Command::new("cp").arg("-a").arg(&source).arg(m.at("copy")));
    let recording = m.fs.take_recording().unwrap();
    let cut = format!("ext4:{}:kept", recording.ops().len()).parse().unwrap();
    recording.state(cut).unwrap().materialize(&m.beside().join("rebuilt")).unwrap();
    for copy in [m.at("copy"), m.beside().join("rebuilt/copy")] {
        // A FIFO differs for diff whatever happens.
        let differ = Command::new("diff")
            .args(["-r", "--no-dereference", "--exclude=fifo"])
            .args([&source, &copy])
            .output()
            .unwrap();
        assert!(differ.status.success(), "{}", String::from_utf8_lossy(&differ.stdout));
        assert_eq!(fs::metadata(copy.join("again")).unwrap().nlink(), 2);
        assert_eq!(fs::metadata(copy.join("sparse")).unwrap().blocks(), 0);
    }
    let times = |path: &std::path::Path| fs::metadata(path.join("deep")).unwrap().mtime_nsec();
    assert_eq!(times(&m.at("copy")), times(&source));
}

#[test]
fn fuse_dd_and_sync_are_taken_down() {
    let Some(m) = Mounted::new() else { return };
    m.fs.start_recording().unwrap();
    let target = format!("of={}", m.at("file").display());
    succeeds(Command::new("dd").args(["if=/dev/zero", "bs=64k", "count=4", "conv=fsync", &target]));
    succeeds(Command::new("sync").arg(m.at("")));
    let recording = m.fs.take_recording().unwrap();
    let count = |wanted: fn(&Op) -> bool| recording.ops().iter().filter(|op| wanted(op)).count();
    assert_eq!(count(|op| matches!(op, Op::Write { .. })), 4);
    assert_eq!(count(|op| matches!(op, Op::Fsync { data_only: false, .. })), 1);
    assert_eq!(count(|op| matches!(op, Op::FsyncDir { .. })), 1);
    let lost = recording.state(format!("posix:{}:lost", recording.ops().len()).parse().unwrap());
    let folder = m.beside().join("lost");
    lost.unwrap().materialize(&folder).unwrap();
    assert_eq!(fs::metadata(folder.join("file")).unwrap().len(), 256 << 10);
}

#[test]
fn fuse_a_copy_inside_the_mount_is_seen_as_writes() {
    let Some(m) = Mounted::new() else { return };
    fs::write(m.at("one"), vec![9; 300_000]).unwrap();
    m.fs.start_recording().unwrap();
    assert_eq!(fs::copy(m.at("one"), m.at("two")).unwrap(), 300_000);
    let recording = m.fs.take_recording().unwrap();
    let written = recording.ops().iter().map(|op| match op {
        Op::Write { bytes, .. } => bytes.len(),
        _ => 0,
    });
    assert_eq!(written.sum::<usize>(), 300_000);
    assert_eq!(fs::read(m.backing("two")).unwrap(), vec![9; 300_000]);
}

#[test]
fn fuse_every_operation_of_a_copy_can_fail_and_cp_says_so() {
    let Some(m) = Mounted::new() else { return };
    let source = m.beside().join("source");
    fs::write(&source, vec![1; 10_000]).unwrap();
    m.fs.set_plan(Plan::None);
    succeeds(Command::new("cp").arg(&source).arg(m.at("whole")));
    let steps = m.fs.op_count(OpClass::Any);
    for op in 0..steps {
        m.fs.set_plan(Plan::CrashAt { class: OpClass::Any, op });
        let copied = Command::new("cp").arg(&source).arg(m.at(&op.to_string())).output().unwrap();
        assert!(!copied.status.success(), "step {op}");
    }
    assert!(steps >= 2);
}

#[test]
#[ignore = "a measurement: prints what 4 KiB writes cost through the layer and beside it"]
fn fuse_overhead_of_small_writes() {
    let Some(m) = Mounted::new() else { return };
    for sync in ["--fsync=0", "--fdatasync=1"] {
        for (place, folder) in [("beside", m.beside().to_path_buf()), ("through", m.at(""))] {
            let mut fio = Command::new("fio");
            fio.args(["--name=overhead", "--rw=randwrite", "--bs=4k", "--size=64m", sync])
                .args(["--ioengine=psync", "--runtime=5", "--time_based"])
                .arg(format!("--directory={}", folder.display()));
            let said = succeeds(fio.current_dir(m.beside()));
            let figures = said.lines().find(|line| line.contains("IOPS="));
            println!("{sync} {place}: {}", figures.unwrap_or(&said).trim());
        }
    }
    m.fs.start_recording().unwrap();
    fio(&m, "psync", &[]);
    let recording = m.fs.take_recording().unwrap();
    let begun = std::time::Instant::now();
    let limits = silt_testkit::fault::Limits { states: 50, seed: 1 };
    let states = recording.states(Model::Posix, &limits).count();
    let operations = recording.ops().len();
    println!("{states} states of {operations} operations on 16 MiB: {:?}", begun.elapsed());
}
