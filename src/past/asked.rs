//! Folds tables for questions about some of their rows, and reads little of the journal for that.
//!
//! For few rows, the journal's index tells the blocks that may hold their changes. For many it would choose each block,
//! since it is wrong about some keys. But of rows that were written lately, nothing older matters. So the newest
//! transactions are folded first, and the others only for rows that these did not write.

use std::collections::{BTreeSet, HashMap};

use super::{KeyedRows, Past, RECOVERY_BUDGET};
use crate::codec::key::KeyShape;
use crate::error::Result;
use crate::fold::{AskedRows, FoldedTable, RowsOnly, SoughtKeys};
use crate::follow::Wanted;
use crate::history::journal::{ChangeCount, ChosenBlocks};
use crate::model::{Column, Lsn, RowIdentity, Table};
use crate::progress::Silent;

/// The most keys for which the index is asked. For more, the index of a segment of an earlier version would be wrong about a
/// fifth of the blocks.
const FEW_KEYS: usize = 64;

/// A rough cost in bytes of a folded row beyond its values.
const ROW_OVERHEAD: u64 = 200;

/// Sorted keys, by table.
type Keys<'a> = HashMap<u32, Vec<&'a [u8]>>;

impl Past {
    /// Folds the tables of which rows are asked for, by their oids. The folded tables tell nothing of other rows.
    ///
    /// # Errors
    /// The errors of [`Past::fold`].
    pub fn fold_asked<K: AsRef<[u8]> + Sync>(
        &self,
        asked: &HashMap<u32, AskedRows<K>>,
    ) -> Result<Vec<FoldedTable>> {
        let mut by_key = Keys::new();
        for table in self.tables()?.iter().filter(|table| table.identity != RowIdentity::WholeRow) {
            if let Some(AskedRows::Keys(keys)) = asked.get(&table.oid) {
                by_key.insert(table.oid, keys.iter().map(AsRef::as_ref).collect());
            }
        }
        let is_whole = |table: &Table| asked.contains_key(&table.oid) && !by_key.contains_key(&table.oid);
        let mut folded = self.fold_tables(&is_whole)?;
        folded.extend(self.fold_rows(by_key)?);
        Ok(folded)
    }

    fn fold_rows(&self, mut keys: Keys<'_>) -> Result<Vec<FoldedTable>> {
        let tables: BTreeSet<u32> = keys.keys().copied().collect();
        let wanted = |table: &Table| tables.contains(&table.oid);
        let all = || self.fold_tables(&wanted);
        // Rows from before a schema change become rows of the table as it is now, which needs all of them.
        if tables.is_empty() || !self.schema_changes()?.is_empty() {
            return all();
        }
        let newest = match number_of(&keys) {
            few if few <= FEW_KEYS => Vec::new(),
            many => match self.begin_of_newest(&tables, many as u64)? {
                None => return all(),
                Some(begin) => {
                    let blocks = self.blocks_that_change(begin..self.until, &wanted)?;
                    self.fold_some(&wanted, RowsOnly { blocks, since: begin, sought: None })?.0
                }
            },
        };
        for table in &newest {
            keys.entry(table.table.oid).and_modify(|keys| keys.retain(|key| !table.settles(key)));
        }
        keys.retain(|_, keys| !keys.is_empty());
        if number_of(&keys) > FEW_KEYS {
            return all();
        }
        let mut folded = self.fold_few(keys)?;
        for later in newest {
            match folded.iter_mut().find(|table| table.table.oid == later.table.oid) {
                Some(table) => table.adopt(later),
                None => folded.push(later),
            }
        }
        Ok(folded)
    }

