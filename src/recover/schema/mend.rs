//! Gives a table of the scratch database the columns that it had on the source, where the statement that added them
//! could not be replayed. Only names and types of the columns are known: no default, no constraint.

use std::collections::BTreeMap;

use super::tables::{columns, create_table, quoted};
use crate::connect::{Session, server_error};
use crate::error::Result;
use crate::model::TableFacts;
use crate::model::schema::quote_ident;

/// A column of the scratch database: its type, and whether it is generated.
type FoundColumns = BTreeMap<String, (String, bool)>;

/// Returns the statements that mend the table; each of them may fail.
///
/// # Errors
/// Fails with `Unavailable` if the server fails.
pub(super) async fn mend(observer: &Session, facts: &TableFacts) -> Result<Vec<String>> {
    Ok(statements(facts, found(observer, facts).await?.as_ref()))
}

/// Returns the columns that the table lacks to hold its rows.
///
/// # Errors
/// Fails with `Unavailable` if the server fails.
pub(super) async fn still_lacking(observer: &Session, facts: &TableFacts) -> Result<Option<String>> {
    let Some(now) = found(observer, facts).await? else { return Ok(Some("it is not there".into())) };
    let stored = facts.columns.iter().filter(|column| !column.generated);
    let lacking: Vec<_> = stored
        .filter(|column| now.get(&column.name).is_none_or(|(_, generated)| *generated))
        .map(|column| format!("{} {}", column.name, column.type_name))
        .collect();
    Ok((!lacking.is_empty()).then(|| format!("it lacks {}", lacking.join(", "))))
}

/// Returns the owner of the table; `None` if the table does not exist.
///
/// # Errors
/// Fails with `Unavailable` if the server fails.
pub(super) async fn owner(observer: &Session, facts: &TableFacts) -> Result<Option<String>> {
    let sql = "SELECT pg_catalog.pg_get_userbyid(relowner)::text FROM pg_catalog.pg_class \
               WHERE oid = pg_catalog.to_regclass($1)";
    let row = observer.query_opt(sql, &[&quoted(facts)]).await;
    let row = row.map_err(|error| server_error("cannot see whose a table is", error))?;
    Ok(row.map(|row| row.get(0)))
}

/// Returns `None` if there is no such table.
async fn found(session: &Session, facts: &TableFacts) -> Result<Option<FoundColumns>> {
    let mut all = columns(session, &[facts]).await?;
    let found = all.remove(&(facts.schema.clone(), facts.name.clone()));
    Ok(found.map(|columns| {
        columns.into_iter().map(|(name, kind, generated)| (name, (kind, generated))).collect()
    }))
}

fn statements(facts: &TableFacts, found: Option<&FoundColumns>) -> Vec<String> {
    let Some(found) = found else { return vec![create_table(facts)] };
    let alter = |what: String| format!("ALTER TABLE {} {what}", quoted(facts));
    let mut statements = Vec::new();
    for name in found.keys().filter(|name| !facts.columns.iter().any(|column| column.name == **name)) {
        let name = quote_ident(name);
        // A column on which other objects depend stays, empty.
        statements.push(alter(format!("ALTER COLUMN {name} DROP NOT NULL")));
        statements.push(alter(format!("DROP COLUMN {name}")));
    }
    for column in facts.columns.iter().filter(|column| !column.generated) {
        let (name, kind) = (quote_ident(&column.name), &column.type_name);
        match found.get(&column.name) {
            None => statements.push(alter(format!("ADD COLUMN {name} {kind}"))),
            Some((found, generated)) => {
                if *generated {
                    statements.push(alter(format!("ALTER COLUMN {name} DROP EXPRESSION")));
                }
                if found != kind {
                    statements.push(alter(format!("ALTER COLUMN {name} DROP DEFAULT")));
                    statements.push(alter(format!("ALTER COLUMN {name} TYPE {kind} USING NULL")));
                }
            }
        }
    }
    statements
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ColumnFacts;

    #[test]
    fn a_table_gets_what_it_lacks_and_loses_what_it_should_not_have() {
        let column = |name: &str, generated| ColumnFacts {
            name: name.into(),
            type_name: "integer".into(),
            generated,
            ..ColumnFacts::default()
        };
        let columns =
            vec![column("same", false), column("New", false), column("other", false), column("made", true)];
        let facts = TableFacts { schema: "s".into(), name: "t".into(), columns, ..TableFacts::default() };
        let found = [("same", "integer", false), ("other", "text", true), ("old", "integer", false)];
        let found: FoundColumns = found
            .into_iter()
            .map(|(name, kind, generated)| (name.into(), (kind.into(), generated)))
            .collect();
        let alter = |what: &str| format!("ALTER TABLE \"s\".\"t\" {what}");
        assert_eq!(
            statements(&facts, Some(&found)),
            [
                alter("ALTER COLUMN \"old\" DROP NOT NULL"),
                alter("DROP COLUMN \"old\""),
                alter("ADD COLUMN \"New\" integer"),
                alter("ALTER COLUMN \"other\" DROP EXPRESSION"),
                alter("ALTER COLUMN \"other\" DROP DEFAULT"),
                alter("ALTER COLUMN \"other\" TYPE integer USING NULL"),
            ]
        );
        assert!(statements(&facts, None)[0].starts_with("CREATE TABLE"));
    }
}
