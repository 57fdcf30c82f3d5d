//! Reads the body of a message in which the event triggers describe a statement. See FORMAT.md.

use serde::Deserialize;
use serde::de::Error as _;

use super::retold::Retold;
use super::{DefinedObject, DefinedTable, DefinitionSignal, Statement};
use crate::model::definition::pairs;
use crate::model::{ColumnFacts, TableFacts};

/// The settings that decide what a statement means, besides its search path.
const SETTINGS: [&str; 15] = [
    "check_function_bodies",
    "default_tablespace",
    "default_table_access_method",
    "default_toast_compression",
    "standard_conforming_strings",
    "array_nulls",
    "transform_null_equals",
    "xmloption",
    "datestyle",
    "intervalstyle",
    "timezone",
    "lc_monetary",
    "bytea_output",
    "extra_float_digits",
    "backslash_quote",
];

/// The types whose names the message leaves out: their oids, and how the server writes them. These types take no
/// modifier.
pub const COMMON_TYPES: [(u32, &str); 8] = [
    (16, "boolean"),
    (20, "bigint"),
    (23, "integer"),
    (25, "text"),
    (1082, "date"),
    (1184, "timestamp with time zone"),
    (2950, "uuid"),
    (3802, "jsonb"),
];

/// Texts of the statement before its settings.
const BEFORE_SETTINGS: usize = 6;

/// The place in a table's texts where the names of partitioned tables begin.
const PARTITION_OF: usize = 10;

type Texts = Vec<Option<String>>;
type Body = (u32, Vec<String>, i64, i32, Vec<Texts>, Vec<(Texts, Vec<String>)>, MessageRest);

#[derive(Deserialize)]
struct MessageRest {
    trouble: Option<String>,
    #[serde(default)]
    dropped: Vec<u32>,
    #[serde(default)]
    dropped_names: Vec<String>,
    #[serde(default)]
    dropped_identities: Vec<(String, Option<String>)>,
    #[serde(default)]
    moved: Vec<(u32, u32, String)>,
    #[serde(default)]
    images: Vec<u32>,
    rows_trouble: Option<String>,
    #[serde(default)]
    retold: Option<Retold>,
}

/// Reads a message's body of any version.
///
/// # Errors
/// Fails if the body is neither valid JSON nor a message of a known version.
pub(super) fn decode(body: &[u8]) -> serde_json::Result<DefinitionSignal> {
    if !body.starts_with(b"[") {
        return serde_json::from_slice(body);
    }
    let (version, statement, started, process, objects, tables, rest): Body = serde_json::from_slice(body)?;
    if version != 2 {
        return Err(serde_json::Error::custom(format!("version {version} is not known here")));
    }
    let (tag, statement) = statement_of(statement, started, process)?;
    let tables = tables.into_iter().map(|(texts, columns)| table(texts, &columns, &rest.images));
    let tables = tables.collect::<Result<_, _>>()?;
    let of_retold = rest.retold.as_ref().and_then(|it| it.trouble.clone());
    let troubles: Vec<_> = [rest.trouble, rest.rows_trouble, of_retold].into_iter().flatten().collect();
    Ok(DefinitionSignal {
        tag,
        statement,
        objects: objects.into_iter().map(object).collect::<Result<_, _>>()?,
        tables,
        dropped: rest.dropped,
        dropped_names: rest.dropped_names,
        dropped_identities: rest.dropped_identities.into_iter().filter_map(identity).collect(),
        moved: rest.moved,
        retold: rest.retold,
        trouble: (!troubles.is_empty()).then(|| troubles.join("; ")),
    })
}

fn lacking(what: &str) -> serde_json::Error {
    serde_json::Error::custom(format!("{what} is lacking or is not what it should be"))
}

