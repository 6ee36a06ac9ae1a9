//! A guest from power-on to its last word, on a raw file and on clones of the same image over each export, in turn.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::build::build;
use crate::side::{median, output, program, remove, silt, timed};
use crate::table::Table;
use crate::{Bench, Result, trees};

/// How long a server may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the guest does: start programs, read some of the disk, write and sync.
const COMMANDS: &str = "set -e\nls -lR /usr/share/doc | wc -l\ndpkg --verify bash\n\
    dd if=/dev/zero of=/root/file bs=1M count=4 conv=fsync status=none\n";

/// How a guest gets its disk.
#[derive(Clone, Copy)]
enum Way {
    Raw,
    Nbd,
    VhostUser,
    Fuse,
}

/// Each boot has a new disk: a copy of the raw file, or a clone.
pub fn run(bench: &Bench) -> Result<Vec<Table>> {
    let tree = trees::debian(bench, 1)?;
    let room = bench.room("boot")?;
    let (store, raw) = (room.join("store"), room.join("raw.img"));
    output(&mut build(bench, &store, &tree, None))?;
    output(silt(bench, &store, ["export", "debian"]).arg(&raw))?;
    let commands = room.join("commands");
    std::fs::write(&commands, COMMANDS)?;
    let ways = [Way::Raw, Way::Nbd, Way::VhostUser, Way::Fuse];
    let mut seconds = vec![Vec::new(); ways.len()];
    for run in 0..=bench.runs {
        for (way, all) in ways.iter().zip(&mut seconds) {
            let disk = Disk::new(bench, &room, *way, run)?;
            let mut boot = program(bench.repository.join("e2e/boot.sh"), ["--limit", "120"]);
            boot.arg("--commands").arg(&commands).args(disk.arguments());
            let took = timed(&boot, None)?;
            if run > 0 {
                all.push(took.seconds); // The first brings the guest's kernel and the packs into memory.
            }
        }
    }
    let seconds: Vec<f64> = seconds.into_iter().map(median).collect();
    let mut table = Table::new("Boot of a Debian root file system, and some work in it");
    for (way, name) in [(1, "over NBD"), (2, "over vhost-user-blk"), (3, "over FUSE")] {
        let ours = (seconds[way], "s");
        table.beside(&format!("clone {name}"), ours, "raw file", seconds[0], "<= 1.05");
    }
    table.note(format!(
        "QEMU, medians of {}; a new clone and a new server for each boot",
        bench.runs
    ));
    remove(&room)?;
    Ok(vec![table])
}

/// A disk for one boot, and its server.
struct Disk {
    way: Way,
    at: PathBuf,
    server: Option<Child>,
}

impl Disk {
    fn new(bench: &Bench, room: &Path, way: Way, run: usize) -> Result<Disk> {
        let (store, name) = (room.join("store"), format!("vm-{run}-{}", way as u8));
        let at = room.join(&name);
        let option = match way {
            Way::Raw => {
                output(program("cp", ["--sparse=always"]).arg(room.join("raw.img")).arg(&at))?;
                return Ok(Disk { way, at, server: None });
            }
            Way::Nbd => "--nbd",
            Way::VhostUser => "--vhost-user",
            Way::Fuse => "--fuse",
        };
        output(&mut silt(bench, &store, ["clone", "debian", &name]))?;
        let mut serve = silt(bench, &store, ["serve", &name, option]);
        let server = serve.arg(&at).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let disk = Disk { way, at, server: Some(server) };
        let start = Instant::now();
        while !disk.is_ready() {
            if start.elapsed() > PATIENCE {
                return Err(format!("{name} is not served").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(disk)
    }

    fn is_ready(&self) -> bool {
        let found = std::fs::metadata(&self.at);
        found.is_ok_and(|found| !matches!(self.way, Way::Fuse) || found.len() > 0)
    }

    fn arguments(&self) -> Vec<String> {
        let at = self.at.display();
        let words = match self.way {
            Way::Raw | Way::Fuse => format!(
                "-drive file={at},format=raw,if=none,id=d0,discard=unmap -device virtio-blk-pci,drive=d0"
            ),
            Way::Nbd => format!(
                "-blockdev driver=nbd,server.type=unix,server.path={at},node-name=d0,discard=unmap \
                 -device virtio-blk-pci,drive=d0"
            ),
            Way::VhostUser => format!(
                "-object memory-backend-memfd,id=mem,size=128M,share=on -machine memory-backend=mem \
                 -chardev socket,id=c0,path={at} -device vhost-user-blk-pci,chardev=c0,num-queues=1"
            ),
        };
        words.split_whitespace().map(str::to_owned).collect()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = Command::new("kill").arg(server.id().to_string()).status();
            let _ = server.wait();
        }
        let _ = std::fs::remove_file(&self.at);
    }
}
