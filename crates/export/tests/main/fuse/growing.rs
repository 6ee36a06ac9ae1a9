//! A disk that is given another length while its file is open.

use super::mounted::Mounted;
use rustix::fs::{Mode, OFlags};
use silt_sys::iobuf::{IoBuf, IoBufMut};
use silt_types::Result;
use silt_volume::{BlockDevice, BlockStatus, Geometry, MemoryDevice};
use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// A disk of which so much is there.
struct Growing {
    inner: MemoryDevice,
    size: AtomicU64,
}

impl BlockDevice for Growing {
    fn geometry(&self) -> Geometry {
        Geometry { size_bytes: self.size.load(Ordering::Relaxed), read_only: false }
    }

    fn readv_at(&self, buf: IoBufMut<'_>, offset: u64) -> Result<()> {
        self.inner.readv_at(buf, offset)
    }

    fn writev_at(&self, buf: IoBuf<'_>, offset: u64) -> Result<()> {
        self.inner.writev_at(buf, offset)
    }

    fn flush(&self) -> Result<()> {
        self.inner.flush()
    }

    fn discard(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.inner.discard(offset, len_bytes)
    }

    fn write_zeroes(&self, offset: u64, len_bytes: u64, may_unmap: bool) -> Result<()> {
        self.inner.write_zeroes(offset, len_bytes, may_unmap)
    }

    fn block_status(&self, offset: u64, len: u64, runs_max: usize) -> Result<Vec<BlockStatus>> {
        self.inner.block_status(offset, len, runs_max)
    }
}

#[test]
fn a_fuse_file_is_as_long_as_its_disk_is_now_for_whoever_has_it_open() {
    const OLD: u64 = 1 << 20;
    const NEW: u64 = 2 << 20;
    let inner = MemoryDevice::new(vec![7; NEW as usize], false);
    let device = Arc::new(Growing { inner, size: AtomicU64::new(OLD) });
    let mounted = Mounted::serve(device.clone());
    for flags in [OFlags::RDWR, OFlags::RDWR | OFlags::DIRECT] {
        device.size.store(OLD, Ordering::Relaxed);
        let file = File::from(rustix::fs::open(&mounted.file, flags, Mode::empty()).unwrap());
        assert_eq!(file.metadata().unwrap().len(), OLD);
        assert_eq!(file.read_at(&mut [0; 4096], OLD).unwrap(), 0);
        assert!(file.write_all_at(&[1; 4096], OLD).is_err());
        device.size.store(NEW, Ordering::Relaxed);
        assert_eq!(file.metadata().unwrap().len(), NEW);
        let mut found = [0; 4096];
        file.read_exact_at(&mut found, NEW - 4096).unwrap();
        assert_eq!(found, [7; 4096]);
        file.write_all_at(&[7; 4096], NEW - 4096).unwrap();
        file.sync_all().unwrap();
    }
}
