//! Rows in COPY's binary format. A server loads them with a quarter less work than text, as it need not search for
//! the ends of lines and values.
//!
//! Only built-in types of PostgreSQL whose binary form is the same in all versions are supported. Source: PostgreSQL
//! documentation, COPY, "Binary Format", and the `…_recv` functions of the types.

use std::borrow::Cow;

use chrono::{Datelike, NaiveDate};

use super::copy_text;
use super::key::parse_integer;
use crate::model::Column;

/// The bytes before the first row.
pub const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// The bytes after the last row.
pub const TRAILER: &[u8] = b"\xff\xff";

/// The length that stands for NULL.
const NULL: i32 = -1;

/// The server's day 0, 2000-01-01, in `chrono`'s count of days.
const DAY_ZERO: i32 = 730_120;

/// The bytes of a number before its groups.
const NUMERIC_HEAD: usize = 8;

const MICROSECONDS_OF_DAY: i64 = 86_400_000_000;

/// How the rows of one table are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinaryRows {
    forms: Vec<Form>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Bool,
    Bytea,
    Date,
    Float4,
    Float8,
    Int2,
    Int4,
    Int8,
    Jsonb,
    Numeric,
    /// char(n), without the blanks at its end. The server adds them again; if they were sent, it would count their
    /// letters.
    Padded,
    /// A timestamp. The bytes are the suffix after the seconds: empty, or the time zone that every session uses.
    Timestamp(&'static [u8]),
    Text,
    Uuid,
}

impl BinaryRows {
    /// Returns `None` if a column's type has no form here.
    pub fn of(columns: &[Column]) -> Option<BinaryRows> {
        let forms: Option<Vec<_>> =
            columns.iter().map(|column| form_of(column.type_oid, column.type_modifier)).collect();
        forms.filter(|forms| !forms.is_empty()).map(|forms| BinaryRows { forms })
    }

    /// Appends the row of `line`, COPY text without its newline. Returns `None` and leaves `row` as it was if a value
    /// is not in a common spelling of its type (`infinity`, years before Christ), or if the line has other columns:
    /// then the server must parse the text.
    pub fn push_row(&self, line: &[u8], row: &mut Vec<u8>) -> Option<()> {
        let start = row.len();
        let pushed = self.push_columns(line, row);
        if pushed.is_none() {
            row.truncate(start);
        }
        pushed
    }

    fn push_columns(&self, line: &[u8], row: &mut Vec<u8>) -> Option<()> {
        row.extend_from_slice(&(self.forms.len() as i16).to_be_bytes());
        let mut columns = copy_text::columns(line);
        // Without a backslash the line contains neither NULL nor anything to unescape.
        let plain = memchr::memchr(b'\\', line).is_none();
        for form in &self.forms {
            let column = columns.next()?;
            let value = if plain { Some(Cow::Borrowed(column)) } else { copy_text::unescape(column) };
            let Some(value) = value else {
                row.extend_from_slice(&NULL.to_be_bytes());
                continue;
            };
            let start = row.len();
            row.extend_from_slice(&[0; 4]);
            form.push(&value, row)?;
            let len = i32::try_from(row.len() - start - 4).ok()?;
            row[start..start + 4].copy_from_slice(&len.to_be_bytes());
        }
        columns.next().is_none().then_some(())
    }
}

/// Chooses by `pg_type.oid` and by the type modifier, since `char` without a length keeps its blanks.
fn form_of(type_oid: u32, type_modifier: i32) -> Option<Form> {
    Some(match type_oid {
        16 => Form::Bool,
        17 => Form::Bytea,
        20 => Form::Int8,
        21 => Form::Int2,
        23 => Form::Int4,
        1042 if type_modifier > 0 => Form::Padded,
        // text, json, char without a length, varchar(n)
        25 | 114 | 1042 | 1043 => Form::Text,
        700 => Form::Float4,
        701 => Form::Float8,
        1082 => Form::Date,
        1114 => Form::Timestamp(b""),
        1184 => Form::Timestamp(b"+00"),
        1700 => Form::Numeric,
        2950 => Form::Uuid,
        3802 => Form::Jsonb,
        _ => return None,
    })
}

