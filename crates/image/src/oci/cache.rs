//! What is known of layers: written while one is read, applied from there, and kept for the next image that has it.
//!
//! The file of a layer is the one way from reading it to applying it, cached or not, so that both come to the same and
//! memory stays bounded. Caches are no roots: whatever is wrong with one makes it absent, and anybody may delete it.

use super::digest::Digest;
use crate::contents::Step;
use silt_format::{
    FileHeader, LAYER_CACHE_MAGIC, LAYER_CACHE_VERSION, LAYER_STEPS_MAX, LayerRecord,
    layer_cache_header,
};
use silt_store::{Ingest, StorePaths};
use silt_sys::durability;
use silt_types::{ChunkId, Context as _, Error, Result};
use std::{
    fs::File,
    io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};
use tempfile::NamedTempFile;

/// What is known of layers takes at most this; the longest unused goes first. A Debian with 30,000 files takes 4 MiB.
pub(super) const LAYERS_SIZE_BYTES_MAX: u64 = 128 << 20;
/// Records are collected up to this before they are written.
const BUFFER_SIZE_BYTES: usize = 1 << 20;

/// Writes what a layer has; from several threads.
pub(super) struct LayerWriter {
    id: [u8; 16],
    name: String,
    inner: Mutex<Inner>,
}

struct Inner {
    file: NamedTempFile,
    buffer: Vec<u8>,
    len: u64,
    crc: u32,
}

/// All that a layer has.
pub(super) struct LayerFile {
    file: File,
}

/// The folder of caches of one kind, made if it is not there.
pub(super) fn make_folder(paths: &StorePaths, folder: &Path) -> Result<()> {
    durability::create_dir(&paths.caches())?;
    durability::create_dir(folder).map(drop)
}

impl LayerWriter {
    /// Nothing yet, in a file of `folder` that has no name of its own before [`LayerWriter::finish`].
    pub(super) fn create(folder: &Path, diff_id: &Digest) -> Result<LayerWriter> {
        let cannot = || format!("cannot make a file in {}", folder.display());
        let mut file = NamedTempFile::new_in(folder).context(cannot)?;
        file.write_all(&[0; FileHeader::LEN]).context(cannot)?;
        let inner = Inner { file, buffer: Vec::new(), len: 0, crc: 0 };
        let inner = Mutex::new(inner);
        Ok(LayerWriter { id: id_of(diff_id), name: diff_id.file_name(), inner })
    }

    /// Adds a record.
    pub(super) fn put(&self, record: &LayerRecord) -> Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        record.encode_into(&mut inner.buffer)?;
        if inner.buffer.len() >= BUFFER_SIZE_BYTES { inner.write_buffer() } else { Ok(()) }
    }

    /// Adds some of the content of a file.
    pub(super) fn put_steps(&self, member: u32, steps: &[Step]) -> Result<()> {
        steps.chunks(LAYER_STEPS_MAX).try_for_each(|steps| {
            let steps = steps.to_vec();
            self.put(&LayerRecord::Content { member, steps })
        })
    }

    /// The whole layer, which is kept for the next time if it can be.
    pub(super) fn finish(self, folder: &Path) -> Result<LayerFile> {
        let mut inner = self.inner.into_inner().unwrap_or_else(PoisonError::into_inner);
        inner.write_buffer()?;
        let header = layer_cache_header(self.id, inner.len, inner.crc);
        let cannot = || "cannot write what is known of a layer".to_owned();
        inner.file.as_file().write_all_at(&header.encode(), 0).context(cannot)?;
        let file = match inner.file.persist(folder.join(self.name)) {
            Ok(file) => file,
            // Somebody emptied the folder meanwhile: it is read without a name.
            Err(failed) => failed
                .file
                .reopen()
                .or_else(|_| failed.file.as_file().try_clone())
                .context(cannot)?,
        };
        Ok(LayerFile { file })
    }
}

