//! What the caches of a store have in common: files that anybody may delete, of which the longest unused go first.

use std::{
    fs::{self, File},
    path::Path,
};

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
