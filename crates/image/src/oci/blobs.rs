//! Where the blobs of an image come from: the seam between a folder, an archive and a registry on one side, and everything
//! that knows what is in them on the other.

use super::{
    digest::Digest,
    documents::{DOCUMENT_SIZE_BYTES_MAX, Descriptor},
};
use silt_types::{Context as _, Error, ErrorKind, Progress, Result};
use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

/// Blobs by their digests. What is read is checked by the caller.
pub(super) trait Blobs: Sync {
    /// Opens a manifest, an index or a configuration. `NotFound` if there is none, naming it.
    fn document(&self, wanted: &Descriptor) -> Result<Box<dyn Read + '_>>;

    /// Brings a layer to where [`Blobs::layer`] reads it, if it is not there; ends early once `stop` is set. Several threads
    /// fetch different layers at once.
    fn fetch(&self, _: &Descriptor, _stop: &AtomicBool, _: &dyn Progress) -> Result<()> {
        Ok(())
    }

    /// Opens a layer that was fetched. Between the two all of it counts as progress once.
    fn layer<'a>(
        &'a self,
        layer: &Descriptor,
        progress: &'a dyn Progress,
    ) -> Result<Box<dyn Read + 'a>>;

    /// The image is published: what was fetched for it is not needed again.
    fn forget(&self) {}
}

/// Reads a document, checked against its digest and its size. `Corrupt` if it is another one, `Invalid` if it is
/// longer than documents may be.
pub(super) fn read_document(blobs: &dyn Blobs, wanted: &Descriptor) -> Result<Vec<u8>> {
    let Descriptor { digest, size, .. } = wanted;
    if *size > DOCUMENT_SIZE_BYTES_MAX {
        let message = format!("the document {digest} has {size} bytes, more than 4 MiB");
        return Err(Error::invalid(message));
    }
    let json = read_limited(blobs.document(wanted)?, &format!("document {digest}"))?;
    if json.len() as u64 != *size {
        let message = format!("the document {digest} is not {size} bytes long, as it should be");
        return Err(Error::corrupt(message));
    }
    digest.check("document", &json)?;
    Ok(json)
}

/// Reads all of a document. `Invalid` if it is longer than documents may be.
pub(super) fn read_limited(from: impl Read, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = from.take(DOCUMENT_SIZE_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.context(|| format!("cannot read the {what}"))?;
    if bytes.len() as u64 > DOCUMENT_SIZE_BYTES_MAX {
        return Err(Error::invalid(format!("the {what} is longer than 4 MiB")));
    }
    Ok(bytes)
}

/// The blobs of an image layout in a folder.
pub(super) struct LayoutFolder {
    dir: PathBuf,
}

impl LayoutFolder {
    /// The layout in `dir`.
    pub(super) fn new(dir: &Path) -> LayoutFolder {
        LayoutFolder { dir: dir.to_owned() }
    }

    /// Reads a file at the top of it.
    pub(super) fn top_file(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.dir.join(name);
        read_limited(open_regular(&path)?, &format!("file {}", path.display()))
    }

    fn open(&self, digest: &Digest) -> Result<File> {
        let (algorithm, hex) = digest.parts();
        let path = self.dir.join("blobs").join(algorithm).join(hex);
        open_regular(&path)
    }
}

impl Blobs for LayoutFolder {
    fn document(&self, wanted: &Descriptor) -> Result<Box<dyn Read + '_>> {
        Ok(Box::new(self.open(&wanted.digest)?))
    }

    fn layer<'a>(
        &'a self,
        layer: &Descriptor,
        progress: &'a dyn Progress,
    ) -> Result<Box<dyn Read + 'a>> {
        Ok(Box::new(Shown { reader: self.open(&layer.digest)?, progress }))
    }
}

/// Shows as progress what passes.
pub(super) struct Shown<'a, R> {
    pub(super) reader: R,
    pub(super) progress: &'a dyn Progress,
}

impl<R: Read> Read for Shown<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.reader.read(buffer)?;
        self.progress.advance(len as u64);
        Ok(len)
    }
}

/// Opens a file for reading; a named pipe or a device in its place is an error, not a wait. `NotFound` if there is none.
pub(super) fn open_regular(path: &Path) -> Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, format!("there is no {}", path.display()))
        }
        _ => Error::io(format!("cannot open {}", path.display()), error),
    })?;
    let metadata = file.metadata().context(|| format!("cannot look at {}", path.display()))?;
    if metadata.is_file() {
        return Ok(file);
    }
    Err(Error::invalid(format!("{} is no regular file", path.display())))
}
