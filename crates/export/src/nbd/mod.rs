//! The NBD export: a volume for every client that speaks the Network Block Device protocol (QEMU, libnbd, the Linux
//! kernel, fio), over a Unix socket or loopback TCP.
//!
//! Not for the network: no TLS, no authentication. A Unix socket is its owner's alone; a TCP port is open to whoever
//! may run on this machine.
//!
//! Invariants: a FLUSH covers every write answered before it on any connection; a request is answered once; a client
//! can harm no other client, nor make the server allocate beyond the constants in `limits`.
//!
//! Start at [`Server`], then `connection`. The protocol as it is spoken here: `docs/internals/nbd.md`.

mod connection;
mod handshake;
mod input;
mod jobs;
mod limits;
mod link;
mod listen;
mod options;
mod passing;
mod reply;
mod request;
mod server;
mod wire;
mod workers;

pub use listen::Listen;
pub use server::Server;
