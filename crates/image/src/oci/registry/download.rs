//! Layers of a registry on their way to this machine: into files of the store, gone on with where a broken connection or an
//! ended process left them, checked while they come.
//!
//! A file is locked by whoever writes it. Where another process has it, a file without a name takes its place: it is not gone
//! on with, and nobody waits for anybody.

use super::{
    super::{
        digest::{Digest, Hasher},
        documents::Descriptor,
    },
    client::{Client, Failure},
};
use crate::caches::trim;
use silt_sys::durability::FILE_MODE;
use silt_types::{Context as _, Error, ErrorKind, Progress, Result};
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use ureq::http::{Response, StatusCode, header};

/// What ended commands left takes at most this before the next one; the longest untouched goes first.
const LEFT_SIZE_BYTES_MAX: u64 = 4 << 30;
/// An attempt that brought so much was no vain one.
const WORTH_AN_ATTEMPT: u64 = 1 << 20;

/// The layers of one image that are here, or coming.
pub(super) struct Downloads {
    folder: PathBuf,
    here: Mutex<HashMap<Digest, Download>>,
}

/// The file of a layer.
struct Download {
    file: File,
    /// Where it lies, if it has a name.
    path: Option<PathBuf>,
}

/// What of a layer is here.
struct Progressed<'a> {
    file: &'a File,
    layer: &'a Descriptor,
    hasher: Hasher,
    len: u64,
}

impl Downloads {
    pub(super) fn new(folder: PathBuf) -> Downloads {
        trim(&folder, LEFT_SIZE_BYTES_MAX);
        Downloads { folder, here: Mutex::default() }
    }

