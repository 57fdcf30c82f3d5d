//! Moment + history → plan. Pure: it reads, and changes nothing.
//!
//! `--dry-run` prints the plan, the executor takes that same plan, the report shows it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;

use super::base::base;
use super::doubt::doubts;
use super::known::Question;
use super::resolve::{Commit, Resolved, resolve};
use crate::codec::pgoutput;
use crate::error::{Error, Result};
use crate::fold;
use crate::history::History;
use crate::history::checkpoint::{Checkpoint, Inexact, Origin};
use crate::history::definitions::{SchemaKnown, changes_in};
use crate::history::roles;
use crate::history::signal::DefinitionChange;
use crate::history::timeline::Timeline;
use crate::model::{Grade, Lsn, Message, Moment, PgTime, Selection, Table};

/// What a recovery will do.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub moment: PlannedMoment,
    /// The checkpoint that it starts from.
    pub checkpoint: String,
    pub epoch: u32,
    /// Exclusive end of the transactions that are folded.
    #[serde(skip)]
    pub until: Lsn,
    /// Where the definitions matter.
    #[serde(skip)]
    pub definitions_at: Lsn,
    /// Segments that hold those transactions.
    pub segments: u64,
    /// The same, and those after them, in which samples of sequences are looked up.
    #[serde(skip)]
    pub segment_paths: Vec<PathBuf>,
    /// Transactions between the checkpoint and the moment.
    pub transactions: u64,
    pub tables: u64,
    /// Rows of the checkpoint's images of those tables.
    pub checkpoint_rows: u64,
    /// How well the definitions are known.
    pub schema: SchemaKnown,
    /// What will not be exact, by name.
    pub inexact: Vec<Inexact>,
    pub notes: Vec<String>,
    /// Those of `inexact` that are only known to within a block of the journal or a checkpoint; the
    /// fold, which reads every message, tells exactly.
    #[serde(skip)]
    pub perhaps: Perhaps,
    #[serde(skip)]
    pub base: Checkpoint,
    /// What the source's triggers told of definitions between the checkpoint's schema archive and the
    /// moment.
    #[serde(skip)]
    pub changes: Vec<DefinitionChange>,
    /// The tables to recover, as they stood at the moment.
    #[serde(skip)]
    pub wanted: Vec<Table>,
    /// The list of the server's roles at the moment, by its digest.
    #[serde(skip)]
    pub globals: Option<String>,
    #[serde(skip)]
    pub selection: Selection,
    /// Only some tables are wanted.
    pub partial: bool,
}

