//! Building an image: what is asked for, what came of it, and which source does it.

use crate::{
    directory,
    source::{Format, Source},
};
use silt_ext4::writer::Summary;
use silt_store::{Compression, ImageRecord, IngestCounts, Named, Store};
use silt_types::{Error, ErrorKind, Name, Progress, Result};

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
    /// Owner of every entry, instead of its own.
    pub owner: Option<Owner>,
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
            owner: None,
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
    let Source::Path(path) = source else {
        return Err(Error::new(ErrorKind::Unsupported, format!("{source} is not understood")));
    };
    directory::build(store, path, request, created_ns, progress)
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
