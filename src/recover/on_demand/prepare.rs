//! Makes the structure of a database, loads its small tables, closes gates before the others, and opens the database.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::ambient;
use crate::error::{Error, Result};
use crate::fold::{Folded, FoldedTable};
use crate::model::schema::quote_ident;
use crate::model::{Inexact, Selection};
use crate::progress::Unit;
use crate::recover::archive::AfterRows;
use crate::recover::compare::compare_definitions;
use crate::recover::definitions::SchemaAt;
use crate::recover::execute::{Execution, chosen_of};
use crate::recover::fill::{fold_plan, inexact, schema_known};
use crate::recover::gate::{
    Content, GatedTable, Gates, OwnedRelation, ancestors, empty, load_before_others, oids, owned,
};
use crate::recover::plan::Plan;
use crate::recover::report::Phases;
use crate::recover::sequences::{MadeSequence, sequence_values};
use crate::recover::sink::{PostgresSink, SequenceValue, Sink};

use super::choose::{Choice, choose};
use super::ledger::{self, Known};

/// Tables of at most this many bytes are loaded together, and into the files that they have.
const SMALL: u64 = 64 << 10;

/// The number of small tables that are loaded in one transaction.
const SMALL_TOGETHER: usize = 50;

/// The plan of a database that is to be opened, and how the plan is carried out.
pub(super) struct Preparing<'a> {
    pub plan: &'a Plan,
    pub execution: &'a Execution,
    pub schema: &'a SchemaAt,
    /// The patterns of the tables that are loaded first if nobody waits for others.
    pub order: &'a [String],
}

