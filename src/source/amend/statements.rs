//! The statements that change rows of the live database, as text.

use crate::model::Table;
use crate::model::spelling::{Spelled, spell};
use crate::source::digests::text_of;

use super::catalog::{ChildTable, ForeignKey, LiveTrigger};
use super::rows::{Acts, FreeValue, Parking};

/// A table that is to be put right, and the names of what belongs to it.
pub struct TableStatements {
    number: usize,
    spelled: Spelled,
    /// The positions of the columns by which a row is found; `None` for a table without a key.
    key: Option<Vec<usize>>,
    encoding: String,
    /// Whether the rows are in the temporary table of all tables.
    pub are_literals: bool,
}

impl TableStatements {
    /// `number` tells the table's temporary tables from others'.
    pub fn new(number: usize, table: &Table, encoding: &str) -> TableStatements {
        let key = match &table.identity {
            crate::model::RowIdentity::Key(columns) => Some(columns.clone()),
            crate::model::RowIdentity::WholeRow => None,
        };
        let spelled = Spelled::of(table, encoding);
        TableStatements { number, spelled, key, encoding: encoding.to_owned(), are_literals: false }
    }

    /// The table's name as SQL has it.
    pub fn table(&self) -> &str {
        &self.spelled.table
    }

    fn is_keyed(&self) -> bool {
        self.key.is_some()
    }

    /// The temporary table with the rows as they must be now, or, with `then`, as they shall be.
    fn temporary(&self, then: bool) -> String {
        if self.are_literals {
            return self.literals(then);
        }
        format!("pg_temp.backwhen_{}_{}", self.number, if then { "then" } else { "now" })
    }

    /// A query for the rows that were sent as literals, with the columns of a typed temporary table.
    fn literals(&self, then: bool) -> String {
        let column = |(at, name): (usize, &String)| format!(", (r).{name} AS c{at}");
        let columns: String = self.spelled.each.iter().enumerate().map(column).collect();
        format!(
            "(SELECT number, act, nth{columns} FROM (SELECT number, act, nth, line::{} AS r FROM pg_temp.backwhen_rows \
             WHERE place = {} AND is_then = {then} OFFSET 0) literals)",
            self.spelled.table, self.number
        )
    }

    /// The columns of a temporary table, behind a prefix.
    fn columns(&self, of: &str) -> Vec<String> {
        (0..self.spelled.each.len()).map(|number| format!("{of}.c{number}")).collect()
    }

    fn live_columns(&self) -> Vec<String> {
        self.spelled.each.iter().map(|column| format!("t.{column}")).collect()
    }

    /// Makes both temporary tables, with the live table's types and nothing else of it.
    pub fn create(&self) -> String {
        let list: Vec<_> =
            self.spelled.each.iter().enumerate().map(|(at, it)| format!(", t.{it} AS c{at}")).collect();
        let make = |then| {
            format!(
                "CREATE TEMPORARY TABLE {} AS SELECT 0::int8 AS number, ''::text AS act, 0::int8 AS nth{} \
                   FROM ONLY {} t WITH NO DATA; ",
                self.temporary(then).trim_start_matches("pg_temp."),
                list.concat(),
                self.spelled.table
            )
        };
        make(false) + &make(true)
    }

    /// Empties both temporary tables.
    pub fn clear(&self) -> String {
        format!("DELETE FROM {}; DELETE FROM {}; ", self.temporary(false), self.temporary(true))
    }

    pub fn copy_in(&self, then: bool) -> String {
        format!("COPY {} FROM STDIN", self.temporary(then))
    }

    pub fn analyze(&self) -> String {
        // The numbers of rows matter, and the values by which rows are found; reading all values would take longer.
        let key = self.key.iter().flatten().map(|at| format!(", c{at}"));
        format!(
            "ANALYZE {} (number{}); ANALYZE {} (number); ",
            self.temporary(false),
            key.collect::<String>(),
            self.temporary(true)
        )
    }

    pub fn lock_name(&self) -> String {
        format!("ONLY {}", self.spelled.table)
    }

