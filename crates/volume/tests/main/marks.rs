//! Whatever a power cut leaves: what goes by a mark that somebody was told of is what was told.

use crate::durability::{Mounted, SIZE, create};
use silt_testkit::fault::{Limits, Model};
use silt_volume::{BlockDevice as _, Volume, WriteMark};
use std::path::Path;

const BLOCK: usize = 4096;

fn open(dir: &Path) -> Volume {
    super::open(dir, SIZE as u64).unwrap()
}

fn content(volume: &Volume) -> Vec<u8> {
    let mut bytes = vec![0xee; SIZE];
    volume.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// States that were told, in order, and what was there.
fn play(mounted: &Mounted) -> Vec<(WriteMark, Vec<u8>)> {
    let mut told = Vec::new();
    let mut volume = open(&mounted.delta());
    let mut tell = |volume: &Volume| {
        let mark = volume.settle().unwrap();
        told.push((mark, content(volume)));
        mounted.layer.mark(&told.len().to_string());
    };
    tell(&volume);
    for round in 1..=8 {
        // Over what is there already, into new blocks, away from some: with a flush between or without.
        volume.write_at(&[round; 512], 5 * BLOCK as u64).unwrap();
        match round {
            2 | 5 => volume.flush().unwrap(),
            3 => volume.discard(5 * BLOCK as u64, BLOCK as u64).unwrap(),
            4 => volume.write_at(&[round; BLOCK], u64::from(round) * 9 * BLOCK as u64).unwrap(),
            // As a kill leaves it.
            6 => volume = open_again(volume, mounted),
            7 => {
                volume.close().unwrap();
                volume = open_again(volume, mounted);
            }
            _ => {}
        }
        tell(&volume);
        tell(&volume);
        if round == 8 {
            volume.write_at(&[99; BLOCK], 0).unwrap();
        }
    }
    told
}

fn open_again(volume: Volume, mounted: &Mounted) -> Volume {
    drop(volume);
    open(&mounted.delta())
}

#[test]
fn fuse_after_every_power_cut_what_goes_by_a_mark_is_what_was_told_of_it() {
    let Some(mounted) = Mounted::new() else { return };
    mounted.layer.start_recording().unwrap();
    create(&mounted.delta()).unwrap();
    mounted.layer.mark("0");
    let told = play(&mounted);
    assert!(told.iter().all(|(mark, bytes)| {
        told.iter().all(|(other, others)| mark != other || bytes == others)
    }));
    let recording = mounted.layer.take_recording().unwrap();
    for model in [Model::Posix, Model::Ext4] {
        let limits = Limits { states: 300, seed: 7 };
        let (mut seen, mut met) = (0, 0);
        for state in recording.states(model, &limits) {
            let Some(answered) = state.marks().last() else { continue };
            seen += 1;
            let temp = tempfile::tempdir_in(mounted.temp.path()).unwrap();
            state.materialize(temp.path()).unwrap();
            let volume = open(&temp.path().join("delta"));
            let mark = volume.newest_mark().unwrap();
            let found = content(&volume);
            let place = format!("{}: {mark:?} after {answered}\n{}", state.cut(), state.story(30));
            // Of what was to be told after the cut nobody knows.
            let told = &told[..answered.parse::<usize>().unwrap()];
            for (_, bytes) in told.iter().filter(|(told, _)| *told == mark) {
                assert!(found == *bytes, "other bytes by a mark that was told, {place}");
                met += 1;
            }
            // What was told is not forgotten.
            if let Some((last, _)) = told.last() {
                assert!(mark.generation >= last.generation, "{place}");
            }
        }
        println!("{model:?}: {seen} states, {met} of them told");
        assert!(met > 20);
    }
}
