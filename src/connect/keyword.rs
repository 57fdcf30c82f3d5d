//! Keyword strings: `host=db port=5432 password='it''s'`, read as libpq reads them.

use std::iter::Peekable;
use std::str::Chars;

use super::settings::Settings;
use crate::error::{Error, Result};

/// Reads `keyword = value` pairs. A value is bare or in single quotes; a character after a backslash stands for
/// itself.
///
/// # Errors
/// Fails with usage if the string is malformed. The message shows only keywords, because any other word may be part
/// of a password.
pub fn parse(text: &str, settings: &mut Settings) -> Result<()> {
    let mut rest = text.chars().peekable();
    let mut previous = None;
    loop {
        skip_space(&mut rest);
        if rest.peek().is_none() {
            return Ok(());
        }
        let keyword = take_keyword(&mut rest);
        skip_space(&mut rest);
        if rest.next_if_eq(&'=').is_none() {
            return Err(no_equals_sign(previous.as_deref()));
        }
        skip_space(&mut rest);
        let value = take_value(&keyword, &mut rest)?;
        settings.set(&keyword, &value)?;
        previous = Some(keyword);
    }
}

/// Quotes a value so that [`parse`] reads it back.
pub fn quote(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@+*[]".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
}

fn skip_space(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| c.is_ascii_whitespace()).is_some() {}
}

fn take_keyword(rest: &mut Peekable<Chars<'_>>) -> String {
    std::iter::from_fn(|| rest.next_if(|c| *c != '=' && !c.is_ascii_whitespace())).collect()
}

fn take_value(keyword: &str, rest: &mut Peekable<Chars<'_>>) -> Result<String> {
    let quoted = rest.next_if_eq(&'\'').is_some();
    let mut value = String::new();
    loop {
        match rest.peek() {
            Some('\'') if quoted => {
                rest.next();
                return Ok(value);
            }
            None if quoted => {
                return Err(Error::usage(format!(
                    "the value of {keyword} in the connection string begins with a single quote and never ends; \
                     close it"
                )));
            }
            None => return Ok(value),
            Some(c) if !quoted && c.is_ascii_whitespace() => return Ok(value),
            Some('\\') => {
                rest.next();
                value.extend(rest.next());
            }
            Some(_) => value.extend(rest.next()),
        }
    }
}

fn no_equals_sign(previous: Option<&str>) -> Error {
    let place = match previous {
        Some(keyword) => format!("after the value of {keyword}"),
        None => "at its beginning".to_owned(),
    };
    Error::usage(format!(
        "the connection string has a word without = {place}; put values with spaces in 'single quotes'"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings> {
        let mut settings = Settings::default();
        parse(text, &mut settings).map(|()| settings)
    }

    #[test]
    fn reads_quotes_escapes_and_spaces() {
        let settings = read(r"  host = db  user='o\'hara x' password=a\ b\\c dbname='' port=1 ").unwrap();
        assert_eq!(settings.get("host"), Some("db"));
        assert_eq!(settings.get("user"), Some("o'hara x"));
        assert_eq!(settings.get("password"), Some(r"a b\c"));
        assert_eq!(settings.get("dbname"), None);
        assert_eq!(settings.get("port"), Some("1"));
    }

    #[test]
    fn reads_what_quote_writes() {
        for value in ["", "plain", "two words", r"back\slash", "quo'te", "=", "ü x\ty"] {
            let settings = read(&format!("user={} port=7", quote(value))).unwrap();
            assert_eq!(settings.get("user").unwrap_or(""), value);
            assert_eq!(settings.get("port"), Some("7"));
        }
    }

    #[test]
    fn errors_do_not_show_what_may_be_a_password() {
        for text in ["password=top secret", "password='top secret", "password=top secret host=x"] {
            let error = read(text).err().expect("refused").to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(read("hots=x").err().expect("refused").to_string().contains("\"hots\""));
    }
}
