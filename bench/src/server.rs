//! A block server, ours or a peer's, and its disk as the kernel mounts it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::side::{output, program, silt};
use crate::{Bench, Result};

/// How long a server or a mount may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server that ends with this value.
pub struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// Starts an NBD server, and waits until it answers on its socket.
    pub fn start(command: &mut Command, socket: PathBuf) -> Result<Self> {
        let is_there =
            |server: &Self| output(&mut program("nbdinfo", ["--size", &server.uri()])).is_ok();
        Self::start_until(command, socket, is_there)
    }

    /// Starts a server of another kind, and waits until its socket is there.
    pub fn start_listening(command: &mut Command, socket: PathBuf) -> Result<Self> {
        Self::start_until(command, socket, |server| server.socket.exists())
    }

    fn start_until(
        command: &mut Command,
        socket: PathBuf,
        is_there: fn(&Self) -> bool,
    ) -> Result<Self> {
        let log = std::fs::File::create(socket.with_extension("log"))?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let mut server =
            Self { child: child.map_err(|error| format!("{command:?}: {error}"))?, socket };
        let start = Instant::now();
        while !is_there(&server) {
            if let Some(status) = server.child.try_wait()? {
                let said = std::fs::read_to_string(server.socket.with_extension("log"))?;
                return Err(format!("{command:?} ended with {status}: {said}").into());
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("{command:?} does not answer").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Processor time that it has taken, in seconds.
    pub fn processor_seconds(&self) -> Result<f64> {
        processor_seconds(&self.child)
    }

    /// Where it is, for libnbd, QEMU and fio.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }
}

/// Processor time that a process has taken, in seconds.
pub fn processor_seconds(process: &Child) -> Result<f64> {
    // proc_pid_stat(5): user and system time are the 12th and 13th field behind the name, in hundredths.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
    let (_, behind_name) = stat.rsplit_once(')').ok_or("/proc/PID/stat without a name")?;
    let fields = behind_name.split_whitespace().skip(11).take(2);
    let ticks: std::result::Result<Vec<f64>, _> = fields.map(str::parse).collect();
    Ok(ticks?.iter().sum::<f64>() / 100.0)
}

impl Drop for Server {
    fn drop(&mut self) {
        // An end by signal is all the peers know; whether ours ends well is tested elsewhere.
        let _ = output(&mut program("kill", [self.child.id().to_string()]));
        let _ = self.child.wait();
    }
}

/// A served volume, mounted by the kernel: NBD, a FUSE file, a loop device. Needs root. Unmounted and ended with this value.
pub struct Mounted {
    /// Where its files are.
    pub files: PathBuf,
    mounted: bool,
    fuse: Child,
    fuse_at: PathBuf,
    /// Ends last.
    _server: Server,
}

impl Mounted {
    /// Serves a volume and mounts it in a folder of `room`, with mount options beside `loop`.
    pub fn new(
        bench: &Bench,
        store: &Path,
        room: &Path,
        volume: &str,
        options: &str,
    ) -> Result<Self> {
        let socket = room.join(format!("{volume}.socket"));
        let mut command = silt(bench, store, ["serve", volume, "--nbd"]);
        command.arg(&socket).env("SILT_SEAL", "manual");
        let server = Server::start(&mut command, socket.clone())?;
        let (fuse_at, files) =
            (room.join(format!("{volume}.fuse")), room.join(format!("{volume}.files")));
        std::fs::create_dir_all(&fuse_at)?;
        std::fs::create_dir_all(&files)?;
        let file = fuse_at.join("disk");
        let fuse = program("nbdfuse", [&file]).arg(server.uri()).stdin(Stdio::null()).spawn()?;
        let mut mounted = Self { files, mounted: false, fuse, fuse_at, _server: server };
        let start = Instant::now();
        while !std::fs::metadata(&file).is_ok_and(|metadata| metadata.len() > 0) {
            if start.elapsed() > PATIENCE || mounted.fuse.try_wait()?.is_some() {
                return Err("nbdfuse does not show the disk".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let options = format!("loop,{options}");
        output(
            program("mount", ["-o", options.trim_end_matches(',')]).arg(&file).arg(&mounted.files),
        )?;
        mounted.mounted = true;
        Ok(mounted)
    }

    /// Unmounts the file system; the disk is served on.
    pub fn unmount(&mut self) -> Result<()> {
        if std::mem::take(&mut self.mounted) {
            output(&mut program("umount", [&self.files]))?;
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.unmount();
        let start = Instant::now();
        // The loop device lets go of its file a moment after the unmount.
        while output(&mut program("umount", [&self.fuse_at])).is_err() {
            if start.elapsed() > PATIENCE {
                let _ = self.fuse.kill();
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.fuse.wait();
    }
}
