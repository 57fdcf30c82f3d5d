//! Finds the statement that an event stands for.
//!
//! The server reports the whole text that the client or a function sent, not which statement of the text fired the
//! event. The events of one text come in the order of its statements, and statements that were rolled back to a
//! savepoint have no event.

use std::collections::HashMap;
use std::sync::Arc;

use super::context::{Frame, innermost};
use super::statements::{Sql, split};
use crate::signal::{DefinedObject, DefinitionChange, DefinitionSignal};

/// The result of the search for an event's statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatementChoice {
    Statement(Sql),
    /// Statement `number`, from 1, of the body of an SQL function, which the text does not contain.
    InFunction {
        name: String,
        number: usize,
    },
    Unknown {
        why: String,
    },
}

/// Chooses the statement of one event after the other, in commit order.
#[derive(Default)]
pub struct Chooser {
    texts: HashMap<SentText, Cursor>,
}

/// One sending of a text; a function may run the same text again and again.
#[derive(PartialEq, Eq, Hash)]
struct SentText {
    process: i32,
    started: i64,
    query: Arc<str>,
    context: String,
}

struct Cursor {
    statements: Vec<Sql>,
    /// The statements before this number have had their event, or have none.
    next: usize,
}

impl Chooser {
    pub fn choose(&mut self, signal: &DefinitionSignal) -> StatementChoice {
        let statement = &signal.statement;
        let plain = plain_backslashes(signal);
        let text = match innermost(&statement.context) {
            Frame::Client if statement.query.is_empty() => {
                let no_text = || format!("the history does not hold the text of {}", signal.tag);
                return StatementChoice::Unknown { why: signal.trouble.clone().unwrap_or_else(no_text) };
            }
            Frame::Client => &statement.query,
            Frame::Text(text) => text,
            Frame::SqlFunction { name, number } => {
                return StatementChoice::InFunction { name: name.to_owned(), number };
            }
            Frame::Other(frame) => {
                let why = format!("{} ran inside of: {frame}", signal.tag);
                return StatementChoice::Unknown { why };
            }
        };
        let source = SentText {
            process: statement.process,
            started: statement.started,
            query: Arc::clone(&statement.query),
            context: statement.context.clone(),
        };
        let repeats = !source.context.is_empty();
        let cursor = self.texts.entry(source).or_insert_with(|| Cursor::of(text, plain));
        cursor.choose(signal, repeats)
    }
}

/// Returns the first line of each change's statement, without the contents of its strings; empty where only a server
/// could tell the statement.
pub fn headlines(changes: &[DefinitionChange]) -> Vec<String> {
    let mut chooser = Chooser::default();
    let headline = |change: &DefinitionChange| match chooser.choose(&change.signal) {
        StatementChoice::Statement(sql) => sql.headline(),
        StatementChoice::InFunction { .. } | StatementChoice::Unknown { .. } => String::new(),
    };
    changes.iter().map(headline).collect()
}

/// Returns the names, without schema, of the objects that the statement named and dropped.
pub fn dropped_names(signal: &DefinitionSignal) -> impl Iterator<Item = String> {
    // Some names include their schema.
    let bare = |name: &String| name.rsplit('.').next().unwrap_or_default().trim_matches('"').to_owned();
    signal.dropped_names.iter().map(bare)
}

/// How the statement's strings are read.
pub fn plain_backslashes(signal: &DefinitionSignal) -> bool {
    signal.statement.settings.get("standard_conforming_strings").is_none_or(|value| value != "off")
}

impl Cursor {
    fn of(text: &str, plain_backslashes: bool) -> Cursor {
        Cursor { statements: without_rolled_back(split(text, plain_backslashes)), next: 0 }
    }

    fn choose(&mut self, signal: &DefinitionSignal, repeats: bool) -> StatementChoice {
        if let [only] = &self.statements[..]
            && only.is_of(&signal.tag)
        {
            return StatementChoice::Statement(only.clone());
        }
        let found = self.find(signal, self.next).or_else(|| repeats.then(|| self.find(signal, 0)).flatten());
        match found {
            Some(number) => {
                self.next = number + 1;
                StatementChoice::Statement(self.statements[number].clone())
            }
            None => StatementChoice::Unknown {
                why: format!("none of the {} statements sent is this {}", self.statements.len(), signal.tag),
            },
        }
    }

