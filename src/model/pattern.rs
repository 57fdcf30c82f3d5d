//! Patterns that select tables: `schema.table` or `table`, with `*` and `?`.

use std::collections::BTreeSet;

use crate::error::{Error, Result};

/// The tables that a user selected: the included and the excluded patterns.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
    /// Tables (schema, name) that are selected besides, whatever the patterns say.
    named: BTreeSet<(String, String)>,
}

/// One pattern. A pattern without a dot matches tables of that name in any schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    schema: Option<String>,
    name: String,
}

impl Selection {
    /// # Errors
    /// Fails with `Usage` for an empty pattern.
    pub fn parse(include: &[String], exclude: &[String]) -> Result<Selection> {
        let parse =
            |texts: &[String]| texts.iter().map(|text| Pattern::parse(text)).collect::<Result<Vec<_>>>();
        Ok(Selection { include: parse(include)?, exclude: parse(exclude)?, named: BTreeSet::new() })
    }

    /// Selects more tables (schema, name).
    pub fn add(&mut self, tables: BTreeSet<(String, String)>) {
        self.named.extend(tables);
    }

    /// Whether the table is selected: it is included (as every table is if no pattern includes any), and not
    /// excluded.
    pub fn takes(&self, schema: &str, name: &str) -> bool {
        let matches = |pattern: &Pattern| pattern.matches(schema, name);
        let by_pattern = self.include.is_empty() || self.include.iter().any(matches);
        (by_pattern && !self.exclude.iter().any(matches))
            || self.named.iter().any(|(of, table)| of == schema && table == name)
    }

    /// Whether every table is selected.
    pub fn takes_all(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Returns the included and the excluded patterns for SQL's LIKE, each as schemas and names.
    pub fn like_patterns(&self) -> ((Vec<String>, Vec<String>), (Vec<String>, Vec<String>)) {
        let all = |patterns: &[Pattern]| patterns.iter().map(Pattern::like).unzip();
        (all(&self.include), all(&self.exclude))
    }

    /// Returns the included patterns that match none of `tables` (schema, name).
    pub fn unmatched<'a>(&self, tables: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Vec<String> {
        let unused = |pattern: &&Pattern| !tables.clone().any(|(schema, name)| pattern.matches(schema, name));
        self.include.iter().filter(unused).map(Pattern::to_string).collect()
    }
}

impl Pattern {
    /// # Errors
    /// Fails with `Usage` for an empty pattern.
    pub fn parse(text: &str) -> Result<Pattern> {
        let (schema, name) = match text.split_once('.') {
            Some((schema, name)) => (Some(schema.to_owned()), name),
            None => (None, text),
        };
        if name.is_empty() || schema.as_deref() == Some("") {
            return Err(Error::usage(format!(
                "{text:?} is not a table pattern; write table, schema.table or schema.* (with * and ?)"
            )));
        }
        Ok(Pattern { schema, name: name.to_owned() })
    }

    fn like(&self) -> (String, String) {
        (self.schema.as_deref().map_or_else(|| "%".to_owned(), like), like(&self.name))
    }

    pub fn matches(&self, schema: &str, name: &str) -> bool {
        self.schema.as_ref().is_none_or(|pattern| glob(pattern, schema)) && glob(&self.name, name)
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

fn like(glob: &str) -> String {
    let mut text = String::with_capacity(glob.len());
    for letter in glob.chars() {
        match letter {
            '*' => text.push('%'),
            '?' => text.push('_'),
            '%' | '_' | '\\' => text.extend(['\\', letter]),
            _ => text.push(letter),
        }
    }
    text
}

/// Matches `*` to any characters and `?` to one; in linear time for one star, quadratic at worst.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some('?') => (p, t) = (p + 1, t + 1),
            Some(c) if *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_by_schema_and_name() {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let selection = Selection::parse(&own(&["shop.*", "audit_?"]), &own(&["shop.tmp*"])).unwrap();
        assert!(selection.takes("shop", "orders") && selection.takes("public", "audit_1"));
        assert!(!selection.takes("shop", "tmp_1") && !selection.takes("public", "orders"));
        assert!(Selection::default().takes("any", "thing"));
        assert_eq!(selection.unmatched([("shop", "orders")].into_iter()), ["audit_?"]);
        assert!(Pattern::parse("shop.").is_err());
        let mut selection = selection;
        selection.add([("a".to_owned(), "b*".to_owned())].into());
        assert!(selection.takes("a", "b*") && !selection.takes("a", "bc"));
    }

    #[test]
    fn patterns_for_like_stand_for_the_same() {
        let own = |text: &str| vec![text.to_owned()];
        let selection = Selection::parse(&own("a_b.c*"), &own("x?%\\")).unwrap();
        let (include, exclude) = selection.like_patterns();
        assert_eq!(include, (own("a\\_b"), own("c%")));
        assert_eq!(exclude, (own("%"), own("x_\\%\\\\")));
    }

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("*", "", true),
            ("?", "", false),
            ("*a*b*", "xxaxxbxx", true),
            ("ä?", "äö", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
