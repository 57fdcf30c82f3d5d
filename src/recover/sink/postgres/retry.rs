//! Tries again, one by one, the entries that pg_restore could not make, and leaves out those that the server refuses.
//!
//! pg_restore says of which entries it complains, but its words hold row values, are in the server's language, and a
//! function of the application can put any line into them. So they only choose the entries that are tried again, in a
//! session of our own, whose SQLSTATE decides.

use std::collections::BTreeSet;

use crate::connect::{ServerFault, Session, server_error};
use crate::error::Result;
use crate::model::schema::{quote_ident, quote_literal};
use crate::model::{Column, Table};
use crate::recover::archive::{AfterRows, Entry, Section};
use crate::recover::refused::{RefusedObject, RefusedObjects};

use super::super::ArchiveDefinitions;
use super::PostgresSink;

/// SQLSTATEs of an object that exists already: a column, a relation, a schema, a function, another object, a second
/// primary key, or a partition that is attached.
const EXISTS: [&str; 7] = ["42701", "42P07", "42P06", "42723", "42710", "42P16", "42809"];

/// The settings that pg_restore makes for the same statements.
const SETTINGS: &str = "SET LOCAL check_function_bodies = off; SET LOCAL row_security = off; \
                        SET LOCAL xmloption = content; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0;";

/// Marks the constraints that this transaction has made as valid. Only a superuser may.
pub(super) const AS_ON_SOURCE: &str = "UPDATE pg_catalog.pg_constraint SET convalidated = true \
     WHERE xmin = pg_catalog.pg_current_xact_id()::pg_catalog.xid AND NOT convalidated;";

/// The tablespaces and access methods that a server has.
pub(super) struct Places {
    tablespaces: BTreeSet<String>,
    access_methods: BTreeSet<String>,
}

impl Places {
    pub async fn of(session: &Session) -> Result<Places> {
        let tablespaces = names(session, "SELECT spcname::text FROM pg_catalog.pg_tablespace").await?;
        let access_methods = names(session, "SELECT amname::text FROM pg_catalog.pg_am").await?;
        Ok(Places { tablespaces, access_methods })
    }

    /// Returns the tablespace and the access method of the entry that the server lacks, each as a refused object.
    pub fn refused(&self, entry: &Entry) -> Vec<RefusedObject> {
        let wanted = [
            ("tablespace", &self.tablespaces, &entry.tablespace),
            ("access method", &self.access_methods, &entry.access_method),
        ];
        let missing = wanted.into_iter().filter_map(|(kind, there, place)| {
            let place = place.as_deref().filter(|place| !there.contains(*place))?;
            Some(RefusedObject {
                what: format!("{kind} of {}", entry.display()),
                why: format!("the target has no {kind} {place}, so it is in the default one"),
                sql: entry.set_place(kind, place),
            })
        });
        missing.collect()
    }

    /// The settings by which pg_restore chooses a place.
    fn settings(&self, entry: &Entry) -> String {
        let set = |setting: &str, there: &BTreeSet<String>, place: &Option<String>| match place {
            Some(place) if there.contains(place) => format!("SET LOCAL {setting} = {}; ", quote_ident(place)),
            _ => String::new(),
        };
        set("default_tablespace", &self.tablespaces, &entry.tablespace)
            + &set("default_table_access_method", &self.access_methods, &entry.access_method)
    }
}

