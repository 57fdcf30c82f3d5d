//! Random transactions: a rewind to a random moment gives what was there, an undo what a slow model gives.
//!
//! `BACKWHEN_TEST_SEED` replays a seed that a failure printed.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::{Scene, assert_rows, on_oldest_and_newest, while_captured};
use crate::support::{Dump, seed};

pub(super) const TABLES: &str = "
CREATE TABLE parents (id int PRIMARY KEY, a text, b text, u int UNIQUE);
CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE, a text, b text);
CREATE TABLE loners (a int, b text); ALTER TABLE loners REPLICA IDENTITY FULL;
CREATE TABLE parts (region int, id int, a text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE parts_0 PARTITION OF parts FOR VALUES IN (0); CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)";

/// How many rows each table can have.
const IDS: i32 = 12;

/// A statement of which the result depends on nothing but the rows that it names.
fn statement(random: &mut StdRng, number: u32) -> String {
    let (id, other, bit) =
        (random.random_range(1..=IDS), random.random_range(1..=IDS), random.random_range(0..2));
    let table = *["parents", "children"].choose(random).unwrap();
    let column = *["a", "b"].choose(random).unwrap();
    match random.random_range(0..13) {
        0 | 1 => {
            format!("INSERT INTO parents VALUES ({id}, 'a{number}', 'b', {})", random.random_range(1..=IDS))
        }
        2 | 3 => format!("INSERT INTO children VALUES ({id}, {other}, 'a{number}', 'b')"),
        4..=6 => format!("UPDATE {table} SET {column} = '{number}' WHERE id = {id}"),
        7 => format!("UPDATE children SET parent = {other} WHERE id = {id}"),
        8 => format!("DELETE FROM {table} WHERE id = {id}"),
        9 => format!("UPDATE {table} SET id = {other} WHERE id = {id}"),
        10 => format!("INSERT INTO loners VALUES ({bit}, '{other}')"),
        11 => format!("INSERT INTO parts VALUES ({bit}, {id}, 'a{number}')"),
        _ => format!("UPDATE parts SET region = {bit} WHERE id = {id}"),
    }
}

/// One transaction of some statements, those that the constraints let through and that had an effect.
pub(super) fn transaction(scene: &Scene, random: &mut StdRng, number: u32) -> (u32, Vec<String>) {
    let wanted: Vec<_> = (0..random.random_range(1..4)).map(|_| statement(random, number)).collect();
    let body: String = wanted
        .iter()
        .map(|sql| {
            format!(
                "BEGIN {sql}; GET DIAGNOSTICS n = ROW_COUNT; IF n > 0 THEN done := done || {}::text; END IF; \
                 EXCEPTION WHEN integrity_constraint_violation THEN NULL; END; ",
                backwhen::model::schema::quote_literal(sql)
            )
        })
        .collect();
    let sql = format!(
        "BEGIN; SELECT pg_current_xact_id(); CREATE TEMP TABLE done (n serial, sql text);
         DO $do$ DECLARE n int; done text[] := '{{}}'; BEGIN {body} INSERT INTO done (sql) SELECT unnest(done); END $do$;
         SELECT sql FROM done ORDER BY n; DROP TABLE done; COMMIT"
    );
    let text = scene.psql(&sql);
    let mut lines = text.lines().map(str::to_owned);
    let xid = lines.next().and_then(|line| line.parse().ok()).expect("a number comes first");
    (xid, lines.collect())
}

#[test]
fn a_rewind_to_any_moment_gives_what_was_there() {
    let seed = seed();
    eprintln!("again with: BACKWHEN_TEST_SEED={seed}");
    on_oldest_and_newest(|server| {
        let mut random = StdRng::seed_from_u64(seed);
        while_captured(server, TABLES, |scene| {
            let mut moments: Vec<(String, Dump)> = Vec::new();
            for number in 0..40 {
                transaction(scene, &mut random, number);
                if number % 10 == 3 {
                    scene.mark(&format!("m{number}"));
                    moments.push((format!("mark:m{number}"), scene.dump()));
                }
                if number % 13 == 12 {
                    scene.backwhen.ok(&["checkpoint"]);
                }
            }
            // Forwards and backwards, over rewinds, too.
            for _ in 0..6 {
                let (moment, truth) = moments.choose(&mut random).unwrap();
                scene.rewind(&["--to", moment]);
                assert_rows(truth, &scene.dump());
                transaction(scene, &mut random, 1000);
            }
        });
    });
}

/// The model: the transactions that are not taken back run anew, one after the other, on another database.
#[test]
fn an_undo_gives_what_the_other_transactions_give_alone() {
    let seed = seed();
    eprintln!("again with: BACKWHEN_TEST_SEED={seed}");
    on_oldest_and_newest(|server| {
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..4 {
            while_captured(server, TABLES, |scene| undo_one(scene, &mut random));
        }
    });
}

fn undo_one(scene: &Scene, random: &mut StdRng) {
    let told: Vec<_> = (0..25).map(|number| transaction(scene, random, number)).collect();
    let effective: Vec<_> = told.iter().filter(|(_, statements)| !statements.is_empty()).collect();
    let (wrong, _) = **effective.choose(random).unwrap();
    let report = scene.undo(&format!("xid:{wrong}"), &["--conflicts", "cascade"]);
    let dependents = report["dependents"].as_array().unwrap().iter();
    let undone: Vec<u64> =
        dependents.map(|it| it["xid"].as_u64().unwrap()).chain([u64::from(wrong)]).collect();
    let Some(truth) = model_without(scene, &told, &undone) else { return };
    assert_eq!(truth.rows, scene.dump().rows, "without {undone:?} of {told:#?}");
}

/// The database that the transactions which are not taken back make alone; `None` if a constraint refuses one of them, or if
/// a statement finds no row: it named a row by a key that only a transaction that is taken back had given to it. backwhen
/// keeps what such a statement wrote into other columns, and statements cannot tell that.
pub(super) fn model_without(scene: &Scene, told: &[(u32, Vec<String>)], undone: &[u64]) -> Option<Dump> {
    let server = scene.backwhen.server();
    let model = server.fresh_database("model");
    server.psql(&model, TABLES);
    let mut script = String::new();
    for (_, statements) in told.iter().filter(|(xid, _)| !undone.contains(&u64::from(*xid))) {
        let found = "GET DIAGNOSTICS n = ROW_COUNT; IF n = 0 THEN RAISE 'found no row'; END IF";
        let each: Vec<_> = statements.iter().map(|sql| format!("{sql}; {found}; ")).collect();
        script += &format!("DO $do$ DECLARE n int; BEGIN {} END $do$; ", each.concat());
    }
    if let Err(said) = server.try_psql(&model, &script) {
        // Another transaction built on the one that is taken back, and a later one removed the result again. Without the
        // first one, the model fails in between.
        assert!(said.contains("violates") || said.contains("found no row"), "{said}");
        return None;
    }
    Some(Dump::of(server, &model))
}
