//! Sizes as people write them.

use crate::{Error, Result};

const UNITS: [(&str, u32); 4] = [("K", 10), ("M", 20), ("G", 30), ("T", 40)];

/// Reads a size: bytes, or a number with `K`, `M`, `G`, `T` or `KiB`, `MiB`, `GiB`, `TiB`, all powers of 1024.
pub fn parse_size(text: &str) -> Result<u64> {
    let bad = |why: &str| {
        Error::invalid(format!("bad size {text:?}: {why} (examples: 4096, 512M, 20GiB)"))
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" => 0,
        _ => {
            let letter = unit.strip_suffix("iB").unwrap_or(unit);
            let found = UNITS.iter().find(|(name, _)| *name == letter);
            found.ok_or_else(|| bad("unknown unit"))?.1
        }
    };
    let number: u64 = match number {
        "" => return Err(bad("no number")),
        _ => number.parse().map_err(|_| bad("too large"))?,
    };
    number.checked_mul(1 << shift).ok_or_else(|| bad("too large"))
}

/// A size for people: three digits and a binary unit, as in `846 MiB` or `1.31 GiB`.
pub fn format_size(bytes: u64) -> String {
    let Some((unit, shift)) = UNITS.iter().rev().find(|(_, shift)| bytes >> shift > 0) else {
        return format!("{bytes} B");
    };
    let value = bytes as f64 / (1u64 << shift) as f64;
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {unit}iB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        let cases = [
            ("0", 0),
            ("4096", 4096),
            ("1K", 1024),
            ("8GiB", 8 << 30),
            ("16T", 16 << 40),
            ("3M", 3 << 20),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for bad in
            ["", "G", "-1", "1.5G", "1KB", "1k", "1 G", "99999999999999999999", "99999999T", "1iB"]
        {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_print_three_digits() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10 << 20, "10.0 MiB"),
            (846 << 20, "846 MiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(format_size(bytes), text);
        }
    }
}
