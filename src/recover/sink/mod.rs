//! The destinations of recovered rows. In every destination, nothing can be taken for the database until the last
//! step, [`Sink::make_valid`].

mod definitions;
mod digest;
mod into;
mod new_file;
mod postgres;
mod sql;
mod sqlite;
mod template;

use std::collections::{BTreeSet, HashSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::model::Table;
use crate::model::schema_digests::{SchemaDifference, SchemaDigests};
use crate::model::{DatabaseFacts, Inexact};
use crate::pgtools::Tools;
use crate::recover::amend::{Amend, TableChange};
use crate::recover::archive::AfterRows;
use crate::recover::part::{Search, SplitTable};
use crate::recover::refused::RefusedObject;

pub use definitions::ArchiveDefinitions;
pub use digest::{LineSplitter, RowDigest, row_hash};
pub use into::Destination;
pub(in crate::recover) use postgres::{
    Emptying, MARKER, Restoring, Retry, copy_in, copy_rows, create_like, digests_of, holds_nothing,
    in_one_transaction, lock, maintenance, usable_roles,
};
pub use postgres::{PostgresSink, SideSchema, drop_database, drop_template, foresee, kept_templates};
pub use sql::Script;
pub use sqlite::SqliteFile;

/// Whole lines of COPY text, or the error after which no more follow.
pub type Rows = Receiver<Result<Bytes>>;

/// The contents of a table in a sink, read back from the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    pub rows: u64,
    /// The order-free digest of the rows as COPY text; `None` if the sink stores rows in another form.
    pub digest: Option<u128>,
}

/// A stored computed column, and a function that its expression calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComputedColumn {
    pub table: String,
    pub column: String,
    /// The function's name in [`SchemaDigests`].
    pub function: String,
}

/// A sequence, and the value that it is set to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceValue {
    pub schema: String,
    pub name: String,
    pub last_value: i64,
    pub is_called: bool,
    /// The quoted table and column whose largest value (smallest, if `descending`) the sequence must reach, if no
    /// sample of the sequence follows the moment.
    pub at_least: Option<(String, String)>,
    pub descending: bool,
}

impl SequenceValue {
    /// Returns the call that sets the sequence.
    pub(crate) fn statement(&self) -> String {
        use crate::model::schema::{quote_ident, quote_literal};
        let name = format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.name));
        let name = quote_literal(&name);
        let Some((table, column)) = &self.at_least else {
            return format!("SELECT pg_catalog.setval({name}, {}, {})", self.last_value, self.is_called);
        };
        let (furthest, reaches) = if self.descending { ("min", "<=") } else { ("max", ">=") };
        let (within, bound) = if self.descending { (">=", "seqmin") } else { ("<=", "seqmax") };
        // The column may not be a number, and may hold values that the sequence can never produce.
        format!(
            "SELECT CASE WHEN used {reaches} {last} AND used {within} (SELECT {bound} \
             FROM pg_catalog.pg_sequence WHERE seqrelid = {name}::pg_catalog.regclass) \
             THEN pg_catalog.setval({name}, used::int8, true) \
             ELSE pg_catalog.setval({name}, {last}, {called}) END \
             FROM (SELECT CASE WHEN pg_catalog.{furthest}({column})::text ~ '^-?[0-9]{{1,19}}$' \
             THEN pg_catalog.{furthest}({column})::text::numeric END AS used FROM {table}) AS furthest",
            last = self.last_value,
            called = self.is_called
        )
    }
}

/// The origin of the recovery, for sinks that record it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    pub moment: String,
    pub lsn: String,
    pub source: String,
}

/// The information that opening a sink needs.
pub struct Opening<'a> {
    /// Whether to create the database; then an existing one is refused.
    pub create: bool,
    /// Whether the first object that the target refuses ends the recovery.
    pub strict: bool,
    /// The template of which the created database is to be a copy.
    pub template: Option<&'a str>,
    /// Whether rows are left out on purpose, so that foreign keys may not hold.
    pub is_part: bool,
    /// The properties of the source's database at the moment.
    pub source: &'a DatabaseFacts,
    pub definitions: ArchiveDefinitions,
    /// All tables that will be loaded.
    pub tables: &'a [Table],
    /// The tables that cannot take their rows as they were replayed, and why.
    pub unfit: Vec<Inexact>,
    /// The objects that the replay's server refused, with their SQL.
    pub missing: Vec<RefusedObject>,
    pub provenance: Provenance,
    pub tools: Tools,
    /// How many large tables are loaded at the same time.
    pub jobs: usize,
}

