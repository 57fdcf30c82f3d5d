//! The definitions that a sink creates before and after the rows: an archive, and a choice of its entries.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use tempfile::TempDir;

use crate::error::Result;
use crate::model::schema::quote_ident;
use crate::pgtools::{Child, Installation, Tools};
use crate::recover::archive::{
    AfterRows, Archive, ColumnOrders, Entry, EntrySelection, Roles, Section, definitions_in_order,
    definitions_with_names, roles_of_privileges,
};
use crate::recover::refused::RefusedObject;

/// An archive, the entries chosen from it, and whether owners and privileges are restored.
#[derive(Debug)]
pub struct ArchiveDefinitions {
    pub archive: Archive,
    pub selection: EntrySelection,
    /// The archive that holds the large objects, if it is a different one.
    pub large_objects: Option<Box<ArchiveDefinitions>>,
    /// Definitions that are not the archive's own, by the entry's number.
    redefined: BTreeMap<i32, String>,
    owners: bool,
    privileges: bool,
    /// The roles that own an object or have a privilege, and that the server lacks.
    missing: BTreeSet<String>,
    /// Whether all owners are there, and whether all roles with a privilege are.
    whole: (bool, bool),
    /// The folder for the list that pg_restore reads.
    folder: TempDir,
}

/// How the target's server gets roles that it lacks.
pub(super) const GET_ROLES: &str = "recover with --create-roles, which makes the roles that the server lacks, or connect as a user who can act for them";

impl ArchiveDefinitions {
    /// # Errors
    /// Fails with `Unavailable` if the temporary folder cannot be created.
    pub fn new(archive: Archive, selection: EntrySelection) -> Result<ArchiveDefinitions> {
        let folder = crate::ambient::temporary_folder()?;
        Ok(ArchiveDefinitions {
            archive,
            selection,
            large_objects: None,
            redefined: BTreeMap::new(),
            owners: true,
            privileges: true,
            missing: BTreeSet::new(),
            whole: (true, true),
            folder,
        })
    }

    /// Gives tables that inherit the order of columns that they had on the source, and NOT NULL constraints their names.
    pub fn as_on_source(mut self, orders: &ColumnOrders) -> ArchiveDefinitions {
        self.redefined = definitions_with_names(&self.archive.toc, &self.selection);
        for entry in &mut self.archive.toc.entries {
            if let Some(definition) = self.redefined.get(&entry.id) {
                entry.definition.clone_from(definition);
            }
        }
        self.redefined.extend(definitions_in_order(&self.archive.toc, &self.selection, orders));
        self
    }

    /// The entries that pg_restore does not make, with what is to be run for each instead.
    pub(crate) fn redefined(&self) -> &BTreeMap<i32, String> {
        &self.redefined
    }

    /// Adapts the choice to a server that has only the roles that `has` accepts. Returns the roles that it lacks, with what
    /// names them, and the entries that cannot be restored for that reason. `advice` says how to get the roles.
    pub(crate) fn adapt_to_roles(&mut self, has: impl Fn(&str) -> bool, advice: &str) -> Vec<RefusedObject> {
        let roles = Roles::of(&self.archive.toc, &self.selection);
        let lacking = |names: &BTreeSet<String>| names.iter().filter(|name| !has(name)).count();
        let (owners, granted) = (lacking(&roles.owners), lacking(&roles.granted));
        self.whole = (owners == 0, granted == 0);
        // If there are none at all, pg_restore need not try each.
        self.owners = owners == 0 || owners < roles.owners.len();
        self.privileges = granted == 0 || granted < roles.granted.len();
        self.missing = roles.owners.union(&roles.granted).filter(|name| !has(name)).cloned().collect();
        let mut left_out: Vec<_> = self.missing.iter().map(|role| self.without_role(role, advice)).collect();
        for (id, names) in roles.required_by {
            let lost: Vec<_> = names.iter().filter(|name| !has(name)).cloned().collect();
            let Some(entry) = self.archive.toc.entries.iter().find(|entry| entry.id == id) else { continue };
            if !lost.is_empty() {
                left_out.push(RefusedObject {
                    what: entry.display(),
                    why: format!("the target has no role {}; {advice}", lost.join(", ")),
                    sql: entry.definition.clone(),
                });
                self.selection.leave_out(&self.archive.toc, id);
            }
        }
        if let Some(objects) = &mut self.large_objects {
            (objects.owners, objects.privileges) = (owners == 0, granted == 0);
        }
        left_out
    }

