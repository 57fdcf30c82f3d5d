//! The constraints, triggers and rules of the tables to change, as the source's catalogs have them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::connect::server_error;
use crate::error::{Error, Result};
use crate::model::Table;

use super::rows::{FreeValue, Parking};

/// The constraints and triggers that are in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveSchema {
    pub foreign_keys: Vec<ForeignKey>,
    pub unique_keys: Vec<UniqueKey>,
    /// The triggers that would fire, by table.
    pub triggers: BTreeMap<u32, Vec<LiveTrigger>>,
    /// The tables that have rules, which would make other statements of ours.
    pub ruled: BTreeSet<u32>,
    /// The partitioned table at the top, by partition.
    pub roots: BTreeMap<u32, u32>,
    /// The columns with stored values, by table.
    columns: BTreeMap<u32, Vec<LiveColumn>>,
}

/// A column as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LiveColumn {
    number: i16,
    name: String,
    type_oid: u32,
    takes_null: bool,
}

/// A foreign key between tables with rows: partitioned tables are replaced by their partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    pub name: String,
    pub children: Vec<ChildTable>,
    pub child_columns: Vec<String>,
    pub parents: Vec<u32>,
    pub parent_columns: Vec<String>,
    /// Whether a deleted parent takes its children along, or changes them.
    pub acts_on_delete: bool,
    /// Whether a parent with children can be deleted and inserted again in one statement.
    pub lets_parent_go: bool,
}

/// A table whose rows refer to others. The history may not have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildTable {
    pub oid: u32,
    pub schema: String,
    pub name: String,
}

/// Columns whose values are unique in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueKey {
    pub table: u32,
    pub name: String,
    pub columns: Vec<String>,
    /// Whether the server looks at each row as it is written, and not at the end.
    pub is_immediate: bool,
}

/// A trigger that somebody made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveTrigger {
    pub name: String,
    /// `pg_trigger.tgenabled`.
    pub enabled: char,
}

/// The leaves of both tables stand for partitioned tables, whose own rows of `pg_constraint` are the ones without a
/// parent.
const FOREIGN_KEYS: &str = "
SELECT c.conname::text, c.confdeltype::text, children.oids, parents.oids,
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(c.conkey) WITH ORDINALITY k(number, at)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number ORDER BY k.at),
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(c.confkey) WITH ORDINALITY k(number, at)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.number ORDER BY k.at),
       children.schemas, children.names
  FROM pg_catalog.pg_constraint c
  CROSS JOIN LATERAL (
       SELECT pg_catalog.array_agg(r.oid) AS oids, pg_catalog.array_agg(n.nspname::text) AS schemas,
              pg_catalog.array_agg(r.relname::text) AS names
         FROM pg_catalog.pg_class r JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
        WHERE r.relkind = 'r'
          AND r.oid IN (SELECT c.conrelid UNION SELECT relid::oid FROM pg_catalog.pg_partition_tree(c.conrelid))
       ) children
  CROSS JOIN LATERAL (
       SELECT ARRAY(SELECT c.confrelid UNION SELECT relid::oid FROM pg_catalog.pg_partition_tree(c.confrelid)) AS oids
       ) parents
 WHERE c.contype = 'f' AND c.conparentid = 0 AND children.oids IS NOT NULL ORDER BY c.conname";

const UNIQUE_KEYS: &str = "
SELECT i.indrelid, x.relname::text, i.indimmediate,
       ARRAY(SELECT a.attname::text FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) k(at)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.at] ORDER BY k.at)
  FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
 WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indrelid = ANY ($1)";

/// Version 14 takes a partition's copy of a trigger for an internal one.
const TRIGGERS: &str = "
SELECT t.tgrelid, t.tgname::text, t.tgenabled::text FROM pg_catalog.pg_trigger t
 WHERE (NOT t.tgisinternal OR (t.tgparentid <> 0 AND t.tgconstraint = 0)) AND t.tgenabled IN ('O', 'A') AND t.tgrelid = ANY ($1) ORDER BY t.tgname";

