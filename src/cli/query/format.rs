//! Prints rows as a table, as CSV or as JSON.

use super::Format;
use crate::cli::ui::{Ui, printable, to_json};
use crate::error::Result;
use crate::serve::{Answer, ResultColumn, ValueKind};

/// Text is written in pieces of about this many bytes.
const PIECE: usize = 64 << 10;

/// Writes the results of statements to standard output.
pub struct Writer<'a> {
    ui: &'a Ui,
    format: Format,
    columns: Vec<ResultColumn>,
    /// A table is laid out once all its rows are there.
    rows: Vec<Vec<String>>,
    text: String,
}

impl<'a> Writer<'a> {
    pub fn new(ui: &'a Ui, format: Format) -> Writer<'a> {
        Writer { ui, format, columns: Vec::new(), rows: Vec::new(), text: String::new() }
    }

    /// Writes what is left.
    pub fn finish(mut self) -> Result<()> {
        self.write(0)
    }

    fn write(&mut self, least: usize) -> Result<()> {
        if self.text.is_empty() || self.text.len() < least {
            return Ok(());
        }
        self.ui.print_values(&std::mem::take(&mut self.text))
    }
}

impl Answer for Writer<'_> {
    fn begin(&mut self, columns: &[ResultColumn]) -> Result<()> {
        self.columns = columns.to_vec();
        if self.format == Format::Csv {
            let names: Vec<_> = columns.iter().map(|column| csv(Some(&column.name))).collect();
            self.text += &(names.join(",") + "\n");
        }
        Ok(())
    }

    fn row(&mut self, values: &[Option<&str>]) -> Result<()> {
        match self.format {
            Format::Table => {
                self.rows.push(values.iter().map(|value| printable(value.unwrap_or_default())).collect());
            }
            Format::Csv => {
                let values: Vec<_> = values.iter().map(|value| csv(*value)).collect();
                self.text += &(values.join(",") + "\n");
            }
            Format::Json => {
                let pair = |(column, value): (&ResultColumn, &Option<&str>)| {
                    Ok(format!("{}:{}", to_json(&column.name)?, json(column.kind, *value)?))
                };
                let pairs: Result<Vec<_>> = self.columns.iter().zip(values).map(pair).collect();
                self.text += &format!("{{{}}}\n", pairs?.join(","));
            }
        }
        self.write(PIECE)
    }

    fn end(&mut self, rows: u64) -> Result<()> {
        if self.format == Format::Table && !self.columns.is_empty() {
            self.text += &laid_out(&self.columns, &self.rows);
        } else if self.columns.is_empty() && rows > 0 {
            self.ui.say(&format!("{rows} rows changed, on the server that is thrown away"));
        }
        self.columns.clear();
        self.rows.clear();
        self.write(0)
    }
}

fn laid_out(columns: &[ResultColumn], rows: &[Vec<String>]) -> String {
    let head: Vec<_> = columns.iter().map(|column| printable(&column.name)).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&head]).map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let cell = |column: usize, text: &String| {
        let width = widths[column];
        let is_number = columns[column].kind == ValueKind::Number;
        if is_number { format!(" {text:>width$} ") } else { format!(" {text:<width$} ") }
    };
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row.iter().enumerate().map(|(column, text)| cell(column, text)).collect();
        cells.join("|").trim_end().to_owned()
    };
    let rule: Vec<_> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    let lines = [line(&head), rule.join("+")].into_iter().chain(rows.iter().map(line));
    let plural = if rows.len() == 1 { "" } else { "s" };
    let lines = lines.chain([format!("({} row{plural})\n", rows.len())]);
    lines.collect::<Vec<_>>().join("\n")
}

/// A value as in the server's own CSV: NULL is nothing, and an empty text is a pair of quotes.
fn csv(value: Option<&str>) -> String {
    match value {
        None => String::new(),
        Some(text) if text.is_empty() || text.contains([',', '"', '\n', '\r']) || text == "\\." => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Some(text) => text.to_owned(),
    }
}

fn json(kind: ValueKind, value: Option<&str>) -> Result<String> {
    let Some(text) = value else { return Ok("null".to_owned()) };
    Ok(match kind {
        ValueKind::Boolean => (if text == "t" { "true" } else { "false" }).to_owned(),
        // JSON knows neither NaN nor Infinity.
        ValueKind::Number if text.bytes().all(|byte| b"0123456789+-.eE".contains(&byte)) => text.to_owned(),
        // Inside of its strings JSON has no line ends.
        ValueKind::Json => text.replace(['\n', '\r'], " "),
        ValueKind::Number | ValueKind::Text => to_json(&text)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_csv_and_as_json() {
        assert_eq!(csv(None), "");
        assert_eq!(csv(Some("")), "\"\"");
        assert_eq!(csv(Some("a \"b\",\n")), "\"a \"\"b\"\",\n\"");
        assert_eq!(csv(Some(" plain ")), " plain ");
        let json = |kind, text| json(kind, Some(text)).unwrap();
        assert_eq!(json(ValueKind::Number, "12345678901234567890.5"), "12345678901234567890.5");
        assert_eq!(json(ValueKind::Number, "NaN"), "\"NaN\"");
        assert_eq!(json(ValueKind::Boolean, "f"), "false");
        assert_eq!(json(ValueKind::Json, "{\"a\":\n1}"), "{\"a\": 1}");
        assert_eq!(json(ValueKind::Text, "a\"\n"), "\"a\\\"\\n\"");
    }

    #[test]
    fn a_table_is_as_wide_as_its_widest_cells() {
        let column = |name: &str, kind| ResultColumn { name: name.into(), kind };
        let columns = [column("n", ValueKind::Number), column("text", ValueKind::Text)];
        let rows = [vec!["7".to_owned(), "a".to_owned()], vec!["12".to_owned(), String::new()]];
        let text = laid_out(&columns, &rows);
        assert_eq!(text, "  n | text\n----+------\n  7 | a\n 12 |\n(2 rows)\n");
    }
}