    /// Says what a missing role owned and was granted, with the statements that give it all that.
    fn without_role(&self, role: &str, advice: &str) -> RefusedObject {
        let entries = || self.selection.entries(&self.archive.toc);
        let owned = entries().filter(|entry| entry.owner.as_deref() == Some(role));
        let owned: Vec<_> = owned.filter_map(|entry| entry.set_owner()).collect();
        let grants = entries()
            .filter(|entry| entry.is_of_privileges())
            .flat_map(|entry| statements(&entry.definition));
        let grants: Vec<_> =
            grants.filter(|sql| names(sql, role)).map(|sql| format!("{};", sql.trim())).collect();
        let why = format!(
            "the target has no role {role} that the recovering user can act for: others own what it owned ({}), and {} of its \
             privileges are not restored; {advice}",
            owned.len(),
            grants.len()
        );
        RefusedObject { what: format!("ROLE {role}"), why, sql: [owned, grants].concat().join("\n") }
    }

    /// Restores neither owners nor privileges if a role is missing for one of them.
    pub(crate) fn give_up_rights(&mut self) {
        (self.owners, self.privileges) = (self.whole.0, self.whole.0 && self.whole.1);
    }

    /// Whether all owners are restored, and whether all privileges are.
    pub(crate) fn owners_and_privileges(&self) -> (bool, bool) {
        (self.whole.0, self.whole.0 && self.whole.1)
    }

    /// Whether at least some owners are restored.
    pub(crate) fn has_owners(&self) -> bool {
        self.owners
    }

    /// Returns the statement that gives an object its owner; `None` if the server lacks the owner.
    pub(crate) fn set_owner(&self, entry: &Entry) -> Option<String> {
        entry.set_owner().filter(|_| self.owners && !self.lacks_owner(entry))
    }

    /// Whether the server lacks the owner of an object.
    pub(crate) fn lacks_owner(&self, entry: &Entry) -> bool {
        entry.owner.as_ref().is_some_and(|owner| self.missing.contains(owner))
    }

    /// Returns the statements that give the objects made before the rows to `role`, where the server lacks their owner.
    pub(crate) fn give_ownerless_to(&self, role: &str) -> Vec<String> {
        let entries = self.selection.entries(&self.archive.toc);
        let lost = entries.filter(|entry| entry.section == Section::PreData && self.lacks_owner(entry));
        lost.filter_map(|entry| entry.set_owner_to(&quote_ident(role))).collect()
    }

    /// Returns the statements of an entry of privileges that name no missing role.
    pub(crate) fn grants(&self, entry: &Entry) -> Vec<String> {
        let all = statements(&entry.definition).into_iter();
        all.filter(|sql| !self.missing.iter().any(|role| names(sql, role))).collect()
    }