const RULES: &str = "SELECT DISTINCT ev_class FROM pg_catalog.pg_rewrite WHERE ev_class = ANY ($1)";

const ROOTS: &str = "
SELECT c.oid, pg_catalog.pg_partition_root(c.oid)::oid FROM pg_catalog.pg_class c WHERE c.relispartition AND c.relkind = 'r'";

const COLUMNS: &str = "
SELECT a.attrelid, a.attnum, a.attname::text, a.atttypid, NOT a.attnotnull FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum";

/// Reads what is in force for these tables, and the foreign keys and partitions of all tables.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn live_schema(client: &Client, tables: &[u32]) -> Result<LiveSchema> {
    let failed = |error| server_error("cannot read the constraints of the source", error);
    let mut schema = LiveSchema::default();
    // The queries are sent together: a reset asks three times, and would wait for each answer.
    let of_tables: [&(dyn ToSql + Sync); 1] = [&tables];
    let (foreign_keys, unique_keys, triggers, rules, roots, columns) = tokio::try_join!(
        client.query(FOREIGN_KEYS, &[]),
        client.query(UNIQUE_KEYS, &of_tables),
        client.query(TRIGGERS, &of_tables),
        client.query(RULES, &of_tables),
        client.query(ROOTS, &[]),
        client.query(COLUMNS, &of_tables),
    )
    .map_err(failed)?;
    for row in foreign_keys {
        schema.foreign_keys.push(foreign_key(&row));
    }
    for row in unique_keys {
        let (table, name, is_immediate, columns) = (row.get(0), row.get(1), row.get(2), row.get(3));
        schema.unique_keys.push(UniqueKey { table, name, columns, is_immediate });
    }
    for row in triggers {
        let trigger = LiveTrigger { name: row.get(1), enabled: letter(&row, 2) };
        schema.triggers.entry(row.get(0)).or_default().push(trigger);
    }
    for row in rules {
        schema.ruled.insert(row.get(0));
    }
    for row in roots {
        schema.roots.insert(row.get(0), row.get(1));
    }
    for row in columns {
        let (number, name, type_oid, takes_null) = (row.get(1), row.get(2), row.get(3), row.get(4));
        let column = LiveColumn { number, name, type_oid, takes_null };
        schema.columns.entry(row.get(0)).or_default().push(column);
    }
    Ok(schema)
}

/// Reads what is in force for these tables of another database, in which they have the same names and other numbers.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn schema_by_names(client: &Client, tables: &[&Table]) -> Result<LiveSchema> {
    let names: Vec<String> = tables.iter().map(|table| table.quoted()).collect();
    let sql = "SELECT pg_catalog.to_regclass(name)::oid FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY t (name, at) ORDER BY at";
    let rows = client.query(sql, &[&names]).await;
    let rows = rows.map_err(|error| server_error("cannot look for the recovered tables", error))?;
    let found = rows.iter().map(|row| row.get::<_, Option<u32>>(0)).zip(tables);
    let numbers: BTreeMap<u32, u32> = found.filter_map(|(there, table)| Some((there?, table.oid))).collect();
    let oids: Vec<u32> = numbers.keys().copied().collect();
    Ok(live_schema(client, &oids).await?.renumbered(&numbers))
}

fn letter(row: &Row, column: usize) -> char {
    row.get::<_, &str>(column).chars().next().unwrap_or(' ')
}

fn foreign_key(row: &Row) -> ForeignKey {
    let on_delete = letter(row, 1);
    let (oids, schemas, names): (Vec<u32>, Vec<String>, Vec<String>) = (row.get(2), row.get(6), row.get(7));
    let children = oids.into_iter().zip(schemas).zip(names);
    ForeignKey {
        name: row.get(0),
        acts_on_delete: matches!(on_delete, 'c' | 'n' | 'd'),
        lets_parent_go: on_delete == 'a',
        children: children.map(|((oid, schema), name)| ChildTable { oid, schema, name }).collect(),
        parents: row.get(3),
        child_columns: row.get(4),
        parent_columns: row.get(5),
    }
}

