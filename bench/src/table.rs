//! A plain table: figure, ours, peer, ratio, target.

use std::fmt;

/// One section's figures.
pub struct Table {
    title: String,
    rows: Vec<[String; 6]>,
    notes: Vec<String>,
}

impl Table {
    /// An empty table; the title says input and circumstances.
    pub fn new(title: impl Into<String>) -> Self {
        let head = ["", "silt", "peer", "", "ratio", "target"].map(str::to_owned);
        Self { title: title.into(), rows: vec![head], notes: Vec::new() }
    }

    /// A figure of ours beside a peer's, and what the ratio ought to be.
    pub fn beside(&mut self, what: &str, ours: (f64, &str), peer: &str, theirs: f64, target: &str) {
        let show = |value: f64| format!("{} {}", figure(value), ours.1);
        let ratio = format!("{:.3}", ours.0 / theirs);
        self.rows.push([
            what.to_owned(),
            show(ours.0),
            peer.to_owned(),
            show(theirs),
            ratio,
            target.to_owned(),
        ]);
    }

    /// A figure of ours alone.
    pub fn alone(&mut self, what: &str, ours: f64, unit: &str, target: &str) {
        let shown = format!("{} {unit}", figure(ours));
        self.rows.push([
            what.to_owned(),
            shown,
            String::new(),
            String::new(),
            String::new(),
            target.to_owned(),
        ]);
    }

    /// How it was measured, or what a figure leaves out.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

/// Four significant digits are more than any of these measurements holds.
fn figure(value: f64) -> String {
    let digits = if value >= 1000.0 {
        0
    } else if value >= 100.0 {
        1
    } else if value >= 10.0 {
        2
    } else {
        3
    };
    format!("{value:.digits$}")
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: [usize; 6] = std::array::from_fn(|column| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        });
        writeln!(f, "\n{}", self.title)?;
        for row in &self.rows {
            write!(f, "  {:<width$}", row[0], width = widths[0])?;
            write!(f, "  {:>width$}", row[1], width = widths[1])?;
            write!(f, "  {:<width$}", row[2], width = widths[2])?;
            write!(f, "  {:>width$}", row[3], width = widths[3])?;
            write!(f, "  {:>width$}", row[4], width = widths[4])?;
            writeln!(f, "  {}", row[5])?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  * {note}"))
    }
}
