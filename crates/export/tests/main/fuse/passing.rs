//! A mounted file that goes from server to server under those who use it. These need Linux 6.9 as well.

use crate::device::{Odd, memory};
use rustix::fs::{Mode, OFlags};
use silt_export::{
    Export, ExportAddress, StopSignal,
    fuse::{Access, FileAddress, Server},
};
use silt_types::Result;
use silt_volume::BlockDevice;
use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A server that runs, and the next ones in its place.
struct Line {
    folder: TempDir,
    path: PathBuf,
    server: Arc<dyn Export>,
    stop: StopSignal,
    thread: JoinHandle<Result<()>>,
}

impl Line {
    fn begin(device: Arc<dyn BlockDevice>) -> Line {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let address = FileAddress { path: path.clone(), access: Access::Owner };
        let server: Arc<dyn Export> = Arc::new(Server::bind(&address).unwrap());
        let (stop, thread) = run(&server, device);
        fs::metadata(&path).unwrap();
        Line { folder, path, server, stop, thread }
    }

    /// Has the server pass on; what becomes of that.
    fn pass_on(self, meanwhile: impl FnOnce()) -> (Result<()>, Left) {
        self.stop.pass_on();
        meanwhile();
        let ended = self.thread.join().unwrap();
        (ended, Left { folder: self.folder, path: self.path, server: self.server })
    }

    /// The next server, of this device.
    fn next(self, device: Arc<dyn BlockDevice>, meanwhile: impl FnOnce()) -> Line {
        let (ended, Left { folder, path, server }) = self.pass_on(meanwhile);
        ended.unwrap();
        let address = ExportAddress::parse("fuse", &server.address().to_string()).unwrap();
        let passed = server.passed_on().unwrap();
        assert!(server.passed_on().is_none(), "once");
        drop(server);
        let server: Arc<dyn Export> = Arc::from(address.take_over(passed).unwrap());
        let (stop, thread) = run(&server, device);
        Line { folder, path, server, stop, thread }
    }

    fn end(self) {
        self.stop.trigger();
        self.thread.join().unwrap().unwrap();
        assert!(!self.path.exists(), "it was made, and is still there");
    }
}

/// What is left of a server.
struct Left {
    folder: TempDir,
    path: PathBuf,
    server: Arc<dyn Export>,
}

fn run(
    server: &Arc<dyn Export>,
    device: Arc<dyn BlockDevice>,
) -> (StopSignal, JoinHandle<Result<()>>) {
    let (server, stop) = (server.clone(), StopSignal::new().unwrap());
    let thread = thread::spawn({
        let stop = stop.clone();
        move || server.run(device, &stop)
    });
    (stop, thread)
}

fn direct(path: &Path) -> File {
    File::from(rustix::fs::open(path, OFlags::RDWR | OFlags::DIRECT, Mode::empty()).unwrap())
}

#[test]
fn twenty_servers_of_a_fuse_file_in_turn_lose_no_request_of_eight_programs() {
    let device = memory(8 * MIB);
    let mut line = Line::begin(device.clone());
    let over = AtomicBool::new(false);
    let line = thread::scope(|scope| {
        for number in 0..8u64 {
            let (path, over) = (line.path.clone(), &over);
            scope.spawn(move || {
                for round in 0u64.. {
                    let file = File::options().read(true).write(true).open(&path).unwrap();
                    // Whole blocks are written by whoever reads the request, parts of blocks by workers.
                    let len = if round.is_multiple_of(3) { 4096 } else { 1000 };
                    let bytes = vec![(round % 251) as u8; len];
                    let at = number * MIB + round % 50 * 4096;
                    file.write_all_at(&bytes, at).unwrap();
                    if round.is_multiple_of(5) {
                        file.sync_data().unwrap();
                    }
                    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
                    let mut found = vec![0; len];
                    file.read_exact_at(&mut found, at).unwrap();
                    assert!(found == bytes, "program {number}, round {round}");
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        for _ in 0..20 {
            line = line.next(device.clone(), || ());
        }
        over.store(true, Ordering::Relaxed);
        line
    });
    // Closes are told without being waited for.
    while line.server.clients() != 0 {
        thread::yield_now();
    }
    line.end();
}

/// Eight are in the device, the others wait for a worker: those the next server answers, of its own device.
#[test]
fn requests_that_wait_when_a_fuse_file_is_passed_on_are_answered_once() {
    let first = Odd::new(MIB as usize, false);
    let line = Line::begin(first.clone());
    fs::set_permissions(&line.path, fs::Permissions::from_mode(0o640)).unwrap();
    first.is_cold.store(true, Ordering::Relaxed);
    first.gate.close();
    let reads: Vec<_> = (0..40)
        .map(|number| {
            let file = direct(&line.path);
            thread::spawn(move || {
                let mut found = [0; 4096];
                assert_eq!(file.read_at(&mut found, number * 4096).unwrap(), 4096);
                found[0]
            })
        })
        .collect();
    first.gate.wait_for(8);
    let line = line.next(memory(MIB), || first.gate.open());
    let found: Vec<_> = reads.into_iter().map(|read| read.join().unwrap()).collect();
    assert!(found.iter().all(|byte| [0, 7].contains(byte)), "{found:?}");
    assert!(found.iter().filter(|byte| **byte == 7).count() >= 8, "{found:?}");
    assert_eq!(fs::metadata(&line.path).unwrap().permissions().mode() & 0o777, 0o640);
    line.end();
}

#[test]
fn a_fuse_file_whose_device_hangs_is_not_passed_on_but_taken_off() {
    let device = Odd::new(MIB as usize, true);
    let line = Line::begin(device.clone());
    device.is_cold.store(true, Ordering::Relaxed);
    device.gate.close();
    let file = File::open(&line.path).unwrap();
    let reader = thread::spawn(move || file.read_at(&mut [0; 4096], 0));
    device.gate.wait_for(1);
    let (ended, left) = line.pass_on(|| ());
    let error = ended.unwrap_err();
    assert!(error.chain().contains("wait for the device"), "{error:?}");
    assert!(left.server.passed_on().is_none());
    assert!(!left.path.exists());
    device.gate.open();
    let _ = reader.join().unwrap();
}
