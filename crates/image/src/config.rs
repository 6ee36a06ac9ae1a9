//! The configuration that a container image comes with, kept in the store as it came: JSON, byte for byte, in chunks under
//! a map of its length, like the content of a file.
//!
//! Not for what is in it: whoever shows it reads the JSON.

use silt_store::{ChunkKind, ChunkSink, ChunkSource, KeyContext, Store};
use silt_types::{
    BLOCK_SIZE_BYTES, CHUNK_BLOCKS_MAX, CHUNK_SIZE_BYTES_MAX, DiskId, Error, Result, is_zero,
};
use silt_volume::{DiskMap, MapBuilder};
use std::sync::Arc;

/// The longest configuration in bytes; those in use have a few thousand.
pub const CONFIG_SIZE_BYTES_MAX: usize = 4 << 20;

/// Puts a configuration into chunks. `Invalid` if it is longer than [`CONFIG_SIZE_BYTES_MAX`].
pub(crate) fn put_config(sink: &dyn ChunkSink, json: &[u8]) -> Result<DiskId> {
    check_size(json.len() as u64)?;
    let mut map = MapBuilder::new(sink, json.len() as u64)?;
    for (number, step) in (0..).zip(json.chunks(CHUNK_SIZE_BYTES_MAX)).filter(|(_, s)| !is_zero(s))
    {
        let chunk = sink.put(ChunkKind::FileData, step)?;
        let blocks = (step.len() as u64).div_ceil(BLOCK_SIZE_BYTES);
        map.map(number * CHUNK_BLOCKS_MAX, blocks, chunk, 0)?;
    }
    map.finish()
}

/// Reads the configuration of an image. `Corrupt` if any of it does not match its hash.
pub fn read_config(store: &Store, config: DiskId) -> Result<Vec<u8>> {
    check_size(config.size_bytes)?;
    let mut json = vec![0; config.size_bytes as usize];
    for extent in DiskMap::open(Arc::new(store.clone()), config)?.extents() {
        let extent = extent?;
        let chunk = store.get(KeyContext::Content, &extent.place.chunk)?;
        let from = (extent.place.offset_blocks * BLOCK_SIZE_BYTES) as usize;
        let at = (extent.range.start * BLOCK_SIZE_BYTES) as usize;
        let len = (extent.range.len * BLOCK_SIZE_BYTES) as usize;
        // The last block of the chunk and that of the configuration end together.
        let bytes = chunk.get(from..).unwrap_or_default();
        let to = json.get_mut(at..).unwrap_or_default();
        let len = len.min(bytes.len()).min(to.len());
        to[..len].copy_from_slice(&bytes[..len]);
    }
    Ok(json)
}

fn check_size(len: u64) -> Result<()> {
    if len <= CONFIG_SIZE_BYTES_MAX as u64 {
        return Ok(());
    }
    Err(Error::invalid(format!("an image configuration of {len} bytes; at most 4 MiB are kept")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use silt_store::Compression;

    #[test]
    fn a_configuration_reads_back_whatever_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(&dir.path().join("store"), 1 << 20).unwrap();
        for len in [1, 4096, 65_536, 65_537, 300_000] {
            let json: Vec<u8> = (0..len).map(|at| (at % 251) as u8 | 1).collect();
            let ingest = store.ingest(Compression::default()).unwrap();
            let config = put_config(&ingest, &json).unwrap();
            assert_eq!(config.size_bytes, len as u64);
            ingest.publish("test", Vec::new(), |_| Ok(())).unwrap();
            assert!(read_config(&store, config).unwrap() == json, "{len}");
        }
        let ingest = store.ingest(Compression::default()).unwrap();
        assert!(put_config(&ingest, &vec![b' '; CONFIG_SIZE_BYTES_MAX + 1]).is_err());
    }
}