    /// Returns the first statement of the right kind that names the event's object; else the first of the right kind,
    /// since the server may have made up the name.
    fn find(&self, signal: &DefinitionSignal, from: usize) -> Option<usize> {
        let of_kind = || {
            let rest = self.statements.iter().enumerate().skip(from);
            rest.filter(|(_, statement)| statement.is_of(&signal.tag))
        };
        let mut names: Vec<_> = signal.objects.iter().filter_map(name_of).collect();
        names.extend(dropped_names(signal));
        let named = of_kind().find(|(_, sql)| names.iter().any(|name| sql.names(name)));
        named.or_else(|| of_kind().next()).map(|(number, _)| number)
    }
}

/// Removes the statements that the text itself rolls back.
fn without_rolled_back(statements: Vec<Sql>) -> Vec<Sql> {
    let mut kept: Vec<Sql> = Vec::new();
    let mut begun = 0;
    let mut savepoints: Vec<(String, usize)> = Vec::new();
    let last_name = |sql: &Sql| sql.words.last().and_then(|word| word.name()).unwrap_or_default().to_owned();
    for statement in statements {
        match statement.tag.as_str() {
            "BEGIN" | "START TRANSACTION" | "COMMIT" | "END" => {
                (begun, savepoints) = (kept.len(), Vec::new());
            }
            "SAVEPOINT" => savepoints.push((last_name(&statement), kept.len())),
            "ROLLBACK TO" => {
                let name = last_name(&statement);
                if let Some(at) = savepoints.iter().rposition(|(savepoint, _)| *savepoint == name) {
                    kept.truncate(savepoints[at].1);
                    savepoints.truncate(at + 1);
                }
            }
            "ROLLBACK" | "ABORT" => {
                kept.truncate(begun);
                savepoints.clear();
            }
            _ => kept.push(statement),
        }
    }
    kept
}

