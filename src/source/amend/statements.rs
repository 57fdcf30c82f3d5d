//! The statements that change rows of the live database, as text.

use crate::model::Table;
use crate::model::spelling::{Spelled, spell};
use crate::source::digests::text_of;

use super::catalog::{ChildTable, ForeignKey, LiveTrigger};
use super::rows::{Acts, AmendedTable, FreeValue, Parking};

/// A table that is to be put right, and the names of what belongs to it.
pub struct TableStatements {
    number: usize,
    spelled: Spelled,
    /// The positions of the columns by which a row is found; `None` for a table without a key.
    key: Option<Vec<usize>>,
    encoding: String,
    /// The positions of the columns that an update changes in some row.
    pub changed: Vec<usize>,
    /// Whether the rows are in the temporary table of all tables.
    pub are_literals: bool,
}

impl TableStatements {
    /// `number` tells the table's temporary tables from others'.
    pub fn new(number: usize, amended: &AmendedTable, encoding: &str) -> TableStatements {
        let table = &amended.table;
        let key = match &table.identity {
            crate::model::RowIdentity::Key(columns) => Some(columns.clone()),
            crate::model::RowIdentity::WholeRow => None,
        };
        let spelled = Spelled::of(table, encoding);
        TableStatements {
            number,
            spelled,
            key,
            encoding: encoding.to_owned(),
            changed: amended.changed_columns(),
            are_literals: false,
        }
    }

    /// The table's name as SQL has it.
    pub fn table(&self) -> &str {
        &self.spelled.table
    }

    fn is_keyed(&self) -> bool {
        self.key.is_some()
    }

    /// The temporary table with the rows as they must be now, in the columns `c0` and so on, and as they shall be, in the
    /// columns `d0` and so on. Of rows that were sent as literals, both are whole rows.
    fn temporary(&self) -> String {
        if !self.are_literals {
            return format!("pg_temp.backwhen_{}", self.number);
        }
        format!(
            "(SELECT number, act, nth, now::{table} AS now, later::{table} AS later FROM pg_temp.backwhen_rows \
              WHERE place = {} OFFSET 0)",
            self.number,
            table = self.spelled.table
        )
    }

    /// The columns of a row `of` the temporary table as it must be now.
    fn now(&self, of: &str) -> Vec<String> {
        self.columns(of, "now", 'c')
    }

    /// The columns of a row `of` the temporary table as it shall be.
    fn later(&self, of: &str) -> Vec<String> {
        self.columns(of, "later", 'd')
    }

    fn columns(&self, of: &str, literal: &str, typed: char) -> Vec<String> {
        let column = |(at, name): (usize, &String)| match self.are_literals {
            true => format!("({of}.{literal}).{name}"),
            false => format!("{of}.{typed}{at}"),
        };
        self.spelled.each.iter().enumerate().map(column).collect()
    }

    fn live_columns(&self) -> Vec<String> {
        self.spelled.each.iter().map(|column| format!("t.{column}")).collect()
    }

    /// Makes the temporary table, with the live table's types and nothing else of it.
    pub fn create(&self) -> String {
        let list = |to: char| {
            let column = |(at, it): (usize, &String)| format!(", t.{it} AS {to}{at}");
            self.spelled.each.iter().enumerate().map(column).collect::<String>()
        };
        format!(
            "CREATE TEMPORARY TABLE backwhen_{} AS SELECT 0::int8 AS number, ''::text AS act, 0::int8 AS nth{}{} \
               FROM ONLY {} t WITH NO DATA; ",
            self.number,
            list('c'),
            list('d'),
            self.spelled.table
        )
    }

    /// Empties the temporary table.
    pub fn clear(&self) -> String {
        format!("DELETE FROM {}; ", self.temporary())
    }

    pub fn copy_in(&self) -> String {
        format!("COPY {} FROM STDIN", self.temporary())
    }

    pub fn analyze(&self) -> String {
        // The numbers of rows matter, and the values by which rows are found; reading all values would take longer.
        let key = self.key.iter().flatten().map(|at| format!(", c{at}"));
        // A tenth of the usual sample tells as much here.
        format!(
            "SET default_statistics_target = 10; ANALYZE {} (act{}); ",
            self.temporary(),
            key.collect::<String>()
        )
    }

    pub fn lock_name(&self) -> String {
        format!("ONLY {}", self.spelled.table)
    }

    /// The live row `t` is the very row `of` the temporary table: the same bytes, or, if values may be stored in several ways, the same text.
    fn is_image(&self, of: &str) -> String {
        let (live, kept) = (self.live_columns(), self.now(of));
        format!(
            "(pg_catalog.record_image_eq(ROW({}), ROW({})) OR {} = {})",
            live.join(", "),
            kept.join(", "),
            text_of(&live),
            text_of(&kept)
        )
    }

    /// The condition on which a row is found, and is what it must be.
    fn matches(&self, of: &str) -> String {
        let (live, kept) = (self.live_columns(), self.now(of));
        let key = self.key.iter().flatten().map(|at| format!("{} = {} AND ", live[*at], kept[*at]));
        key.collect::<String>() + &self.is_image(of)
    }

