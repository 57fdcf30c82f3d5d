//! Labels of enums, and all that may hold one.

use crate::retold::{Scene, on_oldest_and_newest};

const TWO_LABELS: &str =
    "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE e (id int PRIMARY KEY, m mood);
    INSERT INTO e VALUES (1, 'sad'), (2, 'ok')";

/// Other sessions commit while the statement's transaction is open, and nothing of theirs is lost.
#[test]
fn writers_do_not_wait_for_a_new_name_and_lose_nothing_by_it() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(
            server,
            "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE e (id int PRIMARY KEY, m mood, n int DEFAULT 0);
             INSERT INTO e SELECT g, 'sad' FROM generate_series(1, 100) g",
        );
        let mut migration = scene.session();
        migration.run("BEGIN; ALTER TYPE mood RENAME VALUE 'sad' TO 'blue';");
        scene.psql(
            "UPDATE e SET n = 7 WHERE id <= 50; INSERT INTO e VALUES (999, 'ok', 1); DELETE FROM e WHERE id = 100",
        );
        scene.psql("INSERT INTO e VALUES (998, 'sad', 1); UPDATE e SET m = 'sad' WHERE id = 999");
        scene.remember();
        migration.run("INSERT INTO e VALUES (1000, 'blue', 2); COMMIT;");
        scene.remember();
        scene.psql("UPDATE e SET n = 8 WHERE m = 'blue' AND id < 10; INSERT INTO e VALUES (1001, 'blue')");
        scene.assert_exact_and_proved();
    });
}

const EVERYWHERE: &str = r#"
CREATE TYPE mood AS ENUM ('sad', 'it''s "odd"', 'a\b', 'a,b', 'null', '(x)', '[y]', '{z}', ' ', '', 'plain');
CREATE TYPE size AS ENUM ('small', 'large');
CREATE DOMAIN feeling AS mood; CREATE DOMAIN feelings AS mood[];
CREATE TYPE pair AS (m mood, n int, t text); CREATE TYPE nest AS (p pair, ps pair[], f feeling);
CREATE TYPE span AS RANGE (subtype = mood); CREATE TYPE cover AS RANGE (subtype = pair);
CREATE DOMAIN nesting AS nest;
CREATE TABLE by_mood (m mood PRIMARY KEY, n int);
CREATE TABLE by_pair (p pair, id int, m mood, PRIMARY KEY (id, p));
CREATE TABLE whole (m mood, t text); ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE unkeyed (m mood, s size);
CREATE TABLE all_of (id int PRIMARY KEY, m mood, s size, f feeling, fs feelings, ms mood[], mm mood[][],
    p pair, ps pair[], n nest, ns nest[], nn nesting, r span, rs span[], mr spans_of, c cover, cs cover[]);
