//! Any bytes as each of the documents that a registry, a layout or an archive of container images has, and as a record of what
//! is known of a layer.
//!
//! A good start is a corpus of the files below `blobs/` of layouts, without the layers.

#![no_main]

use libfuzzer_sys::fuzz_target;
use silt_format::LayerRecord;

fuzz_target!(|bytes: &[u8]| {
    silt_image::read_as_any_document(bytes);
    if let Ok(record) = LayerRecord::decode(bytes) {
        let mut encoded = Vec::new();
        if record.encode_into(&mut encoded).is_ok() {
            assert_eq!(LayerRecord::decode(&encoded[4..]).ok(), Some(record));
        }
    }
});
