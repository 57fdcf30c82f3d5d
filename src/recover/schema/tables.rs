//! Compares the tables that the replay created with the source's description of them.

use std::collections::BTreeMap;

use crate::connect::{Session, server_error};
use crate::error::Result;
use crate::model::TableFacts;
use crate::model::schema::quote_ident;

/// A table's columns for the comparison: name, type, and whether the column is generated.
pub(super) type Columns = Vec<(String, String, bool)>;

/// Creates a table with these columns and nothing else.
pub(super) fn create_table(facts: &TableFacts) -> String {
    let columns: Vec<_> = facts
        .columns
        .iter()
        .map(|column| format!("{} {}", quote_ident(&column.name), column.type_name))
        .collect();
    let unlogged = if facts.persistence == 'u' { "UNLOGGED " } else { "" };
    format!("CREATE {unlogged}TABLE {} ({})", quoted(facts), columns.join(", "))
}

pub(super) fn quoted(facts: &TableFacts) -> String {
    format!("{}.{}", quote_ident(&facts.schema), quote_ident(&facts.name))
}

/// Returns the oid that a relation of this kind (as in `pg_class.relkind`) has in the replay, by its identity.
///
/// # Errors
/// Fails with `Unavailable` if the server fails.
pub(super) async fn relation(observer: &Session, identity: &str, kind: char) -> Result<Option<u32>> {
    let sql =
        "SELECT oid FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($1) AND relkind::text = $2";
    let row = observer.query_opt(sql, &[&identity, &kind.to_string()]).await;
    let row = row.map_err(|error| server_error("cannot look for a relation that was made", error))?;
    Ok(row.map(|row| row.get(0)))
}

/// Returns the tables whose columns differ from the source's, and how they differ.
///
/// # Errors
/// Fails with `Unavailable` if the server fails.
pub(super) async fn differences<'a>(
    observer: &Session,
    tables: impl IntoIterator<Item = &'a TableFacts>,
) -> Result<Vec<(&'a TableFacts, String)>> {
    let tables: Vec<_> = tables.into_iter().filter(|facts| facts.persistence != 't').collect();
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    let found = columns(observer, &tables).await?;
    let difference = |facts: &&'a TableFacts| {
        let found = found.get(&(facts.schema.clone(), facts.name.clone()));
        difference(&expected(facts), found?).map(|how| (*facts, how))
    };
    let missing = |facts: &&'a TableFacts| !found.contains_key(&(facts.schema.clone(), facts.name.clone()));
    let gone =
        tables.iter().filter(|facts| missing(facts)).map(|facts| (*facts, "it is not there".to_owned()));
    Ok(gone.chain(tables.iter().filter_map(difference)).collect())
}

