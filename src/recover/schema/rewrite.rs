//! Rewrites a statement for the scratch database, which has no rows and must not touch anything outside.

use std::collections::BTreeSet;

use super::statements::Sql;
use crate::recover::lexer::Word;

/// How one statement is replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayAction {
    Run(String),
    /// The statement creates a table from a query. The table matters, not the query that filled it: without a text,
    /// or if the text does not run, the table is created from the signal's description.
    MakeTable(Option<String>),
    /// The statement creates a materialised view, which stays empty here; the Boolean says whether it was filled.
    MakeView {
        sql: String,
        filled: bool,
    },
    /// The statement filled or emptied a materialised view.
    Refresh {
        filled: bool,
    },
    /// The statement changes no definition.
    Nothing,
    Refuse {
        why: &'static str,
    },
}

const HOLDS_CONNECTION: &str = "a subscription connects to another server";
const ASKS_OTHERS: &str = "what it imports is on another server";
const REACHES_OUT: &str =
    "it reaches beyond its database; it is replayed only on a server of our own (leave --scratch away)";

/// `ours` says that the server exists only for this replay.
pub fn action(sql: &Sql, ours: bool) -> ReplayAction {
    let filled = || !sql.says(&["with", "no", "data"]);
    match sql.tag.as_str() {
        "CREATE TABLE AS" => ReplayAction::MakeTable((!executes(sql)).then(|| without_rows(sql))),
        "SELECT INTO" => ReplayAction::MakeTable(select_into(sql)),
        "CREATE MATERIALIZED VIEW" => ReplayAction::MakeView { sql: without_rows(sql), filled: filled() },
        "REFRESH MATERIALIZED VIEW" => ReplayAction::Refresh { filled: filled() },
        "REINDEX" | "REPACK" | "CLUSTER" | "ANALYZE" | "VACUUM" | "CHECKPOINT" => ReplayAction::Nothing,
        "CREATE PUBLICATION" | "ALTER PUBLICATION" | "DROP PUBLICATION" if is_ours(sql) => {
            ReplayAction::Nothing
        }
        "CREATE SUBSCRIPTION" => ReplayAction::Refuse { why: HOLDS_CONNECTION },
        "ALTER SUBSCRIPTION" if switches(sql) => ReplayAction::Nothing,
        "DROP SUBSCRIPTION" => ReplayAction::Run(drop_subscription(sql)),
        "IMPORT FOREIGN SCHEMA" => ReplayAction::Refuse { why: ASKS_OTHERS },
        "DROP OWNED" | "REASSIGN OWNED" if !ours => ReplayAction::Refuse { why: REACHES_OUT },
        _ => ReplayAction::Run(body(sql).to_owned()),
    }
}

/// Returns a DROP of only those objects that were told to be dropped: the others were temporary, and a permanent one may
/// have such a name too. `None` if it drops no more than what was told, or one object only.
pub fn drop_of_told(sql: &Sql, told: &BTreeSet<String>) -> Option<String> {
    let outer: Vec<&Word> = sql.outer().map(|(_, word)| word).collect();
    let kind = sql.tag.strip_prefix("DROP ").filter(|kind| *kind != "OWNED")?;
    let words = kind.split(' ').count() + 1;
    let between = |word: &&&Word| ["concurrently", "if", "exists"].iter().any(|it| word.is(it));
    let start = words + outer.get(words..)?.iter().take_while(between).count();
    let is_tail = |word: &&Word| word.is("cascade") || word.is("restrict");
    let end = outer.len() - usize::from(outer.last().is_some_and(is_tail));
    let items: Vec<&[&Word]> = outer.get(start..end)?.split(|word| word.is_sign(',')).collect();
    let (first, last) =
        (outer.get(start)?.at.start, outer.get(end).map_or(body(sql).len(), |word| word.at.start));
    // Between two items stands one comma.
    let commas = outer[start..end].iter().filter(|word| word.is_sign(',')).map(|word| word.at.start);
    let texts = std::iter::once(first).chain(commas.clone().map(|at| at + 1)).zip(commas.chain([last]));
    let name = |item: &[&Word]| item.iter().filter_map(|word| word.name()).next_back().map(str::to_owned);
    let is_temporary = |item: &[&Word]| item.first().is_some_and(|word| word.is("pg_temp"));
    let is_told = |item: &[&Word]| {
        !is_temporary(item) && name(item).is_some_and(|name| told.contains(as_stored(&name)))
    };
    let kept: Vec<&str> = items
        .iter()
        .zip(texts)
        .filter(|(item, _)| is_told(item))
        .map(|(_, (from, to))| sql.text[from..to].trim())
        .collect();
    let is_part = !kept.is_empty() && kept.len() < items.len();
    is_part.then(|| format!("{}{} {}", &sql.text[..first], kept.join(", "), &body(sql)[last..]))
}