/// A destination of a recovery. The steps are called in the order in which they stand here; `load` of different
/// tables may overlap.
pub enum Sink {
    Postgres(Box<PostgresSink>),
    Sqlite(SqliteFile),
    Sql(Box<Script>),
}

impl Sink {
    /// # Errors
    /// Fails with `Refused` if the destination exists already, is not empty or is not suitable.
    pub async fn open(destination: &Destination, opening: Opening<'_>) -> Result<Sink> {
        Ok(match destination {
            Destination::Postgres(info) => {
                Sink::Postgres(Box::new(PostgresSink::prepare(info, opening).await?))
            }
            Destination::Sqlite(path) => Sink::Sqlite(SqliteFile::create(path, opening)?),
            Destination::Sql(path) => Sink::Sql(Box::new(Script::create(path.as_deref(), opening)?)),
        })
    }

    /// Returns notes for a person: the objects that are not restored, and why.
    pub fn notes(&self) -> Vec<String> {
        match self {
            Sink::Postgres(target) => target.notes(),
            Sink::Sqlite(file) => file.notes().to_vec(),
            Sink::Sql(script) => script.notes().to_vec(),
        }
    }

    /// Creates schemas, types, functions and tables without indexes. Returns the objects that differ from the
    /// source's.
    ///
    /// # Errors
    /// Fails with `Refused`, with the server's words, if the sink refuses a definition.
    pub async fn pre_data(&self) -> Result<Vec<Inexact>> {
        match self {
            Sink::Postgres(target) => target.pre_data().await,
            Sink::Sqlite(file) => file.make_tables().map(|()| Vec::new()),
            Sink::Sql(script) => script.pre_data().await.map(|()| Vec::new()),
        }
    }

    /// Loads one table: all of its rows or, after an error, none.
    ///
    /// # Errors
    /// Fails with the error in `rows`, or if the sink refuses the rows.
    pub async fn load(&self, table: &Table, rows: Rows) -> Result<()> {
        match self {
            Sink::Postgres(target) => target.load(table, rows).await,
            Sink::Sqlite(file) => file.load(table, rows).await,
            Sink::Sql(script) => script.load(table, rows).await,
        }
    }

    /// How many sessions load small tables with [`Sink::load_few`]; none if the sink takes tables singly.
    pub fn sessions_for_few(&self) -> usize {
        if let Sink::Postgres(target) = self { target.sessions_for_few() } else { 0 }
    }

