//! (being written)

pub mod fault;
pub mod block_device;
pub mod nbd_client;