impl Form {
    fn push(self, value: &[u8], row: &mut Vec<u8>) -> Option<()> {
        match self {
            Form::Text => row.extend_from_slice(value),
            Form::Padded => row.extend_from_slice(without_padding(value)),
            Form::Int4 => row.extend_from_slice(&integer::<i32>(value)?.to_be_bytes()),
            Form::Int8 => row.extend_from_slice(&integer::<i64>(value)?.to_be_bytes()),
            Form::Int2 => row.extend_from_slice(&integer::<i16>(value)?.to_be_bytes()),
            Form::Float4 => row.extend_from_slice(&parsed::<f32>(value)?.to_be_bytes()),
            Form::Float8 => row.extend_from_slice(&parsed::<f64>(value)?.to_be_bytes()),
            Form::Bool => row.push(match value {
                b"t" => 1,
                b"f" => 0,
                _ => return None,
            }),
            Form::Jsonb => {
                // This byte is the version of jsonb's binary form.
                row.push(1);
                row.extend_from_slice(value);
            }
            Form::Bytea => push_hex(value.strip_prefix(b"\\x")?, row)?,
            Form::Uuid => {
                let digits: Vec<u8> = value.iter().copied().filter(|byte| *byte != b'-').collect();
                (digits.len() == 32).then_some(())?;
                push_hex(&digits, row)?;
            }
            Form::Date => row.extend_from_slice(&day(value)?.to_be_bytes()),
            Form::Timestamp(zone) => row.extend_from_slice(&timestamp(value, zone)?.to_be_bytes()),
            Form::Numeric => push_numeric(value, row)?,
        }
        Some(())
    }
}

/// Returns `value` without the blanks at its end, which are removed a word at a time.
fn without_padding(value: &[u8]) -> &[u8] {
    let (_, words) = value.as_rchunks::<8>();
    let blank = words.iter().rev().take_while(|word| **word == [b' '; 8]).count();
    let value = &value[..value.len() - 8 * blank];
    let blank = value.iter().rev().take_while(|byte| **byte == b' ').count();
    &value[..value.len() - blank]
}

fn integer<T: TryFrom<i64>>(value: &[u8]) -> Option<T> {
    T::try_from(parse_integer(value)?).ok()
}

fn parsed<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn push_hex(digits: &[u8], row: &mut Vec<u8>) -> Option<()> {
    let (pairs, odd) = digits.as_chunks::<2>();
    for [high, low] in pairs {
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        row.push((digit(high)? << 4 | digit(low)?) as u8);
    }
    odd.is_empty().then_some(())
}

/// Returns the number that up to nine `digits` spell, if they are nothing but digits.
fn digits(digits: &[u8]) -> Option<u32> {
    (1..=9).contains(&digits.len()).then_some(())?;
    digits.iter().try_fold(0, |number, digit| {
        let digit = u32::from(digit.wrapping_sub(b'0'));
        (digit < 10).then_some(number * 10 + digit)
    })
}

/// Converts `YYYY-MM-DD` to days since 2000.
fn day(value: &[u8]) -> Option<i32> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *value else { return None };
    let year = digits(&[y1, y2, y3, y4])?;
    let date = NaiveDate::from_ymd_opt(year as i32, digits(&[m1, m2])?, digits(&[d1, d2])?)?;
    Some(date.num_days_from_ce() - DAY_ZERO)
}

/// Converts `YYYY-MM-DD HH:MM:SS.ffffff`, with up to six digits at the end, to microseconds since 2000.
fn timestamp(value: &[u8], zone: &[u8]) -> Option<i64> {
    let (date, time) = value.strip_suffix(zone)?.split_at_checked(10)?;
    let (time, fraction) = time.split_at_checked(9)?;
    let [b' ', h1, h2, b':', m1, m2, b':', s1, s2] = *time else { return None };
    let seconds = digits(&[h1, h2])? * 3600 + digits(&[m1, m2])? * 60 + digits(&[s1, s2])?;
    let micros = match fraction {
        [] => 0,
        [b'.', fraction @ ..] if (1..=6).contains(&fraction.len()) => {
            digits(fraction)? * 10_u32.pow(6 - fraction.len() as u32)
        }
        _ => return None,
    };
    Some(i64::from(day(date)?) * MICROSECONDS_OF_DAY + i64::from(seconds) * 1_000_000 + i64::from(micros))
}