/// Returns the statements that give tables the replica identity that they had on the source. Only an index gives a table
/// the identity of an index.
///
/// # Errors
/// Fails with `Unavailable` if the server fails.
pub(super) async fn identity_changes(
    observer: &Session,
    tables: impl Iterator<Item = &TableFacts>,
) -> Result<Vec<String>> {
    let (mut names, mut wanted) = (Vec::new(), Vec::new());
    for facts in tables {
        let identity = match facts.replica_identity {
            'd' => "DEFAULT",
            'n' => "NOTHING",
            'f' => "FULL",
            _ => continue,
        };
        names.push(quoted(facts));
        wanted.push(identity);
    }
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT pg_catalog.format('ALTER TABLE ONLY %s REPLICA IDENTITY %s', wanted.name, wanted.identity) \
                 FROM unnest($1::text[], $2::text[]) AS wanted (name, identity) \
                 JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(wanted.name) \
                WHERE c.relkind = 'r' AND c.relreplident::text <> pg_catalog.lower(pg_catalog.left(wanted.identity, 1))";
    let rows = observer.query(sql, &[&names, &wanted]).await;
    let rows = rows.map_err(|error| server_error("cannot read the replayed tables", error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn expected(facts: &TableFacts) -> Columns {
    let column = |column: &crate::model::ColumnFacts| {
        (column.name.clone(), column.type_name.clone(), column.generated)
    };
    facts.columns.iter().map(column).collect()
}

pub(super) async fn columns(
    observer: &Session,
    tables: &[&TableFacts],
) -> Result<BTreeMap<(String, String), Columns>> {
    let sql = "SELECT n.nspname::text, c.relname::text, a.attname::text, \
               pg_catalog.format_type(a.atttypid, a.atttypmod), a.attgenerated <> '' \
               FROM unnest($1::text[], $2::text[]) AS wanted (schema, name) \
               JOIN pg_catalog.pg_namespace n ON n.nspname::text = wanted.schema \
               JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname::text = wanted.name \
               LEFT JOIN pg_catalog.pg_attribute a \
                 ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
               ORDER BY c.oid, a.attnum";
    let schemas: Vec<_> = tables.iter().map(|facts| facts.schema.as_str()).collect();
    let names: Vec<_> = tables.iter().map(|facts| facts.name.as_str()).collect();
    let rows = observer.query(sql, &[&schemas, &names]).await;
    let mut found: BTreeMap<_, Columns> = BTreeMap::new();
    for row in rows.map_err(|error| server_error("cannot read the replayed tables", error))? {
        let columns = found.entry((row.get(0), row.get(1))).or_default();
        // For a table without columns the query returns one row, of NULLs.
        if let Some(name) = row.get(2) {
            columns.push((name, row.get(3), row.get(4)));
        }
    }
    Ok(found)
}

fn difference(expected: &Columns, found: &Columns) -> Option<String> {
    if expected == found {
        return None;
    }
    let shown = |(name, type_name, generated): &(String, String, bool)| {
        format!("{name} {type_name}{}", if *generated { " generated" } else { "" })
    };
    let without = |these: &Columns, those: &Columns| {
        let rest: Vec<_> = these.iter().filter(|column| !those.contains(column)).map(shown).collect();
        rest.join(", ")
    };
    let (lacks, has) = (without(expected, found), without(found, expected));
    Some(match (lacks.is_empty(), has.is_empty()) {
        (true, true) => "its columns stand in another order".to_owned(),
        (false, true) => format!("it lacks {lacks}"),
        (true, false) => format!("it has {has}, which the source had not"),
        (false, false) => format!("it has {has} instead of {lacks}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ColumnFacts;

    fn column(name: &str, type_name: &str) -> ColumnFacts {
        ColumnFacts { name: name.into(), type_name: type_name.into(), ..ColumnFacts::default() }
    }

    #[test]
    fn a_table_is_written_from_its_columns() {
        let facts = TableFacts {
            schema: "a b".into(),
            name: "T".into(),
            persistence: 'u',
            columns: vec![column("x\"", "numeric(3,1)"), column("y", "public.mood[]")],
            ..TableFacts::default()
        };
        assert_eq!(
            create_table(&facts),
            "CREATE UNLOGGED TABLE \"a b\".\"T\" (\"x\"\"\" numeric(3,1), \"y\" public.mood[])"
        );
    }

    #[test]
    fn a_difference_is_named_by_its_columns() {
        let columns = |these: &[(&str, &str)]| -> Columns {
            these.iter().map(|(name, kind)| ((*name).into(), (*kind).into(), false)).collect()
        };
        let (ab, ba, a) = (
            columns(&[("a", "integer"), ("b", "text")]),
            columns(&[("b", "text"), ("a", "integer")]),
            columns(&[("a", "integer")]),
        );
        assert_eq!(difference(&ab, &ab), None);
        assert_eq!(difference(&ab, &ba).unwrap(), "its columns stand in another order");
        assert_eq!(difference(&ab, &a).unwrap(), "it lacks b text");
        assert_eq!(difference(&a, &ab).unwrap(), "it has b text, which the source had not");
        assert_eq!(difference(&a, &columns(&[("a", "text")])).unwrap(), "it has a text instead of a integer");
    }
}
