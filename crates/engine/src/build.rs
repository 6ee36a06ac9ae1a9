//! Building images.

use crate::engine::{Engine, now_ns};
use silt_image::{BuildOptions, BuiltImage, Owner, build_from_directory};
use silt_store::Compression;
use silt_types::{Name, Progress, Result};
use std::path::Path;

/// What to build.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// Name of the image.
    pub name: Name,
    /// Length of its disk in bytes; what is needed and some slack where `None`.
    pub size_bytes: Option<u64>,
    /// Owner of every entry, instead of its own.
    pub owner: Option<Owner>,
    /// Whether the image may take the place of one of that name.
    pub replace: bool,
    /// How new chunks are compressed.
    pub compression: Compression,
}

impl Engine {
    /// Builds an image from the folder `dir` and publishes it in one step. `Io`, naming them, if entries cannot be read
    /// or change meanwhile; `AlreadyExists` if the name is taken. Reads every file once; memory is bounded.
    pub fn build_directory(
        &self,
        dir: &Path,
        request: &BuildRequest,
        progress: &dyn Progress,
    ) -> Result<BuiltImage> {
        let options = BuildOptions {
            name: request.name.clone(),
            size_bytes: request.size_bytes,
            replace: request.replace,
            compression: request.compression,
            created_ns: now_ns(),
        };
        build_from_directory(&self.store, dir, request.owner, &options, progress)
    }
}
