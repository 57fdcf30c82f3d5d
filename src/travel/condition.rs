//! Conditions on the rows of one table, as `--where` has them: a small part of SQL.
//!
//! A condition means what it means to PostgreSQL, or it is refused. Where the history does not know how the server
//! compares values of a type (the collation of texts, types of the application), `column::text` compares the text that the
//! server prints.

mod parse;

use std::cmp::Ordering;

use super::decimal;
use super::values::text_of;
use crate::codec::copy_text;
use crate::error::{Error, Result};
use crate::model::{Column, Table};

/// A condition that no table has been asked about yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Test { column: String, as_text: bool, test: Test },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    Compare(Comparison, String),
    /// Whether the value is one of a list, or none of it.
    In {
        values: Vec<String>,
        negated: bool,
    },
    IsNull {
        negated: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    Different,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// How values of a type are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Number,
    /// Only equality is known: the order of texts depends on their collation.
    Text,
    /// The same, without the blanks at the end.
    Padded,
    Boolean,
    /// Texts of one form, which sort as the values do.
    Date,
    Timestamp,
    TimestampWithZone,
    Uuid,
}

impl Condition {
    /// # Errors
    /// `Usage` if the text is no condition.
    pub fn parse(text: &str) -> Result<Condition> {
        parse::parse(text)
    }

    /// Whether the table has all columns that the condition names.
    pub fn fits(&self, table: &Table) -> bool {
        match self {
            Condition::All(parts) | Condition::Any(parts) => parts.iter().all(|part| part.fits(table)),
            Condition::Test { column, .. } => table.columns.iter().any(|it| it.name == *column),
        }
    }

