//! The file layer under real programs: what it lets through, what it breaks, what it remembers.

mod faults;
mod passthrough;
mod powercut;
mod programs;
mod random;
mod sqlite;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use silt_testkit::fault::FaultFs;
use tempfile::TempDir;

/// A mounted layer over an empty folder, both gone when it is dropped.
pub(crate) struct Mounted {
    pub(crate) fs: FaultFs,
    dir: TempDir,
}

impl Mounted {
    /// `None`, with a printed reason, where this machine cannot mount.
    pub(crate) fn new() -> Option<Mounted> {
        if let Some(reason) = FaultFs::unavailable() {
            println!("skipped: {reason}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        for name in ["backing", "mnt"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let fs = FaultFs::mount(&dir.path().join("backing"), &dir.path().join("mnt")).unwrap();
        Some(Mounted { fs, dir })
    }

    /// A path below the mount point.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.fs.mountpoint().join(name)
    }

    /// The same path below the backing folder.
    pub(crate) fn backing(&self, name: &str) -> PathBuf {
        self.dir.path().join("backing").join(name)
    }

    /// A folder beside the mount for whatever a test needs.
    pub(crate) fn beside(&self) -> &Path {
        self.dir.path()
    }
}

/// Python itself, not a script that looks for it: these tests start it some hundred times.
pub(crate) fn python() -> Command {
    static PLACE: OnceLock<String> = OnceLock::new();
    let place = PLACE.get_or_init(|| {
        let ask = ["-c", "import sys; print(sys.executable, end='')"];
        let answer = Command::new("python3").args(ask).output().expect("python3 runs");
        String::from_utf8(answer.stdout).expect("its path is UTF-8")
    });
    let mut command = Command::new(place);
    command.args(["-E", "-S"]);
    command
}