fn statement_of(texts: Vec<String>, started: i64, process: i32) -> serde_json::Result<(String, Statement)> {
    if texts.len() != BEFORE_SETTINGS + SETTINGS.len() {
        return Err(lacking("a setting of the statement"));
    }
    let mut texts = texts.into_iter();
    let mut next = || texts.next().unwrap_or_default();
    let tag = next();
    let mut statement = Statement {
        query: next().into(),
        context: next(),
        role: next(),
        login: next(),
        started,
        process,
        ..Statement::default()
    };
    for setting in ["search_path"].iter().chain(&SETTINGS) {
        statement.settings.insert((*setting).to_owned(), next());
    }
    Ok((tag, statement))
}

fn object(texts: Texts) -> serde_json::Result<DefinedObject> {
    let text = |at: usize| texts.get(at).cloned().flatten().unwrap_or_default();
    Ok(DefinedObject {
        catalog: text(0),
        oid: match &*text(1) {
            "" => 0,
            oid => oid.parse().map_err(|_| lacking("the oid of an object"))?,
        },
        tag: text(2),
        kind: text(3),
        identity: text(4),
    })
}

fn identity((oid, identity): (String, Option<String>)) -> Option<(u32, String)> {
    Some((oid.parse().ok()?, identity?))
}

fn table(texts: Texts, columns: &[String], images: &[u32]) -> serde_json::Result<DefinedTable> {
    let text = |at: usize, what| texts.get(at).and_then(|it| it.as_deref()).ok_or_else(|| lacking(what));
    let letter = |at| text(at, "a letter of a table").map(|it| it.chars().next().unwrap_or_default());
    let oid = text(0, "the oid of a table")?.parse().map_err(|_| lacking("the oid of a table"))?;
    let raw_names = match (text(8, ""), text(9, "")) {
        (Ok(schema), Ok(name)) => Some((schema.to_owned(), name.to_owned())),
        _ => None,
    };
    Ok(DefinedTable {
        facts: TableFacts {
            oid,
            schema: text(1, "the schema of a table")?.to_owned(),
            name: text(2, "the name of a table")?.to_owned(),
            persistence: letter(3)?,
            replica_identity: letter(4)?,
            file: text(5, "the file of a table")?.parse().map_err(|_| lacking("the file of a table"))?,
            identity: text(6, "").ok().map(numbers).transpose()?,
            of_extension: false,
            columns: columns.iter().map(|column| self::column(column)).collect::<Result<_, _>>()?,
            raw_names,
            partition_of: pairs(texts.iter().skip(PARTITION_OF).flatten().cloned().collect()),
        },
        published: text(7, "whether a table is published")? == "true",
        image: images.contains(&oid),
    })
}

/// Parses an array of integers such as `{1,2}`.
fn numbers(list: &str) -> serde_json::Result<Vec<i16>> {
    let wrong = || lacking("the identity of a table");
    let inner = list.strip_prefix('{').and_then(|it| it.strip_suffix('}')).ok_or_else(wrong)?;
    let each = inner.split(',').filter(|number| !number.is_empty());
    each.map(|number| number.parse().map_err(|_| wrong())).collect()
}

fn column(text: &str) -> serde_json::Result<ColumnFacts> {
    if text.starts_with('{') {
        return serde_json::from_str(text);
    }
    plain_column(text).ok_or_else(|| lacking("a fact of a column"))
}

