//! Attributes of composite types, and columns of tables whose row type is a column's.

use crate::retold::{Scene, on_oldest_and_newest};

const TABLES: &str = r#"
CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, m mood);
CREATE TYPE nest AS (p pair, ps pair[]); CREATE DOMAIN checked AS nest;
CREATE TABLE small (a int, t text); CREATE VIEW seen AS SELECT 1 AS a;
CREATE TABLE part (a int, t text, b int GENERATED ALWAYS AS (a * 2) STORED) PARTITION BY LIST (a);
CREATE TABLE e (id int PRIMARY KEY, p pair, n nest, ns nest[], c checked, s small, ss small[], v seen, r part);
CREATE TABLE whole (p pair, s small); ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE FUNCTION fill(first int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO e (id, p, n, ns, c) SELECT g, format('(%s,sad)', g)::pair, format('("(%s,ok)","{""(,sad)"",NULL}")', g)::nest,
            '{"(,)"}'::nest[], format('("(%s,)",{})', g)::checked FROM generate_series(first, first + 9) g;
    INSERT INTO e (id, s, ss, v) SELECT -g, ROW(g, 'a b')::small, ARRAY[ROW(NULL, '')::small], ROW(g)::seen
        FROM generate_series(first, first + 9) g;
    INSERT INTO whole SELECT format('(%s,sad)', g)::pair, ROW(g, NULL)::small FROM generate_series(first, first + 9) g; END $$;
SELECT fill(1); UPDATE e SET r = ROW(1, 'x', 2)::part WHERE id = 1;"#;

#[test]
fn writers_do_not_wait_for_an_attribute_and_lose_nothing_by_it() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(server, TABLES);
        for (number, change) in [
            "ALTER TYPE pair ADD ATTRIBUTE z text",
            "ALTER TYPE pair DROP ATTRIBUTE m, ADD ATTRIBUTE y int",
            "ALTER TYPE pair RENAME ATTRIBUTE y TO m; ALTER TYPE nest ADD ATTRIBUTE more pair",
            "ALTER TYPE pair DROP ATTRIBUTE a; ALTER TYPE pair DROP ATTRIBUTE z; ALTER TYPE pair DROP ATTRIBUTE m",
            "ALTER TYPE pair ADD ATTRIBUTE back int",
        ]
        .iter()
        .enumerate()
        {
            let mut migration = scene.session();
            migration.run(&format!("BEGIN; {change};"));
            scene.psql(&format!(
                "DELETE FROM e WHERE id = {number} + 1; UPDATE whole SET s = ROW({number}, 'in between') WHERE (s).a = {number} + 1;
                 UPDATE e SET id = id + 100 WHERE id = {number} + 2"
            ));
            migration.run("COMMIT;");
            // A heartbeat, after which transactions are known to have begun later: the second statement leaves as
            // many attributes as there were.
            scene.drain();
            scene.psql(&format!("UPDATE e SET s = NULL WHERE id = -{number}; DELETE FROM whole WHERE (s).a = {number} + 6"));
            scene.remember();
        }
        scene.assert_exact_and_proved();
    });
}

#[test]
fn a_tables_own_columns_are_in_the_values_of_its_row_type() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(server, TABLES);
        for change in [
            "ALTER TABLE small ADD COLUMN b int; UPDATE whole SET s = ROW(1, 'new', 2) WHERE (s).a = 1",
            "ALTER TABLE small DROP COLUMN a",
            "BEGIN; ALTER TABLE small DROP COLUMN b; ALTER TABLE small ADD COLUMN c text; ALTER TABLE small ADD COLUMN d mood;
             UPDATE e SET s = ROW('x', 'y', 'sad') WHERE id = -3; ALTER TABLE small DROP COLUMN t; COMMIT",
            "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
            "CREATE OR REPLACE VIEW seen AS SELECT 1 AS a, 'sad'::text AS b",
            "ALTER TABLE small RENAME COLUMN d TO dd; INSERT INTO small VALUES ('s', 'blue')",
            "ALTER TABLE part ADD COLUMN c int, DROP COLUMN t; UPDATE e SET s = ROW('p', 'ok') WHERE id = -2",
        ] {
            scene.psql(change);
            scene.drain();
            scene.psql("UPDATE e SET p = NULL WHERE id = (SELECT max(id) FROM e WHERE p IS NOT NULL)");
            scene.remember();
        }
        scene.assert_exact_and_proved();
    });
}

/// Old values have another number of attributes, or are put together otherwise, and come after the statement.
#[test]
fn values_that_come_late_have_the_attributes_that_their_type_has_by_then() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(server, TABLES);
        let mut late = scene.session();
        late.run("BEGIN; SELECT fill(50); UPDATE e SET p = ROW(7, 'ok') WHERE id = 1; DELETE FROM whole WHERE (s).a IN (2, 51);");
        scene.psql("ALTER TYPE pair ADD ATTRIBUTE z text");
        scene.psql("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'");
        scene.psql("UPDATE e SET id = id + 1000 WHERE id = 9");
        scene.remember();
        late.run(
            "UPDATE whole SET s = NULL WHERE (s).a IN (3, 52); UPDATE e SET id = 2000 WHERE id = 52; COMMIT;",
        );
        scene.assert_exact_and_proved();
    });
}
