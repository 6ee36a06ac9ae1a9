//! Tars as sources: one pass over a stream, nothing is unpacked to disk.

mod acl;
mod pax;
mod reader;
mod sparse;
#[cfg(test)]
mod tests;

pub(crate) use reader::{Member, MemberKind, TarReader, begins_archive, unreadable};

use crate::{
    contents::ContentsWriter,
    feed::feed,
    placing::{Placing, Strictness},
};
use silt_ext4::Hierarchy;
use silt_store::ChunkSink;
use silt_types::Result;
use std::io::Read;

/// Reads an archive of at most `len_bytes_max`: its files go to `sink`, and which chunks they have to `contents`. `Invalid`,
/// naming the member or the place, for what is no tar, was cut off, or leads out of it.
pub(crate) fn read(
    reader: impl Read,
    len_bytes_max: u64,
    sink: &dyn ChunkSink,
    contents: &ContentsWriter,
) -> Result<Hierarchy> {
    let mut reader = TarReader::new(reader, len_bytes_max);
    let mut placing = Placing::new(Strictness::Archive)?;
    let take = |entry, steps: &[_]| contents.add(entry, steps);
    feed(sink, &take, |feeder| {
        while let Some(member) = reader.next()? {
            if let Some(entry) = placing.place(&member)? {
                feeder.begin(entry, member.size_bytes);
                let content = reader.content(|run, fill| feeder.run(run, fill));
                content.map_err(|error| {
                    error.context(format!("{:?}", String::from_utf8_lossy(&member.path)))
                })?;
            }
        }
        Ok(())
    })?;
    placing.finish()
}

/// What [`read()`] does, but that content is thrown away: for the fuzz target.
#[doc(hidden)]
pub fn read_as_archive(archive: &[u8], len_bytes_max: u64) -> Result<Hierarchy> {
    let mut reader = TarReader::new(archive, len_bytes_max);
    let mut placing = Placing::new(Strictness::Archive)?;
    let mut buffer = [0; 4096];
    while let Some(member) = reader.next()? {
        if placing.place(&member)?.is_some() {
            reader.content(|run, fill| {
                let mut left = run.end - run.start;
                while left > 0 {
                    let len = left.min(buffer.len() as u64);
                    fill(&mut buffer[..len as usize])?;
                    left -= len;
                }
                Ok(())
            })?;
        }
    }
    placing.finish()
}
