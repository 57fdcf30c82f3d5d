//! 6, of definitions: what a recovery does not bring back as it was is named, also where nothing told that it changed.

use serde_json::Value;

use crate::support::{Backwhen, Server, for_each_version};

pub(super) use crate::support::untold::{OFF, ON};

pub(super) fn protected(server: &Server, schema: &str) -> Backwhen {
    let database = server.fresh_database("proved");
    for role in ["proved_a", "proved_b"] {
        let _ = server.try_psql("postgres", &format!("CREATE ROLE {role}"));
    }
    server.psql(&database, schema);
    let backwhen = Backwhen::new(server, &database);
    backwhen.init();
    backwhen
}

/// The report of a recovery to `to`.
pub(super) fn recovered(backwhen: &Backwhen, to: &str) -> Value {
    let server = backwhen.server();
    let into = server.fresh_database("proved_again");
    backwhen.json(&["recover", "--to", to, "--into", &server.conninfo(&into)])
}

pub(super) fn head(server: &Server) -> String {
    server.psql("postgres", "SELECT pg_current_wal_insert_lsn()")
}

/// `what: why` of each, without the position.
pub(super) fn named(report: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let inexact = report["inexact"].as_array().expect("a list").iter();
    let named = inexact.map(|it| format!("{}: {}", text(&it["what"]), text(&it["why"])));
    named.map(|it| it.split(" at ").next().unwrap_or_default().to_owned()).collect()
}

/// The canary: each change is noticed that nothing told of, beside one that is told within the same heartbeat.
#[test]
fn a_change_that_nothing_told_of_is_named_beside_one_that_is_told() {
    for_each_version(|server| {
        let backwhen = protected(
            server,
            "CREATE TABLE a (id int PRIMARY KEY, d int DEFAULT 1); CREATE TABLE b (id int PRIMARY KEY); ALTER TABLE b OWNER TO proved_a;
             CREATE TABLE c (id int PRIMARY KEY, x int, y int); CREATE INDEX gone ON c (x); CREATE VIEW v AS SELECT 1 AS one;
             CREATE TABLE o (x int, y int, id int PRIMARY KEY);
             CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; GRANT SELECT ON c TO proved_a",
        );
        let untold = "ALTER TABLE a ALTER d SET DEFAULT 2; ALTER TABLE b OWNER TO proved_b; REVOKE SELECT ON c FROM proved_a;
             DROP INDEX gone; DROP VIEW v; CREATE VIEW w AS SELECT 2 AS two; ALTER TABLE o DROP x; ALTER TABLE o ADD x int;
             CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2';";
        server.psql(
            backwhen.database(),
            &format!("{OFF} {untold} {ON} CREATE TABLE told (id int PRIMARY KEY)"),
        );
        let moment = head(server);
        // No archive has the definitions of the moment.
        server.psql(backwhen.database(), "CREATE TABLE later (id int PRIMARY KEY)");
        let mut capture = backwhen.spawn_capture();
        capture.wait_for_line("has the schema as it is now");
        capture.stop();
        let report = recovered(&backwhen, &moment);
        let mut named = named(&report);
        named.sort();
        assert_eq!(
            named,
            [
                "function public.f(): definition not as in the source",
                "index public.gone: is there, although the source",
                "public.a: default of column d not as in the source",
                "public.b: owner not as in the source",
                "public.c: privileges not as in the source",
                "public.o: order of columns not as in the source",
                "view public.v: is there, although the source",
                "view public.w: is missing, although the source",
            ]
        );
        assert_eq!(
            (&report["schema"]["known"], &report["schema_proof"]["proof"]),
            (&"within".into(), &"differs".into())
        );
        assert_eq!(report["schema_proof"]["objects"], 8, "{report}");
        // The checkpoint that was taken since knows all of it.
        let report = recovered(&backwhen, "latest");
        assert_eq!(
            (&report["inexact"], &report["schema_proof"]["proof"]),
            (&Value::Array(Vec::new()), &"proved".into())
        );
    });
}

#[test]
fn what_is_told_is_proved_between_two_statements_too() {
    let server = Server::shared(None);
    let backwhen =
        protected(&server, "CREATE TABLE t (id int PRIMARY KEY, v varchar(9) CHECK (v IN ('a', 'b')))");
    let database = backwhen.database();
    server.psql(database, "ALTER TABLE t ADD COLUMN w int DEFAULT 7; CREATE VIEW v AS SELECT id FROM t");
    let between = head(&server);
    server.psql(database, "DROP VIEW v; ALTER TABLE t DROP COLUMN w; GRANT SELECT ON t TO proved_a");
    let mut capture = backwhen.spawn_capture();
    capture.wait_for_line("has the schema as it is now");
    capture.stop();
    let plan = backwhen.json(&["recover", "--dry-run", "--to", &between]);
    let report = recovered(&backwhen, &between);
    assert_eq!(
        (&report["inexact"], &report["schema_proof"]["proof"]),
        (&Value::Array(Vec::new()), &"proved".into())
    );
    assert_eq!(report["schema_proof"]["at"], plan["schema_compared_at"]);
    // Nothing is held that it could be compared with.
    server.psql(database, "CREATE VIEW later AS SELECT 1 AS one; INSERT INTO t VALUES (1)");
    // Before the capture: other databases of the server write on, and the history need not hold what comes after.
    let moment = head(&server);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let report = recovered(&backwhen, &moment);
    let status = backwhen.json(&["status"]);
    if report["schema_proof"]["proof"] == "unproved" {
        assert_eq!(report["schema_proof"]["since"], status["schema_digested"], "{report}");
    }
}

/// The target's own default privileges make every table that a recovery creates there readable. The archive grants
/// nothing, so no statement takes that back.
#[test]
fn what_the_target_adds_to_definitions_is_named() {
    for_each_version(|server| {
        let backwhen = protected(server, "CREATE TABLE t (id int PRIMARY KEY)");
        let into = server.fresh_database("proved_again");
        server.psql(&into, "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC");
        let report = backwhen.json(&["recover", "--to", "latest", "--into", &server.conninfo(&into)]);
        let readable = "SELECT has_table_privilege('proved_a', 't', 'SELECT')";
        assert_eq!(server.psql(&into, readable), "t", "the target adds nothing, so this proves nothing");
        let named = named(&report);
        let of_table = named.iter().any(|it| it.starts_with("public.t: ") && it.contains("privileges"));
        let of_defaults = named.iter().any(|it| it.starts_with("default acl ") && it.contains("is there"));
        assert!(of_table && of_defaults, "{named:#?}");
    });
}
