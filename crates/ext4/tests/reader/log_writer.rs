//! Writes a journal's log by hand, in every form there is, over a disk held in memory. Big-endian throughout.

use silt_ext4::{
    format::checksum::crc32c,
    reader::{Ext4, InodeNumber},
};

pub(super) const REVOKE: u32 = 1;
pub(super) const WIDE: u32 = 2;
pub(super) const ASYNC: u32 = 4;
pub(super) const V2: u32 = 8;
pub(super) const V3: u32 = 16;
pub(super) const FAST: u32 = 32;

const MAGIC: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];
const UUID: [u8; 16] = *b"a uuid of a log.";

/// A log that grows at its end.
pub(super) struct LogWriter<'a> {
    disk: &'a mut [u8],
    block_size: usize,
    /// Where the blocks of the journal lie on the disk; the ring ends with the last.
    journal: Vec<u64>,
    features: u32,
    /// The next block of the log, and the transaction it belongs to.
    pub(super) position: usize,
    pub(super) sequence: u32,
    /// The commit blocks are dated by this.
    pub(super) seconds: u64,
}

impl<'a> LogWriter<'a> {
    /// Begins the log at block `start` of the journal, and says in the superblocks that it must be replayed.
    pub(super) fn new(
        disk: &'a mut [u8],
        block_size: usize,
        journal: &[u64],
        features: u32,
        start: usize,
    ) -> LogWriter<'a> {
        // The disk itself has no checksums.
        disk[1024 + 0x60] |= 4;
        let mut log = LogWriter {
            disk,
            block_size,
            journal: journal.to_vec(),
            features,
            position: start,
            sequence: u32::MAX,
            seconds: 1000,
        };
        log.write_superblock(start);
        log
    }

    fn write_superblock(&mut self, start: usize) {
        let at = self.journal[0] as usize * self.block_size;
        let block = &mut self.disk[at..at + 1024];
        for (offset, value) in
            [(0x18, self.sequence), (0x1C, start as u32), (0x28, self.features), (0xFC, 0)]
        {
            block[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
        }
        block[0x30..0x40].copy_from_slice(&UUID);
        block[0x50] = 4;
        let sum = crc32c(!0, block);
        block[0xFC..0x100].copy_from_slice(&sum.to_be_bytes());
    }

    fn seed(&self) -> u32 {
        crc32c(!0, &UUID)
    }

    fn has_checksums(&self) -> bool {
        self.features & (V2 | V3) != 0
    }

    /// Appends a block to the log, and gives its place on the disk in bytes.
    pub(super) fn put(&mut self, block: &[u8]) -> usize {
        let at = self.journal[self.position] as usize * self.block_size;
        self.disk[at..at + block.len()].copy_from_slice(block);
        self.position = if self.position + 1 < self.journal.len() { self.position + 1 } else { 1 };
        at
    }

    fn header(&self, kind: u32) -> Vec<u8> {
        [&MAGIC[..], &kind.to_be_bytes(), &self.sequence.to_be_bytes()].concat()
    }

    fn put_sealed(&mut self, mut block: Vec<u8>) -> usize {
        block.resize(self.block_size, 0);
        if self.has_checksums() {
            let sum = crc32c(self.seed(), &block);
            block[self.block_size - 4..].copy_from_slice(&sum.to_be_bytes());
        }
        self.put(&block)
    }

    /// A descriptor and the blocks it tells of: home and content. The first tag carries a UUID.
    pub(super) fn write(&mut self, blocks: &[(u64, Vec<u8>)]) -> usize {
        let mut descriptor = self.header(1);
        let mut logged = Vec::new();
        for (index, (home, content)) in blocks.iter().enumerate() {
            let mut content = content.clone();
            content.resize(self.block_size, 0);
            let escaped = content.starts_with(&MAGIC);
            if escaped {
                content[..4].fill(0);
            }
            let sum = crc32c(crc32c(self.seed(), &self.sequence.to_be_bytes()), &content);
            let last = index + 1 == blocks.len();
            let flags =
                u32::from(escaped) | if index > 0 { 2 } else { 0 } | if last { 8 } else { 0 };
            self.push_tag(&mut descriptor, *home, flags, sum);
            if index == 0 {
                descriptor.extend(UUID);
            }
            logged.push(content);
        }
        let at = self.put_sealed(descriptor);
        for content in logged {
            self.put(&content);
        }
        at
    }

    fn push_tag(&self, descriptor: &mut Vec<u8>, home: u64, flags: u32, sum: u32) {
        let high = ((home >> 32) as u32).to_be_bytes();
        descriptor.extend((home as u32).to_be_bytes());
        if self.features & V3 != 0 {
            descriptor.extend(flags.to_be_bytes());
            descriptor.extend(high);
            descriptor.extend(sum.to_be_bytes());
            return;
        }
        descriptor.extend(if self.features & V2 != 0 {
            (sum as u16).to_be_bytes()
        } else {
            [0; 2]
        });
        descriptor.extend((flags as u16).to_be_bytes());
        if self.features & WIDE != 0 {
            descriptor.extend(high);
        }
        if self.features & V2 != 0 {
            descriptor.extend([0; 2]);
        }
    }

    pub(super) fn revoke(&mut self, blocks: &[u64]) -> usize {
        let mut block = self.header(5);
        let wide = self.features & WIDE != 0;
        let used = 16 + blocks.len() * if wide { 8 } else { 4 };
        block.extend((used as u32).to_be_bytes());
        for revoked in blocks {
            block.extend(&revoked.to_be_bytes()[if wide { 0 } else { 4 }..]);
        }
        self.put_sealed(block)
    }

    /// Ends the transaction.
    pub(super) fn commit(&mut self) -> usize {
        let mut block = self.header(2);
        block.resize(self.block_size, 0);
        block[48..56].copy_from_slice(&self.seconds.to_be_bytes());
        if self.has_checksums() {
            let sum = crc32c(self.seed(), &block);
            block[16..20].copy_from_slice(&sum.to_be_bytes());
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.put(&block)
    }

    /// Changes one byte of what was written.
    pub(super) fn damage(&mut self, at: usize) {
        self.disk[at] ^= 0x40;
    }

    /// A fast commit that follows transaction `self.sequence - 1`, in block `at` of the disk.
    pub(super) fn fast_commit(&mut self, at: u64) {
        let at = at as usize * self.block_size;
        let tid = self.sequence.to_le_bytes();
        let head = [&9u16.to_le_bytes()[..], &8u16.to_le_bytes(), &[0; 4], &tid].concat();
        self.disk[at..at + head.len()].copy_from_slice(&head);
    }
}

/// Where the blocks of inode `number` lie on `disk`, those behind its content included.
pub(super) fn blocks_of(disk: &Vec<u8>, number: u32) -> Vec<u64> {
    let ext4 = Ext4::open(disk).unwrap();
    let inode = ext4.inode(InodeNumber::new(number).unwrap()).unwrap();
    let extents = ext4.extents(&inode).map(Result::unwrap);
    extents.flat_map(|extent| extent.physical..extent.physical + extent.len).collect()
}
