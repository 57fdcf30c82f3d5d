//! Takes away the definitions that the live database has beyond those of a moment.

use tokio_postgres::Client;

use crate::connect::server_error;
use crate::error::{Error, Result};
use crate::model::schema_digests::{DifferenceKind, SchemaDifference, SchemaDigests};
use crate::pgtools::schema_digests;

/// How many objects an error names.
const NAMED: usize = 5;

/// The statements that drop the objects and columns that were made since a moment. Objects that were dropped or changed
/// since are not made again.
#[derive(Clone, Debug, Default)]
pub struct Removal {
    pub statements: Vec<String>,
    wanted: SchemaDigests,
}

impl Removal {
    /// Compares the live definitions with those of the moment.
    ///
    /// # Errors
    /// `Refused` with their names if objects were dropped or changed; `Unavailable` if the server fails.
    pub async fn plan(session: &Client, wanted: &SchemaDigests) -> Result<Removal> {
        let found = schema_digests(session).await?;
        let differences = wanted.differences(&found, None, |_, _| false);
        let added = |kind: &str| {
            let added = differences.iter().filter(|it| it.kind == DifferenceKind::Added);
            added.filter_map(|it| it.object.strip_prefix(kind)).collect::<Vec<_>>()
        };
        let (schemas, tables) = (added("schema "), added("table "));
        // An object on such a table, or in such a schema, is dropped with it.
        let goes_along = |it: &&SchemaDifference| {
            let of_table = tables.iter().any(|table| it.object.ends_with(&format!(" on {table}")));
            let is_inside = |schema: &&str| it.object.contains(&format!(" {schema}."));
            it.kind == DifferenceKind::Added && (of_table || schemas.iter().any(is_inside))
        };
        let (mut statements, mut others) = (Vec::new(), Vec::new());
        for difference in differences.iter().filter(|it| !goes_along(it)) {
            match removing(difference, wanted) {
                Some(found) => statements.extend(found),
                None => others.push(difference),
            }
        }
        if !others.is_empty() {
            return Err(Error::refused(format!(
                "{} not be put back in place; recover the database anew instead: backwhen recover --to MOMENT --create \
                 --into TARGET",
                named(&others)
            )));
        }
        statements.sort();
        statements.dedup();
        let statements = statements.into_iter().map(|(_, statement)| statement).collect();
        Ok(Removal { statements, wanted: wanted.clone() })
    }

    /// Drops in one transaction, and only if the definitions are then those of the moment.
    ///
    /// # Errors
    /// `Refused` or `Unavailable` with the server's words. Nothing has changed then.
    pub async fn apply(&self, session: &Client) -> Result<()> {
        let begin =
            "BEGIN READ WRITE; SET LOCAL lock_timeout = '10s'; SET LOCAL client_min_messages = warning; ";
        let statements = format!("{begin}{}", self.statements.join("; "));
        let dropped = match session.batch_execute(&statements).await {
            Ok(()) => self.confirm(session).await,
            Err(error) => Err(server_error("the definitions cannot be put back", error)),
        };
        let end = session.batch_execute(if dropped.is_ok() { "COMMIT" } else { "ROLLBACK" }).await;
        dropped?;
        end.map_err(|error| server_error("the definitions cannot be put back", error))
    }

    async fn confirm(&self, session: &Client) -> Result<()> {
        let found = schema_digests(session).await?;
        let differences = self.wanted.differences(&found, None, |_, _| false);
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::refused(format!(
            "{} not be put back by dropping what was made since, and nothing was changed; recover the database anew \
             instead: backwhen recover --to MOMENT --create --into TARGET",
            named(&differences.iter().collect::<Vec<_>>())
        )))
    }
}

fn named(differences: &[&SchemaDifference]) -> String {
    let mut names: Vec<_> = differences.iter().map(|it| it.object.as_str()).collect();
    // The tables, which people know, come before constraints and indexes.
    names.sort_by_key(|name| name.starts_with("table constraint ") || !name.starts_with("table "));
    names.truncate(NAMED);
    let more = format!("{} more", differences.len().saturating_sub(NAMED));
    if differences.len() > NAMED {
        names.push(&more);
    }
    format!("the definitions of {} changed since that moment and can", names.join(", "))
}