/// Returns a DROP that passes over what is not there.
pub fn drop_if_there(sql: &Sql) -> Option<String> {
    let kind = sql.tag.strip_prefix("DROP ").filter(|kind| *kind != "OWNED")?;
    let outer: Vec<&Word> = sql.outer().map(|(_, word)| word).collect();
    let words = kind.split(' ').count() + 1;
    let at = words + usize::from(outer.get(words)?.is("concurrently"));
    let at = outer.get(at).filter(|word| !word.is("if"))?.at.start;
    Some(format!("{}IF EXISTS {}", &sql.text[..at], &body(sql)[at..]))
}

/// The server cuts names off at 63 bytes.
fn as_stored(name: &str) -> &str {
    let mut ends = (0..=name.len().min(63)).rev();
    &name[..ends.find(|end| name.is_char_boundary(*end)).unwrap_or(0)]
}

/// Handles `CREATE TABLE … AS EXECUTE …`, whose prepared statement no longer exists.
fn executes(sql: &Sql) -> bool {
    sql.says(&["as", "execute"])
}

/// Returns the text up to the end of the last word, so that no trailing comment swallows a text that is appended.
fn body(sql: &Sql) -> &str {
    sql.words.last().map_or("", |last| &sql.text[..last.at.end])
}

/// Returns `CREATE SCHEMA AUTHORIZATION a CREATE … GRANT …` without the parts that need a role.
pub fn schema_without_roles(sql: &Sql) -> String {
    let outer: Vec<_> = sql.outer().collect();
    let text = |word: usize| &sql.text[sql.words[word].at.clone()];
    let mut cut = Vec::new();
    let mut named = String::new();
    if let Some(at) = outer.iter().position(|(_, word)| word.is("authorization"))
        && let Some((role, role_word)) = outer.get(at + 1)
    {
        cut.push((outer[at].1.at.start, role_word.at.end));
        // The schema has the role's name, if it has no name of its own.
        if outer[at - 1].1.is("schema") || sql.says(&["exists", "authorization"]) {
            named = text(*role).to_owned();
        }
    }
    for (number, (_, word)) in outer.iter().enumerate().filter(|(_, (_, word))| word.is("grant")) {
        let next = outer[number + 1..].iter().find(|(_, word)| word.is("create") || word.is("grant"));
        cut.push((word.at.start, next.map_or(sql.text.len(), |(_, word)| word.at.start)));
    }
    let mut kept = String::new();
    let mut at = 0;
    for (number, (from, to)) in cut.into_iter().enumerate() {
        kept.push_str(&sql.text[at..from]);
        if number == 0 {
            kept.push_str(&named);
        }
        at = to;
    }
    kept.push_str(&sql.text[at..]);
    kept
}

fn without_rows(sql: &Sql) -> String {
    let body = body(sql);
    if sql.says(&["with", "no", "data"]) {
        return body.to_owned();
    }
    match &sql.words[..] {
        [.., with, data] if with.is("with") && data.is("data") => {
            format!("{}WITH NO DATA", &body[..with.at.start])
        }
        _ => format!("{body} WITH NO DATA"),
    }
}

