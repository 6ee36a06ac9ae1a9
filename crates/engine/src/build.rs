//! Building images.

use crate::engine::{Engine, now_ns};
use silt_image::{
    BuildRequest, BuiltImage, READ_CACHE_BYTES, Source, build_stored, refuse_taken_name,
};
use silt_types::{Context as _, DiskName, Progress, Result};
use std::{path::Path, sync::Arc};

impl Engine {
    /// Builds an image and publishes it in one step; see [`silt_image::build()`] for what can go wrong.
    pub fn build(
        &self,
        source: &Source,
        request: &BuildRequest,
        progress: &dyn Progress,
    ) -> Result<BuiltImage> {
        match source {
            Source::Stored(name, folder) => self.build_stored(name, folder, request, progress),
            _ => silt_image::build(&self.store, source, request, now_ns(), progress),
        }
    }

    /// Builds from the files on an image, a snapshot, or a volume that nobody writes: else `Busy`.
    fn build_stored(
        &self,
        name: &DiskName,
        folder: &Path,
        request: &BuildRequest,
        progress: &dyn Progress,
    ) -> Result<BuiltImage> {
        refuse_taken_name(&self.store, &request.name, request.replace)?;
        // What is read once need not be kept.
        let source = Arc::new(self.store.separate_reader(READ_CACHE_BYTES));
        let disk = Engine { source, ..self.clone() }.open_to_read(name)?;
        build_stored(&self.store, &disk.volume, folder, request, now_ns(), progress)
            .context(|| format!("cannot build from {name}:{}", folder.display()))
    }
}
