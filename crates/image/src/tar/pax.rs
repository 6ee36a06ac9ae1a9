//! Extended headers of pax: records of any bytes, by their lengths.
//!
//! Sources: POSIX.1-2017, pax, "pax Extended Header"; GNU tar manual, "Storing Sparse Files"; the keys of star for attributes.

use silt_ext4::Timestamp;
use silt_types::{Error, Result};

/// What extended headers say of a member.
#[derive(Clone, Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size_bytes: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    /// Full names and values, the last of a name.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Access control lists as text.
    pub(super) acl_access: Option<Vec<u8>>,
    pub(super) acl_default: Option<Vec<u8>>,
    pub(super) sparse: PaxSparse,
}

/// The three ways in which GNU tar tells of holes.
#[derive(Clone, Debug, Default)]
pub(super) struct PaxSparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size_bytes: Option<u64>,
    /// Version 1.0: the map stands before the content.
    pub(super) map_in_content: bool,
    /// Versions 0.0 and 0.1: offsets and lengths in turn.
    pub(super) map: Vec<u64>,
}

impl Pax {
    /// Adds what the records of one header say.
    pub(super) fn add(&mut self, header: &[u8]) -> Result<()> {
        let mut rest = header;
        while !rest.is_empty() {
            let (record, behind) = split_record(rest).ok_or_else(|| bad("a record"))?;
            let equals =
                record.iter().position(|byte| *byte == b'=').ok_or_else(|| bad("a record"))?;
            self.add_record(&record[..equals], &record[equals + 1..])?;
            rest = behind;
        }
        Ok(())
    }

    fn add_record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let text = || (!value.is_empty()).then(|| value.to_vec());
        // A value of no length takes back what an earlier header said.
        let number = || (!value.is_empty()).then(|| decimal(value)).transpose();
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            b"size" => self.size_bytes = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" => self.mtime = (!value.is_empty()).then(|| time(value)).transpose()?,
            b"SCHILY.acl.access" => self.acl_access = text(),
            b"SCHILY.acl.default" => self.acl_default = text(),
            b"GNU.sparse.name" => self.sparse.name = text(),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size_bytes = number()?,
            b"GNU.sparse.major" => self.sparse.map_in_content = decimal(value)? == 1,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.map.push(decimal(value)?),
            b"GNU.sparse.map" => {
                let numbers = value.split(|byte| *byte == b',').map(decimal);
                self.sparse.map = numbers.collect::<Result<_>>()?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// The first record without its length and the newline at its end, and what follows it.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let len = usize::try_from(decimal(&bytes[..space]).ok()?).ok()?;
    let record = bytes.get(..len)?.strip_suffix(b"\n")?;
    Some((record.get(space + 1..)?, &bytes[len..]))
}

/// A number without sign.
pub(super) fn decimal(bytes: &[u8]) -> Result<u64> {
    let is_number = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(bytes).ok().filter(|_| is_number);
    text.and_then(|text| text.parse().ok()).ok_or_else(|| bad("a number"))
}

/// Seconds since 1970 with a sign and a fraction, rounded down to nanoseconds.
fn time(bytes: &[u8]) -> Result<Timestamp> {
    let (negative, digits) =
        bytes.strip_prefix(b"-").map_or((false, bytes), |digits| (true, digits));
    let point = digits.iter().position(|byte| *byte == b'.');
    let (whole, fraction) =
        point.map_or((digits, &[][..]), |point| (&digits[..point], &digits[point + 1..]));
    let seconds = i64::try_from(decimal(whole)?).map_err(|_| bad("a time"))?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad("a time"));
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanoseconds = digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Ok(match (negative, nanoseconds) {
        (false, nanoseconds) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp { seconds: -seconds, nanoseconds: 0 },
        (true, part) => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - part },
    })
}

fn bad(what: &str) -> Error {
    Error::invalid(format!("{what} of its extended header cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_hold_any_bytes_and_the_last_one_counts() {
        let mut pax = Pax::default();
        pax.add(b"21 SCHILY.xattr.a=\n\0\n31 mtime=1700000000.1234567891\n10 path=a\n8 path=\n")
            .unwrap();
        assert_eq!(pax.xattrs, [(b"a".to_vec(), b"\n\0".to_vec())]);
        let mtime = Timestamp { seconds: 1_700_000_000, nanoseconds: 123_456_789 };
        assert_eq!((pax.mtime, pax.path), (Some(mtime), None));
        assert_eq!(time(b"-1.25").unwrap(), Timestamp { seconds: -2, nanoseconds: 750_000_000 });
        assert_eq!(time(b"-3").unwrap(), Timestamp { seconds: -3, nanoseconds: 0 });
    }

    #[test]
    fn records_that_lie_about_their_length_are_refused() {
        let bad: [&[u8]; 10] = [
            b"5 a=b\n",
            b"7 a=b\n",
            b"6 a=b",
            b"6 abc\n",
            b"x a=b\n",
            b"0 a=b\n",
            b"3 \n",
            b"-6 a=b\n",
            b"99999999999999999999 a=b\n",
            b"15 size=1x2345\n",
        ];
        for header in bad {
            assert!(Pax::default().add(header).is_err(), "{}", header.escape_ascii());
        }
    }
}
