//! 6, where a statement of the source cannot be replayed: the rows come back, and it is named; or, where
//! they cannot, what to type next is.

use crate::promises::head;
use crate::support::{Backwhen, Dump, Server, assert_same};

fn protected(before: &str, then: &str) -> (Server, Backwhen, String) {
    let server = Server::shared(None);
    let database = server.fresh_database("refused");
    server.psql(&database, before);
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    server.psql(&database, then);
    let moment = head(&server);
    // No archive has the definitions of the moment.
    server.psql(&database, "CREATE TABLE later (); DROP TABLE later");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    (server, backwhen, moment)
}

#[test]
fn a_statement_that_fails_without_rows_costs_no_row() {
    // Its default is computed from rows, which the scratch database has not, by a function that claims to read none.
    let (server, backwhen, moment) = protected(
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE TABLE config (n int PRIMARY KEY);
         INSERT INTO config VALUES (7);
         CREATE FUNCTION share() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 100 / count(*)::int FROM public.config'",
        "ALTER TABLE t ADD COLUMN part int NOT NULL DEFAULT share(); CREATE VIEW v AS SELECT part FROM t;
         INSERT INTO t VALUES (2, 5)",
    );
    let into = server.fresh_database("refused_target");
    let arguments = ["recover", "--to", &moment, "--into", &server.conninfo(&into)];
    let refused = backwhen.fails(14, &[&arguments[..], &["--strict"]].concat());
    assert!(refused.contains("division by zero") && refused.contains("--scratch CONN"), "{refused}");
    let report = backwhen.json_incomplete(&arguments);
    assert_eq!(report["proved"], true);
    let left_out = &report["left_out"][0];
    assert_eq!(left_out["sql"], "ALTER TABLE t ADD COLUMN part int NOT NULL DEFAULT share()", "{report}");
    let said = report["inexact"].as_array().unwrap();
    assert_eq!(said.len(), 1, "{report}");
    let why = said[0]["why"].as_str().unwrap();
    let lsn = report["schema"]["at"]["lsn"].as_str().unwrap();
    assert!(
        said[0]["what"] == "public.t" && why.contains("the ALTER TABLE of") && why.contains(lsn),
        "{report}"
    );
    assert!(why.contains("division by zero"), "{report}");
    assert_eq!((&report["schema"]["known"], &report["schema"]["statements"]), (&"except".into(), &1.into()));
    // All else is as it was: the rows, and what hangs on the column.
    server.psql(&into, "ALTER TABLE t ALTER part SET DEFAULT share(), ALTER part SET NOT NULL");
    assert_same(&Dump::of(&server, backwhen.database()), &Dump::of(&server, &into));

    let shown = backwhen.json(&["show", "schema", "--at", &moment]);
    assert_eq!((&shown["schema"], &shown["inexact"]), (&report["schema"], &report["inexact"]));
    let only = server.fresh_database("refused_target");
    let arguments = ["recover", "--to", &moment, "--schema-only", "--into", &server.conninfo(&only)];
    let defined = backwhen.json_incomplete(&arguments);
    assert_eq!((&defined["schema"], &defined["inexact"]), (&report["schema"], &report["inexact"]));
    let text = backwhen.ok(&["recover", "--to", &moment, "--into", &format!("sqlite:{}", "t.db")]);
    assert!(text.contains("schema       known exactly\n"), "tables and rows are the fold's own: {text}");
}

#[test]
fn rows_that_no_table_can_take_come_as_text_or_are_refused_with_what_to_do() {
    // Only a superuser makes such a type.
    let (server, backwhen, moment) = protected(
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE TABLE u (id int PRIMARY KEY)",
        "CREATE TYPE odd;
         CREATE FUNCTION odd_in(cstring) RETURNS odd LANGUAGE internal IMMUTABLE STRICT AS 'textin';
         CREATE FUNCTION odd_out(odd) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
         CREATE TYPE odd (INPUT = odd_in, OUTPUT = odd_out, LIKE = text);
         ALTER TABLE t ADD COLUMN o odd; INSERT INTO t VALUES (2, 'x')",
    );
    let limited = format!("{}_limited", backwhen.database());
    server.psql("postgres", &format!("CREATE ROLE {limited} LOGIN CREATEDB"));
    let scratch = server.conninfo("postgres").replace("user=postgres", &format!("user={limited}"));
    let into = server.fresh_database("refused_target");
    let target = server.conninfo(&into);
    let arguments = ["recover", "--to", &moment, "--into", &target, "--scratch", &scratch];
    let message = backwhen.fails(14, &[&arguments[..], &["--strict"]].concat());
    for piece in
        ["public.t cannot take its rows", "it lacks o", "--scratch CONN", "backwhen list schemas", "--table"]
    {
        assert!(message.contains(piece), "no {piece:?} in: {message}");
    }
    assert_eq!(server.psql(&into, "SELECT count(*) FROM pg_class WHERE relname IN ('t', 'u')"), "0");
    let script = format!("sql:{}", backwhen.folder().join("refused.sql").display());
    let message = backwhen.fails(14, &["recover", "--to", &moment, "--into", &script, "--scratch", &scratch]);
    assert!(message.contains("public.t cannot take its rows"), "{message}");
    let all = server.fresh_database("refused_target");
    let target = server.conninfo(&all);
    let output = backwhen.run(&[
        "recover",
        "--to",
        &moment,
        "--into",
        &target,
        "--scratch",
        &scratch,
        "--output",
        "json",
    ]);
    assert_eq!(output.status.code(), Some(15), "{}", output.stderr);
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(report["proved"], true, "{report}");
    let left_out = report["left_out"].to_string();
    assert!(left_out.contains("columns of TABLE public.t") && left_out.contains("it lacks o"), "{left_out}");
    assert_eq!(
        server.psql(&all, "SELECT string_agg(id || coalesce(o, '-'), ' ' ORDER BY id) FROM t"),
        "1- 2x"
    );
    backwhen.ok(&[&arguments[..], &["--table", "u"]].concat());
    let (again, all) = (server.fresh_database("refused_target"), &arguments[..4]);
    backwhen.ok(&[all, &[&server.conninfo(&again)]].concat());
    assert_same(&Dump::of(&server, backwhen.database()), &Dump::of(&server, &again));
}
