//! The truth: what `pg_dump` says of a database, in a form that two databases can be compared by.
//!
//! Schema objects are compared as a multiset of statements under their names, rows as a multiset for
//! each table, sequences on their own: a recovered sequence may be ahead of the source's, never behind.

use std::collections::BTreeMap;
use std::fmt;

use super::server::Server;

/// A database's objects, rows and sequences.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Dump {
    /// `TABLE public.orders` → its statements, sorted.
    pub schema: BTreeMap<String, Vec<Vec<u8>>>,
    /// `public.orders (id, note)` → its rows as COPY text, sorted.
    pub rows: BTreeMap<String, Vec<Vec<u8>>>,
    /// `public.orders_id_seq` → the last value handed out; one less while `is_called` is false.
    pub sequences: BTreeMap<String, i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Schema,
    Rows,
    Sequence,
}

/// One object in which two dumps differ, and how, for a person to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub part: Part,
    pub object: String,
    pub how: String,
}

impl Dump {
    pub fn of(server: &Server, database: &str) -> Dump {
        Dump::with(server, database, &[])
    }

    /// With more arguments for `pg_dump`, such as `--no-owner`, `--snapshot=…`, `--table=…`.
    pub fn with(server: &Server, database: &str, arguments: &[&str]) -> Dump {
        Dump::parse(&server.pg_dump(database, arguments))
    }

    /// Reads plain `pg_dump` output; leaves out comments, session settings and what backwhen itself put
    /// into the database.
    pub fn parse(text: &[u8]) -> Dump {
        let mut reader = Reader::default();
        for line in text.split(|&byte| byte == b'\n') {
            reader.line(line);
        }
        reader.finish_object();
        reader.dump.rows.retain(|table, _| !table.starts_with("backwhen."));
        reader.dump.sequences.retain(|sequence, _| !sequence.starts_with("backwhen."));
        for values in reader.dump.schema.values_mut().chain(reader.dump.rows.values_mut()) {
            values.sort();
        }
        reader.dump
    }

    /// Whether the sequence is defined with a negative increment.
    fn counts_down(&self, sequence: &str) -> bool {
        let definitions = self.schema.get(&format!("SEQUENCE {sequence}")).into_iter().flatten();
        definitions.into_iter().any(|text| String::from_utf8_lossy(text).contains("INCREMENT BY -"))
    }

    pub fn row_count(&self) -> usize {
        self.rows.values().map(Vec::len).sum()
    }
}

/// Reads the output line by line. An object begins at its `-- Name:` comment and ends at the next.
#[derive(Default)]
struct Reader {
    dump: Dump,
    object: Option<Object>,
    /// The beginning of a COPY statement in which a name holds a newline.
    begun: Option<Vec<u8>>,
    /// In the middle of this table's COPY data.
    copying: Option<String>,
    tablespace: String,
    access_method: String,
}

struct Object {
    name: String,
    ours: bool,
    text: Vec<u8>,
}

impl Reader {
    fn line(&mut self, line: &[u8]) {
        if let Some(mut begun) = self.begun.take() {
            begun.push(b'\n');
            begun.extend_from_slice(line);
            self.line_of_many(begun);
        } else if self.copying.is_some() {
            self.row(line);
        } else if let Some(header) = Header::read(line) {
            self.finish_object();
            let place = format!("{}{}", self.tablespace, self.access_method);
            let name = format!("{} {}.{}{place}", header.kind, header.schema, header.name);
            self.object = Some(Object { name, ours: header.is_ours(), text: Vec::new() });
        } else if let Some(table) = copied_table(line) {
            self.dump.rows.entry(table.clone()).or_default();
            self.copying = Some(table);
        } else if line.starts_with(b"COPY ") && self.in_table_data() {
            self.line_of_many(line.to_vec());
        } else if let Some((sequence, value)) = sequence_value(line) {
            self.dump.sequences.insert(sequence, value);
        } else {
            self.remember_place(line);
            if let Some(object) = &mut self.object {
                object.text.extend_from_slice(line);
                object.text.push(b'\n');
            }
        }
    }

    fn in_table_data(&self) -> bool {
        self.object.as_ref().is_some_and(|object| object.name.starts_with("TABLE DATA "))
    }

    fn line_of_many(&mut self, begun: Vec<u8>) {
        match copied_table(&begun) {
            Some(table) => {
                self.dump.rows.entry(table.clone()).or_default();
                self.copying = Some(table);
            }
            None => self.begun = Some(begun),
        }
    }

    fn row(&mut self, line: &[u8]) {
        if line == br"\." {
            self.copying = None;
        } else if let Some(rows) = self.copying.as_ref().and_then(|table| self.dump.rows.get_mut(table)) {
            rows.push(line.to_vec());
        }
    }

    /// pg_dump sets these two between objects; they hold for every table after.
    fn remember_place(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let value =
            |name: &str| Some(line.strip_prefix(name)?.trim_matches([' ', '=', '\'', ';']).to_owned());
        if let Some(tablespace) = value("SET default_tablespace") {
            self.tablespace = if tablespace.is_empty() { tablespace } else { format!(" in {tablespace}") };
        } else if let Some(method) = value("SET default_table_access_method") {
            self.access_method = if method == "heap" { String::new() } else { format!(" as {method}") };
        }
    }

    fn finish_object(&mut self) {
        let Some(object) = self.object.take().filter(|object| !object.ours) else { return };
        let text = without_tail(&object.text);
        if !text.is_empty() {
            self.dump.schema.entry(object.name).or_default().push(text.to_vec());
        }
    }
}

/// `-- Name: orders; Type: TABLE; Schema: public; Owner: postgres`, or `-- Data for Name: …`.
struct Header {
    name: String,
    kind: String,
    schema: String,
}

