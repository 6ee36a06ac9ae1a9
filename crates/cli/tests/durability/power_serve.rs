//! Power cuts under a served volume: what was flushed is there, each other sector is old or newer.
//!
//! Kills come into it too: what a killed process left in the page cache is seen by the next one, and is not durable.

use super::{
    facts::{Facts, look, look_at_sound, reopen},
    guest::{Ask, Guest, History, Moment, Request, request},
    power::{every_state, files_named, without_syncs_of},
    scenes::{Props, ROUND},
    stage::{Served, Stage, silt, silt_ok},
};
use silt_testkit::fault::{OpClass, Plan, PowerState, Recording};
use std::path::Path;

const STATES: usize = 160;
const STATES_PLANTED: usize = 80;
/// States of each of the many recordings with a kill.
const STATES_KILLED: usize = 10;

const KIB: u64 = 1024;

/// Another round, over the first.
const SECOND_ROUND: [Request; 5] = [
    request(Ask::Write, 4 * KIB, 8 * KIB),
    request(Ask::Write, 900 * KIB, 12 * KIB),
    request(Ask::Trim, 300 * KIB, 8 * KIB),
    request(Ask::WriteFua, 500 * KIB, 4 * KIB),
    request(Ask::Write, 700 * KIB, 1024),
];

/// A volume's life under a recording.
struct Life {
    recording: Recording,
    history: History,
    others: Facts,
    name: &'static str,
    /// A name that may be there with these bytes, or not.
    may_have_come: Option<(&'static str, Vec<u8>)>,
}

/// A stage, and what a guest asked on it.
struct Scene {
    stage: Stage,
    history: History,
    /// Requests that a flush covers.
    flushed: usize,
    others: Facts,
    name: &'static str,
}

impl Scene {
    fn new(props: &Props, name: &'static str) -> Option<Scene> {
        let before = look(&props.store()).unwrap();
        let stage = Stage::over(&props.store())?;
        stage.layer.start_recording().unwrap();
        let history = History::new(before.disks[name].clone());
        Some(Scene { stage, history, flushed: 0, others: before.without(name), name })
    }

    fn serve(&self) -> Served {
        let served = Served::start(&self.stage.store(), self.name, &self.stage.socket());
        served.unwrap_or_else(|answer| panic!("{} is not served: {answer:?}", self.name))
    }

    /// Sends requests, all of which must succeed, and with `flush` a flush.
    fn ask(&mut self, served: &Served, requests: &[Request], flush: bool) {
        let session = served.connect().unwrap();
        let layer = &self.stage.layer;
        let note = |mark: String| layer.mark(&mark);
        let mut guest = Guest { session, history: &mut self.history, note: &note };
        for request in requests {
            assert_eq!(guest.ask(*request).unwrap(), 0, "{request:?}");
        }
        if flush {
            assert_eq!(guest.flush().unwrap(), 0);
            self.flushed = self.history.requests.len();
        }
    }

    /// Ends a server, which makes everything durable.
    fn end(&mut self, served: Served) {
        let answer = served.terminate();
        assert_eq!(answer.code(), 0, "{}", answer.stderr);
        self.flushed = self.history.requests.len();
        self.stage.layer.mark(&format!("flushed {}", self.flushed));
    }

    fn finish(self) -> Life {
        let recording = self.stage.layer.take_recording().unwrap();
        let Scene { history, others, name, .. } = self;
        Life { recording, history, others, name, may_have_come: None }
    }
}

impl Life {
    /// Serve, two rounds, a clean end; serve, writes, `kill -9`; serve, a round, writes, a clean end.
    fn whole(props: &Props, name: &'static str) -> Option<Life> {
        let mut scene = Scene::new(props, name)?;
        let served = scene.serve();
        scene.ask(&served, &ROUND[..6], true);
        scene.ask(&served, &ROUND[6..], true);
        scene.ask(&served, &SECOND_ROUND[..2], false);
        scene.end(served);
        let served = scene.serve();
        scene.ask(&served, &SECOND_ROUND, false);
        served.kill();
        let served = scene.serve();
        scene.ask(&served, &ROUND, true);
        scene.ask(&served, &SECOND_ROUND[1..], false);
        scene.end(served);
        Some(scene.finish())
    }

    fn judge(&self, state: &PowerState<'_>, store: &Path) -> Result<(), String> {
        let left = look_at_sound(store)?;
        let mut others = left.without(self.name);
        if let Some((name, bytes)) = &self.may_have_come
            && others.remove(*name).is_some()
            && left.disks[*name] != *bytes
        {
            return Err(format!("{name} has come with other bytes"));
        }
        if others != self.others {
            return Err("other names have changed".into());
        }
        let disk = left.disks.get(self.name).ok_or("the volume is gone")?;
        self.history.allows(disk, &Moment::of(state.marks()))?;
        reopen(store, self.name).map_err(|error| format!("cannot be opened again: {error:?}"))?;
        let again = look_at_sound(store)?;
        if again.disks[self.name] == *disk {
            Ok(())
        } else {
            Err("opening again changed the disk".into())
        }
    }

