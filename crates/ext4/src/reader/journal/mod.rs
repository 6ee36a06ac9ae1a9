//! The journal: what it committed but nobody has written in place yet.
//!
//! Where the superblock says that the journal must be replayed, committed transactions become an overlay of block
//! addresses: for each block the place of its newest copy in the log. Nothing is written and no copy is held in memory.
//! Where it does not say so, the log counts for nothing, as in a mount. A journal that cannot be followed with certainty is
//! an error, never a guess: the disk's state without it may be any mixture of old and new.

mod log;
mod replay;

use super::{
    Ext4,
    blocks::Overlay,
    disk::DiskRead,
    inode::{InodeKind, InodeNumber},
};
use crate::format::{
    journal::{
        INCOMPATIBLE_64BIT, INCOMPATIBLE_ASYNC_COMMIT, INCOMPATIBLE_CSUM_V2, INCOMPATIBLE_CSUM_V3,
        INCOMPATIBLE_FAST_COMMIT, INCOMPATIBLE_REVOKE, JournalSuperblock,
    },
    superblock::{compatible, incompatible},
    {u16_at, u32_at},
};
use log::Log;
use silt_types::{Context as _, Error, ErrorKind, Result};

/// Blocks for fast commits where the journal does not say how many.
const FAST_COMMIT_BLOCKS_DEFAULT: u32 = 256;

/// Tag of the first record of a fast commit.
const FAST_COMMIT_HEAD: u16 = 9;

/// Checksums of kind 4 are CRC-32C.
const CHECKSUM_CRC32C: u8 = 4;

/// What the journal of the file system, as it stands in place, lays over it. Empty if there is nothing to replay.
pub(super) fn overlay<D: DiskRead>(ext4: &Ext4<D>) -> Result<Overlay> {
    let superblock = &ext4.geometry().superblock;
    let waiting = superblock.incompatible & incompatible::RECOVER != 0;
    if !waiting || superblock.compatible & compatible::HAS_JOURNAL == 0 {
        return Ok(Overlay::new());
    }
    read_overlay(ext4).context(|| "the journal of this file system cannot be replayed".into())
}

fn read_overlay<D: DiskRead>(ext4: &Ext4<D>) -> Result<Overlay> {
    let number = InodeNumber::new(ext4.geometry().superblock.journal_inode);
    let inode = ext4.inode(number.ok_or_else(|| unsupported("it is on another device"))?)?;
    if inode.kind != InodeKind::File {
        return Err(Error::corrupt("journal: its inode is not a file"));
    }
    let mut first_block = vec![0; ext4.blocks().block_size_bytes()];
    let first = ext4.extents(&inode).next().transpose()?;
    let first = first.filter(|extent| extent.logical == 0 && !extent.unwritten);
    let first =
        first.ok_or_else(|| Error::corrupt("journal: its file does not begin with a block"))?;
    ext4.blocks().read_in_place(&mut first_block, first.physical)?;
    let journal = JournalSuperblock::decode(&first_block)?;
    check(&journal, first_block.len())?;
    if journal.start == 0 {
        return Ok(Overlay::new());
    }
    let end = journal.len_blocks - fast_commit_blocks(&journal);
    if journal.first == 0 || !(journal.first..end).contains(&journal.start) {
        return Err(Error::corrupt("journal superblock: its log is in an impossible place"));
    }
    let log = Log::new(ext4.blocks(), ext4.extents(&inode), &journal, end)?;
    let replayed = replay::replay(&log)?;
    // The kernel leaves out the block that follows the ring.
    if end + 1 < journal.len_blocks {
        log.read(end + 1, &mut first_block)?;
        refuse_fast_commit(&first_block, replayed.next_sequence)?;
    }
    Ok(replayed.overlay)
}

fn check(journal: &JournalSuperblock, block_size_bytes: usize) -> Result<()> {
    let known = INCOMPATIBLE_REVOKE
        | INCOMPATIBLE_64BIT
        | INCOMPATIBLE_CSUM_V2
        | INCOMPATIBLE_CSUM_V3
        | INCOMPATIBLE_FAST_COMMIT;
    if journal.incompatible & INCOMPATIBLE_ASYNC_COMMIT != 0 {
        return Err(unsupported("its commits are asynchronous (journal_async_commit)"));
    }
    if journal.incompatible & !known != 0 {
        return Err(unsupported(&format!(
            "incompatible features {:#x}",
            journal.incompatible & !known
        )));
    }
    if journal.has_checksums() && journal.checksum_type != CHECKSUM_CRC32C {
        return Err(unsupported(&format!("checksums of kind {}", journal.checksum_type)));
    }
    let both = INCOMPATIBLE_CSUM_V2 | INCOMPATIBLE_CSUM_V3;
    if journal.incompatible & both == both {
        return Err(Error::corrupt("journal superblock: it has checksums of two versions"));
    }
    if journal.block_size as usize != block_size_bytes {
        return Err(Error::corrupt("journal superblock: its block size is not the file system's"));
    }
    if journal.len_blocks <= fast_commit_blocks(journal) {
        return Err(Error::corrupt("journal superblock: it has no room for a log"));
    }
    Ok(())
}

/// Blocks at the end that the ring of the log leaves out.
fn fast_commit_blocks(journal: &JournalSuperblock) -> u32 {
    match (journal.incompatible & INCOMPATIBLE_FAST_COMMIT, journal.fast_commit_blocks) {
        (0, _) => 0,
        (_, 0) => FAST_COMMIT_BLOCKS_DEFAULT,
        (_, blocks) => blocks,
    }
}

/// Fast commits tell of operations, not of blocks. If some follow the last transaction, `sequence` being the next one's
/// number, the state of the disk is not known without them.
fn refuse_fast_commit(block: &[u8], sequence: u32) -> Result<()> {
    let follows = u16_at(block, 0) == FAST_COMMIT_HEAD && u32_at(block, 8) == sequence;
    if follows { Err(unsupported("it holds fast commits (fast_commit)")) } else { Ok(()) }
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("journal: {what}"))
}
