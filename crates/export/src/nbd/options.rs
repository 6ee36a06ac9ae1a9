//! The data of options, decoded. Whatever does not add up to the last byte is `None`.

use super::wire::{ALLOCATION_CONTEXT, Fields};

/// `INFO` and `GO`: the export's name. What kinds of information the client would like is checked and ignored: it
/// gets all that there is, as the specification allows.
pub(super) fn export_name(data: &[u8]) -> Option<&[u8]> {
    let mut fields = Fields(data);
    let name = string(&mut fields)?;
    let count = fields.u16()?;
    (fields.0.len() == 2 * usize::from(count)).then_some(name)
}

/// `LIST_META_CONTEXT` and `SET_META_CONTEXT`: an export's name and queries for contexts.
pub(super) struct ContextQueries<'a> {
    pub(super) export_name: &'a [u8],
    queries: Vec<&'a [u8]>,
}

impl<'a> ContextQueries<'a> {
    pub(super) fn decode(data: &'a [u8]) -> Option<ContextQueries<'a>> {
        let mut fields = Fields(data);
        let export_name = string(&mut fields)?;
        let count = fields.u32()?;
        // Grown as queries are found: the count may be a lie.
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(string(&mut fields)?);
        }
        fields.0.is_empty().then_some(ContextQueries { export_name, queries })
    }

    /// Whether `base:allocation` is to be switched on.
    pub(super) fn selects_allocation(&self) -> bool {
        self.queries.contains(&ALLOCATION_CONTEXT)
    }

    /// Whether `base:allocation` is among what is to be listed: all, all of `base`, or itself.
    pub(super) fn lists_allocation(&self) -> bool {
        self.queries.is_empty()
            || self.queries.contains(&&b"base:"[..])
            || self.selects_allocation()
    }
}

fn string<'a>(fields: &mut Fields<'a>) -> Option<&'a [u8]> {
    let len = fields.u32()?;
    fields.bytes(usize::try_from(len).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_lie_are_seen() {
        assert_eq!(export_name(b"\0\0\0\x01x\0\x01\0\x03"), Some(&b"x"[..]));
        for lie in [
            &b""[..],
            b"\0\0\0\0",
            b"\0\0\0\0\0\x01",
            b"\0\0\0\0\0\0\0",
            b"\xff\xff\xff\xff\0\0",
            b"\0\0\0\x03ab",
        ] {
            assert_eq!(export_name(lie), None, "{lie:?}");
        }
        for lie in [
            &b"\0\0\0\0"[..],
            b"\0\0\0\0\0\0\0\x01",
            b"\0\0\0\0\xff\xff\xff\xff",
            b"\0\0\0\0\0\0\0\0x",
            b"\0\0\0\0\0\0\0\x01\xff\xff\xff\xffx",
        ] {
            assert!(ContextQueries::decode(lie).is_none(), "{lie:?}");
        }
    }

    #[test]
    fn only_the_full_name_selects_but_less_lists() {
        let decode = |query: &[u8]| {
            let mut data = b"\0\0\0\0\0\0\0\x01".to_vec();
            data.extend((query.len() as u32).to_be_bytes());
            data.extend(query);
            let queries = ContextQueries::decode(&data).unwrap();
            (queries.selects_allocation(), queries.lists_allocation())
        };
        assert_eq!(decode(b"base:allocation"), (true, true));
        assert_eq!(decode(b"base:"), (false, true));
        assert_eq!(decode(b"qemu:allocation-depth"), (false, false));
        let all = ContextQueries::decode(&[0; 8]).unwrap();
        assert!(all.lists_allocation() && !all.selects_allocation());
    }
}
