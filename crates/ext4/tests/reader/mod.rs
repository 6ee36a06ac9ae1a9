//! The reader against disks that others made: `mke2fs`, the kernel, e2fsck, and whoever means harm.

mod facts;
mod images;
mod log_writer;
mod logs;
mod made_disks;
mod mutations;
mod torn_journals;
mod used_disks;
mod walk;
