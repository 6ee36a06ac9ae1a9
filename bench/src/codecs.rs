//! Codecs by themselves: what the distinct chunks of tree 2 cost and weigh, each compressed alone.
//!
//! One thread and processor time: unlike a build's wall time, this is the same on a busy machine.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::table::Table;
use crate::theory::Distinct;
use crate::{Bench, Result, trees};

/// A codec under test and what it has done so far.
struct Codec {
    name: String,
    zstd: Option<(zstd::bulk::Compressor<'static>, zstd::bulk::Decompressor<'static>)>,
    encode: Duration,
    decode: Duration,
    bytes: u64,
}

/// Encodes and decodes every distinct step of tree 2 with each codec.
pub fn run(bench: &Bench) -> Result<Vec<Table>> {
    let tree = trees::debian(bench, 2)?;
    let mut codecs = vec![Codec::new("lz4", None)?];
    for level in [-7, -5, -3, -1, 1, 2, 3, 6, 9] {
        codecs.push(Codec::new(&format!("zstd:{level}"), Some(level))?);
    }
    let mut theory = Distinct::default();
    let mut hash = Duration::ZERO;
    theory.add(&tree, &mut |step| {
        let start = processor_time();
        std::hint::black_box(blake3::hash(step));
        hash += processor_time() - start;
        codecs.iter_mut().try_for_each(|codec| codec.pass(step))
    })?;
    let plain = theory.bytes as f64;
    let mut table = Table::new(format!(
        "Codecs on the {:.0} MB of distinct file data of Debian tree 2",
        plain / 1e6
    ));
    let rate = |time: Duration| plain / 1e6 / time.as_secs_f64();
    table.alone("BLAKE3, for comparison", rate(hash), "MB/s", "");
    for codec in &codecs {
        table.alone(&format!("{}: stored", codec.name), codec.bytes as f64 / 1e6, "MB", "");
        table.alone("  encode", rate(codec.encode), "MB/s", "");
        table.alone("  decode", rate(codec.decode), "MB/s", "");
    }
    table.note(
        "each step of up to 64 KiB by itself; stored raw where a codec saves less than a sixteenth",
    );
    table.note("one thread, processor time");
    Ok(vec![table])
}

impl Codec {
    /// A Zstandard level, or LZ4.
    fn new(name: &str, level: Option<i32>) -> Result<Self> {
        let zstd = match level {
            None => None,
            Some(level) => {
                let mut encoder = zstd::bulk::Compressor::new(level)?;
                encoder.include_checksum(false)?;
                encoder.include_contentsize(false)?;
                Some((encoder, zstd::bulk::Decompressor::new()?))
            }
        };
        let (encode, decode) = (Duration::ZERO, Duration::ZERO);
        Ok(Self { name: name.to_owned(), zstd, encode, decode, bytes: 0 })
    }

    fn pass(&mut self, step: &[u8]) -> Result<()> {
        let start = processor_time();
        let stored = match &mut self.zstd {
            None => lz4_flex::block::compress(step),
            Some((encoder, _)) => encoder.compress(step)?,
        };
        let encoded = processor_time();
        self.encode += encoded - start;
        if stored.len() > step.len() - step.len() / 16 {
            self.bytes += step.len() as u64;
            return Ok(());
        }
        self.bytes += stored.len() as u64;
        let plain = match &mut self.zstd {
            None => lz4_flex::block::decompress(&stored, step.len())?,
            Some((_, decoder)) => decoder.decompress(&stored, step.len())?,
        };
        self.decode += processor_time() - encoded;
        if plain != step {
            return Err(format!("{} gives other bytes back", self.name).into());
        }
        Ok(())
    }
}

fn processor_time() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}
