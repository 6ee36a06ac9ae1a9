//! The writer before outside judges: e2fsck, the kernel's mount, resize2fs, dumpe2fs, debugfs, another reader.

mod examples;
mod smoke;
