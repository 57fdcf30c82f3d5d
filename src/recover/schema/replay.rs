//! Statement after statement, as the source ran them.

use std::collections::{BTreeMap, BTreeSet};

use super::acting::Acting;
use super::choose::{Chooser, Chosen, name_of, plain_backslashes};
use super::mend::mend;
use super::rewrite::{Action, action, schema_without_roles};
use super::sequences::Sequences;
use super::statements::{Sql, split};
use super::tables::{create_table, differences, quoted, relation};
use crate::connect::{Conninfo, ServerFault, Session, server_error};
use crate::error::{Error, Kind, Result};
use crate::history::checkpoint::Inexact;
use crate::history::definitions::SchemaKnown;
use crate::history::signal::{DefinedObject, DefinitionChange, DefinitionSignal};
use crate::history::timeline::Edge;
use crate::model::TableFacts;
use crate::model::schema::quote_ident;

/// What the scratch server lets us do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rights {
    /// The server is there for this alone: roles can be made there.
    pub ours: bool,
    /// All roles are there that own something.
    pub owners: bool,
    /// And all that are granted something.
    pub privileges: bool,
}

pub(super) struct Replay {
    acting: Acting,
    /// Looks at what was done, with names in full.
    pub observer: Session,
    rights: Rights,
    chooser: Chooser,
    /// By their oids in the scratch database: materialised views that are to be filled.
    pub filled: BTreeSet<u32>,
    pub sequences: Sequences,
    missing_roles: BTreeSet<String>,
    lacks_roles: bool,
    pub notes: Vec<String>,
    inexact: Vec<Inexact>,
    /// The transaction of the first statement that was not replayed, and how many there are.
    left_out: Option<(Edge, usize)>,
    /// By oid: tables whose columns are not those of the source.
    different: BTreeMap<u32, Different>,
}

/// A table whose columns are not those of the source, since a statement.
struct Different {
    facts: TableFacts,
    inexact: Inexact,
    since: Edge,
}

/// How a statement ended that did not run.
enum Failure {
    /// It need not run here.
    Passed,
    Failed(tokio_postgres::Error),
}

impl Replay {
    pub async fn open(info: &Conninfo, rights: Rights) -> Result<Replay> {
        Ok(Replay {
            acting: Acting::open(info).await?,
            observer: Session::connect_utf8(info, "replay").await?,
            rights,
            chooser: Chooser::default(),
            filled: BTreeSet::new(),
            sequences: Sequences::default(),
            missing_roles: BTreeSet::new(),
            lacks_roles: !(rights.owners && rights.privileges),
            notes: Vec::new(),
            inexact: Vec::new(),
            left_out: None,
            different: BTreeMap::new(),
        })
    }

    /// Replays one statement, and looks whether its tables are then what they were on the source.
    ///
    /// # Errors
    /// `Refused` with the server's words if the server does not take it.
    pub async fn step(&mut self, change: &DefinitionChange) -> Result<()> {
        let signal = &change.signal;
        self.inexact.extend(signal.untold(change.lsn));
        match self.statement(signal).await? {
            Ok(sql) => self.act(change, &sql).await?,
            Err(why) => self.unknown(change, why).await?,
        }
        self.sequences.learn(&self.observer, signal).await?;
        self.compare(change).await?;
        self.mend_after(change).await
    }