    fn delete(&self) -> String {
        let rows = self.temporary();
        if self.is_keyed() {
            return format!(
                "DELETE FROM ONLY {} t USING {rows} o WHERE o.act IN ('delete', 'replace') AND {} RETURNING 1",
                self.spelled.table,
                self.matches("o")
            );
        }
        // Equal rows are told apart by their place, and of each as many go as must.
        let live = text_of(&self.live_columns());
        format!(
            "DELETE FROM ONLY {table} t USING (SELECT l.place FROM (SELECT t.ctid AS place, {live} AS image, \
             pg_catalog.row_number() OVER (PARTITION BY {live}) AS nth FROM ONLY {table} t) l \
             JOIN (SELECT {kept} AS image, o.nth FROM {rows} o WHERE o.act = 'delete') o USING (image, nth)) hit \
             WHERE t.ctid = hit.place RETURNING 1",
            table = self.spelled.table,
            kept = text_of(&self.now("o"))
        )
    }

    fn update(&self, after: &str) -> String {
        let later = self.later("o");
        let set = self.changed.iter().map(|at| format!("{} = {}", self.spelled.each[*at], later[*at]));
        format!(
            "UPDATE ONLY {} t SET {} FROM {} o WHERE o.act = 'update' AND {} AND {after} RETURNING 1",
            self.spelled.table,
            set.collect::<Vec<_>>().join(", "),
            self.temporary(),
            self.matches("o")
        )
    }

    fn insert(&self, after: &str) -> String {
        format!(
            "INSERT INTO {}{} OVERRIDING SYSTEM VALUE SELECT {} FROM {} o WHERE o.act IN ('insert', 'replace') AND {after} \
             RETURNING 1",
            self.spelled.table,
            self.spelled.columns,
            self.later("o").join(", "),
            self.temporary()
        )
    }

    /// Statements for a WITH list: deletes come before updates and updates before inserts, so that a unique value is
    /// free when it is taken.
    pub fn changes(&self, acts: Acts) -> Vec<(String, String)> {
        let mut list: Vec<(String, String)> = Vec::new();
        let name = |act: &str| format!("{act}_{}", self.number);
        if acts.delete {
            list.push((name("delete"), self.delete()));
        }
        if acts.update {
            let after = done(&list);
            list.push((name("update"), self.update(&after)));
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
        let (rows, name, table) = (self.temporary(), &self.spelled.each[column], &self.spelled.table);
        let free = match value {
            FreeValue::Null => "NULL".to_owned(),
            FreeValue::Number => format!(
                "(SELECT pg_catalog.max(v.v) + 1 FROM (SELECT {name} AS v FROM ONLY {table} UNION ALL \
                 SELECT d{column} FROM {rows}) v) + o.number"
            ),
            FreeValue::Text => "pg_catalog.gen_random_uuid()::text".to_owned(),
            FreeValue::Uuid => "pg_catalog.gen_random_uuid()".to_owned(),
        };
        format!(
            "WITH parked AS (UPDATE ONLY {table} t SET {name} = {free} FROM {rows} o WHERE o.nth = -1 AND {} \
             RETURNING o.number, t.{name} AS value) UPDATE {rows} p SET c{column} = parked.value FROM parked WHERE p.number = parked.number",
            self.matches("o")
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
        let now = self.now("o");
        let on =
            key.parent_columns.iter().zip(&key.child_columns).filter_map(|(parent_column, child_column)| {
                let at = parent.columns.iter().position(|it| it.name == *parent_column)?;
                Some(format!("t.{} = {}", spell(child_column), now[at]))
            });
        let spared = child_at.map_or_else(String::new, |child| {
            let matches = child.matches("x");
            format!(
                " AND NOT EXISTS (SELECT FROM {} x WHERE x.act <> 'insert' AND {matches})",
                child.temporary()
            )
        });
        format!(
            "SELECT pg_catalog.count(*) FROM ONLY {} t JOIN {} o ON {} WHERE o.act IN ('delete', 'replace'){spared}",
            format_args!("{}.{}", spell(&child.schema), spell(&child.name)),
            self.temporary(),
            on.collect::<Vec<_>>().join(" AND ")
        )
    }

    /// The statement that gives the rows which were inserted or updated, found by their keys.
    pub fn copy_back(&self) -> Option<String> {
        let (live, now, later) = (self.live_columns(), self.now("o"), self.later("o"));
        // A column that no update changes is not sent for updates.
        let equal = |at: &usize| match self.changed.contains(at) {
            true => format!("{} = {}", live[*at], later[*at]),
            false => {
                format!(
                    "{} = CASE WHEN o.act = 'update' THEN {} ELSE {} END",
                    live[*at], now[*at], later[*at]
                )
            }
        };
        let key: Vec<_> = self.key.as_ref()?.iter().map(equal).collect();
        Some(format!(
            "COPY (SELECT {} FROM {} o JOIN ONLY {} t ON {}) TO STDOUT",
            live.join(", "),
            self.temporary(),
            self.spelled.table,
            key.join(" AND ")
        ))
    }

    /// The numbers of up to ten rows that the live table does not have as they must be.
    pub fn surprises(&self) -> String {
        format!(
            "SELECT o.number FROM {} o WHERE o.act <> 'insert' AND NOT EXISTS (SELECT FROM ONLY {} t WHERE {}) \
             ORDER BY 1 LIMIT 10",
            self.temporary(),
            self.spelled.table,
            self.matches("o")
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
