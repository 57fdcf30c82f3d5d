//! Follows the names of relations, since a value of `regclass` holds an oid and is written as a name.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::checkpoint::Checkpoint;
use crate::model::written::{written_ident, written_parts};
use crate::model::{DatabaseFacts, Table};
use crate::signal::retold::{Retold, TypeBefore, TypeFacts};
use crate::signal::{DefinedObject, DefinitionSignal};

const REGPROC: u32 = 24;
const REGPROCEDURE: u32 = 2202;
const REGOPER: u32 = 2203;
const REGOPERATOR: u32 = 2204;
pub(super) const REGCLASS: u32 = 2205;
const REGTYPE: u32 = 2206;
const REGCONFIG: u32 = 3734;
const REGDICTIONARY: u32 = 3769;
const REGNAMESPACE: u32 = 4089;
pub(super) const REGROLE: u32 = 4096;
const REGCOLLATION: u32 = 4191;

/// The types whose values are written as the names of other objects, each with its array type.
const BY_NAME: [(u32, u32); 11] = [
    (REGPROC, 1008),
    (REGPROCEDURE, 2207),
    (REGOPER, 2208),
    (REGOPERATOR, 2209),
    (REGCLASS, 2210),
    (REGTYPE, 2211),
    (REGCONFIG, 3735),
    (REGDICTIONARY, 3770),
    (REGNAMESPACE, 4090),
    (REGROLE, 4097),
    (REGCOLLATION, 4192),
];

/// The type as whose names a column's values are written, if the column's type is one of these or an array of one.
pub(super) fn by_name(type_oid: u32) -> Option<u32> {
    BY_NAME.iter().find(|(oid, array)| [*oid, *array].contains(&type_oid)).map(|(oid, _)| *oid)
}

/// The relations whose names are known, as the server writes them.
pub(super) struct Names {
    database: DatabaseFacts,
    /// Schema and name by oid.
    known: BTreeMap<u32, (String, String)>,
    /// The former names of objects that were renamed, moved or dropped, by the type that writes such names.
    left: BTreeMap<u32, BTreeSet<String>>,
}

/// The names that a statement changed.
#[derive(Default)]
pub(super) struct Renamed {
    /// The texts of values of `regclass` before the statement and after it, by the relation's oid.
    before: BTreeMap<u32, String>,
    now: BTreeMap<u32, String>,
    /// The types of which some values may have another text, where nothing tells which values.
    pub unknown: BTreeSet<u32>,
    /// For types other than `regclass`: new objects, by oid, that have the name that another object had.
    taken: BTreeMap<u32, Vec<(u32, String)>>,
}

impl Names {
    pub fn of(base: &Checkpoint) -> Names {
        let database = base.schema.database.clone();
        let mut names = Names { database, known: BTreeMap::new(), left: BTreeMap::new() };
        let tables = base.tables.iter().map(|it| (it.table.oid, &it.table.schema, &it.table.name));
        let sequences = base.sequences.iter().map(|it| (it.oid, &it.schema, &it.name));
        for (oid, schema, name) in tables.chain(sequences) {
            if let Some(name) = names.written(schema, name) {
                names.known.insert(oid, name);
            }
        }
        let retold = base.schema.since.iter().filter_map(|change| change.signal.retold.as_ref());
        for (type_oid, before) in retold.flat_map(|it| &it.before) {
            if let TypeBefore::Names(before) = before {
                names.leave(*type_oid, before.iter().map(|(_, text)| text.clone()));
            }
        }
        names
    }

    fn leave(&mut self, type_oid: u32, texts: impl Iterator<Item = String>) {
        self.left.entry(type_oid).or_default().extend(texts);
    }

    /// `None` if the database writes the name with other bytes.
    fn written(&self, schema: &str, name: &str) -> Option<(String, String)> {
        let ident = |name| written_ident(name, self.database.server_major);
        self.spelled(schema, name).then(|| (ident(schema), ident(name)))
    }

    fn spelled(&self, schema: &str, name: &str) -> bool {
        self.database.encoding == "UTF8" || schema.is_ascii() && name.is_ascii()
    }

    fn identified(&self, identity: &str) -> Option<(String, String)> {
        let (schema, name) = written_parts(identity)?;
        self.spelled(schema, name).then(|| (schema.to_owned(), name.to_owned()))
    }