impl Inner {
    fn write_buffer(&mut self) -> Result<()> {
        let written = self.file.write_all(&self.buffer);
        written.context(|| "cannot write what is known of a layer".into())?;
        self.len += self.buffer.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, &self.buffer);
        self.buffer.clear();
        Ok(())
    }
}

impl LayerFile {
    /// What is known of a layer, if all of its chunks are there for `ingest`. `None` if not, or if anything is wrong with it.
    pub(super) fn find(folder: &Path, diff_id: &Digest, ingest: &Ingest) -> Option<LayerFile> {
        let file = File::open(folder.join(diff_id.file_name())).ok()?;
        check_whole(&file, diff_id).ok()?;
        let layer = LayerFile { file };
        let all_there = layer.for_each(&mut |record| match record {
            LayerRecord::Content { steps, .. } => steps.iter().try_for_each(|step| {
                let missing = || Error::corrupt("a chunk is missing");
                ingest.has(&step.chunk)?.then_some(()).ok_or_else(missing)
            }),
            LayerRecord::Member(_) => Ok(()),
        });
        all_there.ok()?;
        // By this the longest unused is known; that it cannot be said is no reason not to use it.
        let _ = layer.file.set_modified(SystemTime::now());
        Some(layer)
    }

    /// Visits all records, in order.
    pub(super) fn for_each(&self, visit: &mut dyn FnMut(LayerRecord) -> Result<()>) -> Result<()> {
        let cannot = || "cannot read what is known of a layer".to_owned();
        (&self.file).seek(SeekFrom::Start(FileHeader::LEN as u64)).context(cannot)?;
        let mut reader = BufReader::with_capacity(BUFFER_SIZE_BYTES, &self.file);
        let mut bytes = Vec::new();
        loop {
            let mut len = [0; 4];
            match reader.read_exact(&mut len) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read.context(cannot)?,
            }
            bytes.resize(LayerRecord::decode_len(len)?, 0);
            reader.read_exact(&mut bytes).context(cannot)?;
            visit(LayerRecord::decode(&bytes)?)?;
        }
    }
}

/// Visits the chunks that the cache of a layer tells of, until `visit` answers false.
pub(crate) fn chunks_of(path: &Path, visit: &mut dyn FnMut(&ChunkId) -> bool) -> Result<()> {
    let file = File::open(path).context(|| format!("cannot open {}", path.display()))?;
    let mut goes_on = true;
    LayerFile { file }.for_each(&mut |record| {
        if let LayerRecord::Content { steps, .. } = record {
            goes_on = goes_on && steps.iter().all(|step| visit(&step.chunk));
        }
        Ok(())
    })
}

/// Compares length and checksum with what the header says.
fn check_whole(file: &File, diff_id: &Digest) -> Result<()> {
    let cannot = || "cannot read what is known of a layer".to_owned();
    let mut reader = file;
    let mut header = [0; FileHeader::LEN];
    reader.read_exact(&mut header).context(cannot)?;
    let header = FileHeader::decode(&header, LAYER_CACHE_MAGIC, LAYER_CACHE_VERSION)?;
    let (mut crc, mut len, mut buffer) = (0, 0, vec![0; BUFFER_SIZE_BYTES]);
    loop {
        let got = reader.read(&mut buffer).context(cannot)?;
        if got == 0 {
            break;
        }
        crc = crc32c::crc32c_append(crc, &buffer[..got]);
        len += got as u64;
    }
    if (header.id, header.payload_len, header.payload_crc) == (id_of(diff_id), len, crc) {
        return Ok(());
    }
    Err(Error::corrupt("what is known of a layer is damaged"))
}

/// The first half of a digest.
fn id_of(digest: &Digest) -> [u8; 16] {
    let (_, hex) = digest.parts();
    let mut id = [0; 16];
    for (byte, digits) in id.iter_mut().zip(hex.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).unwrap_or_default();
    }
    id
}
