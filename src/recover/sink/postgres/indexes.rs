//! Builds the indexes of a table: those of a large one beside the sessions that read the table back, several at once;
//! those of small tables together in one transaction.

use futures_util::future::try_join_all;
use tokio::sync::Semaphore;

use crate::error::{Error, Result};
use crate::model::Table;
use crate::model::schema::quote_ident;
use crate::recover::archive::Entry;

use super::PostgresSink;

/// Lets one process build an index.
const WITHOUT_WORKERS: &str = "SET LOCAL max_parallel_maintenance_workers = 0; ";

impl PostgresSink {
    /// Builds the indexes of a table of so many rows that need no lock against readers. `free` has a permit for each index that
    /// may be built at the same time. Returns the constraints whose index is built.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn index_beside_readers(
        &self,
        (table, rows): (&Table, u64),
        free: &Semaphore,
    ) -> Result<Vec<i32>> {
        let settings = if self.room.sorts_in_memory(rows) { WITHOUT_WORKERS } else { "" };
        let build = async |entry: &Entry| {
            let _permit = free.acquire().await.map_err(|_| Error::interrupted())?;
            if let Some(constraint) = IndexedConstraint::of(entry) {
                let sql = format!("{settings}{}", constraint.index);
                return Ok(self.attempt_apart(&sql).await?.then_some(entry.id));
            }
            if entry.kind == "INDEX" && !entry.definition.contains(" REPLICA IDENTITY ") {
                self.make_with(&[entry], settings).await?;
            }
            Ok::<_, Error>(None)
        };
        let entries = self.indexes_of(table);
        Ok(try_join_all(entries.into_iter().map(build)).await?.into_iter().flatten().collect())
    }

    /// Makes the constraints and indexes of tables that are not made yet. `indexed` are the constraints whose index is
    /// built already.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn index(&self, tables: &[&Table], indexed: &[i32]) -> Result<()> {
        let all: Vec<_> = tables.iter().flat_map(|table| self.indexes_of(table)).collect();
        for entry in all.iter().filter(|entry| indexed.contains(&entry.id)) {
            let Some(constraint) = IndexedConstraint::of(entry) else { continue };
            if self.attempt_apart(&constraint.constraint).await? {
                self.ours().insert(entry.id);
            } else {
                self.attempt_apart(&constraint.drop_index).await?;
            }
        }
        self.make_together(&all).await
    }

    /// Leaves the indexes that are not made by now as they are.
    pub(super) fn no_more_indexes(&self) {
        let entries = &self.definitions.archive.toc.entries;
        self.ours().extend(self.indexes.values().flatten().map(|place| entries[*place].id));
    }

    fn indexes_of(&self, table: &Table) -> Vec<&Entry> {
        let places = self.indexes.get(&table.display()).into_iter().flatten();
        let entries = places.map(|place| &self.definitions.archive.toc.entries[*place]);
        entries.filter(|entry| self.can_make(entry)).collect()
    }
}

/// A primary key or UNIQUE constraint in two steps: a unique index, which can be built while others read the table, and
/// the constraint that takes the index over.
#[derive(Debug, PartialEq, Eq)]
struct IndexedConstraint {
    index: String,
    constraint: String,
    drop_index: String,
}

impl IndexedConstraint {
    /// Returns the steps if the constraint is of the plainest form: a list of columns, and nothing else.
    fn of(entry: &Entry) -> Option<IndexedConstraint> {
        let definition = entry.definition.trim_end().strip_suffix(");")?;
        let (alter, rest) = definition.split_once("\n    ADD CONSTRAINT ")?;
        let (name, kind, columns) = ["PRIMARY KEY", "UNIQUE"].iter().find_map(|kind| {
            let (name, columns) = rest.split_once(&format!(" {kind} ("))?;
            Some((name, kind, columns))
        })?;
        let is_plain = entry.kind == "CONSTRAINT" && !name.contains([' ', '"']);
        if !is_plain || columns.contains(['(', ')', '"', ';']) {
            return None;
        }
        let (table, schema) =
            (alter.strip_prefix("ALTER TABLE ONLY ")?, quote_ident(entry.schema.as_deref()?));
        let place = "SET LOCAL default_tablespace = '';";
        Some(IndexedConstraint {
            index: format!("{place} CREATE UNIQUE INDEX {name} ON ONLY {table} USING btree ({columns});"),
            constraint: format!("{alter} ADD CONSTRAINT {name} {kind} USING INDEX {name};"),
            drop_index: format!("DROP INDEX {schema}.{name};"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recover::archive::Section;

    fn steps(definition: &str) -> Option<IndexedConstraint> {
        IndexedConstraint::of(&Entry {
            id: 1,
            oid: 1,
            kind: "CONSTRAINT".into(),
            tag: "t t_pkey".into(),
            schema: Some("a b".into()),
            owner: None,
            tablespace: None,
            access_method: None,
            section: Section::PostData,
            definition: definition.into(),
            drop: String::new(),
            depends_on: Vec::new(),
        })
    }

    #[test]
    fn a_plain_constraint_is_made_from_an_index() {
        let plain =
            steps("ALTER TABLE ONLY \"a b\".t\n    ADD CONSTRAINT t_pkey PRIMARY KEY (a, b);\n\n\n").unwrap();
        assert_eq!(
            plain.index,
            "SET LOCAL default_tablespace = ''; CREATE UNIQUE INDEX t_pkey ON ONLY \"a b\".t USING btree (a, b);"
        );
        assert_eq!(
            plain.constraint,
            "ALTER TABLE ONLY \"a b\".t ADD CONSTRAINT t_pkey PRIMARY KEY USING INDEX t_pkey;"
        );
        assert_eq!(plain.drop_index, "DROP INDEX \"a b\".t_pkey;");
    }

    #[test]
    fn any_other_constraint_is_made_as_it_is_written() {
        let alter = "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT";
        for rest in [
            "u UNIQUE (a) INCLUDE (b);",
            "u UNIQUE (a) DEFERRABLE;",
            "u UNIQUE NULLS NOT DISTINCT (a);",
            "u UNIQUE (a) WITH (fillfactor='70');",
            "\"U\" UNIQUE (a);",
            "u UNIQUE (\"a)\");",
            "u EXCLUDE USING gist (a WITH =);",
            "u UNIQUE (a);\n\nALTER TABLE ONLY public.t REPLICA IDENTITY USING INDEX u;",
        ] {
            assert_eq!(steps(&format!("{alter} {rest}\n")), None, "{rest}");
        }
    }
}
