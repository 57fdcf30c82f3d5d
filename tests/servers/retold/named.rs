//! Values of the types that are written by the names of functions, types, operators and others: the source tells how
//! these read before a statement and after it.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::retold::{Scene, on_oldest_and_newest};

const SCHEMA: &str = r#"
CREATE SCHEMA app; CREATE SCHEMA "Odd one";
CREATE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION app.k(text, int) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE PROCEDURE "Odd one".p(int) LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION same(int, int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 = $2';
CREATE OPERATOR public.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = same);
CREATE TYPE mood AS ENUM ('a'); CREATE DOMAIN app.whole AS int;
CREATE FUNCTION of_mood(mood) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE TEXT SEARCH DICTIONARY stems (TEMPLATE = simple); CREATE TEXT SEARCH CONFIGURATION words (COPY = simple);
CREATE COLLATION bytes (provider = libc, locale = 'C');
CREATE DOMAIN called AS regproc; CREATE TYPE pair AS (t regtype, n int);
CREATE TABLE kinds (p regprocedure PRIMARY KEY, f regproc, n int, all_of regproc[], c called, w pair);
CREATE TABLE others (id int PRIMARY KEY, n int, o regoper, oo regoperator, t regtype, ns regnamespace, ts regconfig, d regdictionary,
    co regcollation, types regtype[]);
ALTER TABLE others REPLICA IDENTITY FULL;
CREATE FUNCTION public.fill() RETURNS void LANGUAGE sql AS $$
    INSERT INTO kinds SELECT oid, oid, 0, ARRAY[oid::regproc, NULL, 'pg_catalog.now'], oid, ROW(prorettype::regtype, 1)::pair FROM pg_proc
     WHERE pronamespace::regnamespace::text IN ('public', 'app', '"Odd one"', 'other') ON CONFLICT DO NOTHING;
    INSERT INTO others (id, n, t, types) SELECT oid, 0, oid, ARRAY[typarray, 'text'::regtype] FROM pg_type
     WHERE typnamespace::regnamespace::text IN ('public', 'app', '"Odd one"', 'other') ON CONFLICT DO NOTHING;
    INSERT INTO others (id, n, o, oo) SELECT oid, 0, oid, oid FROM pg_operator WHERE oid >= 16384 ON CONFLICT DO NOTHING;
    INSERT INTO others (id, n, ns) SELECT oid, 0, oid FROM pg_namespace WHERE nspname NOT LIKE 'pg%' AND nspname <> 'backwhen' ON CONFLICT DO NOTHING;
    INSERT INTO others (id, n, ts) SELECT oid, 0, oid FROM pg_ts_config WHERE oid >= 16384 ON CONFLICT DO NOTHING;
    INSERT INTO others (id, n, d) SELECT oid, 0, oid FROM pg_ts_dict WHERE oid >= 16384 ON CONFLICT DO NOTHING;
    INSERT INTO others (id, n, co) SELECT oid, 0, oid FROM pg_collation WHERE oid >= 16384 ON CONFLICT DO NOTHING $$;
SELECT public.fill();"#;

#[test]
fn another_name_is_in_the_values_that_name_it() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(server, SCHEMA);
        for (number, change) in [
            "ALTER FUNCTION f(int) RENAME TO g; ALTER FUNCTION app.k(text, int) SET SCHEMA public",
            r#"ALTER PROCEDURE "Odd one".p(int) RENAME TO "P"; ALTER OPERATOR public.=== (int, int) SET SCHEMA app"#,
            "ALTER TYPE mood RENAME TO feeling; ALTER DOMAIN app.whole RENAME TO number",
            "ALTER TEXT SEARCH CONFIGURATION words RENAME TO terms; ALTER TEXT SEARCH DICTIONARY stems SET SCHEMA app",
            "ALTER COLLATION bytes RENAME TO octets; ALTER SCHEMA app RENAME TO other",
            "DROP OPERATOR other.=== (int, int); DROP FUNCTION g(int); DROP SCHEMA other CASCADE",
        ]
        .iter()
        .enumerate()
        {
            let mut migration = scene.session();
            migration.run(&format!("BEGIN; {change};"));
            scene.psql(&format!(
                "UPDATE kinds SET n = {number} WHERE f::text LIKE '%f'; UPDATE others SET n = n + 1 WHERE n < 3;
                 DELETE FROM kinds WHERE n = 20"
            ));
            migration.run(
                "UPDATE kinds SET n = n + 10 WHERE p::text LIKE '%i%'; UPDATE others SET n = n + 10; COMMIT;",
            );
            scene.psql("UPDATE kinds SET n = n + 1; UPDATE others SET n = n + 1; SELECT public.fill()");
            scene.remember();
        }
        scene.assert_exact_and_proved();
    });
}

#[test]
fn values_of_a_transaction_that_was_open_name_what_they_named() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(server, &SCHEMA.replace("SELECT public.fill();", ""));
        let mut late = scene.session();
        late.run("BEGIN; SELECT public.fill(); UPDATE kinds SET n = 5 WHERE f::text LIKE '%f';");
        scene.psql("ALTER FUNCTION f(int) RENAME TO g; ALTER FUNCTION g(int) RENAME TO h; ALTER SCHEMA app RENAME TO other");
        scene.psql("ALTER TYPE mood RENAME TO feeling; ALTER COLLATION bytes RENAME TO octets");
        scene.remember();
        scene.fold_beside_an_open_transaction();
        late.run("UPDATE kinds SET n = n + 1; COMMIT;");
        scene.assert_exact_and_proved();
    });
}