impl Header {
    fn read(line: &[u8]) -> Option<Header> {
        let line = std::str::from_utf8(line).ok()?;
        let rest = line.strip_prefix("-- Name: ").or_else(|| line.strip_prefix("-- Data for Name: "))?;
        let (name, rest) = rest.rsplit_once("; Type: ")?;
        let (kind, rest) = rest.split_once("; Schema: ")?;
        let (schema, _owner) = rest.split_once("; Owner:")?;
        Some(Header { name: name.to_owned(), kind: kind.to_owned(), schema: schema.to_owned() })
    }

    /// The publication, the schema and the event triggers that `init` puts on the source.
    fn is_ours(&self) -> bool {
        let kinds = ["PUBLICATION", "SCHEMA", "EVENT TRIGGER"];
        let after_kind = kinds.iter().find_map(|kind| self.name.strip_prefix(&format!("{kind} ")));
        let named = |name: &str| name.trim_start_matches(['!', '"']).starts_with("backwhen");
        let of_that_kind = kinds.iter().any(|kind| self.kind.starts_with(kind));
        self.schema == "backwhen" || (of_that_kind && named(&self.name)) || after_kind.is_some_and(named)
    }
}

/// `COPY public.orders (id, note) FROM stdin;` → `public.orders (id, note)`.
fn copied_table(line: &[u8]) -> Option<String> {
    let line = std::str::from_utf8(line).ok()?;
    Some(line.strip_prefix("COPY ")?.strip_suffix(" FROM stdin;")?.to_owned())
}

/// `SELECT pg_catalog.setval('public.s', 7, true);`
fn sequence_value(line: &[u8]) -> Option<(String, i64)> {
    let line = std::str::from_utf8(line).ok()?;
    let rest = line.strip_prefix("SELECT pg_catalog.setval('")?.strip_suffix(");")?;
    let (rest, called) = rest.rsplit_once(", ")?;
    let (sequence, value) = rest.rsplit_once("', ")?;
    let value: i64 = value.parse().ok()?;
    Some((sequence.to_owned(), if called == "true" { value } else { value - 1 }))
}

/// Cuts blank lines, comments, session settings and psql's `\unrestrict` off the end of an object, and
/// blank lines and comment marks off its beginning: they belong to what comes next or came before.
fn without_tail(text: &[u8]) -> &[u8] {
    let mut lines: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').collect();
    while lines.last().is_some_and(|line| is_padding(line)) {
        lines.pop();
    }
    let begin: usize = lines.iter().take_while(|line| is_padding(line)).map(|line| line.len()).sum();
    let end: usize = lines.iter().map(|line| line.len()).sum();
    text.get(begin..end).unwrap_or_default()
}

fn is_padding(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    let setting = line.starts_with(b"SET ") && line.ends_with(b";");
    line.is_empty() || line.starts_with(b"--") || line.starts_with(br"\unrestrict ") || setting
}

/// Every object in which `found` is not what `truth` says; empty when the two are the same.
pub fn compare(truth: &Dump, found: &Dump) -> Vec<Difference> {
    let mut differences = compare_sets(Part::Schema, &truth.schema, &found.schema);
    differences.extend(compare_sets(Part::Rows, &truth.rows, &found.rows));
    for (sequence, &value) in &truth.sequences {
        let how = match found.sequences.get(sequence) {
            Some(&other) if other >= value => continue,
            Some(&other) if other <= value && truth.counts_down(sequence) => continue,
            Some(other) => format!("stands at {other}, behind the {value} already handed out"),
            None => "is missing".to_owned(),
        };
        differences.push(Difference { part: Part::Sequence, object: sequence.clone(), how });
    }
    differences
}

/// Fails the test with the first differences.
#[track_caller]
pub fn assert_same(truth: &Dump, found: &Dump) {
    let differences = compare(truth, found);
    let text: Vec<String> = differences.iter().take(10).map(Difference::to_string).collect();
    assert!(differences.is_empty(), "{} objects differ:\n{}", differences.len(), text.join("\n"));
}

fn compare_sets(
    part: Part,
    truth: &BTreeMap<String, Vec<Vec<u8>>>,
    found: &BTreeMap<String, Vec<Vec<u8>>>,
) -> Vec<Difference> {
    let mut objects: Vec<&String> = truth.keys().chain(found.keys()).collect();
    objects.sort();
    objects.dedup();
    let differing = objects.into_iter().filter(|object| truth.get(*object) != found.get(*object));
    differing
        .map(|object| {
            let how = match (truth.get(object), found.get(object)) {
                (Some(_), None) => "is missing".to_owned(),
                (None, _) => "should not be there".to_owned(),
                (Some(truth), Some(found)) => describe(truth, found),
            };
            Difference { part, object: object.clone(), how }
        })
        .collect()
}

/// Counts, and the first entry of each side that the other lacks. Both sides are sorted.
fn describe(truth: &[Vec<u8>], found: &[Vec<u8>]) -> String {
    let (lacking, extra) = (only_in(truth, found), only_in(found, truth));
    let mut how = format!("{} lacking, {} too many", lacking.len(), extra.len());
    for (word, entries) in [("lacking", lacking), ("too many", extra)] {
        if let Some(first) = entries.first() {
            how += &format!("\n    {word}: {}", String::from_utf8_lossy(first).trim_end());
        }
    }
    how
}

/// The multiset difference of two sorted lists.
fn only_in<'a>(these: &'a [Vec<u8>], those: &[Vec<u8>]) -> Vec<&'a Vec<u8>> {
    let mut those = those.iter().peekable();
    these
        .iter()
        .filter(|this| {
            while those.next_if(|that| that < this).is_some() {}
            those.next_if(|that| that == this).is_none()
        })
        .collect()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {}", self.part, self.object, self.how)
    }
}
