//! `map.boot`: which blocks joined a delta and are not in its log yet, for as long as the machine runs. Records of 16 bytes, one
//! behind the other, without a header.
//!
//! The sum of a record is keyed by the boot and the delta: what was noted in another boot is no note. What notes are good
//! for is decided by `silt-volume`'s `delta::notes`, not here.

use crate::{
    layout::{Field, Record},
    wire::{WireReader, WireWrite},
};
use silt_types::{BlockRange, DeltaId};

/// Writes and reads the notes of one delta in one boot.
#[derive(Clone, Copy, Debug)]
pub struct DeltaNotes {
    key: [u8; blake3::KEY_LEN],
}

impl DeltaNotes {
    /// Length of a note in bytes. It divides a page, so none is ever torn by the end of a process.
    pub const NOTE_LEN: usize = 16;

    /// The layout of a note, as documented in `docs/internals/formats.md`.
    pub const RECORD: Record = Record {
        name: "delta note",
        len: DeltaNotes::NOTE_LEN,
        fields: &[
            Field::new(0, 4, "first", "first block"),
            Field::new(4, 4, "blocks", "blocks - 1"),
            Field::new(
                8,
                8,
                "sum",
                "first 8 bytes of the BLAKE3 of the 8 bytes before, its key: boot id (16) and delta id (16)",
            ),
        ],
    };

    /// Of a boot, as the kernel names it, and a delta.
    pub fn new(boot_id: &[u8; 16], delta: &DeltaId) -> DeltaNotes {
        let mut key = [0; blake3::KEY_LEN];
        key[..16].copy_from_slice(boot_id);
        key[16..].copy_from_slice(delta.as_bytes());
        DeltaNotes { key }
    }

    /// The note of blocks that joined: at least one, all below 2^32.
    pub fn encode(&self, run: BlockRange) -> [u8; DeltaNotes::NOTE_LEN] {
        let mut out = Vec::with_capacity(DeltaNotes::NOTE_LEN);
        out.put_u32(run.start as u32);
        out.put_u32((run.len - 1) as u32);
        let sum = self.sum(&out);
        out.put_bytes(&sum);
        out.try_into().expect("the vector was made this long")
    }

    /// The blocks, if this is a note of this delta in this boot.
    pub fn decode(&self, note: &[u8; DeltaNotes::NOTE_LEN]) -> Option<BlockRange> {
        let (run, sum) = note.split_at(8);
        if self.sum(run) != sum {
            return None;
        }
        let mut wire = WireReader::new(run, "delta note");
        let start = u64::from(wire.u32().ok()?);
        Some(BlockRange { start, len: u64::from(wire.u32().ok()?) + 1 })
    }

    fn sum(&self, run: &[u8]) -> [u8; 8] {
        *blake3::keyed_hash(&self.key, run).as_bytes().first_chunk().expect("it has 32")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_counts_in_its_boot_for_its_delta_and_whole() {
        let delta = DeltaId::from_bytes([2; 16]);
        let notes = DeltaNotes::new(&[1; 16], &delta);
        let runs = [(0, 1), (7, 3), (0, 1 << 32), (u64::from(u32::MAX), 1)];
        for run in runs.map(|(start, len)| BlockRange { start, len }) {
            let mut note = notes.encode(run);
            assert_eq!(notes.decode(&note), Some(run));
            assert_eq!(DeltaNotes::new(&[2; 16], &delta).decode(&note), None);
            let other = DeltaId::from_bytes([3; 16]);
            assert_eq!(DeltaNotes::new(&[1; 16], &other).decode(&note), None);
            for bit in 0..note.len() * 8 {
                note[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(notes.decode(&note), None, "{bit}");
                note[bit / 8] ^= 1 << (bit % 8);
            }
        }
        assert_eq!(notes.decode(&[0; 16]), None);
    }
}