pub(super) async fn names(session: &Session, sql: &str) -> Result<BTreeSet<String>> {
    let rows = session.query(sql, &[]).await;
    let rows = rows.map_err(|error| server_error("cannot see what the server has", error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The entries of an archive that are tried again in a session.
pub(in crate::recover) struct Retry<'a> {
    pub session: &'a Session,
    pub definitions: &'a ArchiveDefinitions,
    /// The tables whose rows will be loaded.
    pub tables: &'a [Table],
    pub refused: &'a RefusedObjects,
    /// The sections that pg_restore was to create. Entries of other sections are not tried again, whatever its words name.
    pub sections: &'a [Section],
    pub step: AfterRows,
}

impl Retry<'_> {
    /// Tries these entries again, or makes them otherwise than the archive does. An object that pg_restore made but could not give its owner is among
    /// them too.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails, and with `Refused` if nothing may be left out.
    pub async fn run(&self, complaints: &BTreeSet<i32>) -> Result<()> {
        if complaints.is_empty() {
            return Ok(());
        }
        let places = Places::of(self.session).await?;
        let toc = &self.definitions.archive.toc;
        let selection = self.definitions.selection.in_step(toc, self.step);
        for entry in selection.entries(toc).filter(|entry| complaints.contains(&entry.id)) {
            if !self.sections.contains(&entry.section) || entry.kind.starts_with("DATABASE") {
                continue;
            }
            if entry.is_of_privileges() {
                self.grant(entry).await?;
                continue;
            }
            if self.is_there_without_owner(entry).await? {
                continue;
            }
            let owner = self.definitions.set_owner(entry).unwrap_or_default();
            if entry.definition.contains(char::REPLACEMENT_CHARACTER) || entry.kind.starts_with("BLOB") {
                let why = "pg_restore could not make it";
                self.refused.add(entry.display(), why, whole(entry, &owner))?;
                continue;
            }
            let settings = places.settings(entry);
            if let Some(definition) = self.definitions.redefined().get(&entry.id)
                && attempt(self.session, &format!("{settings}{definition}{owner}")).await?.is_none()
            {
                continue;
            }
            match attempt(self.session, &format!("{settings}{}{owner}", entry.definition)).await? {
                None => {}
                Some(fault) if EXISTS.contains(&&*fault.sqlstate) => self.give_owner(entry, &owner).await?,
                Some(fault) if self.is_so_already(entry).await? => tracing::debug!("{fault}"),
                Some(fault) if !selection.needs(entry) => tracing::debug!("not needed: {fault}"),
                Some(fault) => self.without(entry, &fault, &owner).await?,
            }
        }
        Ok(())
    }

    /// Whether pg_restore made the object, and could only not give it its owner, which the server lacks.
    async fn is_there_without_owner(&self, entry: &Entry) -> Result<bool> {
        let to_us = entry.set_owner_to("CURRENT_USER").filter(|_| self.definitions.lacks_owner(entry));
        Ok(match to_us {
            Some(to_us) => attempt(self.session, &to_us).await?.is_none(),
            None => false,
        })
    }

    /// Whether the entry is a comment on an extension that has this comment: only its owner may make it again.
    async fn is_so_already(&self, entry: &Entry) -> Result<bool> {
        let sql = "SELECT FROM pg_catalog.pg_extension WHERE pg_catalog.format('COMMENT ON EXTENSION %I IS %L;', extname, \
                   pg_catalog.obj_description(oid, 'pg_extension')) = pg_catalog.btrim($1::text, E' \\n')";
        let row = self.session.query_opt(sql, &[&entry.definition]).await;
        Ok(row.map_err(|error| server_error("cannot read comments", error))?.is_some())
    }

    /// Grants the privileges of an entry one by one, but for those that name a missing role: these have been named with
    /// the role.
    async fn grant(&self, entry: &Entry) -> Result<()> {
        let mut grantor = String::new();
        for statement in self.definitions.grants(entry) {
            let statement = statement.trim();
            if statement.starts_with("SET SESSION AUTHORIZATION")
                || statement == "RESET SESSION AUTHORIZATION"
            {
                grantor = format!("{};", statement.replacen("SET SESSION", "SET LOCAL SESSION", 1));
                continue;
            }
            if let Some(fault) = attempt(self.session, &format!("{grantor} {statement};")).await? {
                self.refused.add(entry.display(), fault, format!("{statement};"))?;
            }
        }
        Ok(())
    }

    async fn give_owner(&self, entry: &Entry, owner: &str) -> Result<()> {
        // By then the guard may have lent a function to another owner.
        if entry.section != Section::PreData && matches!(&*entry.kind, "FUNCTION" | "PROCEDURE" | "AGGREGATE")
        {
            return Ok(());
        }
        match attempt(self.session, owner).await? {
            None => Ok(()),
            Some(fault) => self.refused.add(format!("owner of {}", entry.display()), fault, owner.to_owned()),
        }
    }

    /// Makes a weaker form of an object that the server refuses, or none.
    async fn without(&self, entry: &Entry, fault: &ServerFault, owner: &str) -> Result<()> {
        if let Some((weaker, validate)) = not_valid(entry)
            && add_not_valid(self.session, self.refused, (&entry.display(), fault), &weaker, validate).await?
        {
            return Ok(());
        }
        let mut why = fault.to_string();
        if entry.kind == "TABLE"
            && let Some(table) = self.table_of(entry)
            && let plain = plain_table(self.session, table).await?
            && attempt(self.session, &format!("{plain}{owner}")).await?.is_none()
        {
            why += "; its rows are in a table of the same columns with nothing else, of type text where the type is missing";
        }
        self.refused.add(entry.display(), why, whole(entry, owner))
    }

    fn table_of(&self, entry: &Entry) -> Option<&Table> {
        let same = |table: &&Table| entry.schema.as_ref() == Some(&table.schema) && entry.tag == table.name;
        self.tables.iter().find(same)
    }
}

/// Returns a definition of a table that the server takes whatever it lacks.
///
/// # Errors
/// Fails with `Unavailable` if the server fails.
pub(super) async fn plain_table(session: &Session, table: &Table) -> Result<String> {
    let mut columns = Vec::new();
    for column in &table.columns {
        columns.push(format!("{} {}", quote_ident(&column.name), column_type(session, column).await?));
    }
    Ok(format!("CREATE TABLE {} ({});", table.quoted(), columns.join(", ")))
}

/// Returns the type of a column, or text if the server lacks the type.
///
/// # Errors
/// Fails with `Unavailable` if the server fails.
pub(super) async fn column_type(session: &Session, column: &Column) -> Result<String> {
    let known = format!("SELECT {}::pg_catalog.regtype;", quote_literal(&column.type_name));
    let known = attempt(session, &known).await?.is_none();
    Ok(if known { column.type_name.clone() } else { "text".to_owned() })
}

impl PostgresSink {
    /// Names the objects whose tablespace or access method the target lacks: they are made in the default one.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails, and with `Refused` if nothing may be left out.
    pub(super) async fn name_missing_places(&self) -> Result<()> {
        let places = Places::of(&self.session).await?;
        for entry in self.definitions.selection.entries(&self.definitions.archive.toc) {
            for object in places.refused(entry) {
                self.refused.add(object.what, object.why, object.sql)?;
            }
        }
        Ok(())
    }

    /// Returns those of `tables` that exist in the target. The rows of the others have no place there.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails, and with `Refused` if nothing may be left out.
    pub async fn tables_there(&self, tables: &[&Table]) -> Result<Vec<u32>> {
        let names: Vec<String> = tables.iter().map(|table| table.quoted()).collect();
        let sql = "SELECT pg_catalog.to_regclass(name) IS NOT NULL \
                   FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS t (name, number) ORDER BY number";
        let rows = self.session.query(sql, &[&names]).await;
        let rows = rows.map_err(|error| server_error("cannot see which tables were made", error))?;
        let mut there = Vec::new();
        for (table, row) in tables.iter().zip(rows) {
            if row.get(0) {
                there.push(table.oid);
            } else {
                let why = "the table could not be made; find them in --into sqlite:FILE";
                self.refused.add(format!("rows of {}", table.display()), why, String::new())?;
            }
        }
        Ok(there)
    }
}

/// Runs statements in one transaction, and returns the server's fault if it refuses them.
///
/// # Errors
/// Fails with `Unavailable` if the server fails.
pub(super) async fn attempt(session: &Session, sql: &str) -> Result<Option<ServerFault>> {
    let sql = format!("BEGIN; {SETTINGS} {sql}\n; COMMIT");
    let Err(error) = session.batch_execute(&sql).await else { return Ok(None) };
    let error = server_error("the target does not answer", error);
    let Some(fault) = ServerFault::of(&error).filter(|fault| fault.is_refusal()) else {
        return Err(error);
    };
    let ended = session.batch_execute("ROLLBACK").await;
    ended.map_err(|error| server_error("cannot end a transaction", error))?;
    Ok(Some(fault.clone()))
}

/// Makes a constraint that the rows do not fulfil, or about which they cannot be asked. It was valid on the source all the
/// same, so a superuser makes it valid here, too; for anybody else it is NOT VALID, which is named. Returns false if the
/// server refuses the constraint whatever the rows are.
///
/// # Errors
/// Fails with `Unavailable` if the server fails, and with `Refused` if nothing may be left out.
pub(super) async fn add_not_valid(
    session: &Session,
    refused: &RefusedObjects,
    (what, fault): (&str, &ServerFault),
    weaker: &str,
    validate: String,
) -> Result<bool> {
    let is_broken_by_us = refused.is_part && what.starts_with("FK CONSTRAINT ");
    if !refused.strict
        && !is_broken_by_us
        && attempt(session, &format!("{weaker} {AS_ON_SOURCE}")).await?.is_none()
    {
        refused
            .note(format!("{what} is valid as on the source, although its rows were not checked: {fault}"));
        return Ok(true);
    }
    let made = attempt(session, weaker).await?.is_none();
    if made {
        let advice = if is_broken_by_us { "; add --with-references" } else { "" };
        refused.add(what.to_owned(), format!("{fault}; it is NOT VALID{advice}"), validate)?;
    }
    Ok(made)
}

/// The statements that make an entry as pg_restore would.
fn whole(entry: &Entry, owner: &str) -> String {
    format!("{}{owner}", entry.definition)
}

/// Returns the statement that makes a constraint without looking at rows, and the one that validates it later.
pub(super) fn not_valid(entry: &Entry) -> Option<(String, String)> {
    let (kind, definition) = (entry.kind.as_str(), entry.definition.trim_end().strip_suffix(';')?);
    let (head, _) = match kind {
        "FK CONSTRAINT" => definition.split_once(" FOREIGN KEY ")?,
        "CHECK CONSTRAINT" => definition.split_once(" CHECK ")?,
        _ => return None,
    };
    let validate = head.replacen(" ADD CONSTRAINT ", " VALIDATE CONSTRAINT ", 1);
    Some((format!("{definition} NOT VALID;"), format!("{validate};")))
}

/// Reads the numbers of the entries of which pg_restore complains; `None` if it ended for another reason.
///
/// Processes that work at the same time may write into one another's lines, but each writes the number in one piece.
pub(super) fn complaints(words: &str) -> Option<BTreeSet<i32>> {
    let last = words.trim_end().lines().next_back()?;
    last.contains("errors ignored on restore: ").then(|| {
        let told = words.lines().filter_map(|line| line.split_once("from TOC entry ")?.1.split_once(';'));
        told.filter_map(|(id, _)| id.parse().ok()).collect()
    })
}

/// Returns the part of pg_restore's words that tells of errors, not of what it does.
pub(super) fn errors_in(words: &str) -> String {
    let from = words.find("pg_restore: error:").unwrap_or(0);
    let words: String = words[from..].chars().take(2000).collect();
    format!("pg_restore failed: {}", words.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entries_of_which_pg_restore_complains_are_read() {
        let words = "pg_restore: creating TABLE \"public.c\"\npg_restore: while PROCESSING TOC:\n\
                     pg_restore:pg_restore: from TOC entry 25; 2606 16 FK CONSTRAINT c c_fkey o\n\
                     pg_restore: from TOC entry 7; 1259 1 TABLE c o\npg_restore: error: could not …\n\
                     pg_restore: warning: errors ignored on restore: 2\n";
        assert_eq!(complaints(words), Some(BTreeSet::from([7, 25])));
        assert_eq!(complaints("pg_restore: error: connection to server failed\n"), None);
        assert_eq!(complaints(""), None);
    }
}
