//! Replays one statement after the other, as the source ran them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::choose::{Chooser, StatementChoice, dropped_names, name_of, plain_backslashes};
use super::failure::{ReplayFailure, failed};
use super::mend::{mend, owner, still_lacking};
use super::rewrite::{ReplayAction, action, drop_if_there, drop_of_told};
use super::roles::SourceRoles;
use super::sequences::Sequences;
use super::sessions::{RunOutcome, Sessions};
use super::statements::{Sql, split};
use super::tables::{create_table, differences, identity_changes, quoted, relation};
use crate::connect::{Conninfo, Session, server_error};
use crate::error::{Error, Kind, Result};
use crate::history::definitions::SchemaKnown;
use crate::model::schema::quote_ident;
use crate::model::{Edge, Inexact, TableFacts};
use crate::recover::refused::RefusedObject;
use crate::signal::{DefinedObject, DefinitionChange, DefinitionSignal, Statement};

/// How long the observing session waits for a lock.
const OBSERVER_PATIENCE: Duration = Duration::from_secs(10);

/// The rights that backwhen has on the scratch server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rights {
    /// Whether the server exists only for this replay: roles can then be created there, and log in.
    pub ours: bool,
    /// Whether all roles exist that own an object.
    pub owners: bool,
    /// Whether all roles exist that have a privilege.
    pub privileges: bool,
    /// The time limit for one statement.
    pub limit: Duration,
}

pub(super) struct Replay<'a> {
    pub(super) sessions: Sessions,
    /// The session that examines the results, with names in full. No code of the application runs in it.
    pub observer: Session,
    pub(super) rights: Rights,
    pub(super) roles: &'a SourceRoles,
    pub(super) database: String,
    chooser: Chooser,
    /// The oids in the scratch database of the materialised views that are to be filled.
    pub filled: BTreeSet<u32>,
    pub sequences: Sequences,
    /// The roles of statements, and whether the replay acts for each of them.
    pub(super) acted_for: BTreeMap<String, bool>,
    pub(super) lacks_roles: bool,
    pub notes: Vec<String>,
    inexact: Vec<Inexact>,
    /// Objects of which only their end was told.
    pub unknown_until_dropped: Vec<Inexact>,
    /// The statements that were not replayed, with the objects that each concerns.
    pub left_out: Vec<RefusedObject>,
    /// The transaction of the first statement that was not replayed.
    first_left_out: Option<Edge>,
    /// The text of the statement at hand; empty if it is not known.
    text: String,
    /// The tables whose columns differ from the source's, by oid.
    different: BTreeMap<u32, DivergentTable>,
}

/// A table whose columns differ from the source's since a statement.
struct DivergentTable {
    facts: TableFacts,
    inexact: Inexact,
    since: Edge,
    /// The role of that statement.
    role: String,
}

