//! Splits SQL into words as PostgreSQL's lexer does, in enough detail to find where a statement ends and which
//! objects it concerns.

use std::ops::Range;

/// One word of a statement; comments and white space are not words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub kind: WordKind,
    /// The word's position in the text, in bytes.
    pub at: Range<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WordKind {
    /// A keyword or a name without quotes, in lower case.
    Plain(String),
    /// A name in quotes; the text is without them.
    Quoted(String),
    /// A string constant of any form.
    String,
    Number,
    Sign(char),
}

impl Word {
    pub fn is(&self, keyword: &str) -> bool {
        matches!(&self.kind, WordKind::Plain(word) if word == keyword)
    }

    pub fn is_sign(&self, sign: char) -> bool {
        self.kind == WordKind::Sign(sign)
    }

    pub fn name_is_plain(&self) -> bool {
        matches!(self.kind, WordKind::Plain(_))
    }

    /// Returns the word as a name, if it can be one.
    pub fn name(&self) -> Option<&str> {
        match &self.kind {
            WordKind::Plain(name) | WordKind::Quoted(name) => Some(name),
            _ => None,
        }
    }
}

/// Splits `sql` into words. `plain_backslashes` says that `standard_conforming_strings` is on.
///
/// A string, comment or quoted name that is not closed extends to the end of the text.
pub fn words(sql: &str, plain_backslashes: bool) -> Vec<Word> {
    let mut lexer = Lexer { sql, bytes: sql.as_bytes(), at: 0, plain_backslashes };
    let mut words = Vec::new();
    while let Some(word) = lexer.next_word() {
        words.push(word);
    }
    words
}

struct Lexer<'a> {
    sql: &'a str,
    bytes: &'a [u8],
    at: usize,
    plain_backslashes: bool,
}

impl Lexer<'_> {
    fn next_word(&mut self) -> Option<Word> {
        self.skip_blanks();
        let start = self.at;
        let first = self.peek(0)?;
        let kind = match first {
            b'\'' => self.string(!self.plain_backslashes),
            b'"' => self.quoted_name(),
            b'$' => self.dollar(),
            b'0'..=b'9' => self.number(),
            b'.' if self.peek(1).is_some_and(|next| next.is_ascii_digit()) => self.number(),
            _ if begins_name(first) => self.name_or_prefix(),
            _ => {
                self.at += 1;
                WordKind::Sign(char::from(first))
            }
        };
        Some(Word { kind, at: start..self.at })
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn skip_blanks(&mut self) {
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c), _) => self.at += 1,
                (Some(b'-'), Some(b'-')) => self.skip_while(|byte| byte != b'\n' && byte != b'\r'),
                (Some(b'/'), Some(b'*')) => self.skip_comment(),
                _ => return,
            }
        }
    }

    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&wanted) {
            self.at += 1;
        }
    }

    /// Skips a comment; comments nest.
    fn skip_comment(&mut self) {
        let mut depth = 0;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) => (depth, self.at) = (depth + 1, self.at + 2),
                (Some(b'*'), Some(b'/')) => (depth, self.at) = (depth - 1, self.at + 2),
                (Some(_), _) => self.at += 1,
                (None, _) => return,
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// Reads a string after its opening quote.
    fn string(&mut self, escapes: bool) -> WordKind {
        self.at += 1;
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            match byte {
                b'\\' if escapes => self.at = (self.at + 1).min(self.bytes.len()),
                b'\'' if self.peek(0) == Some(b'\'') => self.at += 1,
                b'\'' if self.goes_on() => {}
                b'\'' => break,
                _ => {}
            }
        }
        WordKind::String
    }

    /// Moves into the next string if only white space with a line end lies between: the two are then one string, of
    /// the first one's form.
    fn goes_on(&mut self) -> bool {
        let begun = self.at;
        self.skip_blanks();
        if self.peek(0) == Some(b'\'') && self.bytes[begun..self.at].contains(&b'\n') {
            self.at += 1;
            return true;
        }
        self.at = begun;
        false
    }

    fn quoted_name(&mut self) -> WordKind {
        self.at += 1;
        let mut name = Vec::new();
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            if byte == b'"' {
                if self.peek(0) != Some(b'"') {
                    break;
                }
                self.at += 1;
            }
            name.push(byte);
        }
        WordKind::Quoted(String::from_utf8_lossy(&name).into_owned())
    }

    /// Reads `$1`, `$tag$…$tag$` or a sign.
    fn dollar(&mut self) -> WordKind {
        if self.peek(1).is_some_and(|next| next.is_ascii_digit()) {
            self.at += 1;
            self.skip_while(|byte| byte.is_ascii_digit());
            return WordKind::Number;
        }
        let start = self.at;
        self.at += 1;
        if self.peek(0).is_some_and(begins_name) {
            self.skip_while(|byte| goes_on_name(byte) && byte != b'$');
        }
        if self.peek(0) != Some(b'$') {
            self.at = start + 1;
            return WordKind::Sign('$');
        }
        self.at += 1;
        let tag = &self.bytes[start..self.at];
        let rest = &self.bytes[self.at..];
        self.at = memchr::memmem::find(rest, tag).map_or(self.bytes.len(), |end| self.at + end + tag.len());
        WordKind::String
    }

    fn number(&mut self) -> WordKind {
        loop {
            self.skip_while(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_');
            let exponent = self.at > 0 && matches!(self.bytes[self.at - 1], b'e' | b'E');
            if !(exponent && matches!(self.peek(0), Some(b'+' | b'-'))) {
                return WordKind::Number;
            }
            self.at += 1;
        }
    }

    /// Reads a name, or a string whose form is given by a letter before it: `E''`, `B''`, `X''`, `N''`, `U&''`.
    fn name_or_prefix(&mut self) -> WordKind {
        match (self.bytes[self.at].to_ascii_lowercase(), self.peek(1), self.peek(2)) {
            (b'e', Some(b'\''), _) => {
                self.at += 1;
                return self.string(true);
            }
            (b'b' | b'x', Some(b'\''), _) => {
                self.at += 1;
                return self.string(false);
            }
            (b'n', Some(b'\''), _) => {
                self.at += 1;
                return self.string(!self.plain_backslashes);
            }
            (b'u', Some(b'&'), Some(b'\'')) => {
                self.at += 2;
                return self.string(false);
            }
            (b'u', Some(b'&'), Some(b'"')) => {
                self.at += 2;
                return self.quoted_name();
            }
            _ => {}
        }
        let start = self.at;
        self.skip_while(goes_on_name);
        // Only bytes above ASCII can stand in an unexpected place, and all of those belong to the name.
        let name = self.sql.get(start..self.at).unwrap_or_default();
        WordKind::Plain(name.to_ascii_lowercase())
    }
}

