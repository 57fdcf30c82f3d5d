//! Chooses names in a SQLite file, where letter case does not matter and there are no schemas.

use std::collections::{HashMap, HashSet};

use crate::model::Table;
use crate::model::schema::quote_ident;

/// The names of tables in the file, by oid.
#[derive(Clone, Debug, Default)]
pub(super) struct SqliteNames {
    tables: HashMap<u32, String>,
}

impl SqliteNames {
    /// Gives a table of schema `public` its bare name if no other table has that name, and all other tables
    /// `schema.table`.
    pub fn of(tables: &[Table]) -> SqliteNames {
        let mut taken = HashSet::from(["backwhen_recovery".to_owned()]);
        let mut names = SqliteNames::default();
        let (public, others): (Vec<_>, Vec<_>) = tables.iter().partition(|table| table.schema == "public");
        for table in public.into_iter().chain(others) {
            let bare = table.schema == "public" && !table.name.to_lowercase().starts_with("sqlite_");
            let bare = bare.then(|| table.name.clone()).filter(|name| !taken.contains(&name.to_lowercase()));
            let name = unique(bare.unwrap_or_else(|| table.display()), &mut taken);
            names.tables.insert(table.oid, name);
        }
        names
    }

    /// Returns the table's name, quoted.
    pub fn table(&self, table: &Table) -> String {
        quote_ident(self.tables.get(&table.oid).unwrap_or(&table.name))
    }

    /// Returns the columns' names, quoted, in the table's order.
    pub fn columns(&self, table: &Table) -> Vec<String> {
        let mut taken = HashSet::new();
        table.columns.iter().map(|column| quote_ident(&unique(column.name.clone(), &mut taken))).collect()
    }

    /// Returns the names that had to change.
    pub fn notes(&self, tables: &[Table]) -> Vec<String> {
        let mut notes = Vec::new();
        for table in tables {
            let name = self.tables.get(&table.oid).map_or("", String::as_str);
            if *name != table.display() && *name != table.name {
                notes.push(format!("table {} is called {name} in the file", table.display()));
            }
            for (column, new) in table.columns.iter().zip(self.columns(table)) {
                if quote_ident(&column.name) != new {
                    notes.push(format!(
                        "column {} of {} is called {new} in the file",
                        column.name,
                        table.display()
                    ));
                }
            }
        }
        notes
    }
}

/// Returns `name`, with a number if another name has the same letters.
fn unique(name: String, taken: &mut HashSet<String>) -> String {
    let mut candidate = name.clone();
    let mut number = 2;
    while !taken.insert(candidate.to_lowercase()) {
        candidate = format!("{name}_{number}");
        number += 1;
    }
    candidate
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Column, Grade, RowIdentity};

    fn table(oid: u32, schema: &str, name: &str, columns: &[&str]) -> Table {
        let column = |name: &&str| Column {
            name: (*name).into(),
            number: 0,
            type_oid: 25,
            type_modifier: -1,
            type_name: "text".into(),
        };
        Table {
            oid,
            schema: schema.into(),
            name: name.into(),
            columns: columns.iter().map(column).collect(),
            generated: vec![],
            identity: RowIdentity::WholeRow,
            grade: Grade::Exact,
            in_stream: None,
            partition_of: Vec::new(),
            storage: Default::default(),
        }
    }

    #[test]
    fn names_are_unique_without_case() {
        let tables = [
            table(1, "shop", "orders", &[]),
            table(2, "public", "orders", &["a", "A"]),
            table(3, "public", "Orders", &[]),
            table(4, "public", "shop.orders", &[]),
            table(5, "public", "sqlite_x", &[]),
        ];
        let names = SqliteNames::of(&tables);
        let all: Vec<_> = tables.iter().map(|table| names.table(table)).collect();
        assert_eq!(
            all,
            [
                "\"shop.orders_2\"",
                "\"orders\"",
                "\"public.Orders\"",
                "\"shop.orders\"",
                "\"public.sqlite_x\""
            ]
        );
        assert_eq!(names.columns(&tables[1]), ["\"a\"", "\"A_2\""]);
        assert_eq!(names.notes(&tables).len(), 2);
    }
}
