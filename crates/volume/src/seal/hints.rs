//! Where on the disk the files lie that were changed: only ever a hint.
//!
//! Kept are the runs that hold a dirty block, and pieces of others that share a 64 KiB step with one: so a step can be told
//! to be dirty as a whole. Nothing here may be relied on; two files may claim one block.

use super::{
    dirty::DirtyBlocks,
    frozen::{FrozenDisk, WholeDisk},
};
use crate::partitions::{PartOfDisk, ext4_places};
use silt_ext4::reader::{DiskRead, Ext4, Extent, Inode, InodeNumber, SurveyGaps};
use silt_types::{BLOCK_SIZE_BYTES, CHUNK_BLOCKS_MAX, Error, ErrorKind, Result};

/// Runs kept: 40 MiB of them, and up to 16 MiB for the lengths of their files. The rest of a disk that has more is cut on
/// the grid.
const RUNS_MAX: usize = 1 << 21;

/// A block of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FilePlace {
    /// A number that stands for the file.
    pub(super) file: u32,
    /// Block of the file.
    pub(super) block: u64,
}

/// Blocks of a file that follow each other on the disk. Disks have at most 2^32 blocks, and so have files.
#[derive(Clone, Copy)]
pub(super) struct FileRun {
    file: u32,
    block: u32,
    disk: u32,
    len: u32,
}

impl FileRun {
    /// First block in the file.
    pub(super) fn start(&self) -> u64 {
        self.block.into()
    }

    /// The block of the file after the last one.
    pub(super) fn end(&self) -> u64 {
        self.start() + u64::from(self.len)
    }

    /// Where a block of the file that is in lies on the disk.
    pub(super) fn disk_block(&self, block: u64) -> u64 {
        u64::from(self.disk) + (block - self.start())
    }

    fn disk_end(&self) -> u64 {
        u64::from(self.disk) + u64::from(self.len)
    }
}

/// What is known of the files on a disk.
#[derive(Default)]
pub(super) struct FileHints {
    /// By file, and by block in it.
    runs: Vec<FileRun>,
    /// Numbers of runs, by place on the disk.
    by_disk: Vec<u32>,
    /// Lengths of the files in bytes.
    sizes: Vec<u64>,
    /// Why some or all is not known.
    pub(super) lost: Option<String>,
}

impl FileHints {
    /// Looks for the files whose inodes are in dirty blocks or in the journal, on every ext4 that the disk has. An error only
    /// where the disk cannot be read.
    pub(super) fn read(frozen: &FrozenDisk<'_>) -> Result<FileHints> {
        let disk = WholeDisk::new(frozen);
        let mut collector = Collector::new(frozen.delta);
        let mut lost = Vec::new();
        match ext4_places(&disk) {
            Ok(places) if places.is_empty() => lost.push("there is no ext4 on the disk".to_owned()),
            Ok(places) => lost.extend(places.into_iter().filter_map(|place| {
                let part = PartOfDisk::new(&disk, place);
                what_was_lost(collector.survey(&part, place.start_bytes))
            })),
            Err(error) => lost.push(error.chain()),
        }
        if let Some(error) = disk.failure() {
            return Err(error.context("cannot read the file system of the disk"));
        }
        Ok(collector.finish((!lost.is_empty()).then(|| lost.join("; "))))
    }

    /// The file that a block of the disk belongs to, and how many blocks from it on belong there too, one after the
    /// other; or how many belong to none.
    pub(super) fn owner(&self, disk_block: u64) -> (Option<FilePlace>, u64) {
        let run = |number: &u32| &self.runs[*number as usize];
        let next = self.by_disk.partition_point(|n| u64::from(run(n).disk) <= disk_block);
        let next_start = self.by_disk.get(next).map_or(u64::MAX, |n| run(n).disk.into());
        let found = next.checked_sub(1).map(|last| run(&self.by_disk[last]));
        match found.filter(|run| disk_block < run.disk_end()) {
            Some(run) => {
                let block = run.start() + disk_block - u64::from(run.disk);
                let len = run.disk_end().min(next_start) - disk_block;
                (Some(FilePlace { file: run.file, block }), len)
            }
            None => (None, next_start - disk_block),
        }
    }

    /// The runs that have blocks of a step of a file, in order.
    pub(super) fn step(&self, file: u32, step: u64) -> impl Iterator<Item = &FileRun> {
        let (start, end) = (step * CHUNK_BLOCKS_MAX, (step + 1) * CHUNK_BLOCKS_MAX);
        let first = self.runs.partition_point(|run| (run.file, run.end()) <= (file, start));
        self.runs[first..].iter().take_while(move |run| run.file == file && run.start() < end)
    }

    /// Length of a file in bytes.
    pub(super) fn size_bytes(&self, file: u32) -> u64 {
        self.sizes[file as usize]
    }
}

/// Why a survey could not tell all.
fn what_was_lost(surveyed: Result<SurveyGaps>) -> Option<String> {
    match surveyed {
        Ok(gaps) if gaps.ended_early => {
            Some("the files claim more blocks than there are".to_owned())
        }
        Ok(SurveyGaps { groups: 0, files: 0, .. }) => None,
        Ok(SurveyGaps { groups, files, .. }) => {
            Some(format!("{groups} damaged groups and {files} damaged files were passed over"))
        }
        Err(error) => Some(error.chain()),
    }
}