    /// The live row `t` is the very row `o`: the same bytes, or, if values may be stored in several ways, the same text.
    fn is_image(&self) -> String {
        let (live, kept) = (self.live_columns(), self.columns("o"));
        format!(
            "(pg_catalog.record_image_eq(ROW({}), ROW({})) OR {} = {})",
            live.join(", "),
            kept.join(", "),
            text_of(&live),
            text_of(&kept)
        )
    }

    /// The condition on which a row is found, and is what it must be.
    fn matches(&self) -> String {
        let (live, kept) = (self.live_columns(), self.columns("o"));
        let key = self.key.iter().flatten().map(|at| format!("{} = {} AND ", live[*at], kept[*at]));
        key.collect::<String>() + &self.is_image()
    }

    fn delete(&self) -> String {
        let now = self.temporary(false);
        if self.is_keyed() {
            return format!(
                "DELETE FROM ONLY {} t USING {now} o WHERE o.act IN ('delete', 'replace') AND {} RETURNING 1",
                self.spelled.table,
                self.matches()
            );
        }
        // Equal rows are told apart by their place, and of each as many go as must.
        let live = text_of(&self.live_columns());
        format!(
            "DELETE FROM ONLY {table} t USING (SELECT l.place FROM (SELECT t.ctid AS place, {live} AS image, \
             pg_catalog.row_number() OVER (PARTITION BY {live}) AS nth FROM ONLY {table} t) l \
             JOIN (SELECT {kept} AS image, o.nth FROM {now} o WHERE o.act = 'delete') o USING (image, nth)) hit \
             WHERE t.ctid = hit.place RETURNING 1",
            table = self.spelled.table,
            kept = text_of(&self.columns("o"))
        )
    }

    fn update(&self, changed: &[usize], after: &str) -> String {
        let set: Vec<_> = changed.iter().map(|at| format!("{} = n.c{at}", self.spelled.each[*at])).collect();
        format!(
            "UPDATE ONLY {} t SET {} FROM {} o JOIN {} n USING (number) WHERE o.act = 'update' AND {} AND {after} \
             RETURNING 1",
            self.spelled.table,
            set.join(", "),
            self.temporary(false),
            self.temporary(true),
            self.matches()
        )
    }

    fn insert(&self, after: &str) -> String {
        format!(
            "INSERT INTO {}{} OVERRIDING SYSTEM VALUE SELECT {} FROM {} n WHERE n.act IN ('insert', 'replace') AND {after} \
             RETURNING 1",
            self.spelled.table,
            self.spelled.columns,
            self.columns("n").join(", "),
            self.temporary(true)
        )
    }

    /// Statements for a WITH list: deletes come before updates and updates before inserts, so that a unique value is
    /// free when it is taken.
    pub fn changes(&self, acts: Acts, changed: &[usize]) -> Vec<(String, String)> {
        let mut list: Vec<(String, String)> = Vec::new();
        let name = |act: &str| format!("{act}_{}", self.number);
        if acts.delete {
            list.push((name("delete"), self.delete()));
        }
        if acts.update {
            let after = done(&list);
            list.push((name("update"), self.update(changed, &after)));
        }
        if acts.insert {
            let after = done(&list);
            list.push((name("insert"), self.insert(&after)));
        }
        list
    }

    /// Gives the rows that stand in each other's way a value that no row has or shall have, and takes that down in the
    /// temporary table.
    pub fn park(&self, parking: Parking) -> String {
        let Parking { column, value } = parking;
        let (now, name, table) = (self.temporary(false), &self.spelled.each[column], &self.spelled.table);
        let free = match value {
            FreeValue::Null => "NULL".to_owned(),
            FreeValue::Number => format!(
                "(SELECT pg_catalog.max(v.v) + 1 FROM (SELECT {name} AS v FROM ONLY {table} UNION ALL SELECT c{column} FROM {})                  v) + o.number",
                self.temporary(true)
            ),
            FreeValue::Text => "pg_catalog.gen_random_uuid()::text".to_owned(),
            FreeValue::Uuid => "pg_catalog.gen_random_uuid()".to_owned(),
        };
        format!(
            "WITH parked AS (UPDATE ONLY {table} t SET {name} = {free} FROM {now} o WHERE o.nth = -1 AND {}              RETURNING o.number, t.{name} AS value)              UPDATE {now} p SET c{column} = parked.value FROM parked WHERE p.number = parked.number",
            self.matches()
        )
    }