/// Rewrites `SELECT a INTO [UNLOGGED] [TABLE] x FROM y` to `CREATE TABLE x AS SELECT a FROM y`.
fn select_into(sql: &Sql) -> Option<String> {
    let (into, _) = sql.outer().find(|(_, word)| word.is("into"))?;
    let mut kind = "";
    let mut at = into + 1;
    loop {
        let word = sql.words.get(at)?;
        match word.name()? {
            "temp" | "temporary" if word.name_is_plain() => kind = "TEMP ",
            "unlogged" if word.name_is_plain() => kind = "UNLOGGED ",
            "local" | "global" | "table" if word.name_is_plain() => {}
            _ => break,
        }
        at += 1;
    }
    let start = sql.words.get(at)?.at.start;
    while sql.words.get(at + 1).is_some_and(|word| word.is_sign('.')) {
        at += 2;
    }
    let end = sql.words.get(at)?.at.end;
    let (before, name, after) =
        (&sql.text[..sql.words[into].at.start], &sql.text[start..end], &body(sql)[end..]);
    Some(format!("CREATE {kind}TABLE {name} AS {before}{after} WITH NO DATA"))
}

/// Whether the statement concerns objects that backwhen itself created on the source: an archive is restored without
/// these.
fn is_ours(sql: &Sql) -> bool {
    sql.words.iter().skip(2).take(3).any(|word| word.name().is_some_and(|name| name.starts_with("backwhen_")))
}

/// Whether the statement only starts or stops a subscription, or connects to its publisher.
fn switches(sql: &Sql) -> bool {
    ["enable", "disable", "refresh", "skip"].iter().any(|word| sql.words.get(3).is_some_and(|it| it.is(word)))
        || ["add", "drop", "set"].iter().any(|word| sql.says(&[word, "publication"]))
}

/// Detaches the slot from the subscription first: the slot is the source's own, and must stay.
fn drop_subscription(sql: &Sql) -> String {
    let at = if sql.says(&["if", "exists"]) { 4 } else { 2 };
    let Some(name) = sql.words.get(at) else { return body(sql).to_owned() };
    let name = &sql.text[name.at.clone()];
    format!(
        "ALTER SUBSCRIPTION {name} DISABLE; ALTER SUBSCRIPTION {name} SET (slot_name = NONE); {}",
        body(sql)
    )
}

#[cfg(test)]
mod tests {
    use super::super::statements::split;
    use super::*;

    fn done(sql: &str) -> ReplayAction {
        action(&split(sql, true)[0], false)
    }

    #[test]
    fn queries_that_make_tables_give_no_rows() {
        for (sql, expected) in [
            ("CREATE TABLE t AS SELECT 1 -- x", "CREATE TABLE t AS SELECT 1 WITH NO DATA"),
            ("CREATE TABLE t AS (SELECT 1) with data", "CREATE TABLE t AS (SELECT 1) WITH NO DATA"),
            ("CREATE TABLE t AS SELECT 1 WITH NO DATA", "CREATE TABLE t AS SELECT 1 WITH NO DATA"),
            (
                "SELECT a INTO UNLOGGED TABLE s.\"X y\" FROM q WHERE b = 1",
                "CREATE UNLOGGED TABLE s.\"X y\" AS SELECT a  FROM q WHERE b = 1 WITH NO DATA",
            ),
            ("SELECT 1 AS a INTO x", "CREATE TABLE x AS SELECT 1 AS a  WITH NO DATA"),
        ] {
            assert_eq!(done(sql), ReplayAction::MakeTable(Some(expected.into())), "{sql}");
        }
        assert_eq!(done("CREATE TABLE t AS EXECUTE p(1)"), ReplayAction::MakeTable(None));
    }

