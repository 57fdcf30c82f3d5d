//! Makes definitions of the archive in sessions of our own, many in one transaction and several transactions at once.
//!
//! pg_restore makes one after the other before the rows, each in a transaction of its own, and checks the rows of each
//! foreign key. What the server refuses here is left to pg_restore, which names it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::PoisonError;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::connect::{Session, server_error};
use crate::error::Result;
use crate::recover::archive::{Entry, Section, Toc};

use super::super::ArchiveDefinitions;
use super::PostgresSink;
use super::retry::{AS_ON_SOURCE, attempt, not_valid};
use super::room::in_one_transaction;

/// The number of entries that are made in one transaction: each of them locks a few relations until its end.
const IN_ONE_TRANSACTION: usize = 50;

/// pg_restore makes everything that has no place of its own in the database's own.
const PLACES: &str = "SET LOCAL default_tablespace = ''; SET LOCAL default_table_access_method = heap; ";

/// The kinds of entry that one statement makes as well within a transaction as by itself, in the order of the archive.
const MADE_IN_ORDER: [&str; 12] = [
    "EXTENSION",
    "TYPE",
    "DOMAIN",
    "FUNCTION",
    "PROCEDURE",
    "TABLE",
    "TABLE ATTACH",
    "SEQUENCE",
    "SEQUENCE OWNED BY",
    "DEFAULT",
    "VIEW",
    "COMMENT",
];

/// A note names at most this many foreign keys.
const KEYS_NAMED: usize = 8;