    fn survives_every_cut(&self, states: usize) -> usize {
        let judge = |state: &PowerState<'_>, store: &Path| self.judge(state, store);
        let (count, complaints) = every_state(&self.recording, states, judge);
        let (bad, text) = (complaints.len(), complaints.join("\n"));
        assert!(complaints.is_empty(), "{bad} of {count}:\n{text}");
        count
    }
}

#[test]
fn fuse_power_cuts_lose_no_flushed_sector_of_a_new_volume() {
    let props = Props::new();
    let Some(life) = Life::whole(&props, "idle") else { return };
    let count = life.survives_every_cut(STATES);
    println!("{count} states of {} operations", life.recording.ops().len());
    assert!(count > STATES, "{count}");
}

#[test]
fn fuse_power_cuts_lose_no_flushed_sector_of_a_volume_with_frozen_deltas() {
    let props = Props::new();
    let Some(life) = Life::whole(&props, "parent") else { return };
    let count = life.survives_every_cut(STATES);
    println!("{count} states of {} operations", life.recording.ops().len());
}

#[test]
fn fuse_a_flush_that_forgets_a_file_is_caught() {
    let props = Props::new();
    let Some(life) = Life::whole(&props, "idle") else { return };
    for forgotten in ["data.000", "map.log"] {
        let files = files_named(&life.recording, |name| name == forgotten);
        assert!(!files.is_empty(), "{forgotten}");
        let planted = Life {
            recording: without_syncs_of(&life.recording, &files),
            history: life.history.clone(),
            others: life.others.clone(),
            name: life.name,
            may_have_come: None,
        };
        let judge = |state: &PowerState<'_>, store: &Path| planted.judge(state, store);
        let (count, complaints) = every_state(&planted.recording, STATES_PLANTED, judge);
        println!("{forgotten}: {} of {count} states complain", complaints.len());
        assert!(!complaints.is_empty(), "{forgotten}");
    }
}

#[test]
fn fuse_a_power_cut_after_a_server_was_killed_at_its_start_loses_no_flushed_sector() {
    let props = Props::new();
    let mut count = 0;
    for op in 0.. {
        let Some(mut scene) = Scene::new(&props, "idle") else { return };
        scene.stage.layer.set_plan(Plan::CrashAt { class: OpClass::Any, op });
        match Served::start(&scene.stage.store(), "idle", &scene.stage.socket()) {
            Ok(served) => served.kill(),
            Err(answer) => assert_ne!(answer.code(), 0),
        }
        let was_killed = scene.stage.layer.tripped();
        scene.stage.layer.set_plan(Plan::None);
        let served = scene.serve();
        scene.ask(&served, &ROUND, true);
        scene.ask(&served, &SECOND_ROUND, false);
        served.kill();
        count += scene.finish().survives_every_cut(STATES_KILLED);
        if !was_killed {
            break;
        }
    }
    println!("{count} states");
}

#[test]
fn fuse_a_power_cut_after_a_clone_was_killed_loses_nothing_built_on_what_it_left() {
    let props = Props::new();
    let before = look(&props.store()).unwrap().disks["used"].clone();
    let mut count = 0;
    for op in 0.. {
        let Some(mut scene) = Scene::new(&props, "used") else { return };
        scene.stage.layer.set_plan(Plan::CrashAt { class: OpClass::Any, op });
        silt(&scene.stage.store(), &["clone", "used", "new"]);
        let was_killed = scene.stage.layer.tripped();
        scene.stage.layer.set_plan(Plan::None);
        let served = scene.serve();
        scene.ask(&served, &ROUND, true);
        served.kill();
        let life = Life { may_have_come: Some(("new", before.clone())), ..scene.finish() };
        count += life.survives_every_cut(STATES_KILLED);
        if !was_killed {
            break;
        }
    }
    println!("{count} states");
}

/// What a killed server had written and not flushed is in the page cache: a clone takes it, and has to make it durable.
#[test]
fn fuse_a_clone_of_what_a_killed_server_left_keeps_its_bytes() {
    let props = Props::new();
    let Some(mut scene) = Scene::new(&props, "used") else { return };
    let served = scene.serve();
    scene.ask(&served, &SECOND_ROUND[..2], true);
    scene.ask(&served, &ROUND, false);
    served.kill();
    silt_ok(&scene.stage.store(), &["clone", "used", "new"]);
    let cloned = look(&scene.stage.store()).unwrap().disks["new"].clone();
    scene.stage.layer.mark("cloned");
    let life = scene.finish();
    let judge = |state: &PowerState<'_>, store: &Path| {
        let left = look_at_sound(store)?;
        let was_answered = state.marks().any(|mark| mark == "cloned");
        match left.disks.get("new") {
            Some(disk) if *disk != cloned => Err("the clone's bytes have changed".to_owned()),
            None if was_answered => Err("the clone is gone".to_owned()),
            _ => life.history.allows(&left.disks["used"], &Moment::of(state.marks())),
        }
    };
    let (count, complaints) = every_state(&life.recording, STATES, judge);
    let (bad, text) = (complaints.len(), complaints.join("\n"));
    assert!(complaints.is_empty(), "{bad} of {count}:\n{text}");
}
