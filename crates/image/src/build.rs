//! Building an image: what is asked for, what came of it, and which source does it.

use crate::{
    assemble::{Files, assemble},
    contents::ContentsWriter,
    directory, disk,
    edits::Edits,
    input::{self, Input, Opened},
    oci::{self, RegistryAccess},
    source::{Format, Source},
    stream::{Limited, Packed, peek},
    tar,
};
use silt_ext4::{Hierarchy, writer::Summary};
use silt_store::{Compression, ImageRecord, Ingest, IngestCounts, Named, Store};
use silt_tree::TreeChange;
use silt_types::{Context as _, DiskId, Error, ErrorKind, Name, Progress, Result, TreeId};
use std::{
    io::Read,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// What an archive may come to unless more is allowed: more than any root file system, less than a few kilobytes can be made
/// to stand for.
pub const MAX_SIZE_BYTES_DEFAULT: u64 = 256 << 30;

/// An owner to give to every entry instead of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What an image is to be.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// Its name.
    pub name: Name,
    /// Length of its disk in bytes; what is needed and some slack where `None`.
    pub size_bytes: Option<u64>,
    /// Whether it may take the place of an image of that name.
    pub replace: bool,
    /// How new chunks are compressed.
    pub compression: Compression,
    /// What the source is; what its content says where `None`.
    pub format: Option<Format>,
    /// What to change of the source's files.
    pub edits: Edits,
    /// The most bytes that may come out of an archive.
    pub max_size_bytes: u64,
    /// Whether a disk may name other files that it is read from.
    pub allow_backing: bool,
    /// Whether files are read though they look unchanged since they were read last.
    pub paranoid: bool,
    /// Which image of several: `OS/ARCHITECTURE[/VARIANT]`; Linux on this machine's architecture where `None`.
    pub platform: Option<String>,
    /// How registries are spoken to.
    pub registry: RegistryAccess,
}

impl BuildRequest {
    /// An image of this name of what the source has, as it is.
    pub fn new(name: Name) -> BuildRequest {
        BuildRequest {
            name,
            size_bytes: None,
            replace: false,
            compression: Compression::default(),
            format: None,
            edits: Edits::default(),
            max_size_bytes: MAX_SIZE_BYTES_DEFAULT,
            allow_backing: false,
            paranoid: false,
            platform: None,
            registry: RegistryAccess::default(),
        }
    }
}

/// An image that was published.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// What the catalog says of it.
    pub record: ImageRecord,
    /// Bytes read from the source.
    pub bytes_read: u64,
    /// What it added to the store.
    pub counts: IngestCounts,
    /// How its disk is laid out; `None` where the source was a disk.
    pub layout: Option<Summary>,
    /// Why it has no tree, if it has none.
    pub no_tree: Option<String>,
    /// What else a person should know of how it was made.
    pub notes: Vec<String>,
    /// What is not as in the image that it took the place of; `None` if it took none, or one of them has no tree.
    pub changes: Option<Changes>,
}

/// Paths that two images do not have alike. Each name of a file with several is a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Paths that only the new one has.
    pub added: u64,
    /// Paths that only the old one had.
    pub removed: u64,
    /// Paths with other content or other metadata.
    pub changed: u64,
}

impl Changes {
    /// Counts what differs between two trees. Costs what differs.
    fn between(store: &Store, old: TreeId, new: TreeId) -> Result<Changes> {
        let mut changes = Changes::default();
        silt_tree::for_each_change(store, old, new, |change| {
            match change {
                TreeChange::Added(_) => changes.added += 1,
                TreeChange::Removed(_) => changes.removed += 1,
                TreeChange::Changed(..) => changes.changed += 1,
            }
            Ok(())
        })?;
        Ok(changes)
    }
}

/// Builds an image and publishes it in one step. `AlreadyExists` if the name is taken; `Invalid` for a source that is damaged
/// or made to do harm; `Io`, naming them, for what cannot be read or changes meanwhile. Reads everything once; memory is
/// bounded.
pub fn build(
    store: &Store,
    source: &Source,
    request: &BuildRequest,
    created_ns: i64,
    progress: &dyn Progress,
) -> Result<BuiltImage> {
    refuse_taken_name(store, &request.name, request.replace)?;
    let building = Building { store, request, created_ns, progress, publishes: true };
    building.telling_changes(|| building.build_from(source))
}

/// Stores what the store has lost of a source: builds the same, and publishes nothing. Errors and cost are those of [`build`].
/// Answers what was stored.
pub fn store_again(
    store: &Store,
    source: &Source,
    request: &BuildRequest,
    progress: &dyn Progress,
) -> Result<IngestCounts> {
    // What a cache says that the store has is what is in doubt.
    let request = BuildRequest { paranoid: true, ..request.clone() };
    let request = &request;
    let building = Building { store, request, created_ns: 0, progress, publishes: false };
    building.build_from(source).map(|built| built.counts)
}

