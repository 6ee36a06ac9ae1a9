//! Power cuts in the middle of commands: what was answered is there, what was not is there whole or not at all.

use super::{
    facts::{Facts, is_in_state, look_at_sound},
    scenes::Props,
    stage::{Stage, copy_folder, scratch, silt, silt_ok},
    steps::damaged,
};
use crate::silt::unpack_golden_store;
use silt_engine::{Elsewhere, repair_store, upgrade_store};
use silt_testkit::fault::{FileId, Limits, Model, Op, PowerState, Recording};
use silt_types::NoProgress;
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

/// States looked at of each recording, in each model, unless `SILT_POWER_STATES` says otherwise.
const STATES: usize = 160;
/// Enough to meet a forgotten fsync.
const STATES_PLANTED: usize = 60;

/// The last marks are told of a state that is complained of.
const MARKS_TOLD: usize = 6;

fn states() -> usize {
    let told = std::env::var("SILT_POWER_STATES").ok();
    told.and_then(|told| told.parse().ok()).unwrap_or(STATES)
}

/// Looks at states of a recording. Answers how many, and the complaints.
pub(crate) fn every_state(
    recording: &Recording,
    states: usize,
    judge: impl Fn(&PowerState<'_>, &Path) -> Result<(), String>,
) -> (usize, Vec<String>) {
    let (place, mut count, mut complaints) = (scratch(), 0, Vec::new());
    for model in [Model::Posix, Model::Ext4] {
        for state in recording.states(model, &Limits { states, seed: 11 }) {
            count += 1;
            let folder = place.path().join(count.to_string());
            state.materialize(&folder).unwrap();
            if let Err(complaint) = judge(&state, &folder.join("store")) {
                let marks: Vec<_> = state.marks().collect();
                let marks = &marks[marks.len().saturating_sub(MARKS_TOLD)..];
                let (cut, story) = (state.cut(), state.story(25));
                complaints.push(format!("{cut} after {marks:?}: {complaint}\n{story}"));
            }
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }
    (count, complaints)
}

/// Commands under a recording, with a mark at each answer, and the facts before and after each.
struct Play {
    recording: Recording,
    facts: Vec<Facts>,
}

impl Play {
    fn new(props: &Props, store: PathBuf, commands: &[&str]) -> Option<Play> {
        let (stage, place) = (Stage::over(&store)?, scratch());
        let copy = place.path().join("store");
        if store.exists() {
            copy_folder(&store, &copy);
        }
        let mut facts = vec![look_at_sound(&copy).unwrap().facts];
        stage.layer.start_recording().unwrap();
        for command in commands {
            let words = props.words(command);
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            silt_ok(&copy, &words);
            facts.push(look_at_sound(&copy).unwrap().facts);
            let answer = silt(&stage.store(), &words);
            assert_eq!(answer.code(), 0, "{command}: {}", answer.stderr);
            stage.layer.mark(command);
        }
        Some(Play { recording: stage.layer.take_recording().unwrap(), facts })
    }

    /// The state is the last one that was answered, or the next.
    fn judge(&self, state: &PowerState<'_>, store: &Path) -> Result<(), String> {
        let answered = state.marks().count();
        let left = look_at_sound(store)?.facts;
        let next = self.facts.get(answered + 1);
        let is_next = next.is_some_and(|next| is_in_state(&left, next));
        if is_next || is_in_state(&left, &self.facts[answered]) {
            Ok(())
        } else {
            Err(format!("{answered} commands were answered, but there is {left:#?}"))
        }
    }

    fn survives_every_cut(&self) {
        let judge = |state: &PowerState<'_>, store: &Path| self.judge(state, store);
        let (count, complaints) = every_state(&self.recording, states(), judge);
        println!("{count} states of {} operations", self.recording.ops().len());
        assert!(count > STATES, "{count}");
        let (bad, text) = (complaints.len(), complaints.join("\n"));
        assert!(complaints.is_empty(), "{bad} of {count}:\n{text}");
    }
}

const BUILDS: [&str; 5] = [
    "build one base --size 1M",
    "clone base vm",
    "build two base --size 1M --replace",
    "build one other --size 1M",
    "rm other",
];

#[test]
fn fuse_power_cuts_lose_no_answered_build_clone_or_removal() {
    let props = Props::new();
    let Some(play) = Play::new(&props, props.nothing(), &BUILDS) else { return };
    play.survives_every_cut();
}

#[test]
fn fuse_power_cuts_while_a_store_is_made_leave_a_store_or_none() {
    let props = Props::new();
    let Some(play) = Play::new(&props, props.nothing(), &BUILDS[..1]) else { return };
    play.survives_every_cut();
}

#[test]
fn fuse_power_cuts_lose_no_answered_clone_of_a_written_volume() {
    let props = Props::new();
    let commands = ["clone used copy", "rm used", "clone child second", "rm parent", "rm child"];
    let Some(play) = Play::new(&props, props.store(), &commands) else { return };
    play.survives_every_cut();
}

#[test]
fn fuse_power_cuts_lose_no_answered_snapshot_rollback_or_clone_of_one() {
    let props = Props::with_history();
    let commands = [
        "snapshot used@a",
        "rollback kept@a",
        "snapshot kept@b",
        "clone kept@b new -n 3",
        "rename kept@b kept@c",
        "rollback kept@before-rollback-1 --discard",
        "rm kept@a",
        "rename kept web",
        "rm web --recursive",
    ];
    let Some(play) = Play::new(&props, props.store(), &commands) else { return };
    play.survives_every_cut();
}

#[test]
fn fuse_power_cuts_lose_nothing_by_a_collection() {
    let props = Props::with_history();
    let commands = [
        "build two other --size 1M",
        "rm base",
        "flatten used",
        "gc",
        "rm other",
        "rm kept --recursive",
        "gc",
        "build two again --size 1M",
        "rm used",
        "gc",
    ];
    let Some(play) = Play::new(&props, props.store(), &commands) else { return };
    play.survives_every_cut();
}

/// Records a command on a store, and looks at what is left with every cut: the same command once more, in this process, ends it.
fn ends_after_every_cut(
    store: &Path,
    words: &[&str],
    facts: &Facts,
    again: impl Fn(&Path) -> silt_types::Result<()>,
) {
    let Some(stage) = Stage::over(store) else { return };
    stage.layer.start_recording().unwrap();
    let answer = silt(&stage.store(), words);
    assert_eq!(answer.code(), 0, "{words:?}: {}", answer.stderr);
    let recording = stage.layer.take_recording().unwrap();
    let judge = |_: &PowerState<'_>, store: &Path| {
        again(store).map_err(|error| format!("once more: {error:?}"))?;
        match look_at_sound(store)?.facts == *facts {
            true => Ok(()),
            false => Err("something is not what it was".to_owned()),
        }
    };
    let (count, complaints) = every_state(&recording, states(), judge);
    println!("{words:?}: {count} states of {} operations", recording.ops().len());
    let (bad, text) = (complaints.len(), complaints.join("\n"));
    assert!(complaints.is_empty(), "{bad} of {count}:\n{text}");
}

#[test]
fn fuse_power_cuts_lose_nothing_by_a_repair() {
    let (props, place) = (Props::with_history(), scratch());
    let (store, whole) = damaged(&props, place.path());
    let facts = look_at_sound(&whole).unwrap().facts;
    let words = ["verify", "--repair", "--from", whole.to_str().unwrap()];
    ends_after_every_cut(&store, &words, &facts, |store| {
        repair_store(store, &[Elsewhere::Store(whole.clone())], false, &NoProgress).map(drop)
    });
}

#[test]
fn fuse_power_cuts_lose_nothing_by_an_upgrade() {
    let place = scratch();
    unpack_golden_store(2, place.path());
    let (store, copy) = (place.path().join("store"), place.path().join("copy"));
    copy_folder(&store, &copy);
    silt_ok(&copy, &["store", "upgrade"]);
    let facts = look_at_sound(&copy).unwrap().facts;
    let again = |store: &Path| upgrade_store(store).map(drop);
    ends_after_every_cut(&store, &["store", "upgrade"], &facts, again);
}

#[test]
fn fuse_power_cuts_lose_no_answered_seal_commit_longer_clone_or_resize() {
    let props = Props::with_history();
    let commands = [
        "resize kept 2M",
        "snapshot kept@b",
        "seal parent",
        "commit kept made",
        "clone used longer --size 3M",
        "flatten used",
        "resize long 1M --shrink",
        "seal",
    ];
    let Some(play) = Play::new(&props, props.store(), &commands) else { return };
    play.survives_every_cut();
}

#[test]
fn fuse_power_cuts_lose_no_answered_copy_or_import() {
    let props = Props::with_history();
    let commands = [
        "--store STORE store copy DEST base kept",
        "--store STORE store copy DEST",
        "rm kept --recursive",
        "store import archive",
    ];
    let Some(play) = Play::new(&props, props.nothing(), &commands) else { return };
    play.survives_every_cut();
}

/// The files that were made under a name that `is_one` says.
pub(crate) fn files_named(recording: &Recording, is_one: impl Fn(&str) -> bool) -> HashSet<FileId> {
    let made = recording.ops().iter().filter_map(|op| match op {
        Op::Create { at, file, .. } if is_one(&at.name.to_string_lossy()) => Some(*file),
        _ => None,
    });
    made.collect()
}

/// The recording of a program that forgot to sync these files.
pub(crate) fn without_syncs_of(recording: &Recording, files: &HashSet<FileId>) -> Recording {
    recording.without(|op| matches!(op, Op::Fsync { file, .. } if files.contains(file)))
}

#[test]
fn fuse_a_build_that_forgets_to_sync_its_pack_is_caught() {
    let props = Props::new();
    let Some(play) = Play::new(&props, props.nothing(), &BUILDS[..2]) else { return };
    let packs = files_named(&play.recording, |name| name.ends_with(".tmp") && name.len() == 69);
    assert_eq!(packs.len(), 1, "one build, one pack");
    let planted = Play { recording: without_syncs_of(&play.recording, &packs), facts: play.facts };
    let judge = |state: &PowerState<'_>, store: &Path| planted.judge(state, store);
    let (count, complaints) = every_state(&planted.recording, STATES_PLANTED, judge);
    println!("{} of {count} states complain", complaints.len());
    assert!(!complaints.is_empty());
}

#[test]
fn fuse_a_store_that_forgets_to_sync_its_names_is_caught() {
    let props = Props::new();
    let Some(play) = Play::new(&props, props.nothing(), &BUILDS[..1]) else { return };
    let is_folder = |op: &Op| matches!(op, Op::FsyncDir { .. });
    let planted = Play { recording: play.recording.without(is_folder), facts: play.facts };
    let judge = |state: &PowerState<'_>, store: &Path| planted.judge(state, store);
    let (count, complaints) = every_state(&planted.recording, STATES_PLANTED, judge);
    println!("{} of {count} states complain", complaints.len());
    assert!(!complaints.is_empty());
}

#[test]
fn fuse_a_catalog_that_forgets_to_sync_its_log_is_caught() {
    let props = Props::new();
    let commands = ["clone base new", "rm used"];
    let Some(play) = Play::new(&props, props.store(), &commands) else { return };
    let logs = files_named(&play.recording, |name| name == "catalog.db-wal");
    assert!(!logs.is_empty());
    let planted = Play { recording: without_syncs_of(&play.recording, &logs), facts: play.facts };
    let judge = |state: &PowerState<'_>, store: &Path| planted.judge(state, store);
    let (count, complaints) = every_state(&planted.recording, STATES_PLANTED, judge);
    println!("{} of {count} states complain", complaints.len());
    assert!(!complaints.is_empty());
}
