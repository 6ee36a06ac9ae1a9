//! The bytes of one file in memory, sparse: what is not there is a hole.
//!
//! Not a cache of anything on disk: power-cut states are put together from these. Pages are shared between
//! copies, so a copy costs its page table. Invariant: nothing but zero lies at or beyond `size`.

use std::{
    collections::BTreeMap,
    fs::File,
    hash::{Hash, Hasher},
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use rustix::{fs::SeekFrom, io::Errno};

/// What a disk writes whole or not at all, in bytes.
pub(super) const SECTOR: u64 = 512;
/// The unit in which holes are kept, in bytes.
const PAGE: u64 = 4096;

/// The bytes of one file.
#[derive(Clone, Default)]
pub(super) struct Content {
    size: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE as usize]>>,
}

impl Content {
    /// Reads `file`, keeping its holes.
    pub(super) fn read(file: &File) -> io::Result<Content> {
        let mut content = Content { size: file.metadata()?.len(), ..Content::default() };
        let mut at = 0;
        loop {
            let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(Errno::NXIO) => return Ok(content),
                Err(error) => return Err(error.into()),
            };
            let hole = rustix::fs::seek(file, SeekFrom::Hole(data))?;
            for page in data / PAGE..hole.div_ceil(PAGE) {
                let mut bytes = [0; PAGE as usize];
                let length = PAGE.min(content.size.saturating_sub(page * PAGE));
                file.read_exact_at(&mut bytes[..length as usize], page * PAGE)?;
                content.pages.insert(page, Arc::new(bytes));
            }
            at = hole;
        }
    }

    /// Writes everything into `file`, which is empty.
    pub(super) fn write_to(&self, file: &File) -> io::Result<()> {
        file.set_len(self.size)?;
        for (page, bytes) in &self.pages {
            let length = PAGE.min(self.size.saturating_sub(page * PAGE));
            file.write_all_at(&bytes[..length as usize], page * PAGE)?;
        }
        Ok(())
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Writes `bytes` at `offset`, growing where they end beyond the size.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let within = (at % PAGE) as usize;
            let length = rest.len().min(PAGE as usize - within);
            self.page_mut(at / PAGE)[within..within + length].copy_from_slice(&rest[..length]);
            rest = &rest[length..];
            at += length as u64;
        }
        self.size = self.size.max(at);
    }

    /// Sets the size; what lay beyond it is gone.
    pub(super) fn truncate(&mut self, size: u64) {
        self.punch(size..u64::MAX);
        self.size = size;
    }

    /// Makes a range read as zero; whole pages of it become holes. The size stays.
    pub(super) fn punch(&mut self, range: Range<u64>) {
        let whole = range.start.div_ceil(PAGE)..range.end / PAGE;
        if whole.is_empty() {
            return self.clear(range);
        }
        self.clear(range.start..whole.start * PAGE);
        self.clear(whole.end * PAGE..range.end);
        let gone: Vec<u64> = self.pages.range(whole).map(|(page, _)| *page).collect();
        for page in gone {
            self.pages.remove(&page);
        }
    }

    /// Zeroes a range inside at most two pages.
    fn clear(&mut self, range: Range<u64>) {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / PAGE + 1).saturating_mul(PAGE));
            if let Some(bytes) = self.pages.get_mut(&(at / PAGE)) {
                let within = (at % PAGE) as usize;
                Arc::make_mut(bytes)[within..within + (end - at) as usize].fill(0);
            }
            at = end;
        }
    }

    /// Takes over one sector of `other`, and nothing of its size.
    pub(super) fn adopt_sector(&mut self, other: &Content, sector: u64) {
        let at = sector * SECTOR;
        match other.pages.get(&(at / PAGE)) {
            None => self.clear(at..at + SECTOR),
            Some(bytes) => {
                let within = (at % PAGE) as usize..(at % PAGE + SECTOR) as usize;
                self.page_mut(at / PAGE)[within.clone()].copy_from_slice(&bytes[within]);
            }
        }
    }

    /// Grows or shrinks to `size` without forgetting what lies beyond: [`Content::trim`] ends such a time.
    pub(super) fn set_size_only(&mut self, size: u64) {
        self.size = size;
    }

    /// Drops what lies beyond the size.
    pub(super) fn trim(&mut self) {
        self.truncate(self.size);
    }

    fn page_mut(&mut self, page: u64) -> &mut [u8; PAGE as usize] {
        Arc::make_mut(self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE as usize])))
    }
}

impl Hash for Content {
    /// Equal bytes and equal size hash alike whatever the holes.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.size.hash(state);
        for (page, bytes) in &self.pages {
            if bytes.iter().any(|byte| *byte != 0) {
                page.hash(state);
                state.write(&bytes[..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(content: &Content) -> Vec<u8> {
        let file = tempfile::tempfile().unwrap();
        content.write_to(&file).unwrap();
        let mut bytes = vec![0; content.size() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn writes_punches_and_truncations_read_back_like_a_flat_file() {
        let mut content = Content::default();
        content.write(4000, &[1; 5000]);
        content.punch(4100..8500);
        content.truncate(8600);
        content.truncate(10_000);
        let mut flat = vec![0; 10_000];
        flat[4000..8600].fill(1);
        flat[4100..8500].fill(0);
        assert_eq!(bytes(&content), flat);
    }

    #[test]
    fn a_file_read_back_from_disk_hashes_like_the_one_written() {
        let mut content = Content::default();
        content.write(100_000, b"data");
        content.truncate(300_000);
        let file = tempfile::tempfile().unwrap();
        content.write_to(&file).unwrap();
        let read = Content::read(&file).unwrap();
        assert_eq!(read.pages.len(), 1);
        let hash = |content: &Content| {
            let mut hasher = std::hash::DefaultHasher::new();
            content.hash(&mut hasher);
            hasher.finish()
        };
        assert_eq!(hash(&read), hash(&content));
    }

    #[test]
    fn a_sector_is_taken_over_alone() {
        let mut old = Content::default();
        old.write(0, &[1; 2048]);
        let mut new = Content::default();
        new.write(0, &[2; 2048]);
        old.adopt_sector(&new, 2);
        let read = bytes(&old);
        assert!(read[..1024].iter().all(|byte| *byte == 1));
        assert!(read[1024..1536].iter().all(|byte| *byte == 2));
        assert!(read[1536..].iter().all(|byte| *byte == 1));
    }
}