fn plain_column(text: &str) -> Option<ColumnFacts> {
    let (older, text) = match text.strip_prefix('=') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let mut parts = text.splitn(6, ' ');
    let mut next = || parts.next();
    let (number, type_oid, modifier) = (next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?);
    let (definer, length, rest) = (next()?.to_owned(), next()?.parse().ok()?, next()?);
    let (name, rest) = rest.split_at_checked(length)?;
    let rest = rest.strip_prefix(' ')?;
    // The list holds only types whose names contain no line end.
    let (type_name, missing) = match rest.split_once('\n') {
        Some((type_name, missing)) if older => (type_name, Some(missing.to_owned())),
        _ => (rest, None),
    };
    let type_name = match type_name {
        "" => COMMON_TYPES.iter().find(|(oid, _)| *oid == type_oid)?.1,
        type_name => type_name,
    };
    Some(ColumnFacts {
        number,
        name: name.to_owned(),
        type_oid,
        modifier,
        type_name: type_name.to_owned(),
        missing,
        definer,
        ..ColumnFacts::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::retold::{TypeBefore, TypeFacts};

    const OLD: &[u8] = include_bytes!("fixtures/v1.json");
    const NEW: &[u8] = include_bytes!("fixtures/v2.json");
    const SHORT: &[u8] = include_bytes!("fixtures/v2-short.json");
    const RETOLD: &[u8] = include_bytes!("fixtures/v2-retold.json");
    const NAMES: &[u8] = include_bytes!("fixtures/v2-names.json");
    const ODD: &[u8] = include_bytes!("fixtures/v2-odd.json");

    #[test]
    fn both_versions_tell_the_same_statement_alike() {
        let (old, new) = (decode(OLD).unwrap(), decode(NEW).unwrap());
        assert_eq!(old.tables[0].facts.columns[9].missing.as_deref(), Some("a\nb"));
        assert_eq!((&old.tables, &old.statement.settings), (&new.tables, &new.statement.settings));
        assert_eq!((&old.tag, &old.statement.query), (&new.tag, &new.statement.query));
        assert_eq!(old.objects[0].identity, new.objects[0].identity);
    }

    #[test]
    fn common_types_are_known_by_their_numbers() {
        assert_eq!(decode(SHORT).unwrap(), decode(NEW).unwrap());
        assert!(column("1 24 -1 7 2 id ").is_err());
    }

    #[test]
    fn odd_names_and_columns_come_as_they_are() {
        let signal = decode(ODD).unwrap();
        let facts = &signal.tables[0].facts;
        assert_eq!((&*facts.schema, &*facts.name), ("od d", "B b"));
        let names: Vec<_> = facts.columns.iter().map(|it| (&*it.name, &*it.type_name)).collect();
        assert_eq!(
            names,
            [("a\nb c", "\"od d\".\"n\nm\""), ("ä 1", "integer"), ("g", "integer"), ("d", "date")]
        );
        assert!(facts.columns[2].generated);
        assert_eq!(facts.columns[3].missing.as_deref(), Some("2020-02-01"));
        assert!(signal.tables[0].image && signal.tables[0].published);
        assert_eq!(facts.identity, Some(vec![2, 1]));
    }

    #[test]
    fn what_became_of_values_is_told_beside_the_tables() {
        let signal = decode(RETOLD).unwrap();
        let retold = signal.retold.as_ref().unwrap();
        assert_eq!(retold.before.len(), 3);
        let kinds = ["Enum", "Array", "Domain", "Range", "Multirange", "Composite"];
        for kind in kinds {
            assert!(retold.types.values().any(|facts| format!("{facts:?}").starts_with(kind)), "{kind}");
        }
        // A manifest stores the signal as JSON of its own.
        let again: DefinitionSignal = serde_json::from_slice(&serde_json::to_vec(&signal).unwrap()).unwrap();
        assert_eq!(again, signal);
        assert!(decode(NEW).unwrap().retold.is_none());
        assert!(!serde_json::to_string(&decode(NEW).unwrap()).unwrap().contains("retold"));
    }

    #[test]
    fn names_that_values_are_written_by_are_told_as_they_were_and_are() {
        let retold = decode(NAMES).unwrap().retold.unwrap();
        assert_eq!(retold.before[&24], TypeBefore::Names(vec![(16385, "public.f".into())]));
        assert_eq!(retold.types[&24], TypeFacts::Names(vec![(16385, "public.\"G\"".into())]));
        assert_eq!(retold.before[&2206], TypeBefore::Names(vec![]), "known, and as it was");
        assert_eq!(retold.types[&16387], TypeFacts::Domain(24));
        assert!(!retold.changes_nothing());
    }

    #[test]
    fn what_is_damaged_is_an_error() {
        assert!(decode(b"[3,[],1,2,[],[],{}]").is_err());
        assert!(decode(b"[2,[],1,2,[],[],{}]").is_err());
        for text in ["", "1 23 -1 7 9 id integer", "1 23 -1 7 2 idinteger", "x 23 -1 7 2 id integer"] {
            assert!(column(text).is_err(), "{text}");
        }
    }
}
