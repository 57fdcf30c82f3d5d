//! Follows the tables' shapes through the statements that changed them, as the source's triggers told.

use std::collections::{BTreeMap, BTreeSet};

use super::apply::Applier;
use super::naming;
use super::reshape::Reshape;
use super::retelling::{DOUBT, Late, Retellings, Step};
use super::{Delta, FoldedTable, stride, undecodable};
use crate::codec::copy_text;
use crate::codec::key::KeyShape;
use crate::codec::pgoutput::stream_name;
use crate::codec::retell::Doubts;
use crate::error::Result;
use crate::model::{Edge, Inexact, Lsn, PgTime, Table};
use crate::signal::key::MessageKey;
use crate::signal::retold::Retold;
use crate::signal::{self, DefinedTable, DefinitionChange, DefinitionSignal, HeartbeatSignal, RowsSignal};

/// The tables that `before` became by `changes`, in oid order: those whose rows the stream carries.
pub fn tables_after(before: &[Table], changes: &[DefinitionChange]) -> Vec<Table> {
    let mut tables: BTreeMap<u32, Table> = before.iter().map(|table| (table.oid, table.clone())).collect();
    for change in changes {
        for defined in &change.signal.tables {
            if carried(defined) {
                tables.insert(defined.facts.oid, defined.facts.table(stream_name))
            } else {
                tables.remove(&defined.facts.oid)
            };
        }
        for oid in &change.signal.dropped {
            tables.remove(oid);
        }
    }
    tables.into_values().collect()
}

/// The tables, by oid, of which the changes do not tell all that the rows need.
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
fn carried(defined: &DefinedTable) -> bool {
    defined.published && defined.facts.persistence == 'p'
}

/// What is known of the definitions at the point that is being read.
pub(super) struct Definitions {
    key: MessageKey,
    /// What the last heartbeat saw, or the base.
    fingerprint: String,
    /// The end of the last transaction that told of a change which no heartbeat has seen yet.
    untold_since: Option<Lsn>,
    /// Up to here all changes were told.
    pub known_at: Edge,
    /// The first heartbeat after it that saw a change of which nothing had told.
    pub changed_at: Option<Edge>,
    /// Up to here a heartbeat tells of them.
    pub seen_at: Lsn,
    /// What the transaction that is being read tells: the fingerprint, and where the log stood before
    /// it was taken.
    seen: Option<String>,
    looked: Lsn,
    /// What it changes.
    open: Vec<DefinitionSignal>,
    pub open_lsn: Lsn,
    open_time: PgTime,
    pub(super) open_xid: u32,
    pub changes: Vec<DefinitionChange>,
}

impl Definitions {
    pub fn new(request: &super::Request<'_>) -> Definitions {
        let schema = &request.base.schema;
        Definitions {
            key: request.key.clone(),
            fingerprint: schema.fingerprint.clone(),
            // A folded base has the fingerprint of its archive, which is older.
            untold_since: (!schema.since.is_empty()).then_some(request.base.lsn),
            known_at: Edge { lsn: schema.lsn, time: schema.time },
            changed_at: None,
            seen_at: schema.lsn,
            seen: None,
            looked: Lsn::default(),
            open: Vec::new(),
            open_lsn: Lsn::default(),
            open_time: PgTime::default(),
            open_xid: 0,
            changes: Vec::new(),
        }
    }

    pub fn begin(&mut self, lsn: Lsn, time: PgTime, xid: u32) {
        (self.open_lsn, self.open_time, self.open_xid) = (lsn, time, xid);
        self.open.clear();
    }