    /// Counts the live rows that refer to a row of this table that goes, and are not themselves to be changed.
    pub fn orphans(
        &self,
        key: &ForeignKey,
        parent: &Table,
        child: &ChildTable,
        child_at: Option<&TableStatements>,
    ) -> String {
        let spell = |name: &str| spell(name, &self.encoding);
        let on =
            key.parent_columns.iter().zip(&key.child_columns).filter_map(|(parent_column, child_column)| {
                let at = parent.columns.iter().position(|it| it.name == *parent_column)?;
                Some(format!("t.{} = o.c{at}", spell(child_column)))
            });
        let spared = child_at.map_or_else(String::new, |child| {
            let matches = child.matches().replace("o.c", "x.c");
            format!(" AND NOT EXISTS (SELECT FROM {} x WHERE {matches})", child.temporary(false))
        });
        format!(
            "SELECT pg_catalog.count(*) FROM ONLY {} t JOIN {} o ON {} WHERE o.act IN ('delete', 'replace'){spared}",
            format_args!("{}.{}", spell(&child.schema), spell(&child.name)),
            self.temporary(false),
            on.collect::<Vec<_>>().join(" AND ")
        )
    }

    /// The statement that gives the rows which were inserted or updated, found by their keys.
    pub fn copy_back(&self) -> Option<String> {
        let live = self.live_columns();
        let equal = |at: &usize| format!("{} = o.c{at}", live[*at]);
        let key: Vec<_> = self.key.as_ref()?.iter().map(equal).collect();
        Some(format!(
            "COPY (SELECT {} FROM {} o JOIN ONLY {} t ON {}) TO STDOUT",
            live.join(", "),
            self.temporary(true),
            self.spelled.table,
            key.join(" AND ")
        ))
    }

    /// The numbers of up to ten rows that the live table does not have as they must be.
    pub fn surprises(&self) -> String {
        format!(
            "SELECT o.number FROM {} o WHERE NOT EXISTS (SELECT FROM ONLY {} t WHERE {}) ORDER BY 1 LIMIT 10",
            self.temporary(false),
            self.spelled.table,
            self.matches()
        )
    }

    /// Switches triggers off, or back into the state in which they were.
    pub fn triggers(&self, triggers: &[LiveTrigger], on: bool) -> String {
        let one = |trigger: &LiveTrigger| {
            let act = match (on, trigger.enabled) {
                (false, _) => "DISABLE TRIGGER",
                (true, 'A') => "ENABLE ALWAYS TRIGGER",
                (true, _) => "ENABLE TRIGGER",
            };
            format!(
                "ALTER TABLE ONLY {} {act} {}; ",
                self.spelled.table,
                spell(&trigger.name, &self.encoding)
            )
        };
        triggers.iter().map(one).collect()
    }
}

/// A condition that is true, and can be answered only when the statements before have been carried out.
fn done(before: &[(String, String)]) -> String {
    let each = before.iter().map(|(name, _)| format!("(SELECT pg_catalog.count(*) FROM {name}) >= 0"));
    let all = each.collect::<Vec<_>>().join(" AND ");
    if all.is_empty() { "true".to_owned() } else { all }
}

/// Returns one statement with all changes. The server checks foreign keys only when all changes are made, so their order
/// does not matter, not even in circles of references.
pub fn all_at_once(changes: &[(String, String)]) -> String {
    let list: Vec<_> = changes.iter().map(|(name, change)| format!("{name} AS ({change})")).collect();
    let counts: Vec<_> =
        changes.iter().map(|(name, _)| format!("SELECT '{name}', pg_catalog.count(*) FROM {name}")).collect();
    format!("WITH {} {}", list.join(", "), counts.join(" UNION ALL "))
}