    /// Loads tables whose rows are in memory, as lines: all of the rows or, if the sink refuses some, none. Returns
    /// whether they are loaded.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn load_few(&self, tables: &[(&Table, Bytes)]) -> Result<bool> {
        match self {
            Sink::Postgres(target) => target.load_few(tables).await,
            Sink::Sqlite(_) | Sink::Sql(_) => Ok(false),
        }
    }

    /// Returns the contents of tables that [`Sink::load_few`] has loaded.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the sink cannot be read.
    pub async fn read_back_few(&self, tables: &[&Table]) -> Result<Vec<Contents>> {
        match self {
            Sink::Postgres(target) => target.read_back_few(tables).await,
            Sink::Sqlite(_) | Sink::Sql(_) => Ok(Vec::new()),
        }
    }

    /// Builds indexes of a table of so many rows while others read the table, as many as `free` has permits. Returns what
    /// [`Sink::index`] needs to know of them.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn index_beside_readers(&self, table: (&Table, u64), free: &Semaphore) -> Result<Vec<i32>> {
        match self {
            Sink::Postgres(target) => target.index_beside_readers(table, free).await,
            Sink::Sqlite(_) | Sink::Sql(_) => Ok(Vec::new()),
        }
    }

    /// Makes the indexes of tables that are loaded and read back, as far as possible; [`Sink::post_data`] makes the rest.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn index(&self, tables: &[&Table], indexed: &[i32]) -> Result<()> {
        match self {
            Sink::Postgres(target) => target.index(tables, indexed).await,
            Sink::Sqlite(_) | Sink::Sql(_) => Ok(()),
        }
    }

    /// Returns the oids of the tables that lack a column of the condition.
    ///
    /// # Errors
    /// Fails with `Refused` if the server cannot read the condition, and with `Usage` if the sink cannot judge rows.
    pub(in crate::recover) async fn lacking_columns(&self, search: &Search<'_>) -> Result<BTreeSet<u32>> {
        match self {
            Sink::Postgres(target) => target.lacking_columns(search).await,
            Sink::Sqlite(_) | Sink::Sql(_) => Err(no_judge()),
        }
    }

    /// Deletes the rows of `tables` that the search does not find.
    ///
    /// # Errors
    /// Fails when [`Sink::lacking_columns`] does.
    pub(in crate::recover) async fn keep_part(
        &self,
        search: &Search<'_>,
        tables: &[&Table],
    ) -> Result<Vec<SplitTable>> {
        match self {
            Sink::Postgres(target) => target.keep_part(search, tables).await,
            Sink::Sqlite(_) | Sink::Sql(_) => Err(no_judge()),
        }
    }

    /// Restores large objects from the archive; a SQLite file cannot hold them.
    ///
    /// # Errors
    /// Fails when [`Sink::pre_data`] does.
    pub async fn large_objects(&self) -> Result<()> {
        match self {
            Sink::Postgres(target) => target.large_objects().await,
            Sink::Sqlite(_) => Ok(()),
            Sink::Sql(script) => script.large_objects().await,
        }
    }

    /// Returns the oids of the tables that cannot be loaded before [`AfterRows::Names`], because their values may
    /// name objects such as an index.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn tables_that_name(&self, tables: &[&Table]) -> Result<HashSet<u32>> {
        match self {
            Sink::Postgres(target) => target.tables_that_name(tables).await,
            Sink::Sqlite(_) => Ok(HashSet::new()),
            Sink::Sql(script) => Ok(script.tables_that_name(tables)),
        }
    }

    /// Creates indexes, constraints, triggers and rules, `jobs` at a time, in one step or two. `exact` names the tables
    /// that have exactly the rows of the source.
    ///
    /// # Errors
    /// Fails when [`Sink::pre_data`] does.
    pub async fn post_data(&self, jobs: usize, step: AfterRows, exact: &HashSet<String>) -> Result<()> {
        match self {
            Sink::Postgres(target) => target.post_data(jobs, step, exact).await,
            Sink::Sqlite(_) => Ok(()),
            Sink::Sql(script) => script.post_data(step).await,
        }
    }

    /// Sets the sequences. Returns those that do not accept their value; they keep the position of their definitions.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server or the output fails.
    pub async fn set_sequences(&self, values: &[SequenceValue]) -> Result<Vec<Inexact>> {
        match self {
            Sink::Postgres(target) => target.set_sequences(values).await,
            Sink::Sqlite(_) => Ok(Vec::new()),
            Sink::Sql(script) => script.set_sequences(values).await.map(|()| Vec::new()),
        }
    }

    /// Fills materialised views (schema, name) in the given order.
    ///
    /// # Errors
    /// Fails with `Refused` if the server fails to fill a view.
    pub async fn refresh_materialized_views(&self, views: &[(String, String)]) -> Result<()> {
        match self {
            Sink::Postgres(target) => target.refresh_materialized_views(views).await,
            Sink::Sqlite(_) => Ok(()),
            Sink::Sql(script) => script.refresh_materialized_views(views).await,
        }
    }

    /// Collects planner statistics, if the sink has a planner.
    ///
    /// # Errors
    /// Fails with `Refused` if the server fails to collect them.
    pub async fn analyze(&self) -> Result<()> {
        match self {
            Sink::Postgres(target) => target.analyze().await,
            Sink::Sqlite(_) | Sink::Sql(_) => Ok(()),
        }
    }

    /// Returns the contents of a table in the sink, read over up to `sessions`; `None` if the sink cannot be read
    /// back.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the sink cannot be read.
    pub async fn read_back(&self, table: &Table, sessions: usize) -> Result<Option<Contents>> {
        match self {
            Sink::Postgres(target) => target.read_back(table, sessions).await.map(Some),
            Sink::Sqlite(file) => file.read_back(table).map(Some),
            Sink::Sql(_) => Ok(None),
        }
    }

    /// Returns those of `tables` that exist in the sink.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails, and with `Refused` if nothing may be left out.
    pub async fn tables_there(&self, tables: &[&Table]) -> Result<Vec<u32>> {
        match self {
            Sink::Postgres(target) => target.tables_there(tables).await,
            Sink::Sqlite(_) | Sink::Sql(_) => Ok(tables.iter().map(|table| table.oid).collect()),
        }
    }

    /// Takes away what refused the rows of a table; returns false if nothing is left that could be taken away.
    ///
    /// # Errors
    /// Fails with `error` if the sink cannot be changed.
    pub async fn make_way(&self, table: &Table, error: Error) -> Result<bool> {
        match self {
            Sink::Postgres(target) => target.make_way(table, error).await,
            Sink::Sqlite(_) | Sink::Sql(_) => Err(error),
        }
    }

    /// Brings back what [`Sink::make_way`] took away, as far as the rows allow. Returns the tables whose rows lie
    /// otherwise than on the source.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn bring_back_checks(&self) -> Result<Vec<Inexact>> {
        match self {
            Sink::Postgres(target) => target.bring_back_checks().await,
            Sink::Sqlite(_) | Sink::Sql(_) => Ok(Vec::new()),
        }
    }

    /// Lists the columns whose stored values were computed by functions of the application when the rows were loaded.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn computed_columns(&self) -> Result<Vec<ComputedColumn>> {
        match self {
            Sink::Postgres(target) => target.computed_columns().await,
            Sink::Sqlite(_) | Sink::Sql(_) => Ok(Vec::new()),
        }
    }

    /// Gives the recovered functions back what they were lent while the sink was filled, and makes the event triggers.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn complete_definitions(&mut self) -> Result<()> {
        match self {
            Sink::Postgres(target) => target.complete_definitions().await,
            Sink::Sqlite(_) | Sink::Sql(_) => Ok(()),
        }
    }

    /// Compares the definitions in the sink with those that were to be recovered; `None` if the sink cannot be read
    /// back.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn schema_differences(&self, wanted: &SchemaDigests) -> Result<Option<Vec<SchemaDifference>>> {
        match self {
            Sink::Postgres(target) => target.schema_differences(wanted).await.map(Some),
            Sink::Sqlite(_) | Sink::Sql(_) => Ok(None),
        }
    }

    /// The last step: from here on the destination is the database. Returns what the target refused.
    ///
    /// # Errors
    /// Fails with `Refused` or `Unavailable`; the destination is then not valid, and the error names what is left.
    pub async fn make_valid(self) -> Result<Vec<RefusedObject>> {
        match self {
            Sink::Postgres(target) => target.make_valid().await,
            Sink::Sqlite(file) => file.make_valid().map(|()| Vec::new()),
            Sink::Sql(script) => script.make_valid().await.map(|()| Vec::new()),
        }
    }

    /// Has recovered rows changed, before the database gets its name.
    ///
    /// # Errors
    /// Fails with the error of the change, and with `Usage` if the sink is no database.
    pub(in crate::recover) async fn amend(
        &self,
        amend: &dyn Amend,
        has_keys: bool,
    ) -> Result<Vec<TableChange>> {
        match self {
            Sink::Postgres(target) if has_keys => amend.amend(target.connection()).await,
            Sink::Postgres(target) => target.amend_whole(amend).await,
            Sink::Sqlite(_) | Sink::Sql(_) => Err(no_judge()),
        }
    }

    /// Puts the tables into a schema of a live database, beside its own tables; this takes the place of [`Sink::make_valid`].
    /// Returns the objects that are left out, and notes.
    ///
    /// # Errors
    /// Fails with `Refused` or `Unavailable`; the live database is then as it was.
    pub async fn put_into(
        self,
        schema: &SideSchema,
        tables: &[Table],
        comment: &str,
        interrupt: &CancellationToken,
    ) -> Result<(Vec<RefusedObject>, Vec<String>)> {
        match self {
            Sink::Postgres(target) => target.put_into(schema, tables, comment, interrupt).await,
            Sink::Sqlite(_) | Sink::Sql(_) => Err(Error::usage("only a PostgreSQL database has schemas")),
        }
    }

    /// Removes an unfinished recovery.
    ///
    /// # Errors
    /// Fails with the names of the objects that could not be removed.
    pub async fn abandon(self) -> Result<()> {
        match self {
            Sink::Postgres(target) => target.abandon().await,
            // Their temporary files are removed when the sinks are dropped.
            Sink::Sqlite(_) | Sink::Sql(_) => Ok(()),
        }
    }

    /// Removes a recovery that ended with an error. Returns the error, with the names of the objects that could not be
    /// removed.
    pub async fn abandon_after(self, error: Error) -> Error {
        match self.abandon().await {
            Ok(()) => error,
            Err(left) => Error::new(error.kind(), format!("{error}; moreover, {left}")),
        }
    }
}

fn no_judge() -> Error {
    Error::usage(
        "only a PostgreSQL server can judge rows; recover a part of them into a database, with --create",
    )
}