fn begins_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn goes_on_name(byte: u8) -> bool {
    begins_name(byte) || byte.is_ascii_digit() || byte == b'$'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(sql: &str, plain_backslashes: bool) -> Vec<&str> {
        words(sql, plain_backslashes).into_iter().map(|word| &sql[word.at]).collect()
    }

    #[test]
    fn words_are_cut_as_the_server_cuts_them() {
        for (sql, expected) in [
            ("a -- ; x\nb /* ; /* y */ ; */ c", vec!["a", "b", "c"]),
            (r"'it''s;' x", vec!["'it''s;'", "x"]),
            (r"'a\' x", vec![r"'a\'", "x"]),
            (r"E'a\'b' x", vec![r"E'a\'b'", "x"]),
            ("E'a'\n 'b\\'c' x", vec!["E'a'\n 'b\\'c'", "x"]),
            ("'a' 'b'", vec!["'a'", "'b'"]),
            (r"B'01' U&'\0041' U&\0022", vec!["B'01'", r"U&'\0041'", "U", "&", "\\", "0022"]),
            (r#"U&"a;b" "c""d;""#, vec![r#"U&"a;b""#, r#""c""d;""#]),
            ("$$a;'$$ $x$ $$ ; $x$ $1 a$b$c", vec!["$$a;'$$", "$x$ $$ ; $x$", "$1", "a$b$c"]),
            ("1.5e-3+.5 2..3", vec!["1.5e-3", "+", ".5", "2..3"]),
            ("größe-1", vec!["größe", "-", "1"]),
            ("'open ; ", vec!["'open ; "]),
            ("$t$ open", vec!["$t$ open"]),
            ("/* open", vec![]),
        ] {
            assert_eq!(cut(sql, true), expected, "{sql}");
        }
    }

    #[test]
    fn backslashes_escape_where_the_setting_says_so() {
        assert_eq!(cut(r"'a\';b' c", false), [r"'a\';b'", "c"]);
        assert_eq!(cut(r"'a\'';b' c", true), [r"'a\'';b'", "c"]);
    }

    #[test]
    fn names_are_known_by_what_they_mean() {
        let words = words(r#"CREATE "T""x" Tab"#, true);
        assert!(words[0].is("create"));
        assert_eq!(words[1].name(), Some("T\"x"));
        assert_eq!(words[2].name(), Some("tab"));
    }
}
