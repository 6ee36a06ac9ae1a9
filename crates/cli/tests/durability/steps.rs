//! Commands stopped, refused and starved at each step: what is left is the old state or the whole new one.

use super::{
    facts::{Facts, is_in_state, look, look_at_sound},
    scenes::Props,
    stage::{Answer, Stage, copy_folder, scratch, silt},
};
use crate::silt::unpack_golden_store;
use silt_testkit::fault::{Errno, Later, OpClass, Plan, flip_bit};
use std::path::{Path, PathBuf};

/// Steps looked at one by one at the end of a command, where its commit is.
const LAST_STEPS: u64 = 40;
/// Steps spread over what comes before.
const SPREAD_STEPS: u64 = 12;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// One operation answers EIO.
    Refused,
    /// One operation and all later ones answer ENOSPC.
    Full,
    /// Nothing reaches the disk any more.
    Stopped,
}

impl Fault {
    fn at(self, op: u64) -> Plan {
        let class = OpClass::Any;
        match self {
            Fault::Refused => Plan::FailAt { class, op, errno: Errno::IO, later: Later::Work },
            Fault::Full => Plan::FailAt { class, op, errno: Errno::NOSPC, later: Later::Fail },
            Fault::Stopped => Plan::CrashAt { class, op },
        }
    }

    /// Whether a command may end like this. Once stopped, reading fails too, which the database may take for damage.
    fn excuses(self, answer: &Answer) -> bool {
        match self {
            Fault::Refused => answer.code() == 10,
            Fault::Full => answer.code() == 8,
            Fault::Stopped => [7, 10].contains(&answer.code()),
        }
    }
}

/// One command on one store, and the two states it may leave.
struct Scene {
    command: String,
    words: Vec<String>,
    store: PathBuf,
    old: Facts,
    new: Facts,
    /// How the command ends when it is run once more after it succeeded.
    repeated: i32,
}

impl Scene {
    fn new(props: &Props, store: PathBuf, command: &str, repeated: i32) -> Scene {
        let (words, place) = (props.words(command), scratch());
        let copy = place.path().join("store");
        if store.exists() {
            copy_folder(&store, &copy);
        }
        let old = look(&copy).unwrap().facts;
        let answer = run(&copy, &words);
        assert_eq!(answer.code(), 0, "{command}: {}", answer.stderr);
        let new = look_at_sound(&copy).unwrap().facts;
        assert_ne!(old, new, "{command}");
        Scene { command: command.to_owned(), words, store, old, new, repeated }
    }

    /// What is wrong with what the command left, if anything.
    fn judge(&self, store: &Path, answer: &Answer, excused: bool) -> Result<(), String> {
        let left = look_at_sound(store)?.facts;
        let (is_old, is_new) = (is_in_state(&left, &self.old), is_in_state(&left, &self.new));
        if !is_old && !is_new {
            return Err(format!("neither old nor new: {left:#?}"));
        }
        match answer.code() {
            0 if !is_new => return Err("success was told, but nothing done".into()),
            0 => {}
            _ if !excused => return Err("it ended in a way that no error has".into()),
            _ => {}
        }
        let again = run(store, &self.words);
        let expected = if is_old { 0 } else { self.repeated };
        if again.code() != expected {
            let (code, stderr) = (again.code(), again.stderr);
            return Err(format!("once more it ends with {code} instead of {expected}: {stderr}"));
        }
        match look_at_sound(store)?.facts {
            left if is_in_state(&left, &self.new) => Ok(()),
            left => Err(format!("once more it left {left:#?}")),
        }
    }

    /// Plays the scene with one thing going wrong.
    fn play(&self, plan: Plan, excuses: impl Fn(&Answer) -> bool) -> Option<Result<(), String>> {
        let stage = Stage::over(&self.store)?;
        stage.layer.set_plan(plan);
        let answer = run(&stage.store(), &self.words);
        let (store, _dir) = stage.leave();
        let judged = self.judge(&store, &answer, excuses(&answer));
        Some(judged.map_err(|complaint| {
            let (code, stderr) = (answer.code(), answer.stderr.trim());
            format!("{} with {plan:?} (exit {code}: {stderr}): {complaint}", self.command)
        }))
    }
}