impl PostgresSink {
    /// Makes schemas, and the tables that need nothing but their schema.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub(super) async fn make_plain_tables(&self) -> Result<()> {
        let toc = &self.definitions.archive.toc;
        let by_id = by_id(toc);
        let kept = || self.definitions.selection.entries(toc);
        let is_schema = |entry: &&Entry| entry.kind == "SCHEMA" && entry.definition.starts_with("CREATE ");
        self.make_together(&kept().filter(is_schema).collect::<Vec<_>>()).await?;
        let needs_only_schema = |entry: &&Entry| {
            let needed = entry.depends_on.iter().filter_map(|id| by_id.get(id));
            entry.kind == "TABLE" && entry.section == Section::PreData && { needed }
                .all(|it| it.kind == "SCHEMA")
        };
        let tables: Vec<_> = kept().filter(needs_only_schema).collect();
        let sessions = self.room.sessions;
        let each = in_one_transaction(tables.len(), sessions);
        let batches = tables.chunks(each).map(|batch| self.make_together(batch));
        stream::iter(batches).buffer_unordered(sessions).try_collect::<()>().await
    }

    /// Makes what else comes before the rows, in the archive's order, up to the first entry that is left to pg_restore. If
    /// nothing is left, pg_restore need not be started.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub(super) async fn make_in_order(&self) -> Result<()> {
        let toc = &self.definitions.archive.toc;
        let by_id = by_id(toc);
        let ours = self.ours().clone();
        let entries = self.definitions.selection.entries(toc);
        let rest: Vec<_> = entries
            .filter(|entry| !ours.contains(&entry.id) && is_before_rows(entry, &by_id))
            .take_while(|entry| MADE_IN_ORDER.contains(&&*entry.kind) && self.can_make(entry))
            .collect();
        let mut all_made = true;
        for batch in rest.chunks(IN_ONE_TRANSACTION) {
            self.make_together(batch).await?;
            all_made &= !batch.iter().any(|entry| self.can_make(entry));
            if !all_made {
                break;
            }
        }
        // pg_restore needs a session too, and the server may not have many.
        self.makers().clear();
        Ok(())
    }

    /// Makes entries in one transaction, all or none of them.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub(super) async fn make_together(&self, entries: &[&Entry]) -> Result<()> {
        self.make_with(entries, "").await
    }

    /// Makes entries in one transaction that begins with these settings, all or none of them.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub(super) async fn make_with(&self, entries: &[&Entry], settings: &str) -> Result<()> {
        let possible: Vec<_> = entries.iter().filter(|entry| self.can_make(entry)).collect();
        if possible.is_empty() {
            return Ok(());
        }
        let statements = possible.iter().map(|entry| self.statements_of(entry));
        let sql = format!("{PLACES}{settings}{}", statements.collect::<String>());
        if self.attempt_apart(&sql).await? {
            self.ours().extend(possible.iter().map(|entry| entry.id));
        }
        Ok(())
    }

    /// Whether the entry can be made by its definition alone, in the default place, and is not made yet.
    pub(super) fn can_make(&self, entry: &Entry) -> bool {
        entry.tablespace.is_none()
            && entry.access_method.as_deref().is_none_or(|method| method == "heap")
            && !entry.definition.contains(char::REPLACEMENT_CHARACTER)
            && !self.definitions.redefined().contains_key(&entry.id)
            && !self.ours().contains(&entry.id)
    }

    pub(super) fn statements_of(&self, entry: &Entry) -> String {
        format!("{}{}", entry.definition, self.definitions.set_owner(entry).unwrap_or_default())
    }

    /// Runs statements in one transaction in a session of its own, and returns whether the server took them. If the server
    /// has no session left, nothing is done.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub(super) async fn attempt_apart(&self, sql: &str) -> Result<bool> {
        let session = match self.maker().await {
            Ok(session) => session,
            Err(error) => {
                tracing::debug!("left to pg_restore: {error}");
                return Ok(false);
            }
        };
        let fault = attempt(&session, sql).await?;
        self.makers().push(session);
        if let Some(fault) = &fault {
            tracing::debug!("left to pg_restore: {fault}");
        }
        Ok(fault.is_none())
    }

    /// Returns a session for statements: an idle one or a new one.
    pub(super) async fn maker(&self) -> Result<Session> {
        let idle = self.makers().pop();
        match idle {
            Some(session) => Ok(session),
            None => {
                let session = Session::connect_utf8(&self.info, "recover").await?;
                self.place.settle(&session).await?;
                let set = session.batch_execute(&self.room.settings()).await;
                set.map_err(|error| server_error("cannot prepare a session for indexes", error))?;
                Ok(session)
            }
        }
    }

    /// Makes foreign keys without looking at rows: the source held them, and the rows are proved to be the source's. Only
    /// a superuser can make a key valid without that. Returns the keys that the server refuses.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub(super) async fn make_keys(&self, keys: &[&Entry]) -> Result<BTreeSet<i32>> {
        let mut refused = BTreeSet::new();
        for batch in keys.chunks(IN_ONE_TRANSACTION) {
            let weaker = batch.iter().filter_map(|key| not_valid(key)).map(|(weaker, _)| weaker);
            if !self.attempt_apart(&(weaker.collect::<String>() + AS_ON_SOURCE)).await? {
                refused.extend(batch.iter().map(|key| key.id));
            }
        }
        let made: Vec<_> = keys.iter().filter(|key| !refused.contains(&key.id)).collect();
        if !made.is_empty() {
            let first: Vec<_> = made.iter().take(KEYS_NAMED).map(|key| key.display()).collect();
            let more = if made.len() > KEYS_NAMED { ", and others" } else { "" };
            self.refused.note(format!(
                "foreign keys are valid as on the source, whose rows their tables have; --strict checks each key again: \
                 {}{more}",
                first.join(", ")
            ));
        }
        Ok(refused)
    }

    /// Returns the foreign keys that need no look at the rows: they were valid on the source, and both tables are among
    /// `exact`, those that have exactly the rows of the source.
    pub(super) fn keys_as_on_source(&self, exact: &HashSet<String>) -> Vec<&Entry> {
        if self.guard.is_none() || self.refused.strict || exact.is_empty() {
            return Vec::new();
        }
        let toc = &self.definitions.archive.toc;
        let (by_id, kept) = (by_id(toc), || self.definitions.selection.entries(toc));
        let needed: HashSet<i32> = kept().flat_map(|entry| &entry.depends_on).copied().collect();
        let is_exact = |entry: &&Entry| entry.kind != "TABLE" || exact.contains(&entry.table_name());
        let is_valid = |entry: &&Entry| {
            let weaker = entry.definition.contains("NOT VALID") || entry.definition.contains("NOT ENFORCED");
            entry.kind == "FK CONSTRAINT" && !weaker && !needed.contains(&entry.id) && self.can_make(entry)
        };
        let on_exact = |entry: &&Entry| {
            entry.depends_on.iter().filter_map(|id| by_id.get(id).copied()).all(|it| is_exact(&it))
        };
        kept().filter(is_valid).filter(on_exact).collect()
    }

    /// Returns the comments on what comes after the rows and is made without pg_restore. pg_restore takes a comment to belong to
    /// the section of the entry before it in its list, so it passes over a comment whose object is not in the list.
    pub(super) fn comments_on_ours(&self) -> BTreeSet<i32> {
        let toc = &self.definitions.archive.toc;
        let (by_id, ours) = (by_id(toc), self.ours().clone());
        let is_ours =
            |id: &i32| ours.contains(id) && by_id.get(id).is_some_and(|it| it.section == Section::PostData);
        let comments = self.definitions.selection.entries(toc).filter(|entry| entry.kind == "COMMENT");
        comments.filter(|entry| entry.depends_on.iter().any(is_ours)).map(|entry| entry.id).collect()
    }

    /// The numbers of the entries that pg_restore does not make.
    pub(super) fn ours(&self) -> std::sync::MutexGuard<'_, BTreeSet<i32>> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Idle sessions for statements, in UTF-8.
    pub(super) fn makers(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        self.makers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the order of the archive matters for the entry, and the entry comes before the rows. Privileges come after all
/// objects, and [`PostgresSink::make_plain_tables`] has made the schemas.
fn is_before_rows(entry: &Entry, by_id: &HashMap<i32, &Entry>) -> bool {
    let is_of_object = entry.kind == "COMMENT" && !entry.is_of_database();
    let is_before = |id: &i32| by_id.get(id).is_some_and(|it| it.section == Section::PreData);
    match entry.section {
        Section::PreData => {
            entry.kind != "SCHEMA"
                && !entry.is_of_privileges()
                && !entry.is_of_session()
                && !entry.is_of_database()
        }
        Section::None => {
            is_of_object && !entry.depends_on.is_empty() && entry.depends_on.iter().all(is_before)
        }
        Section::Data | Section::PostData => false,
    }
}

fn by_id(toc: &Toc) -> HashMap<i32, &Entry> {
    toc.entries.iter().map(|entry| (entry.id, entry)).collect()
}

/// Returns the places in the archive of the indexes and constraints that a table has by itself, by the table's name: those
/// that need nothing that is made after the rows.
pub(super) fn indexes_by_table(definitions: &ArchiveDefinitions) -> HashMap<String, Vec<usize>> {
    let toc = &definitions.archive.toc;
    let by_id = by_id(toc);
    let mut by_table: HashMap<_, Vec<usize>> = HashMap::new();
    for (place, entry) in toc.entries.iter().enumerate() {
        if !is_index(entry) || !definitions.selection.keeps(entry) {
            continue;
        }
        let needed: Vec<_> = entry.depends_on.iter().filter_map(|id| by_id.get(id)).collect();
        if let Some(table) = only_table(needed.iter().map(|it| **it))
            && needed.iter().all(|it| it.section == Section::PreData)
        {
            by_table.entry(table.table_name()).or_default().push(place);
        }
    }
    by_table
}

/// Returns the table among the entries that another needs; `None` if there are several. An index on several columns needs its
/// table once for each of them.
fn only_table<'a>(needed: impl Iterator<Item = &'a Entry>) -> Option<&'a Entry> {
    let mut tables = needed.filter(|entry| entry.kind == "TABLE");
    let first = tables.next()?;
    tables.all(|other| other.id == first.id).then_some(first)
}

/// PostgreSQL 18 has NOT NULL NOT VALID among the constraints.
fn is_index(entry: &Entry) -> bool {
    entry.section == Section::PostData
        && match &*entry.kind {
            "INDEX" => true,
            "CONSTRAINT" => !entry.definition.contains("NOT VALID"),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_several_columns_belongs_to_one_table() {
        let toc =
            Toc::read(&include_bytes!("../../../../fixtures/formats/archive/pg_dump-18.dump")[..]).unwrap();
        let mut tables = toc.entries.iter().filter(|entry| entry.kind == "TABLE");
        let (one, other) = (tables.next().unwrap(), tables.next().unwrap());
        let found = |needed: &[&Entry]| only_table(needed.iter().map(|it| *it as &Entry)).map(|it| it.id);
        assert_eq!(found(&[one, one, one]), toc.entries.iter().find(|it| it.id == one.id).map(|it| it.id));
        assert_eq!(found(&[one, other]), None);
        assert_eq!(found(&[]), None);
    }
}
