//! Which blocks of the log count: transactions are followed from the log's tail, and each that ends with a commit block
//! lays its blocks over the disk. What no commit block ends never happened.
//!
//! A broken checksum means one of three things, told apart as the kernel does. In a transaction without a good commit
//! block that nothing follows, the write was cut off: the log ends there. In one whose commit is older than the one before
//! it, the bytes are left over from an earlier turn of the ring: the log ends there too. Everything else is damage, and
//! then no state of the disk is worth showing.
//!
//! Source: Linux `fs/jbd2/recovery.c` (behaviour), `Documentation/filesystems/ext4/journal.rst` (format).

use super::super::{
    blocks::{LoggedBlock, Overlay},
    disk::DiskRead,
};
use super::log::Log;
use crate::format::journal::{
    JournalHeader, JournalTag, TAG_ESCAPED, TYPE_COMMIT, TYPE_DESCRIPTOR, TYPE_REVOKE, be32_at,
};
use silt_types::{Error, ErrorKind, Result};

/// Most blocks the journal may lay over the disk, 64 MiB to remember: 4 GiB of log at 4 KiB blocks, four times what
/// `mke2fs` makes for the largest disks.
const OVERLAY_BLOCKS_MAX: usize = 1 << 20;

/// In a commit block: what is in use of it, and the time of the commit.
const COMMIT_HEADER_SIZE: usize = 60;
const COMMIT_SECONDS_AT: usize = 48;

/// Where the log ended, and what it lays over the disk.
pub(super) struct Replayed {
    pub(super) overlay: Overlay,
    /// The number that the next transaction would have had.
    pub(super) next_sequence: u32,
}

/// Follows the log from where its superblock says that it begins.
pub(super) fn replay<D: DiskRead>(log: &Log<'_, D>) -> Result<Replayed> {
    let mut replay = Replay {
        log,
        position: log.journal.start,
        sequence: log.journal.sequence,
        blocks_left: log.len(),
        committed_seconds: 0,
        overlay: Overlay::new(),
        buf: vec![0; log.block_size_bytes()],
    };
    while let Some(transaction) = replay.next_transaction()? {
        replay.apply(&transaction)?;
        replay.sequence = replay.sequence.wrapping_add(1);
    }
    Ok(Replayed { overlay: replay.overlay, next_sequence: replay.sequence })
}

struct Replay<'a, D> {
    log: &'a Log<'a, D>,
    position: u32,
    sequence: u32,
    /// Blocks of the ring not yet passed: the log may not meet itself.
    blocks_left: u32,
    /// When the last transaction was committed.
    committed_seconds: u64,
    overlay: Overlay,
    buf: Vec<u8>,
}

/// What a transaction holds, by position in the log.
#[derive(Default)]
struct Transaction {
    writes: Vec<(JournalTag, u32)>,
    revokes: Vec<u32>,
    /// A descriptor or revoke block whose checksum does not hold.
    damaged: Option<u32>,
}

