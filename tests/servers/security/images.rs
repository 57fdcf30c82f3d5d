//! Rows that a statement's message carries are those of its transaction's commit, or are not carried: what others commit
//! meanwhile is never lost without a word.

use crate::security::mallory::{Scene, on_oldest_and_newest};
use crate::support::shop::OpenSession;

/// Statements after which the rows of a table must be told, each in a transaction of each isolation in which others
/// write in between.
const STATEMENTS: [&str; 4] = [
    "ALTER TABLE {table} ADD PRIMARY KEY (id);",
    "ALTER TABLE {table} REPLICA IDENTITY FULL;",
    "ALTER TABLE {table} ADD COLUMN r float8 DEFAULT random();",
    "ALTER TABLE {table} ALTER v TYPE int8 USING v + 1;",
];

#[test]
fn an_older_snapshot_costs_no_rows() {
    on_oldest_and_newest(|server| {
        let scene = Scene::protected(server, "");
        let isolations = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];
        let cases = isolations.iter().enumerate().flat_map(|(number, isolation)| {
            let table = move |kind| format!("t{number}_{kind}");
            STATEMENTS
                .iter()
                .enumerate()
                .map(move |(kind, it)| (*isolation, table(kind), it.replace("{table}", &table(kind))))
        });
        let cases: Vec<_> = cases.collect();
        for (_, table, _) in &cases {
            scene.run(&format!(
                "CREATE TABLE {table} (id int NOT NULL, v int); INSERT INTO {table} SELECT g, 0 FROM generate_series(1, 20) g"
            ));
        }
        scene.capture();
        let mut migration = OpenSession::new(&scene.server, &scene.backwhen.source());
        for (isolation, table, statement) in &cases {
            migration.run(&format!("BEGIN ISOLATION LEVEL {isolation}; SELECT 1;"));
            scene.run(&format!("INSERT INTO {table} VALUES (100, 1)"));
            migration.run(&format!("{statement} COMMIT;"));
        }
        drop(migration);
        let moment = scene.lsn();
        scene.backwhen.ok(&["capture", "--until", &moment]);
        let (target, said) = scene.recover(&moment);
        for (isolation, table, statement) in &cases {
            let state = format!("SELECT count(*), sum(v) FROM {table}");
            let (truth, found) = (scene.run(&state), scene.server.psql(&target, &state));
            let named = said["inexact"].to_string().contains(table.as_str());
            assert!(found == truth || named, "{isolation}: {statement}: {found} instead of {truth}: {said}");
            // What the transaction itself has written is told in any isolation.
            let exact =
                *isolation == "READ COMMITTED" || statement.contains("random") || statement.contains("USING");
            assert!(found == truth || !exact, "{isolation}: {statement}");
        }
        scene.assert_exact();
    });
}

#[test]
fn a_table_of_the_transactions_own_is_told_in_any_isolation() {
    on_oldest_and_newest(|server| {
        let scene = Scene::protected(server, "");
        scene.run(
            "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1;
             CREATE TABLE one (id int); INSERT INTO one SELECT generate_series(1, 10); ALTER TABLE one ADD PRIMARY KEY (id);
             SAVEPOINT s; CREATE TABLE two AS SELECT 1 AS id; ALTER TABLE two ADD PRIMARY KEY (id); RELEASE s;
             ALTER TABLE two REPLICA IDENTITY FULL; DELETE FROM one WHERE id = 3; COMMIT",
        );
        let moment = scene.lsn();
        scene.backwhen.ok(&["capture", "--until", &moment]);
        let (target, said) = scene.recover(&moment);
        assert_eq!(said["inexact"].as_array().unwrap().len(), 0, "{said}");
        assert_eq!(scene.server.psql(&target, "SELECT count(*), sum(one.id) FROM one, two"), "9|52");
    });
}

#[test]
fn a_table_that_others_may_write_is_not_read() {
    on_oldest_and_newest(|server| {
        let scene = Scene::protected(server, "");
        scene.run("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, 0 FROM generate_series(1, 50) g");
        // As if it could not be published when it was made. A comment locks nobody out.
        scene.run(
            "DO $$BEGIN EXECUTE (SELECT format('ALTER PUBLICATION %I DROP TABLE t', pubname)
                                   FROM pg_publication_tables WHERE tablename = 't'); END$$",
        );
        let mut migration = OpenSession::new(&scene.server, &scene.backwhen.source());
        migration.run("BEGIN; COMMENT ON TABLE t IS 'x'; ALTER TABLE t SET (fillfactor = 90);");
        scene.run("UPDATE t SET v = 1 WHERE id <= 10; DELETE FROM t WHERE id = 50");
        migration.run("COMMIT;");
        drop(migration);
        let moment = scene.lsn();
        scene.capture();
        // The table was out of the publication: a gap, or named; never wrong and proved.
        if let Some((target, said)) = recovered(&scene, &moment) {
            let found = scene.server.psql(&target, "SELECT count(*), sum(v) FROM t");
            assert!(found == "49|10" || said["inexact"].to_string().contains("public.t"), "{found}: {said}");
        }
        scene.assert_exact();
    });
}

fn recovered(scene: &Scene, to: &str) -> Option<(String, serde_json::Value)> {
    let target = scene.server.fresh_database("recovered");
    let into = scene.server.conninfo(&target);
    let output = scene.backwhen.run(&["--output", "json", "recover", "--to", to, "--into", &into]);
    let said = serde_json::from_str(&output.stdout).ok()?;
    Some((target, said))
}

/// While another session alters a type, the statement before it cannot tell how the type was.
#[test]
fn two_sessions_that_alter_one_type_cost_no_row_in_silence() {
    on_oldest_and_newest(|server| {
        let scene = Scene::protected(server, "");
        scene.run(
            "CREATE TYPE addr AS (a int); CREATE TABLE t (id int PRIMARY KEY, v addr); INSERT INTO t VALUES (1, ROW(1)), (2, ROW(2))",
        );
        scene.capture();
        let mut first = OpenSession::new(&scene.server, &scene.backwhen.source());
        first.run("BEGIN; ALTER TYPE addr ADD ATTRIBUTE b int;");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| scene.run("ALTER TYPE addr ADD ATTRIBUTE c int"));
            let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
            scene.server.wait_until(scene.backwhen.database(), waits);
            first.run("COMMIT;");
            second.join().unwrap();
        });
        drop(first);
        let moment = scene.lsn();
        scene.capture();
        let plan = scene.backwhen.json(&["recover", "--to", &moment, "--dry-run", "--into", "sqlite:no"]);
        if let Some((target, said)) = recovered(&scene, &moment) {
            let found = scene.server.psql(&target, "SELECT string_agg(v::text, ' ' ORDER BY id) FROM t");
            assert!(
                found == "(1,,) (2,,)" || said["inexact"].to_string().contains("public.t"),
                "{found} {said} {plan}"
            );
        }
        // From capture's own look at the source on, all is exact again.
        scene.assert_exact();
    });
}
