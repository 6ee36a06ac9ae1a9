//! Which boot of the machine this is: what only the page cache has is gone in the next one.

use std::{fs, sync::OnceLock};

/// The id that the kernel drew when it started (proc(5), `/proc/sys/kernel/random/boot_id`). `None` where it cannot be read.
/// Read once: a process that asks before it is confined knows it for ever.
pub fn boot_id() -> Option<[u8; 16]> {
    static BOOT: OnceLock<Option<[u8; 16]>> = OnceLock::new();
    *BOOT.get_or_init(|| parse(&fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?))
}

/// The 32 digits of a UUID.
fn parse(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim_end().chars().filter(|c| *c != '-').collect();
    let id = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 32).then(|| id.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_has_an_id_and_nothing_else_is_taken_for_one() {
        let id = boot_id().unwrap();
        assert!(id != [0; 16] && boot_id() == Some(id));
        assert_eq!(parse("00000000-0000-0000-0000-00000000000a\n").unwrap()[15], 10);
        for text in ["", "\n", "a", "00000000-0000-0000-0000-00000000000g", "é"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
