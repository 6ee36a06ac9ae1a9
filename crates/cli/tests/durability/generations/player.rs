//! Plays a story with the real `silt` over the recording file layer, and keeps the model in step.

use super::{
    super::{
        facts::export,
        guest::SECTOR,
        stage::{Served, Stage, scratch, silt, silt_begun, silt_json, silt_ok},
    },
    story::{Pick, Place, Step},
    world::{Disk, Stamp, World, payload, stamps},
};
use silt_engine::Engine;
use silt_testkit::{fault::Recording, nbd_client::NbdSession};
use std::{collections::BTreeMap, fs, ops::Range, path::PathBuf, process::Child};
use tempfile::TempDir;

/// Names at a time; a step that would make more removes one instead.
const NAMES_MAX: usize = 9;
const BLOCK_SECTORS: u64 = 8;

/// What every story begins with: an image `base` and the volumes `one` and `two` on it.
pub(super) struct Beginning {
    dir: TempDir,
    pub(super) original: Vec<u8>,
}

impl Beginning {
    pub(super) fn new() -> Beginning {
        let dir = scratch();
        let (store, tree) = (dir.path().join("store"), dir.path().join("tree"));
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("file"), [7; 5000]).unwrap();
        silt_ok(&store, &["build", tree.to_str().unwrap(), "base", "--size", "1M"]);
        silt_ok(&store, &["clone", "base", "one"]);
        silt_ok(&store, &["clone", "base", "two"]);
        let engine = Engine::open(&store, 1 << 20).unwrap();
        let original = export(&engine, &"base".parse().unwrap()).unwrap();
        Beginning { dir, original }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }
}

/// A step that was played.
#[derive(Clone)]
pub(super) struct Moment {
    /// What a crash in the middle of it may leave.
    pub(super) during: Vec<World>,
    /// What one after its answer may.
    pub(super) after: World,
}

/// A story that was played.
pub(super) struct Played {
    pub(super) recording: Recording,
    /// The first is the beginning.
    pub(super) moments: Vec<Moment>,
}

/// Plays a story. `None`, with a printed reason, where this machine cannot mount.
pub(super) fn play(beginning: &Beginning, story: &[Step]) -> Option<Played> {
    let stage = Stage::over(&beginning.store())?;
    stage.layer.start_recording().unwrap();
    let fixed = Disk::fixed(stamps(&beginning.original, &beginning.original).unwrap());
    let names = ["base", "one", "two"];
    let world: World = names.map(|name| (name.to_owned(), fixed.clone())).into();
    let moments = vec![Moment { during: Vec::new(), after: world.clone() }];
    let original = &beginning.original;
    let mut player = Player {
        stage,
        original,
        world,
        moments,
        servers: BTreeMap::new(),
        sealer: None,
        counter: 0,
    };
    story.iter().for_each(|step| player.step(step));
    player.await_sealer();
    let open: Vec<String> = player.servers.keys().cloned().collect();
    open.iter().for_each(|name| player.close(name));
    let recording = player.stage.layer.take_recording().unwrap();
    Some(Played { recording, moments: player.moments })
}

struct Player<'a> {
    stage: Stage,
    original: &'a [u8],
    world: World,
    moments: Vec<Moment>,
    servers: BTreeMap<String, (Served, NbdSession)>,
    /// Seals while the story goes on.
    sealer: Option<Child>,
    /// Of stamps and new names.
    counter: Stamp,
}

