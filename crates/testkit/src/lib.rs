//! (being written)

pub mod block_device;
pub mod ext4_image;
pub mod fault;
pub mod file_client;
pub mod hierarchy;
pub mod nbd_client;
pub mod vhost_user_abuse;
pub mod vhost_user_client;
pub mod virtqueue;
