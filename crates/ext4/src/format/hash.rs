//! The directory hash: half MD4 over the name, seeded from the superblock.
//!
//! Only the hash the writer uses is here; a reader scans leaves and needs none.

/// `s_def_hash_version` and the root of an index: half MD4 (with [`FLAG_UNSIGNED_HASH`](super::superblock::FLAG_UNSIGNED_HASH)
/// over unsigned bytes).
pub const HASH_HALF_MD4: u8 = 1;

/// The hash value that marks the end of a directory and is never given to a name.
const HASH_END: u32 = 0xFFFF_FFFE;

/// The hash of a name by which the index sorts. The lowest bit is always clear: the index uses it.
pub fn half_md4(seed: &[u32; 4], name: &[u8]) -> u32 {
    let start =
        if *seed == [0; 4] { [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476] } else { *seed };
    let mut state = start;
    let mut rest = name;
    while !rest.is_empty() {
        transform(&mut state, &words(rest));
        rest = rest.get(32..).unwrap_or_default();
    }
    match state[1] & !1 {
        HASH_END => HASH_END - 2,
        hash => hash,
    }
}

/// The next 32 bytes of the name, padded with its remaining length.
fn words(rest: &[u8]) -> [u32; 8] {
    let len = rest.len() as u32 & 0xFF;
    let padding = len * 0x0101_0101;
    let mut words = [padding; 8];
    for (word, bytes) in words.iter_mut().zip(rest.chunks(4)) {
        *word = bytes.iter().fold(padding, |value, byte| value << 8 | u32::from(*byte));
    }
    words
}

/// Three rounds of eight steps, the order of the words and the shifts from MD4.
fn transform(state: &mut [u32; 4], words: &[u32; 8]) {
    const ROUNDS: [(u32, [usize; 8], [u32; 4]); 3] = [
        (0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
        (0x5A82_7999, [1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13]),
        (0x6ED9_EBA1, [3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15]),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (round, (constant, order, shifts)) in ROUNDS.into_iter().enumerate() {
        for (step, index) in order.into_iter().enumerate() {
            let mixed = match round {
                0 => d ^ (b & (c ^ d)),
                1 => (b & c).wrapping_add((b ^ c) & d),
                _ => b ^ c ^ d,
            };
            let sum = a.wrapping_add(mixed).wrapping_add(words[index]).wrapping_add(constant);
            (a, d, c, b) = (d, c, b, sum.rotate_left(shifts[step % 4]));
        }
    }
    for (word, value) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(value);
    }
}