    /// The position from which on the transactions changed so many rows of the tables; `None` if they never did, or if their
    /// changes should not be held in memory.
    fn begin_of_newest(&self, tables: &BTreeSet<u32>, mut rows: u64) -> Result<Option<Lsn>> {
        // The fold keeps all changes in memory, since it does not see the rows' images. There, each key is held once more.
        let (held, mut room) = (self.base.lsn..self.until, RECOVERY_BUDGET as u64 / 2);
        let views: Vec<_> = self.segments_up_to(self.until).collect();
        for view in views.into_iter().rev() {
            if !view.summary.relations.iter().any(|table| tables.contains(&table.oid)) {
                continue;
            }
            let (segment, changes) = view.indexed_segment(self.reading.catalog())?;
            let number = |changed: Vec<ChangeCount>| {
                let wanted = changed.iter().filter(|it| tables.contains(&it.oid));
                wanted.fold((0, 0), |(count, bytes), it| (count + it.count, bytes + it.bytes))
            };
            let counted = segment.counted_transactions(&changes);
            let counted = counted.map(|(entry, changed)| (entry.commit_lsn, changed.map(number)));
            let counted: Vec<_> = counted.filter(|(lsn, _)| held.contains(lsn)).collect();
            for (lsn, changed) in counted.into_iter().rev() {
                let Some((count, bytes)) = changed else { return Ok(None) };
                (rows, room) =
                    (rows.saturating_sub(count), room.saturating_sub(bytes + count * ROW_OVERHEAD));
                if rows == 0 || room == 0 {
                    return Ok((room > 0).then_some(lsn));
                }
            }
        }
        Ok(None)
    }

    /// Folds what the blocks hold that may concern the rows.
    fn fold_few(&self, keys: Keys<'_>) -> Result<Vec<FoldedTable>> {
        let own = |keys: Vec<&[u8]>| keys.into_iter().map(<[u8]>::to_vec).collect();
        let mut sought: SoughtKeys = keys.into_iter().map(|(oid, keys)| (oid, own(keys))).collect();
        let tables: BTreeSet<u32> = sought.keys().copied().collect();
        let wanted = |table: &Table| tables.contains(&table.oid);
        loop {
            let blocks = self.blocks_of(&sought)?;
            if blocks.is_empty() {
                return self.fold_tables(&wanted);
            }
            let (folded, origins) =
                self.fold_some(&wanted, RowsOnly { blocks, since: self.base.lsn, sought: Some(&sought) })?;
            if origins.is_empty() {
                return Ok(folded);
            }
            origins.into_iter().for_each(|(oid, keys)| sought.entry(oid).or_default().extend(keys));
        }
    }

    /// The blocks that may hold changes of the rows; none if the index cannot tell.
    fn blocks_of(&self, sought: &SoughtKeys) -> Result<ChosenBlocks> {
        let tables: Vec<_> = self.tables()?.into_iter().filter(|it| sought.contains_key(&it.oid)).collect();
        let texts = |table: &Table| {
            let shape = KeyShape::of(table);
            let text = |key: &Vec<u8>| {
                let mut text = Vec::new();
                shape.push_values(key, &mut text).map(|()| text)
            };
            sought[&table.oid].iter().map(text).collect::<Option<Vec<_>>>()
        };
        let Some(texts) = tables.iter().map(texts).collect::<Option<Vec<_>>>() else {
            return Ok(ChosenBlocks::new());
        };
        let columns: Vec<_> = tables.iter().map(key_columns).collect();
        let rows = tables.iter().zip(&columns).zip(&texts).map(|((table, columns), texts)| KeyedRows {
            table: table.oid,
            columns,
            keys: texts.iter().map(Vec::as_slice).collect(),
        });
        self.blocks_with(self.until, &rows.collect::<Vec<_>>())
    }

    pub(super) fn fold_some(
        &self,
        wanted: Wanted<'_>,
        rows: RowsOnly<'_>,
    ) -> Result<(Vec<FoldedTable>, SoughtKeys)> {
        let folded =
            self.fold_blocks(wanted, Some(rows), RECOVERY_BUDGET, &self.history().scratch(), &Silent)?;
        Ok((folded.tables, folded.origins))
    }
}

/// The columns that tell one row of a table from another; none if only the whole row does.
fn key_columns(table: &Table) -> Vec<Column> {
    let RowIdentity::Key(key) = &table.identity else { return Vec::new() };
    key.iter().filter_map(|place| table.columns.get(*place)).cloned().collect()
}

fn number_of(keys: &Keys<'_>) -> usize {
    keys.values().map(Vec::len).sum()
}
