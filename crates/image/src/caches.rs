//! What the caches of a store have in common: files that anybody may delete, of which the longest unused go first, and those
//! that are of no use any more when the store is collected.

use crate::{directory, oci};
use silt_store::{KeyContext, Store};
use silt_types::{ChunkId, Result};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

/// Chunks of a cache that are looked up to learn whether it is still of use.
const LOOKED_UP_MAX: u64 = 1 << 10;

/// Deletes caches that are of little use: more than half of the chunks they tell of went with the images that had them. And
/// what killed commands left of layers that they fetched.
pub fn drop_dead_caches(store: &Store) -> Result<()> {
    let paths = store.paths();
    let folders: [(PathBuf, ChunksOf); 2] =
        [(paths.folder_caches(), directory::chunks_of), (paths.layer_caches(), oci::chunks_of)];
    for (folder, chunks_of) in folders {
        for path in files_in(&folder) {
            let (mut looked_up, mut there) = (0, 0);
            // What cannot be read is of no use at all.
            let read = chunks_of(&path, &mut |chunk| {
                looked_up += 1;
                there += u64::from(store.contains(KeyContext::Content, chunk).unwrap_or(false));
                looked_up < LOOKED_UP_MAX
            });
            if read.is_err() || there * 2 < looked_up {
                remove_unlocked(&path);
            }
        }
    }
    files_in(&paths.fetched_blobs()).iter().for_each(|path| remove_unlocked(path));
    Ok(())
}

/// Deletes every cache that nobody is writing.
pub fn drop_caches(store: &Store) -> Result<()> {
    let paths = store.paths();
    for folder in [paths.folder_caches(), paths.layer_caches(), paths.fetched_blobs()] {
        files_in(&folder).iter().for_each(|path| remove_unlocked(path));
    }
    Ok(())
}

/// Visits the chunks that a cache tells of, until that answers false.
type ChunksOf = fn(&Path, &mut dyn FnMut(&ChunkId) -> bool) -> Result<()>;

fn files_in(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Caches are never needed: what cannot be deleted stays.
fn remove_unlocked(path: &Path) {
    if File::open(path).is_ok_and(|file| file.try_lock().is_ok()) {
        let _ = fs::remove_file(path);
    }
}

/// Deletes the longest unused files of a folder until no more than `bytes_max` are left. Those that somebody has locked are
/// being written: they are left alone and do not count. What cannot be deleted stays.
pub(crate) fn trim(folder: &Path, bytes_max: u64) {
    let listed = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = listed
        .filter_map(|entry| {
            let file = File::open(entry.path()).ok()?;
            file.try_lock().ok()?;
            let metadata = file.metadata().ok()?;
            Some((metadata.modified().ok()?, metadata.len(), entry.path()))
        })
        .collect();
    files.sort();
    let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
    for (_, len, path) in files {
        if total <= bytes_max {
            return;
        }
        if fs::remove_file(path).is_ok() {
            total -= len;
        }
    }
}