    /// Follows a statement, and returns the names that it changed.
    pub fn told(&mut self, signal: &DefinitionSignal) -> Renamed {
        let mut renamed = Renamed::default();
        let may_rename = signal.tag.starts_with("ALTER ") && mentions(signal, &["rename", "schema"]);
        let moves: Vec<_> =
            signal.moved.iter().map(|(relation, ..)| self.schema_of(*relation, signal)).collect();
        let mut other = false;
        for (oid, name, made) in self.named(signal) {
            let old = self.known.get(&oid);
            let unknown = old.is_none() && !made && may_rename;
            other |= unknown || old.is_some() && old != name.as_ref();
            if unknown || name.is_none() {
                renamed.unknown.insert(REGCLASS);
            }
            self.call(oid, name, &mut renamed);
        }
        for ((relation, oid, name), old) in signal.moved.iter().zip(moves) {
            let now = match relation {
                0 => new_schema(signal),
                relation => self.known.get(relation).map(|(schema, _)| schema.clone()),
            };
            let (Some(old), Some(now), Some((_, name))) = (old, now, self.written("", name)) else {
                renamed.unknown.insert(REGCLASS);
                continue;
            };
            self.known.entry(*oid).or_insert((old, name.clone()));
            self.call(*oid, Some((now, name)), &mut renamed);
        }
        self.drop_all(signal, &mut renamed);
        let constraint = signal.objects.iter().any(|it| it.kind == "table constraint");
        if signal.tag == "ALTER EXTENSION" || may_rename && constraint {
            renamed.unknown.insert(REGCLASS);
        }
        renamed.unknown.extend(others(signal, may_rename, other));
        self.told_of_others(signal, &mut renamed);
        renamed
    }

    /// Follows the names of other objects than relations. Of the types that the message tells, nothing is unknown.
    fn told_of_others(&mut self, signal: &DefinitionSignal, renamed: &mut Renamed) {
        let left_before: Vec<u32> = self.left.keys().copied().filter(|it| *it != REGCLASS).collect();
        for (type_oid, facts) in signal.retold.iter().flat_map(|it| &it.before) {
            let TypeBefore::Names(before) = facts else { continue };
            renamed.unknown.remove(type_oid);
            if !before.is_empty() {
                self.leave(*type_oid, before.iter().map(|(_, text)| text.clone()));
            }
        }
        if signal.tag.ends_with(" EXTENSION") {
            // The objects that an extension makes are not told, and one may have a name that another object left.
            renamed.unknown.extend(left_before);
        }
        for (type_oid, left) in self.left.iter().filter(|(it, _)| **it != REGCLASS) {
            for object in signal.objects.iter().filter(|it| it.tag.starts_with("CREATE ")) {
                let same =
                    left.iter().filter(|text| without_arguments(text) == without_arguments(&object.identity));
                let taken = same.map(|text| (object.oid, text.clone()));
                renamed.taken.entry(*type_oid).or_default().extend(taken);
            }
        }
        renamed.taken.retain(|_, taken| !taken.is_empty());
    }

    /// The relations that the statement tells of, how they are called now, and whether it made them.
    fn named(&self, signal: &DefinitionSignal) -> Vec<(u32, Option<(String, String)>, bool)> {
        let is_made = |tag: &str| tag.starts_with("CREATE ") || tag == "SELECT INTO";
        let tables = signal.tables.iter().map(|it| &it.facts);
        let tables = tables.map(|it| (it.oid, self.written(&it.schema, &it.name), is_made(&signal.tag)));
        let objects = signal.objects.iter().filter(|it| is_relation(it));
        let objects = objects.map(|it| (it.oid, self.identified(&it.identity), is_made(&it.tag)));
        objects.chain(tables).collect()
    }

    /// The schema, before the statement, of a relation that it moves, or of all that it moves.
    fn schema_of(&self, relation: u32, signal: &DefinitionSignal) -> Option<String> {
        let known = |oid: &u32| self.known.get(oid).map(|(schema, _)| schema.clone());
        match relation {
            0 => signal.moved.iter().find_map(|(_, oid, _)| known(oid)),
            relation => known(&relation),
        }
    }

    fn call(&mut self, oid: u32, name: Option<(String, String)>, renamed: &mut Renamed) {
        let old = match &name {
            Some(name) => self.known.insert(oid, name.clone()),
            None => self.known.remove(&oid),
        };
        let text = |(schema, name): (String, String)| format!("{schema}.{name}");
        let (old, Some(now)) = (old.map(text), name.map(text)) else { return };
        match old {
            Some(old) if old == now => {}
            Some(old) => renamed.change(oid, old, now, self.left.entry(REGCLASS).or_default()),
            // Another relation had this name before.
            None if self.left.get(&REGCLASS).is_some_and(|left| left.contains(&now)) => {
                renamed.now.insert(oid, now);
            }
            None => {}
        }
    }

    /// The server writes the number of a relation that is gone.
    fn drop_all(&mut self, signal: &DefinitionSignal, renamed: &mut Renamed) {
        for oid in &signal.dropped {
            let told = signal.dropped_identities.iter().find(|(dropped, _)| dropped == oid);
            let told = told.and_then(|(_, identity)| self.identified(identity));
            match self.known.remove(oid).or(told) {
                Some((schema, name)) => {
                    let left = self.left.entry(REGCLASS).or_default();
                    renamed.change(*oid, format!("{schema}.{name}"), oid.to_string(), left);
                }
                None => drop(renamed.unknown.insert(REGCLASS)),
            }
        }
    }
}

