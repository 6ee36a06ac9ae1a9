//! The reader against disks that others made: `mke2fs`, the kernel, e2fsck, and whoever means harm.

mod changed_disks;
mod facts;
mod hostile_disks;
mod images;
mod log_writer;
mod logs;
mod made_disks;
mod mutations;
mod own_disks;
mod torn_journals;
mod used_disks;
mod views;
mod walk;
