//! Power cuts through generations: drawn stories of volumes that are written, kept, gone back to, cloned, sealed, grown
//! and removed, and every name compared with a model of what it may hold after a crash.
//!
//! Stories are played with the real command, states are opened with the engine in this process. A complaint tells the seed, the story and the
//! state; `SILT_CRASH_SEED` plays one seed again, with more of its states. What runs beside the story, a sealer and the threads of a
//! seal, may come in another order then; the story is the same.
//!
//! Where to look next: `story` for what happens, `player` for how, `world` for the model, `judge` for what is asked of
//! a state, `planted` for bugs that must be found.

mod judge;
mod planted;
mod player;
mod story;
mod world;

use super::power::every_state;
use player::{Beginning, Played, play};
use std::{
    env,
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};
use story::{Place, Step};
use world::Stamp;

/// States looked at in all, unless `SILT_STORY_STATES` says otherwise.
const STATES: usize = 6_000;
/// Of each story, in each of two models of the file system.
const STATES_OF_STORY: usize = 250;
/// The same where one seed is looked at.
const STATES_OF_SEED: usize = 4 * STATES_OF_STORY;
/// Stories that may be played for all the states; each gives some 500.
const SEEDS_MAX: u64 = 80;

/// States of a story that is written down here.
const STATES_OF_TOLD: usize = 400;

/// Plays the story of a seed and looks at its states. Answers how many, and what is wrong.
fn look_at(beginning: &Beginning, seed: u64, states: usize) -> Option<(usize, Vec<String>)> {
    let story = story::story(seed);
    let played = play(beginning, &story)?;
    Some(look_at_states(beginning, &played, states))
}

fn look_at_states(beginning: &Beginning, played: &Played, states: usize) -> (usize, Vec<String>) {
    every_state(&played.recording, states, |state, store| played.judge(beginning, state, store))
}

fn complain(seed: u64, complaints: &[String]) -> String {
    let command = "cargo test -q -p siltstone --test main -- durability::generations";
    let few = complaints[..complaints.len().min(3)].join("\n");
    format!("SILT_CRASH_SEED={seed} {command}\n{} complaints, such as:\n{few}", complaints.len())
}

#[test]
fn fuse_thousands_of_power_cuts_leave_every_name_as_the_model_has_it() {
    let beginning = Beginning::new();
    let given = env::var("SILT_CRASH_SEED").ok();
    if let Some(seed) = given.map(|seed| seed.parse().expect("SILT_CRASH_SEED is a number")) {
        let Some((count, complaints)) = look_at(&beginning, seed, STATES_OF_SEED) else { return };
        story::story(seed).iter().for_each(|step| println!("{step:?}"));
        println!("{count} states of seed {seed}");
        assert!(complaints.is_empty(), "{}", complain(seed, &complaints));
        return;
    }
    let wanted = env::var("SILT_STORY_STATES").ok().and_then(|wanted| wanted.parse().ok());
    let wanted = wanted.unwrap_or(STATES);
    let (next, count, failed) = (AtomicU64::new(1), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while count.load(SeqCst) < wanted && failed.lock().unwrap().is_empty() {
            let seed = next.fetch_add(1, SeqCst);
            if seed > SEEDS_MAX {
                return;
            }
            let Some((states, complaints)) = look_at(&beginning, seed, STATES_OF_STORY) else {
                return;
            };
            count.fetch_add(states, SeqCst);
            if !complaints.is_empty() {
                failed.lock().unwrap().push(complain(seed, &complaints));
            }
        }
    };
    thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    let (count, stories) = (count.into_inner(), next.into_inner() - 1);
    println!("{count} states of {stories} stories");
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    if silt_testkit::fault::FaultFs::unavailable().is_none() {
        assert!(count >= wanted, "{count}");
    }
}

/// What was written, kept, zeroed, kept, cloned, served again and grown reads as zero for ever, and so does what is added
/// after something was cut off.
#[test]
fn fuse_zero_stays_zero_through_every_generation_and_every_power_cut() {
    let place = |at, len| Place { at, len };
    let write = |volume, at, len| Step::Write { volume, place: place(at, len), fua: false };
    let trim = |volume, at, len| Step::Trim { volume, place: place(at, len) };
    let zero = |volume, at, len| Step::Zero { volume, place: place(at, len), keeps_space: false };
    // The names are base, one, two, and in the order of the steps one@s3, one@s4, v5-1 and snapshots of it.
    let story = [
        write(0, 0, 64),
        Step::Snapshot(0),
        zero(0, 3, 30),
        trim(0, 40, 16),
        Step::Snapshot(0),
        Step::Clone { source: 3, count: 1 },
        write(2, 60, 8),
        Step::Close(2),
        zero(2, 56, 4),
        Step::Grow { volume: 2, sectors: 80 },
        write(2, 2100, 20),
        Step::Flush(2),
        Step::Seal,
        Step::Snapshot(2),
        trim(2, 2096, 32),
        Step::Close(2),
        Step::Shrink { volume: 2, blocks: 10 },
        Step::Grow { volume: 2, sectors: 80 },
        Step::Rollback { snapshot: 1, discard: false },
        Step::Seal,
    ];
    let beginning = Beginning::new();
    let Some(played) = play(&beginning, &story) else { return };
    let end = &played.moments.last().unwrap().after;
    let zeroed = ["one", "one@s4"].map(|name| &end[name].now).into_iter();
    let zeroed =
        zeroed.chain(end.iter().filter(|(name, _)| name.starts_with('v')).map(|e| &e.1.now));
    let ranges = [3..33, 40..56];
    let is_zero =
        |now: &Vec<Stamp>| ranges.iter().all(|range| now[range.clone()].iter().all(|s| *s == 0));
    assert!(zeroed.clone().count() >= 4 && zeroed.clone().all(is_zero));
    assert!(end["one@s3"].now[..64].iter().all(|stamp| *stamp == end["one@s3"].now[0]));
    let (count, complaints) = look_at_states(&beginning, &played, STATES_OF_TOLD);
    println!("{count} states");
    assert!(complaints.is_empty(), "{}:\n{}", complaints.len(), complaints[0]);
}
