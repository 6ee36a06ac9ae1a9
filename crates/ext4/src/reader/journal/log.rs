//! The log as a ring of blocks: where on the disk each one stands, and what comes after which.

use super::super::{blocks::Blocks, disk::DiskRead, extents::Extent};
use crate::format::journal::JournalSuperblock;
use silt_types::{Error, ErrorKind, Result};

/// Most pieces a journal may lie in: 2 MiB to remember. `mke2fs` makes one to a few hundred.
const PIECES_MAX: usize = 1 << 16;

/// The ring of the log and how to read it.
pub(super) struct Log<'a, D> {
    blocks: &'a Blocks<D>,
    pieces: Vec<Extent>,
    /// Where the log begins and how its blocks are written.
    pub(super) journal: &'a JournalSuperblock,
    /// The block after the last one of the ring, counted from the start of the journal.
    end: u32,
}

impl<'a, D: DiskRead> Log<'a, D> {
    /// The ring of `journal` up to its block `end`; the journal's file lies at `extents`.
    pub(super) fn new(
        blocks: &'a Blocks<D>,
        extents: impl Iterator<Item = Result<Extent>>,
        journal: &'a JournalSuperblock,
        end: u32,
    ) -> Result<Log<'a, D>> {
        let mut pieces: Vec<Extent> = Vec::new();
        let mut mapped = 0;
        for extent in extents {
            let extent = extent?;
            if extent.unwritten || extent.logical != mapped {
                return Err(Error::corrupt("journal: its file has a hole"));
            }
            if pieces.len() == PIECES_MAX {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("journal: in more than {PIECES_MAX} pieces"),
                ));
            }
            mapped += extent.len;
            pieces.push(extent);
        }
        if mapped < u64::from(journal.len_blocks) {
            let claimed = journal.len_blocks;
            return Err(Error::corrupt(format!(
                "journal: it claims {claimed} blocks, but its file has {mapped}"
            )));
        }
        Ok(Log { blocks, pieces, journal, end })
    }

    /// Blocks in the ring.
    pub(super) fn len(&self) -> u32 {
        self.end - self.journal.first
    }

    /// The block of the ring after `position`.
    pub(super) fn after(&self, position: u32) -> u32 {
        if position + 1 < self.end { position + 1 } else { self.journal.first }
    }

    /// The block of the disk that holds block `position` of the journal.
    pub(super) fn place(&self, position: u32) -> Result<u64> {
        let position = u64::from(position);
        let index = self.pieces.partition_point(|piece| piece.logical + piece.len <= position);
        let piece =
            self.pieces.get(index).ok_or_else(|| Error::corrupt("journal: ends before its log"))?;
        Ok(piece.physical + (position - piece.logical))
    }

    /// Block `position` of the journal, as it stands on the disk.
    pub(super) fn read(&self, position: u32, buf: &mut [u8]) -> Result<()> {
        self.blocks.read_in_place(buf, self.place(position)?)
    }

    /// Blocks on the disk: no logged block can belong behind them.
    pub(super) fn disk_blocks(&self) -> u64 {
        self.blocks.count()
    }

    pub(super) fn block_size_bytes(&self) -> usize {
        self.blocks.block_size_bytes()
    }
}
