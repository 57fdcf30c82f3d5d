//! Tables that inherit, with their columns in the source's order.
//!
//! A column that a parent gets later stands last in a child that has columns of its own, and so does every column of a
//! table that was made to inherit afterwards. pg_dump's CREATE TABLE puts inherited columns first.

use std::collections::BTreeMap;

use super::{EntrySelection, Toc};
use crate::model::Table;
use crate::model::schema::quote_ident;
use crate::recover::lexer::words;

/// The names of columns in their order, by schema and name of the table. Tables with computed columns are left out.
pub type ColumnOrders = BTreeMap<(String, String), Vec<String>>;

/// Returns the orders of columns of the tables that a checkpoint knows.
pub fn column_orders<'a>(tables: impl Iterator<Item = &'a Table>) -> ColumnOrders {
    let names = |table: &Table| table.columns.iter().map(|column| column.name.clone()).collect();
    let plain = tables.filter(|table| table.generated.is_empty());
    plain.map(|table| ((table.schema.clone(), table.name.clone()), names(table))).collect()
}

/// The place in pg_dump's CREATE TABLE that names the parents.
const INHERITS: &str = ")\nINHERITS (";

/// Returns, by the entry's number, the definitions of the tables whose columns pg_dump's own statement would put into
/// another order. The table inherits first from a helper that has the columns in the right order, so that everything
/// else about them stays as it is: which columns are inherited, too.
pub fn definitions_in_order(
    toc: &Toc,
    selection: &EntrySelection,
    orders: &ColumnOrders,
) -> BTreeMap<i32, String> {
    let tables = selection.entries(toc).filter(|entry| entry.kind == "TABLE");
    let in_order = tables.filter_map(|entry| {
        let (head, rest) = entry.definition.split_once(INHERITS)?;
        let schema = entry.schema.as_deref()?;
        let wanted = orders.get(&(schema.to_owned(), entry.tag.clone()))?;
        let mut made: Vec<&String> = Vec::new();
        for parent in parents(rest) {
            made.extend(orders.get(&parent)?.iter().filter(|column| wanted.contains(column)));
        }
        made.extend(wanted.iter());
        let mut seen = Vec::new();
        made.retain(|column| !seen.contains(column) && { seen.push(*column); true });
        if made.iter().copied().eq(wanted) {
            return None;
        }
        let (table, helper) = (quoted(schema, &entry.tag), quoted(schema, "backwhen_column_order"));
        let columns: Vec<_> = wanted.iter().map(|column| quote_ident(column)).collect();
        let columns = columns.join(", ");
        let definition = &entry.definition;
        Some((entry.id, format!(
            "{definition}\nCREATE TABLE {helper} AS SELECT {columns} FROM ONLY {table} WITH NO DATA;\nDROP TABLE {table};\n\
             {head}{INHERITS}{helper}, {rest}\nALTER TABLE {table} NO INHERIT {helper};\nDROP TABLE {helper};\n"
        )))
    });
    in_order.collect()
}

/// Reads the list of parents up to the parenthesis that closes it.
fn parents(list: &str) -> Vec<(String, String)> {
    let words = words(list, true);
    let list = words.split(|word| word.is_sign(')')).next().unwrap_or_default();
    let names = list.split(|word| word.is_sign(',')).map(|parent| {
        let mut names = parent.iter().filter_map(|word| word.name()).map(str::to_owned);
        (names.next().unwrap_or_default(), names.next().unwrap_or_default())
    });
    names.collect()
}

fn quoted(schema: &str, name: &str) -> String {
    format!("{}.{}", quote_ident(schema), quote_ident(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recover::archive::{Entry, Section};

    fn toc(definition: &str) -> Toc {
        let entry = Entry {
            id: 7,
            oid: 1,
            kind: "TABLE".into(),
            tag: "child".into(),
            schema: Some("public".into()),
            owner: None,
            tablespace: None,
            access_method: None,
            section: Section::PreData,
            definition: definition.into(),
            drop: String::new(),
            depends_on: Vec::new(),
        };
        Toc { entries: vec![entry], database: String::new(), server_major: 18, dump_major: 18 }
    }

    #[test]
    fn only_a_table_in_another_order_is_defined_anew() {
        let orders = |child: &[&str]| -> ColumnOrders {
            let table = |name: &str, columns: &[&str]| {
                (("public".to_owned(), name.to_owned()), columns.iter().map(|it| (*it).to_owned()).collect())
            };
            [table("P q", &["a", "z"]), table("child", child)].into()
        };
        let sql = "CREATE TABLE public.child (\n    b text\n)\nINHERITS (public.\"P q\");\n";
        let found = |child| {
            let toc = toc(sql);
            definitions_in_order(&toc, &EntrySelection::whole(&toc), &orders(child)).remove(&7)
        };
        assert_eq!(found(&["a", "z", "b"]), None);
        let anew = found(&["a", "b", "z"]).unwrap();
        assert!(
            anew.contains("AS SELECT \"a\", \"b\", \"z\" FROM ONLY \"public\".\"child\" WITH NO DATA"),
            "{anew}"
        );
        assert!(anew.contains("INHERITS (\"public\".\"backwhen_column_order\", public.\"P q\");"), "{anew}");
    }
}
