//! What images add and share, as a picture and as a table.

use crate::output::table;
use serde_json::{Value, json};
use silt_engine::ImageShare;
use silt_types::format_size;
use std::fmt::Write as _;

/// Measures of the picture, in pixels.
const LABEL_WIDTH: f64 = 160.0;
const BAR_WIDTH: f64 = 640.0;
const ROW_HEIGHT: f64 = 34.0;
const BAR_HEIGHT: f64 = 18.0;
const TOP: f64 = 64.0;

/// A part of a bar: what it means, its colour, and how long it is.
type Part = (&'static str, &'static str, fn(&ImageShare) -> u64);

/// From left to right. Together they are the content of the image.
const PARTS: [Part; 4] = [
    ("in images before it", "#9db7d5", |share| share.shared_bytes),
    ("more than once in it", "#d9d9d9", ImageShare::repeated_bytes),
    ("saved by compression", "#f3cf9b", |share| {
        share.added_bytes.saturating_sub(share.stored_bytes)
    }),
    ("added to the store", "#d9822b", |share| share.stored_bytes),
];

pub(crate) fn document(shares: &[ImageShare]) -> Value {
    let image = |share: &ImageShare| {
        json!({
            "name": share.name.as_str(),
            "size": share.size_bytes,
            "bytes_content": share.content_bytes,
            "bytes_repeated": share.repeated_bytes(),
            "bytes_shared": share.shared_bytes,
            "bytes_added": share.added_bytes,
            "bytes_stored": share.stored_bytes,
            "bytes_own": share.own_bytes,
        })
    };
    json!({ "images": shares.iter().map(image).collect::<Vec<_>>() })
}

pub(crate) fn text(shares: &[ImageShare]) -> String {
    let row = |share: &ImageShare| {
        let sizes = [
            share.size_bytes,
            share.content_bytes,
            share.repeated_bytes(),
            share.shared_bytes,
            share.added_bytes,
            share.stored_bytes,
            share.own_bytes,
        ];
        std::iter::once(share.name.to_string()).chain(sizes.map(format_size)).collect()
    };
    let rows: Vec<Vec<String>> = shares.iter().map(row).collect();
    let heading = ["image", "size", "content", "repeated", "shared", "added", "stored", "own"];
    table(&heading, &[false, true, true, true, true, true, true, true], &rows)
}

/// An SVG of one bar for each image, all on one scale.
pub(crate) fn picture(shares: &[ImageShare]) -> String {
    let longest = shares.iter().map(|share| share.content_bytes).max().unwrap_or(0).max(1) as f64;
    let (width, height) =
        (LABEL_WIDTH + BAR_WIDTH + 260.0, TOP + ROW_HEIGHT * shares.len() as f64 + 16.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<title>What each image adds to the store and shares with those before it\
         </title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let mut put = |piece: std::fmt::Arguments<'_>| {
        let _ = svg.write_fmt(piece); // Writing to a string does not fail.
    };
    for (n, (meaning, colour, _)) in PARTS.iter().enumerate() {
        let x = LABEL_WIDTH + n as f64 * 180.0;
        put(format_args!(
            "<rect x=\"{x}\" y=\"16\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\n\
             <text x=\"{}\" y=\"26\">{meaning}</text>\n",
            x + 18.0
        ));
    }
    for (n, share) in shares.iter().enumerate() {
        let y = TOP + n as f64 * ROW_HEIGHT;
        // Names hold no character that means something here.
        put(format_args!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n",
            LABEL_WIDTH - 10.0,
            y + 13.0,
            share.name
        ));
        let mut x = LABEL_WIDTH;
        for (meaning, colour, len) in PARTS {
            let bytes = len(share);
            let width = bytes as f64 / longest * BAR_WIDTH;
            put(format_args!(
                "<rect x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"{BAR_HEIGHT}\" fill=\"{colour}\">\
                 <title>{}: {} {meaning}</title></rect>\n",
                share.name,
                format_size(bytes)
            ));
            x += width;
        }
        put(format_args!(
            "<text x=\"{:.2}\" y=\"{}\">{} of {}, adds {}</text>\n",
            x + 8.0,
            y + 13.0,
            format_size(share.content_bytes),
            format_size(share.size_bytes),
            format_size(share.stored_bytes)
        ));
    }
    svg.push_str("</svg>\n");
    svg
}
