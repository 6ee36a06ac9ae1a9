//! The broker: a process of its own that keeps, for the confined server of a disk, the few rights which that gives up. It
//! says where chunks are, since a reader of the database has to write beside it; it says how much more the store may take, since
//! that takes a look at all of it; and when the server has ended, however
//! that came, it removes the names that the server made in folders of others, and what it mounted.
//!
//! Invariants: the server asks for names of chunks and gets places, for space and gets numbers, nothing else, from the moment it
//! begins to serve; what
//! is to be removed or unmounted was said before, and at most when comes later. Neither waits for the other at its end: the connection says when.

mod client;
mod message;
mod server;

pub use client::Broker;
