//! A guest's memory, as its monitor shares it: pieces of files, each at a guest address, mapped here.
//!
//! A file must be long enough when it is shared. A monitor that shortens it later kills the server with SIGBUS as soon as
//! that memory is touched, as `kill -9` would: it ends its own disk, and what was flushed is safe. Where the files are
//! sealed against shrinking (QEMU's `memory-backend-memfd`), it cannot.

use super::{
    dirty_log::{DirtyLog, RegionLog},
    limits::MEMORY_SLOTS_MAX,
};
use rustix::{
    fs::fstat,
    mm::{MapFlags, ProtFlags},
};
use std::{fs::File, sync::Arc};
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
    bitmap::Bitmap, mmap::MmapRegionBuilder,
};

/// The memory of a guest, mapped. Writes through it are logged if the monitor wants that.
pub(super) type GuestMemory = GuestMemoryMmap<RegionLog>;

/// Why something that a monitor offered was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) &'static str);

/// What a monitor shared.
#[derive(Debug, Default)]
pub(super) struct MemoryTable {
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    guest: u64,
    user: u64,
    len: u64,
    file: Arc<File>,
    offset: u64,
}

impl Slot {
    fn new(region: &VhostUserMemoryRegion, file: File) -> Slot {
        Slot {
            guest: region.guest_phys_addr,
            user: region.user_addr,
            len: region.memory_size,
            file: Arc::new(file),
            offset: region.mmap_offset,
        }
    }

    fn is(&self, region: &VhostUserMemoryRegion) -> bool {
        (self.guest, self.user, self.len)
            == (region.guest_phys_addr, region.user_addr, region.memory_size)
    }
}

impl MemoryTable {
    /// All of it, one file for each region.
    pub(super) fn new(regions: &[VhostUserMemoryRegion], files: Vec<File>) -> MemoryTable {
        let slots = regions.iter().zip(files).map(|(region, file)| Slot::new(region, file));
        MemoryTable { slots: slots.collect() }
    }

    /// One region more.
    pub(super) fn add(
        &mut self,
        region: &VhostUserMemoryRegion,
        file: File,
    ) -> Result<(), Refused> {
        if self.slots.len() >= MEMORY_SLOTS_MAX {
            return Err(Refused("there is no slot left for more memory"));
        }
        self.slots.push(Slot::new(region, file));
        Ok(())
    }

    /// One region less.
    pub(super) fn remove(&mut self, region: &VhostUserMemoryRegion) -> Result<(), Refused> {
        let found = self.slots.iter().position(|slot| slot.is(region));
        let at = found.ok_or(Refused("there is no such memory region"))?;
        self.slots.remove(at);
        Ok(())
    }

    /// Maps all of it; `None` where nothing is shared. Refused where regions overlap, end beyond the address space or
    /// their file, or have a page that `log` has no bit for.
    pub(super) fn map(&self, log: Option<&Arc<DirtyLog>>) -> Result<Option<GuestMemory>, Refused> {
        if self.slots.is_empty() {
            return Ok(None);
        }
        let mut regions =
            self.slots.iter().map(|slot| slot.map(log)).collect::<Result<Vec<_>, _>>()?;
        regions.sort_by_key(GuestMemoryRegion::start_addr);
        let memory = GuestMemory::from_regions(regions);
        memory.map(Some).map_err(|_| Refused("memory regions overlap"))
    }

    /// The guest address of an address of the monitor's.
    pub(super) fn guest_address(&self, user: u64) -> Option<u64> {
        self.slots.iter().find_map(|slot| {
            let offset = user.checked_sub(slot.user).filter(|offset| *offset < slot.len)?;
            Some(slot.guest + offset)
        })
    }
}