impl Renamed {
    fn change(&mut self, oid: u32, old: String, now: String, left: &mut BTreeSet<String>) {
        left.insert(old.clone());
        self.before.entry(oid).or_insert(old);
        self.now.insert(oid, now);
    }

    /// Whether values of `regclass` read otherwise, and it is known how.
    pub fn changes(&self) -> bool {
        !self.now.is_empty() || !self.taken.is_empty()
    }

    /// Adds what became of the values of `regclass` to what the source told of other types.
    pub fn add_to(&self, retold: &mut Option<Retold>) {
        let list = |names: &BTreeMap<u32, String>| names.iter().map(|(oid, it)| (*oid, it.clone())).collect();
        let retold = retold.get_or_insert_default();
        for (type_oid, taken) in &self.taken {
            retold.types.entry(*type_oid).or_insert_with(|| TypeFacts::Names(taken.clone()));
            retold.types.extend(arrays_of(*type_oid));
        }
        if self.now.is_empty() {
            return;
        }
        retold.before.insert(REGCLASS, TypeBefore::Names(list(&self.before)));
        retold.types.insert(REGCLASS, TypeFacts::Names(list(&self.now)));
        retold.types.extend(arrays_of(REGCLASS));
    }
}

fn arrays_of(type_oid: u32) -> impl Iterator<Item = (u32, TypeFacts)> {
    let arrays = BY_NAME.iter().filter(move |(oid, _)| *oid == type_oid).map(|(_, array)| *array);
    arrays.map(move |array| (array, TypeFacts::Array(type_oid, ",".into())))
}

/// `public.f` of `public.f(integer)`.
fn without_arguments(name: &str) -> &str {
    name.split('(').next().unwrap_or(name)
}

fn is_relation(object: &DefinedObject) -> bool {
    const CATALOG: [&str; 2] = ["pg_class", "1259"];
    // A column of one has its oid.
    CATALOG.contains(&&*object.catalog) && !object.kind.ends_with("column") && object.oid != 0
}

/// How the schema that the statement names is called now.
fn new_schema(signal: &DefinitionSignal) -> Option<String> {
    signal.objects.iter().find(|it| it.kind == "schema").map(|it| it.identity.clone())
}

/// Whether one of these words may be in the statement's text.
fn mentions(signal: &DefinitionSignal, words: &[&str]) -> bool {
    let statement = &signal.statement;
    let text = format!("{} {}", statement.query, statement.context).to_ascii_lowercase();
    statement.query.is_empty() || words.iter().any(|word| text.contains(word))
}

/// The types other than `regclass` of which values may read otherwise after the statement. `relations` says that
/// one of those may have another name.
fn others(signal: &DefinitionSignal, may_rename: bool, relations: bool) -> Vec<u32> {
    const ROUTINES: [u32; 5] = [REGPROC, REGPROCEDURE, REGOPER, REGOPERATOR, REGTYPE];
    let Some((verb, object)) = signal.tag.split_once(' ') else { return Vec::new() };
    let drops = verb == "DROP";
    if !drops && !may_rename && signal.tag != "ALTER EXTENSION" {
        return Vec::new();
    }
    match object {
        "SCHEMA" | "EXTENSION" | "OWNED" => {
            let all = BY_NAME.iter().map(|(oid, _)| *oid);
            all.filter(|oid| ![REGROLE, REGCLASS].contains(oid)).collect()
        }
        "TABLE" | "VIEW" | "MATERIALIZED VIEW" | "FOREIGN TABLE" if drops || relations => {
            if drops && mentions(signal, &["cascade"]) {
                ROUTINES.to_vec()
            } else {
                // Row types, and what takes them.
                vec![REGTYPE, REGPROCEDURE, REGOPERATOR]
            }
        }
        "TYPE" | "DOMAIN" | "FUNCTION" | "PROCEDURE" | "ROUTINE" | "AGGREGATE" | "OPERATOR" | "LANGUAGE" => {
            ROUTINES.to_vec()
        }
        "TEXT SEARCH CONFIGURATION" => vec![REGCONFIG],
        "TEXT SEARCH DICTIONARY" | "TEXT SEARCH TEMPLATE" => vec![REGDICTIONARY, REGCONFIG],
        "COLLATION" => vec![REGCOLLATION],
        _ => Vec::new(),
    }
}

/// The columns of a table whose values are written by one of these types' names.
pub(super) fn columns_of(table: &Table, types: &BTreeSet<u32>) -> Vec<String> {
    let concerned = |type_oid| by_name(type_oid).is_some_and(|oid| types.contains(&oid));
    let columns = table.columns.iter().filter(|column| concerned(column.type_oid));
    columns.map(|column| format!("{} ({})", column.name, column.type_name)).collect()
}
