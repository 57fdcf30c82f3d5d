//! Patterns that select tables: `schema.table` or `table`, with `*` and `?`; what stands in double quotes is meant literally.

use super::Table;
use crate::error::{Error, Result};

/// The tables that a user selected: the included and the excluded patterns.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

/// One pattern. A pattern without a dot matches tables of that name in any schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The pattern as it was written.
    text: String,
    schema: Option<Glob>,
    name: Glob,
}

type Glob = Vec<Piece>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Letter(char),
    /// `?`
    AnyLetter,
    /// `*`
    AnyText,
    /// The dot between schema and name.
    Dot,
}

impl Selection {
    /// # Errors
    /// Fails with `Usage` for an empty pattern.
    pub fn parse(include: &[String], exclude: &[String]) -> Result<Selection> {
        let parse =
            |texts: &[String]| texts.iter().map(|text| Pattern::parse(text)).collect::<Result<Vec<_>>>();
        Ok(Selection { include: parse(include)?, exclude: parse(exclude)? })
    }

    /// Whether the table is selected: it is included (as every table is if no pattern includes any), and not
    /// excluded.
    pub fn takes(&self, schema: &str, name: &str) -> bool {
        self.takes_any(&|pattern| pattern.matches(schema, name))
    }

    /// Whether the table is selected by its own name, or by that of a partitioned table of which it is a partition.
    pub fn takes_table(&self, table: &Table) -> bool {
        self.takes_partition(&table.schema, &table.name, &table.partition_of)
    }

    /// Whether a table is selected, as [`Selection::takes_table`] says, by its names and [`Table::partition_of`].
    pub fn takes_partition(&self, schema: &str, name: &str, partition_of: &[(String, String)]) -> bool {
        self.takes_any(&|pattern| {
            pattern.matches(schema, name) || pattern.place_above(partition_of).is_some()
        })
    }

    fn takes_any(&self, matches: &dyn Fn(&Pattern) -> bool) -> bool {
        (self.include.is_empty() || self.include.iter().any(matches)) && !self.exclude.iter().any(matches)
    }

    /// Whether every table is selected.
    pub fn takes_all(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Includes the names of the partitions among `tables` that are selected, with those of the partitioned tables above
    /// them, so that [`Selection::takes`] takes all of them.
    pub fn with_partitions(mut self, tables: &[Table]) -> Selection {
        let above =
            |table: &Table| self.include.iter().filter_map(|it| it.place_above(&table.partition_of)).max();
        let mut found = Vec::new();
        for (table, place) in tables.iter().filter_map(|table| Some((table, above(table)?))) {
            let above = table.partition_of[..place].iter().map(|(schema, name)| (schema, name));
            found.extend(std::iter::once((&table.schema, &table.name)).chain(above));
        }
        self.include.extend(found.into_iter().map(|(schema, name)| Pattern::exact(schema, name)));
        self
    }

    /// Returns the included and the excluded patterns for SQL's LIKE, each as schemas and names.
    pub fn like_patterns(&self) -> ((Vec<String>, Vec<String>), (Vec<String>, Vec<String>)) {
        let all = |patterns: &[Pattern]| patterns.iter().map(Pattern::like).unzip();
        (all(&self.include), all(&self.exclude))
    }

    /// Returns the included patterns that match none of `tables`.
    pub fn unmatched(&self, tables: &[Table]) -> Vec<String> {
        let unused = |pattern: &&Pattern| !tables.iter().any(|table| pattern.matches_table(table));
        self.include.iter().filter(unused).map(|pattern| pattern.text.clone()).collect()
    }
}

impl Pattern {
    /// # Errors
    /// Fails with `Usage` for an empty pattern.
    pub fn parse(text: &str) -> Result<Pattern> {
        let pieces = pieces(text);
        let (schema, name) = match pieces.iter().position(|piece| *piece == Piece::Dot) {
            Some(dot) => (Some(&pieces[..dot]), &pieces[dot + 1..]),
            None => (None, &pieces[..]),
        };
        if name.is_empty() || schema.is_some_and(<[Piece]>::is_empty) {
            return Err(Error::usage(format!(
                "{text:?} is not a table pattern; write table, schema.table or schema.* (with * and ?, and with double \
                 quotes around what holds other signs)"
            )));
        }
        Ok(Pattern { text: text.to_owned(), schema: schema.map(<[Piece]>::to_vec), name: name.to_vec() })
    }

    fn exact(schema: &str, name: &str) -> Pattern {
        let letters = |text: &str| text.chars().map(Piece::Letter).collect();
        Pattern { text: format!("{schema}.{name}"), schema: Some(letters(schema)), name: letters(name) }
    }

    fn like(&self) -> (String, String) {
        (self.schema.as_deref().map_or_else(|| "%".to_owned(), like), like(&self.name))
    }

    fn matches(&self, schema: &str, name: &str) -> bool {
        self.schema.as_ref().is_none_or(|pattern| glob(pattern, schema)) && glob(&self.name, name)
    }

    fn matches_table(&self, table: &Table) -> bool {
        self.matches(&table.schema, &table.name) || self.place_above(&table.partition_of).is_some()
    }

