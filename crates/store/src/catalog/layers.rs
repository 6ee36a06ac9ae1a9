//! Frozen deltas as rows hold them.

use silt_types::{DeltaId, VolumeId};

/// A frozen delta that a volume or a snapshot reads through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrozenDelta {
    /// Its id.
    pub delta: DeltaId,
    /// The volume that wrote it, in whose folder it lies.
    pub home: VolumeId,
}

const LEN: usize = DeltaId::LEN + VolumeId::LEN;

/// The deltas as one column: id and home of each, in order.
pub(super) fn frozen_bytes(frozen: &[FrozenDelta]) -> Vec<u8> {
    frozen.iter().flat_map(|f| [*f.delta.as_bytes(), *f.home.as_bytes()].concat()).collect()
}

/// The same back; the row's checksum tells whether they are whole.
pub(super) fn read_frozen(bytes: &[u8]) -> Vec<FrozenDelta> {
    let half = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).unwrap_or_default();
    let pairs = bytes.chunks_exact(LEN).map(|pair| FrozenDelta {
        delta: DeltaId::from_bytes(half(&pair[..DeltaId::LEN])),
        home: VolumeId::from_bytes(half(&pair[DeltaId::LEN..])),
    });
    pairs.collect()
}
