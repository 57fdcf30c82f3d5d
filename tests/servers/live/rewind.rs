//! The whole database goes back, whatever its tables are like.

use serde_json::json;

use super::{Scene, assert_rows, on_oldest_and_newest, while_captured};

const TABLES: &str = r#"
CREATE SCHEMA "Shop";
CREATE TYPE pair AS (a int, t text);
CREATE TABLE customers (id int PRIMARY KEY, name varchar(40), email text UNIQUE, j json, p point, x xml, c pair,
    f float8, many text[]);
CREATE TABLE "Shop"."Orders" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int NOT NULL
        REFERENCES customers ON DELETE CASCADE ON UPDATE CASCADE,
    total numeric(10,2), twice numeric GENERATED ALWAYS AS (total * 2) STORED, note text);
CREATE TABLE lines ("order" int REFERENCES "Shop"."Orders" ON DELETE SET NULL, number int, what bytea, PRIMARY KEY (number));
CREATE TABLE places (pos int UNIQUE, name text PRIMARY KEY);
CREATE TABLE seats (pos int UNIQUE, name text PRIMARY KEY);
CREATE TABLE guests (name text PRIMARY KEY REFERENCES seats ON DELETE CASCADE);
CREATE TABLE later (pos int UNIQUE DEFERRABLE INITIALLY DEFERRED, name text PRIMARY KEY);
CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree ON DELETE RESTRICT);
CREATE TABLE egg (id int PRIMARY KEY, hen int NOT NULL);
CREATE TABLE hen (id int PRIMARY KEY, egg int NOT NULL REFERENCES egg);
ALTER TABLE egg ADD FOREIGN KEY (hen) REFERENCES hen DEFERRABLE;
CREATE TABLE bag (a int, b text, j json); ALTER TABLE bag REPLICA IDENTITY FULL;
CREATE TABLE parts (region text, id int, v text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE parts_n PARTITION OF parts FOR VALUES IN ('n');
CREATE TABLE parts_s (v text, id int NOT NULL, region text NOT NULL);
ALTER TABLE parts ATTACH PARTITION parts_s FOR VALUES IN ('s');
CREATE TABLE part_notes (id int PRIMARY KEY, region text, part int,
    FOREIGN KEY (region, part) REFERENCES parts ON DELETE CASCADE);
CREATE TABLE emptied (id int PRIMARY KEY, v text);
CREATE TABLE untouched (id int PRIMARY KEY);
INSERT INTO customers SELECT g, 'c' || g, g || '@x', '{"a":  1}', point(g, 0.1), ('<a>' || g || '</a>')::xml, ROW(g, 'tab	and \n')::pair,
    'NaN', ARRAY['', NULL, 'ä'] FROM generate_series(1, 40) g;
INSERT INTO "Shop"."Orders" (customer, total) SELECT 1 + g % 40, g FROM generate_series(1, 80) g;
INSERT INTO lines SELECT g, g, decode('00ff', 'hex') FROM generate_series(1, 80) g;
INSERT INTO places SELECT g, 'p' || g FROM generate_series(1, 9) g;
INSERT INTO seats SELECT g, 's' || g FROM generate_series(1, 9) g; INSERT INTO guests SELECT 's' || g FROM generate_series(1, 9) g;
INSERT INTO later SELECT g, 'l' || g FROM generate_series(1, 9) g;
INSERT INTO tree SELECT g, nullif(g / 2, 0) FROM generate_series(1, 20) g;
BEGIN; SET CONSTRAINTS ALL DEFERRED; INSERT INTO egg VALUES (1, 1), (2, 2); INSERT INTO hen VALUES (1, 1), (2, 2); COMMIT;
INSERT INTO bag SELECT g % 3, 'x', '{}' FROM generate_series(1, 9) g;
INSERT INTO parts SELECT CASE WHEN g % 2 = 0 THEN 'n' ELSE 's' END, g, 'v' FROM generate_series(1, 20) g;
INSERT INTO part_notes SELECT id, region, id FROM parts;
INSERT INTO emptied SELECT g, 'v' FROM generate_series(1, 1000) g; INSERT INTO untouched VALUES (1);
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'a trigger fired'; END $$;
"#;

/// Everything that a careless afternoon may do.
const MISTAKES: &[&str] = &[
    "DELETE FROM customers WHERE id <= 10",
    "UPDATE customers SET name = 'oops', j = '{\"b\": 2}', p = NULL, x = '<b/>', c = NULL, f = -0.0, many = '{}'
      WHERE id BETWEEN 11 AND 20",
    "UPDATE customers SET id = id + 1000 WHERE id > 35",
    "INSERT INTO customers (id, name) VALUES (3, 'another with an old number'), (500, 'new');
     INSERT INTO \"Shop\".\"Orders\" (customer, total) VALUES (500, 1), (21, 2)",
    "UPDATE \"Shop\".\"Orders\" SET total = total + 1, note = repeat('long ', 2000) WHERE id > 60",
    "UPDATE places SET pos = -pos; UPDATE places SET pos = 10 + pos",
    "UPDATE seats SET pos = -pos; UPDATE seats SET pos = 10 + pos",
    "UPDATE later SET pos = 10 - pos",
    "UPDATE tree SET parent = NULL WHERE id > 15; DELETE FROM tree WHERE id BETWEEN 16 AND 20; INSERT INTO tree VALUES (30, 1), (31, 30)",
    "BEGIN; SET CONSTRAINTS ALL DEFERRED; DELETE FROM hen WHERE id = 2; DELETE FROM egg WHERE id = 2;
     INSERT INTO egg VALUES (3, 3); INSERT INTO hen VALUES (3, 3); COMMIT",
    "DELETE FROM bag WHERE ctid IN (SELECT min(ctid) FROM bag GROUP BY a);
     INSERT INTO bag VALUES (1, 'x', '{}'), (9, 'y', '[]'), (9, 'y', '[]'); UPDATE bag SET b = NULL WHERE a = 2",
    "DELETE FROM part_notes WHERE id < 5; UPDATE parts SET region = 's' WHERE id IN (2, 4); DELETE FROM parts WHERE id = 1",
    "TRUNCATE emptied; INSERT INTO emptied VALUES (1, 'again'), (5000, 'new')",
];

const TRIGGERS: &str = "
CREATE TRIGGER origin BEFORE INSERT OR UPDATE OR DELETE ON customers FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER always BEFORE INSERT OR UPDATE OR DELETE ON customers FOR EACH ROW EXECUTE FUNCTION refuse();
ALTER TABLE customers ENABLE ALWAYS TRIGGER always;
CREATE TRIGGER off BEFORE INSERT OR UPDATE OR DELETE ON customers FOR EACH ROW EXECUTE FUNCTION refuse();
ALTER TABLE customers DISABLE TRIGGER off;
CREATE TRIGGER replica BEFORE INSERT OR UPDATE OR DELETE ON customers FOR EACH ROW EXECUTE FUNCTION refuse();
ALTER TABLE customers ENABLE REPLICA TRIGGER replica;
CREATE TRIGGER every AFTER INSERT OR UPDATE OR DELETE ON parts FOR EACH ROW EXECUTE FUNCTION refuse();";

#[test]
fn the_whole_database_goes_back_and_that_can_be_undone() {
    on_oldest_and_newest(|server| {
        while_captured(server, TABLES, |scene| {
            scene.mark("good");
            let good = scene.dump();
            MISTAKES.iter().for_each(|mistake| drop(scene.psql(mistake)));
            scene.psql(TRIGGERS);
            let bad = scene.dump();
            let states = "SELECT tgrelid::regclass, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2";
            let triggers = scene.psql(states);

            let plan = scene.amend(0, &["rewind", "--to", "mark:good"]);
            assert!(plan["applied"] == false && plan["conflicts"] == json!([]), "{plan}");
            assert_rows(&bad, &scene.dump());

            let report = scene.rewind(&["--to", "mark:good"]);
            assert_eq!(report["tables"], plan["tables"]);
            assert_eq!(scene.rows(), good.rows);
            assert_eq!(scene.psql(states), triggers);
            assert!(report["locked_seconds"].as_f64().is_some_and(|held| held < 10.0), "{report}");
            assert_nothing_to_do(scene);

            let undone = scene.undo_report(&report);
            assert_rows(&bad, &scene.dump());
            scene.undo_report(&undone);
            assert_eq!(scene.rows(), good.rows);
            assert_eq!(scene.psql(states), triggers);
        });
    });
}

fn assert_nothing_to_do(scene: &Scene) {
    let again = scene.amend(0, &["rewind", "--to", "mark:good", "--apply"]);
    assert!(again["tables"] == json!([]) && again["xid"].is_null(), "{again}");
}

#[test]
fn the_plan_as_sql_does_the_same() {
    let tables = "CREATE TABLE a (id int PRIMARY KEY, v text, j json); INSERT INTO a VALUES (1, E'it''s\\\\', '{}'), (2, 'b', NULL);
        CREATE TABLE b (id int PRIMARY KEY REFERENCES a); INSERT INTO b VALUES (1)";
    let server = crate::support::Server::shared(None);
    while_captured(&server, tables, |scene| {
        scene.mark("good");
        let good = scene.rows();
        scene.psql("DELETE FROM b; DELETE FROM a WHERE id = 1; UPDATE a SET v = NULL, j = '[1]'; INSERT INTO a VALUES (3)");
        scene.amend(0, &["rewind", "--to", "mark:good", "--sql", "plan.sql"]);
        let script = std::fs::read_to_string(scene.backwhen.folder().join("plan.sql")).unwrap();
        scene.psql(&script);
        assert_eq!(scene.rows(), good);
    });
}

/// A column is what it is, whatever its name; one that was added keeps what it holds.
#[test]
fn columns_that_changed_since_are_told_apart_by_what_they_are() {
    let tables = "CREATE TABLE t (id int PRIMARY KEY, a text, b text, gone text);
        INSERT INTO t SELECT g, 'a' || g, 'b' || g, 'gone' FROM generate_series(1, 9) g;
        CREATE TABLE dropped (id int PRIMARY KEY); INSERT INTO dropped VALUES (1)";
    on_oldest_and_newest(|server| {
        while_captured(server, tables, |scene| {
            scene.mark("good");
            scene.psql(
                "UPDATE t SET a = 'x'; DELETE FROM t WHERE id > 7; ALTER TABLE t RENAME b TO was_b; ALTER TABLE t RENAME a TO b;
                 ALTER TABLE t DROP COLUMN gone; ALTER TABLE t ADD COLUMN added int DEFAULT 7; UPDATE t SET added = id WHERE id < 3;
                 DROP TABLE dropped; CREATE TABLE made (id int PRIMARY KEY); INSERT INTO made VALUES (1)",
            );
            let report = scene.rewind(&["--to", "mark:good"]);
            let notes = report["without_place"].as_array().unwrap();
            let notes: Vec<_> = notes.iter().map(|note| note.as_str().unwrap()).collect();
            assert!(notes.iter().any(|it| it.starts_with("public.t.gone")), "{notes:?}");
            assert!(notes.iter().any(|it| it.starts_with("public.dropped")), "{notes:?}");
            assert!(notes.iter().any(|it| it.starts_with("public.made")), "{notes:?}");
            let rows = scene.psql("SELECT id, b, was_b, added FROM t ORDER BY id");
            let expected = |id: i32| format!("{id}|a{id}|b{id}|{}", if id < 3 { id } else { 7 });
            assert_eq!(rows, (1..=9).map(expected).collect::<Vec<_>>().join("\n"));
            assert_eq!(scene.psql("SELECT count(*) FROM made"), "1");
        });
    });
}

/// Nothing is guessed about rows that a statement rewrote.
#[test]
fn a_table_that_was_rewritten_since_is_refused_by_name() {
    let server = crate::support::Server::shared(None);
    while_captured(
        &server,
        "CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 1)",
        |scene| {
            scene.mark("good");
            scene.psql("ALTER TABLE t ALTER a TYPE numeric USING a / 2.0");
            let error = scene.amend(14, &["rewind", "--to", "mark:good", "--apply"]);
            let text = error["error"].as_str().unwrap();
            assert!(
                text.contains("public.t cannot be put back in place") && text.contains("rewrote"),
                "{text}"
            );
        },
    );
}

/// A script is UTF-8, so a value that is not cannot stand in it. The rows are put back all the same.
#[test]
fn a_value_that_no_script_can_hold_is_refused() {
    let server = crate::support::Server::shared(None);
    let database = "live_sql_ascii";
    server.psql(
        "postgres",
        &format!("CREATE DATABASE {database} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'"),
    );
    server.psql(
        database,
        "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT 1, convert_from('\\x61ff'::bytea, 'SQL_ASCII')",
    );
    super::while_captured_in(&server, database, |scene| {
        scene.mark("good");
        let good = scene.psql("SELECT id, v::bytea FROM a");
        scene.psql("DELETE FROM a");
        let said = scene.backwhen.fails(14, &["rewind", "--to", "mark:good", "--sql", "plan.sql"]);
        assert!(said.contains("a value of public.a is no UTF-8"), "{said}");
        assert!(!scene.backwhen.folder().join("plan.sql").exists());
        scene.rewind(&["--to", "mark:good"]);
        assert_eq!(scene.psql("SELECT id, v::bytea FROM a"), good);
    });
}
