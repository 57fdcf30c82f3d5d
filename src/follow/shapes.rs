//! The tables as they stand at the point of the journal that is being read.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::carried::{is_carried, lacking};
use super::event::TableChange;
use super::mapping::{Mapping, identity_fits};
use super::naming::{self, Names};
use super::reshape::Reshape;
use super::retelling::{ColumnRetelling, DOUBT, LateValues, Retellings};
use super::row::RowReader;
use super::{Wanted, undecodable};
use crate::codec::key::KeyShape;
use crate::codec::pgoutput::stream_name;
use crate::codec::retell::Doubts;
use crate::error::Result;
use crate::history::checkpoint::Checkpoint;
use crate::model::{Inexact, Lsn, Relation, Table};
use crate::signal::retold::Retold;
use crate::signal::{DefinedTable, DefinitionSignal};

/// The tables that are followed, how the stream describes them, and how their values are written.
pub(super) struct Shapes<'a> {
    wanted: Wanted<'a>,
    /// Whether each table that was met is wanted, by oid. This is decided once, whatever the table is called later.
    decided: HashMap<u32, bool>,
    /// The tables that are followed, by oid.
    tables: HashMap<u32, Arc<Table>>,
    described: HashMap<u32, usize>,
    descriptions: Vec<Description>,
    /// The relation whose row came last, and its place in `descriptions`: the next row is mostly of the same one.
    last: Option<(u32, usize)>,
    retellings: Retellings,
    names: Names,
    /// The parts that are not exact, each with the reason. A set holds them, so that each is named once.
    inexact: BTreeSet<(String, String)>,
}

/// A relation as the stream last described it.
struct Description {
    relation: Relation,
    /// `None` for a relation that is not followed, or whose rows do not name the rows before.
    rows: Option<DescribedRows>,
    /// The reasons why the relation's rows are not exact. They are noted when the first row comes, because a description
    /// without rows may be older than the base.
    to_say: Vec<(String, String)>,
}

/// How the rows of a table that is followed are read.
struct DescribedRows {
    table: Arc<Table>,
    shape: KeyShape,
    mapping: Mapping,
}