impl Preparing<'_> {
    /// # Errors
    /// Fails when a recovery does; nothing is open then.
    pub async fn run(
        &self,
        sink: &mut Sink,
        made: &[MadeSequence],
        notes: Vec<String>,
        phases: &mut Phases,
    ) -> Result<(Gates, Known)> {
        postgres(sink)?.require_superuser()?;
        let (folded, mut found) = self.structure(postgres(sink)?).await?;
        phases.end("schema and fold");
        let known = schema_known(self.plan, &folded)?;
        let mut inexact = inexact(self.plan, &folded, &known);
        found.retain(|it| !inexact.contains(it));
        inexact.extend(found);
        let transactions = folded.transactions;
        let (mut choice, of_sequences) = self.choice(postgres(sink)?, folded, made, &inexact).await?;
        inexact.extend(of_sequences);
        let loaded = self.load_before(postgres(sink)?, &mut choice).await?;
        inexact.extend(loaded.inexact);
        phases.end("small tables");
        sink.complete_definitions().await?;
        let mut known = Known {
            schema: self.schema.known(known),
            schema_proof: self.schema.proof,
            transactions,
            inexact,
            left_out: Vec::new(),
            notes: [self.plan.notes.clone(), notes, self.schema.notes.clone(), choice.notes].concat(),
            digests: loaded.tables,
        };
        self.compare(sink, &mut known).await?;
        let gates = self.close(postgres(sink)?, choice.gated, &mut known).await?;
        Ok((gates, known))
    }

    /// Gives the database its name, once its gates are closed.
    ///
    /// # Errors
    /// Fails when a recovery does; nothing is open then.
    pub async fn open(&self, sink: &mut Sink, phases: &mut Phases) -> Result<()> {
        postgres(sink)?.open().await?;
        phases.end("open");
        Ok(())
    }

    /// Makes everything but rows, while the journal is folded. Foreign keys are made on empty tables, so that they are valid.
    async fn structure(&self, target: &PostgresSink) -> Result<(Folded, Vec<Inexact>)> {
        let wanted: BTreeSet<u32> = self.plan.chosen.tables.iter().map(|table| table.oid).collect();
        let defining = async {
            let set_aside = target.pre_data().await?;
            target.post_data(self.execution.jobs, AfterRows::Whole, &HashSet::new()).await?;
            target.large_objects().await?;
            Ok::<_, Error>(set_aside)
        };
        let (defined, folded) =
            tokio::join!(defining, fold_plan(self.plan, &self.execution.progress, wanted));
        let found = self.schema.inexact.iter().cloned().chain(defined?).collect();
        ambient::pass("demand.structure")?;
        Ok((folded?, found))
    }

    /// Sets the sequences, and divides the tables.
    async fn choice(
        &self,
        target: &PostgresSink,
        folded: Folded,
        made: &[MadeSequence],
        inexact: &[Inexact],
    ) -> Result<(Choice, Vec<Inexact>)> {
        let (values, mut unknown) = sequence_values(self.plan, made, &folded);
        let (by_rows, known): (Vec<_>, Vec<_>) = values.into_iter().partition(|it| it.at_least.is_some());
        unknown.extend(target.set_sequences(&known).await?);
        let tables = self.tables(target, folded.tables, by_rows, inexact).await?;
        let views = owned(target.session(), &self.schema.facts.materialized_views).await?;
        let views = views.into_iter().flatten().collect();
        let mut choice = choose(target.session(), tables, views, self.execution.jobs).await?;
        self.put_in_order(&mut choice.gated)?;
        Ok((choice, unknown))
    }

    async fn tables(
        &self,
        target: &PostgresSink,
        folded: Vec<FoldedTable>,
        by_rows: Vec<SequenceValue>,
        inexact: &[Inexact],
    ) -> Result<Vec<GatedTable>> {
        let session = target.session();
        let there = target.tables_there(&folded.iter().map(|it| &it.table).collect::<Vec<_>>()).await?;
        let folded: Vec<_> = folded.into_iter().filter(|it| there.contains(&it.table.oid)).collect();
        let places: Vec<_> =
            folded.iter().map(|it| (it.table.schema.clone(), it.table.name.clone())).collect();
        let oids: Vec<u32> = oids(session, &places).await?.into_iter().flatten().collect();
        empty(session, &oids).await?;
        let mut above = ancestors(session, &oids).await?;
        let places: Vec<_> = by_rows.iter().map(|it| (it.schema.clone(), it.name.clone())).collect();
        let locked = owned(session, &places).await?;
        let mut sequences: BTreeMap<String, Vec<(SequenceValue, Option<OwnedRelation>)>> = BTreeMap::new();
        for (value, owned) in by_rows.into_iter().zip(locked) {
            let table = value.at_least.as_ref().map(|(table, _)| table.clone()).unwrap_or_default();
            sequences.entry(table).or_default().push((value, owned));
        }
        let gated = |(folded, oid): (FoldedTable, u32)| {
            let what = folded.table.display();
            let (values, locked): (Vec<_>, Vec<_>) =
                sequences.remove(&folded.table.quoted()).unwrap_or_default().into_iter().unzip();
            GatedTable {
                is_retyped: inexact.iter().any(|it| it.is_retyped() && it.what == what),
                ancestors: above.remove(&oid).unwrap_or_default(),
                sequences: values,
                locked_sequences: locked.into_iter().flatten().collect(),
                unfit: None,
                is_unseen: false,
                condition: None,
                oid,
                folded,
            }
        };
        Ok(folded.into_iter().zip(oids).map(gated).collect())
    }

    /// Puts the gates into the order in which they are opened if nobody waits: as `--first` says, then the smallest first.
    fn put_in_order(&self, gated: &mut [Content]) -> Result<()> {
        let patterns = self.order.iter().map(|pattern| Selection::parse(std::slice::from_ref(pattern), &[]));
        let patterns = patterns.collect::<Result<Vec<_>>>()?;
        gated.sort_by_cached_key(|content| {
            let is_meant = |pattern: &Selection| {
                content.tables.iter().any(|table| pattern.takes_table(&table.folded.table))
            };
            let rank = patterns.iter().position(is_meant).unwrap_or(patterns.len());
            (rank, content.tables.iter().map(|table| table.folded.weight()).sum::<u64>())
        });
        for (number, content) in gated.iter_mut().enumerate() {
            content.ledger = Some(i32::try_from(number).unwrap_or(i32::MAX));
        }
        Ok(())
    }

    /// Loads the tables that stand behind no gate, and fills the views that read none that does.
    async fn load_before(
        &self,
        target: &PostgresSink,
        choice: &mut Choice,
    ) -> Result<crate::recover::gate::OpenedGate> {
        self.execution.progress.phase("loading small tables", 0, Unit::Tables);
        let tables = std::mem::take(&mut choice.before);
        let (mut small, large): (Vec<_>, Vec<_>) =
            tables.into_iter().partition(|table| table.folded.weight() <= SMALL);
        small.iter_mut().for_each(|table| table.is_unseen = true);
        let content = |tables: &[GatedTable]| Content { tables: tables.to_vec(), ..Content::default() };
        let mut contents: Vec<_> = large.chunks(1).map(content).collect();
        contents.extend(small.chunks(SMALL_TOGETHER).map(content));
        let loaded = load_before_others(target.connection(), contents, self.execution.jobs).await?;
        let place = |view: &OwnedRelation| (view.relation.schema.clone(), view.relation.name.clone());
        let views: Vec<_> = choice.views_before.iter().map(place).collect();
        target.refresh_materialized_views(&views).await?;
        for view in &choice.unfilled {
            let (schema, name) = place(view);
            let sql = format!("REFRESH MATERIALIZED VIEW {}.{};", quote_ident(&schema), quote_ident(&name));
            let why = "its query calls a function, which may read tables that are loaded later; fill it once all are loaded";
            target.leave_out(format!("rows of MATERIALIZED VIEW {schema}.{name}"), why, sql)?;
        }
        Ok(loaded)
    }

    /// Compares the definitions before the privileges on gated tables are taken away.
    async fn compare(&self, sink: &Sink, known: &mut Known) -> Result<()> {
        let compared = compare_definitions(self.plan, self.schema, sink, &mut known.notes).await;
        let target = postgres(sink)?;
        known.left_out = target.take_refused();
        known.left_out.extend(chosen_of(self.plan, &self.schema.left_out));
        known.notes.extend(target.notes());
        compared.name(&known.left_out, &mut known.inexact);
        Ok(())
    }

    /// Makes the ledger, and closes the gates.
    async fn close(&self, target: &PostgresSink, gated: Vec<Content>, known: &mut Known) -> Result<Gates> {
        let session = target.session();
        ledger::make(session, self.plan, &gated, known, &target.own_comment()).await?;
        ambient::pass("demand.ledger")?;
        let gates = Gates::close_each(target.connection(), gated).await?;
        target.give_properties().await?;
        let refused = target.take_refused();
        known.inexact.extend(refused.iter().map(|it| it.as_inexact()));
        known.left_out.extend(refused);
        ledger::update(session, known).await?;
        ambient::pass("demand.gates")?;
        Ok(gates)
    }
}

fn postgres(sink: &Sink) -> Result<&PostgresSink> {
    match sink {
        Sink::Postgres(target) => Ok(target),
        Sink::Sqlite(_) | Sink::Sql(_) => Err(Error::usage(
            "--on-demand needs a PostgreSQL server, as in --create --into dbname=NAME: nothing waits for rows in a file",
        )),
    }
}
