//! Which pages of a guest's memory the server has written: what a monitor that copies a running guest must copy again.
//!
//! One bit for each page of 4 KiB of guest address space, in memory of the monitor's ("Migration" in the vhost-user
//! specification). Ring and status bytes are marked by the memory they are written through ([`RegionLog`]); the data of a
//! read, which the kernel or the device puts there, is marked when it is answered.

use super::memory::{Refused, map_shared};
use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};
use vm_memory::{
    MmapRegion, VolatileMemory as _,
    bitmap::{Bitmap, BitmapSlice, WithBitmapSlice},
};

const PAGE_BYTES: u64 = 4096;
const PAGES_PER_BYTE: u64 = 8;

/// The log of one monitor.
#[derive(Debug)]
pub(super) struct DirtyLog(MmapRegion<()>);

impl DirtyLog {
    /// The log that lies at `offset` of a file. Refused if the file is shorter.
    pub(super) fn map(file: File, offset: u64, len: u64) -> Result<DirtyLog, Refused> {
        map_shared(Arc::new(file), offset, len, ()).map(DirtyLog)
    }

    /// Whether it has a bit for every page below this guest address.
    pub(super) fn covers(&self, end: u64) -> bool {
        end.div_ceil(PAGE_BYTES * PAGES_PER_BYTE) <= self.0.size() as u64
    }

    /// Marks every page that has a byte of the range.
    pub(super) fn mark(&self, start: u64, len: u64) {
        if len == 0 {
            return;
        }
        let (mut page, last) = (start / PAGE_BYTES, start.saturating_add(len - 1) / PAGE_BYTES);
        while page <= last {
            let (byte, bit) = (page / PAGES_PER_BYTE, page % PAGES_PER_BYTE);
            let bits = (last - page + 1).min(PAGES_PER_BYTE - bit);
            let mask = (u8::MAX >> (PAGES_PER_BYTE - bits)) << bit;
            // Memory that the log does not cover was refused; there is nothing to mark beyond.
            let Ok(pages) = self.0.get_atomic_ref::<AtomicU8>(byte as usize) else { return };
            pages.fetch_or(mask, Ordering::Relaxed);
            page += bits;
        }
    }
}

/// The log of a region of guest memory that starts at an address, if writes are logged at all.
#[derive(Clone, Debug, Default)]
pub(super) struct RegionLog {
    pub(super) log: Option<Arc<DirtyLog>>,
    pub(super) start: u64,
}

/// A part of a [`RegionLog`].
#[derive(Clone, Debug)]
pub(super) struct RegionLogSlice<'a> {
    log: Option<&'a DirtyLog>,
    start: u64,
}

impl<'a> WithBitmapSlice<'a> for RegionLog {
    type S = RegionLogSlice<'a>;
}

impl Bitmap for RegionLog {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.slice_at(0).mark_dirty(offset, len);
    }

    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, offset: usize) -> RegionLogSlice<'_> {
        RegionLogSlice { log: self.log.as_deref(), start: self.start + offset as u64 }
    }
}

impl<'a> WithBitmapSlice<'_> for RegionLogSlice<'a> {
    type S = RegionLogSlice<'a>;
}

impl BitmapSlice for RegionLogSlice<'_> {}

impl<'a> Bitmap for RegionLogSlice<'a> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if let Some(log) = self.log {
            log.mark(self.start + offset as u64, len as u64);
        }
    }

    /// Nobody here asks: the monitor reads the log itself.
    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, offset: usize) -> RegionLogSlice<'a> {
        RegionLogSlice { log: self.log, start: self.start + offset as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn exactly_the_touched_pages_are_marked() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let log = DirtyLog::map(file.try_clone().unwrap(), 0, 4096).unwrap();
        log.mark(4095, 2);
        log.mark(7 * 4096, 20 * 4096);
        log.mark(40 * 4096, 1);
        log.mark(50 * 4096, 0);
        log.mark(u64::MAX - 5, 100);
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let expected: u64 = 0b11 | ((1 << 20) - 1) << 7 | 1 << 40;
        assert_eq!(u64::from_le_bytes(bytes), expected);
        assert!(log.covers(4096 * 8 * 4096) && !log.covers(4096 * 8 * 4096 + 1));
    }

    #[test]
    fn a_log_beyond_the_end_of_its_file_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        for (offset, len) in [(0, 4097), (4096, 1), (u64::MAX, 2), (0, 0), (1, 4095)] {
            let file = file.try_clone().unwrap();
            assert!(DirtyLog::map(file, offset, len).is_err(), "{len} at {offset}");
        }
    }
}
