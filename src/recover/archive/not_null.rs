//! NOT NULL constraints under the names that they had on the source: of columns from version 18 on, of domains from 17 on.
//!
//! pg_dump leaves out a name that the server would choose itself. But the server chooses another name if a table or a domain
//! that is restored earlier has a constraint of that name, as one that was made by CREATE TABLE … (LIKE …).

use std::collections::{BTreeMap, BTreeSet};

use super::{Entry, EntrySelection, Toc};
use crate::model::schema::quote_ident;
use crate::recover::lexer::{Word, words};

/// Returns the first version in which a NOT NULL of such an entry has a name; `None` for entries that have none.
fn names_not_null_since(kind: &str) -> Option<u32> {
    match kind {
        "TABLE" | "FOREIGN TABLE" => Some(18),
        "DOMAIN" => Some(17),
        _ => None,
    }
}

/// Returns, by the entry's number, the definitions of the tables and domains of which the server would name a NOT NULL
/// otherwise, with the names written out.
pub fn definitions_with_names(toc: &Toc, selection: &EntrySelection) -> BTreeMap<i32, String> {
    let has_names =
        |entry: &&Entry| names_not_null_since(&entry.kind).is_some_and(|since| toc.server_major >= since);
    let named: Vec<&Entry> = selection.entries(toc).filter(has_names).collect();
    if named.is_empty() {
        return BTreeMap::new();
    }
    let taken: BTreeSet<(&str, String)> = selection.entries(toc).flat_map(constraint_names).collect();
    let definition = |entry: &Entry| {
        let schema = entry.schema.as_deref()?;
        let is_taken = |name: &str| taken.contains(&(schema, name.to_owned()));
        let definition = match &*entry.kind {
            "DOMAIN" => domain_with_name(&entry.definition, &entry.tag, is_taken),
            _ => with_names(&entry.definition, &entry.tag, is_taken),
        };
        Some((entry.id, definition?))
    };
    named.into_iter().filter_map(definition).collect()
}

/// Returns the names of constraints that an entry's definition writes out, with their schema.
fn constraint_names(entry: &Entry) -> Vec<(&str, String)> {
    let Some(schema) = entry.schema.as_deref().filter(|_| entry.definition.contains("CONSTRAINT")) else {
        return Vec::new();
    };
    let words = words(&entry.definition, true);
    let names = words.windows(2).filter(|pair| pair[0].is("constraint")).filter_map(|pair| pair[1].name());
    names.map(|name| (schema, name.to_owned())).collect()
}

/// Writes out the names that pg_dump left out and that are taken; `None` if there are none.
fn with_names(definition: &str, table: &str, is_taken: impl Fn(&str) -> bool) -> Option<String> {
    let words = words(definition, true);
    let mut named = String::new();
    let mut written = 0;
    for column in columns(&words) {
        let (Some(name), Some(at)) = (column[0].name(), unnamed_not_null(&column)) else { continue };
        let name = format!("{table}_{name}_not_null");
        if is_taken(&name) {
            named += &format!("{}CONSTRAINT {} ", &definition[written..at], quote_ident(&name));
            written = at;
        }
    }
    (written > 0).then(|| named + &definition[written..])
}

/// Writes out the name that pg_dump left out of a domain's definition if it is taken; `None` if it is not.
fn domain_with_name(definition: &str, domain: &str, is_taken: impl Fn(&str) -> bool) -> Option<String> {
    let name = format!("{domain}_not_null");
    let words = words(definition, true);
    let at = unnamed_not_null(&outside_of_parentheses(&words)).filter(|_| is_taken(&name))?;
    Some(format!("{}CONSTRAINT {} {}", &definition[..at], quote_ident(&name), &definition[at..]))
}

/// Returns where a NOT NULL without a name begins, of a column or a domain.
fn unnamed_not_null(words: &[&Word]) -> Option<usize> {
    let not_null = |pair: &[&Word]| pair[0].is("not") && pair[1].is("null");
    let at = words.windows(2).rposition(not_null).filter(|at| *at > 1)?;
    (!words[at - 2].is("constraint")).then(|| words[at].at.start)
}

fn outside_of_parentheses(words: &[Word]) -> Vec<&Word> {
    let mut depth = 0;
    let mut is_outside = |word: &&Word| {
        depth += i32::from(word.is_sign('(')) - i32::from(word.is_sign(')'));
        depth == 0
    };
    words.iter().filter(|word| is_outside(word)).collect()
}

/// Returns the words of each column of a CREATE TABLE, without what stands in parentheses.
fn columns(words: &[Word]) -> Vec<Vec<&Word>> {
    let mut columns = vec![Vec::new()];
    let mut depth = 0;
    for word in words {
        if word.is_sign('(') {
            depth += 1;
        } else if word.is_sign(')') {
            depth -= 1;
            if depth == 0 {
                break;
            }
        } else if depth == 1 && word.is_sign(',') {
            columns.push(Vec::new());
        } else if depth == 1 {
            columns.last_mut().expect("there is one").push(word);
        }
    }
    columns.retain(|column| !column.is_empty());
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_taken_are_written_out() {
        let sql = "CREATE TABLE s.t (\n    id integer NOT NULL,\n    \"B c\" numeric(3,1) DEFAULT (1 IS NOT NULL) NOT NULL,\n    \
                   v text CONSTRAINT v NOT NULL,\n    w text,\n    CONSTRAINT c CHECK ((w IS NOT NULL))\n);\n";
        let taken = |wanted: &'static [&str]| move |name: &str| wanted.contains(&name);
        assert_eq!(with_names(sql, "t", taken(&["t_w_not_null", "t_v_not_null"])), None);
        let named = with_names(sql, "t", taken(&["t_id_not_null", "t_B c_not_null"])).unwrap();
        let wanted = sql.replace("integer NOT", "integer CONSTRAINT \"t_id_not_null\" NOT");
        assert_eq!(named, wanted.replace(") NOT", ") CONSTRAINT \"t_B c_not_null\" NOT"));
    }

    #[test]
    fn a_domains_name_is_written_out_if_it_is_taken() {
        let sql =
            "CREATE DOMAIN s.d AS integer NOT NULL DEFAULT 1\n\tCONSTRAINT c CHECK ((VALUE IS NOT NULL));\n";
        assert_eq!(domain_with_name(sql, "d", |_| false), None);
        let named = domain_with_name(sql, "d", |name| name == "d_not_null").unwrap();
        assert_eq!(named, sql.replacen("NOT NULL", "CONSTRAINT \"d_not_null\" NOT NULL", 1));
        let has_one = sql.replacen("NOT NULL", "CONSTRAINT e NOT NULL", 1);
        assert_eq!(domain_with_name(&has_one, "d", |_| true), None);
    }
}
