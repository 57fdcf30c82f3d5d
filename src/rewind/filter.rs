//! The rows that a rewind was asked for.

use std::collections::{BTreeMap, BTreeSet};

use super::changed::{ChangedRows, RowId};
use super::plan::Goals;
use super::table::ChangedTable;
use crate::connect::Conninfo;
use crate::error::{Error, Result};
use crate::model::{Selection, Table};
use crate::source::amend::AmendSession;
use crate::travel::row::RowKey;

/// The tables and rows to put back; everything, if nothing is named.
#[derive(Clone, Debug, Default)]
pub struct Part {
    pub tables: Selection,
    pub keys: Vec<RowKey>,
    pub condition: Option<String>,
}

impl Part {
    pub fn takes(&self, table: &Table) -> bool {
        let by_key = self.keys.is_empty() || self.keys.iter().any(|key| key.table == table.oid);
        by_key && self.tables.takes(&table.schema, &table.name)
    }

    /// Keeps the goals of the rows that are asked for. A row is if it was so at the moment, or is so now.
    ///
    /// # Errors
    /// `Usage` if no table has the condition's columns, or if the server cannot read the condition.
    pub async fn keep(&self, changed: &ChangedRows, goals: &mut Goals, source: &Conninfo) -> Result<()> {
        goals.retain(|id, _| {
            let table = &changed.tables[&id.table];
            table.now.as_deref().is_some_and(|now| self.takes(now) && self.has_key(now, changed, *id))
        });
        let Some(condition) = &self.condition else { return Ok(()) };
        let mut by_table = BTreeMap::<u32, Vec<RowId>>::new();
        goals.keys().for_each(|id| by_table.entry(id.table).or_default().push(*id));
        let sieve = AmendSession::open(source).await?;
        let (mut kept, mut is_known) = (BTreeSet::new(), by_table.is_empty());
        for (oid, ids) in by_table {
            let Some(found) = meeting(changed, &changed.tables[&oid], &ids, condition, &sieve).await? else {
                continue;
            };
            is_known = true;
            kept.extend(found);
        }
        if !is_known {
            return Err(Error::usage(format!(
                "no table that changed has the columns of --where {condition:?}; name the table with --table"
            )));
        }
        goals.retain(|id, _| kept.contains(id));
        Ok(())
    }

    fn has_key(&self, table: &Table, changed: &ChangedRows, id: RowId) -> bool {
        let row = changed.row(id);
        let is_it = |key: &RowKey| {
            let mut lines = row.first().into_iter().chain(row.last());
            key.table == table.oid && lines.any(|line| key.is_of(table, line))
        };
        self.keys.is_empty() || self.keys.iter().any(is_it)
    }
}

async fn meeting(
    changed: &ChangedRows,
    table: &ChangedTable,
    ids: &[RowId],
    condition: &str,
    sieve: &AmendSession,
) -> Result<Option<Vec<RowId>>> {
    let Some(now) = table.now.as_deref() else { return Ok(None) };
    let versions = ids.iter().flat_map(|id| {
        let row = changed.row(*id);
        [row.first(), row.last()].into_iter().flatten().map(move |line| (*id, line))
    });
    let (owners, lines): (Vec<RowId>, Vec<&[u8]>) = versions.unzip();
    let meets = sieve.meeting(now, &lines, condition).await?;
    Ok(meets
        .map(|meets| owners.into_iter().zip(meets).filter(|(_, meets)| *meets).map(|(id, _)| id).collect()))
}