    /// The body of a message in the transaction that is being read, if backwhen wrote it there.
    pub fn own<'a>(&self, prefix: &str, content: &'a [u8]) -> Option<&'a [u8]> {
        self.key.verified(prefix.as_bytes(), self.open_xid, content)
    }

    /// A heartbeat; it counts when its transaction ends, so that a mark is its own witness.
    pub fn heartbeat(&mut self, content: &[u8]) {
        let Some(body) = self.own(signal::HEARTBEAT, content) else { return };
        if let Ok(HeartbeatSignal { fingerprint: Some(seen) }) = serde_json::from_slice(body) {
            self.seen = Some(seen);
        }
    }

    /// The heartbeat's transaction looked no earlier than `at`.
    pub fn looked(&mut self, at: Lsn) {
        self.looked = at;
    }

    /// The triggers' message, if it is one of ours.
    pub fn signal(&self, content: &[u8]) -> Option<DefinitionSignal> {
        DefinitionSignal::read(&self.key, self.open_xid, content, self.open.iter().rev())
    }

    fn rows<'a>(&self, content: &'a [u8]) -> Option<RowsSignal<'a>> {
        RowsSignal::decode(self.own(signal::ROWS, content)?)
    }

    /// A change of definitions that the reader does not follow, as it lies after the moment.
    pub fn note_later(&mut self, signal: DefinitionSignal) {
        self.open.push(signal);
    }

    /// The transaction ends at `end`, at that time; `within` the moment.
    pub fn commit(&mut self, end: Edge, within: bool) {
        if !self.open.is_empty() {
            self.untold_since = Some(end.lsn);
            let open = std::mem::take(&mut self.open);
            if within {
                let (lsn, time, xid) = (self.open_lsn, self.open_time, self.open_xid);
                let change = |signal| DefinitionChange { lsn, end_lsn: end.lsn, time, xid, signal };
                self.changes.extend(open.into_iter().map(change));
            }
        }
        let Some(seen) = self.seen.take() else { return };
        self.seen_at = end.lsn;
        let told = seen == self.fingerprint || self.untold_since.is_some();
        // Seen after the change was committed, it cannot be seen anew by the next heartbeat.
        if self.untold_since.is_some_and(|since| since <= self.looked) {
            self.untold_since = None;
        }
        self.fingerprint = seen;
        if self.changed_at.is_none() {
            if told { self.known_at = end } else { self.changed_at = Some(end) }
        }
    }
}

/// What the statements since the base's archive told of types: rows may come late that are older than these.
pub(super) fn retellings(request: &super::Request<'_>, tables: &[FoldedTable]) -> Retellings {
    let mut retellings = Retellings::default();
    for change in &request.base.schema.since {
        if let Some(retold) = &change.signal.retold {
            retellings.told(retold, change.lsn);
        }
    }
    retellings.begin();
    tables.iter().for_each(|table| retellings.define(&table.table));
    retellings
}

