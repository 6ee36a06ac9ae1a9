//! Packs: many chunks in one append-only file. The bytes are described in `silt_format`.

mod reader;
mod writer;

pub(crate) use reader::{PackFiles, read_footer, read_footer_of_damaged, read_pack_id};
pub(crate) use writer::PackWriter;
