//! Lays out tables for people.

use std::io::IsTerminal;

use super::printable;

/// A cell with more characters than this is cut; the JSON output has the whole text.
const WIDEST: usize = 200;
/// The same limit on a terminal, for all columns but the last.
const WIDEST_ON_TERMINAL: usize = 100;

/// Lays out rows under a head, in columns.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let inner = if std::io::stdout().is_terminal() { WIDEST_ON_TERMINAL } else { WIDEST };
    lay_out(head, rows, inner)
}

fn lay_out(head: &[&str], rows: &[Vec<String>], inner: usize) -> String {
    let limit = |column: usize| if column + 1 < head.len() { inner } else { WIDEST };
    let cells = |row: &Vec<String>| -> Vec<String> {
        row.iter().enumerate().map(|(column, cell)| cut(&printable(cell), limit(column))).collect()
    };
    let rows: Vec<_> = rows.iter().map(cells).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: Vec<_> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let head: Vec<_> = head.iter().map(|cell| cell.to_uppercase()).collect();
    let lines = std::iter::once(line(&head)).chain(rows.iter().map(|row| line(row)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Cuts a text that is too long, and appends a sign that there is more.
fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some(_) => text.chars().take(limit - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_of_any_length_is_cut_and_never_panics() {
        let long = "m".repeat(70_000);
        let row = vec![long.clone(), "é".repeat(70_000)];
        let text = lay_out(&["mark", "label"], &[row], 100);
        let line = text.lines().nth(1).unwrap();
        assert_eq!(line, format!("{}…  {}…", &long[..99], "é".repeat(199)));
        assert!(!table(&["mark"], &[vec![long]]).is_empty());
    }

    #[test]
    fn a_row_is_one_line_whatever_its_cells_hold() {
        let row = vec!["a\nfalse line\r\u{1b}[2J".to_owned(), "\u{202e}x\ty".to_owned()];
        let text = lay_out(&["mark", "time"], &[row], 100);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.replace('\n', "").contains(crate::error::is_hazard), "{text:?}");
    }

    #[test]
    fn a_cell_that_fits_is_whole() {
        let row = vec!["x".repeat(100), "y".repeat(200)];
        assert!(lay_out(&["a", "b"], &[row], 100).lines().nth(1).is_some_and(|line| !line.contains('…')));
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
    }
}