    #[test]
    fn materialised_views_stay_empty_and_are_remembered() {
        let view = "CREATE MATERIALIZED VIEW v AS SELECT 1";
        assert_eq!(done(view), ReplayAction::MakeView { sql: format!("{view} WITH NO DATA"), filled: true });
        assert_eq!(done("REFRESH MATERIALIZED VIEW v WITH NO DATA"), ReplayAction::Refresh { filled: false });
    }

    #[test]
    fn a_schema_can_be_made_without_its_roles() {
        for (sql, expected) in [
            ("CREATE SCHEMA AUTHORIZATION \"R\"", "CREATE SCHEMA \"R\""),
            (
                "CREATE SCHEMA s AUTHORIZATION r CREATE TABLE t (a int) GRANT ALL ON t TO x CREATE VIEW v AS TABLE t",
                "CREATE SCHEMA s  CREATE TABLE t (a int) CREATE VIEW v AS TABLE t",
            ),
            ("CREATE SCHEMA IF NOT EXISTS s", "CREATE SCHEMA IF NOT EXISTS s"),
        ] {
            assert_eq!(schema_without_roles(&split(sql, true)[0]), expected);
        }
    }

    #[test]
    fn what_was_temporary_is_not_dropped() {
        let told = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let dropped = |sql: &str, names: &[&str]| drop_of_told(&split(sql, true)[0], &told(names));
        for (sql, names, expected) in [
            ("DROP TABLE scratch, perm", &["perm"][..], Some("DROP TABLE perm")),
            (
                "drop table if exists a , s.\"B c\",d cascade -- x",
                &["B c", "d"],
                Some("drop table if exists s.\"B c\", d cascade"),
            ),
            ("DROP FUNCTION pg_temp.f(a, b), g (int), h", &["g", "h"], Some("DROP FUNCTION g (int), h")),
            ("DROP FUNCTION pg_temp.f(), public.f()", &["f"], Some("DROP FUNCTION public.f()")),
            ("DROP MATERIALIZED VIEW v, w RESTRICT", &["w"], Some("DROP MATERIALIZED VIEW w RESTRICT")),
            ("DROP TABLE a, b", &["a", "b"], None),
            ("DROP TABLE a", &["b"], None),
            ("DROP TRIGGER t ON s.x", &["t"], None),
            ("DROP CAST (a AS b)", &[], None),
            ("DROP OWNED BY a, b", &["x"], None),
        ] {
            assert_eq!(dropped(sql, names).as_deref().map(str::trim), expected, "{sql}");
        }
    }

    #[test]
    fn a_drop_can_pass_over_what_is_not_there() {
        for (sql, expected) in [
            ("DROP INDEX CONCURRENTLY a, b", Some("DROP INDEX CONCURRENTLY IF EXISTS a, b")),
            ("drop foreign table a", Some("drop foreign table IF EXISTS a")),
            ("DROP TABLE IF EXISTS a", None),
            ("DROP OWNED BY a", None),
        ] {
            assert_eq!(drop_if_there(&split(sql, true)[0]).as_deref(), expected, "{sql}");
        }
    }

    #[test]
    fn nothing_reaches_beyond_the_scratch_database() {
        assert!(matches!(done("REASSIGN OWNED BY a TO b"), ReplayAction::Refuse { .. }));
        assert!(matches!(
            done("CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p"),
            ReplayAction::Refuse { .. }
        ));
        assert_eq!(done("ALTER SUBSCRIPTION s ENABLE"), ReplayAction::Nothing);
        assert_eq!(done("REPACK (VERBOSE) t USING INDEX i"), ReplayAction::Nothing);
        assert_eq!(done("ALTER PUBLICATION \"backwhen_1\" ADD TABLE t"), ReplayAction::Nothing);
        let ReplayAction::Run(dropped) = done("DROP SUBSCRIPTION IF EXISTS \"S\"") else { panic!() };
        assert!(dropped.contains("ALTER SUBSCRIPTION \"S\" SET (slot_name = NONE)"), "{dropped}");
    }
}
