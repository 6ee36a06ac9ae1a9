//! What the device says of itself: features, and the configuration space of "5.2.4" of virtio 1.3.

use super::limits::{QUEUES_MAX, RANGE_SECTORS_MAX, RANGES_MAX, SEGMENT_BYTES_MAX, SEGMENTS_MAX};
use silt_types::BLOCK_SIZE_BYTES;
use silt_volume::Geometry;
use vhost::vhost_user::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio_bindings::{
    virtio_blk::{
        VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
        VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_TOPOLOGY,
        VIRTIO_BLK_F_WRITE_ZEROES,
    },
    virtio_config::VIRTIO_F_VERSION_1,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};

/// The unit of offsets and lengths in requests.
pub(super) const SECTOR_BYTES: u64 = 512;

/// Length of the configuration space in bytes, up to the fields of zoned devices.
pub(super) const CONFIG_BYTES: usize = 60;

/// Virtio and vhost features that a guest and its monitor may choose from.
pub(super) fn features(geometry: Geometry) -> u64 {
    let always = bits(&[
        VIRTIO_F_VERSION_1,
        VIRTIO_RING_F_INDIRECT_DESC,
        VIRTIO_RING_F_EVENT_IDX,
        VIRTIO_BLK_F_SIZE_MAX,
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_BLK_SIZE,
        VIRTIO_BLK_F_TOPOLOGY,
        VIRTIO_BLK_F_MQ,
        VIRTIO_BLK_F_FLUSH,
    ]);
    let by_rights = if geometry.read_only {
        bits(&[VIRTIO_BLK_F_RO])
    } else {
        bits(&[VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES])
    };
    let of_vhost = VhostUserVirtioFeatures::PROTOCOL_FEATURES | VhostUserVirtioFeatures::LOG_ALL;
    always | by_rights | of_vhost.bits()
}

/// Protocol features that a monitor may choose from; state can be handed over if the device names its own.
pub(super) fn protocol_features(has_state: bool) -> VhostUserProtocolFeatures {
    let mut features = VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::BACKEND_REQ
        | VhostUserProtocolFeatures::LOG_SHMFD
        | VhostUserProtocolFeatures::INFLIGHT_SHMFD
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
    features.set(VhostUserProtocolFeatures::DEVICE_STATE, has_state);
    features
}

const fn bits(numbers: &[u32]) -> u64 {
    let (mut bits, mut at) = (0, 0);
    while at < numbers.len() {
        bits |= 1 << numbers[at];
        at += 1;
    }
    bits
}

/// Whether `features` has a feature of virtio.
pub(super) fn has(features: u64, number: u32) -> bool {
    features & 1 << number != 0
}

/// The configuration space. A disk that ends within a sector ends for the guest before it.
pub(super) fn config_space(geometry: Geometry) -> [u8; CONFIG_BYTES] {
    let mut config = [0; CONFIG_BYTES];
    let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(geometry.size_bytes / SECTOR_BYTES).to_le_bytes());
    put(8, &SEGMENT_BYTES_MAX.to_le_bytes());
    put(12, &SEGMENTS_MAX.to_le_bytes());
    // 16: cylinders, heads, sectors: not offered.
    put(20, &(SECTOR_BYTES as u32).to_le_bytes());
    // Of eight logical blocks each is one physical: what a smaller write has to be merged into.
    let block_sectors = BLOCK_SIZE_BYTES / SECTOR_BYTES;
    put(24, &[block_sectors.ilog2() as u8, 0]);
    put(26, &(block_sectors as u16).to_le_bytes());
    put(28, &0u32.to_le_bytes());
    // 32: the write cache cannot be turned off. 33: unused.
    put(34, &(QUEUES_MAX as u16).to_le_bytes());
    if !geometry.read_only {
        put(36, &RANGE_SECTORS_MAX.to_le_bytes());
        put(40, &RANGES_MAX.to_le_bytes());
        put(44, &(block_sectors as u32).to_le_bytes());
        put(48, &RANGE_SECTORS_MAX.to_le_bytes());
        put(52, &RANGES_MAX.to_le_bytes());
        put(56, &[1]);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_bindings::virtio_blk::virtio_blk_config;

    #[test]
    fn fields_are_where_the_headers_of_linux_have_them() {
        let config =
            config_space(Geometry { size_bytes: (5 << 30) + 4096 + 511, read_only: false });
        let field = |at: usize, len: usize| {
            config[at..at + len]
                .iter()
                .rev()
                .fold(0u64, |number, byte| number << 8 | u64::from(*byte))
        };
        macro_rules! expect {
            ($($name:ident: $len:literal = $value:expr;)*) => {$(
                let at = std::mem::offset_of!(virtio_blk_config, $name);
                assert_eq!(field(at, $len), $value, stringify!($name));
            )*};
        }
        expect! {
            capacity: 8 = (10 << 20) + 8;
            size_max: 4 = 1 << 20;
            seg_max: 4 = 126;
            blk_size: 4 = 512;
            physical_block_exp: 1 = 3;
            alignment_offset: 1 = 0;
            min_io_size: 2 = 8;
            opt_io_size: 4 = 0;
            num_queues: 2 = 16;
            max_discard_sectors: 4 = 1 << 22;
            max_discard_seg: 4 = 16;
            discard_sector_alignment: 4 = 8;
            max_write_zeroes_sectors: 4 = 1 << 22;
            max_write_zeroes_seg: 4 = 16;
            write_zeroes_may_unmap: 1 = 1;
        }
        assert_eq!(std::mem::offset_of!(virtio_blk_config, max_secure_erase_sectors), CONFIG_BYTES);
    }

    #[test]
    fn a_read_only_disk_offers_nothing_that_writes() {
        let features = features(Geometry { size_bytes: 4096, read_only: true });
        assert!(has(features, VIRTIO_BLK_F_RO));
        assert!(!has(features, VIRTIO_BLK_F_DISCARD) && !has(features, VIRTIO_BLK_F_WRITE_ZEROES));
    }
}