/// A new function that reads as an old one did: which of them a value means is not known where it may come late.
#[test]
fn a_name_that_two_functions_had_is_said_where_it_comes_late() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(server, &SCHEMA.replace("SELECT public.fill();", ""));
        let mut late = scene.session();
        late.run("BEGIN; INSERT INTO kinds VALUES ('f(int)', 'f');");
        scene.psql("ALTER FUNCTION f(int) RENAME TO g");
        scene.psql("CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT 2'");
        scene.assert_said_once_it_comes(late, "public.kinds");
    });
}

/// While another session alters what a value may name, what it was called cannot be told: then its columns are named.
#[test]
fn two_sessions_that_rename_at_once_are_told_or_named() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(server, SCHEMA);
        let mut one = scene.session();
        one.run("BEGIN; ALTER FUNCTION f(int) RENAME TO g;");
        scene.psql("ALTER FUNCTION of_mood(mood) RENAME TO at_mood");
        one.run("COMMIT;");
        // Without this function the value would name nothing, and the recovery would be refused.
        scene.psql("CREATE FUNCTION of_mood(mood) RETURNS int LANGUAGE sql AS 'SELECT 2'; UPDATE kinds SET n = n + 1");
        scene.remember();
        scene.drain();
        let (lsn, truth) = &scene.moments[0];
        let (inexact, _) = scene.recovered(lsn, truth);
        let named: Vec<_> = inexact.as_array().expect("a list").iter().map(|it| it["what"].clone()).collect();
        assert!(named.contains(&json!("public.kinds")), "{inexact:?}");
    });
}

/// An extension's own script and its place tell what became of the values that name what it has.
#[test]
fn what_an_extension_has_is_followed() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(
            server,
            "CREATE SCHEMA app; CREATE EXTENSION citext; CREATE TABLE kinds (id int PRIMARY KEY, f regprocedure, t regtype, n int);
             INSERT INTO kinds SELECT row_number() OVER (), oid, prorettype, 1 FROM pg_proc WHERE proname = 'regexp_match'
                AND oid >= 16384",
        );
        let mut migration = scene.session();
        migration.run("BEGIN; ALTER EXTENSION citext SET SCHEMA app;");
        scene.psql("UPDATE kinds SET n = 2 WHERE id = 1");
        migration.run("UPDATE kinds SET n = n + 2; COMMIT;");
        scene.psql("UPDATE kinds SET n = n + 4 WHERE id = 2");
        scene.assert_exact_and_proved();
    });
}

/// Only from version 18 on can an extension of the test's own be found.
#[test]
fn what_an_extensions_script_alters_is_followed() {
    on_oldest_and_newest(|server| {
        if server.major() < 18 {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let place = folder.path().join("extension");
        std::fs::create_dir(&place).unwrap();
        let script =
            "ALTER TYPE odd_mood RENAME VALUE 'sad' TO 'blue'; ALTER TYPE odd_pair ADD ATTRIBUTE c int;
                      ALTER FUNCTION odd_one(int) RENAME TO odd_two;";
        let made = "CREATE TYPE odd_mood AS ENUM ('sad', 'ok'); CREATE TYPE odd_pair AS (m odd_mood, n int);
                    CREATE FUNCTION odd_one(int) RETURNS int LANGUAGE sql AS 'SELECT 1';";
        for (name, content) in [
            ("odd.control", "default_version = '2'\nrelocatable = false\nschema = public\n"),
            ("odd--1.sql", made),
            ("odd--1--2.sql", script),
        ] {
            std::fs::write(place.join(name), content).unwrap();
        }
        let path = folder.path().display();
        server.psql("postgres", &format!("ALTER SYSTEM SET extension_control_path = '$system:{path}'"));
        server.psql("postgres", "SELECT pg_reload_conf()");
        let scene = Scene::new(
            server,
            "CREATE EXTENSION odd VERSION '1'; CREATE TABLE t (id int PRIMARY KEY, m odd_mood, p odd_pair, f regproc);
             INSERT INTO t SELECT g, 'sad', ROW('sad', g)::odd_pair, 'odd_one' FROM generate_series(1, 5) g",
        );
        let mut late = scene.session();
        late.run("BEGIN; INSERT INTO t VALUES (10, 'sad', ROW('sad', 1), 'odd_one');");
        let mut migration = scene.session();
        migration.run("BEGIN; ALTER EXTENSION odd UPDATE;");
        scene.psql("DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (6, 'sad', NULL, 'odd_one')");
        migration.run("UPDATE t SET id = 20 WHERE m = 'blue' AND id = 2; COMMIT;");
        late.run("COMMIT;");
        scene.drain();
        // The server that replays statements has not this extension, so the rows are compared where they are.
        let mut capture = scene.backwhen.spawn_capture();
        capture.wait_caught_up();
        scene.backwhen.ok(&["check", "--against-source"]);
        capture.kill();
        server.psql("postgres", "ALTER SYSTEM RESET extension_control_path");
        server.psql("postgres", "SELECT pg_reload_conf()");
    });
}
