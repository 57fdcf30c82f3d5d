//! Rows that are asked for by their keys are looked up without reading all that happened to their tables, and are those that
//! reading all of it finds.
//!
//! `BACKWHEN_TEST_SEED` replays a seed that a failure printed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};

use backwhen::fold::{AskedRows, FoldedTable};
use backwhen::history::History;
use backwhen::model::Lsn;
use backwhen::past::{Past, Reading};

use super::{Scene, WORK, on_oldest_and_newest};
use crate::support::{Backwhen, Server, seed};

/// Tables with a key of numbers, with one of texts, and without one. Some values of the first are not in the stream unless
/// they change.
const TABLES: &str = r"
CREATE TABLE t (id int PRIMARY KEY, v int, words text); ALTER TABLE t ALTER words SET STORAGE EXTERNAL;
CREATE TABLE u (a text, v int, b bigint, PRIMARY KEY (a, b)); CREATE TABLE bag (v int); ALTER TABLE bag REPLICA IDENTITY FULL;
INSERT INTO t SELECT g, 0, repeat(g::text, CASE WHEN g % 5 = 0 THEN 1500 ELSE 1 END) FROM generate_series(1, 400) g;
INSERT INTO u SELECT E'x\t\\' || g % 7, 0, g - 100 FROM generate_series(1, 200) g;
CREATE PROCEDURE work(seed float, transactions int) LANGUAGE plpgsql AS $$ DECLARE at int; wide int; dice float; BEGIN
    PERFORM setseed(seed);
    FOR n IN 1..transactions LOOP
        at := 1 + 400 * random(); dice := random(); wide := CASE WHEN random() < 0.3 THEN 150 ELSE 3 END;
        IF dice < 0.3 THEN UPDATE t SET v = n WHERE id BETWEEN at AND at + wide;
        ELSIF dice < 0.4 THEN UPDATE t SET words = repeat(n::text, id % 3 * 700) WHERE id BETWEEN at AND at + wide;
        ELSIF dice < 0.5 THEN UPDATE t SET id = id + 1000 WHERE id < 1000 AND id % 5 = 0 AND id + 1000 NOT IN (SELECT id FROM t) AND random() < 0.1;
            UPDATE t SET id = id - 1000 WHERE id > 1000 AND id - 1000 NOT IN (SELECT id FROM t) AND random() < 0.2;
        ELSIF dice < 0.6 THEN DELETE FROM t WHERE id BETWEEN at AND at + wide;
        ELSIF dice < 0.7 THEN INSERT INTO t SELECT g, n, repeat('n', g % 2 * 2500) FROM generate_series(at, at + wide) g ON CONFLICT DO NOTHING;
        ELSIF dice < 0.85 THEN UPDATE u SET v = n WHERE b BETWEEN at AND at + wide; UPDATE u SET a = a || '\' WHERE b = at / 2;
            DELETE FROM u WHERE b = at / 3; INSERT INTO u SELECT 'new', n, at ON CONFLICT DO NOTHING;
        ELSIF dice < 0.98 THEN INSERT INTO bag SELECT at FROM generate_series(1, wide); DELETE FROM bag WHERE v = at - 1;
        ELSE TRUNCATE t; INSERT INTO t SELECT g, n, repeat('t', g % 2 * 2500) FROM generate_series(1, 300) g; END IF;
        COMMIT;
    END LOOP;
END $$";

/// Segments are sealed when they are this large, so that there are many blocks.
fn scene(server: &Server, sql: &str) -> Scene {
    let database = server.fresh_database("asked");
    server.psql(&database, sql);
    let backwhen = Backwhen::new(server, &database)
        .with_env("BACKWHEN_TEST_ROLL_AT", "8192")
        .with_env("BACKWHEN_TEST_SEALED_BLOCK", "16384")
        .with_env("BACKWHEN_LOG", "backwhen=warn,backwhen::history::journal=trace");
    backwhen.init();
    Scene { backwhen }
}

/// Keys and lines of rows.
type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn rows(folded: FoldedTable, asked: &AskedRows<Vec<u8>>) -> Rows {
    let mut found = Rows::new();
    let take = |key: &[u8], line: &[u8]| {
        found.push((key.to_vec(), line.to_vec()));
        Ok(())
    };
    folded.each_of(asked, take).unwrap();
    found
}

/// All rows of each table at a moment.
fn all_rows(past: &Past) -> BTreeMap<u32, Rows> {
    let folded = past.fold_tables(&|_| true).unwrap();
    folded.into_iter().map(|table| (table.table.oid, rows(table, &AskedRows::All))).collect()
}