fn run(store: &Path, words: &[String]) -> Answer {
    silt(store, &words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// All steps where they are few, or `SILT_EVERY_STEP` is set, else some of the first and each of the last.
fn chosen(steps: u64) -> Vec<u64> {
    if steps <= LAST_STEPS + SPREAD_STEPS || std::env::var_os("SILT_EVERY_STEP").is_some() {
        return (0..steps).collect();
    }
    let first_of_last = steps.saturating_sub(LAST_STEPS);
    let spread = first_of_last.div_ceil(SPREAD_STEPS).max(1) as usize;
    (0..first_of_last).step_by(spread).chain(first_of_last..steps).collect()
}

/// Plays a command with everything going wrong at each step, and with a disk that fills up.
fn every_step(store: fn(&Props) -> PathBuf, command: &str, repeated: i32) {
    every_step_with(Props::new(), store, command, repeated);
}

/// The same from a store with history.
fn every_step_later(command: &str, repeated: i32) {
    every_step_with(Props::with_history(), Props::store, command, repeated);
}

fn every_step_with(props: Props, store: fn(&Props) -> PathBuf, command: &str, repeated: i32) {
    let scene = Scene::new(&props, store(&props), command, repeated);
    let Some(stage) = Stage::over(&scene.store) else { return };
    stage.layer.set_plan(Plan::NoSpaceAfter { bytes: 1 << 30 });
    let answer = run(&stage.store(), &scene.words);
    assert_eq!(answer.code(), 0, "{}", answer.stderr);
    let steps = stage.layer.op_count(OpClass::Any);
    assert!(steps > 10, "{command}: {steps}");
    drop(stage);
    let mut complaints = Vec::new();
    let mut played = 0;
    let mut play = |plan, excuses: &dyn Fn(&Answer) -> bool| {
        played += 1;
        complaints.extend(scene.play(plan, excuses).and_then(Result::err));
    };
    for fault in [Fault::Refused, Fault::Full, Fault::Stopped] {
        for op in chosen(steps) {
            play(fault.at(op), &|answer| fault.excuses(answer));
        }
    }
    for pages in (0..16).chain([20, 30, 40, 50, 60, 80, 100]) {
        play(Plan::NoSpaceAfter { bytes: pages * 4096 }, &|answer| Fault::Full.excuses(answer));
    }
    println!("{command}: {steps} steps, {played} runs");
    let count = complaints.len();
    assert!(complaints.is_empty(), "{count} of {played}:\n{}", complaints.join("\n"));
}

#[test]
fn fuse_the_first_build_is_whole_or_absent_whatever_step_it_ends_at() {
    every_step(Props::nothing, "build one base --size 1M", 4);
}

#[test]
fn fuse_a_build_is_whole_or_absent_whatever_step_it_ends_at() {
    every_step(Props::store, "build two other --size 1M", 4);
}

#[test]
fn fuse_a_replacing_build_leaves_the_old_image_or_the_new() {
    every_step(Props::store, "build two base --size 1M --replace", 0);
}

#[test]
fn fuse_a_clone_of_an_image_is_whole_or_absent_whatever_step_it_ends_at() {
    every_step(Props::store, "clone base new", 4);
}

#[test]
fn fuse_a_clone_that_freezes_is_whole_or_absent_whatever_step_it_ends_at() {
    every_step(Props::store, "clone used new", 4);
}

#[test]
fn fuse_a_removal_of_an_image_is_whole_or_absent_whatever_step_it_ends_at() {
    every_step(Props::store, "rm base", 3);
}

#[test]
fn fuse_a_removal_of_a_volume_is_whole_or_absent_whatever_step_it_ends_at() {
    every_step(Props::store, "rm parent", 3);
}

#[test]
fn fuse_a_snapshot_is_whole_or_absent_whatever_step_it_ends_at() {
    every_step_later("snapshot kept@b", 4);
}

#[test]
fn fuse_a_seal_changes_no_byte_whatever_step_it_ends_at() {
    every_step_later("seal", 0);
}

#[test]
fn fuse_a_rollback_is_whole_or_absent_whatever_step_it_ends_at() {
    every_step_later("rollback kept@a", 0);
}

#[test]
fn fuse_a_rollback_that_gives_up_is_whole_or_absent_whatever_step_it_ends_at() {
    every_step_later("rollback kept@a --discard", 0);
}

#[test]
fn fuse_a_clone_of_a_snapshot_is_whole_or_absent_whatever_step_it_ends_at() {
    every_step_later("clone kept@a new", 4);
}

#[test]
fn fuse_many_clones_are_all_there_or_none_whatever_step_it_ends_at() {
    every_step_later("clone kept new -n 3", 4);
}

#[test]
fn fuse_a_longer_clone_is_whole_or_absent_whatever_step_it_ends_at() {
    every_step_later("clone kept new --size 3M", 4);
}

#[test]
fn fuse_a_commit_is_whole_or_absent_whatever_step_it_ends_at() {
    every_step_later("commit kept made", 4);
}

#[test]
fn fuse_a_flatten_changes_no_byte_whatever_step_it_ends_at() {
    every_step_later("flatten kept", 0);
}

#[test]
fn fuse_new_bounds_are_set_or_not_whatever_step_it_ends_at() {
    every_step(Props::store, "store limits --quota 9G", 0);
}

#[test]
fn fuse_a_renaming_is_whole_or_absent_whatever_step_it_ends_at() {
    every_step_later("rename kept web", 3);
}

#[test]
fn fuse_a_growth_is_whole_or_absent_whatever_step_it_ends_at() {
    every_step_later("resize kept 2M", 0);
}

#[test]
fn fuse_a_shrinking_is_whole_or_absent_whatever_step_it_ends_at() {
    every_step_later("resize long 1M --shrink", 0);
}

#[test]
fn fuse_a_removal_of_a_snapshot_is_whole_or_absent_whatever_step_it_ends_at() {
    every_step_later("rm kept@a", 3);
}

#[test]
fn fuse_a_removal_of_a_volume_with_snapshots_is_whole_or_absent_whatever_step_it_ends_at() {
    every_step_later("rm kept --recursive", 3);
}

#[test]
fn fuse_a_copied_store_is_whole_or_absent_whatever_step_the_copy_ends_at() {
    every_step_with(Props::with_history(), Props::nothing, "--store STORE store copy DEST", 0);
}

#[test]
fn fuse_an_imported_archive_is_whole_or_absent_whatever_step_it_ends_at() {
    every_step_with(Props::with_history(), Props::nothing, "store import archive", 0);
}

/// Runs a command that nobody sees an effect of with everything going wrong at each of its steps. `judge` is shown what is left,
/// and then what the same command made of that.
fn unseen_at_every_step(
    store: &Path,
    words: &[String],
    excused: &[i32],
    judge: impl Fn(&Path, &str) -> Result<(), String>,
) {
    let Some(stage) = Stage::over(store) else { return };
    stage.layer.set_plan(Plan::NoSpaceAfter { bytes: 1 << 30 });
    assert_eq!(run(&stage.store(), words).code(), 0);
    let steps = stage.layer.op_count(OpClass::Any);
    drop(stage);
    let (mut complaints, mut played) = (Vec::new(), 0);
    for fault in [Fault::Refused, Fault::Full, Fault::Stopped] {
        for op in chosen(steps) {
            let Some(stage) = Stage::over(store) else { return };
            stage.layer.set_plan(fault.at(op));
            let answer = run(&stage.store(), words);
            let (store, _dir) = stage.leave();
            played += 1;
            let judge = || -> Result<(), String> {
                let is_excused = fault.excuses(&answer) || excused.contains(&answer.code());
                if answer.code() != 0 && !is_excused {
                    return Err("it ended in a way that no error has".into());
                }
                judge(&store, "left")?;
                let again = run(&store, words);
                match again.code() {
                    0 => judge(&store, "again"),
                    code => Err(format!("once more it ends with {code}: {}", again.stderr)),
                }
            };
            let (code, stderr) = (answer.code(), answer.stderr.trim());
            let told = |why| format!("{fault:?} at {op} (exit {code}: {stderr}): {why}");
            complaints.extend(judge().err().map(told));
        }
    }
    println!("{words:?}: {steps} steps, {played} runs");
    let count = complaints.len();
    assert!(complaints.is_empty(), "{count} of {played}:\n{}", complaints.join("\n"));
}

/// What was left of an upgrade can be upgraded.
#[test]
fn fuse_an_upgrade_ends_whatever_step_it_was_stopped_at() {
    let place = scratch();
    unpack_golden_store(2, place.path());
    let words: Vec<_> = ["store", "upgrade"].map(str::to_owned).into();
    let (store, copy) = (place.path().join("store"), place.path().join("copy"));
    copy_folder(&store, &copy);
    assert_eq!(run(&copy, &words).code(), 0);
    let facts = look_at_sound(&copy).unwrap().facts;
    unseen_at_every_step(&store, &words, &[], |store, when| match when {
        "left" => Ok(()),
        _ if look_at_sound(store)?.facts == facts => Ok(()),
        _ => Err("something is not what it was".into()),
    });
}

/// A store of which some is to go: a whole pack, half of one, what a snapshot alone had.
fn with_garbage(props: &Props) -> PathBuf {
    let store = props.store();
    for command in ["build two passing --size 1M", "rm passing", "flatten used", "rm base"] {
        let answer = run(&store, &props.words(command));
        assert_eq!(answer.code(), 0, "{command}: {}", answer.stderr);
    }
    store
}

/// A collection changes nothing that anybody can see, whatever happens to it; and the next one ends it.
#[test]
fn fuse_a_collection_loses_nothing_whatever_step_it_ends_at() {
    let (props, place) = (Props::with_history(), scratch());
    let (store, copy) = (with_garbage(&props), place.path().join("store"));
    copy_folder(&store, &copy);
    let words = props.words("gc");
    let answer = run(&copy, &words);
    assert_eq!(answer.code(), 0, "{}", answer.stderr);
    let packs = |store: &Path| std::fs::read_dir(store.join("packs")).unwrap().count();
    assert!(packs(&copy) < packs(&store), "there is something to collect");
    let (facts, left) = (look_at_sound(&store).unwrap().facts, packs(&copy));
    unseen_at_every_step(&store, &words, &[], |store, when| {
        let is_same = look_at_sound(store)?.facts == facts;
        match (is_same, when == "left" || packs(store) <= left + 1) {
            (true, true) => Ok(()),
            (same, small) => Err(format!("{when}: the same {same}, small {small}")),
        }
    });
}

/// A store of which a row of the catalog, the rows of some chunks, the end of a pack and a chunk of a file are damaged. Answers a copy
/// of it from before that, too.
pub(super) fn damaged(props: &Props, place: &Path) -> (PathBuf, PathBuf) {
    let (store, whole) = (props.store(), place.join("whole"));
    // A second pack.
    let answer = run(&store, &props.words("seal kept"));
    assert_eq!(answer.code(), 0, "{}", answer.stderr);
    copy_folder(&store, &whole);
    let database = rusqlite::Connection::open(store.join("catalog.db")).unwrap();
    let sql = "UPDATE image SET size = size + 4096; DELETE FROM chunk WHERE kind = 3";
    database.execute_batch(sql).unwrap();
    drop(database);
    let mut packs: Vec<_> = std::fs::read_dir(store.join("packs")).unwrap().collect();
    packs.sort_by_key(|pack| pack.as_ref().unwrap().metadata().unwrap().len());
    let packs: Vec<PathBuf> = packs.into_iter().map(|pack| pack.unwrap().path()).collect();
    let [small, .., large] = &packs[..] else { panic!("{packs:?}") };
    let len = |pack: &Path| std::fs::metadata(pack).unwrap().len();
    flip_bit(small, len(small) - 30, 3).unwrap();
    flip_bit(large, len(large) / 2, 3).unwrap();
    (store, whole)
}

/// What was left of a repair can be repaired, whatever happened to it.
#[test]
fn fuse_a_repair_ends_whatever_step_it_was_stopped_at() {
    let (props, place) = (Props::with_history(), scratch());
    let (store, whole) = damaged(&props, place.path());
    let facts = look_at_sound(&whole).unwrap().facts;
    let words = ["verify", "--repair", "--from", whole.to_str().unwrap()].map(str::to_owned);
    // What could not be looked for is still damaged.
    unseen_at_every_step(&store, &words, &[7], |store, when| match when {
        "left" => Ok(()),
        _ if look_at_sound(store)?.facts == facts => Ok(()),
        _ => Err("something is not what it was".into()),
    });
}
