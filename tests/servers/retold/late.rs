//! Transactions that were open when another one gave a label its new name: what they wrote before has the old
//! name in the stream, and comes after it.

use std::process::Stdio;

use crate::retold::{Scene, on_oldest_and_newest};

const TABLES: &str = "
CREATE TYPE mood AS ENUM ('sad', 'ok', 'so so'); CREATE TYPE pair AS (m mood, n int);
CREATE TABLE keyed (id int PRIMARY KEY, m mood); CREATE TABLE by_mood (m mood PRIMARY KEY, n int);
CREATE TABLE whole (m mood, p pair, t text); ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE pairs (p pair PRIMARY KEY, ps pair[]);
INSERT INTO keyed SELECT g, 'sad' FROM generate_series(1, 20) g; INSERT INTO by_mood VALUES ('sad', 1), ('ok', 2);
INSERT INTO whole SELECT 'sad', ('sad', g)::pair, 'x' FROM generate_series(1, 3) g, generate_series(1, 2);
INSERT INTO pairs SELECT ('sad', g)::pair, ARRAY[('sad', g)::pair] FROM generate_series(1, 9) g;";

const EARLY: &str = "BEGIN; INSERT INTO keyed VALUES (100, 'sad'), (101, 'sad'), (102, 'sad'); UPDATE keyed SET m = 'ok' WHERE id = 1;
UPDATE by_mood SET m = 'so so' WHERE m = 'sad'; UPDATE by_mood SET m = 'sad' WHERE m = 'ok';
UPDATE whole SET t = 'y' WHERE p = ('sad', 1)::pair; DELETE FROM whole WHERE p = ('sad', 2)::pair;
INSERT INTO whole VALUES ('sad', ('sad', 9), 'late'), ('sad', ('sad', 9), 'late');
DELETE FROM pairs WHERE p = ('sad', 1)::pair; UPDATE pairs SET p = ('sad', 20)::pair WHERE p = ('sad', 2)::pair;
INSERT INTO pairs VALUES (('sad', 21), '{\"(sad,1)\",\"(ok,2)\"}');";

const AFTER: &str = "UPDATE keyed SET id = id + 100 WHERE id = 101; DELETE FROM keyed WHERE id = 102;
UPDATE whole SET t = 'z' WHERE t = 'y'; DELETE FROM whole WHERE ctid = (SELECT ctid FROM whole WHERE t = 'late' LIMIT 1);
UPDATE pairs SET ps = NULL WHERE (p).n = 21; DELETE FROM pairs WHERE (p).n IN (3, 20);";

#[test]
fn what_comes_late_has_the_name_that_its_label_has_by_then() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(server, TABLES);
        let mut late = scene.session();
        late.run(EARLY);
        scene.psql("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'");
        scene.psql("INSERT INTO keyed VALUES (50, 'blue')");
        scene.remember();
        scene.psql("ALTER TYPE mood RENAME VALUE 'blue' TO 'navy'; ALTER TYPE pair ADD ATTRIBUTE more text");
        scene.remember();
        late.run(AFTER);
        late.run("INSERT INTO keyed VALUES (200, 'navy'); COMMIT;");
        scene.assert_exact_and_proved();
    });
}

/// The checkpoint's rows have the new name, and what comes after has the old one.
#[test]
fn a_folded_checkpoint_does_not_forget_the_old_name() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(server, TABLES);
        let mut late = scene.session();
        late.run(EARLY);
        scene.psql("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'; ALTER TYPE pair ADD ATTRIBUTE more text");
        scene.remember();
        scene.fold_beside_an_open_transaction();
        late.run(AFTER);
        late.run("COMMIT;");
        scene.assert_exact_and_proved();
    });
}

/// A text that was one label's name and is another's says only where no transaction can be late what it means.
#[test]
fn a_name_that_two_labels_had_is_said_where_it_comes_late() {
    on_oldest_and_newest(|server| {
        for again in ["ALTER TYPE mood RENAME VALUE 'ok' TO 'sad'", "ALTER TYPE mood ADD VALUE 'sad'"] {
            let mut scene = Scene::new(
                server,
                "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE e (id int PRIMARY KEY, m mood, ms mood[]);
                 CREATE TABLE other (id int PRIMARY KEY, m mood); INSERT INTO e VALUES (1, 'sad'), (2, 'ok')",
            );
            let mut late = scene.session();
            late.run("BEGIN; INSERT INTO e VALUES (3, 'sad', '{ok,sad}');");
            scene.psql("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'");
            scene.psql(again);
            let inexact = scene.assert_said_once_it_comes(late, "public.e");
            assert_eq!(inexact.as_array().unwrap().len(), 1, "{inexact:?}");
            // A folded checkpoint hands it on.
            scene.backwhen.ok(&["checkpoint"]);
            assert_eq!(scene.recovered("latest", &scene.moments[1].1).0, inexact);
        }
    });
}

/// The types that an open transaction makes are in no other session's sight while it alters what they are made of.
#[test]
fn values_of_types_that_the_open_transaction_made_are_mapped_too() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(server, TABLES);
        let mut late = scene.session();
        late.run(
            "BEGIN; CREATE TYPE outer_pair AS (p pair, m mood); CREATE DOMAIN some_mood AS mood; CREATE TYPE span AS RANGE (subtype = mood);
             CREATE TABLE made (id int PRIMARY KEY, o outer_pair, os outer_pair[], d some_mood, ds some_mood[], s span);
             INSERT INTO made VALUES (1, ROW(('sad', 1)::pair, 'sad'), ARRAY[ROW(('sad', 1)::pair, 'ok')::outer_pair], 'sad', '{sad,ok}', '[sad,ok]');",
        );
        scene.psql("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'");
        late.run("INSERT INTO made SELECT 2, o, os, d, ds, s FROM made; COMMIT;");
        scene.remember();
        scene.psql("ALTER TYPE mood RENAME VALUE 'blue' TO 'navy'");
        scene.assert_exact_and_proved();
    });
}

/// A transaction that begins while a slot is being made may still be open where the slot begins. If a type is altered in between,
/// the slot's snapshot has the new text, and nothing after it tells of the old one that is still to come.
#[test]
fn an_image_is_not_read_behind_a_change_that_an_open_transaction_has_not_seen() {
    on_oldest_and_newest(|server| {
        let mut scene = Scene::new(server, TABLES);
        let begin = |id: u32| {
            let mut session = scene.session();
            session.run(&format!("BEGIN; INSERT INTO keyed VALUES ({id}, 'sad');"));
            session
        };
        let waits_for = |id: u32| {
            let waiting = "SELECT count(*) = 1 FROM pg_locks w JOIN pg_locks h ON h.transactionid = w.transactionid AND h.granted
                             JOIN pg_stat_activity a ON a.pid = h.pid WHERE NOT w.granted AND a.query LIKE";
            server.wait_until(scene.backwhen.database(), &format!("{waiting} '%({id}, %'"));
        };
        let mut first = begin(301);
        let mut checkpoint = scene.backwhen.command(&["checkpoint", "--from-source"]);
        let checkpoint = checkpoint.stderr(Stdio::piped()).spawn().unwrap();
        waits_for(301);
        let mut second = begin(302);
        first.run("COMMIT;");
        waits_for(302);
        let mut third = begin(303);
        scene.psql("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'");
        second.run("COMMIT;");
        waits_for(303);
        third.run("COMMIT;");
        let output = checkpoint.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        scene.assert_exact_and_proved();
    });
}
