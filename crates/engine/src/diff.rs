//! Comparing two disks: the blocks that differ, or the files.

use crate::{device::AsDisk, engine::Engine};
use silt_ext4::reader::{Change, DiskPair, Ext4, changes};
use silt_types::{BLOCK_SIZE_BYTES, BlockRange, Context as _, DiskName, Progress, Result};
use silt_volume::{BlockDevice as _, Volume, VolumePair};

/// Where two disks differ. One that ends before the other reads as zero from there on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskDiff {
    /// Length of the first disk in bytes.
    pub a_size_bytes: u64,
    /// Length of the second disk in bytes.
    pub b_size_bytes: u64,
    /// Blocks in which at least one byte differs, ascending; ranges do not adjoin.
    pub ranges: Vec<BlockRange>,
}

impl DiskDiff {
    /// Number of blocks that differ.
    pub fn blocks_differing(&self) -> u64 {
        self.ranges.iter().map(|range| range.len).sum()
    }

    /// Length of these blocks in bytes; less than 4096 each only where the longer disk ends within a block.
    pub fn bytes_differing(&self) -> u64 {
        let end = self.a_size_bytes.max(self.b_size_bytes);
        let len = |range: &BlockRange| {
            (range.end() * BLOCK_SIZE_BYTES).min(end) - range.start * BLOCK_SIZE_BYTES
        };
        self.ranges.iter().map(len).sum()
    }
}

impl Engine {
    /// The blocks whose bytes differ between two disks. Equal parts of their maps are passed over, so the time follows the
    /// difference. `Busy` while one of them is being written.
    pub fn diff(&self, a: &DiskName, b: &DiskName, progress: &dyn Progress) -> Result<DiskDiff> {
        let (a, b) = (self.open_to_read(a)?, self.open_to_read(b)?);
        let differing = VolumePair::new(&a.volume, &b.volume)?.differing_blocks(progress)?;
        Ok(DiskDiff {
            a_size_bytes: a.volume.geometry().size_bytes,
            b_size_bytes: b.volume.geometry().size_bytes,
            ranges: differing.ranges().collect(),
        })
    }

    /// What changed between the ext4 file systems of two disks, ordered by path. Content is read only where it may
    /// differ. `Busy` while one of the disks is being written; `Invalid`, `Unsupported` or `Corrupt`, naming the disk,
    /// where there is no file system that can be read.
    pub fn diff_files(
        &self,
        a: &DiskName,
        b: &DiskName,
        progress: &dyn Progress,
    ) -> Result<Vec<Change>> {
        progress.begin("comparing", 0);
        let (disk_a, disk_b) = (self.open_to_read(a)?, self.open_to_read(b)?);
        let (before, after) = (files_of(a, &disk_a.volume)?, files_of(b, &disk_b.volume)?);
        let pair = KnownPair(VolumePair::new(&disk_a.volume, &disk_b.volume)?);
        changes(&before, &after, &pair)
            .context(|| format!("cannot compare the files of {a} and {b}"))
    }
}

fn files_of<'a>(name: &DiskName, volume: &'a Volume) -> Result<Ext4<AsDisk<'a>>> {
    Ext4::open(AsDisk(volume)).context(|| format!("cannot read the files of {name}"))
}

/// What the maps and deltas of two disks tell without reading content.
struct KnownPair<'a>(VolumePair<'a>);

impl DiskPair for KnownPair<'_> {
    fn known_equal(&self, before: u64, after: u64, len_bytes: u64) -> Result<u64> {
        self.0.known_equal(before, after, len_bytes)
    }
}
