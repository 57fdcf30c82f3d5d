//! Changes rows that are loaded and proved: keeps the part that is wanted, and has a caller amend the rest.
//!
//! The target's server judges the rows, since only it knows the meaning of SQL. So whole tables are loaded and proved
//! first; then the rows that are not wanted are deleted, before foreign keys and triggers are made for good. Transactions
//! are left out before that, so that a condition judges the rows that there are without them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::amend::Amend;
use super::archive::{Toc, referenced_tables};
use super::load::LoadOutcome;
use super::part::{Search, SplitTable, TablePart};
use super::plan::Plan;
use super::sink::Sink;
use crate::error::{Error, Result};
use crate::history::evidence::TableDigest;
use crate::history::image::RowsDigest;
use crate::model::Table;

impl Plan {
    /// Takes the tables to which rows of the chosen ones refer into the plan, if they are wanted.
    ///
    /// # Errors
    /// `Damaged` if the journal or a manifest is.
    pub fn add_references(&mut self, toc: &Toc) -> Result<()> {
        let Some(filter) = self.filter.as_mut().filter(|filter| filter.with_references) else {
            return Ok(());
        };
        let selection = &mut self.chosen.selection;
        selection.add(referenced_tables(toc, |schema, name| selection.takes(schema, name)));
        let asked: BTreeSet<u32> = self.asked.iter().copied().collect();
        self.chosen.tables = self.past.tables()?;
        self.chosen.tables.retain(|table| self.chosen.selection.takes(&table.schema, &table.name));
        let referenced = self.chosen.tables.iter().filter(|table| !asked.contains(&table.oid));
        filter.referenced = referenced.map(Table::display).collect();
        self.inexact = self.past.inexact(&self.chosen, &self.schema)?;
        self.count_tables();
        Ok(())
    }

    /// The search for wanted rows, if not all are wanted.
    pub(super) fn search(&self) -> Option<Search<'_>> {
        let filter = self.filter.as_ref()?;
        let is_asked = |table: &&Table| self.asked.contains(&table.oid);
        Some(Search {
            condition: filter.condition.as_deref(),
            with_references: filter.with_references,
            tables: self.chosen.tables.iter().filter(is_asked).collect(),
        })
    }
}

/// Names the tables of which no row is wanted, since they lack a column of the condition.
///
/// # Errors
/// `Usage` if no table has the columns, `Refused` if the server cannot read the condition.
pub(super) async fn try_condition(plan: &Plan, sink: &Sink) -> Result<Vec<String>> {
    let Some(search) = plan.search() else { return Ok(Vec::new()) };
    let Some(condition) = search.condition else { return Ok(Vec::new()) };
    let lacking = sink.lacking_columns(&search).await?;
    if lacking.len() == search.tables.len() {
        return Err(Error::usage(format!(
            "no chosen table has the columns of --where {condition:?}; name the table with --table"
        )));
    }
    let tables = search.tables.iter().filter(|table| lacking.contains(&table.oid));
    let why = "no row of it meets --where, as it lacks a column of the condition";
    Ok(tables.map(|table| format!("{}: {why}", table.display())).collect())
}

/// Deletes the loaded rows that are not wanted, and proves that nothing else is gone: the digests of the rows that stay
/// and of those that go add up to the digests of what was loaded.
///
/// # Errors
/// `Refused` if the server refuses the condition; `Internal` if the digests do not add up.
pub(super) async fn keep_part(
    plan: &Plan,
    sink: &Arc<Sink>,
    loaded: &mut LoadOutcome,
) -> Result<Vec<TablePart>> {
    let Some(search) = plan.search() else { return Ok(Vec::new()) };
    let of_table = |digest: &TableDigest| plan.chosen.tables.iter().find(|it| it.display() == digest.table);
    let tables: Vec<&Table> = loaded.digests.iter().filter_map(of_table).collect();
    let split = sink.keep_part(&search, &tables).await?;
    let mut whole = RowsDigest::default();
    let mut rows = 0;
    for digest in &loaded.digests {
        whole.merge(digest.digest.parse().map_err(|_| Error::internal("a digest cannot be read"))?);
        rows += digest.rows;
    }
    let parts =
        split.iter().fold(0_u128, |sum, table| sum.wrapping_add(table.kept).wrapping_add(table.left_out));
    let counted: u64 = split.iter().map(|table| table.part.rows + table.part.left_out).sum();
    if counted != rows || (loaded.proved && parts != whole.0) {
        return Err(Error::internal(format!(
            "the rows that stay and those that are left out are {counted} instead of {rows}, or other bytes; please report \
             this"
        )));
    }
    let digest = |it: &SplitTable| TableDigest {
        table: it.part.table.clone(),
        rows: it.part.rows,
        digest: RowsDigest(it.kept).to_string(),
    };
    loaded.digests = split.iter().map(digest).collect();
    loaded.rows = split.iter().map(|it| it.part.rows).sum();
    Ok(split.into_iter().map(|it| it.part).collect())
}

/// Has the rows changed, and reads the changed tables back: they must hold what was loaded and what changed.
pub(super) async fn amend(
    plan: &Plan,
    amend: &dyn Amend,
    sink: &Sink,
    loaded: &mut LoadOutcome,
) -> Result<()> {
    // A part gets its foreign keys when the rows that are not wanted are gone.
    for change in sink.amend(amend, plan.filter.is_none()).await? {
        let Some(table) = plan.chosen.tables.iter().find(|it| it.oid == change.table) else { continue };
        let held = if change.is_read_back { None } else { sink.read_back(table, 1).await? };
        let Some(digest) = loaded.digests.iter_mut().find(|it| it.table == table.display()) else { continue };
        let before: RowsDigest =
            digest.digest.parse().map_err(|_| Error::internal("a digest cannot be read"))?;
        let expected = before.0.wrapping_add(change.digest);
        let rows = digest.rows.saturating_add_signed(change.rows);
        if let Some(held) = held
            && (held.rows != rows || (loaded.proved && held.digest.is_some_and(|it| it != expected)))
        {
            return Err(not_amended(table));
        }
        (digest.rows, digest.digest) = (rows, RowsDigest(expected).to_string());
        loaded.rows = loaded.rows.saturating_add_signed(change.rows);
    }
    Ok(())
}

fn not_amended(table: &Table) -> Error {
    Error::internal(format!(
        "{} does not hold what the other transactions made; please report this",
        table.display()
    ))
}
