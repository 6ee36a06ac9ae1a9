//! Blocks by their content: which are zero, and what runs the others make.

use crate::BlockRange;

/// Whether bytes are all zero. A block that is, is a hole.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, tail) = bytes.as_chunks::<64>();
    words.iter().all(|word| *word == [0; 64]) && tail.iter().all(|byte| *byte == 0)
}

/// The runs of the blocks of a chunk whose bits are set, ascending; bit `n` is block `n`.
pub fn runs_of_bits(bits: u16) -> impl Iterator<Item = BlockRange> {
    let (mut rest, mut at) = (u32::from(bits), 0);
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let skip = rest.trailing_zeros();
        let len = (rest >> skip).trailing_ones();
        let start = at + skip;
        at = start + len;
        rest >>= skip + len; // At most 16: the bits are those of a `u16`.
        Some(BlockRange { start: u64::from(start), len: u64::from(len) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_those_of_the_bits_and_one_byte_is_not_zero_wherever_it_is() {
        for bits in 0..=u16::MAX {
            let set = runs_of_bits(bits).flat_map(|run| run.start..run.end());
            assert_eq!(set.fold(0u16, |all, n| all | 1 << n), bits);
        }
        let runs: Vec<_> = runs_of_bits(0b1000_0000_0011_0110).map(|r| (r.start, r.len)).collect();
        assert_eq!(runs, [(1, 2), (4, 2), (15, 1)]);
        for len in [1, 63, 64, 65, 4096] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            bytes[len - 1] = 1;
            assert!(!is_zero(&bytes));
        }
    }
}
