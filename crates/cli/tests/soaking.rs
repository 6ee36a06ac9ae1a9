//! Many processes at one store for as long as one likes: they build, clone, write, snapshot, roll back, remove, collect and
//! verify, and are killed at random. Each worker knows what its own disks hold; in the end that is compared, and nothing is left
//! that nobody needs.
//!
//! `SILT_SOAK_SECONDS` says for how long, `SILT_SOAK_SEED` which story; both are printed.

use crate::silt::{Server, Silt, pseudo_random};
use silt_testkit::nbd_client::NbdClient;
use silt_volume::BlockDevice as _;
use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// How long without being asked for more: enough to meet everything once.
const SECONDS_DEFAULT: u64 = 6;
const WORKERS: u64 = 8;
const DISK_LEN: usize = 2 << 20;
/// Disks of a worker.
const DISKS_MAX: usize = 8;

/// Numbers of a story (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// One of those who are at it.
struct Worker<'a> {
    silt: &'a Silt,
    number: u64,
    random: Random,
    /// What each image, volume and snapshot of this worker holds.
    disks: BTreeMap<String, Vec<u8>>,
    names: u64,
    done: &'a AtomicU64,
    killed: &'a AtomicU64,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Done,
    Killed,
}

impl Worker<'_> {
    /// Runs a command to its end, or kills it on the way.
    fn run(&mut self, args: &[&str]) -> Ended {
        let mut child = self.start(args);
        if self.random.below(4) == 0 {
            thread::sleep(Duration::from_micros(self.random.below(60_000)));
            if child.try_wait().unwrap().is_none() {
                let _ = child.kill();
                child.wait().unwrap();
                self.killed.fetch_add(1, Relaxed);
                return Ended::Killed;
            }
        }
        let output = child.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(
            output.status.success(),
            "worker {}: {args:?}: {} {said}",
            self.number,
            output.status
        );
        self.done.fetch_add(1, Relaxed);
        Ended::Done
    }

    fn start(&self, args: &[&str]) -> Child {
        let mut command = self.silt.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn new_name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}-{}-{}", self.number, self.names)
    }

    /// One of this worker's disks of which `is_meant` is true.
    fn pick(&mut self, is_meant: impl Fn(&str) -> bool) -> Option<String> {
        let names: Vec<_> = self.disks.keys().filter(|name| is_meant(name)).cloned().collect();
        match names.len() {
            0 => None,
            len => Some(names[self.random.below(len as u64) as usize].clone()),
        }
    }

    fn exists(&self, name: &str) -> bool {
        let ran = self.silt.run(&["info", name]);
        match ran.status.code() {
            Some(0) => true,
            Some(3) => false,
            _ => panic!("{name}: {ran:?}"),
        }
    }

    fn step(&mut self) {
        match self.random.below(12) {
            0 => self.build(),
            1 | 2 => self.clone_disk(),
            3..=5 => self.write(),
            6 => self.snapshot(),
            7 => self.roll_back(),
            8 | 9 => self.remove(),
            10 => drop(self.run(&["gc"])),
            _ => drop(self.run(&["verify"])),
        }
    }

    fn build(&mut self) {
        if self.disks.len() >= DISKS_MAX {
            return self.remove();
        }
        let name = self.new_name("image");
        let dir = self.silt.path(format!("tree-{}", self.number));
        fs::create_dir_all(&dir).unwrap();
        for file in 0..4 {
            // Some of it others have, too.
            let seed = if file < 2 { self.random.below(4) } else { self.random.next() };
            fs::write(dir.join(file.to_string()), pseudo_random(100_000, seed)).unwrap();
        }
        self.run(&["build", dir.to_str().unwrap(), &name, "--size", "2M"]);
        if self.exists(&name) {
            self.disks.insert(name.clone(), self.silt.exported(&name));
        }
    }

    fn clone_disk(&mut self) {
        let Some(source) = self.pick(|_| true).filter(|_| self.disks.len() < DISKS_MAX) else {
            return self.build();
        };
        let name = self.new_name("volume");
        self.run(&["clone", &source, &name]);
        if self.exists(&name) {
            self.disks.insert(name, self.disks[&source].clone());
        }
    }

    fn write(&mut self) {
        let Some(name) = self.pick(|name| name.starts_with("volume") && !name.contains('@')) else {
            return self.clone_disk();
        };
        let server: Server = self.silt.serve(&name, &[]);
        let client = NbdClient::connect(&server.socket).unwrap();
        let disk = self.disks.get_mut(&name).unwrap();
        for _ in 0..self.random.below(12) {
            let len = 512 * (1 + self.random.below(32)) as usize;
            let at = 512 * self.random.below(((DISK_LEN - len) / 512) as u64) as usize;
            let bytes = match self.random.below(4) {
                0 => vec![0; len],
                _ => pseudo_random(len, self.random.next()),
            };
            client.write_at(&bytes, at as u64).unwrap();
            disk[at..at + len].copy_from_slice(&bytes);
        }
        client.flush().unwrap();
        // What is read is what was written, whatever is collected meanwhile.
        let mut read = vec![0; DISK_LEN];
        client.read_at(&mut read, 0).unwrap();
        assert!(read == *disk, "worker {}: {name} while it is served", self.number);
        drop(client);
        if self.random.below(3) == 0 {
            server.kill();
            self.killed.fetch_add(1, Relaxed);
        } else {
            server.stop();
        }
        self.done.fetch_add(1, Relaxed);
    }

    fn snapshot(&mut self) {
        let Some(volume) = self.pick(|name| name.starts_with("volume") && !name.contains('@'))
        else {
            return self.clone_disk();
        };
        let name = format!("{volume}@{}", self.new_name("s"));
        self.run(&["snapshot", &name]);
        if self.random.below(2) == 0 {
            self.run(&["seal", &volume]);
        }
        if self.exists(&name) {
            self.disks.insert(name, self.disks[&volume].clone());
        }
    }

    fn roll_back(&mut self) {
        let Some(snapshot) = self.pick(|name| name.contains('@')) else { return self.snapshot() };
        let volume = snapshot.split('@').next().unwrap().to_owned();
        if !self.disks.contains_key(&volume) {
            return;
        }
        let ended = self.run(&["rollback", &snapshot, "--discard"]);
        let then = self.disks[&snapshot].clone();
        if ended == Ended::Done || self.silt.exported(&volume) == then {
            self.disks.insert(volume, then);
        }
    }

    fn remove(&mut self) {
        let Some(name) = self.pick(|_| true) else { return };
        self.run(&["rm", &name, "--recursive"]);
        if !self.exists(&name) {
            let own = format!("{name}@");
            self.disks.retain(|other, _| *other != name && !other.starts_with(&own));
        }
    }

    /// What there is in the end is what there should be.
    fn compare(&self) {
        for (name, disk) in &self.disks {
            assert!(self.silt.exported(name) == *disk, "worker {}: {name} in the end", self.number);
        }
    }
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn soak_whatever_many_processes_do_and_whoever_is_killed_nothing_is_lost_and_nothing_is_left() {
    let seconds = number_from("SILT_SOAK_SECONDS").unwrap_or(SECONDS_DEFAULT);
    let seed = number_from("SILT_SOAK_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("SILT_SOAK_SECONDS={seconds} SILT_SOAK_SEED={seed}");
    let silt = Silt::new();
    silt.small_image("first");
    silt.ok(&["rm", "first"]);
    let (until, failed) = (Instant::now() + Duration::from_secs(seconds), AtomicBool::new(false));
    let (done, killed) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for number in 0..WORKERS {
            let (silt, failed, done, killed) = (&silt, &failed, &done, &killed);
            scope.spawn(move || {
                let random = Random(seed.wrapping_add(number << 32));
                let disks = BTreeMap::new();
                let mut worker = Worker { silt, number, random, disks, names: 0, done, killed };
                let work = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    while Instant::now() < until && !failed.load(Relaxed) {
                        worker.step();
                    }
                    worker.compare();
                }));
                if let Err(panic) = work {
                    failed.store(true, Relaxed);
                    std::panic::resume_unwind(panic);
                }
            });
        }
    });
    println!("{} commands ended, {} were killed", done.into_inner(), killed.into_inner());
    silt.assert_verified();
    let names = silt.names();
    let names: Vec<_> = names.iter().filter(|name| !name.contains('@')).collect();
    for name in names {
        silt.ok(&["rm", name, "--recursive"]);
    }
    silt.ok(&["gc", "--caches"]);
    silt.assert_verified();
    let info = silt.json(&["info"]);
    assert_eq!((&info["chunks"], &info["packs"]), (&0.into(), &0.into()), "{info}");
    let left = |folder: &str| fs::read_dir(silt.store().join(folder)).unwrap().count();
    assert_eq!((left("packs"), left("volumes"), left("run"), left("leases")), (0, 0, 0, 1));
}
