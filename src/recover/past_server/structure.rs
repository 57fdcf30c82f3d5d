//! The structure of a moment in a database of our own server, and what stands behind gates in it.

use std::collections::{BTreeMap, BTreeSet};

use super::schemas::{moved, moved_table};
use crate::connect::{Session, server_error};
use crate::error::Result;
use crate::fold::Folded;
use crate::model::Inexact;
use crate::model::schema::quote_ident;
use crate::recover::definitions::SchemaAt;
use crate::recover::gate::{GatedTable, GatedView, Relation};
use crate::recover::plan::Plan;
use crate::recover::refused::RefusedObject;
use crate::recover::sequences::sequence_values;
use crate::recover::sink::SequenceValue;

/// The structure of a moment in a database, without rows.
pub(super) struct Structure {
    pub schema: SchemaAt,
    /// The beginning of the names of the moment's schemas, if several moments share the database.
    pub prefix: Option<String>,
    pub notes: Vec<String>,
    pub refused: Vec<RefusedObject>,
}

/// The relations that are to be gated, and what is not exact in them.
#[derive(Default)]
pub(super) struct Behind {
    pub tables: Vec<GatedTable>,
    pub views: Vec<GatedView>,
    pub inexact: Vec<Inexact>,
}

impl Structure {
    /// Sets the sequences, and finds the relations that are to be gated.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn behind(&self, session: &Session, plan: &Plan, folded: Folded) -> Result<Behind> {
        let mut inexact = self.known_inexact(plan, &folded);
        let sequences = self.set_sequences(session, plan, &folded, &mut inexact).await?;
        let tables = folded.tables;
        let places: Vec<_> = tables.iter().map(|it| self.place(&it.table.schema, &it.table.name)).collect();
        let oids = oids(session, &places).await?;
        let there: Vec<u32> = oids.iter().flatten().copied().collect();
        empty(session, &there).await?;
        let mut details = details(session, &there).await?;
        let mut gated = Vec::new();
        for ((mut folded, place), oid) in tables.into_iter().zip(places).zip(oids) {
            let what = folded.table.display();
            let Some(oid) = oid else {
                let why = "the table could not be made, so its rows are not there".to_owned();
                inexact.push(Inexact { what, why });
                continue;
            };
            if folded.untouched().is_some_and(|image| image.rows == 0) {
                continue;
            }
            let unfit = self.schema.unfit.iter().find(|it| it.what == what).map(|it| it.why.clone());
            let is_retyped = inexact.iter().any(|it| it.is_retyped() && it.what == what);
            let sequences = sequences.get(&folded.table.quoted()).cloned().unwrap_or_default();
            folded.table.schema = place.0;
            let (ancestors, checks) = details.remove(&oid).unwrap_or_default();
            gated.push(GatedTable { folded, oid, sequences, is_retyped, ancestors, checks, unfit });
        }
        Ok(Behind { tables: gated, views: self.views(session).await?, inexact })
    }

    /// The schema and the name under which the server has a relation of the moment.
    fn place(&self, schema: &str, name: &str) -> (String, String) {
        let schema = self.prefix.as_ref().map_or_else(|| schema.to_owned(), |prefix| moved(prefix, schema));
        (schema, name.to_owned())
    }

    /// The schemas in which a name without a schema is looked for, if they are not the usual ones.
    pub fn search_path(&self, plan: &Plan) -> Option<String> {
        let prefix = self.prefix.as_ref()?;
        let tables = plan.chosen.tables.iter().map(|table| quote_ident(&moved(prefix, &table.schema)));
        let schemas: BTreeSet<_> = tables.chain([quote_ident(prefix), "public".to_owned()]).collect();
        Some(schemas.into_iter().collect::<Vec<_>>().join(", "))
    }

    /// Joins what is known for certain not to be exact.
    fn known_inexact(&self, plan: &Plan, folded: &Folded) -> Vec<Inexact> {
        let schema = &self.schema;
        let planned = plan.inexact.iter().filter(|it| plan.inexact.is_certain(it)).cloned();
        let refused = schema.refused.iter().chain(&self.refused).map(RefusedObject::as_inexact);
        let found = planned.chain(folded.inexact.iter().cloned()).chain(schema.inexact.iter().cloned());
        let mut all = Vec::new();
        for it in found.chain(refused) {
            if !all.contains(&it) {
                all.push(it);
            }
        }
        if schema.facts.large_objects > 0 {
            let why = "they are not served; recover them with: backwhen recover".to_owned();
            all.push(Inexact { what: "large objects".to_owned(), why });
        }
        all
    }

    /// Sets the sequences whose values are known. Returns those whose values depend on rows, by the quoted table.
    async fn set_sequences(
        &self,
        session: &Session,
        plan: &Plan,
        folded: &Folded,
        inexact: &mut Vec<Inexact>,
    ) -> Result<BTreeMap<String, Vec<SequenceValue>>> {
        let made: Vec<_> = self.schema.sequences.values().cloned().collect();
        let unsampled =
            |oid| folded.sequences_sampled < plan.past.until() || folded.sequences_set_back.contains(&oid);
        let (values, unknown) = sequence_values(plan, &made, &folded.sequences, unsampled);
        inexact.extend(unknown);
        let mut by_rows: BTreeMap<String, Vec<SequenceValue>> = BTreeMap::new();
        for mut value in values {
            (value.schema, value.name) = self.place(&value.schema, &value.name);
            if let Some((table, column)) = value.at_least.take() {
                let moved = self.prefix.as_ref().map(|prefix| moved_table(plan, prefix, &table));
                value.at_least = Some((moved.unwrap_or_else(|| table.clone()), column));
                by_rows.entry(table).or_default().push(value);
            } else if let Err(error) = session.batch_execute(&value.statement()).await {
                let why = server_error("it stands at its start", error).to_string();
                inexact.push(Inexact { what: format!("sequence {}.{}", value.schema, value.name), why });
            }
        }
        Ok(by_rows)
    }

    /// Returns the materialised views that held rows, each after those that it reads.
    async fn views(&self, session: &Session) -> Result<Vec<GatedView>> {
        let views = &self.schema.facts.materialized_views;
        let places: Vec<_> = views.iter().map(|(schema, name)| self.place(schema, name)).collect();
        let oids = oids(session, &places).await?;
        let failed = |error| server_error("cannot see who owns the materialised views", error);
        let mut gated = Vec::new();
        for ((schema, name), oid) in places.into_iter().zip(oids) {
            let Some(oid) = oid else { continue };
            let sql =
                "SELECT pg_catalog.pg_get_userbyid(relowner)::text FROM pg_catalog.pg_class WHERE oid = $1";
            let owner = session.query_one(sql, &[&oid]).await.map_err(failed)?.get(0);
            gated.push(GatedView { relation: Relation { schema, name, oid }, owner });
        }
        Ok(gated)
    }
}

