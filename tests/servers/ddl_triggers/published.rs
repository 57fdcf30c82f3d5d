//! Statements that the server refuses for a published table work as they would without backwhen.

use crate::ddl_triggers::told::Source;
use crate::support::{Dump, Server, assert_same, for_each_version, versions};

/// Runs statements while capture streams; the database then comes back as it is, but for the rows of unlogged tables.
fn assert_comes_back(server: &Server, before: &str, statements: &[&str], unlogged: &str) {
    let source = Source::new(server);
    source.psql(before);
    let backwhen = &source.backwhen;
    let capture = backwhen.spawn_capture_with(&["--heartbeat", "200ms"]);
    for statement in statements {
        source.psql(statement);
    }
    let without = format!("--exclude-table-data={unlogged}");
    let truth = Dump::with(server, backwhen.database(), &[&without]);
    capture.stop();
    backwhen.ok(&["capture", "--until", "caught-up"]);
    assert_eq!(backwhen.json_lines(&["list", "gaps"]).len(), 0);
    let target = server.fresh_database("recovered");
    let report = backwhen.json(&["recover", "--to", "latest", "--into", &server.conninfo(&target)]);
    let inexact = report["inexact"].as_array().unwrap();
    assert!(inexact.iter().all(|it| it["what"].as_str().unwrap().contains(unlogged)), "{report:#}");
    assert_same(&truth, &Dump::with(server, &target, &[&without]));
}

#[test]
fn a_table_becomes_unlogged_and_logged() {
    for_each_version(|server| {
        assert_comes_back(
            server,
            "CREATE TABLE \"Some \"\"cache\" (id int PRIMARY KEY); CREATE TABLE cache (id int PRIMARY KEY, v text);
             CREATE TABLE stays_so (id int PRIMARY KEY); INSERT INTO cache VALUES (1, 'a')",
            &[
                "ALTER TABLE \"Some \"\"cache\" SET UNLOGGED",
                "ALTER TABLE cache SET UNLOGGED",
                "INSERT INTO cache VALUES (2, 'b')",
                "ALTER TABLE cache SET LOGGED",
                "BEGIN; ALTER TABLE cache SET UNLOGGED; INSERT INTO cache VALUES (4, 'd'); ALTER TABLE cache SET LOGGED; COMMIT",
                "UPDATE cache SET v = 'c' WHERE id = 1; INSERT INTO cache VALUES (3, 'c')",
                "ALTER TABLE stays_so SET UNLOGGED",
                "INSERT INTO stays_so VALUES (1)",
                "ALTER TABLE \"Some \"\"cache\" SET LOGGED; INSERT INTO \"Some \"\"cache\" VALUES (1)",
            ],
            "stays_so",
        );
    });
}

#[test]
fn a_function_that_the_server_will_refuse_is_named_beforehand() {
    let server = Server::shared(None);
    let backwhen = crate::support::shop::shop(&server);
    let check = || backwhen.ok(&["check", "--source", &backwhen.source()]);
    assert!(!check().contains("SET UNLOGGED"));
    let function = "CREATE FUNCTION cheapen() RETURNS void LANGUAGE plpgsql AS 'BEGIN ALTER TABLE visits SET UNLOGGED; END'";
    server.psql(backwhen.database(), function);
    assert!(check().contains("cheapen() may run SET UNLOGGED"), "{}", check());
}

#[test]
fn a_column_that_is_computed_when_it_is_read_gets_another_expression() {
    if versions().last().is_none_or(|newest| *newest < 18) {
        return;
    }
    assert_comes_back(
        &Server::shared(Some(18)),
        "CREATE TABLE v (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) VIRTUAL);
         CREATE TABLE p (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) VIRTUAL) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF p FOR VALUES FROM (0) TO (10); INSERT INTO v VALUES (1, 1); INSERT INTO p VALUES (1, 1)",
        &[
            "ALTER TABLE v ALTER COLUMN g SET EXPRESSION AS (a * 10)",
            "BEGIN; INSERT INTO p VALUES (2, 2); ALTER TABLE p ALTER g SET EXPRESSION AS (a * 3); UPDATE p SET a = 4; COMMIT",
            "INSERT INTO v VALUES (2, 2); UPDATE v SET a = 3 WHERE id = 1",
        ],
        "none",
    );
}
