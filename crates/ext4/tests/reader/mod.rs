//! The reader against disks that others made: `mke2fs`, the kernel, e2fsck, and whoever means harm.

mod facts;
mod images;
mod made_disks;
