//! The FUSE export: a volume as one raw file, for every program that takes a path (Firecracker, loop devices, QEMU,
//! backup tools), and a folder of all sealed disks as read-only files.
//!
//! Not a file system on the volume: the file's bytes are the disk's. Its length is the disk's, and nobody can change it
//! through the file.
//!
//! Invariants: what fsync or an O_DSYNC write was answered for is durable; bytes change through the mount alone, so that
//! the kernel's page cache is right; a program that opens the file can neither make the server allocate beyond the
//! constants in `limits` nor hold up others for longer than the device takes.
//!
//! Start at [`Server`], then `connection`. What the kernel caches and why: `docs/internals/fuse.md`.

mod attributes;
mod connection;
mod disk;
mod folder;
mod folder_server;
mod kernel;
mod limits;
mod mount;
mod mount_point;
mod mount_table;
mod nodes;
mod passing;
mod request;
mod server;
mod session;
mod workers;

pub use connection::answer;
pub use folder::{DiskEntry, DiskFolder};
pub use folder_server::FolderServer;
pub use mount::{Access, Mount, Mounted, mount, unmount};
pub use mount_point::{MountPoint, PointKind};
pub use server::{FileAddress, Server};
