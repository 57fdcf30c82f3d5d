//! What a server's error says, without the rows that it may quote.

use std::fmt;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;
use tokio_postgres::error::DbError;

use crate::error::{Error, Kind, one_line};

/// A server's error. Its DETAIL and CONTEXT are never taken, since they hold row values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerFault {
    /// Five characters; their meaning is in PostgreSQL's "Error Codes".
    pub sqlstate: String,
    pub message: String,
    pub hint: Option<String>,
    /// `schema.table`, where the error is about one.
    pub table: Option<String>,
    pub part: Box<FaultyPart>,
}

/// The part of a table that an error is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultyPart {
    pub constraint: Option<String>,
    /// The column, also that of a value that its type does not take.
    pub column: Option<String>,
}

impl ServerFault {
    /// The fault that caused an error of ours, for a caller that acts on its SQLSTATE.
    pub fn of(error: &Error) -> Option<&ServerFault> {
        std::error::Error::source(error)?.downcast_ref()
    }

    /// The SQLSTATE of the fault that caused an error of ours.
    pub fn sqlstate_of(error: &Error) -> Option<&str> {
        ServerFault::of(error).map(|fault| fault.sqlstate.as_str())
    }

    /// Takes the fields of an error or a notice.
    pub(crate) fn from_fields(mut fields: ErrorFields<'_>) -> ServerFault {
        let mut fault = ServerFault::default();
        let (mut schema, mut table) = (None, None);
        // A field that cannot be read ends the list; what came before it still tells most.
        while let Ok(Some(field)) = fields.next() {
            let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => fault.sqlstate = text(),
                b'M' => fault.message = text(),
                b'H' => fault.hint = Some(text()),
                b's' => schema = Some(text()),
                b't' => table = Some(text()),
                b'n' => fault.part.constraint = Some(text()),
                _ => {}
            }
        }
        fault.table = schema.zip(table).map(|(schema, table)| format!("{schema}.{table}"));
        fault.printable(false)
    }

    pub(crate) fn from_db(error: &DbError) -> ServerFault {
        let table = error.schema().zip(error.table()).map(|(schema, table)| format!("{schema}.{table}"));
        let copied = error.where_().and_then(column_of);
        ServerFault {
            sqlstate: error.code().code().to_owned(),
            message: error.message().to_owned(),
            hint: error.hint().map(str::to_owned),
            table,
            part: Box::new(FaultyPart {
                constraint: error.constraint().map(str::to_owned),
                column: copied.or(error.column()).map(str::to_owned),
            }),
        }
        .printable(copied.is_some())
    }

    fn printable(self, about_value: bool) -> ServerFault {
        let mut fault = self.redacted(about_value);
        fault.message = shortened(fault.message);
        fault.hint = fault.hint.map(shortened);
        fault
    }

    /// Messages about data quote the value itself (`invalid input syntax for type integer: "…"`), and so do those
    /// about a name in a value of `regclass` or a similar type.
    fn redacted(mut self, about_value: bool) -> ServerFault {
        if (about_value || self.sqlstate.starts_with("22"))
            && let (Some(first), Some(last)) = (self.message.find('"'), self.message.rfind('"'))
        {
            self.message.replace_range(first..=last, "\"…\"");
        }
        self
    }

    /// Whether the statement was refused, rather than the server unable to run any: a statement may fail for want of a
    /// file or another server, too.
    pub fn is_refusal(&self) -> bool {
        self.kind() != Kind::Unavailable || self.sqlstate.starts_with("08") || self.sqlstate.starts_with("58")
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self.sqlstate.as_str() {
            "55006" => Kind::Locked,
            // The room for locks is a setting of the server: trying again does not help.
            "53200" if self.hint.as_ref().is_some_and(|hint| hint.contains("max_locks_per_transaction")) => {
                Kind::Refused
            }
            "40001" | "40P01" | "55P03" | "57014" | "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => {
                Kind::Unavailable
            }
            code if code.starts_with("08") || code.starts_with("53") || code.starts_with("58") => {
                Kind::Unavailable
            }
            _ => Kind::Refused,
        }
    }
}

/// On one line, whatever the server sent: a second one could be taken for a line of ours.
impl fmt::Display for ServerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (message, sqlstate) = (one_line(&self.message), one_line(&self.sqlstate));
        write!(f, "the server says: {message} (SQLSTATE {sqlstate}")?;
        if let Some(table) = &self.table {
            write!(f, ", table {}", one_line(table))?;
        }
        f.write_str(")")?;
        match &self.hint {
            Some(hint) => write!(f, "; its hint: {}", one_line(hint)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ServerFault {}

/// An error of `tokio_postgres` with what was being done before it. Shows the server's message,
/// hint and SQLSTATE, but not its DETAIL and CONTEXT: those hold row values.
pub fn server_error(context: impl Into<String>, error: tokio_postgres::Error) -> Error {
    let context = context.into();
    if let Some(server) = error.as_db_error() {
        let fault = ServerFault::from_db(server);
        return Error::new(fault.kind(), context).caused_by(fault);
    }
    let broken = error.is_closed()
        || std::error::Error::source(&error).is_some_and(|source| source.is::<std::io::Error>());
    let kind = if broken { Kind::Unavailable } else { Kind::Internal };
    Error::new(kind, context).caused_by(error)
}

/// A function's own RAISE may send megabytes, and pg_dump quotes statements that name thousands of tables: the rest of a
/// text longer than this many characters is left out.
const LONGEST: usize = 500;

/// Shortens what a server or a program says.
pub fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Returns the column in the context of a COPY error: `COPY t, line 1, column c: "value"`. Nothing else of a context is
/// taken, since it holds row values.
fn column_of(context: &str) -> Option<&str> {
    let copied = context.lines().find(|line| line.starts_with("COPY "))?;
    let (_, column) = copied.split_once(", column ")?;
    Some(column.split_once(": ").map_or(column, |(column, _)| column))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_is_read_from_the_context_without_its_value() {
        assert_eq!(column_of("COPY t, line 1, column rel: \"x, column y: z\""), Some("rel"));
        assert_eq!(column_of("PL/pgSQL function f()\nCOPY t, line 1, column rel"), Some("rel"));
        assert_eq!(column_of("COPY t, line 1: \"1\""), None);
    }

    #[test]
    fn values_are_cut_out_of_messages_about_data() {
        let fault = |sqlstate: &str, message: &str| {
            ServerFault { sqlstate: sqlstate.into(), message: message.into(), ..Default::default() }
                .redacted(false)
                .message
        };
        assert_eq!(
            fault("22P02", r#"invalid input syntax for type integer: "4"5""#),
            r#"invalid input syntax for type integer: "…""#
        );
        assert_eq!(fault("22003", r#"value "9" is out of range"#), r#"value "…" is out of range"#);
        assert_eq!(fault("42P01", r#"relation "x" does not exist"#), r#"relation "x" does not exist"#);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let fault = |length| {
            ServerFault { message: "é".repeat(length), ..Default::default() }.printable(false).message
        };
        assert_eq!(fault(500), "é".repeat(500));
        assert_eq!(fault(501), "é".repeat(500) + "…");
    }

    #[test]
    fn what_a_server_says_is_one_line() {
        let fault = ServerFault {
            sqlstate: "28P01\n".into(),
            message: "\u{1b}[2Jno\nbackwhen: all is well".into(),
            hint: Some("a\r\nb".into()),
            table: Some("public.x\ny".into()),
            ..ServerFault::default()
        };
        assert!(!fault.to_string().contains(char::is_control), "{fault}");
    }
}
