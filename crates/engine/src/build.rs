//! Building images.

use crate::engine::{Engine, now_ns};
use silt_image::{BuildRequest, BuiltImage, Source};
use silt_types::{Progress, Result};

impl Engine {
    /// Builds an image and publishes it in one step; see [`silt_image::build()`] for what can go wrong.
    pub fn build(
        &self,
        source: &Source,
        request: &BuildRequest,
        progress: &dyn Progress,
    ) -> Result<BuiltImage> {
        silt_image::build(&self.store, source, request, now_ns(), progress)
    }
}
