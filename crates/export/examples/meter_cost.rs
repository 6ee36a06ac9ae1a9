//! What counting a read costs, in nanoseconds, by one thread and by two: `cargo run --release -p silt-export --example
//! meter_cost`.

use silt_export::{Limited, Limits, Metered, Rate, StopSignal};
use silt_sys::iobuf::{IoBuf, IoBufMut};
use silt_types::Result;
use silt_volume::{BlockDevice, BlockStatus, Geometry};
use std::{
    io::{self, Write as _},
    sync::Arc,
    thread,
    time::Instant,
};

const READS: u32 = 20_000_000;

/// A device that does nothing.
struct Nothing;

impl BlockDevice for Nothing {
    fn geometry(&self) -> Geometry {
        Geometry { size_bytes: 1 << 30, read_only: false }
    }
    fn readv_at(&self, _: IoBufMut<'_>, _: u64) -> Result<()> {
        Ok(())
    }
    fn read_hot(&self, _: IoBufMut<'_>, _: u64) -> Result<bool> {
        Ok(true)
    }
    fn writev_at(&self, _: IoBuf<'_>, _: u64) -> Result<()> {
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn discard(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
    fn write_zeroes(&self, _: u64, _: u64, _: bool) -> Result<()> {
        Ok(())
    }
    fn block_status(&self, _: u64, _: u64, _: usize) -> Result<Vec<BlockStatus>> {
        Ok(Vec::new())
    }
}

fn nanoseconds(device: &dyn BlockDevice, threads: u32) -> f64 {
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buf = [0; 16];
                (0..READS).for_each(|_| drop(device.read_hot(buf.as_mut_slice().into(), 0)));
            });
        }
    });
    started.elapsed().as_secs_f64() * 1e9 / f64::from(READS)
}

fn main() -> io::Result<()> {
    let nothing: Arc<dyn BlockDevice> = Arc::new(Nothing);
    let metered = Arc::new(Metered::new(nothing.clone()));
    let endless = Rate::new(u64::MAX / 2, None);
    let limits = Limits { iops: endless, bandwidth: endless };
    let stop = StopSignal::new().map_err(io::Error::other)?;
    let limited = Arc::new(Limited::new(nothing.clone(), limits, stop));
    let devices: [(&str, Arc<dyn BlockDevice>); 3] =
        [("nothing", nothing), ("metered", metered), ("limited", limited)];
    let mut out = io::stdout().lock();
    for (name, device) in devices {
        let (one, two) = (nanoseconds(device.as_ref(), 1), nanoseconds(device.as_ref(), 2));
        writeln!(out, "{name:<10} {one:6.1} {two:6.1}")?;
    }
    Ok(())
}
