//! Layout tables of fixed-size records: the one description that `docs/internals/formats.md` is tested against.

/// A field of a record.
pub struct Field {
    /// First byte.
    pub offset: usize,
    /// Length in bytes.
    pub len: usize,
    /// Name.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

impl Field {
    pub(crate) const fn new(
        offset: usize,
        len: usize,
        name: &'static str,
        meaning: &'static str,
    ) -> Field {
        Field { offset, len, name, meaning }
    }
}

/// A record of fixed length.
pub struct Record {
    /// Name, the heading of its table.
    pub name: &'static str,
    /// Length in bytes.
    pub len: usize,
    /// Fields in order, without gaps.
    pub fields: &'static [Field],
}

impl Record {
    /// The record as a Markdown table.
    pub fn markdown(&self) -> String {
        let mut table =
            String::from("| offset | length | field | meaning |\n|---:|---:|---|---|\n");
        for field in self.fields {
            table.push_str(&format!(
                "| {} | {} | {} | {} |\n",
                field.offset, field.len, field.name, field.meaning
            ));
        }
        table
    }

    /// Whether the fields follow one another without gap or overlap and fill the record.
    pub fn is_contiguous(&self) -> bool {
        let end = self
            .fields
            .iter()
            .try_fold(0, |at, field| (field.offset == at).then_some(at + field.len));
        end == Some(self.len)
    }
}
