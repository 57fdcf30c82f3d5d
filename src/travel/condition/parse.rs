//! Parses conditions.

use super::{Comparison, Condition, Test};
use crate::error::{Error, Result};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A word without quotes, in lower case.
    Word(String),
    /// A name in double quotes.
    Name(String),
    Number(String),
    Text(String),
    Sign(&'static str),
}

const SIGNS: [&str; 12] = ["::", "<>", "!=", "<=", ">=", "=", "<", ">", "(", ")", ",", ";"];

pub(super) fn parse(text: &str) -> Result<Condition> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, text };
    let condition = parser.any()?;
    if parser.at < parser.tokens.len() {
        return Err(parser.wrong("AND or OR, or the end"));
    }
    Ok(condition)
}

fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '\'' => quoted(rest, '\'').map(|(text, length)| (Token::Text(text), length)),
            '"' => quoted(rest, '"').map(|(text, length)| (Token::Name(text), length)),
            '0'..='9' | '.' | '-' | '+' => Some(number(rest)),
            _ if first.is_alphabetic() || first == '_' => {
                let end =
                    rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '$').unwrap_or(rest.len());
                Some((Token::Word(rest[..end].to_lowercase()), end))
            }
            _ => {
                SIGNS.iter().find(|sign| rest.starts_with(**sign)).map(|sign| (Token::Sign(sign), sign.len()))
            }
        }
        .ok_or_else(|| wrong(text, "a column, a number or a text in single quotes"))?;
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// A text in quotes, in which a quote is written twice, and its length with the quotes.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut content = String::new();
    let mut letters = text.char_indices().skip(1).peekable();
    while let Some((at, letter)) = letters.next() {
        if letter != quote {
            content.push(letter);
        } else if letters.next_if(|(_, next)| *next == quote).is_some() {
            content.push(quote);
        } else {
            return Some((content, at + 1));
        }
    }
    None
}

fn number(text: &str) -> (Token, usize) {
    let mut end = 1;
    for (at, letter) in text.char_indices().skip(1) {
        let is_sign = "+-".contains(letter) && text[..at].ends_with(['e', 'E']);
        if !(letter.is_ascii_digit() || ".eE".contains(letter) || is_sign) {
            break;
        }
        end = at + 1;
    }
    (Token::Number(text[..end].to_owned()), end)
}

fn wrong(text: &str, expected: &str) -> Error {
    let text: String = text.chars().take(200).collect();
    Error::usage(format!(
        "--where {text:?} is no condition: {expected} is missing; write for example: tenant_id = 42 AND status IN \
         ('open', 'paid') AND closed_at IS NULL"
    ))
}

struct Parser<'a> {
    tokens: Vec<Token>,
    at: usize,
    text: &'a str,
}

impl Parser<'_> {
    fn wrong(&self, expected: &str) -> Error {
        let behind = match self.at.checked_sub(1).and_then(|at| self.tokens.get(at)) {
            Some(Token::Word(word) | Token::Name(word) | Token::Number(word)) => format!(" behind {word:?}"),
            Some(Token::Text(_)) => " behind a text".to_owned(),
            Some(Token::Sign(sign)) => format!(" behind {sign:?}"),
            None => String::new(),
        };
        wrong(self.text, &format!("{expected}{behind}"))
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn takes(&mut self, wanted: &Token) -> bool {
        let is_next = self.tokens.get(self.at) == Some(wanted);
        self.at += usize::from(is_next);
        is_next
    }

    fn takes_word(&mut self, word: &str) -> bool {
        self.takes(&Token::Word(word.to_owned()))
    }

    fn any(&mut self) -> Result<Condition> {
        let mut parts = vec![self.all()?];
        while self.takes_word("or") {
            parts.push(self.all()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Condition::Any(parts) })
    }

    fn all(&mut self) -> Result<Condition> {
        let mut parts = vec![self.part()?];
        while self.takes_word("and") {
            parts.push(self.part()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Condition::All(parts) })
    }

    fn part(&mut self) -> Result<Condition> {
        if self.takes(&Token::Sign("(")) {
            let condition = self.any()?;
            if self.takes(&Token::Sign(")")) {
                return Ok(condition);
            }
            return Err(self.wrong("a closing parenthesis"));
        }
        let column = match self.next() {
            Some(Token::Word(word)) if !["and", "or", "not", "in", "is", "null"].contains(&word.as_str()) => {
                word
            }
            Some(Token::Name(name)) => name,
            _ => {
                self.at -= 1;
                return Err(self.wrong("a column"));
            }
        };
        let as_text = self.takes(&Token::Sign("::"));
        if as_text && !self.takes_word("text") {
            return Err(self.wrong("text"));
        }
        let test = self.test()?;
        Ok(Condition::Test { column, as_text, test })
    }

    fn test(&mut self) -> Result<Test> {
        if self.takes_word("is") {
            let negated = self.takes_word("not");
            return if self.takes_word("null") {
                Ok(Test::IsNull { negated })
            } else {
                Err(self.wrong("NULL"))
            };
        }
        let negated = self.takes_word("not");
        if self.takes_word("in") {
            return Ok(Test::In { values: self.list()?, negated });
        }
        let comparison = match self.next() {
            Some(Token::Sign("=")) => Comparison::Equal,
            Some(Token::Sign("<>" | "!=")) => Comparison::Different,
            Some(Token::Sign("<")) => Comparison::Less,
            Some(Token::Sign("<=")) => Comparison::LessOrEqual,
            Some(Token::Sign(">")) => Comparison::Greater,
            Some(Token::Sign(">=")) => Comparison::GreaterOrEqual,
            _ => {
                self.at -= 1;
                return Err(self.wrong("=, <>, <, <=, >, >=, IN or IS NULL"));
            }
        };
        if negated {
            return Err(self.wrong("IN"));
        }
        Ok(Test::Compare(comparison, self.literal()?))
    }

    fn list(&mut self) -> Result<Vec<String>> {
        if !self.takes(&Token::Sign("(")) {
            return Err(self.wrong("an opening parenthesis"));
        }
        let mut values = vec![self.literal()?];
        while self.takes(&Token::Sign(",")) {
            values.push(self.literal()?);
        }
        if self.takes(&Token::Sign(")")) { Ok(values) } else { Err(self.wrong("a closing parenthesis")) }
    }

    fn literal(&mut self) -> Result<String> {
        match self.next() {
            Some(Token::Number(text) | Token::Text(text)) => Ok(text),
            Some(Token::Word(word)) if ["true", "false"].contains(&word.as_str()) => Ok(word),
            _ => {
                self.at -= 1;
                Err(self.wrong("a number, true, false or a text in single quotes"))
            }
        }
    }
}
