//! Mounting, unmounting, and the handle by which a test steers the layer.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::UnmountFlags,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use silt_types::{Error, Result};

use super::{
    journal::Journal,
    op::Op,
    passthrough::Passthrough,
    plan::{Gate, OpClass, Plan},
    powercut::Recording,
};

/// Threads that answer the kernel: one more may look while another waits for its turn to change something.
const THREADS: usize = 2;
/// How long dropping waits for the last operation of a mount nobody uses any more, in milliseconds.
const PATIENCE_MS: u64 = 2000;

/// A mounted folder through which everything can be seen and broken. Dropping it unmounts; programs that still
/// have files open keep them until they close them.
pub struct FaultFs {
    backing: PathBuf,
    mountpoint: PathBuf,
    device: u64,
    journal: Arc<Journal>,
    session: Option<BackgroundSession>,
}

impl FaultFs {
    /// Why this machine cannot mount; `None` where it can. A test prints the reason and returns.
    pub fn unavailable() -> Option<String> {
        if let Err(error) = fs::File::options().read(true).write(true).open("/dev/fuse") {
            return Some(format!("/dev/fuse does not open: {error}"));
        }
        let tool = || Command::new("fusermount3").arg("-V").output().is_ok();
        let able = rustix::process::geteuid().is_root() || tool();
        (!able).then(|| "no fusermount3, and this is not root".into())
    }

    /// Mounts `backing` on the folder `mountpoint`. Root lets every user in, others only themselves. While it
    /// is mounted the backing folder is changed through the mount alone. Every file the kernel knows costs a
    /// descriptor, so this process is given as many as it may have.
    ///
    /// # Errors
    /// `Invalid` where one folder lies in the other, otherwise what the operating system refuses, with the path.
    pub fn mount(backing: &Path, mountpoint: &Path) -> Result<FaultFs> {
        let at = |path: &Path, what: &str| format!("{what} {}", path.display());
        let find = |path: &Path| fs::canonicalize(path).map_err(|e| Error::io(at(path, "find"), e));
        let (backing, mountpoint) = (find(backing)?, find(mountpoint)?);
        if backing.starts_with(&mountpoint) || mountpoint.starts_with(&backing) {
            let what = format!("mount {} on {}", backing.display(), mountpoint.display());
            return Err(Error::invalid(format!("{what}: one lies in the other")));
        }
        let files = getrlimit(Resource::Nofile);
        // Where it is refused, few files will do.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let journal = Arc::new(Journal::new());
        let file_system = rustix::fs::open(&backing, flags, Mode::empty())
            .and_then(|root| Passthrough::new(root, journal.clone()))
            .map_err(|errno| Error::io(at(&backing, "open"), errno.into()))?;
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::FSName("silt-fault".into()), MountOption::DefaultPermissions];
        config.n_threads = Some(THREADS);
        if rustix::process::geteuid().is_root() {
            config.acl = SessionACL::All;
        }
        let mounted = |e| Error::io(at(&mountpoint, "mount a file system on"), e);
        let session = fuser::spawn_mount(file_system, &mountpoint, &config).map_err(mounted)?;
        let device = fs::metadata(&mountpoint).map_err(mounted)?.dev();
        Ok(FaultFs { backing, mountpoint, device, journal, session: Some(session) })
    }

    /// Where programs shall look.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Replaces the plan. Counting starts at 0 again, a crash is over, what failed before works again.
    pub fn set_plan(&self, plan: Plan) {
        self.journal.lock().gate = Gate::new(plan);
    }

    /// Changing operations asked for since the plan was set, failed ones included.
    pub fn op_count(&self, class: OpClass) -> u64 {
        self.journal.lock().gate.count(class)
    }

    /// Whether the plan has made an operation fail.
    pub fn tripped(&self) -> bool {
        self.journal.lock().gate.tripped()
    }

    /// Reads the folder into memory, takes it for durable, and writes down every change from now on. Starts over
    /// where a recording runs already. Nobody may be writing. Costs the folder's data, and later every byte written,
    /// in memory.
    ///
    /// # Errors
    /// What the operating system refuses, with the path.
    pub fn start_recording(&self) -> Result<()> {
        self.journal.lock().start_recording(&self.backing)
    }

    /// Ends the recording; `None` where there is none.
    pub fn take_recording(&self) -> Option<Recording> {
        self.journal.lock().take_recording()
    }

    /// Writes something down between the operations, such as which answer a program has given.
    pub fn mark(&self, label: &str) {
        self.journal.lock().record(|_| Op::Mark { label: label.into() });
    }

    /// Takes the mount away, at once where nobody uses it, otherwise from sight.
    fn detach(&self) {
        let still_there = fs::metadata(&self.mountpoint).map(|meta| meta.dev());
        if still_there.is_ok_and(|device| device != self.device) {
            return;
        }
        if let Err(Errno::PERM) = rustix::mount::unmount(&self.mountpoint, UnmountFlags::DETACH) {
            // Without fusermount3 it could not have been mounted either.
            let _ =
                Command::new("fusermount3").args(["-u", "-z", "-q"]).arg(&self.mountpoint).status();
        }
    }
}

/// Ends a session, which unmounts where nobody is busy, and returns its thread.
fn end(session: BackgroundSession) -> JoinHandle<io::Result<()>> {
    session.guard
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        let thread = end(session);
        self.detach();
        for _ in 0..PATIENCE_MS {
            if thread.is_finished() {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}
