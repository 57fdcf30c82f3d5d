//! The objects that will not be exact at a moment, as far as they can be known before the rows are folded.

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};

use super::doubt::doubts;
use super::{ChosenTables, Past};
use crate::codec::pgoutput;
use crate::error::Result;
use crate::follow;
use crate::history::checkpoint::{Checkpoint, Origin};
use crate::history::definitions::SchemaKnown;
use crate::model::{Grade, Inexact, Message, Table};

/// The objects that are not exact, by name, and how certain each is. Its JSON is one list.
#[derive(Clone, Debug, Default)]
pub struct KnownInexact {
    pub certain: Vec<Inexact>,
    /// Tables that the stream describes differently somewhere in a block of the journal that reaches beyond the moment.
    /// The fold reads every message, and so decides which of these tables are inexact.
    pub perhaps_tables: Vec<Inexact>,
    /// Schema changes that may have come before the moment or after it.
    pub perhaps_schema: Vec<Inexact>,
}

impl KnownInexact {
    pub fn iter(&self) -> impl Iterator<Item = &Inexact> {
        self.certain.iter().chain(&self.perhaps_tables).chain(&self.perhaps_schema)
    }

    /// Whether the moment is certain to be affected.
    pub fn is_certain(&self, inexact: &Inexact) -> bool {
        !self.perhaps_tables.contains(inexact) && !self.perhaps_schema.contains(inexact)
    }
}

impl Serialize for KnownInexact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl Past {
    /// Lists the parts of the chosen tables that will not be exact. `schema` is the answer of [`Past::schema_known`].
    ///
    /// # Errors
    /// `Damaged` if the journal or a manifest is.
    pub fn inexact(&self, chosen: &ChosenTables, schema: &SchemaKnown) -> Result<KnownInexact> {
        let mut certain = known_to_base(&self.base, chosen);
        certain.extend(doubts(&self.reading, self.stretch(), self.until, &chosen.selection)?);
        if !chosen.is_partial && self.base.schema.large_objects == 0 {
            certain.extend(self.later_large_objects()?);
        }
        let perhaps_tables = self.described_otherwise(&chosen.tables)?;
        let perhaps_schema = self.schema_unknown(schema)?;
        certain.extend(self.schema_changes()?.iter().filter_map(|change| change.signal.untold(change.lsn)));
        Ok(KnownInexact { certain, perhaps_tables, perhaps_schema })
    }

    /// Names large objects that only the next checkpoint has.
    fn later_large_objects(&self) -> Result<Option<Inexact>> {
        let rows = self.reading.timeline().checkpoints_of(self.stretch().epoch.number);
        let next = rows.into_iter().find(|row| row.lsn >= self.until && row.origin == Origin::Source);
        let next = next.map(|row| self.history().read_checkpoint(&row.id)).transpose()?;
        Ok(next.filter(|next| next.schema.large_objects > 0).map(|next| Inexact {
            what: "large objects".into(),
            why: format!(
                "{} large objects are protected from {} ({}) on, and are left out of this recovery",
                next.schema.large_objects, next.schema.lsn, next.schema.time
            ),
        }))
    }

    /// Lists the tables that the stream describes, somewhere before the moment, differently from the base.
    fn described_otherwise(&self, wanted: &[Table]) -> Result<Vec<Inexact>> {
        let changes = self.schema_changes()?;
        let told: BTreeSet<u32> =
            changes.iter().flat_map(|change| &change.signal.tables).map(|it| it.facts.oid).collect();
        let mut found = Vec::new();
        for view in self.segments() {
            if view.summary.relation_changes.is_empty() && view.summary.relations.is_empty() {
                continue;
            }
            let segment = view.open()?;
            let footer = segment.footer();
            for (block, bytes) in &footer.relation_messages {
                let place = footer.blocks.get(*block as usize);
                if place.is_none_or(|place| place.first >= self.until || place.last < self.base.lsn) {
                    continue;
                }
                let Ok(Message::Relation(relation)) = pgoutput::decode(bytes) else { continue };
                let Some(entry) = self.base.table(relation.oid) else { continue };
                // The event triggers told this table's changes exactly.
                if told.contains(&relation.oid) || !wanted.iter().any(|table| table.oid == relation.oid) {
                    continue;
                }
                for difference in follow::differences(&entry.table, &relation) {
                    let why = format!(
                        "{difference} since checkpoint {}; its schema is recovered as it was there",
                        self.base.id
                    );
                    let inexact = Inexact { what: entry.table.display(), why };
                    if !found.contains(&inexact) {
                        found.push(inexact);
                    }
                }
            }
        }
        Ok(found)
    }
}

/// Lists the objects that the checkpoint's manifest names as missing or inexact.
fn known_to_base(base: &Checkpoint, chosen: &ChosenTables) -> Vec<Inexact> {
    let mut inexact = base.inexact.clone();
    for table in chosen.tables.iter().filter(|table| table.grade == Grade::InsertOnly) {
        let why = "has no replica identity: updates and deletes since the checkpoint are not in the history";
        inexact.push(Inexact { what: table.display(), why: why.to_owned() });
    }
    if chosen.is_partial {
        return inexact;
    }
    for left_out in &base.schema.left_out {
        inexact.push(Inexact { what: left_out.table.clone(), why: left_out.reason.clone() });
    }
    if base.schema.large_objects > 0 {
        let why = format!(
            "{} large objects are recovered as of {} ({}): the stream does not carry them",
            base.schema.large_objects, base.schema.time, base.schema.lsn
        );
        inexact.push(Inexact { what: "large objects".into(), why });
    }
    if base.origin == Origin::Fold && base.schema.lsn < base.lsn {
        tracing::debug!("the schema of checkpoint {} was read at {}", base.id, base.schema.lsn);
    }
    inexact
}
