//! Follows the types whose values a statement gave another text: how the rows before the statement change, and the rows
//! that come after it but were written before.
//!
//! The server writes each change in the stream as its types were when the change was made. A transaction that was
//! open when another one gave a label its new name therefore still brings the old text, after that.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::codec::copy_text::{self, HOLE, NULL, push_escaped};
use crate::codec::retell::{CompositeAttributes, Doubts, EnumLabel, Retelling, Shape};
use crate::model::{Inexact, Lsn, Table};
use crate::signal::retold::{Retold, TypeBefore, TypeFacts};

/// The beginning of a reason for which values may differ from those that the table had.
pub(super) const DOUBT: &str = "values read otherwise without a change of rows since ";

/// Whether an entry is about values, so that a later image made from the inexact one is inexact too, whatever its
/// schema.
pub fn is_of_values(inexact: &Inexact) -> bool {
    inexact.why.starts_with(DOUBT)
}

/// The labels of an enum, or the attributes of a composite type, at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// The labels' texts, by oid.
    Labels(BTreeMap<u32, Vec<u8>>),
    /// The attributes' numbers.
    Attributes(Vec<i16>),
    /// A number of these from the first one on. Nothing tells how many.
    FirstOf(Vec<i16>),
}

/// Everything that statements told of types since the base's schema was read.
#[derive(Default)]
pub(super) struct Retellings {
    /// The stages of each type that was changed, by oid, the latest last.
    stages: BTreeMap<u32, Vec<Stage>>,
    types: BTreeMap<u32, TypeFacts>,
    /// For each type whose values are written by names: the objects that were renamed, by oid, with their present
    /// names.
    names: BTreeMap<u32, BTreeMap<u32, Vec<u8>>>,
    late: Arc<Retelling>,
    /// For each table: the columns whose values may come late, with their types.
    columns: HashMap<u32, Vec<(usize, u32)>>,
    /// The types that the transaction being read has changed. Its rows after the change are not late.
    own: BTreeSet<u32>,
    /// The last transaction that changed a type.
    since: Lsn,
    /// A transaction that began after that transaction had ended.
    begun_after: Option<u32>,
    doubted: BTreeSet<u32>,
}

/// How the text of a column's values changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ColumnRetelling {
    pub type_oid: u32,
    pub retelling: Arc<Retelling>,
}

impl ColumnRetelling {
    /// How each column of the table changes that is concerned, with the column's position.
    pub fn of_table(retelling: &Arc<Retelling>, table: &Table) -> Vec<(usize, ColumnRetelling)> {
        let step = |type_oid| ColumnRetelling { type_oid, retelling: Arc::clone(retelling) };
        concerned(retelling, table).into_iter().map(|(number, oid)| (number, step(oid))).collect()
    }
}

fn concerned(retelling: &Retelling, table: &Table) -> Vec<(usize, u32)> {
    let types = table.columns.iter().map(|column| column.type_oid).enumerate();
    types.filter(|(_, oid)| retelling.types.contains_key(oid)).collect()
}

/// A column's COPY text after some changes.
pub(super) fn column<'a>(steps: &[ColumnRetelling], text: &'a [u8], doubts: &mut Doubts) -> Cow<'a, [u8]> {
    if text == HOLE || text == NULL {
        return Cow::Borrowed(text);
    }
    let Some(before) = copy_text::unescape(text) else { return Cow::Borrowed(text) };
    let mut now = Cow::Borrowed(&*before);
    for step in steps {
        now = Cow::Owned(step.retelling.value(step.type_oid, &now, doubts).into_owned());
    }
    if now == before {
        return Cow::Borrowed(text);
    }
    let mut escaped = Vec::with_capacity(now.len());
    push_escaped(&mut escaped, &now);
    Cow::Owned(escaped)
}

/// How the rows of a table change that may have been written before a statement, and come after it.
#[derive(Clone, Debug)]
pub(super) struct LateValues {
    columns: Vec<(usize, ColumnRetelling)>,
}

