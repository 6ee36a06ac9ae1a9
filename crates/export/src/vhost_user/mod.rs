//! The vhost-user-blk export: a volume as a virtio block device for QEMU, Cloud Hypervisor, libblkio and every other
//! monitor that speaks vhost-user, over a Unix socket. Requests are read from and answered in the guest's own memory.
//!
//! One monitor at a time. It must be trusted with its own guest's memory, and with nothing else: neither it nor its guest
//! can reach beyond the memory it shared, make the server allocate beyond the constants in `limits`, or make it panic.
//!
//! Invariants: a FLUSH covers every write answered before it on any queue; a request is answered once, and on a queue that
//! was told to stop every request that was taken is answered before the monitor hears that it stopped; nothing that a
//! guest can change is read twice.
//!
//! Start at [`Server`], then `connection` (messages) and `queue` (requests). What is spoken:
//! `docs/internals/vhost-user.md`.

mod chain;
mod channel;
mod config;
mod connection;
mod dirty_log;
mod inflight;
mod jobs;
mod limits;
mod memory;
mod pending;
mod queue;
mod request;
mod ring;
mod running;
mod server;
mod session;
mod state;
mod workers;

pub use server::Server;
