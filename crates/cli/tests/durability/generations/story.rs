//! Stories: what happens to a few volumes in the course of a scenario, drawn by proptest from a seed.
//!
//! A step names disks by a number, which is taken modulo those that there are when its turn comes: so every story can be
//! played, and a shorter one is a story too.

use proptest::{
    collection::vec,
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

/// The fewest and the most steps of a story.
const STEPS: std::ops::Range<usize> = 14..26;
/// Sectors that most requests fall on, so that they meet.
const HOT_SECTORS: u64 = 128;
/// The longest request, in sectors.
const REQUEST_SECTORS_MAX: u64 = 40;

/// Picks one of the disks that there are.
pub(super) type Pick = usize;

/// Where a request falls, in sectors of 512 bytes; both are cut to the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) at: u64,
    pub(super) len: u64,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Write {
        volume: Pick,
        place: Place,
        fua: bool,
    },
    Zero {
        volume: Pick,
        place: Place,
        keeps_space: bool,
    },
    Trim {
        volume: Pick,
        place: Place,
    },
    Flush(Pick),
    /// The server ends.
    Close(Pick),
    /// The server is killed: what it had not flushed is in the page cache.
    Kill(Pick),
    Snapshot(Pick),
    Rollback {
        snapshot: Pick,
        discard: bool,
    },
    Clone {
        source: Pick,
        count: usize,
    },
    Commit(Pick),
    Flatten(Pick),
    Seal,
    /// By a process of its own, while the story goes on.
    SealBehind,
    /// By so many sectors.
    Grow {
        volume: Pick,
        sectors: u64,
    },
    /// To so many blocks less.
    Shrink {
        volume: Pick,
        blocks: u64,
    },
    Rename(Pick),
    Remove(Pick),
}

/// The story of a seed.
pub(super) fn story(seed: u64) -> Vec<Step> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let pieces = prop_oneof![9 => step().prop_map(|step| vec![step]), 1 => left_behind()];
    vec(pieces, STEPS).new_tree(&mut runner).unwrap().current().concat()
}

/// Blocks that were flushed are written again, a killed server leaves them so, and then they are frozen.
fn left_behind() -> impl Strategy<Value = Vec<Step>> {
    let freeze = |volume| prop_oneof![Just(Step::Snapshot(volume)), Just(Step::Flatten(volume))];
    let all = any::<Pick>().prop_flat_map(move |volume| (Just(volume), place(), freeze(volume)));
    all.prop_map(|(volume, place, freeze)| {
        let write = Step::Write { volume, place, fua: false };
        vec![write.clone(), Step::Flush(volume), write, Step::Kill(volume), freeze]
    })
}

fn place() -> impl Strategy<Value = Place> {
    let at = prop_oneof![4 => 0..HOT_SECTORS, 1 => 0..1u64 << 20];
    let len = prop_oneof![1 => 1..8u64, 2 => 1..=REQUEST_SECTORS_MAX];
    let aligned = |(at, len, is_aligned): (u64, u64, bool)| match is_aligned {
        true => Place { at: at / 8 * 8, len: len.next_multiple_of(8) },
        false => Place { at, len },
    };
    (at, len, any::<bool>()).prop_map(aligned)
}

fn step() -> impl Strategy<Value = Step> {
    let pick = any::<Pick>;
    let write = (pick(), place(), prop::bool::weighted(0.2))
        .prop_map(|(volume, place, fua)| Step::Write { volume, place, fua });
    let zero = (pick(), place(), any::<bool>())
        .prop_map(|(volume, place, keeps_space)| Step::Zero { volume, place, keeps_space });
    let trim = (pick(), place()).prop_map(|(volume, place)| Step::Trim { volume, place });
    let rollback = (pick(), any::<bool>())
        .prop_map(|(snapshot, discard)| Step::Rollback { snapshot, discard });
    let clone = (pick(), 1..3usize).prop_map(|(source, count)| Step::Clone { source, count });
    let grow = (pick(), 1..600u64).prop_map(|(volume, sectors)| Step::Grow { volume, sectors });
    let shrink = (pick(), 1..80u64).prop_map(|(volume, blocks)| Step::Shrink { volume, blocks });
    let guest = prop_oneof![
        8 => write,
        3 => zero,
        2 => trim,
        3 => pick().prop_map(Step::Flush),
        1 => pick().prop_map(Step::Close),
        2 => pick().prop_map(Step::Kill),
    ];
    let command = prop_oneof![
        6 => pick().prop_map(Step::Snapshot),
        3 => rollback,
        3 => clone,
        1 => pick().prop_map(Step::Commit),
        1 => pick().prop_map(Step::Flatten),
        2 => Just(Step::Seal),
        2 => Just(Step::SealBehind),
        2 => grow,
        1 => shrink,
        1 => pick().prop_map(Step::Rename),
        2 => pick().prop_map(Step::Remove),
    ];
    prop_oneof![3 => guest, 2 => command]
}