impl LateValues {
    /// Makes a line what it would be if it had been written after the statement.
    pub fn correct(&self, line: &mut Vec<u8>, doubts: &mut Doubts) {
        let mut now = Vec::with_capacity(line.len());
        for (number, text) in copy_text::columns(line).enumerate() {
            if number > 0 {
                now.push(b'\t');
            }
            let step = self.columns.iter().find(|(at, _)| *at == number);
            let steps = step.map_or(&[][..], |(_, step)| std::slice::from_ref(step));
            now.extend_from_slice(&column(steps, text, doubts));
        }
        *line = now;
    }

    pub fn columns(&self) -> &[(usize, ColumnRetelling)] {
        &self.columns
    }
}

impl Retellings {
    pub fn begin(&mut self) {
        self.own.clear();
    }

    /// The transaction `xid` began after the WAL had reached `looked`.
    pub fn began(&mut self, xid: u32, looked: Lsn) {
        if looked > self.since && self.begun_after.is_none() {
            self.begun_after = Some(xid);
        }
    }

    /// The transaction at `at` changed types. Returns how the rows before it change, unless they stay as they are.
    pub fn told(&mut self, retold: &Retold, at: Lsn) -> Option<Arc<Retelling>> {
        self.types.extend(retold.types.iter().map(|(oid, facts)| (*oid, facts.clone())));
        if retold.changes_nothing() {
            self.late = Arc::new(self.retelling(&|oid| self.stages.get(&oid).cloned(), retold));
            return None;
        }
        let mut from = BTreeMap::new();
        for (oid, facts) in &retold.types {
            if let TypeFacts::Names(now) = facts {
                if !now.is_empty() {
                    from.insert(*oid, self.renamed(*oid, retold.before.get(oid), now));
                }
                continue;
            }
            let Some(now) = stage_of(facts, retold) else { continue };
            let stages = self.stages.get(oid);
            let last = stages.and_then(|stages| stages.last()).cloned();
            let before = retold.before.get(oid).and_then(|it| stage_before(it, facts, last.as_ref(), retold));
            if before.is_none() && last.as_ref().is_none_or(|last| *last == now) {
                continue;
            }
            let stages = self.stages.entry(*oid).or_default();
            stages.extend(before.clone().filter(|it| last.as_ref() != Some(it)));
            stages.push(now);
            from.extend(before.or(last).map(|stage| (*oid, stage)));
            self.own.insert(*oid);
        }
        (self.since, self.begun_after) = (at, None);
        self.late = Arc::new(self.retelling(&|oid| self.stages.get(&oid).cloned(), retold));
        let step = self.retelling(&|oid| from.get(&oid).cloned().map(|stage| vec![stage]), retold);
        (!step.types.is_empty()).then(|| Arc::new(step))
    }

    /// Follows new names of the objects that values of this type name; returns the former names.
    fn renamed(&mut self, type_oid: u32, before: Option<&TypeBefore>, now: &[(u32, String)]) -> Stage {
        let by_oid = |names: &[(u32, String)]| {
            names.iter().map(|(oid, text)| (*oid, text.as_bytes().to_vec())).collect::<BTreeMap<_, _>>()
        };
        let told = match before {
            Some(TypeBefore::Names(before)) => by_oid(before),
            _ => BTreeMap::new(),
        };
        let known = self.names.entry(type_oid).or_default();
        // Two sessions may have told what both of them saw: rows read as the first one left them.
        let before = told.into_iter().map(|(oid, text)| (oid, known.get(&oid).cloned().unwrap_or(text)));
        let before = Stage::Labels(before.collect());
        known.extend(by_oid(now));
        self.own.insert(type_oid);
        let stages = self.stages.entry(type_oid).or_default();
        stages.extend([before.clone(), Stage::Labels(by_oid(now))]);
        before
    }