/// Takes the runs of one file after the other, each file's in order.
struct Collector<'a> {
    dirty: &'a dyn DirtyBlocks,
    hints: FileHints,
    /// The block of the disk where the file system begins.
    first: u64,
    inode: Option<InodeNumber>,
    /// The number of the file, once a run of it was kept.
    file: Option<u32>,
    /// Pieces without a dirty block in the step that the file has come to: at most one for each of its blocks.
    clean: Vec<Extent>,
    /// Up to this block of the file, pieces without a dirty block share a step with one that has.
    wanted_to: u64,
}

impl<'a> Collector<'a> {
    fn new(dirty: &'a dyn DirtyBlocks) -> Collector<'a> {
        let hints = FileHints::default();
        let clean = Vec::new();
        Collector { dirty, hints, first: 0, inode: None, file: None, clean, wanted_to: 0 }
    }

    /// Adds the files of the file system on `part`, which begins at this byte of the disk.
    fn survey(&mut self, part: &impl DiskRead, start_bytes: u64) -> Result<SurveyGaps> {
        let ext4 = Ext4::open(part)?;
        let unsupported = |what: String| Err(Error::new(ErrorKind::Unsupported, what));
        let size = ext4.block_size_bytes();
        if u64::from(size) != BLOCK_SIZE_BYTES {
            return unsupported(format!("files in blocks of {size} bytes are not followed"));
        }
        if !start_bytes.is_multiple_of(BLOCK_SIZE_BYTES) {
            return unsupported(format!(
                "the partition at byte {start_bytes} begins within a block"
            ));
        }
        let first = start_bytes / BLOCK_SIZE_BYTES;
        (self.first, self.inode) = (first, None);
        let dirty = self.dirty;
        let next_dirty = |block: u64| Some(dirty.next_dirty(block.checked_add(first)?)? - first);
        ext4.for_each_file_extent_where(&next_dirty, &mut |inode, extent| {
            let physical = self.first + extent.physical;
            self.add(inode, Extent { physical, ..extent })
        })
    }

    fn add(&mut self, inode: &Inode, extent: Extent) -> Result<()> {
        if self.inode != Some(inode.number) {
            (self.inode, self.file, self.wanted_to) = (Some(inode.number), None, 0);
            self.clean.clear();
        }
        let size_bytes = inode.size_bytes;
        if self.is_dirty(extent) {
            let step_start = extent.logical / CHUNK_BLOCKS_MAX * CHUNK_BLOCKS_MAX;
            for piece in std::mem::take(&mut self.clean) {
                if piece.logical >= step_start {
                    self.keep(size_bytes, piece)?;
                }
            }
            self.wanted_to = extent.logical_end().next_multiple_of(CHUNK_BLOCKS_MAX);
            return self.keep(size_bytes, extent);
        }
        let end = extent.logical_end();
        if extent.logical < self.wanted_to {
            self.keep(size_bytes, part(extent, extent.logical, end.min(self.wanted_to)))?;
        }
        let last_step = (end - 1) / CHUNK_BLOCKS_MAX * CHUNK_BLOCKS_MAX;
        let from = extent.logical.max(self.wanted_to).max(last_step);
        self.clean.retain(|piece| piece.logical >= last_step);
        if from < end {
            self.clean.push(part(extent, from, end));
        }
        Ok(())
    }

    fn is_dirty(&self, extent: Extent) -> bool {
        let next = self.dirty.next_dirty(extent.physical);
        next.is_some_and(|block| block < extent.physical + extent.len)
    }

    fn keep(&mut self, size_bytes: u64, extent: Extent) -> Result<()> {
        if self.hints.runs.len() == RUNS_MAX {
            let what = format!("the changed files lie in more than {RUNS_MAX} pieces");
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        let narrow = |number: u64| u32::try_from(number).ok();
        let (Some(block), Some(disk), Some(len)) =
            (narrow(extent.logical), narrow(extent.physical), narrow(extent.len))
        else {
            return Ok(()); // On no disk that there can be.
        };
        let file = *self.file.get_or_insert_with(|| {
            self.hints.sizes.push(size_bytes);
            (self.hints.sizes.len() - 1) as u32
        });
        self.hints.runs.push(FileRun { file, block, disk, len });
        Ok(())
    }

    fn finish(self, lost: Option<String>) -> FileHints {
        let mut hints = FileHints { lost, ..self.hints };
        hints.by_disk = (0..hints.runs.len() as u32).collect();
        let runs = &hints.runs;
        // Where two begin at one block, the later counts: any order will do, as long as it is always the same.
        hints.by_disk.sort_unstable_by_key(|number| (runs[*number as usize].disk, *number));
        hints
    }
}

/// Blocks `start..end` of a file, which are in the extent.
fn part(extent: Extent, start: u64, end: u64) -> Extent {
    let physical = extent.physical + (start - extent.logical);
    Extent { logical: start, physical, len: end - start, ..extent }
}