INSERT INTO by_mood SELECT m, 1 FROM unnest(enum_range(NULL::mood)) m;
INSERT INTO by_pair SELECT (m, 1, NULL)::pair, 1, m FROM unnest(enum_range(NULL::mood)) m;
INSERT INTO whole SELECT m, 'x' FROM unnest(enum_range(NULL::mood)) m, generate_series(1, 3);
INSERT INTO unkeyed SELECT m, 'small' FROM unnest(enum_range(NULL::mood)) m;
CREATE FUNCTION fill(first int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO all_of
    SELECT first + (row_number() OVER ())::int, m, 'large', m, ARRAY[m, l, NULL], ARRAY[l, m], ARRAY[ARRAY[m, l], ARRAY[NULL, m]],
        (m, 7, 'a "b" \c')::pair, ARRAY[(m, NULL, '')::pair, NULL, (l, 1, '{}')::pair],
        ((m, 1, E'tab\tand\nline')::pair, ARRAY[(l, 2, 'NULL')::pair], m)::nest,
        ARRAY[ROW(NULL, ARRAY[(m, 2, 'q')::pair], l)::nest], ROW((l, 3, '\N')::pair, NULL, NULL)::nest,
        span(least(m, l), greatest(m, l), '[]'), ARRAY[span(m, NULL), 'empty'::span, span(NULL, m, '(]')],
        spans_of(span(least(m, l), greatest(m, l), '[)')), cover((least(m, l), 1, 'x')::pair, NULL),
        ARRAY[cover(NULL, (m, 1, ' ')::pair, '(]')]
    FROM unnest(enum_range(NULL::mood)) m, unnest(enum_range(NULL::mood)) l $$;
SELECT fill(0);
UPDATE all_of SET ms = ('[3:4]={' || '"' || 'sad' || '",NULL}')::mood[] WHERE id = 1;
"#;

/// What the history makes of each value is what the server's own output functions write.
#[test]
fn a_label_has_its_new_name_wherever_it_is() {
    on_oldest_and_newest(|server| {
        let sql = EVERYWHERE.replace("(subtype = mood)", "(subtype = mood, multirange_type_name = spans_of)");
        let mut scene = Scene::new(server, &sql);
        scene.psql(
            r#"ALTER TYPE mood RENAME VALUE 'sad' TO 'b "l" \u'; ALTER TYPE mood RENAME VALUE '' TO 'NuLL';
               ALTER TYPE size RENAME VALUE 'small' TO 'tiny';
               ALTER TYPE mood RENAME VALUE 'plain' TO E'(new\tline)\n'; ALTER TYPE mood RENAME VALUE '{z}' TO 'z'"#,
        );
        scene.remember();
        scene.psql(
            r#"UPDATE by_mood SET n = 2 WHERE m IN ('NuLL', 'a\b'); DELETE FROM by_mood WHERE m = 'z';
               UPDATE whole SET t = 'y' WHERE m = 'b "l" \u'; DELETE FROM whole WHERE m = 'NuLL';
               DELETE FROM by_pair WHERE m = 'z'; UPDATE by_pair SET id = 2 WHERE m = 'NuLL';
               INSERT INTO unkeyed VALUES ('z', 'tiny'); SELECT fill(1000);
               UPDATE all_of SET id = id + 5000 WHERE m = 'z'; ALTER TYPE mood RENAME VALUE 'z' TO '';
               ALTER TYPE size RENAME VALUE 'large' TO '"'"#,
        );
        scene.assert_exact_and_proved();
    });
}

/// Values that are stored out of line and did not change are not in the stream.
#[test]
fn values_that_the_stream_leaves_out_are_mapped_as_well() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(
            server,
            "CREATE TYPE mood AS ENUM ('sad', 'ok');
             CREATE TABLE t (id int PRIMARY KEY, n int, ms mood[], long text);
             ALTER TABLE t ALTER ms SET STORAGE EXTERNAL, ALTER long SET STORAGE EXTERNAL;
             INSERT INTO t SELECT g, 0, array_fill('sad'::mood, '{3000}'), repeat('x', 5000) FROM generate_series(1, 9) g",
        );
        let mut late = scene.session();
        late.run("BEGIN; UPDATE t SET n = 1 WHERE id = 1; INSERT INTO t SELECT 10, 0, ms, long FROM t WHERE id = 2;");
        scene.psql("UPDATE t SET n = 1 WHERE id = 2; UPDATE t SET id = 13 WHERE id = 3");
        scene.psql("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'");
        scene.psql("UPDATE t SET n = 2 WHERE id IN (2, 4); UPDATE t SET id = 15 WHERE id = 5");
        late.run("UPDATE t SET n = 2 WHERE id IN (1, 10); UPDATE t SET id = 16 WHERE id = 6; COMMIT;");
        scene.psql("ALTER TYPE mood RENAME VALUE 'blue' TO 'navy'; UPDATE t SET n = 3 WHERE id IN (10, 15)");
        scene.assert_exact_and_proved();
    });
}

