//! The binary under test with a store of its own, and servers that end with the test.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use silt_testkit::fault::every_file_of;
use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long anything may take before a test is taken to hang.
const PATIENCE: Duration = Duration::from_secs(120);

/// The user that owns nothing.
pub(crate) const NOBODY: u32 = 65_534;

/// A folder for one test, with a store in it.
pub(crate) struct Silt {
    dir: TempDir,
    uid: Option<u32>,
}

/// A command that ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Silt {
    /// A folder that every user can enter, and no store yet.
    pub(crate) fn new() -> Silt {
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        Silt { dir, uid: None }
    }

    /// The same, for commands run as another user, whose the folder is.
    pub(crate) fn as_user(uid: u32) -> Silt {
        let silt = Silt::new();
        std::os::unix::fs::chown(silt.dir.path(), Some(uid), Some(uid)).unwrap();
        Silt { uid: Some(uid), ..silt }
    }

    /// A path in the test's folder.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Every file of the store with this name.
    pub(crate) fn files_called(&self, name: &str) -> Vec<PathBuf> {
        let mut files = every_file_of(&self.store()).unwrap();
        files.retain(|path| path.file_name().is_some_and(|found| found == name));
        files
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// `silt` with these arguments on the store, not run yet. Standard input is closed.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, args: &[A]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_silt"));
        command.args(args).env("SILT_STORE", self.store()).current_dir(self.dir.path());
        // What is done in the background would be seen at one time or another; tests of it ask for it.
        command.env("SILT_SEAL", "manual");
        command.stdin(Stdio::null());
        if let Some(uid) = self.uid {
            use std::os::unix::process::CommandExt as _;
            command.uid(uid).gid(uid);
        }
        command
    }

    /// Runs `silt` to its end.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, args: &[A]) -> Ran {
        Ran::of(&mut self.command(args))
    }

    /// Runs `silt`, which must succeed. Answers standard output.
    pub(crate) fn ok<A: AsRef<OsStr> + std::fmt::Debug>(&self, args: &[A]) -> String {
        let ran = self.run(args);
        assert!(ran.status.success(), "{args:?}: {ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    }

    /// Runs `silt --json`, which must succeed. Answers its one document.
    pub(crate) fn json<A: AsRef<OsStr> + std::fmt::Debug>(&self, args: &[A]) -> Value {
        let ran = self.run(&with_json(args));
        assert!(ran.status.success(), "{args:?}: {ran:?}");
        ran.document()
    }

    /// Runs `silt --json`, which must fail with this code and say so in one document. Answers the message.
    pub(crate) fn fails<A: AsRef<OsStr> + std::fmt::Debug>(&self, code: i32, args: &[A]) -> String {
        let ran = self.run(&with_json(args));
        assert_eq!(ran.status.code(), Some(code), "{args:?}: {ran:?}");
        let error = ran.document()["error"].clone();
        let kind = silt_types::ErrorKind::ALL
            .into_iter()
            .find(|kind| i32::from(kind.exit_code()) == code)
            .unwrap();
        assert_eq!(error["kind"], kind.as_str(), "{args:?}");
        let message = error["message"].as_str().unwrap().to_owned();
        assert!(ran.stderr.contains(message.lines().next().unwrap()), "{args:?}: {ran:?}");
        message
    }

    /// Whether the whole store is as it should be.
    pub(crate) fn assert_verified(&self) {
        let report = self.json(&["verify"]);
        assert_eq!(report["ok"], true, "{report:#}");
        assert_eq!(report["damages"].as_array().unwrap().len(), 0);
    }

    /// Names of images and volumes, sorted as `ls` does.
    pub(crate) fn names(&self) -> Vec<String> {
        let listed = self.json(&["ls"]);
        let names = listed.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap());
        names.map(str::to_owned).collect()
    }

    /// The bytes of a disk, exported.
    pub(crate) fn exported(&self, name: &str) -> Vec<u8> {
        let file = self.path(format!("exported-{name}"));
        self.ok(&["export", name, file.to_str().unwrap()]);
        let bytes = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        bytes
    }

    /// A small folder to build from.
    pub(crate) fn small_tree(&self, name: &str) -> PathBuf {
        let dir = self.path(name);
        fs::create_dir_all(dir.join("etc")).unwrap();
        fs::write(dir.join("etc/hostname"), "siltstone\n").unwrap();
        fs::write(dir.join("data"), pseudo_random(300_000, 7)).unwrap();
        std::os::unix::fs::symlink("etc/hostname", dir.join("link")).unwrap();
        dir
    }

    /// Builds a small image of 16 MiB.
    pub(crate) fn small_image(&self, name: &str) -> Value {
        let dir = self.small_tree("small-tree");
        self.json(&["build", dir.to_str().unwrap(), name, "--size", "16M"])
    }

    /// Serves a disk at a Unix socket in the test's folder; returns once it accepts.
    pub(crate) fn serve(&self, name: &str, options: &[&str]) -> Server {
        self.serve_at(&format!("{name}.sock"), name, options)
    }

    /// The same, at a socket of this name.
    pub(crate) fn serve_at(&self, socket: &str, name: &str, options: &[&str]) -> Server {
        let socket = self.path(socket);
        let args = ["serve", name, "--nbd", socket.to_str().unwrap()];
        self.start(self.command(&[&args, options].concat()), socket)
    }

    /// Starts a server that is to listen at a socket; returns once it accepts.
    pub(crate) fn start(&self, command: Command, socket: PathBuf) -> Server {
        Server::start(command, socket)
    }
}

