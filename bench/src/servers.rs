//! A thousand idle servers on one machine: how long until all listen, what memory each takes, and whether they share the page
//! cache of the packs that they read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::side::{output, program, silt};
use crate::table::Table;
use crate::{Bench, Result};

const SERVERS: usize = 1000;

/// Content of the disk that all of them serve, in bytes: noise, so that it is in the packs as it is.
const CONTENT: usize = 256 << 20;

/// How long all of them may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Serves a thousand clones of one image at once.
pub fn run(bench: &Bench) -> Result<Vec<Table>> {
    let room = bench.room("servers")?;
    let store = room.join("store");
    let tree = room.join("tree");
    fs::create_dir(&tree)?;
    fs::write(tree.join("file"), noise())?;
    output(silt(bench, &store, ["build"]).arg(&tree).arg("image"))?;
    let count = SERVERS.to_string();
    output(&mut silt(bench, &store, ["clone", "image", "vm", "-n", &count]))?;
    let mut table = Table::new(format!("{SERVERS} idle servers of clones of one image"));
    let start = Instant::now();
    let mut servers = Vec::new();
    for number in 1..=SERVERS {
        let socket = room.join(format!("{number}.socket"));
        let mut command = silt(bench, &store, ["serve", &format!("vm-{number}"), "--nbd"]);
        servers.push(Server(spawn(command.arg(&socket))?, socket));
    }
    for server in &mut servers {
        server.wait(start)?;
    }
    table.alone("until all listen", start.elapsed().as_secs_f64(), "s", "<= 60 s");
    // Begun, and at rest.
    std::thread::sleep(Duration::from_secs(2));
    let [resident, own] = memory(&servers)?;
    table.alone("memory of each, all that it maps (RSS)", resident, "MiB", "<= 16 MiB");
    table.alone("memory of each, its share (PSS)", own, "MiB", "");
    table.note("Memory is that of the server and its broker together, medians.");
    page_cache(&servers, &mut table)?;
    Ok(vec![table])
}

/// What two servers read from the disk for the same bytes, one after the other, on a machine that forgot them.
fn page_cache(servers: &[Server], table: &mut Table) -> Result<()> {
    output(&mut program("sync", [""; 0]))?;
    if fs::write("/proc/sys/vm/drop_caches", "1").is_err() {
        table.note("Page cache: not measured, since that needs root.");
        return Ok(());
    }
    for (server, which) in servers.iter().zip(["first", "second"]) {
        let uri = format!("nbd+unix:///?socket={}", server.1.display());
        let before = server.read_from_disk()?;
        output(&mut program("nbdcopy", [uri.as_str(), "null:"]))?;
        let read = (server.read_from_disk()? - before) as f64 / 1e6;
        let what = format!("read from the disk by the {which} to read all of it");
        table.alone(&what, read, "MB", if which == "first" { "" } else { "0 MB" });
    }
    Ok(())
}

struct Server(Child, PathBuf);

impl Server {
    fn wait(&mut self, start: Instant) -> Result<()> {
        while !self.1.exists() {
            if let Some(status) = self.0.try_wait()? {
                return Err(format!("a server ended with {status}").into());
            }
            if start.elapsed() > PATIENCE {
                return Err("a server does not listen".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// proc_pid_io(5): bytes that were not in the page cache.
    fn read_from_disk(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/io", self.0.id()))?;
        field(&text, "read_bytes:")
    }

    /// This process and its children: the broker.
    fn pids(&self) -> Result<Vec<u32>> {
        let pid = self.0.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let children = children.split_whitespace().map(str::parse);
        let mut pids = children.collect::<std::result::Result<Vec<u32>, _>>()?;
        pids.push(pid);
        Ok(pids)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(command: &mut Command) -> Result<Child> {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(quiet.spawn()?)
}

/// Medians over the servers of resident and proportional memory, in MiB.
fn memory(servers: &[Server]) -> Result<[f64; 2]> {
    let mut all = [Vec::new(), Vec::new()];
    for server in servers {
        let mut sums = [0, 0];
        for pid in server.pids()? {
            let text =
                fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("smaps_rollup"))?;
            sums[0] += field(&text, "Rss:")?;
            sums[1] += field(&text, "Pss:")?;
        }
        all[0].push(sums[0]);
        all[1].push(sums[1]);
    }
    Ok(all.map(|mut kib| {
        kib.sort_unstable();
        kib[kib.len() / 2] as f64 / 1024.0
    }))
}

fn field(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.split_whitespace().next());
    Ok(value.ok_or_else(|| format!("no {name}"))?.parse()?)
}

fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(CONTENT);
    while bytes.len() < CONTENT {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}
