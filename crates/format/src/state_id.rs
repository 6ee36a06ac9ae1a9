//! Where state ids come from.
//!
//! A state id is derived from what never changes, and so needs nobody to count it: from a sealed disk, from a delta and how
//! often its writing was begun anew since somebody was told of a state, or from another state and a length. Sealing leaves
//! it alone, since none of these is where the bytes lie.

use silt_types::{DeltaId, DiskId, StateId};

const DISK: &str = "siltstone 1 state of a disk";
const DELTA: &str = "siltstone 1 state of a delta";
const LENGTH: &str = "siltstone 1 state of another length";

/// The state of a sealed disk.
pub fn state_of_disk(disk: &DiskId) -> StateId {
    derive(DISK, &[disk.root.as_bytes(), &disk.size_bytes.to_le_bytes()])
}

/// The state of a disk whose newest layer is this delta, in the write generation that it has.
pub fn state_of_delta(delta: &DeltaId, write_generation: u64) -> StateId {
    derive(DELTA, &[delta.as_bytes(), &write_generation.to_le_bytes()])
}

/// The state of a disk that was in `state` and then got another length.
pub fn state_of_length(state: &StateId, size_bytes: u64) -> StateId {
    derive(LENGTH, &[state.as_bytes(), &size_bytes.to_le_bytes()])
}

fn derive(context: &str, parts: &[&[u8]]) -> StateId {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(part);
    }
    StateId::from_bytes(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use silt_types::ChunkId;

    /// Snapshots of running machines are kept with these ids, so they stay what they are.
    #[test]
    fn state_ids_stay_what_they_were() {
        let disk = DiskId { root: ChunkId::from_bytes([1; 32]), size_bytes: 4096 };
        let ids = [
            state_of_disk(&disk),
            state_of_delta(&DeltaId::from_bytes([2; 16]), 3),
            state_of_length(&StateId::from_bytes([4; 32]), 5),
        ];
        let expected = [
            "90c8dae3504d438b1b31e02a8f679410ab01f51dcb3eedac33065eaca10b1e4d",
            "139bdf5753eb6160261e0bef58b82727e241e2a244379e30cbd45d779bc943a7",
            "3780f35d74a3106ed370f6e890844e83bbe2ce924207f6a70423fc53a453e8e4",
        ];
        assert_eq!(ids.map(|id| id.to_string()), expected);
    }
}
