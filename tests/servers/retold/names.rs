//! Values of `regclass` and its like, which follow the names of what they name.

use serde_json::{Value, json};

use crate::retold::{Scene, on_oldest_and_newest};

const TABLES: &str = r#"
CREATE SCHEMA app; CREATE TABLE target_a (id int PRIMARY KEY); CREATE TABLE target_b (id serial PRIMARY KEY);
CREATE TABLE "Odd one" (id int PRIMARY KEY); CREATE TABLE app."order" (id serial PRIMARY KEY);
CREATE VIEW seen AS SELECT 1 AS a;
CREATE TABLE meta (rel regclass PRIMARY KEY, n int DEFAULT 0, rels regclass[]);
CREATE TABLE whole (rel regclass, n int); ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE FUNCTION fill() RETURNS void LANGUAGE sql AS $$
    INSERT INTO meta SELECT c.oid, 1, ARRAY[c.oid::regclass, NULL, 'pg_catalog.pg_class', 0::regclass] FROM pg_class c
    WHERE c.relnamespace::regnamespace::text IN ('public', 'app', '"Shop"') AND c.relkind IN ('r', 'S') ON CONFLICT DO NOTHING;
    INSERT INTO whole SELECT rel, 1 FROM meta $$;
SELECT fill();"#;

#[test]
fn a_relations_new_name_is_in_the_values_that_name_it() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(server, TABLES);
        for (number, change) in [
            "ALTER TABLE target_a RENAME TO target_z",
            r#"ALTER TABLE "Odd one" RENAME TO "order""#,
            r#"ALTER TABLE public."order" RENAME TO plain; ALTER TABLE target_b SET SCHEMA app"#,
            r#"ALTER SCHEMA app RENAME TO "Shop""#,
            r#"ALTER TABLE "Shop"."order" RENAME TO target_a; ALTER SEQUENCE "Shop".order_id_seq RENAME TO "S""#,
            "DROP TABLE plain",
            r#"DROP SCHEMA "Shop" CASCADE"#,
        ]
        .iter()
        .enumerate()
        {
            let mut migration = scene.session();
            migration.run(&format!("BEGIN; {change};"));
            scene.psql(&format!(
                "UPDATE meta SET n = {number} WHERE rel = 'meta'::regclass; INSERT INTO whole VALUES ('meta', {number});
                 UPDATE whole SET n = n + 1 WHERE rel::text LIKE '%seq'"
            ));
            migration.run("UPDATE meta SET n = n + 10 WHERE rel::text LIKE '%target%'; COMMIT;");
            scene.psql("DELETE FROM whole WHERE n = 4; UPDATE meta SET n = n + 1; SELECT fill()");
            scene.remember();
            // Sequences are sampled before they are gone.
            scene.drain();
        }
        scene.assert_exact_and_proved();
    });
}

#[test]
fn values_that_come_late_name_what_they_named() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(server, &TABLES.replace("SELECT fill();", ""));
        let mut late = scene.session();
        late.run("BEGIN; SELECT fill(); UPDATE meta SET n = 2 WHERE rel = 'target_a'::regclass;");
        scene.psql("ALTER TABLE target_a RENAME TO target_z; ALTER SCHEMA app RENAME TO other");
        scene.psql("DROP TABLE \"Odd one\"");
        scene.remember();
        let mut capture = scene.backwhen.spawn_capture();
        capture.wait_caught_up();
        capture.kill();
        scene.backwhen.ok(&["checkpoint"]);
        late.run("UPDATE meta SET n = 3 WHERE rel = 'target_z'::regclass; COMMIT;");
        scene.assert_exact_and_proved();
    });
}

/// Whatever may have another name, and is not told by which it went, is named with the columns that may name it.
#[test]
fn columns_whose_values_may_read_otherwise_are_named() {
    on_oldest_and_newest(|server| {
        for (kind, value, change) in [
            ("regclass", "public.seen", "ALTER VIEW seen RENAME TO looked"),
            ("regtype[]", "{public.target_a}", "ALTER TABLE target_a RENAME TO target_z"),
            ("regoperator[]", "{}", "ALTER TABLE target_a RENAME TO target_z"),
        ] {
            let mut scene = Scene::new(
                server,
                &format!(
                    "{TABLES} CREATE TABLE odd (id int PRIMARY KEY, v {kind}, t text); INSERT INTO odd VALUES (1, '{value}')"
                ),
            );
            scene.psql("ALTER TABLE target_b ADD COLUMN c int; CREATE TABLE more (id int PRIMARY KEY)");
            scene.remember();
            scene.assert_exact();
            scene.psql(&format!("{change}; UPDATE odd SET t = 'x'; DELETE FROM odd"));
            scene.drain();
            let lsn = scene.psql("SELECT pg_current_wal_insert_lsn()");
            let (inexact, _) = scene.recovered(&lsn, &scene.moments[0].1);
            let said = |what: &str| -> Vec<Value> {
                let all = inexact.as_array().expect("a list").iter();
                all.filter(|it| it["what"] == json!(what)).cloned().collect()
            };
            assert_eq!(said("public.odd").len(), 1, "{kind}: {inexact:?}");
            assert!(said("public.odd")[0]["why"].as_str().expect("a text").contains("v (reg"), "{inexact:?}");
        }
    });
}

/// A name that another relation has by now says only where no transaction can be late what it means.
#[test]
fn a_name_that_two_relations_had_is_said_where_it_comes_late() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(server, &TABLES.replace("SELECT fill();", ""));
        let mut late = scene.session();
        late.run("BEGIN; INSERT INTO meta VALUES ('target_a');");
        scene.psql("ALTER TABLE target_a RENAME TO target_z; CREATE TABLE target_a (id int PRIMARY KEY)");
        scene.remember();
        late.run("COMMIT;");
        scene.remember();
        scene.drain();
        let [(before, truth_before), (lsn, truth)] = &scene.moments[..] else { panic!("two") };
        assert_eq!(scene.recovered(before, truth_before), (json!([]), vec![]));
        let (inexact, differences) = scene.recovered(lsn, truth);
        assert!(!differences.is_empty(), "if it is exact it need not be said");
        let why = inexact[0]["why"].as_str().expect("a text");
        assert!(
            inexact[0]["what"] == json!("public.meta") && why.contains("read in two ways"),
            "{inexact:?}"
        );
    });
}