impl Player<'_> {
    fn silt(&self, args: &[&str]) {
        silt_ok(&self.stage.store(), args);
    }

    fn next(&mut self) -> Stamp {
        self.counter += 1;
        self.counter
    }

    /// Runs `act` between two marks. `during` are the worlds that a crash may leave meanwhile, besides that before and,
    /// with `is_atomic`, that after it, into which `act` turns the present one.
    fn moment(&mut self, what: String, is_atomic: bool, act: impl FnOnce(&mut Self)) {
        self.stage.layer.mark(&format!("begin {what}"));
        let before = self.world.clone();
        act(self);
        self.stage.layer.mark(&format!("end {what}"));
        let after = self.world.clone();
        let during = if is_atomic { vec![before, after.clone()] } else { vec![before] };
        self.moments.push(Moment { during, after });
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write { .. } | Step::Zero { .. } | Step::Trim { .. } => self.request(step),
            Step::Flush(volume) => {
                let volume = self.volume(*volume);
                self.flush(&volume);
            }
            Step::Close(volume) => self.close(&self.volume(*volume)),
            Step::Kill(volume) => self.kill(&self.volume(*volume)),
            Step::Snapshot(_) | Step::Clone { .. } | Step::Commit(_)
                if self.world.len() >= NAMES_MAX =>
            {
                self.remove(self.counter as usize);
            }
            Step::Snapshot(volume) => self.snapshot(&self.volume(*volume)),
            Step::Rollback { snapshot, discard } => self.rollback(*snapshot, *discard),
            Step::Clone { source, count } => self.make_clones(*source, *count),
            Step::Commit(source) => self.commit(*source),
            Step::Flatten(volume) => self.flatten(&self.volume(*volume)),
            Step::Seal => self.moment("seal".into(), false, |player| {
                player.silt(&["seal"]);
            }),
            Step::SealBehind => {
                self.await_sealer();
                self.sealer = Some(silt_begun(&self.stage.store(), &["seal"]));
            }
            Step::Grow { volume, sectors } => self.grow(&self.volume(*volume), *sectors),
            Step::Shrink { volume, blocks } => self.shrink(&self.volume(*volume), *blocks),
            Step::Rename(pick) => self.rename(*pick),
            Step::Remove(pick) => self.remove(*pick),
        }
    }

    fn await_sealer(&mut self) {
        if let Some(mut sealer) = self.sealer.take() {
            assert!(sealer.wait().unwrap().success(), "the sealer failed");
        }
    }

    fn pick(&self, pick: Pick, is_one: impl Fn(&str) -> bool) -> Option<String> {
        let names: Vec<&String> = self.world.keys().filter(|name| is_one(name)).collect();
        (!names.is_empty()).then(|| names[pick % names.len()].clone())
    }

    fn volume(&self, pick: Pick) -> String {
        self.pick(pick, is_volume).unwrap()
    }

    fn disk(&mut self, name: &str) -> &mut Disk {
        self.world.get_mut(name).unwrap()
    }

    /// The server of a volume, started where there is none.
    fn server(&mut self, name: &str) -> &mut NbdSession {
        if !self.servers.contains_key(name) {
            let number = self.next();
            self.moment(format!("serve {name}"), false, |player| {
                let socket = player.stage.socket_of(&number.to_string());
                let served = Served::start(&player.stage.store(), name, &socket).unwrap();
                let session = served.connect().unwrap();
                player.servers.insert(name.to_owned(), (served, session));
            });
        }
        &mut self.servers.get_mut(name).unwrap().1
    }

    /// Sends a request, flags and command, which must succeed.
    fn ask(&mut self, name: &str, command: (u16, u16), place: (u64, u64), payload: &[u8]) {
        let (at, len) = (place.0 * SECTOR, place.1 * SECTOR);
        let reply = self.server(name).ask(command, (at, len), payload).unwrap();
        assert_eq!(reply.error, 0, "{command:?} of {name} at {at}+{len}: {}", reply.message);
    }

    fn request(&mut self, step: &Step) {
        let (Step::Write { volume, place, .. }
        | Step::Zero { volume, place, .. }
        | Step::Trim { volume, place }) = step
        else {
            return;
        };
        let volume = self.volume(*volume);
        self.server(&volume);
        let sectors = cut(*place, self.world[&volume].sectors());
        let stamp = if matches!(step, Step::Write { .. }) { self.next() } else { 0 };
        let (command, touched, bytes) = match step {
            Step::Write { fua, .. } => {
                ((u16::from(*fua), 1), sectors.clone(), payload(sectors.clone(), stamp))
            }
            Step::Zero { keeps_space, .. } => {
                ((2 * u16::from(*keeps_space), 6), sectors.clone(), Vec::new())
            }
            _ => ((0, 4), whole_blocks(&sectors), Vec::new()),
        };
        // Until it is answered each sector may be as before or written already.
        self.disk(&volume).write(touched.clone(), stamp);
        let what = format!("{command:?} {volume} {sectors:?} stamp {stamp}");
        self.moment(what, false, |player| {
            let place = (sectors.start, sectors.end - sectors.start);
            player.ask(&volume, command, place, &bytes);
            if command == (1, 1) {
                player.disk(&volume).settle(touched);
            }
        });
    }

    fn flush(&mut self, name: &str) {
        self.server(name);
        self.moment(format!("flush {name}"), false, |player| {
            player.ask(name, (0, 3), (0, 0), b"");
            player.disk(name).flush();
        });
    }

    fn close(&mut self, name: &str) {
        let Some((served, session)) = self.servers.remove(name) else { return };
        self.moment(format!("close {name}"), false, |player| {
            drop(session);
            let answer = served.terminate();
            assert_eq!(answer.code(), 0, "{}", answer.stderr);
            player.disk(name).flush();
        });
    }

    /// What it had not flushed is in the page cache, and is what whoever comes next goes on with.
    fn kill(&mut self, name: &str) {
        let Some((served, _)) = self.servers.remove(name) else { return };
        self.moment(format!("kill {name}"), false, |player| {
            served.kill();
            let file = player.stage.socket_of("exported");
            player.silt(&["export", name, file.to_str().unwrap()]);
            let found = stamps(&fs::read(file).unwrap(), player.original).unwrap();
            player.disk(name).seen(found).unwrap();
        });
    }

    fn snapshot(&mut self, volume: &str) {
        let name = format!("{volume}@s{}", self.next());
        self.moment(format!("snapshot {name}"), true, |player| {
            player.silt(&["snapshot", &name]);
            player.disk(volume).flush();
            let kept = player.world[volume].clone();
            player.world.insert(name, kept);
        });
    }

    fn rollback(&mut self, snapshot: Pick, discard: bool) {
        let Some(name) = self.pick(snapshot, |name| name.contains('@')) else { return };
        let volume = volume_of(&name).to_owned();
        self.close(&volume);
        self.moment(format!("rollback {name} discard {discard}"), true, |player| {
            let mut words = vec!["rollback", &name];
            words.extend(discard.then_some("--discard"));
            let done = silt_json(&player.stage.store(), &words);
            if let Some(kept) = done["kept"].as_str() {
                let mut left = player.world[&volume].clone();
                left.flush();
                player.world.insert(kept.to_owned(), left);
            }
            let disk = player.world[&name].clone();
            player.world.insert(volume, disk);
        });
    }

    fn make_clones(&mut self, source: Pick, count: usize) {
        let source = self.pick(source, |_| true).unwrap();
        let name = format!("v{}", self.next());
        self.moment(format!("clone {source} {name} -n {count}"), true, |player| {
            player.silt(&["clone", &source, &name, "-n", &count.to_string()]);
            player.disk(&source).flush();
            let disk = player.world[&source].clone();
            let names = (1..=count).map(|number| format!("{name}-{number}"));
            player.world.extend(names.map(|name| (name, disk.clone())));
        });
    }

    fn commit(&mut self, source: Pick) {
        let source = self.pick(source, |name| is_volume(name) || name.contains('@')).unwrap();
        let image = format!("image{}", self.next());
        self.moment(format!("commit {source} {image}"), true, |player| {
            player.silt(&["commit", &source, &image]);
            player.disk(&source).flush();
            let disk = player.world[&source].clone();
            player.world.insert(image, disk);
        });
    }

    fn flatten(&mut self, volume: &str) {
        self.moment(format!("flatten {volume}"), false, |player| {
            player.silt(&["flatten", volume]);
            player.disk(volume).flush();
        });
    }

    fn grow(&mut self, volume: &str, sectors: u64) {
        self.close(volume);
        let len = self.world[volume].sectors() + sectors;
        self.moment(format!("grow {volume} to {len} sectors"), true, |player| {
            player.silt(&["resize", volume, &(len * SECTOR).to_string()]);
            let disk = player.disk(volume);
            disk.flush();
            disk.now.resize(len as usize, 0);
        });
    }

    /// Refused where something is in what goes, and no ext4 says that it does not count.
    fn shrink(&mut self, volume: &str, blocks: u64) {
        self.close(volume);
        let disk = &self.world[volume];
        let blocks_left = (disk.sectors() / BLOCK_SECTORS).saturating_sub(blocks).max(1);
        let len = blocks_left * BLOCK_SECTORS;
        let is_free = disk.now[len as usize..].iter().all(|stamp| *stamp == 0);
        self.moment(format!("shrink {volume} to {len} sectors"), true, |player| {
            let size = (len * SECTOR).to_string();
            let answer = silt(&player.stage.store(), &["resize", volume, &size, "--shrink"]);
            player.disk(volume).flush();
            match answer.code() {
                0 => player.disk(volume).now.truncate(len as usize),
                code => assert!(!is_free && code == 6, "{answer:?}"),
            }
        });
    }

    fn rename(&mut self, pick: Pick) {
        let from = self.pick(pick, |_| true).unwrap();
        let to = match from.split_once('@') {
            Some((volume, _)) => format!("{volume}@s{}", self.next()),
            None if is_volume(&from) => format!("v{}", self.next()),
            None => format!("image{}", self.next()),
        };
        self.moment(format!("rename {from} {to}"), true, |player| {
            player.silt(&["rename", &from, &to]);
            let is_moved = |name: &String| *name == from || volume_of(name) == from;
            let moved: Vec<String> = player.world.keys().filter(|n| is_moved(n)).cloned().collect();
            for name in moved {
                let disk = player.world.remove(&name).unwrap();
                player.world.insert(name.replacen(&from, &to, 1), disk);
            }
            let server = player.servers.remove(&from);
            player.servers.extend(server.map(|server| (to, server)));
        });
    }

    /// A volume goes with its snapshots; the last one stays.
    fn remove(&mut self, pick: Pick) {
        let volumes = self.world.keys().filter(|name| is_volume(name)).count();
        let Some(name) = self.pick(pick, |name| volumes > 1 || !is_volume(name)) else { return };
        self.close(&name);
        self.moment(format!("remove {name}"), true, |player| {
            player.silt(&["rm", &name, "--recursive"]);
            player.world.retain(|other, _| *other != name && volume_of(other) != name);
        });
    }
}

fn is_volume(name: &str) -> bool {
    !name.contains('@') && !name.starts_with("image") && name != "base"
}

/// The volume that a snapshot is of; the name itself of others.
fn volume_of(name: &str) -> &str {
    name.split_once('@').map_or(name, |(volume, _)| volume)
}

fn cut(place: Place, sectors: u64) -> Range<u64> {
    let at = place.at % sectors;
    at..sectors.min(at + place.len)
}

/// Trimming goes inward.
fn whole_blocks(sectors: &Range<u64>) -> Range<u64> {
    let start = sectors.start.next_multiple_of(BLOCK_SECTORS);
    start..(sectors.end / BLOCK_SECTORS * BLOCK_SECTORS).max(start)
}