    /// Returns how many of the partitioned tables above a partition lead to the highest one that matches.
    fn place_above(&self, partition_of: &[(String, String)]) -> Option<usize> {
        let matches = |(schema, name): &(String, String)| self.matches(schema, name);
        partition_of.iter().rposition(matches).map(|place| place + 1)
    }
}

/// Reads a pattern. A double quote that is never closed stands for itself.
fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        if let Some((quoted, after)) = quoted(rest) {
            pieces.extend(quoted.replace("\"\"", "\"").chars().map(Piece::Letter));
            rest = after;
            continue;
        }
        pieces.push(match letter {
            '*' => Piece::AnyText,
            '?' => Piece::AnyLetter,
            '.' if !pieces.contains(&Piece::Dot) => Piece::Dot,
            letter => Piece::Letter(letter),
        });
        rest = &rest[letter.len_utf8()..];
    }
    pieces
}

/// Splits off what stands in double quotes at the beginning; in it, two quotes stand for one.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut from = 0;
    loop {
        let end = from + inner[from..].find('"')?;
        match inner[end + 1..].starts_with('"') {
            true => from = end + 2,
            false => return Some((&inner[..end], &inner[end + 1..])),
        }
    }
}

fn like(glob: &[Piece]) -> String {
    let mut text = String::with_capacity(glob.len());
    for piece in glob {
        match piece {
            Piece::AnyText => text.push('%'),
            Piece::AnyLetter => text.push('_'),
            Piece::Letter(letter @ ('%' | '_' | '\\')) => text.extend(['\\', *letter]),
            Piece::Letter(letter) => text.push(*letter),
            Piece::Dot => text.push('.'),
        }
    }
    text
}

/// Matches `*` to any characters and `?` to one; in linear time for one star, quadratic at worst.
fn glob(pattern: &[Piece], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(Piece::AnyText) => {
                star = Some((p, t));
                p += 1;
            }
            Some(Piece::AnyLetter) => (p, t) = (p + 1, t + 1),
            Some(Piece::Letter(c)) if *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|piece| *piece == Piece::AnyText)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn table(schema: &str, name: &str, partition_of: &[(&str, &str)]) -> Table {
        let partition_of =
            partition_of.iter().map(|(schema, name)| ((*schema).into(), (*name).into())).collect();
        let facts = crate::model::TableFacts {
            schema: schema.into(),
            name: name.into(),
            partition_of,
            ..crate::model::TableFacts::default()
        };
        facts.table(|_| String::new())
    }

    #[test]
    fn selects_by_schema_and_name() {
        let selection = Selection::parse(&own(&["shop.*", "audit_?"]), &own(&["shop.tmp*"])).unwrap();
        assert!(selection.takes("shop", "orders") && selection.takes("public", "audit_1"));
        assert!(!selection.takes("shop", "tmp_1") && !selection.takes("public", "orders"));
        assert!(Selection::default().takes("any", "thing"));
        assert_eq!(selection.unmatched(&[table("shop", "orders", &[])]), ["audit_?"]);
        for empty in ["shop.", ".t", "", "\"\"", "\"\".t"] {
            assert!(Pattern::parse(empty).is_err(), "{empty}");
        }
    }

    #[test]
    fn what_is_quoted_is_meant_literally() {
        for (pattern, schema, name, expected) in [
            (r#""Od d"."T""x""#, "Od d", "T\"x", true),
            (r#""a.b""#, "public", "a.b", true),
            (r#""a.b""#, "a", "b", false),
            (r#""a*""#, "public", "ab", false),
            (r#""a*"*"#, "public", "a*b", true),
            (r#"s."q?""#, "s", "q?", true),
            (r#"T"x"#, "public", "T\"x", true),
            ("s.a.b", "s", "a.b", true),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(schema, name), expected, "{pattern}");
        }
    }

    #[test]
    fn a_partition_is_selected_by_what_it_is_a_partition_of() {
        let leaf = table("s", "leaf", &[("s", "middle"), ("public", "root")]);
        let other = table("public", "other", &[]);
        for (include, exclude, expected) in [
            (&["root"][..], &[][..], true),
            (&["s.middle"], &[], true),
            (&["public.root"], &["middle"], false),
            (&["s.root"], &[], false),
        ] {
            let selection = Selection::parse(&own(include), &own(exclude)).unwrap();
            assert_eq!(selection.takes_table(&leaf), expected, "{include:?}");
            assert!(!selection.takes_table(&other));
        }
        let tables = [leaf, other];
        let by_name = |pattern| {
            let selection = Selection::parse(&own(&[pattern]), &[]).unwrap().with_partitions(&tables);
            [("s", "leaf"), ("s", "middle"), ("public", "root"), ("public", "other")]
                .map(|(schema, name)| selection.takes(schema, name))
        };
        assert_eq!(by_name("root"), [true, true, true, false]);
        assert_eq!(by_name("middle"), [true, true, false, false]);
        assert_eq!(by_name("leaf"), [true, false, false, false]);
    }

    #[test]
    fn patterns_for_like_stand_for_the_same() {
        let selection = Selection::parse(&own(&["a_b.c*"]), &own(&["x?%\\"])).unwrap();
        let (include, exclude) = selection.like_patterns();
        assert_eq!(include, (own(&["a\\_b"]), own(&["c%"])));
        assert_eq!(exclude, (own(&["%"]), own(&["x_\\%\\\\"])));
        let quoted = Selection::parse(&own(&[r#""a*""#]), &[]).unwrap();
        assert_eq!(quoted.like_patterns().0.1, ["a*"]);
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
            assert_eq!(glob(&pieces(pattern), text), expected, "{pattern} {text}");
        }
    }
}
