//! Where scenes play: stores in memory, the file layer over them, the real command and its servers.

use silt_testkit::{fault::FaultFs, nbd_client::NbdSession};
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    os::unix::{
        fs::{FileExt as _, PermissionsExt as _},
        process::ExitStatusExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};
use tempfile::TempDir;

/// A folder that goes with its test, in memory where the machine has a place for that: nothing here is for keeps.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A copy of a store, holes kept.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy_folder(&entry.path(), &to),
            kind if kind.is_file() => copy_file(&entry.path(), &to),
            _ => {}
        }
    }
}

fn copy_file(from: &Path, to: &Path) {
    let bytes = fs::read(from).unwrap();
    let file = File::create(to).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (number, block) in bytes.chunks(4096).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, number as u64 * 4096).unwrap();
        }
    }
    file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
}

/// A store below the file layer.
pub(crate) struct Stage {
    pub(crate) layer: FaultFs,
    dir: TempDir,
}

impl Stage {
    /// The layer over a copy of `store`, or over nothing where there is none. `None`, with a printed reason, where this
    /// machine cannot mount.
    pub(crate) fn over(store: &Path) -> Option<Stage> {
        if let Some(reason) = FaultFs::unavailable() {
            println!("skipped: {reason}");
            return None;
        }
        let dir = scratch();
        for name in ["backing", "mnt"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        if store.exists() {
            copy_folder(store, &dir.path().join("backing/store"));
        }
        let layer = FaultFs::mount(&dir.path().join("backing"), &dir.path().join("mnt")).unwrap();
        Some(Stage { layer, dir })
    }

    /// The store as programs see it.
    pub(crate) fn store(&self) -> PathBuf {
        self.layer.mountpoint().join("store")
    }

    /// A place for a socket, which is not below the layer.
    pub(crate) fn socket(&self) -> PathBuf {
        self.socket_of("socket")
    }

    /// The same where there are more.
    pub(crate) fn socket_of(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Takes the layer away. Answers the store as it lies there, and the folder that it is gone with.
    pub(crate) fn leave(self) -> (PathBuf, TempDir) {
        drop(self.layer);
        (self.dir.path().join("backing/store"), self.dir)
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
}

impl Answer {
    /// The exit code; a signal as a negative number.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| -self.status.signal().unwrap_or(0))
    }
}

/// A command on a store; one that begins with `--store` is on another one, and says `DEST` for this.
fn command(store: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_silt"));
    // What is done in the background would be seen at one time or another.
    command.env("SILT_SEAL", "manual").stdin(Stdio::null());
    if args.first() != Some(&"--store") {
        command.arg("--store").arg(store);
    }
    for arg in args {
        match *arg {
            "DEST" => command.arg(store),
            arg => command.arg(arg),
        };
    }
    command
}

/// Runs `silt` to its end.
pub(crate) fn silt(store: &Path, args: &[&str]) -> Answer {
    let output = command(store, args).stdout(Stdio::null()).output().unwrap();
    Answer { status: output.status, stderr: String::from_utf8_lossy(&output.stderr).into_owned() }
}

/// Begins to run `silt`.
pub(crate) fn silt_begun(store: &Path, args: &[&str]) -> Child {
    command(store, args).stdout(Stdio::null()).spawn().unwrap()
}

/// Runs `silt`, which must succeed.
pub(crate) fn silt_ok(store: &Path, args: &[&str]) {
    let answer = silt(store, args);
    assert_eq!(answer.code(), 0, "silt {args:?}: {}", answer.stderr);
}

/// Runs `silt --json`, which must succeed. Answers its document.
pub(crate) fn silt_json(store: &Path, args: &[&str]) -> serde_json::Value {
    let output = command(store, args).arg("--json").output().unwrap();
    assert!(output.status.success(), "silt {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A running `silt serve`; killed where a test forgets it.
pub(crate) struct Served {
    child: Child,
    socket: PathBuf,
}

impl Served {
    /// Starts a server and waits until it serves. How it ended if it does not.
    pub(crate) fn start(store: &Path, name: &str, socket: &Path) -> Result<Served, Answer> {
        let args = ["serve", name, "--nbd", socket.to_str().unwrap()];
        let mut command = command(store, &args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let _ = BufReader::new(child.stdout.take().unwrap()).read_line(&mut line);
        let served = Served { child, socket: socket.to_owned() };
        if line.starts_with("serving") { Ok(served) } else { Err(served.end()) }
    }

    /// A connection to the disk.
    pub(crate) fn connect(&self) -> silt_types::Result<NbdSession> {
        let mut session = NbdSession::connect(&self.socket)?;
        session.enter(false)?;
        Ok(session)
    }

    /// Asks it to end, and waits.
    pub(crate) fn terminate(self) -> Answer {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).unwrap();
        self.end()
    }

    /// `kill -9`.
    pub(crate) fn kill(self) {
        self.kill_now();
        self.end();
    }

    /// `kill -9` while others still hold it.
    pub(crate) fn kill_now(&self) {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::KILL).unwrap();
    }

    fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    fn end(mut self) -> Answer {
        let mut stderr = String::new();
        let _ = self.child.stderr.take().unwrap().read_to_string(&mut stderr);
        Answer { status: self.child.wait().unwrap(), stderr }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