/// Removes the rows that an extension's script has inserted into tables whose rows the history holds.
async fn empty(session: &Session, tables: &[u32]) -> Result<()> {
    let failed = |error| server_error("cannot empty the tables of extensions", error);
    let sql = "SELECT pg_catalog.string_agg(pg_catalog.format('DELETE FROM ONLY %s', oid::pg_catalog.regclass), '; ') \
               FROM pg_catalog.pg_class WHERE oid = ANY ($1) AND pg_catalog.pg_relation_size(oid) > 0";
    let row = session.query_one(sql, &[&tables]).await.map_err(failed)?;
    let deletes: Option<String> = row.get(0);
    session.batch_execute(&deletes.unwrap_or_default()).await.map_err(failed)
}

/// Selects the partitioned tables above a table, and the names of its own CHECKs.
const DETAILS: &str = "
SELECT c.oid,
       ARRAY (SELECT k.conname::text FROM pg_catalog.pg_constraint k
               WHERE k.conrelid = c.oid AND k.contype = 'c' AND k.coninhcount = 0),
       ARRAY (SELECT n.nspname::text FROM pg_catalog.pg_partition_ancestors(c.oid) a (relid)
                JOIN pg_catalog.pg_class p ON p.oid = a.relid JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace
               WHERE p.oid <> c.oid ORDER BY p.oid),
       ARRAY (SELECT p.relname::text FROM pg_catalog.pg_partition_ancestors(c.oid) a (relid)
                JOIN pg_catalog.pg_class p ON p.oid = a.relid WHERE p.oid <> c.oid ORDER BY p.oid),
       ARRAY (SELECT p.oid FROM pg_catalog.pg_partition_ancestors(c.oid) a (relid)
                JOIN pg_catalog.pg_class p ON p.oid = a.relid WHERE p.oid <> c.oid ORDER BY p.oid)
  FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1)";

type Details = BTreeMap<u32, (Vec<Relation>, Vec<String>)>;

async fn details(session: &Session, tables: &[u32]) -> Result<Details> {
    let rows = session.query(DETAILS, &[&tables]).await;
    let rows = rows.map_err(|error| server_error("cannot see which tables are partitions", error))?;
    let of_row = |row: &tokio_postgres::Row| {
        let (schemas, names, oids): (Vec<String>, Vec<String>, Vec<u32>) =
            (row.get(2), row.get(3), row.get(4));
        let above = schemas.into_iter().zip(names).zip(oids);
        let above = above.map(|((schema, name), oid)| Relation { schema, name, oid });
        (row.get(0), (above.collect(), row.get(1)))
    };
    Ok(rows.iter().map(of_row).collect())
}

async fn oids(session: &Session, places: &[(String, String)]) -> Result<Vec<Option<u32>>> {
    let quoted = |(schema, name): &(String, String)| format!("{}.{}", quote_ident(schema), quote_ident(name));
    let names: Vec<String> = places.iter().map(quoted).collect();
    let sql = "SELECT pg_catalog.to_regclass(name)::pg_catalog.oid \
               FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS t (name, number) ORDER BY number";
    let rows = session.query(sql, &[&names]).await;
    let rows = rows.map_err(|error| server_error("cannot see which tables were made", error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
