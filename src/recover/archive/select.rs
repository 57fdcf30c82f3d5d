//! Chooses the entries of an archive that are restored.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::path::Path;

use crate::error::{Context, Kind, Result};

use super::toc::{Entry, Section, Toc};

/// The prefix of the names of all objects that belong to backwhen itself, and the whole name of its schema.
const OURS: &str = "backwhen";

/// The kinds of object that a person misses when they are left out; objects that depend on them need no line of their
/// own.
const WORTH_SAYING: [&str; 15] = [
    "TABLE",
    "VIEW",
    "MATERIALIZED VIEW",
    "FOREIGN TABLE",
    "TRIGGER",
    "FK CONSTRAINT",
    "RULE",
    "POLICY",
    "FUNCTION",
    "PROCEDURE",
    "AGGREGATE",
    "TYPE",
    "DOMAIN",
    "TABLE ATTACH",
    "EVENT TRIGGER",
];

/// The kinds of entry that concern the whole database, not some of its tables.
const DATABASE_WIDE: [&str; 10] = [
    "PUBLICATION",
    "PUBLICATION TABLE",
    "PUBLICATION TABLES IN SCHEMA",
    "SUBSCRIPTION",
    "SUBSCRIPTION TABLE",
    "EVENT TRIGGER",
    "BLOB",
    "BLOB METADATA",
    "BLOBS",
    "DATABASE",
];

/// The part of the entries after the rows that one step restores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterRows {
    All,
    /// The objects that a value of `regclass` and similar types can name, except those that look at rows or act on
    /// them.
    Names,
    /// The other objects except event triggers.
    Remainder,
    /// Both of these.
    Whole,
    /// Event triggers, which would fire for whatever is made after them.
    EventTriggers,
}

impl AfterRows {
    fn includes(self, step: AfterRows) -> bool {
        match self {
            AfterRows::All => true,
            AfterRows::Whole => step != AfterRows::EventTriggers,
            one => one == step,
        }
    }
}

/// The entries to restore, and the others that a person must be told about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntrySelection {
    kept: HashSet<i32>,
    /// The entries without which a chosen table is not whole, if only some tables are chosen.
    needed: Option<HashSet<i32>>,
    /// The objects that cannot be created because an object to which they refer is left out.
    pub left_out: Vec<String>,
    /// The tables (schema, name) that were not asked for, but that a chosen table needs: they are created empty.
    pub definition_only: Vec<(String, String)>,
}

impl EntrySelection {
    /// Selects everything except backwhen's own schema, publication and event triggers.
    pub fn whole(toc: &Toc) -> EntrySelection {
        let kept = toc.entries.iter().filter(|entry| !is_ours(entry)).map(|entry| entry.id).collect();
        let mut selection = EntrySelection { kept, ..EntrySelection::default() };
        for entry in selection.settle(toc) {
            let of_ours = entry.schema.as_deref() == Some(OURS);
            if !of_ours && WORTH_SAYING.contains(&entry.kind.as_str()) {
                selection.left_out.push(entry.display());
            }
        }
        selection
    }

