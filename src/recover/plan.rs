//! Plans a recovery from a moment and a history. Planning reads, and changes nothing.
//!
//! `--dry-run` prints the plan, the executor carries out the same value, and the report shows it.

use std::sync::Arc;

use serde::Serialize;

use super::part::RowFilter;
use crate::error::Result;
use crate::history::definitions::SchemaKnown;
use crate::model::inexact::insert_only_note;
use crate::model::{Edge, Lsn, Moment, PgTime};
use crate::past::{ChosenTables, Commit, KnownInexact, Past, Reading};

/// The plan of a recovery.
#[derive(Clone, Serialize)]
pub struct Plan {
    pub moment: PlannedMoment,
    /// The checkpoint from which the recovery starts.
    pub checkpoint: String,
    pub epoch: u32,
    /// Segments that hold the transactions between the checkpoint and the moment.
    pub segments: u64,
    /// Transactions between the checkpoint and the moment.
    pub transactions: u64,
    pub tables: u64,
    /// The rows of the planned tables in the checkpoint's images.
    pub checkpoint_rows: u64,
    /// How well the schema is known.
    pub schema: SchemaKnown,
    /// The position at which the definitions will be compared with the source's own; `None` if the history holds no digests
    /// at or after the moment.
    pub schema_compared_at: Option<Edge>,
    /// The objects that will not be exact, by name.
    pub inexact: KnownInexact,
    pub notes: Vec<String>,
    /// Whether only some tables are wanted.
    pub partial: bool,
    /// The choice of rows; `None` if all rows are wanted.
    pub filter: Option<RowFilter>,
    /// The tables that were asked for, by oid.
    #[serde(skip)]
    pub(super) asked: Vec<u32>,
    #[serde(skip)]
    pub chosen: ChosenTables,
    /// The past from which everything is recovered.
    #[serde(skip)]
    pub past: Arc<Past>,
}

/// The moment to which the request was resolved.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedMoment {
    /// The position just after the last transaction; given back as `--to`, it means the same state.
    pub lsn: Lsn,
    /// The last transaction's commit time, or the checkpoint's if no transaction follows it.
    pub time: PgTime,
    pub xid: Option<u64>,
    /// The first transaction that is not included.
    pub next: Option<Commit>,
}

/// Plans a recovery of the tables that match one of the patterns; without patterns, of all.
///
/// # Errors
/// `OutsideWindow` if the history does not hold the moment; `Usage` if a pattern matches no table; `Damaged` if the
/// history is.
pub fn plan(reading: &Reading, moment: &Moment, before: bool, patterns: &[String]) -> Result<Plan> {
    let past = reading.at(moment, before)?;
    let chosen = past.choose(patterns)?;
    let schema = past.schema_known()?;
    let inexact = past.inexact(&chosen, &schema)?;
    // A damaged list of roles is reported before anything is created.
    past.roles()?;
    let base = past.base();
    let insert_only = chosen.tables.iter().filter(|table| table.is_insert_only()).count();
    let notes = past.notes().iter().cloned().chain(insert_only_note(insert_only)).collect();
    let mut plan = Plan {
        moment: planned(&past),
        checkpoint: base.id.clone(),
        epoch: base.epoch,
        segments: past.segments().count() as u64,
        transactions: past.count_transactions()?,
        tables: 0,
        checkpoint_rows: 0,
        schema,
        schema_compared_at: past.schema_witness()?.map(|witness| witness.at),
        inexact,
        notes,
        partial: chosen.is_partial,
        filter: None,
        asked: chosen.tables.iter().map(|table| table.oid).collect(),
        chosen,
        past: Arc::new(past),
    };
    plan.count_tables();
    Ok(plan)
}

impl Plan {
    pub(super) fn count_tables(&mut self) {
        let base = self.past.base();
        let images = self.chosen.tables.iter().filter_map(|table| base.table(table.oid));
        self.tables = self.chosen.tables.len() as u64;
        self.checkpoint_rows = images.map(|entry| entry.image.rows).sum();
    }
}

fn planned(past: &Past) -> PlannedMoment {
    let (base, next) = (past.base(), past.next());
    match past.last() {
        Some(last) if last.lsn > base.lsn => {
            PlannedMoment { lsn: last.lsn, time: last.time, xid: Some(last.xid), next }
        }
        _ => PlannedMoment { lsn: base.lsn, time: base.time, xid: None, next },
    }
}