    /// Brings a layer here. `Corrupt`, naming the digest, if the registry has another one under its name.
    pub(super) fn fetch(
        &self,
        client: &Client,
        layer: &Descriptor,
        stop: &AtomicBool,
        progress: &dyn Progress,
    ) -> Result<()> {
        let download = Download::open(&self.folder, &layer.digest)?;
        let bring = |mut here: Progressed<'_>| {
            here.fetch_rest(client, stop, progress)?;
            here.check()
        };
        let here = Progressed::read(&download.file, layer)?;
        progress.advance(here.len);
        let found = here.len;
        let mut brought = bring(here);
        let is_corrupt =
            |brought: &Result<()>| brought.as_ref().is_err_and(|e| e.kind() == ErrorKind::Corrupt);
        if is_corrupt(&brought) && found > 0 {
            // What was left here may be what is wrong.
            brought = bring(Progressed::empty(&download.file, layer)?);
        }
        if is_corrupt(&brought) {
            download.remove();
        }
        brought?;
        self.lock().insert(layer.digest.clone(), download);
        Ok(())
    }

    /// Reads a layer that is here.
    pub(super) fn reader(&self, digest: &Digest) -> Result<impl Read + 'static> {
        let here = self.lock();
        let missing = || Error::internal(format!("the layer {digest} was not fetched"));
        let file = here.get(digest).ok_or_else(missing)?.file.try_clone();
        let cannot = || format!("cannot read the layer {digest}");
        let mut file = file.context(cannot)?;
        file.seek(SeekFrom::Start(0)).context(cannot)?;
        Ok(file)
    }

    /// Deletes what is here.
    pub(super) fn forget(&self) {
        self.lock().drain().for_each(|(_, download)| download.remove());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Download>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Download {
    /// The file of a layer, with what is in it; a new one without a name if another process has that.
    fn open(folder: &Path, digest: &Digest) -> Result<Download> {
        let path = folder.join(digest.file_name());
        let cannot = || format!("cannot open {}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        let file = options.open(&path).context(cannot)?;
        // Whoever had it may have deleted it in between.
        if file.try_lock().is_ok() && file.metadata().context(cannot)?.nlink() > 0 {
            return Ok(Download { file, path: Some(path) });
        }
        let file = tempfile::tempfile_in(folder).context(cannot)?;
        Ok(Download { file, path: None })
    }

    fn remove(&self) {
        // What stays is deleted when there is too much.
        let _ = self.path.as_ref().map(fs::remove_file);
    }
}

impl<'a> Progressed<'a> {
    /// Nothing.
    fn empty(file: &'a File, layer: &'a Descriptor) -> Result<Progressed<'a>> {
        file.set_len(0).context(|| format!("cannot empty the file of {}", layer.digest))?;
        Ok(Progressed { file, layer, hasher: layer.digest.hasher(), len: 0 })
    }

    /// What the file has.
    fn read(file: &'a File, layer: &'a Descriptor) -> Result<Progressed<'a>> {
        let cannot = || format!("cannot read the file of {}", layer.digest);
        if file.metadata().context(cannot)?.len() > layer.size {
            return Progressed::empty(file, layer);
        }
        let mut here = Progressed { file, layer, hasher: layer.digest.hasher(), len: 0 };
        let mut buffer = vec![0; 256 << 10];
        loop {
            let got = file.read_at(&mut buffer, here.len).context(cannot)?;
            if got == 0 {
                return Ok(here);
            }
            here.hasher.update(&buffer[..got]);
            here.len += got as u64;
        }
    }

    fn check(self) -> Result<()> {
        self.layer.digest.check_found("layer", &self.hasher.finish())
    }

    /// Fetches what is missing, in as many pieces as it takes.
    fn fetch_rest(
        &mut self,
        client: &Client,
        stop: &AtomicBool,
        progress: &dyn Progress,
    ) -> Result<()> {
        client.with_attempts(stop, &mut |attempt| {
            let before = self.len;
            let fetched = self.fetch_piece(client, stop, progress);
            if self.len.saturating_sub(before) >= WORTH_AN_ATTEMPT {
                *attempt = 1;
            }
            fetched
        })
    }

    fn fetch_piece(
        &mut self,
        client: &Client,
        stop: &AtomicBool,
        progress: &dyn Progress,
    ) -> Result<(), Failure> {
        if self.len == self.layer.size {
            return Ok(());
        }
        let from = (self.len > 0).then_some(self.len);
        let response = client.get(&format!("blobs/{}", self.layer.digest), &[], from)?;
        let goes_on = response.status() == StatusCode::PARTIAL_CONTENT
            && starts_at(&response) == Some(self.len);
        if self.len > 0 && !goes_on {
            // It does not know how to go on, or where: all over again.
            *self = Progressed::empty(self.file, self.layer).map_err(Failure::for_good)?;
            if response.status() != StatusCode::OK {
                let message = format!("the registry does not go on with {}", self.layer.digest);
                return Err(Failure::passing(Error::new(ErrorKind::Io, message)));
            }
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 128 << 10];
        loop {
            if stop.load(Relaxed) {
                return Err(Failure::for_good(Error::new(ErrorKind::Io, "another layer failed")));
            }
            match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => {
                    self.take(&buffer[..len]).map_err(Failure::for_good)?;
                    progress.advance(len as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let message = format!("the connection broke within {}", self.layer.digest);
                    return Err(Failure::passing(Error::with_source(
                        ErrorKind::Io,
                        message,
                        error,
                    )));
                }
            }
        }
        if self.len < self.layer.size {
            let message = format!("the connection ended within {}", self.layer.digest);
            return Err(Failure::passing(Error::new(ErrorKind::Io, message)));
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let Descriptor { digest, size, .. } = self.layer;
        if bytes.len() as u64 > size - self.len {
            return Err(Error::corrupt(format!(
                "the layer {digest} is longer than its {size} bytes"
            )));
        }
        let mut file = self.file;
        let written = file.seek(SeekFrom::Start(self.len)).and_then(|_| file.write_all(bytes));
        written.context(|| format!("cannot keep the layer {digest}"))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }
}

/// Where in the blob a part begins.
fn starts_at<B>(response: &Response<B>) -> Option<u64> {
    let range = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
