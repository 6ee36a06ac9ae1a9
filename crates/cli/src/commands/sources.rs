//! `silt sources`: what images can be built from.

use super::Context;
use crate::output::{print, table};
use serde_json::json;
use silt_engine::Source;
use silt_types::Result;

/// List what images can be built from, and how it is written.
///
/// What a file is, its content says, never its name; --from overrules that.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, Args {}: Args) -> Result<()> {
    let document = || {
        let forms = Source::FORMS.iter();
        json!(forms.map(|(form, what)| json!({ "source": form, "what": what })).collect::<Vec<_>>())
    };
    let text = || {
        let rows = Source::FORMS.map(|(form, what)| vec![form.to_owned(), what.to_owned()]);
        table(&["SOURCE", "WHAT IT IS"], &[false, false], &rows)
    };
    print(context.json, document, text)
}
