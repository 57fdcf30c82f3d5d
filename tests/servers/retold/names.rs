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
        scene.fold_beside_an_open_transaction();
        late.run("UPDATE meta SET n = 3 WHERE rel = 'target_z'::regclass; COMMIT;");
        scene.assert_exact_and_proved();
    });
}

/// If an object may have another name and no message tells the former one, the columns that may name the object are
/// reported.
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
            // Asked for before the drain: another database's vacuum may write behind it.
            let lsn = scene.psql("SELECT pg_current_wal_insert_lsn()");
            scene.drain();
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
        scene.assert_said_once_it_comes(late, "public.meta");
    });
}

/// Indexes, and what needs a primary key, are made after rows in any other database.
#[test]
fn values_name_what_is_made_after_rows() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(
            server,
            "CREATE TABLE a_base (id serial PRIMARY KEY, n int, t text, EXCLUDE USING btree (n WITH =));
             INSERT INTO a_base (n, t) VALUES (1, 'x'); CREATE INDEX a_index ON a_base (lower(t));
             CREATE TABLE a_part (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE a_part_1 PARTITION OF a_part DEFAULT;
             CREATE MATERIALIZED VIEW a_view AS SELECT id, t FROM a_base; CREATE INDEX a_view_index ON a_view (id);
             CREATE MATERIALIZED VIEW a_late_view AS SELECT id, t FROM a_base GROUP BY id;
             CREATE FUNCTION a_late() RETURNS SETOF text LANGUAGE sql BEGIN ATOMIC SELECT t FROM a_base GROUP BY id; END;
             CREATE DOMAIN named AS regclass CHECK (VALUE IS NOT NULL); CREATE TYPE pair AS (n int, r named);
             CREATE TABLE b_names (rel regclass PRIMARY KEY, self regclass, all_of regclass[], d named, p pair, ps pair[], f regprocedure,
                 t regtype, refers int REFERENCES a_base);
             CREATE INDEX b_names_index ON b_names (self) WHERE refers = 1;
             CREATE TABLE c_refers (rel regclass REFERENCES b_names);
             CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.self := NULL; RETURN NEW; END';
             CREATE TRIGGER touched BEFORE INSERT ON b_names FOR EACH ROW EXECUTE FUNCTION touched();
             ALTER TABLE b_names DISABLE TRIGGER touched;
             INSERT INTO b_names SELECT oid, 'b_names_index', ARRAY[oid::regclass, 'a_base_id_seq', NULL], oid, ROW(1, oid::regclass)::pair, ARRAY[ROW(2, oid::regclass)::pair],
                 'a_late()', 'a_late_view', 1 FROM pg_class WHERE relname ~ '^(a|b)_' AND relkind <> 'c';
             INSERT INTO c_refers SELECT rel FROM b_names; ALTER TABLE b_names ENABLE TRIGGER touched;
             COMMENT ON TRIGGER touched ON b_names IS 'on a trigger'; COMMENT ON INDEX a_index IS 'on an index';
             COMMENT ON CONSTRAINT c_refers_rel_fkey ON c_refers IS 'on a key'; COMMENT ON MATERIALIZED VIEW a_late_view IS 'on a view'",
        );
        assert_eq!(scene.psql("SELECT count(*) > 12 FROM b_names"), "t");
        scene.psql("UPDATE b_names SET self = 'a_base_pkey' WHERE rel = 'a_index'::regclass");
        scene.assert_exact_and_proved();
        let script = scene.backwhen.folder().join("names.sql");
        scene.backwhen.ok(&["recover", "--to", "latest", "--into", "sql:names.sql"]);
        let target = scene.backwhen.server().fresh_database("scripted");
        scene.backwhen.server().psql(&target, &std::fs::read_to_string(script).unwrap());
        assert_eq!(
            scene.backwhen.server().psql(&target, "SELECT self FROM b_names WHERE rel = 'a_index'::regclass"),
            "a_base_pkey"
        );
    });
}

/// The name of a table that is left out says nothing in the target.
#[test]
fn a_value_that_names_nothing_is_said_with_its_column() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, TABLES);
        let database = format!("some_{}", scene.backwhen.database());
        let into = server.conninfo(&database);
        let recover =
            ["recover", "--to", "checkpoint:0001", "--table", "public.meta", "--create", "--into", &into];
        let said = scene.backwhen.fails(14, &[&recover[..], &["--strict"]].concat());
        assert!(said.contains("cannot load public.meta: a value of column rel names an object"), "{said}");
        assert!(!said.contains("target_a"), "{said}");
        // Otherwise the column keeps the values as text.
        let recovered = scene.backwhen.run(&recover);
        assert_eq!(recovered.status.code(), Some(15), "{}", recovered.stderr);
        let said = format!("{}{}", recovered.stdout, recovered.stderr);
        assert!(said.contains("column rel"), "{said}");
        assert!(!said.contains("target_a"), "{said}");
        let kept = "SELECT pg_typeof(rel)::text, count(*) FROM meta WHERE rel LIKE '%target_a' GROUP BY 1";
        assert_eq!(server.psql(&database, kept), "text|1");
    });
}