    /// Selects the tables (schema, name) that `chosen` accepts with everything that depends on them, and the
    /// database's schemas, types, functions and extensions, which have no rows.
    ///
    /// An object that refers to a table that is left out is left out too, and named in `left_out`.
    pub fn tables(toc: &Toc, chosen: impl Fn(&str, &str) -> bool) -> EntrySelection {
        let is_chosen = |entry: &&Entry| {
            is_relation_with_rows(entry)
                && !is_ours(entry)
                && chosen(entry.schema.as_deref().unwrap_or_default(), &entry.tag)
        };
        let wanted: HashSet<i32> = toc.entries.iter().filter(is_chosen).map(|entry| entry.id).collect();
        let graph = Graph::of(toc);
        let tables = graph.with_tables_below(&wanted);
        let sequences = graph.sequences_of(toc, &tables);
        let keep = |entry: &&Entry| match entry.kind.as_str() {
            _ if is_ours(entry) => false,
            "TABLE" | "FOREIGN TABLE" => tables.contains(&entry.id),
            "SEQUENCE" => sequences.contains(&entry.id),
            kind => !DATABASE_WIDE.contains(&kind),
        };
        let kept = toc.entries.iter().filter(keep).map(|entry| entry.id).collect();
        let mut selection = EntrySelection { kept, ..EntrySelection::default() };
        selection.needed = Some(graph.needed_by(&tables));
        for entry in selection.settle(toc) {
            let concerns_us = entry.depends_on.iter().any(|id| wanted.contains(id));
            let stands_alone =
                matches!(&*entry.kind, "FUNCTION" | "PROCEDURE" | "AGGREGATE" | "TYPE" | "DOMAIN");
            if (concerns_us || stands_alone) && WORTH_SAYING.contains(&entry.kind.as_str()) {
                selection.left_out.push(entry.display());
            }
        }
        let only_defined =
            toc.entries.iter().filter(|entry| tables.contains(&entry.id) && !wanted.contains(&entry.id));
        selection.definition_only =
            only_defined.map(|entry| (entry.schema.clone().unwrap_or_default(), entry.tag.clone())).collect();
        selection
    }

    /// Selects the large objects alone, with their owners, privileges and comments.
    pub fn large_objects(toc: &Toc) -> EntrySelection {
        let of_one = |entry: &&Entry| entry.kind.starts_with("BLOB") || entry.tag.starts_with("LARGE OBJECT");
        let kept = toc.entries.iter().filter(of_one).map(|entry| entry.id).collect();
        EntrySelection { kept, ..EntrySelection::default() }
    }

    /// Leaves out one more entry and every entry that depends on it.
    pub fn leave_out(&mut self, toc: &Toc, id: i32) {
        self.kept.remove(&id);
        self.settle(toc);
    }

    /// Whether the entry's absence concerns somebody who asked for these entries.
    pub fn needs(&self, entry: &Entry) -> bool {
        self.needed.as_ref().is_none_or(|needed| needed.contains(&entry.id))
    }

    pub fn keeps(&self, entry: &Entry) -> bool {
        self.kept.contains(&entry.id)
    }

    pub fn entries<'a>(&'a self, toc: &'a Toc) -> impl Iterator<Item = &'a Entry> {
        toc.entries.iter().filter(|entry| self.keeps(entry))
    }

    /// Returns the entries without those that another step restores after the rows.
    pub fn in_step(&self, toc: &Toc, step: AfterRows) -> EntrySelection {
        let mut selection = self.clone();
        let after_rows = self.entries(toc).filter(|entry| entry.section == Section::PostData);
        let steps: HashMap<i32, AfterRows> = after_rows.map(|entry| (entry.id, step_of(entry))).collect();
        for entry in self.entries(toc) {
            let restored = match entry.section {
                Section::PostData => steps[&entry.id],
                // Comments and privileges are restored along with their object.
                Section::None => {
                    let of_its_object = entry.depends_on.iter().filter_map(|id| steps.get(id)).next();
                    of_its_object.copied().unwrap_or(AfterRows::Names)
                }
                Section::PreData | Section::Data => continue,
            };
            if !step.includes(restored) {
                selection.kept.remove(&entry.id);
            }
        }
        selection
    }

    /// Returns the entries without some.
    pub fn without(mut self, entries: &BTreeSet<i32>) -> EntrySelection {
        self.kept.retain(|id| !entries.contains(id));
        self
    }

    /// Returns how many large objects, or groups of them, are kept.
    pub fn has_large_objects(&self, toc: &Toc) -> bool {
        self.entries(toc).any(|entry| entry.kind == "BLOBS")
    }

    /// Whether an entry of this section is kept.
    pub fn has(&self, toc: &Toc, section: Section) -> bool {
        self.entries(toc).any(|entry| entry.section == section)
    }