/// An image that is being built: what is asked for, and where it goes.
#[derive(Clone, Copy)]
pub(crate) struct Building<'a> {
    pub(crate) store: &'a Store,
    pub(crate) request: &'a BuildRequest,
    pub(crate) created_ns: i64,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) publishes: bool,
}

/// What was read of a source of files, whose content is where it belongs.
pub(crate) struct FilesRead {
    /// Files have their lengths.
    pub(crate) hierarchy: Hierarchy,
    pub(crate) bytes_read: u64,
    /// The configuration that came with them, in chunks.
    pub(crate) config: Option<DiskId>,
}

impl Building<'_> {
    /// The last step: everything handed in is durable, and the image has its name.
    pub(crate) fn publish(&self, ingest: Ingest, record: &ImageRecord) -> Result<IngestCounts> {
        if self.publishes {
            return ingest.publish_image(record, self.request.replace);
        }
        let counts = ingest.counts();
        ingest.flush().map(|()| counts)
    }

    /// Compares what was built with the image of that name that was there before.
    pub(crate) fn telling_changes(
        &self,
        build: impl FnOnce() -> Result<BuiltImage>,
    ) -> Result<BuiltImage> {
        let old = match self.store.find(&self.request.name.clone().into()) {
            Ok(Named::Image(image)) => image.tree,
            _ => None,
        };
        let built = build()?;
        // The image is there, so what cannot be compared any more is not told, no more.
        let changes = old
            .zip(built.record.tree)
            .and_then(|(old, new)| Changes::between(self.store, old, new).ok());
        Ok(BuiltImage { changes, ..built })
    }

    fn build_from(&self, source: &Source) -> Result<BuiltImage> {
        let input = match source {
            Source::Path(path) => match input::open(path)? {
                Opened::Input(input) => input,
                Opened::Directory => {
                    if self.request.format.is_some_and(|format| format != Format::Directory) {
                        return Err(Error::invalid(format!("{source} is a folder")));
                    }
                    return directory::build(self, path);
                }
            },
            Source::Stdin => input::stdin()?,
            Source::OciLayout(..)
            | Source::OciArchive(..)
            | Source::DockerArchive(..)
            | Source::Registry(_) => return oci::build(self, source),
            Source::Stored(..) => {
                let what = format!("{source}: the disk has to be opened first, see build_stored");
                return Err(Error::new(ErrorKind::Unsupported, what));
            }
        };
        self.build_input(&input).context(|| input.name())
    }

    /// Builds from a file, a device or a pipe.
    fn build_input(&self, input: &Input) -> Result<BuiltImage> {
        let bytes_read = AtomicU64::new(0);
        let stream = input.stream(&bytes_read, self.progress);
        self.progress.begin("reading", input.len_bytes.unwrap_or(0));
        let (head, mut stream) = match Packed::of(&input.head) {
            Some(packed) => peek(packed.unpack(stream)?),
            None => peek(Box::new(stream) as Box<dyn Read>),
        }
        .map_err(tar::unreadable)?;
        let format = self.request.format.unwrap_or_else(|| Format::of(&head));
        match (format, input.len_bytes) {
            (Format::Directory, _) => Err(Error::invalid("it is no folder")),
            (Format::Tar, _) => self.build_files(|sink, contents| {
                let hierarchy = tar::read(stream, self.request.max_size_bytes, sink, contents)?;
                Ok(FilesRead { hierarchy, bytes_read: bytes_read.load(Relaxed), config: None })
            }),
            (Format::Raw | Format::Qcow2, Some(_)) if Packed::of(&input.head).is_none() => {
                disk::build(self, input, format)
            }
            (Format::Raw | Format::Qcow2, _) => {
                let left = self.request.max_size_bytes;
                let mut stream = Limited { reader: &mut stream, left };
                disk::build_stream(self, &mut stream, &input.name(), format)
            }
        }
    }

    /// Builds from files that `read` puts where they belong.
    pub(crate) fn build_files(
        &self,
        read: impl FnOnce(&Ingest, &ContentsWriter) -> Result<FilesRead>,
    ) -> Result<BuiltImage> {
        // The lease comes before the first look-up of a chunk.
        let ingest = self.store.ingest(self.request.compression)?;
        let contents = ContentsWriter::new(self.store.paths().root())?;
        let read = read(&ingest, &contents)?;
        let files = Files::edited(read, &self.request.edits, &ingest, contents)?;
        assemble(self, ingest, &files, None).map(|(built, _)| built)
    }
}

/// `AlreadyExists`, before any work is done, if an image cannot have a name; the publication checks again. With `replace`
/// it may be an image's.
pub fn refuse_taken_name(store: &Store, name: &Name, replace: bool) -> Result<()> {
    match store.find(&name.clone().into()) {
        Ok(Named::Image(_)) if replace => Ok(()),
        Ok(other) => {
            let message = format!("the name {name} is taken by the {} of that name", other.kind());
            Err(Error::new(ErrorKind::AlreadyExists, message))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
