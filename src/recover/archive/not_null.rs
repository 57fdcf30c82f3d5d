//! NOT NULL constraints under the names that they had on the source, from version 18 on.
//!
//! pg_dump leaves out a name that the server would choose itself. But the server chooses another name if a table that is
//! restored earlier has a constraint of that name, as one that was made by CREATE TABLE … (LIKE …).

use std::collections::{BTreeMap, BTreeSet};

use super::{Entry, EntrySelection, Toc};
use crate::model::schema::quote_ident;
use crate::recover::lexer::{Word, words};

/// The first version in which NOT NULL has a name.
const NAMES_NOT_NULL: u32 = 18;

/// Returns, by the entry's number, the definitions of the tables of which the server would name a NOT NULL otherwise, with
/// the names written out.
pub fn definitions_with_names(toc: &Toc, selection: &EntrySelection) -> BTreeMap<i32, String> {
    if toc.server_major < NAMES_NOT_NULL {
        return BTreeMap::new();
    }
    let taken: BTreeSet<(&str, String)> = selection.entries(toc).flat_map(constraint_names).collect();
    let tables = selection.entries(toc).filter(|entry| entry.kind == "TABLE" && !taken.is_empty());
    let named = |entry: &Entry| {
        let schema = entry.schema.as_deref()?;
        let is_taken = |name: &str| taken.contains(&(schema, name.to_owned()));
        Some((entry.id, with_names(&entry.definition, &entry.tag, is_taken)?))
    };
    tables.filter_map(named).collect()
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
        let not_null = |pair: &[&Word]| pair[0].is("not") && pair[1].is("null");
        let (Some(name), Some(at)) =
            (column[0].name(), column.windows(2).rposition(not_null).filter(|at| *at > 1))
        else {
            continue;
        };
        let name = format!("{table}_{name}_not_null");
        if !column[at - 2].is("constraint") && is_taken(&name) {
            let at = column[at].at.start;
            named += &format!("{}CONSTRAINT {} ", &definition[written..at], quote_ident(&name));
            written = at;
        }
    }
    (written > 0).then(|| named + &definition[written..])
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
}