    /// Writes the list for `pg_restore --use-list`.
    ///
    /// # Errors
    /// Fails with `Unavailable` if writing to the disk fails.
    pub fn write_list(&self, toc: &Toc, path: &Path) -> Result<()> {
        let mut list = String::new();
        for entry in self.entries(toc) {
            // pg_restore reads only the number; the rest is for a person who looks at the file.
            let name = entry.display().replace(['\n', '\r'], " ");
            writeln!(list, "{}; {name}", entry.id).expect("a string takes everything");
        }
        std::fs::write(path, list).context(Kind::Unavailable, || format!("cannot write {}", path.display()))
    }

    /// Removes each entry that needs an entry which is not kept, until none is left; returns the removed entries.
    fn settle<'a>(&mut self, toc: &'a Toc) -> Vec<&'a Entry> {
        let graph = Graph::of(toc);
        let mut gone = Vec::new();
        loop {
            let lost: Vec<&Entry> = toc
                .entries
                .iter()
                .filter(|entry| self.keeps(entry) && !graph.is_whole(entry, &self.kept))
                .collect();
            if lost.is_empty() {
                return gone;
            }
            for entry in lost {
                self.kept.remove(&entry.id);
                gone.push(entry);
            }
        }
    }
}

/// Returns the step that restores an entry after the rows.
fn step_of(entry: &Entry) -> AfterRows {
    // Whether a value of a row can name the object.
    let named = match entry.kind.as_str() {
        "EVENT TRIGGER" => return AfterRows::EventTriggers,
        "INDEX" | "INDEX ATTACH" | "MATERIALIZED VIEW" | "VIEW" | "FUNCTION" | "PROCEDURE" | "AGGREGATE" => {
            true
        }
        // These are primary keys, UNIQUE and EXCLUDE; PostgreSQL 18 has NOT NULL NOT VALID too.
        "CONSTRAINT" => !entry.definition.contains("NOT VALID"),
        _ => false,
    };
    if named { AfterRows::Names } else { AfterRows::Remainder }
}

fn is_relation_with_rows(entry: &Entry) -> bool {
    matches!(&*entry.kind, "TABLE" | "FOREIGN TABLE")
}

fn is_ours(entry: &Entry) -> bool {
    match entry.kind.as_str() {
        "SCHEMA" => entry.tag == OURS,
        "PUBLICATION" => entry.tag.starts_with(OURS),
        "EVENT TRIGGER" => entry.tag.trim_start_matches('!').starts_with(OURS),
        _ => entry.schema.as_deref() == Some(OURS),
    }
}

/// The archive's entries by id, to follow dependencies.
struct Graph<'a> {
    by_id: HashMap<i32, &'a Entry>,
}

impl<'a> Graph<'a> {
    fn of(toc: &'a Toc) -> Graph<'a> {
        Graph { by_id: toc.entries.iter().map(|entry| (entry.id, entry)).collect() }
    }

    fn needs(&self, entry: &Entry) -> impl Iterator<Item = &'a Entry> {
        // An id without an entry belongs to an object that pg_dump knew but did not write.
        entry.depends_on.iter().filter_map(|id| self.by_id.get(id).copied())
    }

    /// Whether every entry that `entry` needs is kept.
    fn is_whole(&self, entry: &Entry, kept: &HashSet<i32>) -> bool {
        let there = |needed: &Entry| kept.contains(&needed.id);
        match entry.kind.as_str() {
            // A plain sequence can be created without the table that owns it.
            "SEQUENCE" if entry.definition.starts_with("CREATE") => {
                self.needs(entry).all(|needed| needed.kind == "TABLE" || there(needed))
            }
            // Only the sequence names its owning table.
            "SEQUENCE OWNED BY" => {
                self.needs(entry).all(|sequence| there(sequence) && self.needs(sequence).all(there))
            }
            _ => self.needs(entry).all(there),
        }
    }