impl Applier<'_> {
    /// A statement of the application that changed definitions.
    pub(super) fn definition(&mut self, content: &[u8]) -> Result<()> {
        let Some(mut signal) = self.definitions.signal(content) else { return Ok(()) };
        let renamed = self.names.told(&signal);
        if renamed.changes() && self.has_values_of_names() {
            renamed.add_to(&mut signal.retold);
        }
        for defined in &signal.tables {
            self.define(defined)?;
        }
        if let Some(retold) = &signal.retold {
            self.retell(retold);
        }
        self.made.extend(signal.objects.iter().filter(|it| it.kind == "sequence").map(|it| it.oid));
        for oid in &signal.dropped {
            self.forget(*oid);
            self.sequences.remove(oid);
            self.made.remove(oid);
        }
        self.say_renamed(&renamed.unknown, &signal.tag);
        if let Some(Inexact { what, why }) = signal.untold(self.current) {
            self.say(what, why);
        }
        self.definitions.open.push(signal);
        Ok(())
    }

    fn define(&mut self, defined: &DefinedTable) -> Result<()> {
        let oid = defined.facts.oid;
        if !carried(defined) {
            self.forget(oid);
            return Ok(());
        }
        let now = defined.facts.table(stream_name);
        let Some(place) = self.places.get(&oid).copied() else {
            if (self.wanted)(&now) {
                self.places.insert(oid, self.tables.len());
                self.retellings.define(&now);
                self.tables.push(FoldedTable::made(now, &self.blocks));
            } else {
                self.unwanted.push(oid);
            }
            return Ok(());
        };
        for what in lacking(&self.tables[place].table, &now, defined) {
            let why = format!(
                "{what} at {}; what was in rows that did not change since is not in the history",
                self.current
            );
            self.say(now.display(), why);
        }
        self.rename_owner(place, &now);
        self.retellings.define(&now);
        let late = self.retellings.late(oid);
        self.tables[place].become_(now, defined, late.as_ref());
        self.redescribe(oid);
        Ok(())
    }

    /// Values read otherwise from here on in rows that nobody wrote.
    fn retell(&mut self, retold: &Retold) {
        let step = self.retellings.told(retold, self.current);
        for place in self.places.values() {
            let table = &mut self.tables[*place];
            self.retellings.define(&table.table);
            if let Some(step) = &step {
                table.retell(&Step::of_table(step, &table.table));
            }
        }
    }

    /// Whether a table has values that are written by the names of relations.
    fn has_values_of_names(&self) -> bool {
        let mut columns = self.places.values().flat_map(|place| &self.tables[*place].table.columns);
        columns.any(|column| naming::by_name(column.type_oid).is_some())
    }

    /// Says of which columns the values may read otherwise, if those of these types do.
    pub(super) fn say_renamed(&mut self, types: &BTreeSet<u32>, by: &str) {
        if types.is_empty() {
            return;
        }
        let tables = self.places.values().map(|place| &self.tables[*place].table);
        let found: Vec<_> = tables.map(|it| (it.display(), naming::columns_of(it, types))).collect();
        for (what, columns) in found.into_iter().filter(|(_, columns)| !columns.is_empty()) {
            let why = format!(
                "{DOUBT}{}: {by} may have changed the name of what {} names; values are recovered as they were \
                 written",
                self.current,
                columns.join(", ")
            );
            self.say(what, why);
        }
    }

    /// What was sampled before a rename is known by its owner's names at the moment.
    fn rename_owner(&mut self, place: usize, now: &Table) {
        let before = &self.tables[place].table;
        let owners = self.sequences.values_mut().filter_map(|state| state.owner.as_mut());
        for owner in owners.filter(|it| (&it.schema, &it.table) == (&before.schema, &before.name)) {
            let column = before.columns.iter().find(|column| column.name == owner.column);
            let column = column.and_then(|old| now.columns.iter().find(|it| it.number == old.number));
            (owner.schema, owner.table) = (now.schema.clone(), now.name.clone());
            if let Some(column) = column {
                owner.column.clone_from(&column.name);
            }
        }
    }

    fn forget(&mut self, oid: u32) {
        if let Some(place) = self.places.remove(&oid) {
            self.tables[place].truncate();
            self.tables[place].dropped = true;
        }
        if let Some(described) = self.described.get_mut(&oid) {
            described.place = None;
        }
    }

    /// Rows that a statement gave a table and that the stream does not carry.
    pub(super) fn given_rows(&mut self, content: &[u8]) -> Result<()> {
        let Some(given) = self.definitions.rows(content) else { return Ok(()) };
        let Some(place) = self.places.get(&given.table).copied() else { return Ok(()) };
        let at = self.current;
        let table = &mut self.tables[place];
        if given.first {
            table.truncate();
        }
        table.touched = true;
        let width = table.table.columns.len().max(1);
        let mut key = Vec::new();
        let (late, mut doubts) = (self.retellings.late(given.table), Doubts::default());
        let mut corrected = Vec::new();
        for line in given.lines.split_inclusive(|byte| *byte == b'\n') {
            let mut line = line.strip_suffix(b"\n").unwrap_or(line);
            if let Some(late) = &late {
                corrected.clear();
                corrected.extend_from_slice(line);
                late.correct(&mut corrected, &mut doubts);
                line = &corrected;
            }
            let fits = copy_text::columns(line).count() == width;
            key.clear();
            if !fits || table.shape.push_key(line, &mut key).is_none() {
                let what = format!("a row that was given to {} does not fit it", table.table.display());
                return Err(undecodable(what, at));
            }
            match &mut table.delta {
                Delta::Keyed(delta) => delta.insert(&key, line),
                Delta::Bag(delta) => delta.insert(&key, line),
            }
            .map_err(|error| undecodable(error, at))?;
        }
        self.doubt(given.table, &doubts);
        Ok(())
    }

    /// Writes a table's rows in its present shape, if they are not in it yet.
    pub(super) fn settle(&mut self, place: usize) -> Result<()> {
        if self.tables[place].reshape.is_none() {
            return Ok(());
        }
        let scratch = self.scratch()?;
        stride::merge_delta(&mut self.tables[place], scratch.path(), &self.catalog)
    }

    /// Those tables that must be sorted before they can be handed on, or of which it must be known before whether
    /// all values can be read.
    pub(super) fn settle_keys(&mut self) -> Result<()> {
        for place in 0..self.tables.len() {
            if self.tables[place].reshape.as_ref().is_some_and(|it| !it.keeps_keys || it.retells()) {
                self.settle(place)?;
            }
            if self.tables[place].unreadable {
                let unreadable = Doubts { unreadable: true, ..Doubts::default() };
                self.doubt(self.tables[place].table.oid, &unreadable);
            }
        }
        Ok(())
    }

    /// Says it if rows of the transaction may have to be read otherwise.
    pub(super) fn doubt(&mut self, table: u32, doubts: &Doubts) {
        if doubts.is_empty() {
            return;
        }
        let why = self.retellings.doubt(table, doubts, self.definitions.open_xid);
        let place = self.places.get(&table);
        if let (Some(why), Some(place)) = (why, place) {
            self.say(self.tables[*place].table.display(), why);
        }
    }
}

