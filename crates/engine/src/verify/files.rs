//! Which files of which disks have something that is damaged.
//!
//! By the file system on the disk, which tells for whatever was written to it, and knows a file by all of its names. Where that cannot
//! be read, there is nothing to tell.

use super::VerifyReport;
use crate::{device::AsDisk, engine::Engine};
use silt_ext4::reader::{Ext4, InodeNumber};
use silt_types::{BLOCK_SIZE_BYTES, BlockRange, ChunkId, DiskName, Progress, Result};
use silt_volume::{DiskMap, Volume};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

/// Files told for each damaged chunk; more are counted by nobody.
const FILES_MAX: usize = 1000;

impl Engine {
    /// Adds to each damaged chunk the files that have it, of every name that needs it. A name whose files cannot be told says so in
    /// their place.
    pub(super) fn name_files(
        &self,
        report: &mut VerifyReport,
        progress: &dyn Progress,
    ) -> Result<()> {
        progress.begin("looking for files", 0);
        let mut by_name: HashMap<String, HashSet<ChunkId>> = HashMap::new();
        for damage in &report.damages {
            let Some(chunk) = damage.chunk else { continue };
            for name in &damage.needed_by {
                by_name.entry(name.clone()).or_default().insert(chunk);
            }
        }
        let mut files: HashMap<ChunkId, BTreeSet<String>> = HashMap::new();
        for (title, chunks) in by_name {
            // `image debian`, and the name is what follows the kind.
            let Some((_, name)) = title.split_once(' ') else { continue };
            let found = name.parse().and_then(|name| self.files_of(&name, &chunks));
            match found {
                Ok(found) => found.into_iter().for_each(|(chunk, path)| {
                    files.entry(chunk).or_default().insert(format!("{name}:{path}"));
                }),
                Err(error) => chunks.into_iter().for_each(|chunk| {
                    let what = format!("{name}: its files cannot be told: {}", error.chain());
                    files.entry(chunk).or_default().insert(what);
                }),
            }
        }
        for damage in &mut report.damages {
            let found = damage.chunk.and_then(|chunk| files.remove(&chunk));
            damage.files = found.into_iter().flatten().take(FILES_MAX).collect();
        }
        Ok(())
    }

    /// The files of a disk that have one of these chunks: each chunk with a path.
    fn files_of(
        &self,
        name: &DiskName,
        chunks: &HashSet<ChunkId>,
    ) -> Result<Vec<(ChunkId, String)>> {
        let disk = self.open_to_read(name)?.volume;
        let hurt = self.ranges_of(&disk, chunks)?;
        let ext4 = Ext4::open(AsDisk(&disk))?;
        let blocks = u64::from(ext4.block_size_bytes());
        let mut found: HashMap<InodeNumber, HashSet<ChunkId>> = HashMap::new();
        ext4.for_each_file_extent(&mut |inode, extent| {
            let (start, end) = (extent.physical * blocks, (extent.physical + extent.len) * blocks);
            for (chunk, range) in &hurt {
                let (first, last) =
                    (range.start * BLOCK_SIZE_BYTES, range.end() * BLOCK_SIZE_BYTES);
                if start < last && first < end {
                    found.entry(inode.number).or_default().insert(*chunk);
                }
            }
            Ok(())
        })?;
        let read = ext4.hierarchy()?;
        let mut files = Vec::new();
        silt_image::for_each_path(&read.hierarchy, |visit, path| {
            for chunk in found.get(&read.inode(visit.entry)).into_iter().flatten() {
                files.push((*chunk, format!("/{}", String::from_utf8_lossy(path))));
            }
            Ok(())
        })?;
        Ok(files)
    }

    /// Where chunks are on a disk, and nothing was written over them.
    fn ranges_of(
        &self,
        disk: &Volume,
        chunks: &HashSet<ChunkId>,
    ) -> Result<Vec<(ChunkId, BlockRange)>> {
        let map = DiskMap::open(Arc::new(self.store.walking_reader()), disk.base())?;
        let mut ranges = Vec::new();
        // What is behind a node that cannot be read is not known.
        for extent in map.extents().flatten().filter(|e| chunks.contains(&e.place.chunk)) {
            let mut at = extent.range.start;
            while at < extent.range.end() {
                let len = match disk.sealed_extent(at, extent.range.end() - at)? {
                    Some(sealed) => {
                        let range = BlockRange { start: at, len: sealed.len_blocks };
                        ranges.push((extent.place.chunk, range));
                        sealed.len_blocks
                    }
                    None => 1,
                };
                at += len;
            }
        }
        Ok(ranges)
    }
}