#[test]
fn a_name_that_was_taken_back_changes_nothing() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(server, TWO_LABELS);
        scene.psql(
            "BEGIN; SAVEPOINT a; ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'; INSERT INTO e VALUES (3, 'blue');
             ROLLBACK TO a; ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'; INSERT INTO e VALUES (4, 'sad'), (5, 'fine');
             SAVEPOINT b; ALTER TYPE mood RENAME VALUE 'fine' TO 'good'; RELEASE b; INSERT INTO e VALUES (6, 'good'); COMMIT",
        );
        scene.psql(
            "BEGIN; ALTER TYPE mood RENAME VALUE 'sad' TO 'grey'; ROLLBACK; INSERT INTO e VALUES (7, 'sad')",
        );
        scene.assert_exact_and_proved();
    });
}

/// Within one transaction all is told apart: what was written before each new name, between and after.
#[test]
fn labels_that_change_places_are_exact_where_nobody_comes_late() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(server, TWO_LABELS);
        scene.psql(
            "BEGIN; INSERT INTO e VALUES (3, 'sad'); ALTER TYPE mood RENAME VALUE 'sad' TO 'between';
             INSERT INTO e VALUES (4, 'ok'), (5, 'between'); ALTER TYPE mood RENAME VALUE 'ok' TO 'sad';
             INSERT INTO e VALUES (6, 'sad'); ALTER TYPE mood RENAME VALUE 'between' TO 'ok';
             INSERT INTO e VALUES (7, 'sad'), (8, 'ok'); COMMIT",
        );
        scene.remember();
        // With a heartbeat, after which transactions are known to have begun later.
        scene.drain();
        scene.psql("INSERT INTO e VALUES (9, 'sad'), (10, 'ok')");
        scene.assert_exact_and_proved();
    });
}

#[test]
fn tables_come_and_go_around_a_new_name() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(
            server,
            "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE gone (id int PRIMARY KEY, m mood);
             CREATE TABLE emptied (id int PRIMARY KEY, m mood); CREATE TABLE wide (id int PRIMARY KEY);
             INSERT INTO gone VALUES (1, 'sad'); INSERT INTO emptied VALUES (1, 'sad'); INSERT INTO wide VALUES (1), (2)",
        );
        let mut late = scene.session();
        late.run(
            "BEGIN; CREATE TABLE early (id int PRIMARY KEY, m mood DEFAULT enum_first(NULL::mood), ms mood[]);
             INSERT INTO early VALUES (1, 'sad', '{sad,ok}'); CREATE TABLE copied AS SELECT * FROM early;
             ALTER TABLE wide ADD COLUMN m mood DEFAULT enum_first(NULL::mood);",
        );
        scene.psql("TRUNCATE emptied; INSERT INTO emptied VALUES (2, 'sad')");
        scene.psql("BEGIN; ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'; TRUNCATE emptied; INSERT INTO emptied VALUES (3, 'blue'); COMMIT");
        late.run("INSERT INTO early VALUES (2, 'blue', NULL); INSERT INTO wide VALUES (3, 'blue'); COMMIT;");
        // That one held the publications.
        scene.psql("DROP TABLE gone; CREATE TABLE made (id int PRIMARY KEY, m mood); INSERT INTO made VALUES (1, 'blue')");
        scene.remember();
        scene.psql("TRUNCATE emptied; ALTER TYPE mood RENAME VALUE 'blue' TO 'navy'; INSERT INTO emptied VALUES (4, 'navy')");
        scene.psql("ALTER TABLE made ADD COLUMN more mood DEFAULT 'navy'; ALTER TABLE wide ADD COLUMN more mood NOT NULL DEFAULT 'navy'");
        scene.psql("ALTER TYPE mood RENAME VALUE 'navy' TO 'teal'; UPDATE wide SET m = 'ok' WHERE id = 1; ALTER TABLE made DROP COLUMN m");
        scene.assert_exact_and_proved();
    });
}
