//! The history of a volume as lines: a tree with its newest state on top, one column for each branch.

use crate::{
    commands::log,
    output::{table, time},
};
use silt_engine::HistoryState;
use silt_types::format_size;

/// A line for each state, the last one first, with lines between where branches part.
pub(crate) fn graph(states: &[HistoryState]) -> String {
    let mut rows = Vec::new();
    // The state that each column goes down to.
    let mut columns: Vec<usize> = Vec::new();
    for (at, state) in states.iter().enumerate().rev() {
        let mine = match columns.iter().position(|below| *below == at) {
            Some(mine) => mine,
            None => {
                columns.push(at);
                columns.len() - 1
            }
        };
        // Branches that part here end, the outermost first, in the next one.
        while let Some(last) = columns.iter().rposition(|below| *below == at)
            && let Some(next) = columns[..last].iter().rposition(|below| *below == at)
        {
            let line = parting(next, last, columns.len());
            rows.push(vec![line, String::new(), String::new(), String::new(), String::new()]);
            columns.remove(last);
        }
        let marks = (0..columns.len()).map(|column| if column == mine { "* " } else { "| " });
        rows.push(row(state, marks.collect()));
        match state.parent {
            Some(parent) => columns[mine] = parent,
            None => drop(columns.remove(mine)),
        }
    }
    table(
        &["HISTORY", "KIND", "CREATED", "OWN", "SHARED"],
        &[false, false, false, true, true],
        &rows,
    )
}

/// Column `from` of `columns` goes over into column `to`, and those between are crossed.
fn parting(to: usize, from: usize, columns: usize) -> String {
    let mut line: Vec<char> = "| ".repeat(columns).chars().collect();
    line[2 * to + 1..2 * from].fill('_');
    line[2 * from - 1] = '/';
    line[2 * from] = ' ';
    // What was right of it moves to the left.
    for column in from + 1..columns {
        (line[2 * column], line[2 * column - 1]) = (' ', '/');
    }
    for between in to + 1..from {
        line[2 * between] = '|';
    }
    line.into_iter().collect()
}

fn row(state: &HistoryState, marks: String) -> Vec<String> {
    let (own, shared) = match state.held {
        Some(held) => (format_size(held.own_bytes), format_size(held.shared_bytes)),
        None => (String::new(), String::new()),
    };
    let name = format!("{marks}{}", state.name);
    vec![name, log::kind(state.kind).into(), time(state.created_ns), own, shared]
}

#[cfg(test)]
mod tests {
    use super::*;
    use silt_engine::StateKind;

    /// States named by a letter, each with the one that it went on from.
    fn drawn(states: &[(&str, Option<usize>)]) -> String {
        let states: Vec<_> = states
            .iter()
            .map(|(name, parent)| HistoryState {
                name: name.parse().unwrap(),
                kind: StateKind::Snapshot,
                created_ns: 0,
                size_bytes: 0,
                disk_id: None,
                parent: *parent,
                held: None,
            })
            .collect();
        let text = graph(&states);
        let lines = text.lines().skip(1).map(|line| line.split("  ").next().unwrap());
        lines.map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn branches_go_down_to_where_they_part() {
        assert_eq!(drawn(&[("a", None), ("b", Some(0)), ("c", Some(1))]), "* c\n* b\n* a");
        assert_eq!(
            drawn(&[("a", None), ("b", Some(0)), ("c", Some(0)), ("d", Some(1))]),
            "* d\n| * c\n* | b\n|/\n* a"
        );
        let three = [("a", None), ("b", Some(0)), ("c", Some(0)), ("d", Some(0))];
        assert_eq!(drawn(&three), "* d\n| * c\n| | * b\n| |/\n|/\n* a");
        // The branch that parts first is not the one beside.
        let crossing =
            [("a", None), ("b", Some(0)), ("c", Some(1)), ("d", Some(0)), ("e", Some(1))];
        assert_eq!(drawn(&crossing), "* e\n| * d\n| | * c\n|_|/\n* | b\n|/\n* a");
        let apart = [("a", None), ("b", None)];
        assert_eq!(drawn(&apart), "* b\n* a");
    }
}
