//! Access control lists as text, as archives have them, to the attribute in which the kernel shows them.
//!
//! Source: POSIX.1e draft 17, section 23.3.1, long and short text forms; `include/uapi/linux/posix_acl_xattr.h`.

use silt_types::{Error, Result};

/// `POSIX_ACL_XATTR_VERSION`.
const VERSION: u32 = 2;
/// The id of an entry that names nobody.
const NOBODY: u32 = u32::MAX;

/// Length of a list of user, group and other alone.
pub(super) const MINIMAL_LEN: usize = 4 + 3 * 8;

/// The value of `system.posix_acl_access` or `..._default` for a list in text. Users and groups must be numbers, in their own
/// place or (as some write them) in a fourth field.
pub(super) fn attribute(text: &[u8]) -> Result<Vec<u8>> {
    let mut entries = Vec::new();
    for line in text.split(|byte| matches!(byte, b',' | b'\n')) {
        // What stands behind a # is for people.
        let line = line.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
        if !line.is_empty() {
            entries.push(entry(line).ok_or_else(|| {
                let line = String::from_utf8_lossy(line);
                Error::invalid(format!(
                    "the access control entry {line:?} cannot be kept: users and groups must be numbers"
                ))
            })?);
        }
    }
    entries.sort_unstable();
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    Ok(bytes)
}

/// Tag, id and permissions of an entry; in the order in which the kernel wants them.
fn entry(line: &[u8]) -> Option<(u16, u32, u16)> {
    let mut fields = line.split(|byte| *byte == b':').map(<[u8]>::trim_ascii);
    let (kind, who, permissions) = (fields.next()?, fields.next()?, fields.next()?);
    let (who, is_named) = match fields.next() {
        Some(id) if !who.is_empty() => (id, true),
        _ => (who, !who.is_empty()),
    };
    let tag = match (kind, is_named) {
        (b"user" | b"u", false) => 0x01,
        (b"user" | b"u", true) => 0x02,
        (b"group" | b"g", false) => 0x04,
        (b"group" | b"g", true) => 0x08,
        (b"mask" | b"m", false) => 0x10,
        (b"other" | b"o", false) => 0x20,
        _ => return None,
    };
    let id = if is_named { std::str::from_utf8(who).ok()?.parse().ok()? } else { NOBODY };
    let mut bits = 0;
    for letter in permissions {
        bits |= match letter {
            b'r' => 4,
            b'w' => 2,
            b'x' => 1,
            b'-' => 0,
            _ => return None,
        };
    }
    Some((tag, id, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_what_the_kernel_shows() {
        let long = b"user::rw-\nuser:1000:r-x\t#effective:r--\ngroup::r--\nmask::r--\nother::---\n";
        let short = b"o::-,u::rw,u:name:rx:1000,g::r,m::r";
        let value = attribute(long).unwrap();
        assert_eq!(value, attribute(short).unwrap());
        assert_eq!(value[..12], [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255]);
        assert_eq!(value[12..20], [2, 0, 5, 0, 232, 3, 0, 0]);
        for bad in [&b"user:name:rwx"[..], b"user::rwz", b"mask:1:r", b"what::r", b"user"] {
            assert!(attribute(bad).is_err());
        }
    }
}
