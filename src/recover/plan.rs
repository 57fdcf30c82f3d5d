//! Moment + history → plan. Pure: it reads, and changes nothing.
//!
//! `--dry-run` prints the plan, the executor takes that same plan, the report shows it.

use std::sync::Arc;

use serde::Serialize;

use crate::error::Result;
use crate::history::definitions::SchemaKnown;
use crate::model::{Lsn, Moment, PgTime};
use crate::past::{ChosenTables, Commit, KnownInexact, Past, Reading};

/// What a recovery will do.
#[derive(Clone, Serialize)]
pub struct Plan {
    pub moment: PlannedMoment,
    /// The checkpoint that it starts from.
    pub checkpoint: String,
    pub epoch: u32,
    /// Segments that hold the transactions between the checkpoint and the moment.
    pub segments: u64,
    /// Transactions between the checkpoint and the moment.
    pub transactions: u64,
    pub tables: u64,
    /// Rows of the checkpoint's images of those tables.
    pub checkpoint_rows: u64,
    /// How well the definitions are known.
    pub schema: SchemaKnown,
    /// What will not be exact, by name.
    pub inexact: KnownInexact,
    pub notes: Vec<String>,
    /// Only some tables are wanted.
    pub partial: bool,
    #[serde(skip)]
    pub chosen: ChosenTables,
    /// Where all of it comes from.
    #[serde(skip)]
    pub past: Arc<Past>,
}

/// The moment that a request resolved to.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedMoment {
    /// Just after the last transaction; given back as `--to`, it means the same state.
    pub lsn: Lsn,
    /// The last transaction's commit time, or the checkpoint's if no transaction follows it.
    pub time: PgTime,
    pub xid: Option<u32>,
    /// The first transaction that is not in.
    pub next: Option<Commit>,
}

/// Plans a recovery of the tables that match one of the patterns; without patterns, of all.
///
/// # Errors
/// `OutsideWindow` if the moment is not held; `Usage` if a pattern matches no table.
pub fn plan(reading: &Reading, moment: &Moment, before: bool, patterns: &[String]) -> Result<Plan> {
    let past = reading.at(moment, before)?;
    let chosen = past.choose(patterns)?;
    let schema = past.schema_known()?;
    let inexact = past.inexact(&chosen, &schema)?;
    // Damage of the list of roles is told before anything is made.
    past.roles()?;
    let base = past.base();
    let images = chosen.tables.iter().filter_map(|table| base.table(table.oid));
    Ok(Plan {
        moment: planned(&past),
        checkpoint: base.id.clone(),
        epoch: base.epoch,
        segments: past.segments().count() as u64,
        transactions: past.count_transactions()?,
        tables: chosen.tables.len() as u64,
        checkpoint_rows: images.map(|entry| entry.image.rows).sum(),
        schema,
        inexact,
        notes: past.notes().to_vec(),
        partial: chosen.is_partial,
        chosen,
        past: Arc::new(past),
    })
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
