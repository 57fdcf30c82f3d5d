//! The tables to which the rows of other tables refer, as the foreign keys of an archive tell.

use std::collections::{BTreeSet, HashMap};

use super::{Entry, Toc};

/// Returns the tables (schema, name) to which the rows of the chosen ones refer, directly or by the rows of others. A
/// partition has the foreign keys of its parent, and who refers to a partitioned table refers to its partitions.
pub fn referenced_tables(toc: &Toc, chosen: impl Fn(&str, &str) -> bool) -> BTreeSet<(String, String)> {
    let tables = Tables::of(toc);
    let of_table = |entry: &&Entry| entry.kind == "TABLE";
    let named = |entry: &Entry| (entry.schema.clone().unwrap_or_default(), entry.tag.clone());
    let mut open: Vec<i32> = toc
        .entries
        .iter()
        .filter(of_table)
        .filter(|entry| chosen(entry.schema.as_deref().unwrap_or_default(), &entry.tag))
        .map(|entry| entry.id)
        .collect();
    let mut seen: BTreeSet<i32> = open.iter().copied().collect();
    while let Some(id) = open.pop() {
        let referring = tables.with_parents(id);
        let targets = referring.iter().flat_map(|id| tables.targets.get(id).into_iter().flatten());
        open.extend(targets.flat_map(|target| tables.with_partitions(*target)).filter(|id| seen.insert(*id)));
    }
    let found = seen.iter().filter_map(|id| tables.by_id.get(id)).map(|entry| named(entry));
    found.filter(|(schema, name)| !chosen(schema, name)).collect()
}

/// How the tables of an archive hang together.
struct Tables<'a> {
    by_id: HashMap<i32, &'a Entry>,
    /// The tables that the foreign keys of a table refer to.
    targets: HashMap<i32, BTreeSet<i32>>,
    /// The partitioned table of each partition.
    parents: HashMap<i32, i32>,
}

impl<'a> Tables<'a> {
    fn of(toc: &'a Toc) -> Tables<'a> {
        let by_id = toc.entries.iter().map(|entry| (entry.id, entry)).collect();
        let mut tables = Tables { by_id, targets: HashMap::new(), parents: HashMap::new() };
        for entry in &toc.entries {
            match entry.kind.as_str() {
                "TABLE ATTACH" => {
                    let (partition, others) = tables.own_and_others(entry, &entry.tag);
                    let parent = others.into_iter().next();
                    tables.parents.extend(partition.zip(parent));
                }
                "FK CONSTRAINT" => {
                    let (own, mut others) = tables.own_and_others(entry, &entry.tag);
                    // A table may refer to itself.
                    others.extend(own);
                    tables.targets.entry(own.unwrap_or_default()).or_default().extend(others);
                }
                _ => {}
            }
        }
        tables
    }

    /// Divides the tables on which an entry depends, also by way of an index, into the one that the entry belongs to and
    /// the others. `tag` begins with the name of the table that the entry belongs to.
    fn own_and_others(&self, entry: &Entry, tag: &str) -> (Option<i32>, BTreeSet<i32>) {
        let index = |id: &i32| {
            self.by_id.get(id).filter(|it| matches!(&*it.kind, "CONSTRAINT" | "INDEX" | "INDEX ATTACH"))
        };
        let below = |id: &i32| index(id).map(|it| it.depends_on.as_slice()).unwrap_or_default();
        let near = entry.depends_on.iter().flat_map(|id| std::iter::once(id).chain(below(id)));
        let of_table = |id: &&i32| self.by_id.get(id).is_some_and(|entry| entry.kind == "TABLE");
        let mut others: BTreeSet<i32> = near.filter(of_table).copied().collect();
        let is_own = |id: &&i32| {
            let table = self.by_id[*id];
            let rest = tag.strip_prefix(table.tag.as_str());
            table.schema == entry.schema && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        let own = others.iter().filter(is_own).max_by_key(|id| self.by_id[*id].tag.len()).copied();
        others.retain(|id| Some(*id) != own);
        (own, others)
    }

    fn with_parents(&self, id: i32) -> Vec<i32> {
        std::iter::successors(Some(id), |id| self.parents.get(id).copied()).collect()
    }

    fn with_partitions(&self, id: i32) -> Vec<i32> {
        let mut found = vec![id];
        let mut at = 0;
        while at < found.len() {
            let parent = found[at];
            found.extend(self.parents.iter().filter(|(_, it)| **it == parent).map(|(id, _)| *id));
            at += 1;
        }
        found
    }
}
