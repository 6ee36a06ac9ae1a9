//! Which block of the disk belongs to which file: the hint for cutting a disk along its files.
//!
//! Made for disks that are as they are. What is damaged is passed over and counted, because a hint that is missing costs
//! less than no hint at all.

use super::{
    Ext4,
    disk::DiskRead,
    extents::Extent,
    groups::{NextPicked, UsedInodes},
    inode::{Inode, InodeKind, InodeNumber},
};
use silt_types::Result;

/// Called with a file and a run of it; an error ends the survey and is passed on.
pub type VisitExtent<'a> = &'a mut dyn FnMut(&Inode, Extent) -> Result<()>;

/// What a survey could not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SurveyGaps {
    /// Groups whose descriptor or inode bitmap is damaged.
    pub groups: u64,
    /// Files whose inode or block list is damaged; runs found before the damage were told.
    pub files: u64,
    /// The files and their inodes together claimed more blocks than there are, so the survey ended there.
    pub ended_early: bool,
}

impl<D: DiskRead> Ext4<D> {
    /// Calls `visit` with each file in use and each of its runs that is written and not behind its end, by inode and then
    /// in the order of the file. Runs of different files may overlap on a damaged disk. An error of `visit` ends it and is
    /// passed on. Reads inode bitmaps, inodes, and extent blocks.
    pub fn for_each_file_extent(&self, visit: VisitExtent<'_>) -> Result<SurveyGaps> {
        self.survey(self.used_inodes(), visit)
    }

    /// The same for those files alone whose inode stands in a block of the file system that is picked, or that the journal
    /// has a newer copy of. `next_picked` answers the first picked block at or behind the one it is given. Of a group
    /// without such a block only the descriptor is read: so what was written to a disk since some moment costs what it is,
    /// and 64 bytes for each 128 MiB, if the blocks written are the picked ones.
    pub fn for_each_file_extent_where(
        &self,
        next_picked: NextPicked<'_>,
        visit: VisitExtent<'_>,
    ) -> Result<SurveyGaps> {
        self.survey(self.used_inodes_where(next_picked), visit)
    }

    fn survey(&self, inodes: UsedInodes<'_, D>, visit: VisitExtent<'_>) -> Result<SurveyGaps> {
        let mut gaps = SurveyGaps::default();
        let mut blocks_left = self.geometry().blocks;
        // Inodes take blocks too, though many groups may claim to have theirs in the same ones.
        let per_block = self.inodes_per_block() as usize;
        for (index, number) in inodes.enumerate() {
            let Ok(number) = number else {
                gaps.groups += 1;
                continue;
            };
            let claimed = self.survey_file(number, &mut gaps, visit)?;
            let table = u64::from(index.is_multiple_of(per_block) && index > 0);
            let Some(left) = blocks_left.checked_sub(claimed + table) else {
                return Ok(SurveyGaps { ended_early: true, ..gaps });
            };
            blocks_left = left;
        }
        Ok(gaps)
    }

    /// Visits the runs of one inode, if it is a file. Answers how many blocks it claims.
    fn survey_file(
        &self,
        number: InodeNumber,
        gaps: &mut SurveyGaps,
        visit: VisitExtent<'_>,
    ) -> Result<u64> {
        let Ok(inode) = self.inode(number) else {
            gaps.files += 1;
            return Ok(0);
        };
        if inode.kind != InodeKind::File {
            return Ok(0);
        }
        let end = inode.size_bytes.div_ceil(self.block_size_bytes().into());
        let mut extents = self.extents(&inode);
        for extent in extents.by_ref() {
            match extent {
                Ok(extent) if extent.unwritten || extent.logical >= end => {}
                Ok(extent) => {
                    let len = extent.len.min(end - extent.logical);
                    visit(&inode, Extent { len, ..extent })?;
                }
                Err(_) => gaps.files += 1,
            }
        }
        Ok(extents.blocks_claimed())
    }
}
