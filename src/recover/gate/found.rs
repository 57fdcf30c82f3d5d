//! Finds in a database what a gate needs to know of its relations.

use std::collections::{BTreeMap, BTreeSet};

use crate::connect::{Session, server_error};
use crate::error::Result;
use crate::model::schema::quote_ident;

use super::{OwnedRelation, Relation};

const CODE: &str = include_str!("code.sql");

/// Selects the tables above a table: those from which it inherits, and the partitioned ones.
const ANCESTORS: &str = "
WITH RECURSIVE above (below, oid) AS (
    SELECT i.inhrelid, i.inhparent FROM pg_catalog.pg_inherits i WHERE i.inhrelid = ANY ($1)
    UNION SELECT a.below, i.inhparent FROM above a JOIN pg_catalog.pg_inherits i ON i.inhrelid = a.oid)
SELECT a.below, n.nspname::text, c.relname::text, c.oid FROM above a JOIN pg_catalog.pg_class c ON c.oid = a.oid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY c.oid";

/// Removes the rows that an extension's script has inserted into tables whose rows the history holds.
///
/// # Errors
/// `Unavailable` if the server fails.
pub(in crate::recover) async fn empty(session: &Session, tables: &[u32]) -> Result<()> {
    let failed = |error| server_error("cannot empty the tables of extensions", error);
    let sql = "SELECT pg_catalog.string_agg(pg_catalog.format('DELETE FROM ONLY %s', oid::pg_catalog.regclass), '; ') \
               FROM pg_catalog.pg_class WHERE oid = ANY ($1) AND pg_catalog.pg_relation_size(oid) > 0";
    let row = session.query_one(sql, &[&tables]).await.map_err(failed)?;
    let deletes: Option<String> = row.get(0);
    session.batch_execute(&deletes.unwrap_or_default()).await.map_err(failed)
}

/// Returns the tables above each of some tables.
///
/// # Errors
/// `Unavailable` if the server fails.
pub(in crate::recover) async fn ancestors(
    session: &Session,
    tables: &[u32],
) -> Result<BTreeMap<u32, Vec<Relation>>> {
    let rows = session.query(ANCESTORS, &[&tables]).await;
    let rows = rows.map_err(|error| server_error("cannot see which tables are partitions", error))?;
    let mut above: BTreeMap<u32, Vec<Relation>> = BTreeMap::new();
    for row in rows {
        let relation = Relation { schema: row.get(1), name: row.get(2), oid: row.get(3) };
        above.entry(row.get(0)).or_default().push(relation);
    }
    Ok(above)
}

/// Returns the oids of relations; `None` for those that are not there.
///
/// # Errors
/// `Unavailable` if the server fails.
pub(in crate::recover) async fn oids(
    session: &Session,
    places: &[(String, String)],
) -> Result<Vec<Option<u32>>> {
    Ok(owned(session, places).await?.into_iter().map(|it| it.map(|it| it.relation.oid)).collect())
}

/// Returns relations with their owners; `None` for those that are not there.
///
/// # Errors
/// `Unavailable` if the server fails.
pub(in crate::recover) async fn owned(
    session: &Session,
    places: &[(String, String)],
) -> Result<Vec<Option<OwnedRelation>>> {
    let quoted = |(schema, name): &(String, String)| format!("{}.{}", quote_ident(schema), quote_ident(name));
    let names: Vec<String> = places.iter().map(quoted).collect();
    let sql = "SELECT c.oid, pg_catalog.pg_get_userbyid(c.relowner)::text \
               FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS t (name, number) \
               LEFT JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(t.name) ORDER BY t.number";
    let rows = session.query(sql, &[&names]).await;
    let rows = rows.map_err(|error| server_error("cannot see which tables were made", error))?;
    let found = rows.iter().zip(places).map(|(row, (schema, name))| {
        let relation =
            Relation { schema: schema.clone(), name: name.clone(), oid: row.get::<_, Option<u32>>(0)? };
        Some(OwnedRelation { relation, owner: row.get(1) })
    });
    Ok(found.collect())
}

/// Returns those of some tables that compute something of the application's when rows are loaded.
///
/// # Errors
/// `Unavailable` if the server fails.
pub(in crate::recover) async fn running_code(session: &Session, tables: &[u32]) -> Result<BTreeSet<u32>> {
    let rows = session.query(CODE, &[&tables]).await;
    let rows = rows.map_err(|error| server_error("cannot see which functions tables call", error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Returns the names and owners that relations have now, by their oids.
///
/// # Errors
/// `Unavailable` if the server fails.
pub(in crate::recover) async fn by_oid(
    session: &Session,
    relations: &[u32],
) -> Result<BTreeMap<u32, OwnedRelation>> {
    let sql = "SELECT c.oid, n.nspname::text, c.relname::text, pg_catalog.pg_get_userbyid(c.relowner)::text \
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1)";
    let rows = session.query(sql, &[&relations]).await;
    let rows = rows.map_err(|error| server_error("cannot see which tables are there", error))?;
    let found = rows.iter().map(|row| {
        let relation = Relation { oid: row.get(0), schema: row.get(1), name: row.get(2) };
        (row.get(0), OwnedRelation { relation, owner: row.get(3) })
    });
    Ok(found.collect())
}
