//! How large a disk is, and how many inodes its groups have.

use super::geometry::{BLOCKS_PER_GROUP, INODES_PER_GROUP_MAX, Outline};
use silt_types::{BLOCK_SIZE_BYTES, DISK_SIZE_BYTES_MAX, Error, ErrorKind, Result, format_size};

/// The smallest disk.
pub const DISK_SIZE_BYTES_MIN: u64 = 1 << 20;

/// The smallest disk that is made when no size is given.
const DEFAULT_SIZE_BYTES_MIN: u64 = 64 << 20;

/// Free blocks that a disk of default size has at least, besides half the content: 16 MiB.
const DEFAULT_SLACK_BLOCKS: u64 = 4096;

/// Inodes per group of disks of 32 MiB and more, unless more are needed: one for every 16 KiB of a full group.
const INODES_PER_GROUP: u64 = 8192;

/// Inodes per group fill whole blocks of the table and whole bytes of the bitmap.
const INODES_PER_GROUP_STEP: u64 = 128;

/// What a hierarchy needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// Blocks of file data.
    pub(super) data_blocks: u64,
    /// Blocks of directories, extent trees, attributes and link targets.
    pub(super) node_blocks: u64,
    /// Inodes, reserved ones included.
    pub(super) inodes: u64,
}

impl Need {
    fn blocks(&self) -> u64 {
        self.data_blocks + self.node_blocks
    }
}

/// A chosen size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizing {
    pub(super) size_bytes: u64,
    pub(super) outline: Outline,
}

/// The size of a disk for `need`: `size_bytes` if given, else the smallest of a ladder (eight steps to each doubling,
/// from 64 MiB on) on which half the content and 16 MiB stay free, and a quarter of the inodes. Steps, so that
/// a little more content mostly leaves the size as it is. `Invalid` for sizes below 1 MiB or above 16 TiB, `NoSpace`
/// with the size that would do.
pub(super) fn choose(need: &Need, size_bytes: Option<u64>) -> Result<Sizing> {
    let Some(size_bytes) = size_bytes else {
        return default_sizing(need);
    };
    if !(DISK_SIZE_BYTES_MIN..=DISK_SIZE_BYTES_MAX).contains(&size_bytes) {
        let message = format!("a disk of {size_bytes} bytes: sizes go from 1 MiB to 16 TiB");
        return Err(Error::invalid(message));
    }
    match tight_outline(need, size_bytes / BLOCK_SIZE_BYTES) {
        Some(outline) => Ok(Sizing { size_bytes, outline }),
        None => Err(too_small(need, size_bytes)),
    }
}

fn default_sizing(need: &Need) -> Result<Sizing> {
    let blocks = need.blocks();
    let wanted = blocks + blocks / 2 + DEFAULT_SLACK_BLOCKS;
    let inodes = need.inodes + need.inodes / 4;
    ladder(DEFAULT_SIZE_BYTES_MIN)
        .find_map(|size_bytes| {
            let outline = roomy_outline(inodes, size_bytes / BLOCK_SIZE_BYTES, wanted)?;
            Some(Sizing { size_bytes, outline })
        })
        .ok_or_else(|| too_small(need, DISK_SIZE_BYTES_MAX))
}

/// Sizes with three significant bits behind the first, from `from` (a power of two) to 16 TiB.
fn ladder(from: u64) -> impl Iterator<Item = u64> {
    let doublings = from.ilog2()..=DISK_SIZE_BYTES_MAX.ilog2();
    doublings
        .flat_map(|shift| (8..16).map(move |eighths| eighths << (shift - 3)))
        .filter(|size| *size <= DISK_SIZE_BYTES_MAX)
}

/// The outline of a disk with so many inodes and usable blocks, if there is one. Inodes per group are powers of two, so
/// that places stay.
fn roomy_outline(inodes: u64, disk_blocks: u64, blocks: u64) -> Option<Outline> {
    let usual = INODES_PER_GROUP.min(1 << disk_blocks.ilog2());
    let powers = (0..).map(|shift| usual << shift).take_while(|n| *n <= INODES_PER_GROUP_MAX);
    powers
        .map(|per_group| Outline::new(disk_blocks, per_group))
        .find(|outline| suffices(outline, inodes, blocks))
}

