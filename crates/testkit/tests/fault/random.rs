//! Scenes of random operations: the recording and the folder must tell the same story.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FallocateFlags, RenameFlags};
use silt_testkit::fault::{Choice, Limits, Model, PowerCut, Recording};

use super::Mounted;

/// A generator of numbers: xorshift64 (Marsaglia, Xorshift RNGs, 2003).
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn name(&mut self, root: &Path) -> PathBuf {
        let folder = ["", "a", "b"][self.below(3) as usize];
        root.join(folder).join(self.below(4).to_string())
    }
}

/// One operation, on names that may or may not be there: what fails changes nothing.
fn step(root: &Path, draw: &mut Draw) {
    let (one, two) = (draw.name(root), draw.name(root));
    let open = || OpenOptions::new().read(true).write(true).open(&one).ok();
    let (at, length) = (draw.below(20_000), draw.below(9000) + 1);
    let allocate = |flags| open().map(|file| rustix::fs::fallocate(&file, flags, at, length));
    match draw.below(14) {
        0..=3 => {
            let bytes = vec![draw.below(255) as u8 + 1; length as usize];
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&one);
            drop(file.map(|file| file.write_all_at(&bytes, at)));
        }
        4 => drop(open().map(|file| file.set_len(at))),
        5 => drop(allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)),
        6 => drop(allocate(FallocateFlags::ZERO_RANGE)),
        7 => drop(allocate(FallocateFlags::empty())),
        8 => drop(fs::rename(&one, &two)),
        9 => drop(rustix::fs::renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE)),
        10 => drop(fs::hard_link(&one, &two)),
        11 => drop(fs::remove_file(&one)),
        12 => drop(open().map(|file| file.sync_data())),
        _ => drop(File::open(one.parent().unwrap()).map(|folder| folder.sync_all())),
    }
}

/// Every file below a folder by name.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let found = silt_testkit::fault::every_file_of(root).unwrap();
    let named =
        |path: PathBuf| (path.strip_prefix(root).unwrap().to_path_buf(), fs::read(path).unwrap());
    found.into_iter().map(named).collect()
}

fn files_of(recording: &Recording, cut: PowerCut) -> BTreeMap<PathBuf, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    recording.state(cut).unwrap().materialize(dir.path()).unwrap();
    files(dir.path())
}

fn sync_everything(root: &Path) {
    for path in silt_testkit::fault::every_file_of(root).unwrap() {
        File::open(path).unwrap().sync_all().unwrap();
    }
    for folder in ["", "a", "b"] {
        File::open(root.join(folder)).unwrap().sync_all().unwrap();
    }
}

#[test]
fn fuse_a_recording_of_anything_rebuilds_the_folder_and_what_was_synced_is_never_lost() {
    let Some(m) = Mounted::new() else { return };
    fs::create_dir(m.at("a")).unwrap();
    fs::create_dir(m.at("b")).unwrap();
    for seed in 1..=12u64 {
        println!("seed {seed}");
        let mut draw = Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        m.fs.start_recording().unwrap();
        (0..150).for_each(|_| step(&m.at(""), &mut draw));
        let unsynced = files(&m.backing(""));
        m.fs.mark("before the syncs");
        sync_everything(&m.at(""));
        let recording = m.fs.take_recording().unwrap();
        let end = recording.ops().len();
        assert_eq!(unsynced, files(&m.backing("")));
        for model in [Model::Posix, Model::Ext4] {
            let choices = [Choice::Kept, Choice::Lost, Choice::Mixed(seed), Choice::Mixed(!seed)];
            for choice in choices {
                let found = files_of(&recording, PowerCut { model, after: end, choice });
                assert!(found == unsynced, "{model:?} {choice:?}");
            }
            for state in recording.states(model, &Limits { states: 25, seed }) {
                let dir = tempfile::tempdir().unwrap();
                state.materialize(dir.path()).unwrap();
            }
        }
    }
}