impl Slot {
    fn map(&self, log: Option<&Arc<DirtyLog>>) -> Result<GuestRegionMmap<RegionLog>, Refused> {
        let beyond = Refused("a memory region ends beyond the address space");
        let end = self.guest.checked_add(self.len).ok_or(beyond)?;
        if log.is_some_and(|log| !log.covers(end)) {
            return Err(Refused("the dirty log is too small for the memory"));
        }
        let log = RegionLog { log: log.cloned(), start: self.guest };
        let mapping = map_shared(self.file.clone(), self.offset, self.len, log)?;
        GuestRegionMmap::new(mapping, GuestAddress(self.guest)).ok_or(beyond)
    }
}

/// Maps a part of a file of a monitor's that is not empty and lies within the file.
pub(super) fn map_shared<B: Bitmap>(
    file: Arc<File>,
    offset: u64,
    len: u64,
    log: B,
) -> Result<MmapRegion<B>, Refused> {
    let end = offset.checked_add(len).filter(|_| len > 0);
    let file_len = fstat(&*file).map_or(0, |stat| stat.st_size as u64);
    if end.is_none_or(|end| end > file_len || i64::try_from(end).is_err()) {
        return Err(Refused("shared memory ends beyond its file"));
    }
    let len = usize::try_from(len).map_err(|_| Refused("shared memory is too large"))?;
    MmapRegionBuilder::new_with_bitmap(len, log)
        .with_mmap_prot((ProtFlags::READ | ProtFlags::WRITE).bits() as i32)
        .with_mmap_flags((MapFlags::SHARED | MapFlags::NORESERVE).bits() as i32)
        .with_file_offset(FileOffset::from_arc(file, offset))
        .build()
        .map_err(|_| Refused("shared memory cannot be mapped"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(len: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        file
    }

    fn region(guest: u64, len: u64, user: u64, offset: u64) -> VhostUserMemoryRegion {
        VhostUserMemoryRegion::new(guest, len, user, offset)
    }

    #[test]
    fn what_cannot_be_memory_is_refused() {
        let cases: [(&str, &[VhostUserMemoryRegion]); 6] = [
            ("longer than its file", &[region(0, 8192, 0, 4096)]),
            ("an offset that overflows", &[region(0, 4096, 0, u64::MAX - 4095)]),
            ("an address that overflows", &[region(u64::MAX - 4095, 8192, 0, 0)]),
            ("an offset within a page", &[region(0, 4096, 0, 512)]),
            ("empty", &[region(0, 0, 0, 0)]),
            ("one over the other", &[region(0, 8192, 0, 0), region(4096, 4096, 1 << 30, 0)]),
        ];
        for (case, regions) in cases {
            let files = regions.iter().map(|_| file(8192)).collect();
            assert!(MemoryTable::new(regions, files).map(None).is_err(), "{case}");
        }
    }

    #[test]
    fn slots_come_and_go_and_translate() {
        let mut table = MemoryTable::default();
        assert!(table.map(None).unwrap().is_none());
        for slot in 0..MEMORY_SLOTS_MAX as u64 {
            // The higher ones come first.
            let guest = (1 << 30) - slot * 4096;
            table.add(&region(guest, 4096, slot << 40, 0), file(4096)).unwrap();
        }
        assert!(table.add(&region(0, 4096, 0, 0), file(4096)).is_err());
        table.map(None).unwrap().unwrap();
        assert_eq!(table.guest_address((2 << 40) + 5), Some((1 << 30) - 2 * 4096 + 5));
        assert_eq!(table.guest_address((2 << 40) + 4096), None);
        table.remove(&region((1 << 30) - 2 * 4096, 4096, 2 << 40, 0)).unwrap();
        assert!(table.remove(&region((1 << 30) - 2 * 4096, 4096, 2 << 40, 0)).is_err());
        assert_eq!(table.guest_address(2 << 40), None);
    }

    #[test]
    fn a_log_must_cover_all_memory() {
        let table = MemoryTable::new(&[region(4096 << 15, 4096, 0, 0)], vec![file(4096)]);
        let log = Arc::new(DirtyLog::map(file(4096), 0, 4096).unwrap());
        assert!(table.map(Some(&log)).is_err());
    }
}