fn with_json<A: AsRef<OsStr>>(args: &[A]) -> Vec<&OsStr> {
    [OsStr::new("--json")].into_iter().chain(args.iter().map(AsRef::as_ref)).collect()
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Ran {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = end_in_time(child);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!stderr.contains("panicked"), "{command:?}: {stderr}");
        assert!(output.status.code().is_some(), "{command:?} died: {:?} {stderr}", output.status);
        Ran { status: output.status, stdout: output.stdout, stderr }
    }

    /// Standard output as exactly one JSON document.
    pub(crate) fn document(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// A disk being served; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) socket: PathBuf,
}

impl Server {
    fn start(mut command: Command, socket: PathBuf) -> Server {
        // A stale file must not be taken for the new one.
        let before = identity(&socket);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut server = Server { child, socket };
        wait_for("the socket", || {
            if let Some(status) = server.child.try_wait().unwrap() {
                panic!("the server ended early: {status} {}", server.stderr());
            }
            let now = identity(&server.socket);
            now.is_some() && now != before
        });
        server
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            std::io::Read::read_to_string(&mut stderr, &mut text).unwrap();
        }
        text
    }

    /// Sends SIGTERM and waits for the end, which must be a good one.
    pub(crate) fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = wait_for_end(&mut self.child);
        assert!(status.success(), "{status} {}", self.stderr());
        assert!(!self.socket.exists(), "the socket is still there");
    }

    /// Sends SIGTERM and waits for the end, whatever it is.
    pub(crate) fn terminate(mut self) -> Ran {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = wait_for_end(&mut self.child);
        let mut stdout = Vec::new();
        let mut printed = self.child.stdout.take().unwrap();
        std::io::Read::read_to_end(&mut printed, &mut stdout).unwrap();
        Ran { status, stdout, stderr: self.stderr() }
    }

    /// Waits for the end, which comes by itself.
    pub(crate) fn ended(mut self) -> ExitStatus {
        wait_for_end(&mut self.child)
    }

    /// Sends SIGKILL and waits for the end.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already where a test stopped it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The output of a process, which is killed when it does not end.
fn end_in_time(child: Child) -> std::process::Output {
    let pid = Pid::from_child(&child);
    let (ended, end) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        if end.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    watchdog.join().unwrap();
    output
}

/// Inodes are given again: the one that was removed may be the next one's.
fn identity(path: &Path) -> Option<(u64, i64, i64)> {
    let found = fs::symlink_metadata(path).ok()?;
    Some((found.ino(), found.ctime(), found.ctime_nsec()))
}

/// Waits for the end of a process, and fails the test when it does not come.
pub(crate) fn wait_for_end(child: &mut Child) -> ExitStatus {
    let mut ended = None;
    wait_for("the end of a process", || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    ended.unwrap()
}

/// Waits until something holds, and fails the test when it does not come to hold.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes that do not compress and are the same each time.
pub(crate) fn pseudo_random(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Unpacks the folder `store` as a silt of this format version made it.
pub(crate) fn unpack_golden_store(version: u32, into: &Path) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let text = format!("{folder}/store-{version}.tar.gz.base64");
    let decoded = Command::new("base64").arg("-d").arg(text).output().unwrap();
    assert!(decoded.status.success(), "{decoded:?}");
    let archive = into.join("golden.tar.gz");
    fs::write(&archive, decoded.stdout).unwrap();
    let unpacked = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(into).status();
    assert!(unpacked.unwrap().success());
    fs::remove_file(archive).unwrap();
}

/// Whether tests may act as root here; says so when not.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: this needs root");
    }
    root
}

/// Space that a folder takes, in bytes, as `du` counts it.
pub(crate) fn disk_usage(dir: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "--block-size=1"]).arg(dir).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Runs a judge that must be content. Answers what it printed.
pub(crate) fn judge(program: &str, args: &[&OsStr]) -> String {
    let ran = Ran::of(Command::new(program).args(args));
    assert!(
        ran.status.success(),
        "{program} {args:?}: {}{ran:?}",
        String::from_utf8_lossy(&ran.stdout)
    );
    String::from_utf8(ran.stdout).unwrap()
}