/// The statements that undo a difference, each with its rank: what is dropped first takes what belongs to it along.
/// `None` if dropping does not undo it.
fn removing(difference: &SchemaDifference, wanted: &SchemaDigests) -> Option<Vec<(u8, String)>> {
    let object = &difference.object;
    match &difference.kind {
        DifferenceKind::Added => Some(vec![dropping(object)]),
        DifferenceKind::Missing => None,
        DifferenceKind::Parts(parts) => {
            let table = object.strip_prefix("table ").filter(|rest| !rest.starts_with("constraint "))?;
            let had = wanted.objects.get(object)?;
            let column = |part: &String| Some(part.strip_prefix("column ")?.to_owned());
            let added: Vec<_> =
                parts.iter().filter(|part| !had.contains_key(*part)).filter_map(column).collect();
            let is_explained = |part: &String| {
                let of_column =
                    |name: &String| part.strip_suffix(name).is_some_and(|rest| rest.ends_with(' '));
                part == "order of columns" || !had.contains_key(part) && added.iter().any(of_column)
            };
            let drop = |name: &String| {
                (RANK_OF_COLUMNS, format!("ALTER TABLE {table} DROP COLUMN IF EXISTS {name} CASCADE"))
            };
            (!added.is_empty() && parts.iter().all(is_explained)).then(|| added.iter().map(drop).collect())
        }
    }
}

/// Columns go last: views and constraints that were made since may use them.
const RANK_OF_COLUMNS: u8 = 9;

/// Whatever went along with an object that was dropped before is not there any more.
fn dropping(object: &str) -> (u8, String) {
    let constraint = |of: &str| object.strip_prefix(of)?.split_once(" on ");
    if let Some((name, table)) = constraint("table constraint ") {
        return (3, format!("ALTER TABLE IF EXISTS {table} DROP CONSTRAINT IF EXISTS {name} CASCADE"));
    }
    if let Some((name, domain)) = constraint("domain constraint ") {
        return (3, format!("ALTER DOMAIN {domain} DROP CONSTRAINT IF EXISTS {name} CASCADE"));
    }
    let (kind, name) = split(object);
    let rank = match kind {
        "SCHEMA" => 0,
        "EXTENSION" => 1,
        "TABLE" | "FOREIGN TABLE" | "VIEW" | "MATERIALIZED VIEW" => 2,
        _ => 4,
    };
    (rank, format!("DROP {kind} IF EXISTS {name} CASCADE"))
}

/// Kinds of objects as the server names them, and as DROP does. Longer ones come before those that they begin with.
const KINDS: &[(&str, &str)] = &[
    ("access method", "ACCESS METHOD"),
    ("aggregate", "AGGREGATE"),
    ("cast", "CAST"),
    ("collation", "COLLATION"),
    ("composite type", "TYPE"),
    ("conversion", "CONVERSION"),
    ("event trigger", "EVENT TRIGGER"),
    ("extension", "EXTENSION"),
    ("foreign-data wrapper", "FOREIGN DATA WRAPPER"),
    ("foreign table", "FOREIGN TABLE"),
    ("function", "FUNCTION"),
    ("index", "INDEX"),
    ("language", "LANGUAGE"),
    ("materialized view", "MATERIALIZED VIEW"),
    ("operator class", "OPERATOR CLASS"),
    ("operator family", "OPERATOR FAMILY"),
    ("operator", "OPERATOR"),
    ("policy", "POLICY"),
    ("procedure", "PROCEDURE"),
    ("publication", "PUBLICATION"),
    ("rule", "RULE"),
    ("schema", "SCHEMA"),
    ("sequence", "SEQUENCE"),
    ("server", "SERVER"),
    ("statistics object", "STATISTICS"),
    ("table", "TABLE"),
    ("text search configuration", "TEXT SEARCH CONFIGURATION"),
    ("text search dictionary", "TEXT SEARCH DICTIONARY"),
    ("trigger", "TRIGGER"),
    ("type", "TYPE"),
    ("view", "VIEW"),
];

/// The kind of an object, as DROP writes it, and its name.
fn split(object: &str) -> (&'static str, &str) {
    let named =
        KINDS.iter().find_map(|(kind, sql)| Some((*sql, object.strip_prefix(kind)?.strip_prefix(' ')?)));
    // No statement drops it, so the server refuses this one, and nothing is changed.
    named.unwrap_or(("OBJECT", object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_dropped_by_its_own_kind() {
        let cases = [
            ("table public.t", "DROP TABLE IF EXISTS public.t CASCADE"),
            (
                "table constraint c on public.t",
                "ALTER TABLE IF EXISTS public.t DROP CONSTRAINT IF EXISTS c CASCADE",
            ),
            ("domain constraint c on public.d", "ALTER DOMAIN public.d DROP CONSTRAINT IF EXISTS c CASCADE"),
            ("materialized view public.m", "DROP MATERIALIZED VIEW IF EXISTS public.m CASCADE"),
            ("function public.f(integer)", "DROP FUNCTION IF EXISTS public.f(integer) CASCADE"),
            ("trigger a on public.t", "DROP TRIGGER IF EXISTS a on public.t CASCADE"),
            ("statistics object public.s", "DROP STATISTICS IF EXISTS public.s CASCADE"),
            ("composite type public.c", "DROP TYPE IF EXISTS public.c CASCADE"),
            ("schema s", "DROP SCHEMA IF EXISTS s CASCADE"),
        ];
        for (object, statement) in cases {
            assert_eq!(dropping(object).1, statement, "{object}");
        }
    }
}