impl<D: DiskRead> Replay<'_, D> {
    /// The next committed transaction, or `None` where the log ends.
    fn next_transaction(&mut self) -> Result<Option<Transaction>> {
        let mut transaction = Transaction::default();
        loop {
            if self.blocks_left == 0 {
                return Ok(None);
            }
            let position = self.position;
            self.log.read(position, &mut self.buf)?;
            let header =
                JournalHeader::decode(&self.buf).filter(|header| header.sequence == self.sequence);
            let Some(header) = header else { return Ok(None) };
            self.pass()?;
            match header.block_type {
                TYPE_COMMIT => return self.judge(transaction),
                TYPE_REVOKE => transaction.revokes.push(position),
                TYPE_DESCRIPTOR => self.take_descriptor(&mut transaction)?,
                _ => return Ok(None),
            }
            if !self.log.journal.block_tail_holds(&self.buf) {
                transaction.damaged.get_or_insert(position);
            }
        }
    }

    /// Notes the blocks that the descriptor in `buf` tells of, and passes over them.
    fn take_descriptor(&mut self, transaction: &mut Transaction) -> Result<()> {
        for tag in self.log.journal.tags(&self.buf) {
            if transaction.writes.len() == OVERLAY_BLOCKS_MAX {
                return Err(too_large());
            }
            transaction.writes.push((tag, self.position));
            self.pass()?;
        }
        Ok(())
    }

    /// Decides about a transaction whose commit block is in `buf`.
    fn judge(&mut self, transaction: Transaction) -> Result<Option<Transaction>> {
        let seconds = u64::from(be32_at(&self.buf, COMMIT_SECONDS_AT)) << 32
            | u64::from(be32_at(&self.buf, COMMIT_SECONDS_AT + 4));
        let committed = self.commit_holds();
        if committed && transaction.damaged.is_none() {
            self.committed_seconds = seconds;
            return Ok(Some(transaction));
        }
        let left_over = seconds < self.committed_seconds;
        if left_over || !(committed || self.is_followed()?) {
            return Ok(None);
        }
        Err(match transaction.damaged {
            Some(position) => {
                self.damage(&format!("the checksum of its block {position} does not match"))
            }
            None => self.damage(
                "the checksum of its commit block does not match, and another transaction follows",
            ),
        })
    }

    /// Whether a sound block of the next transaction stands at the current position.
    fn is_followed(&mut self) -> Result<bool> {
        if self.blocks_left == 0 {
            return Ok(false);
        }
        self.log.read(self.position, &mut self.buf)?;
        Ok(match JournalHeader::decode(&self.buf) {
            Some(header) if header.sequence != self.sequence.wrapping_add(1) => false,
            Some(header) if header.block_type == TYPE_COMMIT => self.commit_holds(),
            Some(_) => self.log.journal.block_tail_holds(&self.buf),
            None => false,
        })
    }

    /// Whether the commit block in `buf` is sound. Only its header counts: what follows is written as zero, so nothing is
    /// lost of a block that was torn behind its first sector.
    fn commit_holds(&mut self) -> bool {
        self.buf[COMMIT_HEADER_SIZE..].fill(0);
        self.log.journal.commit_holds(&self.buf)
    }

    /// Lays the transaction's blocks over the disk, then takes away what it revokes: blocks freed and given to something
    /// that is not logged, up to and with this transaction. What later transactions write there counts again.
    fn apply(&mut self, transaction: &Transaction) -> Result<()> {
        for (tag, position) in &transaction.writes {
            self.log.read(*position, &mut self.buf)?;
            if !self.log.journal.data_holds(tag, self.sequence, &self.buf) {
                return Err(self.damage(&format!(
                    "the checksum of its block for {} does not match",
                    tag.block
                )));
            }
            if tag.block >= self.log.disk_blocks() {
                return Err(
                    self.damage(&format!("it writes block {}, outside the disk", tag.block))
                );
            }
            let at = self.log.place(*position)?;
            self.overlay
                .insert(tag.block, LoggedBlock { at, escaped: tag.flags & TAG_ESCAPED != 0 });
            if self.overlay.len() > OVERLAY_BLOCKS_MAX {
                return Err(too_large());
            }
        }
        for position in &transaction.revokes {
            self.log.read(*position, &mut self.buf)?;
            for block in self.log.journal.revoked_blocks(&self.buf)? {
                self.overlay.remove(&block);
            }
        }
        Ok(())
    }

    /// Goes on to the next block of the ring, which must not be one where the log has been.
    fn pass(&mut self) -> Result<()> {
        let left = self.blocks_left.checked_sub(1);
        self.blocks_left = left.ok_or_else(|| self.damage("it is longer than the log"))?;
        self.position = self.log.after(self.position);
        Ok(())
    }

    fn damage(&self, what: &str) -> Error {
        Error::corrupt(format!("journal: transaction {} cannot be replayed: {what}", self.sequence))
    }
}

fn too_large() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("journal: it holds more than {OVERLAY_BLOCKS_MAX} blocks"),
    )
}