impl<'a> Replay<'a> {
    pub async fn open(info: &Conninfo, rights: Rights, roles: &'a SourceRoles) -> Result<Replay<'a>> {
        let observer = Session::connect_utf8(info, "replay").await?;
        let patience = format!("SET lock_timeout = '{} ms'", OBSERVER_PATIENCE.as_millis());
        let failed = |error| server_error("cannot prepare the observing session", error);
        observer.batch_execute(&patience).await.map_err(failed)?;
        Ok(Replay {
            sessions: Sessions::new(info, rights.ours, rights.limit),
            observer,
            rights,
            roles,
            database: info.dbname().to_owned(),
            chooser: Chooser::default(),
            filled: BTreeSet::new(),
            sequences: Sequences::default(),
            acted_for: BTreeMap::new(),
            lacks_roles: !(rights.owners && rights.privileges),
            notes: Vec::new(),
            inexact: Vec::new(),
            unknown_until_dropped: Vec::new(),
            left_out: Vec::new(),
            first_left_out: None,
            text: String::new(),
            different: BTreeMap::new(),
        })
    }

    /// Replays one statement, and checks whether its tables are then as they were on the source.
    ///
    /// # Errors
    /// Fails with `Refused` and the server's words if the server refuses the statement.
    pub async fn step(&mut self, change: &DefinitionChange) -> Result<()> {
        let signal = &change.signal;
        self.inexact.extend(signal.untold(change.lsn));
        let found = self.statement(signal).await?;
        self.text = found.as_ref().map_or(String::new(), |sql| sql.text.clone());
        match found {
            Ok(sql) => self.act(change, &sql).await?,
            Err(why) => self.unknown(change, why).await?,
        }
        self.sequences.learn(&self.observer, signal).await?;
        self.compare(change).await?;
        self.identify(change).await?;
        self.mend_after(change).await
    }

    /// Gives the statement's tables the replica identity that they had on the source: the event triggers may have changed
    /// it within the statement (`init --full-identity`).
    async fn identify(&mut self, change: &DefinitionChange) -> Result<()> {
        let tables = change.signal.tables.iter().map(|table| &table.facts);
        for statement in identity_changes(&self.observer, tables).await? {
            if let Err(error) = self.observer.batch_execute(&statement).await {
                tracing::debug!("{}", server_error(format!("not done: {statement}"), error));
            }
        }
        Ok(())
    }

    /// Compares the statement's tables with their state on the source. A difference that a later statement resolves
    /// is forgotten.
    async fn compare(&mut self, change: &DefinitionChange) -> Result<()> {
        let signal = &change.signal;
        let tables = || signal.tables.iter().map(|table| &table.facts);
        for oid in signal.dropped.iter().copied().chain(tables().map(|facts| facts.oid)) {
            self.different.remove(&oid);
        }
        for (facts, how) in differences(&self.observer, tables()).await? {
            let what = format!("{}.{}", facts.schema, facts.name);
            let why = format!("as replayed up to {} ({}), {how}", change.lsn, change.time);
            let since = Edge { lsn: change.lsn, time: change.time };
            let (inexact, role) = (Inexact { what, why }, signal.statement.role.clone());
            let different = DivergentTable { facts: facts.clone(), inexact, since, role };
            self.different.insert(facts.oid, different);
        }
        Ok(())
    }

    /// Returns the names of the objects that differ from the source's.
    pub fn inexact(&self) -> Vec<Inexact> {
        let mut all = self.inexact.clone();
        all.extend(
            self.different
                .values()
                .map(|it| &it.inexact)
                .filter(|it| !self.inexact.iter().any(|known| known.what == it.what))
                .cloned(),
        );
        all
    }

    /// Returns the statement's text, or why the text is not known.
    async fn statement(&mut self, signal: &DefinitionSignal) -> Result<Result<Sql, String>> {
        Ok(match self.chooser.choose(signal) {
            StatementChoice::Statement(sql) => Ok(sql),
            StatementChoice::Unknown { why } => Err(why),
            StatementChoice::InFunction { name, number } => self.in_function(signal, &name, number).await?,
        })
    }

    /// Returns statement `number` of an SQL function, as the function is defined now. The server reports the
    /// function's name without schema, and any role may have created another function of that name. If several roles
    /// have, the function belonged to the statement's role or to a superuser.
    async fn in_function(
        &self,
        signal: &DefinitionSignal,
        name: &str,
        number: usize,
    ) -> Result<Result<Sql, String>> {
        let sql = "WITH called AS ( \
                     SELECT p.prosrc, r.rolname, r.rolsuper FROM pg_catalog.pg_proc p \
                       JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
                       JOIN pg_catalog.pg_roles r ON r.oid = p.proowner \
                      WHERE p.proname = $1::text AND l.lanname = 'sql' AND p.prosqlbody IS NULL) \
                   SELECT DISTINCT prosrc FROM called WHERE rolsuper OR rolname = $2::text \
                       OR (SELECT pg_catalog.count(DISTINCT rolname) FROM called) = 1";
        let rows = self.observer.query(sql, &[&name, &signal.statement.role]).await;
        let rows = rows.map_err(|error| server_error("cannot read a function's body", error))?;
        let bodies = rows.iter().map(|row| row.get::<_, String>(0));
        let mut found: Vec<Sql> = bodies
            .filter_map(|body| split(&body, plain_backslashes(signal)).into_iter().nth(number - 1))
            .filter(|sql| sql.tag == signal.tag)
            .collect();
        let names: Vec<_> = signal.objects.iter().filter_map(name_of).collect();
        if found.iter().any(|sql| names.iter().any(|name| sql.names(name))) {
            found.retain(|sql| names.iter().any(|name| sql.names(name)));
        }
        found.dedup();
        Ok(match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(format!("no function {name} has a {} as its statement {number}", signal.tag)),
            _ => Err(format!("several functions {name} have a {} as their statement {number}", signal.tag)),
        })
    }

    async fn act(&mut self, change: &DefinitionChange, sql: &Sql) -> Result<()> {
        let signal = &change.signal;
        // The object existed already.
        if signal.objects.is_empty() && sql.says(&["if", "not", "exists"]) && sql.tag != "CREATE EXTENSION" {
            return Ok(());
        }
        if !self.rights.privileges && sql.is_about_privileges() {
            return Ok(());
        }
        match action(sql, self.rights.ours) {
            ReplayAction::Nothing => Ok(()),
            ReplayAction::Refuse { why } => self.unknown(change, why.to_owned()).await,
            ReplayAction::Run(text) => {
                let told = dropped_names(signal).collect();
                self.run(change, sql, &drop_of_told(sql, &told).unwrap_or(text)).await
            }
            ReplayAction::MakeTable(text) => self.make_table(change, sql, text).await,
            ReplayAction::MakeView { sql: text, filled } => {
                self.run(change, sql, &text).await?;
                self.set_filled(signal, filled).await
            }
            ReplayAction::Refresh { filled } => self.set_filled(signal, filled).await,
        }
    }

    async fn run(&mut self, change: &DefinitionChange, sql: &Sql, text: &str) -> Result<()> {
        match self.try_run(change, sql, text).await? {
            Ok(()) => Ok(()),
            Err(ReplayFailure::Passed) => self.drop_what_is_there(change, text).await,
            Err(failure) => Err(failed(change, failure)),
        }
    }

    /// Drops what is there of a statement's objects. What is not there was made without being told.
    async fn drop_what_is_there(&mut self, change: &DefinitionChange, text: &str) -> Result<()> {
        let DefinitionChange { lsn, time, signal, .. } = change;
        if self.lacks_roles || signal.dropped_names.is_empty() {
            return Ok(());
        }
        let kind = signal.tag.trim_start_matches("DROP ").to_lowercase();
        // The server leaves an index that is not valid where CREATE INDEX CONCURRENTLY fails, and nothing tells of it;
        // nor does anything tell of the REINDEX that makes it valid.
        let condition = if kind == "index" { ", if it was ever valid" } else { "" };
        let why = format!(
            "was dropped at {lsn} ({time}), and nothing told when it was made: it may have been there{condition}"
        );
        self.unknown_until_dropped.extend(
            signal
                .dropped_names
                .iter()
                .map(|name| Inexact { what: format!("{kind} {name}"), why: why.clone() }),
        );
        let statement = split(text, plain_backslashes(signal)).into_iter().next();
        if let Some(sql) = statement
            && let Some(text) = drop_if_there(&sql)
        {
            let _ = self.try_run(change, &sql, &text).await?;
        }
        Ok(())
    }

    /// The query may name variables of a function, or tables that no longer exist; the columns are known anyway.
    async fn make_table(&mut self, change: &DefinitionChange, sql: &Sql, text: Option<String>) -> Result<()> {
        let done = match text {
            Some(text) => self.try_run(change, sql, &text).await?,
            None => Err(ReplayFailure::Passed),
        };
        match done {
            Ok(()) => Ok(()),
            Err(_) => self.make_tables_from_facts(change).await.map(drop),
        }
    }

    /// Creates the missing tables, and returns how many there were.
    async fn make_tables_from_facts(&mut self, change: &DefinitionChange) -> Result<usize> {
        let tables: Vec<_> = change.signal.tables.iter().map(|table| &table.facts).collect();
        let mut made = 0;
        for facts in tables {
            let there = "SELECT pg_catalog.to_regclass($1) IS NOT NULL";
            let row = self.observer.query_one(there, &[&quoted(facts)]).await;
            if row.map_err(|error| server_error("cannot look for a table", error))?.get(0) {
                continue;
            }
            let role = self.acting_role(&change.signal.statement.role).await?;
            let sql = create_table(facts);
            let ended = self.sessions.run(&self.observer, &role, &change.signal.statement, &sql).await?;
            ReplayFailure::of(ended).map_or(Ok(()), |failure| Err(failed(change, failure)))?;
            made += 1;
        }
        Ok(made)
    }

    /// Notes that the statement is not replayed, and creates its new tables as far as they are known.
    async fn unknown(&mut self, change: &DefinitionChange, why: String) -> Result<()> {
        let creates = change.signal.tag.starts_with("CREATE TABLE") || change.signal.tag == "SELECT INTO";
        if creates {
            self.make_tables_from_facts(change).await?;
        }
        let DefinitionChange { lsn, time, signal, .. } = change;
        self.leave_out(change, format!("{} was not replayed: {why}, at {lsn} ({time})", signal.tag));
        Ok(())
    }

    /// Continues without a statement that the server refused, since the rows are worth more than the statement. The
    /// statement is named, and its new tables are created as far as they are known.
    pub async fn go_on_without(&mut self, change: &DefinitionChange, refused: Error) -> Result<()> {
        if let Err(error) = self.make_tables_from_facts(change).await {
            if error.kind() != Kind::Refused {
                return Err(error);
            }
            tracing::debug!("{error}");
        }
        self.leave_out(change, format!("was not replayed: {refused}"));
        self.compare(change).await?;
        self.mend_after(change).await
    }

    /// Where the statement was left out, the next ones may need the columns that it added.
    async fn mend_after(&mut self, change: &DefinitionChange) -> Result<()> {
        if self.left_out.is_empty() {
            return Ok(());
        }
        let since = |it: &&DivergentTable| it.since.lsn == change.lsn;
        let different: Vec<_> = self.different.values().filter(since).map(DivergentTable::table).collect();
        for (facts, role) in different {
            self.mend_table(&facts, &role).await?;
        }
        Ok(())
    }

    /// The objects are named as the digests of definitions name them.
    fn leave_out(&mut self, change: &DefinitionChange, why: String) {
        self.first_left_out.get_or_insert(Edge { lsn: change.lsn, time: change.time });
        let objects = change.signal.objects.iter().filter(|object| !object.identity.is_empty());
        let name = |object: &DefinedObject| match &*object.kind {
            "table" => object.identity.clone(),
            kind => format!("{kind} {}", object.identity),
        };
        let named: Vec<_> = objects.map(name).collect();
        let what = if named.is_empty() { "schema".to_owned() } else { named.join(", ") };
        let object = RefusedObject { what, why, sql: self.text.clone() };
        self.inexact.push(object.as_inexact());
        self.left_out.push(object);
    }

    /// Returns how well the definitions are replayed, and names those that were not.
    pub fn grade(&self) -> SchemaKnown {
        let different = self.different.values().map(|it| it.since).min_by_key(|at| at.lsn);
        let left_out = self.first_left_out.map(|at| (at, self.left_out.len()));
        match left_out.or(different.map(|at| (at, self.different.len()))) {
            Some((at, statements)) => SchemaKnown::Except { statements, at },
            None => SchemaKnown::Exactly,
        }
    }

    /// Gives tables the columns that they had on the source, so that their rows fit. Returns the tables for which
    /// this fails, and the columns that they lack. This is the last step that acts as any role.
    pub async fn mend(&mut self) -> Result<Vec<Inexact>> {
        let different: Vec<_> = self.different.values().map(DivergentTable::table).collect();
        let mut unfit = Vec::new();
        for (facts, role) in different {
            if let Some(lacks) = self.mend_table(&facts, &role).await? {
                unfit.push(Inexact { what: format!("{}.{}", facts.schema, facts.name), why: lacks });
            }
        }
        self.sessions.close(&self.observer).await;
        Ok(unfit)
    }

    /// A table is altered by its owner, as its constraints and types may call functions that the owner wrote.
    async fn mend_table(&mut self, facts: &TableFacts, role: &str) -> Result<Option<String>> {
        let nothing = Statement::default();
        let owner = owner(&self.observer, facts).await?;
        let who = match &owner {
            Some(owner) => self.acting_role(owner).await?,
            None => String::new(),
        };
        for statement in mend(&self.observer, facts).await? {
            let ended = self.sessions.run(&self.observer, &who, &nothing, &statement).await;
            if let Err(error) = ended {
                tracing::debug!("not mended by {statement}: {error}");
            } else if let Ok(RunOutcome::Failed(error)) = ended {
                tracing::debug!("{}", server_error(format!("not mended by {statement}"), error));
            }
        }
        if owner.is_none() && !role.is_empty() && self.rights.ours {
            let sql = format!("ALTER TABLE {} OWNER TO {}", quoted(facts), quote_ident(role));
            let _ = self.observer.batch_execute(&sql).await;
        }
        still_lacking(&self.observer, facts).await
    }

    /// Records whether a materialised view is to be filled at the end.
    async fn set_filled(&mut self, signal: &DefinitionSignal, filled: bool) -> Result<()> {
        for object in signal.objects.iter().filter(|object| object.kind == "materialized view") {
            match relation(&self.observer, &object.identity, 'm').await? {
                Some(oid) if filled => drop(self.filled.insert(oid)),
                Some(oid) => drop(self.filled.remove(&oid)),
                None => {}
            }
        }
        Ok(())
    }
}

impl DivergentTable {
    fn table(&self) -> (TableFacts, String) {
        (self.facts.clone(), self.role.clone())
    }
}
