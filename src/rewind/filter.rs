//! The rows that a rewind was asked for.

use std::collections::{BTreeMap, BTreeSet};

use super::changed::{ChangedRows, RowId};
use super::plan::Goals;
use super::table::ChangedTable;
use crate::codec::copy_text;
use crate::error::{Error, Result};
use crate::model::pattern::Pattern;
use crate::model::{RowIdentity, Selection, Table};
use crate::source::amend::AmendSession;

/// The tables and rows to put back; everything, if nothing is named.
#[derive(Clone, Debug, Default)]
pub struct Part {
    pub tables: Selection,
    pub keys: Vec<RowKey>,
    pub condition: Option<String>,
}

/// One row, as a person names it: `TABLE=42` or `TABLE=a=1,b=x`.
#[derive(Clone, Debug)]
pub struct RowKey {
    table: Pattern,
    values: Vec<(Option<String>, String)>,
}

impl RowKey {
    /// # Errors
    /// `Usage` if the text names no table or no key.
    pub fn parse(text: &str) -> Result<RowKey> {
        let wrong =
            || Error::usage(format!("{text:?} names no row; write --key TABLE=42 or --key TABLE=a=1,b=x"));
        let (table, key) = text.split_once('=').ok_or_else(wrong)?;
        let value = |part: &str| match part.split_once('=') {
            Some((column, value)) => (Some(column.to_owned()), value.to_owned()),
            None => (None, part.to_owned()),
        };
        let values = if key.contains('=') {
            key.split(',').map(value).collect()
        } else {
            vec![(None, key.to_owned())]
        };
        Ok(RowKey { table: Pattern::parse(table)?, values })
    }

    fn is_of(&self, table: &Table, line: Option<&[u8]>) -> bool {
        let (Some(line), RowIdentity::Key(key)) = (line, &table.identity) else { return false };
        let texts: Vec<_> = copy_text::columns(line).collect();
        let has = |(number, (column, value)): (usize, &(Option<String>, String))| {
            let at = match column {
                Some(name) => key.iter().find(|at| table.columns[**at].name == *name),
                None => key.get(number),
            };
            let text = at.and_then(|at| copy_text::unescape(texts.get(*at)?));
            text.is_some_and(|text| *text == *value.as_bytes())
        };
        self.values.len() == key.len() && self.values.iter().enumerate().all(has)
    }
}

impl Part {
    pub fn takes(&self, table: &Table) -> bool {
        let by_key =
            self.keys.is_empty() || self.keys.iter().any(|key| key.table.matches(&table.schema, &table.name));
        by_key && self.tables.takes(&table.schema, &table.name)
    }

    /// Keeps the goals of the rows that are asked for. A row is if it was so at the moment, or is so now.
    ///
    /// # Errors
    /// `Usage` if no table has the condition's columns, or if the server cannot read the condition.
    pub async fn keep(&self, changed: &ChangedRows, goals: &mut Goals, sieve: &AmendSession) -> Result<()> {
        goals.retain(|id, _| {
            let table = &changed.tables[&id.table];
            table.now.as_deref().is_some_and(|now| self.takes(now) && self.has_key(now, changed, *id))
        });
        let Some(condition) = &self.condition else { return Ok(()) };
        let mut by_table = BTreeMap::<u32, Vec<RowId>>::new();
        goals.keys().for_each(|id| by_table.entry(id.table).or_default().push(*id));
        let (mut kept, mut is_known) = (BTreeSet::new(), by_table.is_empty());
        for (oid, ids) in by_table {
            let Some(found) = meeting(changed, &changed.tables[&oid], &ids, condition, sieve).await? else {
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
            key.table.matches(&table.schema, &table.name)
                && (key.is_of(table, row.first()) || key.is_of(table, row.last()))
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