/// The outline of a disk that may be as full as it can: with as few inodes as are needed, where more do not fit.
fn tight_outline(need: &Need, disk_blocks: u64) -> Option<Outline> {
    roomy_outline(need.inodes, disk_blocks, need.blocks()).or_else(|| {
        let groups = (disk_blocks / BLOCKS_PER_GROUP).max(1);
        let per_group = need.inodes.div_ceil(groups).next_multiple_of(INODES_PER_GROUP_STEP);
        let per_group = (per_group <= INODES_PER_GROUP_MAX).then_some(per_group)?;
        let outline = Outline::new(disk_blocks, per_group);
        suffices(&outline, need.inodes, need.blocks()).then_some(outline)
    })
}

fn suffices(outline: &Outline, inodes: u64, blocks: u64) -> bool {
    (inodes..=u64::from(u32::MAX)).contains(&outline.inodes())
        && outline.usable_blocks() >= blocks + outline.interruptions()
}

fn too_small(need: &Need, size_bytes: u64) -> Error {
    let enough = smallest_size(need).map_or_else(
        || format!("more than the largest disk, {}", format_size(DISK_SIZE_BYTES_MAX)),
        |bytes| format!("at least {} ({bytes} bytes)", format_size(bytes)),
    );
    let message = format!(
        "the hierarchy does not fit on a disk of {} ({size_bytes} bytes): {} blocks of data, {} of directories and \
         other metadata and {} inodes need {enough}",
        format_size(size_bytes),
        need.data_blocks,
        need.node_blocks,
        need.inodes,
    );
    Error::new(ErrorKind::NoSpace, message)
}

/// The smallest whole number of MiB that suffices.
fn smallest_size(need: &Need) -> Option<u64> {
    let fits = |mib: u64| tight_outline(need, mib << 8).is_some();
    let (mut low, mut high) = (1, DISK_SIZE_BYTES_MAX >> 20);
    if !fits(high) {
        return None;
    }
    while low < high {
        let middle = (low + high) / 2;
        if fits(middle) { high = middle } else { low = middle + 1 }
    }
    Some(high << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(data_blocks: u64, inodes: u64) -> Need {
        Need { data_blocks, node_blocks: 10, inodes }
    }

    #[test]
    fn default_sizes_grow_with_the_content_and_leave_room() {
        let mut last = 0;
        for data_blocks in (0..2_000_000).step_by(1000) {
            let sizing = choose(&need(data_blocks, 5000), None).unwrap();
            assert!(sizing.size_bytes >= last);
            last = sizing.size_bytes;
            let free = sizing.outline.usable_blocks() - data_blocks - 10;
            assert!(free >= data_blocks / 2 + DEFAULT_SLACK_BLOCKS);
        }
        let mut last = 0;
        for inodes in (11..5_000_000).step_by(1001) {
            let sizing = choose(&need(100, inodes), None).unwrap();
            assert!(sizing.size_bytes >= last && sizing.outline.inodes() >= inodes);
            last = sizing.size_bytes;
        }
    }

    #[test]
    fn a_size_that_is_named_as_enough_is_enough() {
        for (data_blocks, inodes) in [(300, 500), (100_000, 5000), (10, 200_000), (3, 3_000_000)] {
            let need = need(data_blocks, inodes);
            let error = choose(&need, Some(DISK_SIZE_BYTES_MIN)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            choose(&need, smallest_size(&need)).unwrap();
        }
        assert_eq!(choose(&need(1 << 33, 11), None).unwrap_err().kind(), ErrorKind::NoSpace);
        for size in [0, DISK_SIZE_BYTES_MIN - 1, DISK_SIZE_BYTES_MAX + 1] {
            assert_eq!(choose(&need(0, 11), Some(size)).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }
}