    /// Returns the owners and definitions of the objects that are created after the rows.
    /// An owner that the server lacks is replaced by `stand_in`.
    pub(crate) fn made_after_rows<'a>(&'a self, stand_in: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
        let entries = self.selection.entries(&self.archive.toc);
        let owner = |entry: &'a Entry| match entry.owner.as_deref() {
            Some(owner) if self.missing.contains(owner) => stand_in,
            owner => owner,
        };
        entries
            .filter(|entry| self.owners && entry.section == Section::PostData)
            .filter_map(|entry| Some((owner(entry)?, entry.definition.as_str())))
            .collect()
    }

    /// Returns the pg_restore for a target of this major version.
    ///
    /// # Errors
    /// Fails with `Refused` if no installed pg_restore can read the archive.
    pub(crate) fn tool<'a>(&self, tools: &'a Tools, target_major: u32) -> Result<&'a Installation> {
        tools.for_restore(self.archive.toc.dump_major, target_major)
    }

    /// Returns pg_restore with the chosen entries of one section, or of one step of a section, but for some, still without
    /// a destination.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the list cannot be written.
    pub(crate) fn restore(
        &self,
        tool: &Installation,
        section: Section,
        step: AfterRows,
        without: &BTreeSet<i32>,
    ) -> Result<Child> {
        let list = self.write_list(step, without)?;
        let mut child =
            Child::new(tool.program("pg_restore")).arg("--use-list").arg(list).arg(match section {
                Section::PostData => "--section=post-data",
                Section::Data => "--section=data",
                Section::PreData | Section::None => "--section=pre-data",
            });
        if !self.owners {
            child = child.arg("--no-owner");
        }
        if !self.privileges {
            child = child.arg("--no-privileges");
        }
        Ok(child)
    }

    /// Whether pg_restore has anything to make in a section or in one step of a section, but for some entries.
    pub(crate) fn leaves(&self, section: Section, step: AfterRows, without: &BTreeSet<i32>) -> bool {
        let toc = &self.archive.toc;
        let selection = self.selection.in_step(toc, step).without(without);
        // pg_restore makes comments and privileges along with what stands before them.
        let is_in = |entry: &Entry| entry.section == section || entry.section == Section::None;
        selection.entries(toc).any(|entry| is_in(entry) && !entry.is_of_session() && !entry.is_of_database())
    }

    fn write_list(&self, step: AfterRows, without: &BTreeSet<i32>) -> Result<PathBuf> {
        let list = self.folder.path().join("entries.list");
        let toc = &self.archive.toc;
        self.selection.in_step(toc, step).without(without).write_list(toc, &list)?;
        Ok(list)
    }

    /// Returns the statements that give a database named `name` the source's own properties: settings, connection
    /// limit, and privileges if they are restored.
    pub(crate) fn database_properties(&self, name: &str) -> Vec<String> {
        let toc = &self.archive.toc;
        let of_database = |kind: &str, tag: &str| match kind {
            "DATABASE PROPERTIES" => true,
            "ACL" => self.privileges && tag.starts_with("DATABASE "),
            _ => false,
        };
        toc.entries
            .iter()
            .filter(|entry| of_database(&entry.kind, &entry.tag))
            .flat_map(|entry| self.grants(entry))
            .filter_map(|statement| renamed(&statement, &toc.database, name))
            .collect()
    }

    /// Returns the names of the extensions.
    pub(super) fn extensions(&self) -> Vec<String> {
        let entries = self.selection.entries(&self.archive.toc);
        entries.filter(|entry| entry.kind == "EXTENSION").map(|entry| entry.tag.clone()).collect()
    }

    /// Returns the owner of the source's database.
    pub(crate) fn database_owner(&self) -> Option<&str> {
        let entry = self.archive.toc.entries.iter().find(|entry| entry.kind == "DATABASE")?;
        let there = |owner: &&str| !owner.is_empty() && !self.missing.contains(*owner);
        entry.owner.as_deref().filter(|owner| self.owners && there(owner))
    }

    /// Returns the statement that gives a database the source's comment, or removes its comment if the source has
    /// none.
    pub(crate) fn database_comment(&self, name: &str) -> Option<String> {
        let toc = &self.archive.toc;
        let entry =
            toc.entries.iter().find(|entry| entry.kind == "COMMENT" && entry.tag.starts_with("DATABASE "))?;
        renamed(entry.definition.trim_end().trim_end_matches(';'), &toc.database, name)
    }
}

/// Whether a statement about privileges names a role.
fn names(sql: &str, role: &str) -> bool {
    roles_of_privileges(sql).iter().any(|name| name == role)
}

/// Splits a definition into statements without their semicolons; a string may contain semicolons.
fn statements(sql: &str) -> Vec<String> {
    let mut statements = vec![String::new()];
    let mut quote = None;
    for letter in sql.chars() {
        match (quote, letter) {
            (None, ';') => {
                statements.push(String::new());
                continue;
            }
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), letter) if open == letter => quote = None,
            _ => {}
        }
        if let Some(last) = statements.last_mut() {
            last.push(letter);
        }
    }
    statements.retain(|statement| !statement.trim().is_empty());
    statements
}

/// Turns a `statement` about the database `old` into one about `new`; `None` if the statement is about another
/// object.
pub(super) fn renamed(statement: &str, old: &str, new: &str) -> Option<String> {
    let statement = statement.trim();
    for old in [old.to_owned(), quote_ident(old)] {
        let at = format!(" DATABASE {old} ");
        if let Some((before, after)) = statement.split_once(&at)
            && !before.contains('\'')
        {
            return Some(format!("{before} DATABASE {} {after}", quote_ident(new)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_about_the_old_database_become_statements_about_the_new_one() {
        let sql = "ALTER DATABASE src SET a TO 'x;y';\nALTER ROLE r IN DATABASE src SET b TO 'it''s DATABASE src';\n";
        let renamed: Vec<_> =
            statements(sql).iter().filter_map(|statement| renamed(statement, "src", "n w")).collect();
        assert_eq!(
            renamed,
            [
                "ALTER DATABASE \"n w\" SET a TO 'x;y'",
                "ALTER ROLE r IN DATABASE \"n w\" SET b TO 'it''s DATABASE src'"
            ]
        );
    }
}