    /// Compares the statement's tables with what they were on the source. What is later seen to be right
    /// after all is forgotten.
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
            let different = Different { facts: facts.clone(), inexact: Inexact { what, why }, since };
            self.different.insert(facts.oid, different);
        }
        Ok(())
    }

    /// What is not as it was on the source, by name.
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

    /// The statement's text, or why it is not known.
    async fn statement(&mut self, signal: &DefinitionSignal) -> Result<Result<Sql, String>> {
        Ok(match self.chooser.choose(signal) {
            Chosen::Statement(sql) => Ok(sql),
            Chosen::Unknown { why } => Err(why),
            Chosen::InFunction { name, number } => self.in_function(signal, &name, number).await?,
        })
    }

    /// Statement `number` of a function in SQL, as the function stands now.
    async fn in_function(
        &self,
        signal: &DefinitionSignal,
        name: &str,
        number: usize,
    ) -> Result<Result<Sql, String>> {
        let sql = "SELECT DISTINCT prosrc FROM pg_catalog.pg_proc p \
                   JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
                   WHERE proname = $1::text AND lanname = 'sql' AND prosqlbody IS NULL";
        let rows = self.observer.query(sql, &[&name]).await;
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
        // It was there already.
        if signal.objects.is_empty() && sql.says(&["if", "not", "exists"]) && sql.tag != "CREATE EXTENSION" {
            return Ok(());
        }
        if !self.rights.privileges && is_about_privileges(sql) {
            return Ok(());
        }
        match action(sql, self.rights.ours) {
            Action::Nothing => Ok(()),
            Action::Refuse { why } => self.unknown(change, why.to_owned()).await,
            Action::Run(text) => self.run(change, sql, &text).await,
            Action::MakeTable(text) => self.make_table(change, sql, text).await,
            Action::MakeView { sql: text, filled } => {
                self.run(change, sql, &text).await?;
                self.set_filled(signal, filled).await
            }
            Action::Refresh { filled } => self.set_filled(signal, filled).await,
        }
    }

    async fn run(&mut self, change: &DefinitionChange, sql: &Sql, text: &str) -> Result<()> {
        match self.try_run(change, sql, text).await? {
            Ok(()) | Err(Failure::Passed) => Ok(()),
            Err(Failure::Failed(error)) => Err(failed(change, error)),
        }
    }

    /// The query may name variables of a function, or tables that are gone; the columns are known anyway.
    async fn make_table(&mut self, change: &DefinitionChange, sql: &Sql, text: Option<String>) -> Result<()> {
        let done = match text {
            Some(text) => self.try_run(change, sql, &text).await?,
            None => Err(Failure::Passed),
        };
        match done {
            Ok(()) => Ok(()),
            Err(_) => self.make_tables_from_facts(change).await.map(drop),
        }
    }

    /// Makes the tables that are not there; how many.
    async fn make_tables_from_facts(&mut self, change: &DefinitionChange) -> Result<usize> {
        let tables: Vec<_> = change.signal.tables.iter().map(|table| &table.facts).collect();
        let mut made = 0;
        for facts in tables {
            let there = "SELECT pg_catalog.to_regclass($1) IS NOT NULL";
            let row = self.observer.query_one(there, &[&quoted(facts)]).await;
            if row.map_err(|error| server_error("cannot look for a table", error))?.get(0) {
                continue;
            }
            self.take_up(&change.signal).await?;
            let sql = create_table(facts);
            self.acting.session.batch_execute(&sql).await.map_err(|error| failed(change, error))?;
            made += 1;
        }
        Ok(made)
    }

    /// The statement is not replayed: that is said, and new tables are made as far as they are known.
    async fn unknown(&mut self, change: &DefinitionChange, why: String) -> Result<()> {
        let creates = change.signal.tag.starts_with("CREATE TABLE") || change.signal.tag == "SELECT INTO";
        if creates {
            self.make_tables_from_facts(change).await?;
        }
        let DefinitionChange { lsn, time, signal, .. } = change;
        self.leave_out(change, format!("{} was not replayed: {why}, at {lsn} ({time})", signal.tag));
        Ok(())
    }

    /// Goes on without a statement that the server refused: the rows are worth more than it is. It is named,
    /// and its new tables are made as far as they are known.
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

    /// Where the statement was left out, the next ones may need the columns that it gave.
    async fn mend_after(&mut self, change: &DefinitionChange) -> Result<()> {
        if self.left_out.is_none() {
            return Ok(());
        }
        for Different { facts, since, .. } in self.different.values() {
            if since.lsn == change.lsn {
                mend(&self.observer, facts).await?;
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, change: &DefinitionChange, why: String) {
        let (_, statements) = self.left_out.get_or_insert((Edge { lsn: change.lsn, time: change.time }, 0));
        *statements += 1;
        let objects = change.signal.objects.iter().map(|object| object.identity.as_str());
        let named: Vec<_> = objects.filter(|it| !it.is_empty()).collect();
        let what = if named.is_empty() { "schema".to_owned() } else { named.join(", ") };
        self.inexact.push(Inexact { what, why });
    }

    /// How well the definitions are replayed: those that were not are named.
    pub fn grade(&self) -> SchemaKnown {
        let different = self.different.values().map(|it| it.since).min_by_key(|at| at.lsn);
        match self.left_out.or(different.map(|at| (at, self.different.len()))) {
            Some((at, statements)) => SchemaKnown::Except { statements, at },
            None => SchemaKnown::Exactly,
        }
    }

    /// Gives tables the columns that the source had, so that their rows fit; those to which that cannot
    /// be done, and what they lack.
    pub async fn mend(&mut self) -> Result<Vec<Inexact>> {
        self.acting.take_role(None).await?;
        let mut unfit = Vec::new();
        for Different { facts, .. } in self.different.values() {
            if let Some(lacks) = mend(&self.observer, facts).await? {
                unfit.push(Inexact { what: format!("{}.{}", facts.schema, facts.name), why: lacks });
            }
        }
        Ok(unfit)
    }

    /// Remembers whether a materialised view is to be filled in the end.
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

    /// Takes up the settings and the role of a statement.
    async fn take_up(&mut self, signal: &DefinitionSignal) -> Result<()> {
        let statement = &signal.statement;
        self.acting.take_settings(statement).await?;
        let wanted = (self.rights.owners && !statement.role.is_empty()).then_some(statement.role.as_str());
        if !self.acting.take_role(wanted).await?
            && let Some(role) = wanted
            && self.missing_roles.insert(role.to_owned())
        {
            self.notes.push(format!(
                "statements of role {role} are replayed as the recovering user, which cannot act for it"
            ));
        }
        Ok(())
    }

    async fn try_run(
        &mut self,
        change: &DefinitionChange,
        sql: &Sql,
        text: &str,
    ) -> Result<Result<(), Failure>> {
        let signal = &change.signal;
        self.take_up(signal).await?;
        let mut text = text.to_owned();
        // Each turn makes or passes over one missing role.
        for _ in 0..20 {
            let Err(error) = self.acting.session.batch_execute(&text).await else {
                return Ok(Ok(()));
            };
            let fault = match error.as_db_error() {
                Some(fault) => ServerFault {
                    sqlstate: fault.code().code().to_owned(),
                    message: fault.message().to_owned(),
                    ..ServerFault::default()
                },
                None => return Ok(Err(Failure::Failed(error))),
            };
            let missing_role = missing_role(&fault);
            match (fault.sqlstate.as_str(), missing_role) {
                ("42704", Some(role)) if self.rights.ours => self.make_role(role).await?,
                ("42704", Some(role)) => {
                    let role = role.to_owned();
                    let Some(rest) = without_role(sql).filter(|rest| *rest != text) else {
                        return Ok(Err(Failure::Failed(error)));
                    };
                    self.lacks_roles = true;
                    self.notes.push(format!(
                        "a {} is left out or lacks a part: the server has no role {role}",
                        signal.tag
                    ));
                    if rest.is_empty() {
                        return Ok(Err(Failure::Passed));
                    }
                    text = rest;
                }
                // What was rolled back by an error, such as an index made CONCURRENTLY, told nobody.
                ("42704" | "42P01" | "42883" | "3F000", None) if sql.tag.starts_with("DROP ") => {
                    return Ok(Err(Failure::Passed));
                }
                // Nor was it made, if its role is missing.
                ("42704", None) if self.lacks_roles && is_of_roles(sql) => {
                    return Ok(Err(Failure::Passed));
                }
                ("42501", _) if self.acting.role().is_some() => {
                    return self.run_as_ourselves(signal, &text).await;
                }
                _ => return Ok(Err(Failure::Failed(error))),
            }
        }
        Err(Error::internal("too many roles are missing"))
    }

    /// A role may have had rights on the source that come from other databases or memberships; what
    /// it made is given to it afterwards.
    async fn run_as_ourselves(
        &mut self,
        signal: &DefinitionSignal,
        text: &str,
    ) -> Result<Result<(), Failure>> {
        self.acting.take_role(None).await?;
        if let Err(error) = self.acting.session.batch_execute(text).await {
            return Ok(Err(Failure::Failed(error)));
        }
        for object in signal.objects.iter().filter(|object| object.tag.starts_with("CREATE ")) {
            if let Some(sql) = give_to(object, &signal.statement.role)
                && let Err(error) = self.acting.session.batch_execute(&sql).await
            {
                let what = format!("{} keeps another owner", object.identity);
                self.notes.push(server_error(what, error).to_string());
            }
        }
        Ok(Ok(()))
    }

    async fn make_role(&mut self, role: &str) -> Result<()> {
        self.acting.take_role(None).await?;
        let sql = format!("CREATE ROLE {}", quote_ident(role));
        self.acting
            .session
            .batch_execute(&sql)
            .await
            .map_err(|error| server_error(format!("cannot make role {role} on the scratch server"), error))
    }
}

/// The statement that gives an object its owner; none for what has none or follows another.
fn give_to(object: &DefinedObject, role: &str) -> Option<String> {
    const OWNED: &[&str] = &[
        "table",
        "view",
        "materialized view",
        "foreign table",
        "sequence",
        "schema",
        "function",
        "procedure",
        "aggregate",
        "type",
        "domain",
        "collation",
        "conversion",
        "operator",
        "operator class",
        "operator family",
        "text search configuration",
        "text search dictionary",
        "server",
        "foreign-data wrapper",
        "statistics object",
        "publication",
        "language",
    ];
    if !OWNED.contains(&object.kind.as_str()) || object.identity.is_empty() {
        return None;
    }
    let kind = match object.kind.as_str() {
        "statistics object" => "STATISTICS".to_owned(),
        kind => kind.replace('-', " ").to_uppercase(),
    };
    Some(format!("ALTER {kind} {} OWNER TO {}", object.identity, quote_ident(role)))
}

fn is_about_privileges(sql: &Sql) -> bool {
    matches!(sql.tag.as_str(), "GRANT" | "REVOKE" | "ALTER DEFAULT PRIVILEGES")
}

/// What is left of a statement without its role, perhaps nothing; `None` if it makes no sense without.
fn without_role(sql: &Sql) -> Option<String> {
    match sql.tag.as_str() {
        "CREATE SCHEMA" => Some(schema_without_roles(sql)),
        _ if is_about_privileges(sql) || is_of_roles(sql) || sql.says(&["owner", "to"]) => {
            Some(String::new())
        }
        _ => None,
    }
}

/// About what cannot be there without its roles.
fn is_of_roles(sql: &Sql) -> bool {
    sql.tag.ends_with(" POLICY") || sql.tag.ends_with(" USER MAPPING") || sql.says(&["on", "policy"])
}

/// The role that an error says is not there.
fn missing_role(fault: &ServerFault) -> Option<&str> {
    fault.message.strip_prefix("role \"")?.strip_suffix("\" does not exist")
}

fn failed(change: &DefinitionChange, error: tokio_postgres::Error) -> Error {
    let DefinitionChange { lsn, time, xid, signal, .. } = change;
    let what =
        format!("the {} of {time} (transaction {xid}, {lsn}) failed on the scratch server", signal.tag);
    let missing_file = error.code().is_some_and(|code| code.code() == "58P01");
    let error = server_error(what, error);
    // A library that is not installed there comes by no retry.
    if missing_file { Error::new(Kind::Refused, error.to_string()) } else { error }
}