    /// The table has these columns from here on.
    pub fn define(&mut self, table: &Table) {
        let columns = concerned(&self.late, table);
        if columns.is_empty() {
            self.columns.remove(&table.oid)
        } else {
            self.columns.insert(table.oid, columns)
        };
    }

    pub fn late(&self, table: u32) -> Option<LateValues> {
        let columns = self.columns.get(&table)?;
        let step = |type_oid| ColumnRetelling { type_oid, retelling: Arc::clone(&self.late) };
        Some(LateValues { columns: columns.iter().map(|(number, oid)| (*number, step(*oid))).collect() })
    }

    /// The reason for which a table is not exact after a row of a transaction raised these doubts. `None` if the table
    /// is exact, or if the reason was given already.
    pub fn doubt(&mut self, table: u32, doubts: &Doubts, xid: u32) -> Option<String> {
        // Transaction numbers wrap around.
        let in_time = self.begun_after.is_some_and(|after| xid.wrapping_sub(after) as i32 > 0);
        let doubtful = !in_time && doubts.types.iter().any(|oid| !self.own.contains(oid));
        if !(doubtful || doubts.unreadable) || !self.doubted.insert(table) {
            return None;
        }
        let what = if doubts.unreadable {
            "has values that do not read as those of their types; they are recovered as they came"
        } else {
            "has values that can be read in two ways, as their transactions may be older than it; they are \
             recovered as they read after it"
        };
        Some(format!("{DOUBT}{}, and the table since {what}", self.since))
    }

    /// How values change that were written while their types stood at one of the stages.
    fn retelling(&self, stages: &dyn Fn(u32) -> Option<Vec<Stage>>, retold: &Retold) -> Retelling {
        let mut changed = BTreeSet::new();
        let mut types = BTreeMap::new();
        for (oid, facts) in &self.types {
            let stages = stages(*oid);
            if let Some(shape) = self.shape(*oid, facts, stages.as_deref().unwrap_or_default(), retold) {
                if changes(&shape) {
                    changed.insert(*oid);
                }
                types.insert(*oid, shape);
            }
        }
        // A type changes too if it contains a type that does.
        loop {
            let reaching =
                types.iter().filter(|(oid, shape)| !changed.contains(oid) && is_of(shape, &changed));
            let found: Vec<_> = reaching.map(|(oid, _)| *oid).collect();
            if found.is_empty() {
                break;
            }
            changed.extend(found);
        }
        types.retain(|oid, _| changed.contains(oid));
        Retelling { types }
    }

    fn shape(&self, oid: u32, facts: &TypeFacts, stages: &[Stage], retold: &Retold) -> Option<Shape> {
        Some(match facts {
            TypeFacts::Array(element, delimiter) => {
                Shape::Array { element: *element, delimiter: *delimiter.as_bytes().first()? }
            }
            TypeFacts::Domain(base) => Shape::Domain(*base),
            TypeFacts::Range(subtype) => Shape::Range(*subtype),
            TypeFacts::Multirange(range) => Shape::Multirange(*range),
            TypeFacts::Composite(now) => Shape::Composite(attributes(stages, now)),
            TypeFacts::Names(_) => Shape::Labels(labels(stages, self.names.get(&oid)?)),
            TypeFacts::Enum(_) => {
                let known = self.stages.get(&oid).and_then(|stages| stages.last()).cloned();
                match known.or_else(|| stage_of(facts, retold))? {
                    Stage::Labels(now) => Shape::Labels(labels(stages, &now)),
                    _ => return None,
                }
            }
        })
    }
}

fn stage_of(facts: &TypeFacts, retold: &Retold) -> Option<Stage> {
    match facts {
        TypeFacts::Enum(labels) => labels_of(labels, retold),
        TypeFacts::Composite(attributes) => {
            Some(Stage::Attributes(attributes.iter().map(|(number, _)| *number).collect()))
        }
        _ => None,
    }
}

fn labels_of(labels: &[(u32, String)], retold: &Retold) -> Option<Stage> {
    let each = labels.iter().map(|(oid, text)| Some((*oid, retold.label_bytes(text)?)));
    Some(Stage::Labels(each.collect::<Option<_>>()?))
}

