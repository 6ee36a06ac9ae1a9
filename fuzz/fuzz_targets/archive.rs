//! Any bytes as frames of an archive: each is decoded, and what it is encodes to a frame that is the same, or is an error.

#![no_main]

use libfuzzer_sys::fuzz_target;
use silt_format::{ArchiveFrame, ArchiveFrameHead};

fuzz_target!(|archive: &[u8]| {
    let mut rest = archive;
    while let Some((head_bytes, behind)) = rest.split_first_chunk() {
        let Ok(head) = ArchiveFrameHead::decode(head_bytes) else { return };
        let Some((payload, behind)) = behind.split_at_checked(head.payload_len()) else { return };
        let Ok(frame) = ArchiveFrame::decode(&head, payload) else { return };
        let mut encoded = Vec::new();
        frame.encode_into(&mut encoded);
        let (head_again, payload_again) = encoded.split_first_chunk().expect("a frame has a head");
        let head_again = ArchiveFrameHead::decode(head_again).expect("it was just made");
        assert_eq!(ArchiveFrame::decode(&head_again, payload_again).ok(), Some(frame));
        rest = behind;
    }
});
