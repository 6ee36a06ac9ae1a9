//! Bugs that these tests must find: a sync that is left out, two steps in the other order. Each is planted in the
//! recording of a story that is in order without it.

use super::{
    super::power::files_named,
    look_at_states,
    player::{Beginning, Played, play},
    story::{Place, Step},
};
use silt_testkit::fault::{FileId, Made, Op, Recording};
use std::{collections::HashSet, ops::Range};

/// Enough to meet each of the bugs.
const STATES: usize = 200;

/// A volume that is written, kept while it is served, written on, and sealed.
fn told() -> Option<(Beginning, Played)> {
    played(&[
        write(0, 64),
        Step::Flush(0),
        write(8, 64),
        Step::Snapshot(0),
        write(4, 40),
        Step::Flush(0),
        Step::Seal,
        write(48, 8),
        Step::Flush(0),
        // Time in which what the last flush answered must be there.
        Step::Rename(0),
        Step::Close(0),
    ])
}

fn write(at: u64, len: u64) -> Step {
    Step::Write { volume: 0, place: Place { at, len }, fua: false }
}

fn played(story: &[Step]) -> Option<(Beginning, Played)> {
    let beginning = Beginning::new();
    let played = play(&beginning, story)?;
    Some((beginning, played))
}

/// From the mark at which the last such step begins to the one at which it ends.
fn span(recording: &Recording, step: &str) -> Range<usize> {
    let at = |word: &str| {
        let is_it = |op: &Op| matches!(op, Op::Mark { label } if label.starts_with(word));
        recording.ops().iter().rposition(is_it).unwrap()
    };
    at(&format!("begin {step}"))..at(&format!("end {step}"))
}

/// Whether the bug that `plant` makes of a recording is seen.
fn must_be_found(what: &str, told: &(Beginning, Played), plant: impl Fn(&Recording) -> Recording) {
    let (beginning, played) = told;
    let planted = Played { recording: plant(&played.recording), moments: played.moments.clone() };
    let (count, complaints) = look_at_states(beginning, &planted, STATES);
    assert!(!complaints.is_empty(), "{what} is not found");
    let first = complaints[0].lines().next().unwrap();
    println!("{what}: {} of {count} states complain, such as {first}", complaints.len());
}

/// The recording without the syncs of some files while a step is under way.
fn forgetting(recording: &Recording, step: &str, files: &HashSet<FileId>) -> Recording {
    let (span, mut number) = (span(recording, step), 0..);
    let mut forgotten = 0;
    let left = recording.without(|op| {
        let is_within = span.contains(&number.next().unwrap());
        let is_it = matches!(op, Op::Fsync { file, .. } if is_within && files.contains(file));
        forgotten += usize::from(is_it);
        is_it
    });
    assert!(forgotten > 0, "{step} syncs none of these files");
    left
}

/// The files of a name that were made while a step was under way, or before.
fn made(recording: &Recording, step: &str, name: &str, is_within: bool) -> HashSet<FileId> {
    let span = span(recording, step);
    let ops = if is_within { span } else { 0..span.start };
    let made = recording.ops()[ops].iter().filter_map(|op| match op {
        Op::Create { at, file, .. } if at.name.to_string_lossy().contains(name) => Some(*file),
        _ => None,
    });
    made.collect()
}

/// Folders of volumes, and all that was made in them.
fn below_volumes(recording: &Recording) -> HashSet<FileId> {
    let mut all = HashSet::new();
    for op in recording.ops() {
        if let Op::Create { at, file, made, .. } = op
            && (all.contains(&at.dir) || *made == Made::Dir && at.name.len() == 32)
        {
            all.insert(*file);
        }
    }
    all
}

fn touches(op: &Op, files: &HashSet<FileId>) -> bool {
    match op {
        Op::Write { file, .. }
        | Op::Truncate { file, .. }
        | Op::Fallocate { file, .. }
        | Op::SetAttr { file, .. }
        | Op::Fsync { file, .. }
        | Op::FsyncFailed { file } => files.contains(file),
        Op::FsyncDir { dir } => files.contains(dir),
        Op::Create { at, .. } | Op::Link { at, .. } | Op::Unlink { at } | Op::Rmdir { at } => {
            files.contains(&at.dir)
        }
        Op::Rename { to, .. } => files.contains(&to.dir),
        Op::Mark { .. } => false,
    }
}

#[test]
fn fuse_a_story_without_a_planted_bug_is_in_order() {
    let Some((beginning, played)) = told() else { return };
    let (count, complaints) = look_at_states(&beginning, &played, STATES);
    assert!(count > STATES && complaints.is_empty(), "{count}: {complaints:#?}");
}

#[test]
fn fuse_a_rotation_that_forgets_to_sync_the_new_delta_is_caught() {
    let Some(told) = told() else { return };
    must_be_found("the record of the new delta", &told, |recording| {
        forgetting(recording, "snapshot", &made(recording, "snapshot", "map.log", true))
    });
}

#[test]
fn fuse_a_rotation_that_forgets_to_sync_the_volumes_header_is_caught() {
    let Some(told) = told() else { return };
    must_be_found("the header of the volume", &told, |recording| {
        forgetting(recording, "snapshot", &made(recording, "snapshot", "header", true))
    });
}

#[test]
fn fuse_a_rotation_that_forgets_to_sync_the_frozen_delta_is_caught() {
    let Some(told) = told() else { return };
    for name in ["map.log", "data.000"] {
        must_be_found(name, &told, |recording| {
            forgetting(recording, "snapshot", &made(recording, "snapshot", name, false))
        });
    }
}

/// What a killed server had written and not flushed becomes durable with the snapshot that has it.
#[test]
fn fuse_a_snapshot_that_forgets_to_sync_what_a_killed_server_left_is_caught() {
    let story = [
        write(0, 64),
        Step::Flush(0),
        write(8, 40),
        Step::Kill(0),
        Step::Snapshot(0),
        Step::Rename(0),
    ];
    let Some(told) = played(&story) else { return };
    must_be_found("the data of the killed server", &told, |recording| {
        forgetting(recording, "snapshot", &made(recording, "snapshot", "data.000", false))
    });
}

#[test]
fn fuse_a_seal_that_forgets_to_sync_its_pack_is_caught() {
    let Some(told) = told() else { return };
    must_be_found("the pack", &told, |recording| {
        let packs = files_named(recording, |name| name.ends_with(".tmp") && name.len() == 69);
        forgetting(recording, "seal", &packs)
    });
}

#[test]
fn fuse_a_flush_that_records_blocks_before_their_data_is_caught() {
    let Some(told) = told() else { return };
    must_be_found("data after the record", &told, |recording| {
        let data = files_named(recording, |name| name == "data.000");
        // The last flush: a shorter file would be noticed by its length.
        let last = span(recording, "(0, 1) one").start..recording.ops().len();
        let is_data = |op: &Op| matches!(op, Op::Write { .. } | Op::Fsync { .. });
        recording.with_last(last, |op| is_data(op) && touches(op, &data))
    });
}

#[test]
fn fuse_a_snapshot_that_is_published_before_the_delta_is_rotated_is_caught() {
    let Some(told) = told() else { return };
    must_be_found("rotation after publication", &told, |recording| {
        let volumes = below_volumes(recording);
        recording.with_last(span(recording, "snapshot"), |op| touches(op, &volumes))
    });
}