/// The stage of a type before the statement. `last` is the latest known stage.
fn stage_before(
    before: &TypeBefore,
    now: &TypeFacts,
    last: Option<&Stage>,
    retold: &Retold,
) -> Option<Stage> {
    match before {
        TypeBefore::Enum(labels) => labels_of(labels, retold),
        TypeBefore::Names(_) => None,
        TypeBefore::Composite(numbers) => Some(Stage::Attributes(numbers.clone())),
        TypeBefore::Row { dropped, grown } => {
            if let Some(last) = last {
                // The message also names what the transaction dropped before the statement.
                return Some(last.clone());
            }
            let TypeFacts::Composite(now) = now else { return None };
            let mut all: Vec<_> =
                now.iter().map(|(number, _)| *number).chain(dropped.iter().copied()).collect();
            all.sort_unstable();
            all.dedup();
            Some(if *grown { Stage::FirstOf(all) } else { Stage::Attributes(all) })
        }
    }
}

/// Maps each text that was a label at one of the stages to the label's present text.
fn labels(stages: &[Stage], now: &BTreeMap<u32, Vec<u8>>) -> BTreeMap<Vec<u8>, EnumLabel> {
    let mut found: BTreeMap<Vec<u8>, EnumLabel> = BTreeMap::new();
    for stage in stages {
        let Stage::Labels(labels) = stage else { continue };
        for (oid, text) in labels {
            let Some(now) = now.get(oid) else { continue };
            let label =
                found.entry(text.clone()).or_insert_with(|| EnumLabel { now: now.clone(), doubtful: false });
            label.doubtful |= label.now != *now;
            label.now.clone_from(now);
        }
    }
    found.retain(|text, label| label.doubtful || label.now != *text);
    found
}

/// How values of a composite type change, by the number of attributes that they have.
fn attributes(stages: &[Stage], now: &[(i16, u32)]) -> BTreeMap<usize, CompositeAttributes> {
    let mut found: BTreeMap<usize, CompositeAttributes> = BTreeMap::new();
    let from = |before: &[i16]| {
        let place = |(number, oid): &(i16, u32)| (*oid, before.iter().position(|it| it == number));
        CompositeAttributes { now: now.iter().map(place).collect(), doubtful: false }
    };
    for stage in stages {
        if let Stage::Attributes(before) = stage {
            let plan = from(before);
            let doubtful = found.get(&before.len()).is_some_and(|it| it.doubtful || it.now != plan.now);
            found.insert(before.len(), CompositeAttributes { doubtful, ..plan });
        }
    }
    for stage in stages {
        if let Stage::FirstOf(all) = stage {
            (0..=all.len()).for_each(|number| {
                found.entry(number).or_insert_with(|| from(&all[..number]));
            });
        }
    }
    if stages.is_empty() {
        let numbers: Vec<_> = now.iter().map(|(number, _)| *number).collect();
        found.insert(now.len(), from(&numbers));
    }
    found
}

/// Whether the text of values of the type itself changes.
fn changes(shape: &Shape) -> bool {
    match shape {
        Shape::Labels(labels) => !labels.is_empty(),
        Shape::Composite(by_number) => by_number.iter().any(|(number, attributes)| {
            let same = attributes.now.iter().enumerate().all(|(at, (_, from))| *from == Some(at));
            attributes.doubtful || attributes.now.len() != *number || !same
        }),
        _ => false,
    }
}

fn is_of(shape: &Shape, types: &BTreeSet<u32>) -> bool {
    match shape {
        Shape::Labels(_) => false,
        Shape::Array { element: inner, .. }
        | Shape::Domain(inner)
        | Shape::Range(inner)
        | Shape::Multirange(inner) => types.contains(inner),
        Shape::Composite(by_number) => {
            by_number.values().flat_map(|it| &it.now).any(|(oid, _)| types.contains(oid))
        }
    }
}
