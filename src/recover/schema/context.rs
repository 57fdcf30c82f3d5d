//! Parses the server's context of a command: the frames that led to the command, innermost first.

/// The innermost frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The client itself.
    Client,
    /// A procedural language ran this text.
    Text(&'a str),
    /// Statement number `number`, from 1, of a function in SQL; its name is without schema.
    SqlFunction { name: &'a str, number: usize },
    /// Any other frame, in the server's words.
    Other(&'a str),
}

/// The beginning of a frame that follows a text.
const FRAMES: &[&str] = &[
    "PL/",
    "SQL statement \"",
    "SQL function \"",
    "SQL expression \"",
    "extension script",
    "while ",
    "COPY ",
    "remote SQL command",
    "Traceback",
    "referenced column",
    "unnamed portal",
    "portal \"",
    "JSON data",
    "compilation of ",
    "processing ",
];

/// Parses the innermost frame of a context.
pub fn innermost(context: &str) -> Frame<'_> {
    if context.trim().is_empty() {
        return Frame::Client;
    }
    if let Some(rest) = context.strip_prefix("SQL statement \"") {
        return text(rest).map_or(Frame::Other(first_line(context)), Frame::Text);
    }
    sql_function(context).unwrap_or(Frame::Other(first_line(context)))
}

/// Returns the text up to its closing quote. Quotes inside the text are not doubled, so only the text after a quote
/// tells whether that quote closes.
fn text(rest: &str) -> Option<&str> {
    let followed = rest.match_indices("\"\n").find(|(at, end)| {
        let after = &rest[at + end.len()..];
        FRAMES.iter().any(|frame| after.starts_with(frame))
    });
    match followed {
        Some((at, _)) => Some(&rest[..at]),
        None => rest.trim_end_matches('\n').strip_suffix('"'),
    }
}

fn sql_function(context: &str) -> Option<Frame<'_>> {
    let line = first_line(context).strip_prefix("SQL function \"")?;
    let (name, number) = line.rsplit_once("\" statement ")?;
    Some(Frame::SqlFunction { name, number: number.trim().parse().ok().filter(|number| *number > 0)? })
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_ends_where_the_next_frame_begins() {
        for (context, expected) in [
            ("", Frame::Client),
            (
                "SQL statement \"CREATE TABLE t (a int)\"\nPL/pgSQL function f() line 3 at EXECUTE",
                Frame::Text("CREATE TABLE t (a int)"),
            ),
            (
                "SQL statement \"CREATE TABLE \"a\"\n(\"b\"\nint)\"\nPL/pgSQL function f() line 3 at SQL statement\n\
                 SQL statement \"SELECT f()\"\nPL/pgSQL function g() line 1 at PERFORM",
                Frame::Text("CREATE TABLE \"a\"\n(\"b\"\nint)"),
            ),
            ("SQL statement \"CREATE VIEW \"v\"\"", Frame::Text("CREATE VIEW \"v\"")),
            ("SQL statement \"DROP TABLE x\"\nPL/Python function \"f\"", Frame::Text("DROP TABLE x")),
            ("SQL function \"f\" statement 2\nx", Frame::SqlFunction { name: "f", number: 2 }),
            ("SQL function \"f\" during startup", Frame::Other("SQL function \"f\" during startup")),
            (
                "extension script file \"x.sql\", near line 3",
                Frame::Other("extension script file \"x.sql\", near line 3"),
            ),
        ] {
            assert_eq!(innermost(context), expected, "{context}");
        }
    }
}
