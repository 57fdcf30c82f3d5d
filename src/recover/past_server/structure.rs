//! The structure of a moment in a database of our own server, and what stands behind gates in it.

use std::collections::{BTreeMap, BTreeSet};

use super::schemas::{moved, moved_table};
use crate::connect::{Session, server_error};
use crate::error::Result;
use crate::fold::Folded;
use crate::model::Inexact;
use crate::model::schema::quote_ident;
use crate::recover::definitions::SchemaAt;
use crate::recover::gate::{GatedTable, OwnedRelation, ancestors, empty, oids, owned};
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
    pub views: Vec<OwnedRelation>,
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
        let mut above = ancestors(session, &there).await?;
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
            let ancestors = above.remove(&oid).unwrap_or_default();
            let (locked_sequences, is_unseen) = (Vec::new(), false);
            gated.push(GatedTable {
                folded,
                oid,
                sequences,
                locked_sequences,
                is_retyped,
                ancestors,
                unfit,
                is_unseen,
                condition: None,
            });
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
        let (values, unknown) = sequence_values(plan, &made, folded);
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
    async fn views(&self, session: &Session) -> Result<Vec<OwnedRelation>> {
        let views = &self.schema.facts.materialized_views;
        let places: Vec<_> = views.iter().map(|(schema, name)| self.place(schema, name)).collect();
        Ok(owned(session, &places).await?.into_iter().flatten().collect())
    }
}