impl LiveSchema {
    /// The same with other numbers of the tables, those of the history; a table that has none there is 0.
    pub fn renumbered(mut self, number: &BTreeMap<u32, u32>) -> LiveSchema {
        let of = |oid: u32| number.get(&oid).copied().unwrap_or_default();
        for key in &mut self.foreign_keys {
            key.children.iter_mut().for_each(|child| child.oid = of(child.oid));
            key.parents.iter_mut().for_each(|oid| *oid = of(*oid));
        }
        self.unique_keys.iter_mut().for_each(|key| key.table = of(key.table));
        LiveSchema {
            triggers: self.triggers.into_iter().map(|(oid, it)| (of(oid), it)).collect(),
            ruled: self.ruled.into_iter().map(of).collect(),
            roots: self.roots.into_iter().map(|(oid, root)| (of(oid), root)).collect(),
            columns: BTreeMap::new(),
            ..self
        }
    }

    /// Refuses a table that is not what the history says, or whose statements would do something else.
    ///
    /// # Errors
    /// `Refused` with the table's name.
    pub fn check(&self, table: &Table) -> Result<()> {
        let known = table.columns.iter().map(|column| (column.number, &column.name, column.type_oid));
        let found = self.columns.get(&table.oid).map(Vec::as_slice).unwrap_or_default();
        if !known.eq(found.iter().map(|column| (column.number, &column.name, column.type_oid))) {
            return Err(Error::refused(format!(
                "{} has other columns on the source than in the history; take a checkpoint with: backwhen checkpoint \
                 --from-source, then try again",
                table.display()
            )));
        }
        self.refuse_rules(table)
    }

    /// # Errors
    /// `Refused` with the table's name, if it has rules.
    pub fn refuse_rules(&self, table: &Table) -> Result<()> {
        if self.ruled.contains(&table.oid) {
            return Err(Error::refused(format!(
                "{} has rules, which would make other statements of those that put its rows back; disable them with \
                 ALTER TABLE … DISABLE RULE, or leave the table out",
                table.display()
            )));
        }
        Ok(())
    }

    /// Adds the tables that foreign keys lead to from these tables, in either direction, and the partitions beside them.
    pub fn related(&self, mut tables: HashSet<u32>) -> HashSet<u32> {
        loop {
            let before = tables.len();
            for key in &self.foreign_keys {
                let ends = || key.children.iter().map(|child| child.oid).chain(key.parents.iter().copied());
                if ends().any(|oid| tables.contains(&oid)) {
                    tables.extend(ends());
                }
            }
            let roots: HashSet<_> =
                self.roots.iter().filter(|(oid, _)| tables.contains(oid)).map(|(_, root)| *root).collect();
            tables.extend(self.roots.iter().filter(|(_, root)| roots.contains(root)).map(|(oid, _)| *oid));
            if tables.len() == before {
                return tables;
            }
        }
    }

    /// Finds the place where rows can wait while others take their values of a unique key: a column that no foreign key
    /// refers to, best of all one that takes NULL.
    pub fn parking(&self, table: &Table, key: &UniqueKey) -> Option<Parking> {
        let is_referred_to = |column: &String| {
            let mut keys = self.foreign_keys.iter().filter(|it| it.parents.contains(&table.oid));
            keys.any(|it| it.parent_columns.contains(column))
        };
        let found = self.columns.get(&table.oid).into_iter().flatten();
        let candidates =
            found.filter(|column| key.columns.contains(&column.name) && !is_referred_to(&column.name));
        let parking = candidates.filter_map(|column| {
            let at = table.columns.iter().position(|it| it.number == column.number)?;
            let value = FreeValue::of(column.type_oid, column.takes_null)?;
            Some(Parking { column: at, value })
        });
        parking.min_by_key(|parking| parking.value != FreeValue::Null)
    }

    /// Whether rows of the table can be deleted and inserted again within one statement, whoever refers to them.
    pub fn rows_can_be_replaced(&self, table: u32) -> bool {
        self.foreign_keys.iter().all(|key| key.lets_parent_go || !key.parents.contains(&table))
    }
}
