//! Every kind of statement is told once, with its tables as they are after it.

use crate::ddl_triggers::told::{Source, Told};
use crate::support::{Server, for_each_version};

/// One statement a line.
const ALL_KINDS: &str = include_str!("statements.sql");

#[test]
fn every_kind_of_statement_is_told_once_and_in_order() {
    for_each_version(|server| {
        let source = Source::new(server);
        let told = source.run(ALL_KINDS);
        told.assert_no_trouble();
        let statements = ALL_KINDS.lines().filter(|line| !line.starts_with("INSERT"));
        let queries: Vec<_> = told.signals.iter().map(|signal| &*signal.statement.query).collect();
        assert_eq!(queries, statements.collect::<Vec<_>>());
        for signal in &told.signals {
            assert!(signal.statement.query.starts_with(&signal.tag), "{signal:?}");
            assert_eq!((&*signal.statement.role, &*signal.statement.context), ("postgres", ""));
        }
        assert_eq!(told.inserts, 2);
        columns_are_told(&told);
        // What is left of a heap of dropped things.
        let dropped = &told.signals[told.signals.len() - 2];
        assert!(dropped.dropped.contains(&told.table("shop").facts.oid), "{dropped:?}");
    });
}

fn columns_are_told(told: &Told) {
    let shop = told.table("shop");
    // The last to speak of it gave its schema another name.
    assert_eq!((&*shop.facts.schema, shop.facts.replica_identity, shop.published), ("renamed", 'f', true));
    let columns: Vec<_> =
        shop.facts.columns.iter().map(|it| (it.number, &*it.name, &*it.type_name)).collect();
    let expected =
        [(1, "id", "integer"), (2, "name", "text"), (3, "price", "numeric(8,2)"), (5, "quick", "text")];
    assert_eq!(columns, expected);
    assert_eq!(shop.facts.columns[3].missing.as_deref(), Some("quick"));
    assert_eq!(shop.facts.identity, None, "the whole row is its identity");
    let parent =
        told.signals.iter().find(|signal| signal.statement.query.contains("ADD COLUMN note")).unwrap();
    let names: Vec<_> = parent.tables.iter().map(|table| &*table.facts.name).collect();
    assert_eq!(names, ["p1", "p2"], "an alteration reaches the partitions");
}

#[test]
fn statements_inside_of_others_come_with_their_context() {
    let source = Source::new(&Server::shared(None));
    source.run("CREATE FUNCTION make() RETURNS void LANGUAGE plpgsql AS 'BEGIN\nEXECUTE ''CREATE TABLE made (i int)''; END'");
    let told = source.run("SELECT make()");
    let signal = told.signal();
    assert_eq!((&*signal.tag, &*signal.statement.query), ("CREATE TABLE", "SELECT make()"));
    let context: Vec<_> = signal.statement.context.lines().collect();
    assert_eq!(
        context,
        ["SQL statement \"CREATE TABLE made (i int)\"", "PL/pgSQL function make() line 2 at EXECUTE"]
    );
    let told = source.run("DO $$BEGIN DROP TABLE made; CREATE TABLE made (i int PRIMARY KEY); INSERT INTO made VALUES (1); END$$");
    assert_eq!((told.tags(), told.inserts), (vec!["DROP TABLE", "CREATE TABLE"], 1));
    assert_ne!(told.signals[0].dropped[0], told.table("made").facts.oid);
}

#[test]
fn what_is_undone_or_temporary_is_not_told() {
    let source = Source::new(&Server::shared(None));
    let told = source.run(
        "BEGIN; CREATE TABLE kept (i int); SAVEPOINT s; CREATE TABLE undone (i int); ROLLBACK TO s; COMMIT;
         CREATE TEMP TABLE passing (id serial PRIMARY KEY, v text); CREATE INDEX ON passing (v);
         ALTER TABLE passing ADD CHECK (v <> ''); COMMENT ON COLUMN passing.v IS 'x';
         CREATE TEMP VIEW glance AS SELECT * FROM passing; DROP VIEW glance;
         CREATE TRIGGER t BEFORE UPDATE ON passing FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
         DROP TABLE passing; DROP TABLE IF EXISTS nothing; CREATE SCHEMA IF NOT EXISTS public;",
    );
    assert_eq!(told.tags(), ["CREATE TABLE"]);
    assert_eq!(told.table("kept").facts.name, "kept");
}

#[test]
fn the_settings_that_decide_what_a_statement_means_come_along() {
    let source = Source::new(&Server::shared(None));
    source
        .psql("CREATE SCHEMA elsewhere; CREATE ROLE ddl_writer; GRANT ALL ON SCHEMA elsewhere TO ddl_writer");
    source.told();
    let told = source.run(
        "SET search_path = elsewhere; SET datestyle = 'SQL, DMY'; SET ROLE ddl_writer; CREATE TABLE here (d date DEFAULT '01/02/2020')",
    );
    let statement = &told.signal().statement;
    assert_eq!((&*statement.role, &*statement.login), ("ddl_writer", "postgres"));
    assert_eq!(statement.settings["search_path"], "elsewhere");
    assert_eq!(statement.settings["datestyle"], "SQL, DMY");
    assert!(told.table("here").published, "{told:?}");
}

#[test]
fn a_long_script_is_written_once_in_a_transaction() {
    let source = Source::new(&Server::shared(None));
    let script = format!("CREATE TABLE one (i int); CREATE TABLE two (i int); -- {}", "x".repeat(100_000));
    let server = source.backwhen.server();
    let made = server.client("psql", source.backwhen.database(), &["-Xqc", &script], "");
    assert!(made.status.success());
    let told = source.told();
    let statements: Vec<_> = told.signals.iter().map(|signal| &signal.statement).collect();
    assert_eq!((statements[0].query.len(), statements[1].query.len()), (script.len(), 0));
    assert_eq!(
        (statements[0].started, statements[0].process),
        (statements[1].started, statements[1].process)
    );
}

/// The server sorts a transaction's messages by where they end and its rows by where they begin: what it
/// would sort alike, it sorts at random.
#[test]
fn a_row_stands_behind_the_statement_that_it_was_written_after() {
    let source = Source::new(&Server::shared(None));
    source.run("CREATE TABLE t (id int PRIMARY KEY)");
    let steps: String = (1..20)
        .map(|n| {
            format!(
                "INSERT INTO t VALUES ({n}); SAVEPOINT s; ALTER TABLE t ADD COLUMN c{n} int DEFAULT {n};
                 INSERT INTO t VALUES (-{n}); RELEASE s; INSERT INTO t VALUES (100 + {n});"
            )
        })
        .collect();
    let told = source.run(&format!("BEGIN; {steps} COMMIT"));
    told.assert_no_trouble();
    assert_eq!((told.signals.len(), told.inserts), (19, 57));
    assert_eq!(told.misplaced, 0);
}