    /// Whether the condition is true for a row. As in SQL, it is not if that is unknown because of a NULL.
    ///
    /// # Errors
    /// `Usage` if the table lacks a column, or if it is not known how values of the column's type are compared.
    pub fn is_true(&self, table: &Table, line: &[u8]) -> Result<bool> {
        match self {
            Condition::All(parts) => {
                for part in parts {
                    if !part.is_true(table, line)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Condition::Any(parts) => {
                for part in parts {
                    if part.is_true(table, line)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Condition::Test { column, as_text, test } => {
                let place = table.columns.iter().position(|it| it.name == *column);
                let place = place.ok_or_else(|| {
                    Error::usage(format!("{} has no column {column:?}, which --where names", table.display()))
                })?;
                let value = copy_text::columns(line).nth(place).and_then(text_of);
                test.is_true(&table.columns[place], *as_text, value.as_deref())
            }
        }
    }
}

impl Test {
    fn is_true(&self, column: &Column, as_text: bool, value: Option<&str>) -> Result<bool> {
        if let Test::IsNull { negated } = self {
            return Ok(value.is_none() != *negated);
        }
        let kind = if as_text { Kind::Text } else { kind_of(column)? };
        let Some(value) = value else { return Ok(false) };
        match self {
            Test::IsNull { .. } => Ok(false),
            Test::Compare(comparison, literal) => {
                if kind.has_no_order() && !matches!(comparison, Comparison::Equal | Comparison::Different) {
                    return Err(Error::usage(format!(
                        "the order of values of {} depends on a collation; compare column {:?} with =, <> or IN",
                        column.type_name, column.name
                    )));
                }
                Ok(comparison.holds(kind.compare(column, value, literal)?))
            }
            Test::In { values, negated } => {
                let mut is_in = false;
                for literal in values {
                    is_in |= kind.compare(column, value, literal)?.is_eq();
                }
                Ok(is_in != *negated)
            }
        }
    }
}

impl Comparison {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Comparison::Equal => ordering.is_eq(),
            Comparison::Different => ordering.is_ne(),
            Comparison::Less => ordering.is_lt(),
            Comparison::LessOrEqual => ordering.is_le(),
            Comparison::Greater => ordering.is_gt(),
            Comparison::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

/// By `pg_type.oid`.
fn kind_of(column: &Column) -> Result<Kind> {
    Ok(match column.type_oid {
        // int8, int2, int4, oid, float4, float8, numeric
        20 | 21 | 23 | 26 | 700 | 701 | 1700 => Kind::Number,
        // "char", name, text, varchar
        18 | 19 | 25 | 1043 => Kind::Text,
        1042 => Kind::Padded,
        16 => Kind::Boolean,
        1082 => Kind::Date,
        1114 => Kind::Timestamp,
        1184 => Kind::TimestampWithZone,
        2950 => Kind::Uuid,
        _ => {
            return Err(Error::usage(format!(
                "it is not known how values of {} are compared; compare the text that PostgreSQL prints, with: \
                 {}::text",
                column.type_name, column.name
            )));
        }
    })
}

impl Kind {
    fn has_no_order(self) -> bool {
        matches!(self, Kind::Text | Kind::Padded)
    }

    fn compare(self, column: &Column, value: &str, literal: &str) -> Result<Ordering> {
        let found = match self {
            Kind::Number => decimal::compare(value, literal.trim()),
            Kind::Text => Some(value.cmp(literal)),
            Kind::Padded => Some(value.trim_end_matches(' ').cmp(literal.trim_end_matches(' '))),
            Kind::Boolean => boolean(value).zip(boolean(literal)).map(|(value, literal)| value.cmp(&literal)),
            Kind::Uuid => uuid(literal).map(|literal| value.cmp(&literal)),
            Kind::Date => instant(value, false).zip(instant(literal, false)).map(|(a, b)| a.cmp(&b)),
            Kind::Timestamp => instant(value, false).zip(instant(literal, false)).map(|(a, b)| a.cmp(&b)),
            Kind::TimestampWithZone => {
                instant(value, true).zip(instant(literal, true)).map(|(a, b)| a.cmp(&b))
            }
        };
        // The values themselves must not be in a message.
        found.ok_or_else(|| {
            let example = match self {
                Kind::TimestampWithZone => "; write it as '2026-11-22 10:00:00+00'",
                Kind::Timestamp => "; write it as '2026-11-22 10:00:00'",
                Kind::Date => "; write it as '2026-11-22'",
                _ => "",
            };
            Error::usage(format!(
                "what --where compares column {:?} with, or a value in it, is no {} that can be compared{example}",
                column.name, column.type_name
            ))
        })
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "t" | "true" | "yes" | "on" | "1" => Some(true),
        "f" | "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// A UUID as the server writes it.
fn uuid(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let is_right = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    (text.len() == 36 && text.bytes().enumerate().all(is_right)).then_some(text)
}

/// Microseconds since 1970 of a date or timestamp of the years 1 to 9999; the ends of time for infinity.
fn instant(text: &str, with_zone: bool) -> Option<i64> {
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(i64::MIN),
        _ => {}
    }
    let text = text.replacen('T', " ", 1);
    if with_zone {
        let text = text.strip_suffix(['Z', 'z']).map_or(text.clone(), |bare| format!("{bare}+00"));
        let parsed = chrono::DateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S%.f%#z");
        return parsed.ok().map(|time| time.timestamp_micros());
    }
    let time = chrono::NaiveDateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S%.f")
        .ok()
        .or_else(|| chrono::NaiveDate::parse_from_str(&text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0));
    time.map(|time| time.and_utc().timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let column = |name: &str, type_oid, type_name: &str| {
            serde_json::json!({"name": name, "number": 1, "type_oid": type_oid, "type_modifier": -1,
                               "type_name": type_name})
        };
        let columns = [
            column("id", 23, "integer"),
            column("name", 25, "text"),
            column("amount", 1700, "numeric"),
            column("at", 1184, "timestamp with time zone"),
            column("mood", 99999, "mood"),
        ];
        let table = serde_json::json!({"oid": 1, "schema": "public", "name": "t", "columns": columns,
                                       "identity": {"key": [0]}, "grade": "exact"});
        serde_json::from_value(table).unwrap()
    }

    fn is_true(condition: &str) -> Result<bool> {
        let line = b"42\tit's\t1.50\t2026-11-22 10:00:00.5+00\t\\N";
        Condition::parse(condition)?.is_true(&table(), line)
    }

    #[test]
    fn conditions_mean_what_they_mean_in_sql() {
        for (condition, expected) in [
            ("id = 42", true),
            ("id <> 42", false),
            ("ID > 5 AND id<=42", true),
            ("name = 'it''s'", true),
            ("name IN ('a', 'it''s')", true),
            ("name NOT IN ('a')", true),
            ("\"amount\" = 1.5", true),
            ("amount < -1 OR (id = 42 AND amount >= 1.50)", true),
            ("id = 1 AND id = 42 OR id = 42", true),
            ("at > '2026-11-22 11:00:00+01'", true),
            ("at < '2026-11-22T10:00:01Z'", true),
            ("mood IS NULL", true),
            ("mood is not null", false),
            ("mood::text = 'glad'", false),
            ("mood::text <> 'glad'", false),
        ] {
            assert_eq!(is_true(condition).unwrap(), expected, "{condition}");
        }
    }

    #[test]
    fn what_cannot_be_right_is_refused() {
        for condition in [
            "",
            "id",
            "id =",
            "id = 'x",
            "id = 1 AND",
            "id = 1) ",
            "(id = 1",
            "id = NULL",
            "nobody = 1",
            "name < 'a'",
            "at > '2026-11-22 10:00:00'",
            "at = 'yesterday'",
            "id = 'x'",
            "id = 1; DROP TABLE t",
            "mood > 'a'",
            "id IN ()",
            "id = other",
        ] {
            let error = is_true(condition).expect_err(condition);
            assert_eq!(error.kind(), crate::error::Kind::Usage, "{condition}: {error}");
        }
    }
}