/// Returns the last part of an object's name, as the server writes it: `public."B c"`, `public.f(integer)`, `t on
/// public.x`.
pub fn name_of(object: &DefinedObject) -> Option<String> {
    let parts = crate::recover::lexer::words(&object.identity, true);
    let mut name = None;
    let mut expected = true;
    for part in &parts {
        match part.name() {
            Some(found) if expected => name = Some(found.to_owned()),
            _ if part.is_sign('.') => {
                expected = true;
                continue;
            }
            _ => break,
        }
        expected = false;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::Statement;

    fn signal(tag: &str, identity: &str, query: &str, context: &str) -> DefinitionSignal {
        let object = DefinedObject { identity: identity.into(), ..DefinedObject::default() };
        DefinitionSignal {
            tag: tag.into(),
            statement: Statement {
                query: query.into(),
                context: context.into(),
                process: 1,
                started: 1,
                ..Statement::default()
            },
            objects: if identity.is_empty() { vec![] } else { vec![object] },
            ..DefinitionSignal::default()
        }
    }

    fn text(chosen: StatementChoice) -> String {
        match chosen {
            StatementChoice::Statement(sql) => sql.text,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn events_of_one_message_find_their_statements_in_order() {
        let query = "BEGIN; CREATE TABLE a (x int); INSERT INTO a VALUES (1); CREATE INDEX ON a (x); \
                     CREATE TABLE IF NOT EXISTS b (x int); ALTER TABLE a ADD y int; COMMIT";
        let mut chooser = Chooser::default();
        let mut choose = |tag, identity| text(chooser.choose(&signal(tag, identity, query, "")));
        assert_eq!(choose("CREATE TABLE", "public.a"), "CREATE TABLE a (x int)");
        assert_eq!(choose("CREATE INDEX", "public.a_x_idx"), "CREATE INDEX ON a (x)");
        assert_eq!(choose("CREATE TABLE", "public.b"), "CREATE TABLE IF NOT EXISTS b (x int)");
        assert_eq!(choose("ALTER TABLE", "public.a"), "ALTER TABLE a ADD y int");
        assert!(choose("ALTER TABLE", "public.a").contains("none of the 5 statements sent"));
    }

    #[test]
    fn a_message_without_a_text_says_why_it_has_none() {
        let mut unread = signal("a statement that cannot be read", "", "", "");
        unread.trouble = Some("the triggers' message cannot be read: it ends early".into());
        assert_eq!(
            text(Chooser::default().choose(&unread)),
            r#"Unknown { why: "the triggers' message cannot be read: it ends early" }"#
        );
        let untold = signal("ALTER TABLE", "public.a", "", "");
        assert!(text(Chooser::default().choose(&untold)).contains("does not hold the text of ALTER TABLE"));
    }

    #[test]
    fn what_was_rolled_back_is_passed_over() {
        let query = "BEGIN; SAVEPOINT s; CREATE TABLE t (a int); ROLLBACK TO s; CREATE TABLE t (b int); COMMIT; \
                     BEGIN; CREATE TABLE u (a int); ROLLBACK; CREATE TABLE u (b int)";
        let mut chooser = Chooser::default();
        let mut choose = |identity| text(chooser.choose(&signal("CREATE TABLE", identity, query, "")));
        assert_eq!(choose("public.t"), "CREATE TABLE t (b int)");
        assert_eq!(choose("public.u"), "CREATE TABLE u (b int)");
    }

    /// Command tags of PostgreSQL 19 and later: the statement is found, and the scratch server decides what it knows.
    #[test]
    fn a_statement_of_a_tag_that_nobody_here_knows_is_found() {
        let query = "CREATE TABLE t (a int); CREATE PROPERTY GRAPH g VERTEX TABLES (t); REPACK t; \
                     MELT DOWN TABLE t; CREATE TABLE u AS SELECT 1";
        let mut chooser = Chooser::default();
        let mut choose = |tag, identity| text(chooser.choose(&signal(tag, identity, query, "")));
        assert_eq!(choose("CREATE PROPERTY GRAPH", "public.g"), "CREATE PROPERTY GRAPH g VERTEX TABLES (t)");
        assert_eq!(choose("REPACK", "public.t"), "REPACK t");
        assert_eq!(choose("MELT DOWN", "public.t"), "MELT DOWN TABLE t");
        assert!(choose("CREATE TABLE", "public.u").contains("none of the 5 statements"), "it is another tag");
        assert!(choose("FREEZE", "public.t").contains("none of the 5 statements"));
        let mut chooser = Chooser::default();
        let only = signal("ALTER PROPERTY GRAPH", "public.g", "ALTER PROPERTY GRAPH g OWNER TO a", "");
        assert_eq!(text(chooser.choose(&only)), "ALTER PROPERTY GRAPH g OWNER TO a");
    }

    #[test]
    fn a_function_runs_its_texts_again() {
        let context =
            "SQL statement \"CREATE TABLE a (); DROP TABLE a\"\nPL/pgSQL function f() line 3 at EXECUTE";
        let mut chooser = Chooser::default();
        for _ in 0..2 {
            for (tag, identity, expected) in
                [("CREATE TABLE", "public.a", "CREATE TABLE a ()"), ("DROP TABLE", "", "DROP TABLE a")]
            {
                let event = signal(tag, identity, "SELECT f()", context);
                assert_eq!(text(chooser.choose(&event)), expected);
            }
        }
    }

    #[test]
    fn what_the_text_does_not_hold_is_said() {
        let mut chooser = Chooser::default();
        let in_sql = signal("CREATE TABLE", "", "SELECT f()", "SQL function \"f\" statement 2");
        assert_eq!(chooser.choose(&in_sql), StatementChoice::InFunction { name: "f".into(), number: 2 });
        let lost = signal("CREATE TABLE", "", "SELECT f()", "");
        assert!(matches!(chooser.choose(&lost), StatementChoice::Unknown { .. }));
    }

    #[test]
    fn objects_are_named_by_the_last_part_of_their_identity() {
        for (identity, name) in [
            ("public.\"B c\"", Some("B c")),
            ("public.f(integer, text)", Some("f")),
            ("t on public.x", Some("t")),
            ("public.t.col", Some("col")),
            ("(integer AS text)", None),
            ("", None),
        ] {
            let object = DefinedObject { identity: identity.into(), ..DefinedObject::default() };
            assert_eq!(name_of(&object).as_deref(), name, "{identity}");
        }
    }
}