impl<'a> Shapes<'a> {
    /// The tables of the base are wanted by the names that they have in `named`, if they are there.
    pub fn new(base: &Checkpoint, wanted: Wanted<'a>, named: &[Table]) -> Shapes<'a> {
        let mut decided: HashMap<_, _> = named.iter().map(|table| (table.oid, wanted(table))).collect();
        let tables = base.tables.iter().map(|entry| &entry.table);
        let mut is_wanted = |table: &Table| *decided.entry(table.oid).or_insert_with(|| wanted(table));
        let followed: Vec<_> = tables.filter(|table| is_wanted(table)).collect();
        let mut retellings = Retellings::default();
        // A row may come after the base that is older than a statement before the base.
        for change in &base.schema.since {
            if let Some(retold) = &change.signal.retold {
                retellings.told(retold, change.lsn);
            }
        }
        retellings.begin();
        followed.iter().for_each(|table| retellings.define(table));
        Shapes {
            wanted,
            decided,
            tables: followed.iter().map(|table| (table.oid, Arc::new((*table).clone()))).collect(),
            described: HashMap::new(),
            descriptions: Vec::new(),
            last: None,
            retellings,
            names: Names::of(base),
            inexact: BTreeSet::new(),
        }
    }

    /// A transaction begins.
    pub fn begin(&mut self) {
        self.retellings.begin();
    }

    /// The transaction that is being read had not begun when the WAL had reached `sampled`.
    pub fn began(&mut self, xid: u32, sampled: Lsn) {
        self.retellings.began(xid, sampled);
    }

    /// A table that is followed.
    pub fn table(&self, oid: u32) -> Option<&Arc<Table>> {
        self.tables.get(&oid)
    }

    /// The table of a place that [`Shapes::reader`] returned.
    pub fn table_at(&self, place: usize) -> Option<&Arc<Table>> {
        self.descriptions.get(place)?.rows.as_ref().map(|rows| &rows.table)
    }

    /// How values of a table change that come after a statement that changed the text of their types' values.
    pub fn late(&self, table: u32) -> Option<LateValues> {
        self.retellings.late(table)
    }

    pub fn inexact(&self) -> impl Iterator<Item = Inexact> {
        self.inexact.iter().map(|(what, why)| Inexact { what: what.clone(), why: why.clone() })
    }

    /// The stream describes a relation.
    pub fn describe(&mut self, relation: Relation, at: Lsn) {
        let description = self.described_as(relation, at);
        let place = *self.described.entry(description.relation.oid).or_insert(self.descriptions.len());
        match self.descriptions.get_mut(place) {
            Some(known) => *known = description,
            None => self.descriptions.push(description),
        }
    }

    fn described_as(&self, relation: Relation, at: Lsn) -> Description {
        let Some(table) = self.tables.get(&relation.oid) else {
            let what = format!("{}.{}", relation.schema, relation.name);
            let why = "was not protected yet at the checkpoint that the recovery starts from".to_owned();
            let to_say =
                if self.decided.get(&relation.oid) == Some(&false) { Vec::new() } else { vec![(what, why)] };
            return Description { relation, rows: None, to_say };
        };
        let (mapping, to_say) = map(table, &relation, at);
        let table = Arc::clone(table);
        let rows = mapping.map(|mapping| DescribedRows { shape: KeyShape::of(&table), table, mapping });
        Description { relation, rows, to_say }
    }

    /// How a row of the relation is read, with the relation's place; `None` if nobody wants the row.
    ///
    /// # Errors
    /// `Damaged` if the stream has not described the relation.
    #[inline]
    pub fn reader(&mut self, relation: u32, at: Lsn) -> Result<Option<(usize, RowReader<'_>)>> {
        let last = self.last.filter(|(oid, _)| *oid == relation).map(|(_, place)| place);
        let Some(place) = last.or_else(|| self.described.get(&relation).copied()) else {
            return Err(undecodable(format!("relation {relation} was not described before its row"), at));
        };
        self.last = Some((relation, place));
        let description = &mut self.descriptions[place];
        self.inexact.extend(description.to_say.drain(..));
        let Some(DescribedRows { table, shape, mapping }) = &description.rows else { return Ok(None) };
        let late = self.retellings.late(relation);
        Ok(Some((place, RowReader { table, shape, mapping, late, doubts: Doubts::default() })))
    }

    /// Says it if rows of the transaction may have to be read otherwise.
    pub fn doubt(&mut self, table: u32, doubts: &Doubts, xid: u32) {
        if doubts.is_empty() {
            return;
        }
        let Some(name) = self.tables.get(&table).map(|table| table.display()) else { return };
        if let Some(why) = self.retellings.doubt(table, doubts, xid) {
            self.inexact.insert((name, why));
        }
    }

    /// Follows a statement that changed the schema. What the names of relations tell of values is added to `signal`.
    pub fn define(&mut self, signal: &mut DefinitionSignal, at: Lsn) -> Vec<TableChange> {
        let renamed = self.names.told(signal);
        if renamed.changes() && self.has_values_of_names() {
            renamed.add_to(&mut signal.retold);
        }
        let defined = signal.tables.iter().filter_map(|defined| self.define_table(defined, at));
        let mut changes: Vec<_> = defined.collect();
        if let Some(retold) = &signal.retold {
            self.retell(retold, at, &mut changes);
        }
        let detached: Vec<_> = self.tables.values().filter_map(|table| signal.detaches(table)).collect();
        for now in detached.into_iter().map(Arc::new) {
            if let Some(before) = self.tables.insert(now.oid, Arc::clone(&now)) {
                self.redescribe(now.oid, at);
                changes.push(TableChange::Alter { before, now, reshape: None });
            }
        }
        changes.extend(signal.dropped.iter().filter_map(|oid| self.forget(*oid)));
        self.say_renamed(&renamed.unknown, &signal.tag, at);
        self.inexact.extend(signal.untold(at).map(|it| (it.what, it.why)));
        changes
    }

    fn define_table(&mut self, defined: &DefinedTable, at: Lsn) -> Option<TableChange> {
        let oid = defined.facts.oid;
        if !is_carried(defined) {
            return self.forget(oid);
        }
        let now = Arc::new(defined.facts.table(stream_name));
        let Some(before) = self.tables.get(&oid).cloned() else {
            // A table that was not wanted stays so under another name, as its rows until then are not known.
            if !*self.decided.entry(oid).or_insert_with(|| (self.wanted)(&now)) {
                return None;
            }
            self.retellings.define(&now);
            self.tables.insert(oid, Arc::clone(&now));
            return Some(TableChange::Create { table: now });
        };
        for what in lacking(&before, &now, defined) {
            let why =
                format!("{what} at {at}; what was in rows that did not change since is not in the history");
            self.inexact.insert((now.display(), why));
        }
        self.retellings.define(&now);
        self.tables.insert(oid, Arc::clone(&now));
        self.redescribe(oid, at);
        if defined.image {
            return Some(TableChange::Rewrite { before, now });
        }
        let mut reshape = Reshape::between(&before, &now, &defined.facts);
        if let (Some(reshape), Some(late)) = (&mut reshape, &self.retellings.late(oid)) {
            reshape.correct(late);
        }
        Some(TableChange::Alter { before, now, reshape })
    }

    /// Reads the relation's rows as those of the table that it has become.
    fn redescribe(&mut self, oid: u32, at: Lsn) {
        if let Some(place) = self.described.get(&oid) {
            let relation = self.descriptions[*place].relation.clone();
            self.describe(relation, at);
        }
    }

    /// A statement changed how values are written in rows that it did not write.
    fn retell(&mut self, retold: &Retold, at: Lsn, changes: &mut Vec<TableChange>) {
        let retelling = self.retellings.told(retold, at);
        for table in self.tables.values() {
            self.retellings.define(table);
            let Some(retelling) = &retelling else { continue };
            let columns = ColumnRetelling::of_table(retelling, table);
            if !columns.is_empty() {
                let reshape = Some(Reshape::retold(table, &columns));
                let (before, now) = (Arc::clone(table), Arc::clone(table));
                changes.push(TableChange::Alter { before, now, reshape });
            }
        }
    }

    /// Whether a table has values that are written by the names of relations.
    fn has_values_of_names(&self) -> bool {
        let mut columns = self.tables.values().flat_map(|table| &table.columns);
        columns.any(|column| naming::by_name(column.type_oid).is_some())
    }

    /// The name of a role may have changed.
    pub fn say_roles_changed(&mut self, at: Lsn) {
        self.say_renamed(&[naming::REGROLE].into(), "a role", at);
    }

    /// Says of which columns the values may read otherwise, if the values of these types do.
    fn say_renamed(&mut self, types: &BTreeSet<u32>, by: &str, at: Lsn) {
        if types.is_empty() {
            return;
        }
        for table in self.tables.values() {
            let columns = naming::columns_of(table, types);
            if !columns.is_empty() {
                let why = format!(
                    "{DOUBT}{at}: {by} may have changed the name of what {} names; values are recovered as they \
                     were written",
                    columns.join(", ")
                );
                self.inexact.insert((table.display(), why));
            }
        }
    }

    fn forget(&mut self, oid: u32) -> Option<TableChange> {
        if let Some(place) = self.described.get(&oid) {
            self.descriptions[*place].rows = None;
        }
        self.tables.remove(&oid).map(|table| TableChange::Drop { table })
    }
}

/// How the stream's rows become the table's, unless they do not name the rows before; and what is not exact about them.
fn map(table: &Table, relation: &Relation, at: Lsn) -> (Option<Mapping>, Vec<(String, String)>) {
    let mapping = Mapping::of(table, relation);
    let what = table.display();
    let schema = |difference: &String| {
        (what.clone(), format!("{difference} (seen at {at}); its schema is recovered as it was before"))
    };
    let mut to_say: Vec<_> = mapping.differences.iter().map(schema).collect();
    let fits = identity_fits(table, relation);
    if !fits {
        let why = format!(
            "changed its replica identity (seen at {at}); its rows are recovered as they were before"
        );
        to_say.push((what, why));
    }
    (fits.then_some(mapping), to_say)
}