/// What a statement did to columns without telling the values that rows then had.
fn lacking(before: &Table, now: &Table, defined: &DefinedTable) -> Vec<String> {
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
                found.push(format!("column {} was given another type without a rewrite", column.name));
            }
            None if numbers.contains(&column.number) => {
                found.push(format!("column {} was computed before, and is stored now,", column.name));
            }
            _ => {}
        }
    }
    found
}

/// Whether a value of one type, taken as one of the other without a rewrite, is written alike.
fn same_text(before: u32, now: u32) -> bool {
    const TEXT: u32 = 25;
    const VARCHAR: u32 = 1043;
    before == now || ([TEXT, VARCHAR].contains(&before) && [TEXT, VARCHAR].contains(&now))
}

impl FoldedTable {
    /// The table is from here on as the statement left it.
    fn become_(&mut self, now: Table, defined: &DefinedTable, late: Option<&Late>) {
        if defined.image {
            self.table = now;
            self.truncate();
            return;
        }
        let mut reshape = Reshape::between(&self.table, &now, &defined.facts);
        if let (Some(reshape), Some(late)) = (&mut reshape, late) {
            reshape.correct(late);
        }
        self.table = now;
        if self.cleared && self.delta.is_empty() {
            self.shape = KeyShape::of(&self.table);
            self.delta = Delta::of(&self.shape);
            self.reshape = None;
            return;
        }
        self.reshape_by(reshape);
    }

    fn reshape_by(&mut self, reshape: Option<Reshape>) {
        self.reshape = match (self.reshape.take(), reshape) {
            (Some(before), Some(now)) => Some(before.then(now)),
            (before, now) => before.or(now),
        };
    }

    /// What becomes of the values of some columns.
    fn retell(&mut self, columns: &[(usize, Step)]) {
        let has_rows = !self.cleared || !self.delta.is_empty();
        if has_rows && !columns.is_empty() {
            let reshape = Reshape::retold(&self.table, columns);
            self.reshape_by(Some(reshape));
        }
    }
}