/// What may turn out not to concern the moment.
#[derive(Clone, Debug, Default)]
pub struct Perhaps {
    /// Tables that the stream describes otherwise.
    pub tables: Vec<Inexact>,
    /// Definitions, where they are not known exactly.
    pub schema: Vec<Inexact>,
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

/// Plans a recovery of the tables that `selection` takes.
///
/// # Errors
/// `OutsideWindow` if the moment is not held; `Usage` if a pattern matches no table.
pub fn plan(
    history: &History,
    timeline: &Timeline,
    moment: &Moment,
    before: bool,
    tables: &[String],
) -> Result<Plan> {
    let resolved = resolve(timeline, moment, before)?;
    let stretch = timeline.stretches.iter().find(|stretch| stretch.epoch.number == resolved.epoch);
    let stretch = stretch.ok_or_else(|| Error::internal("the moment's epoch is missing"))?;
    let (base, instead) = base(history, timeline, stretch, resolved.until)?;
    let selection = Selection::parse(tables, &[])?;
    let key = history.identity().message_key();
    let changes = changes_in(stretch, &key, base.lsn, resolved.until)?;
    let wanted = wanted_tables(&base, &changes, &selection, &resolved)?;
    let needed: Vec<_> = stretch.segments_between(base.lsn, resolved.until).collect();
    let mut inexact = known_inexact(&base, &wanted, !tables.is_empty());
    inexact.extend(doubts(history, timeline, stretch, resolved.until, &selection)?);
    let told: BTreeSet<u32> =
        changes.iter().flat_map(|change| &change.signal.tables).map(|it| it.facts.oid).collect();
    let definitions_at = definitions_at(moment, &resolved);
    // Without event triggers, a change of definitions between the last commit and the time is in no commit.
    let asked_at = if matches!(moment, Moment::Time(_)) { resolved.until } else { definitions_at };
    let question = Question { history, stretch, base: &base, at: asked_at };
    let schema = question.answer()?;
    let perhaps = Perhaps {
        tables: changed_tables(&needed, &base, resolved.until, &wanted, &told)?,
        schema: question.unknown(&schema)?,
    };
    inexact.extend(changes.iter().filter_map(|change| change.signal.untold(change.lsn)));
    inexact.extend(perhaps.tables.iter().chain(&perhaps.schema).cloned());
    let after = stretch.segments.iter().filter(|segment| segment.summary.end > base.lsn);
    Ok(Plan {
        moment: planned(&resolved, &base),
        checkpoint: base.id.clone(),
        epoch: resolved.epoch,
        until: resolved.until,
        definitions_at,
        schema,
        segments: needed.len() as u64,
        segment_paths: after.map(|segment| segment.file.path.clone()).collect(),
        transactions: count_transactions(&needed, base.lsn, resolved.until)?,
        tables: wanted.len() as u64,
        checkpoint_rows: wanted
            .iter()
            .filter_map(|table| base.table(table.oid))
            .map(|it| it.image.rows)
            .sum(),
        inexact,
        perhaps,
        notes: [resolved.notes, instead].concat(),
        selection,
        partial: !tables.is_empty(),
        changes: base.schema.since.iter().chain(&changes).filter(|it| matters(it, &base)).cloned().collect(),
        globals: roles::globals_at(history, stretch, &base, resolved.until)?,
        wanted,
        base,
    })
}

/// A position is exact. All else is the end of a transaction, and the first commit after it may be long
/// after.
fn definitions_at(moment: &Moment, resolved: &Resolved) -> Lsn {
    match (moment, resolved.last) {
        (Moment::Lsn(_), _) | (_, None) => resolved.until,
        (_, Some(last)) => last.lsn,
    }
}

/// The tables as they stood at the moment, those of them that are selected.
fn wanted_tables(
    base: &Checkpoint,
    changes: &[DefinitionChange],
    selection: &Selection,
    resolved: &Resolved,
) -> Result<Vec<Table>> {
    let before: Vec<_> = base.tables.iter().map(|entry| entry.table.clone()).collect();
    let mut tables = fold::tables_after(&before, changes);
    let names = tables.iter().map(|table| (table.schema.as_str(), table.name.as_str()));
    let unmatched = selection.unmatched(names);
    if !unmatched.is_empty() {
        return Err(Error::usage(format!(
            "no table matches {} at {}; see the tables of the checkpoint before it with: backwhen list checkpoints \
             --tables",
            unmatched.join(", "),
            resolved.until
        )));
    }
    tables.retain(|table| selection.takes(&table.schema, &table.name));
    Ok(tables)
}

/// Whether a statement may have changed what an archive says. Filling a view that was full does not.
fn matters(change: &DefinitionChange, base: &Checkpoint) -> bool {
    // The server quotes only where it must.
    let bare = |name: &str| name.replace('"', "");
    let full = |identity: &str| {
        let mut views = base.schema.materialized_views.iter();
        views.any(|(schema, name)| bare(identity) == bare(&format!("{schema}.{name}")))
    };
    let objects = &change.signal.objects;
    change.signal.tag != "REFRESH MATERIALIZED VIEW" || !objects.iter().all(|object| full(&object.identity))
}

fn planned(resolved: &Resolved, base: &Checkpoint) -> PlannedMoment {
    match resolved.last {
        Some(last) if last.lsn > base.lsn => {
            PlannedMoment { lsn: last.lsn, time: last.time, xid: Some(last.xid), next: resolved.next }
        }
        _ => PlannedMoment { lsn: base.lsn, time: base.time, xid: None, next: resolved.next },
    }
}

/// What the checkpoint itself knows to be missing or inexact.
fn known_inexact(base: &Checkpoint, wanted: &[Table], partial: bool) -> Vec<Inexact> {
    let mut inexact = base.inexact.clone();
    for table in wanted.iter().filter(|table| table.grade == Grade::InsertOnly) {
        let why = "has no replica identity: updates and deletes since the checkpoint are not in the history";
        inexact.push(Inexact { what: table.display(), why: why.to_owned() });
    }
    if partial {
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

/// Tables that the stream describes otherwise than the checkpoint before the moment.
fn changed_tables(
    segments: &[&crate::history::timeline::SegmentView],
    base: &Checkpoint,
    until: Lsn,
    wanted: &[Table],
    told: &BTreeSet<u32>,
) -> Result<Vec<Inexact>> {
    let mut found = Vec::new();
    for view in segments {
        if view.summary.relation_changes.is_empty() && view.summary.relations.is_empty() {
            continue;
        }
        let segment = view.open()?;
        let footer = segment.footer();
        for (block, bytes) in &footer.relation_messages {
            let place = footer.blocks.get(*block as usize);
            if place.is_none_or(|place| place.first >= until || place.last < base.lsn) {
                continue;
            }
            let Ok(Message::Relation(relation)) = pgoutput::decode(bytes) else { continue };
            let Some(entry) = base.table(relation.oid) else { continue };
            // What the triggers told needs no guess.
            if told.contains(&relation.oid) || !wanted.iter().any(|table| table.oid == relation.oid) {
                continue;
            }
            for difference in fold::differences(&entry.table, &relation) {
                let inexact = Inexact {
                    what: entry.table.display(),
                    why: format!(
                        "{difference} since checkpoint {}; its schema is recovered as it was there",
                        base.id
                    ),
                };
                if !found.contains(&inexact) {
                    found.push(inexact);
                }
            }
        }
    }
    Ok(found)
}

fn count_transactions(
    segments: &[&crate::history::timeline::SegmentView],
    after: Lsn,
    until: Lsn,
) -> Result<u64> {
    let mut count = 0;
    for view in segments {
        let summary = &view.summary;
        let inside = summary.first_commit.is_some_and(|first| first >= after)
            && summary.last_commit.is_some_and(|last| last < until);
        if inside {
            count += summary.transactions;
            continue;
        }
        let segment = view.open()?;
        let within = |entry: &&crate::history::journal::TransactionEntry| {
            entry.commit_lsn >= after && entry.commit_lsn < until
        };
        count += segment.transactions().iter().filter(within).count() as u64;
    }
    Ok(count)
}