/// Writes a number in groups of four decimal digits: the number of groups, the weight of the first group, the sign,
/// the number of digits after the point, the groups.
fn push_numeric(value: &[u8], row: &mut Vec<u8>) -> Option<()> {
    let (negative, value) = match value {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let point = memchr::memchr(b'.', value).unwrap_or(value.len());
    let (whole, fraction) = (&value[..point], value.get(point + 1..).unwrap_or_default());
    let scale = i16::try_from(fraction.len()).ok()?;
    let (first, rest) = whole.split_at(whole.len() % 4);
    let first = if first.is_empty() { None } else { Some(digits(first)?) };
    let head = row.len();
    row.extend_from_slice(&[0; NUMERIC_HEAD]);
    // The groups before the point, and then those after it. Zeros at the beginning are not sent.
    let mut place = i16::try_from(rest.len() / 4 + usize::from(first.is_some())).ok()? - 1;
    let whole = first.into_iter().map(Some).chain(rest.chunks(4).map(digits));
    let fraction = fraction.chunks(4).map(|group| Some(digits(group)? * 10_u32.pow(4 - group.len() as u32)));
    let mut is_empty = true;
    for group in whole.chain(fraction) {
        is_empty = false;
        match group? {
            0 if row.len() == head + NUMERIC_HEAD => place = place.checked_sub(1)?,
            group => row.extend_from_slice(&(group as u16).to_be_bytes()),
        }
    }
    (!is_empty).then_some(())?;
    let count = i16::try_from((row.len() - head - NUMERIC_HEAD) / 2).ok()?;
    let sign = if negative { 0x4000 } else { 0 };
    for (at, number) in [count, place, sign, scale].into_iter().enumerate() {
        row[head + 2 * at..][..2].copy_from_slice(&number.to_be_bytes());
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of one value of a type; `None` if it is left to the server.
    fn value(type_oid: u32, text: &[u8]) -> Option<Vec<u8>> {
        of_length(type_oid, -1, text)
    }

    fn of_length(type_oid: u32, type_modifier: i32, text: &[u8]) -> Option<Vec<u8>> {
        let rows = BinaryRows { forms: vec![form_of(type_oid, type_modifier)?] };
        let mut row = b"before".to_vec();
        let pushed = rows.push_row(text, &mut row);
        assert!(pushed.is_some() || row == b"before");
        pushed.map(|()| row[b"before".len() + 2 + 4..].to_vec())
    }

    #[test]
    fn a_row_is_the_number_of_its_columns_and_each_with_its_length() {
        let rows = BinaryRows { forms: vec![Form::Int4, Form::Text, Form::Text] };
        let mut row = Vec::new();
        rows.push_row(b"-7\ta\\tb\t\\N", &mut row).unwrap();
        let expected = b"\0\x03\0\0\0\x04\xff\xff\xff\xf9\0\0\0\x03a\tb\xff\xff\xff\xff";
        assert_eq!(row, expected);
        for other in [&b"-7\ta"[..], b"-7\ta\tb\tc", b"x\ta\tb", b"\\H\ta\tb"] {
            assert!(rows.push_row(other, &mut row).is_none());
        }
        assert_eq!(row, expected);
    }

    #[test]
    fn a_table_with_a_type_of_another_kind_has_no_form() {
        let column = |type_oid| Column {
            name: "c".into(),
            number: 1,
            type_oid,
            type_modifier: -1,
            type_name: String::new(),
        };
        assert!(BinaryRows::of(&[column(23), column(25)]).is_some());
        assert!(BinaryRows::of(&[column(23), column(16_384)]).is_none());
        assert!(BinaryRows::of(&[]).is_none());
    }

    #[test]
    fn moments_count_from_the_year_2000() {
        assert_eq!(value(1082, b"2000-01-02").unwrap(), 1_i32.to_be_bytes());
        assert_eq!(value(1082, b"1999-12-31").unwrap(), (-1_i32).to_be_bytes());
        assert_eq!(value(1114, b"2000-01-01 00:00:01.5").unwrap(), 1_500_000_i64.to_be_bytes());
        assert_eq!(value(1184, b"1999-12-31 23:59:59.999999+00").unwrap(), (-1_i64).to_be_bytes());
        for odd in [&b"infinity"[..], b"0044-03-15 BC", b"10000-01-01", b"2000-13-01"] {
            assert_eq!(value(1082, odd), None);
        }
        assert_eq!(value(1184, b"2000-01-01 00:00:00"), None);
        assert_eq!(value(1114, b"2000-01-01 00:00:00 BC"), None);
    }

    #[test]
    fn numbers_keep_every_digit() {
        let numeric = |text: &[u8]| -> Option<Vec<i16>> {
            let bytes = value(1700, text)?;
            Some(bytes.chunks(2).map(|two| i16::from_be_bytes([two[0], two[1]])).collect())
        };
        assert_eq!(numeric(b"12345.678").unwrap(), [3, 1, 0, 3, 1, 2345, 6780]);
        assert_eq!(numeric(b"-0.00012").unwrap(), [2, -1, 0x4000, 5, 1, 2000]);
        assert_eq!(numeric(b"0.00").unwrap(), [0, -2, 0, 2]);
        assert_eq!(numeric(b"0").unwrap(), [0, -1, 0, 0]);
        assert_eq!(numeric(b"10000").unwrap(), [2, 1, 0, 0, 1, 0]);
        assert_eq!(numeric(b"100020003").unwrap(), [3, 2, 0, 0, 1, 2, 3]);
        assert_eq!(numeric(b"9.9999999").unwrap(), [3, 0, 0, 7, 9, 9999, 9990]);
        assert_eq!(numeric(b"0.00000001").unwrap(), [1, -2, 0, 8, 1]);
        for odd in [&b"NaN"[..], b"-", b"", b".", b"1e5", b"1.2.3", b"1 ", b"+1", b"12345.67\xff"] {
            assert_eq!(numeric(odd), None, "{odd:?}");
        }
        assert_eq!(digits(b"4294967296"), None, "more digits than the number has room for");
        assert_eq!(value(701, b"0.1").unwrap(), 0.1_f64.to_be_bytes());
        assert_eq!(value(701, b"-Infinity").unwrap(), f64::NEG_INFINITY.to_be_bytes());
        assert_eq!(value(20, b"9223372036854775808"), None);
    }

    #[test]
    fn padding_is_left_to_the_server_but_blanks_of_a_char_without_length_stay() {
        for (text, sent) in
            [("ab", "ab"), ("a b  ", "a b"), ("", ""), ("          x         ", "          x")]
        {
            assert_eq!(of_length(1042, 4 + 20, text.as_bytes()).unwrap(), sent.as_bytes());
        }
        assert_eq!(of_length(1042, 4 + 84, &[b' '; 84]).unwrap(), b"");
        assert_eq!(of_length(1042, -1, b"a ").unwrap(), b"a ");
        assert_eq!(of_length(1043, 4 + 20, b"a ").unwrap(), b"a ");
    }

    #[test]
    fn other_forms() {
        assert_eq!(value(17, b"\\\\x0aFf").unwrap(), [0x0a, 0xff]);
        assert_eq!(value(17, b"\\\\x0"), None);
        assert_eq!(value(2950, b"00112233-4455-6677-8899-aabbccddeeff").unwrap()[..3], [0, 0x11, 0x22]);
        assert_eq!(value(3802, b"{}").unwrap(), b"\x01{}");
        assert_eq!(value(16, b"t").unwrap(), [1]);
    }
}