    /// Returns `wanted` and the tables that these inherit from, are partitions of or whose row type they use.
    fn with_tables_below(&self, wanted: &HashSet<i32>) -> HashSet<i32> {
        let mut tables = wanted.clone();
        let mut open: Vec<i32> = wanted.iter().copied().collect();
        while let Some(entry) = open.pop().and_then(|id| self.by_id.get(&id)) {
            for needed in self.needs(entry).filter(|needed| is_relation_with_rows(needed)) {
                if tables.insert(needed.id) {
                    open.push(needed.id);
                }
            }
        }
        tables
    }

    /// Returns the tables, what hangs on them, and everything that these need.
    fn needed_by(&self, tables: &HashSet<i32>) -> HashSet<i32> {
        let hangs_on = |entry: &&&Entry| entry.depends_on.iter().any(|id| tables.contains(id));
        let hanging = self.by_id.values().filter(hangs_on).map(|entry| entry.id);
        let mut open: Vec<i32> = tables.iter().copied().chain(hanging).collect();
        let mut needed = HashSet::new();
        while let Some(id) = open.pop() {
            if needed.insert(id)
                && let Some(entry) = self.by_id.get(&id)
            {
                open.extend(&entry.depends_on);
            }
        }
        needed
    }

    /// Returns the sequences that belong to one of `tables` or fill one of its columns.
    fn sequences_of(&self, toc: &Toc, tables: &HashSet<i32>) -> HashSet<i32> {
        let mut sequences = HashSet::new();
        for entry in &toc.entries {
            let on_table = || entry.depends_on.iter().any(|id| tables.contains(id));
            match entry.kind.as_str() {
                "SEQUENCE" if on_table() => {
                    sequences.insert(entry.id);
                }
                "TABLE" if !tables.contains(&entry.id) => {}
                "TABLE" => sequences.extend(self.sequences_needed(entry)),
                "DEFAULT" if on_table() => sequences.extend(self.sequences_needed(entry)),
                _ => {}
            }
        }
        sequences
    }

    fn sequences_needed(&self, entry: &Entry) -> impl Iterator<Item = i32> {
        self.needs(entry).filter(|needed| needed.kind == "SEQUENCE").map(|needed| needed.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toc() -> Toc {
        Toc::read(&include_bytes!("../../../fixtures/formats/archive/pg_dump-18.dump")[..]).unwrap()
    }

    fn kept(toc: &Toc, selection: &EntrySelection) -> Vec<String> {
        let shown = |entry: &&Entry| entry.section != Section::None && !entry.definition.starts_with("SET");
        selection.entries(toc).filter(shown).map(Entry::display).collect()
    }

    #[test]
    fn a_table_comes_with_what_hangs_on_it() {
        let toc = toc();
        let selection = EntrySelection::tables(&toc, |schema, name| (schema, name) == ("a b", "c d"));
        let kept = kept(&toc, &selection);
        for name in [
            "SCHEMA a b",
            "TABLE a b.c d",
            "SEQUENCE a b.c d_id_seq",
            "DEFAULT a b.c d id",
            "CONSTRAINT a b.c d c d_pkey",
        ] {
            assert!(kept.iter().any(|entry| entry == name), "{name} is not in {kept:?}");
        }
        assert!(kept.iter().all(|entry| !entry.contains("other") && !entry.starts_with("BLOB")), "{kept:?}");
        assert!(kept.iter().any(|entry| entry == "VIEW public.v"));
        assert_eq!(selection.left_out, ["FK CONSTRAINT public.other other_id_fkey"]);
    }

    #[test]
    fn what_refers_to_a_table_that_is_left_out_is_named() {
        let toc = toc();
        let selection = EntrySelection::tables(&toc, |_, name| name == "other");
        assert_eq!(selection.left_out, ["FK CONSTRAINT public.other other_id_fkey"]);
        assert!(
            kept(&toc, &selection).iter().all(|entry| !entry.contains("c d") && !entry.starts_with("VIEW"))
        );
    }

    #[test]
    fn the_whole_is_everything() {
        let toc = toc();
        let selection = EntrySelection::whole(&toc);
        assert_eq!(selection.entries(&toc).count(), toc.entries.len());
        assert!(selection.has_large_objects(&toc) && selection.left_out.is_empty());
    }
}
