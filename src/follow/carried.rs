//! The tables that schema changes lead to, and how far the event triggers tell what their rows need.

use std::collections::{BTreeMap, BTreeSet};

use crate::codec::pgoutput::stream_name;
use crate::model::Table;
use crate::model::inexact::RETYPED;
use crate::signal::{DefinedTable, DefinitionChange};

/// The tables that `before` became by `changes`, in oid order: those whose rows the stream carries.
pub fn tables_after(before: &[Table], changes: &[DefinitionChange]) -> Vec<Table> {
    let mut tables: BTreeMap<u32, Table> = before.iter().map(|table| (table.oid, table.clone())).collect();
    for change in changes {
        for defined in &change.signal.tables {
            if is_carried(defined) {
                tables.insert(defined.facts.oid, defined.facts.table(stream_name))
            } else {
                tables.remove(&defined.facts.oid)
            };
        }
        for table in tables.values_mut() {
            if let Some(detached) = change.signal.detaches(table) {
                *table = detached;
            }
        }
        for oid in &change.signal.dropped {
            tables.remove(oid);
        }
    }
    tables.into_values().collect()
}

/// The oids of the tables of which the changes tell too little to read their rows.
pub fn untold_tables(before: &[Table], changes: &[DefinitionChange]) -> BTreeSet<u32> {
    let mut tables: BTreeMap<u32, Table> = before.iter().map(|table| (table.oid, table.clone())).collect();
    let mut untold = BTreeSet::new();
    for change in changes {
        for defined in &change.signal.tables {
            let now = defined.facts.table(stream_name);
            let before = tables.insert(now.oid, now.clone());
            let lacking = before.is_some_and(|before| !lacking(&before, &now, defined).is_empty());
            if change.signal.trouble.is_some() || lacking {
                untold.insert(now.oid);
            }
        }
    }
    untold
}

/// Whether the stream carries the table's rows from here on.
pub(super) fn is_carried(defined: &DefinedTable) -> bool {
    defined.published && defined.facts.persistence == 'p'
}

/// The changes of columns by a statement that did not tell the values which rows then had.
pub(super) fn lacking(before: &Table, now: &Table, defined: &DefinedTable) -> Vec<String> {
    if defined.image {
        return Vec::new();
    }
    let numbers: Vec<_> = before.storage.numbers.split(',').filter_map(|it| it.parse::<i16>().ok()).collect();
    let mut found = Vec::new();
    if before.is_insert_only() && !now.is_insert_only() {
        found.push("it was given a replica identity".to_owned());
    }
    for column in &now.columns {
        match before.columns.iter().find(|old| old.number == column.number) {
            Some(old) if !same_text(old.type_oid, column.type_oid) => {
                found.push(format!("column {} {RETYPED}", column.name));
            }
            None if numbers.contains(&column.number) => {
                found.push(format!("column {} was computed before, and is stored now,", column.name));
            }
            _ => {}
        }
    }
    found
}

/// Whether a value of one type has the same text as a value of the other, if there was no rewrite.
fn same_text(before: u32, now: u32) -> bool {
    const TEXT: u32 = 25;
    const VARCHAR: u32 = 1043;
    before == now || ([TEXT, VARCHAR].contains(&before) && [TEXT, VARCHAR].contains(&now))
}
