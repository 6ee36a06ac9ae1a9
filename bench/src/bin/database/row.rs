//! The row under test: what the index says about one chunk. Rows are a function of their number, so that
//! every process knows what it ought to find.

/// A chunk id: 32 bytes without pattern.
pub type Key = [u8; 32];

/// A row's value as the key-value engines store it.
pub const VALUE_SIZE_BYTES: usize = 29;

/// Place and size of one chunk, and a checksum over all of it and its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    pub key: Key,
    pub pack: u64,
    pub offset: u64,
    pub stored: u32,
    pub length: u32,
    pub kind: u8,
    pub sum: u32,
}

/// Set in the numbers of keys that are never inserted.
const ABSENT: u64 = 1 << 63;

/// The key of row `number`: four words of a mixing counter, as evenly spread as a hash.
pub fn key(number: u64) -> Key {
    let mut key = Key::default();
    let mut state = number.wrapping_mul(0x2545_f491_4f6c_dd1d);
    for word in key.chunks_exact_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&mix(state).to_le_bytes());
    }
    key
}

/// A key that no row has.
pub fn absent_key(number: u64) -> Key {
    key(number | ABSENT)
}

/// SplitMix64's finalizer (Steele, Lea, Flood 2014).
pub fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl Row {
    /// Row `number`, sealed with its checksum.
    pub fn numbered(number: u64) -> Self {
        let mut row = Self {
            key: key(number),
            pack: number / 1024,
            offset: (number % 1024) * 23_456,
            stored: 20_000 + (mix(number) % 7_000) as u32,
            length: 65_536,
            kind: (number % 3) as u8,
            sum: 0,
        };
        row.sum = row.sum_expected();
        row
    }

    /// The checksum these fields ought to have.
    pub fn sum_expected(&self) -> u32 {
        let value = self.encode();
        crc32c::crc32c_append(crc32c::crc32c(&self.key), &value[..VALUE_SIZE_BYTES - 4])
    }

    /// The fixed form the key-value engines store.
    pub fn encode(&self) -> [u8; VALUE_SIZE_BYTES] {
        let mut bytes = [0; VALUE_SIZE_BYTES];
        bytes[..8].copy_from_slice(&self.pack.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.stored.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.length.to_le_bytes());
        bytes[24] = self.kind;
        bytes[25..].copy_from_slice(&self.sum.to_le_bytes());
        bytes
    }

    /// Undoes [`Self::encode`]; checks nothing but the length.
    pub fn decode(key: Key, bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; VALUE_SIZE_BYTES] = bytes.try_into().ok()?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Some(Self {
            key,
            pack: word(0),
            offset: word(8),
            stored: half(16),
            length: half(20),
            kind: bytes[24],
            sum: half(25),
        })
    }
}
