//! Which block of the disk belongs to which file: the hint for cutting a disk along its files.
//!
//! Made for disks that are as they are. What is damaged is passed over and counted, because a hint that is missing costs
//! less than no hint at all.

use super::{
    Ext4,
    disk::DiskRead,
    extents::Extent,
    inode::{Inode, InodeKind},
};
use silt_types::Result;

/// What a survey could not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SurveyGaps {
    /// Groups whose descriptor or inode bitmap is damaged.
    pub groups: u64,
    /// Files whose inode or block list is damaged; runs found before the damage were told.
    pub files: u64,
    /// The files together claimed more blocks than there are, so the survey ended there.
    pub ended_early: bool,
}

impl<D: DiskRead> Ext4<D> {
    /// Calls `visit` with each file in use and each of its runs that is written and not behind its end, by inode and then
    /// in the order of the file. Runs of different files may overlap on a damaged disk. An error of `visit` ends it and is
    /// passed on. Reads inode bitmaps, inodes, and extent blocks.
    pub fn for_each_file_extent(
        &self,
        visit: &mut dyn FnMut(&Inode, Extent) -> Result<()>,
    ) -> Result<SurveyGaps> {
        let mut gaps = SurveyGaps::default();
        let mut blocks_left = self.geometry().blocks;
        for number in self.used_inodes() {
            let Ok(number) = number else {
                gaps.groups += 1;
                continue;
            };
            let Ok(inode) = self.inode(number) else {
                gaps.files += 1;
                continue;
            };
            if inode.kind != InodeKind::File {
                continue;
            }
            let end = inode.size_bytes.div_ceil(self.block_size_bytes().into());
            let mut extents = self.extents(&inode);
            for extent in extents.by_ref() {
                match extent {
                    Ok(extent) if extent.unwritten || extent.logical >= end => {}
                    Ok(extent) => visit(
                        &inode,
                        Extent { len: extent.len.min(end - extent.logical), ..extent },
                    )?,
                    Err(_) => gaps.files += 1,
                }
            }
            let Some(left) = blocks_left.checked_sub(extents.blocks_claimed()) else {
                return Ok(SurveyGaps { ended_early: true, ..gaps });
            };
            blocks_left = left;
        }
        Ok(gaps)
    }
}
