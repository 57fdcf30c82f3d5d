//! The definitions that a sink creates before and after the rows: an archive, and a choice of its entries.

use std::collections::BTreeSet;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::error::Result;
use crate::pgtools::{Child, Installation, Tools};
use crate::recover::archive::{AfterRows, Archive, EntrySelection, Roles, Section};
use crate::recover::refused::RefusedObject;

/// An archive, the entries chosen from it, and whether owners and privileges are restored.
#[derive(Debug)]
pub struct ArchiveDefinitions {
    pub archive: Archive,
    pub selection: EntrySelection,
    /// The archive that holds the large objects, if it is a different one.
    pub large_objects: Option<Box<ArchiveDefinitions>>,
    owners: bool,
    privileges: bool,
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
            owners: true,
            privileges: true,
            folder,
        })
    }

    /// Adapts the choice to a server that has only the roles that `has` accepts; returns notes on owners and
    /// privileges, and the entries that cannot be restored for that reason. `advice` says how to get the roles.
    pub(crate) fn adapt_to_roles(
        &mut self,
        has: impl Fn(&str) -> bool,
        advice: &str,
    ) -> (Vec<String>, Vec<RefusedObject>) {
        let roles = Roles::of(&self.archive.toc, &self.selection);
        let missing = |names: &BTreeSet<String>| -> Vec<String> {
            names.iter().filter(|name| !has(name)).cloned().collect()
        };
        let (mut notes, mut left_out) = (Vec::new(), Vec::new());
        let owners = missing(&roles.owners);
        if !owners.is_empty() {
            self.owners = false;
            self.privileges = false;
            notes.push(format!(
                "owners and privileges are not restored: the target has no role {} that the recovering user can act for; {advice}",
                owners.join(", ")
            ));
        }
        let granted = missing(&roles.granted);
        if self.privileges && !granted.is_empty() {
            self.privileges = false;
            let granted = granted.join(", ");
            notes.push(format!("privileges are not restored: the target has no role {granted}; {advice}"));
        }
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
            (objects.owners, objects.privileges) = (self.owners, self.privileges);
        }
        (notes, left_out)
    }

    /// Whether owners are restored, and whether privileges are.
    pub(crate) fn owners_and_privileges(&self) -> (bool, bool) {
        (self.owners, self.privileges)
    }

    /// Returns the owners and definitions of the objects that are created after the rows.
    pub(crate) fn made_after_rows(&self) -> Vec<(&str, &str)> {
        let entries = self.selection.entries(&self.archive.toc);
        entries
            .filter(|entry| self.owners && entry.section == Section::PostData)
            .filter_map(|entry| Some((entry.owner.as_deref()?, entry.definition.as_str())))
            .collect()
    }

    /// Returns the pg_restore for a target of this major version.
    ///
    /// # Errors
    /// Fails with `Refused` if no installed pg_restore can read the archive.
    pub(crate) fn tool<'a>(&self, tools: &'a Tools, target_major: u32) -> Result<&'a Installation> {
        tools.for_restore(self.archive.toc.dump_major, target_major)
    }

    /// Returns pg_restore with the chosen entries of one section, or of one step of a section, still without a
    /// destination.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the list cannot be written.
    pub(crate) fn restore(&self, tool: &Installation, section: Section, step: AfterRows) -> Result<Child> {
        let list = self.write_list(step)?;
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

    fn write_list(&self, step: AfterRows) -> Result<PathBuf> {
        let list = self.folder.path().join("entries.list");
        let toc = &self.archive.toc;
        self.selection.in_step(toc, step).write_list(toc, &list)?;
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
            .flat_map(|entry| statements(&entry.definition))
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
        entry.owner.as_deref().filter(|owner| self.owners && !owner.is_empty())
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
    use crate::model::schema::quote_ident;
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
