//! A disk in memory over NBD, to measure the export alone: `nbd_memory SOCKET SIZE_MIB [cold]`.
//!
//! Ends on SIGTERM. With `cold`, no read is hot: every one takes the way through the workers.

use silt_export::{
    Export as _, StopSignal,
    nbd::{Listen, Server},
};
use silt_sys::iobuf::{IoBuf, IoBufMut};
use silt_types::{Error, Result};
use silt_volume::{BlockDevice, BlockStatus, Geometry};
use std::sync::{Arc, PoisonError, RwLock};

const SHARD_BYTES: usize = 1 << 20;

/// Memory under a lock for each MiB, so that readers and writers do not meet.
struct Shards {
    shards: Vec<RwLock<Box<[u8]>>>,
    is_cold: bool,
}

impl Shards {
    fn each(
        &self,
        offset: u64,
        len: usize,
        mut visit: impl FnMut(&RwLock<Box<[u8]>>, usize, std::ops::Range<usize>),
    ) -> Result<()> {
        let mut done = 0;
        while done < len {
            let at = offset as usize + done;
            let (shard, start) = (at / SHARD_BYTES, at % SHARD_BYTES);
            let part = (len - done).min(SHARD_BYTES - start);
            let shard = self.shards.get(shard).ok_or_else(|| Error::invalid("beyond the disk"))?;
            visit(shard, start, done..done + part);
            done += part;
        }
        Ok(())
    }
}

impl BlockDevice for Shards {
    fn geometry(&self) -> Geometry {
        Geometry { size_bytes: (self.shards.len() * SHARD_BYTES) as u64, read_only: false }
    }

    fn readv_at(&self, mut buf: IoBufMut<'_>, offset: u64) -> Result<()> {
        self.each(offset, buf.len(), |shard, start, part| {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            let len = part.len();
            buf.take(len).copy_from(&shard[start..start + len]);
        })
    }

    fn read_hot(&self, buf: IoBufMut<'_>, offset: u64) -> Result<bool> {
        if self.is_cold { Ok(false) } else { self.readv_at(buf, offset).map(|()| true) }
    }

    fn writev_at(&self, mut buf: IoBuf<'_>, offset: u64) -> Result<()> {
        self.each(offset, buf.len(), |shard, start, part| {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            buf.take(part.len()).copy_to(&mut shard[start..start + part.len()]);
        })
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn discard(&self, _offset: u64, _len_bytes: u64) -> Result<()> {
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len_bytes: u64, _may_unmap: bool) -> Result<()> {
        self.each(offset, len_bytes as usize, |shard, start, part| {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard[start..start + part.len()].fill(0);
        })
    }

    fn block_status(&self, _: u64, len_bytes: u64, _: usize) -> Result<Vec<BlockStatus>> {
        Ok(vec![BlockStatus { len_bytes, hole: false, zero: false }])
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let (Some(path), Some(Ok(mib))) = (arguments.get(1), arguments.get(2).map(|mib| mib.parse()))
    else {
        return Err(Error::invalid("usage: nbd_memory SOCKET SIZE_MIB [cold]"));
    };
    // Written once, so that no page fault is measured.
    let shards = (0..mib).map(|_: usize| RwLock::new(vec![1; SHARD_BYTES].into())).collect();
    let device = Shards { shards, is_cold: arguments.get(3).is_some_and(|word| word == "cold") };
    let stop = StopSignal::new()?;
    stop.trigger_on_termination()?;
    Server::bind(&Listen::Unix(path.into()))?.run(Arc::new(device), &stop)
}