#[test]
fn asked_rows_are_those_that_reading_everything_finds() {
    let seed = seed();
    eprintln!("again with: BACKWHEN_TEST_SEED={seed}");
    on_oldest_and_newest(|server| {
        let mut random = StdRng::seed_from_u64(seed);
        let scene = scene(server, TABLES);
        scene.psql(&format!("CALL work({}, 150)", random.random_range(-1.0..1.0)));
        scene.drain();
        let history = History::open(&scene.backwhen.local(), None).unwrap();
        let reading = Reading::open(&history).unwrap();
        let stretch = reading.timeline().current().unwrap();
        let segments = stretch.segments.iter().map(|view| view.open().unwrap());
        let commits: Vec<Lsn> = segments
            .flat_map(|it| it.transactions().iter().map(|it| it.commit_lsn).collect::<Vec<_>>())
            .collect();
        let mut positions = commits.iter().copied().choose_multiple(&mut random, 3);
        positions.push(stretch.frontier());
        let pasts: Vec<_> =
            positions.into_iter().map(|at| reading.before(stretch.epoch.number, at).unwrap()).collect();
        let truths: Vec<_> = pasts.iter().map(all_rows).collect();
        // Rows that are gone, or come later, are asked for too.
        let mut keys = BTreeMap::<u32, BTreeSet<Vec<u8>>>::new();
        for (table, rows) in truths.iter().flatten() {
            keys.entry(*table).or_default().extend(rows.iter().map(|(key, _)| key.clone()));
        }
        for (past, truth) in pasts.iter().zip(&truths) {
            for most in [1, 30, 30, 30, 30, 90, 90, 1000] {
                let mut asked = HashMap::new();
                for (table, keys) in &keys {
                    if most < 1000 && random.random_bool(0.3) {
                        continue;
                    }
                    let mut some = keys.iter().cloned().choose_multiple(&mut random, most);
                    some.sort();
                    let is_all = most == 1000 && random.random_bool(0.2);
                    asked.insert(*table, if is_all { AskedRows::All } else { AskedRows::Keys(some) });
                }
                let folded = past.fold_asked(&asked).unwrap();
                assert_eq!(folded.len(), asked.len());
                for table in folded {
                    let oid = table.table.oid;
                    let is_asked = |(key, _): &&(Vec<u8>, _)| match &asked[&oid] {
                        AskedRows::All => true,
                        AskedRows::Keys(keys) => keys.binary_search(key).is_ok(),
                    };
                    let expected: Rows = truth[&oid].iter().filter(is_asked).cloned().collect();
                    let name = table.table.display();
                    let found = rows(table, &asked[&oid]);
                    assert!(found == expected, "{most} rows of {name} before {}", past.until());
                }
            }
        }
    });
}

#[test]
fn the_rows_before_a_transaction_take_a_part_of_the_journal() {
    let server = Server::shared(None);
    let table = "CREATE TABLE t (id int PRIMARY KEY, words text);
        INSERT INTO t SELECT g, 'at first' FROM generate_series(1, 30000) g;";
    let scene = scene(&server, &format!("{table}{WORK}"));
    scene.psql("CALL work(1, 250)");
    let one = scene.transaction("UPDATE t SET words = 'one' WHERE id = 12345");
    let first = scene.transaction("UPDATE t SET words = 'first' WHERE id BETWEEN 20000 AND 20099");
    let again = scene.transaction("UPDATE t SET words = 'again' WHERE id BETWEEN 20000 AND 20099");
    let recent = "id BETWEEN 25000 AND 25094";
    scene.psql(&format!("UPDATE t SET words = 'recent' WHERE {recent}"));
    let mixed = scene.transaction(&format!(
        "UPDATE t SET words = 'mixed' WHERE {recent} OR id IN (500, 1500, 2500, 3500, 4500)"
    ));
    scene.psql("CALL work(251, 290)");
    scene.drain();
    let journal = scene.backwhen.journal_bytes();
    let before = |change: &serde_json::Value| change["before"]["words"].as_str().unwrap().to_owned();
    // A single row by the index, many rows from the transactions just before, and some of both.
    for (arguments, part, rows) in [
        (vec!["show", &*one], 3, 1),
        (vec!["show", &*again], 3, 100),
        (vec!["show", &*mixed], 2, 100),
        (vec!["diff", &*first, &*again, "--rows"], 3, 100),
    ] {
        let read = scene.backwhen.bytes_read(&arguments);
        assert!(read * part < journal, "{arguments:?} read {read} bytes of {journal}");
        let lines = scene.lines(&arguments);
        assert_eq!(
            lines.iter().filter(|line| line["before"]["words"].is_string()).count(),
            rows,
            "{arguments:?}"
        );
    }
    let found = scene.lines(&["show", &again]);
    assert!(found.iter().filter(|it| it["before"].is_object()).all(|it| before(it) == "first"));
    let found = scene.lines(&["show", &mixed]);
    let words: Vec<_> = found.iter().filter(|it| it["before"].is_object()).map(before).collect();
    assert_eq!(words.iter().filter(|it| *it == "recent").count(), 95);
    assert!(
        words.contains(&scene.psql("SELECT md5('5500')"))
            && words.contains(&scene.psql("SELECT md5('454500')"))
    );
    let found = scene.lines(&["show", &one]);
    let words = scene.psql("SELECT md5('12312345')");
    assert_eq!(found.iter().filter(|it| it["before"].is_object()).map(before).collect::<Vec<_>>(), [words]);
}
