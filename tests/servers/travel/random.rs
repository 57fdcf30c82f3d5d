//! Random transactions, of which a real server remembers the state after each: `show`, `diff` and `row` must tell the same.
//!
//! `BACKWHEN_TEST_SEED` replays a seed that a failure printed.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value};

use super::{Scene, on_oldest_and_newest};
use crate::support::seed;

const TRANSACTIONS: usize = 36;
const TABLES: [&str; 4] = ["account", "pair", "bag", "ticket"];
const SCHEMA: &str = "
CREATE TABLE account (id int PRIMARY KEY, owner text, balance numeric, note text);
ALTER TABLE account ALTER note SET STORAGE EXTERNAL;
CREATE TABLE pair (a int, b text, v int, PRIMARY KEY (a, b));
CREATE TABLE bag (x int, y text);
ALTER TABLE bag REPLICA IDENTITY FULL;
CREATE TABLE ticket (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account int, state text,
    twice int GENERATED ALWAYS AS (account * 2) STORED);
INSERT INTO account SELECT g, 'owner ' || g, g * 1.50, repeat(g::text, 2000) FROM generate_series(1, 12) g;
INSERT INTO pair SELECT g, 'b' || g % 2, g FROM generate_series(1, 6) g;
INSERT INTO bag VALUES (1, 'a'), (1, 'a'), (2, NULL);
INSERT INTO ticket (account) SELECT g FROM generate_series(1, 6) g;
";

/// The rows of each table.
type State = BTreeMap<String, Vec<Value>>;

/// A transaction, and what the server held after it.
struct Moment {
    xid: String,
    state: State,
    changes_schema: bool,
}

#[test]
fn a_slow_model_tells_the_same() {
    let seed = seed();
    on_oldest_and_newest(|server| {
        eprintln!("again with: BACKWHEN_TEST_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let scene = Scene::new(server, SCHEMA);
        let mut moments = vec![Moment { xid: String::new(), state: state(&scene), changes_schema: false }];
        for number in 0..TRANSACTIONS {
            let (statements, changes_schema) = transaction(&mut random, number);
            let xid = scene.transaction(&statements);
            moments.push(Moment { xid, state: state(&scene), changes_schema });
            if random.random_bool(0.15) {
                scene.drain();
                scene.backwhen.ok(&["checkpoint"]);
            }
        }
        scene.drain();
        let ends = ends(&scene);
        assert_shown(&scene, &moments, &ends);
        assert_differences(&scene, &moments, &ends, &mut random);
        assert_versions(&scene, &moments, &ends);
        assert_taken_back(&scene, &moments, &ends);
    });
}

/// The position at which each listed transaction ends, by its number.
fn ends(scene: &Scene) -> BTreeMap<String, u64> {
    let position = |text: &str| {
        let (high, low) = text.split_once('/').expect("an LSN");
        u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
    };
    let lines = scene.lines(&["log"]).into_iter();
    lines.map(|line| (format!("xid:{}", line["xid"]), position(line["lsn"].as_str().unwrap()))).collect()
}

fn state(scene: &Scene) -> State {
    let row = "(SELECT jsonb_object_agg(key, to_jsonb(value)) FROM jsonb_each_text(to_jsonb(t) - 'twice'))";
    let table = |name: &&str| format!("'{name}', (SELECT coalesce(jsonb_agg({row}), '[]') FROM {name} t)");
    let tables: Vec<_> = TABLES.iter().map(table).collect();
    let text = scene.psql(&format!("SELECT jsonb_build_object({})", tables.join(", ")));
    let mut state: State = serde_json::from_str(&text).unwrap();
    state.values_mut().for_each(|rows| sort(rows));
    state
}

fn sort(rows: &mut [Value]) {
    rows.sort_by_key(Value::to_string);
}

/// One to five statements, and whether one of them changes the schema.
fn transaction(random: &mut StdRng, number: usize) -> (String, bool) {
    if random.random_bool(0.12) {
        let statement = match random.random_range(0..4) {
            0 => format!("ALTER TABLE account ADD COLUMN c{number} int DEFAULT {number}"),
            1 => format!("ALTER TABLE pair ADD COLUMN c{number} text; UPDATE pair SET c{number} = 'x' WHERE a < 4"),
            2 => "ALTER TABLE ticket RENAME COLUMN state TO state_; ALTER TABLE ticket RENAME COLUMN state_ TO state".to_owned(),
            _ => "ALTER TABLE pair ALTER v TYPE bigint USING v * 2".to_owned(),
        };
        return (statement, true);
    }
    let count = random.random_range(1..6);
    let statements: Vec<_> = (0..count).map(|_| statement(random, number)).collect();
    (statements.join("; "), false)
}

fn statement(random: &mut StdRng, number: usize) -> String {
    let id = random.random_range(1..15);
    let other = random.random_range(1..15);
    match random.random_range(0..17) {
        0 | 1 => format!("UPDATE account SET balance = balance + {number}.50 WHERE id = {id}"),
        2 => format!("UPDATE account SET note = repeat('{number}', 3000) WHERE id = {id}"),
        3 => format!("DELETE FROM account WHERE id = {id}"),
        4 => format!("INSERT INTO account VALUES ({id}, 'new', {number}) ON CONFLICT DO NOTHING"),
        5 => format!(
            "UPDATE account SET id = {other} WHERE id = {id} AND NOT EXISTS (SELECT FROM account WHERE id = {other})"
        ),
        6 => format!("UPDATE account SET owner = owner WHERE id = {id}"),
        7 => format!("UPDATE pair SET v = v + 1, b = b || '''' WHERE a = {id}"),
        8 => format!("INSERT INTO pair VALUES ({id}, E'tab\\t{number}', {number}) ON CONFLICT DO NOTHING"),
        9 => format!("DELETE FROM pair WHERE a = {id}"),
        10 => format!("INSERT INTO bag VALUES ({}, 'a'), ({id}, NULL)", id % 3),
        11 => format!("DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE x = {})", id % 3),
        12 => format!("UPDATE bag SET y = '{number}' WHERE ctid = (SELECT max(ctid) FROM bag)"),
        13 => format!("INSERT INTO ticket (account, state) VALUES ({id}, 's{number}')"),
        14 => format!("DELETE FROM ticket WHERE id = {id}"),
        15 if random.random_bool(0.3) => format!("TRUNCATE {}", TABLES[id % TABLES.len()]),
        _ => format!("UPDATE ticket SET state = 'S{number}' WHERE account = {id}"),
    }
}

fn table_of(line: &Value) -> String {
    line["table"].as_str().expect("a name").trim_start_matches("public.").to_owned()
}

/// Takes a row out of a table's rows, and puts another one in.
fn replace(rows: &mut Vec<Value>, before: &Value, after: &Value, line: &Value) {
    let is_row = |value: &Value| value.as_object().is_some_and(|row| !row.is_empty());
    if is_row(before) {
        let place = rows.iter().position(|row| row == before);
        rows.swap_remove(place.unwrap_or_else(|| panic!("no such row before: {line}\nin {rows:?}")));
    }
    if is_row(after) {
        rows.push(after.clone());
    }
}

/// The changes of each transaction lead from the state before it to the state after it.
fn assert_shown(scene: &Scene, moments: &[Moment], ends: &BTreeMap<String, u64>) {
    for pair in moments.windows(2).filter(|pair| !pair[1].changes_schema) {
        let (before, after) = (&pair[0].state, &pair[1].state);
        if !ends.contains_key(&pair[1].xid) {
            assert_eq!(before, after, "{} is not listed", pair[1].xid);
            continue;
        }
        let mut state = before.clone();
        for line in scene.lines(&["show", &pair[1].xid]) {
            let rows = state.get_mut(&table_of(&line)).expect("a table");
            replace(rows, &line["before"], &line["after"], &line);
        }
        state.values_mut().for_each(|rows| sort(rows));
        assert_eq!(state, *after, "show {}", pair[1].xid);
    }
}

/// The difference between two states leads from one to the other, and names no row that is in both.
fn assert_differences(scene: &Scene, moments: &[Moment], ends: &BTreeMap<String, u64>, random: &mut StdRng) {
    let held: Vec<_> = moments.iter().filter(|moment| ends.contains_key(&moment.xid)).collect();
    for _ in 0..8 {
        let (from, to) = (random.random_range(0..held.len()), random.random_range(0..held.len()));
        let (from, to) = (held[from], held[to]);
        let columns = |state: &State, table: &str| -> Vec<String> {
            let first = state[table].first().and_then(Value::as_object).map(Map::keys);
            first.into_iter().flatten().cloned().collect()
        };
        let mut state = from.state.clone();
        let lines = scene.lines(&["diff", &from.xid, &to.xid, "--rows"]);
        let comparable = |table: &str| {
            let (then, now) = (columns(&from.state, table), columns(&to.state, table));
            then == now || then.is_empty() || now.is_empty()
        };
        for line in lines.iter().filter(|line| comparable(&table_of(line))) {
            assert_ne!(line["before"], line["after"], "no difference: {line}");
            replace(state.get_mut(&table_of(line)).unwrap(), &line["before"], &line["after"], line);
        }
        state.values_mut().for_each(|rows| sort(rows));
        for table in TABLES.into_iter().filter(|table| comparable(table)) {
            assert_eq!(state[table], to.state[table], "diff {} {} of {table}", from.xid, to.xid);
            let keyed = lines.iter().filter(|line| table_of(line) == table && table != "bag");
            let mut keys: Vec<_> = keyed.map(|line| line["key"].to_string()).collect();
            let all = keys.len();
            keys.sort();
            keys.dedup();
            assert_eq!(keys.len(), all, "a row is named once");
        }
    }
}

/// At each moment, the row that has a key is the version that covers the moment.
fn assert_versions(scene: &Scene, moments: &[Moment], ends: &BTreeMap<String, u64>) {
    let position = |edge: &Value| {
        let (high, low) = edge["lsn"].as_str()?.split_once('/')?;
        Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
    };
    for id in 1..15 {
        let id = id.to_string();
        let versions = scene.lines(&["row", "account", &id]);
        for moment in moments {
            let Some(at) = ends.get(&moment.xid).copied() else { continue };
            let covers = |version: &&Value| {
                position(&version["from"]).unwrap() <= at && position(&version["to"]).is_none_or(|to| at < to)
            };
            let told: Vec<_> = versions
                .iter()
                .filter(covers)
                .map(|it| &it["row"])
                .filter(|row| row["id"] == id.as_str())
                .collect();
            let held: Vec<_> =
                moment.state["account"].iter().filter(|row| row["id"] == id.as_str()).collect();
            assert_eq!(told, held, "row account {id} at {}", moment.xid);
        }
        let same = versions
            .windows(2)
            .find(|pair| pair[0]["row"] == pair[1]["row"] && pair[0]["to"] == pair[1]["from"]);
        assert_eq!(same, None, "two versions are one");
    }
}

/// The last transactions up to a schema change are taken back one after the other, and done again, by their statements.
fn assert_taken_back(scene: &Scene, moments: &[Moment], ends: &BTreeMap<String, u64>) {
    let twin = Scene { backwhen: crate::support::Backwhen::new(scene.backwhen.server(), &scene.twin()) };
    let mut taken = Vec::new();
    for pair in moments.windows(2).rev().take_while(|pair| !pair[1].changes_schema).take(12) {
        if ends.contains_key(&pair[1].xid) {
            twin_apply(scene, &twin, &["show", &pair[1].xid, "--sql", "--reverse"]);
            taken.push(&pair[1]);
        }
        assert_eq!(state(&twin), pair[0].state, "{} taken back", pair[1].xid);
    }
    for moment in taken.iter().rev() {
        twin_apply(scene, &twin, &["show", &moment.xid, "--sql"]);
        assert_eq!(state(&twin), moment.state, "{} done again", moment.xid);
    }
    if let (Some(first), Some(last)) = (taken.last(), taken.first()) {
        twin_apply(scene, &twin, &["diff", &last.xid, &first.xid, "--sql", "-"]);
        assert_eq!(state(&twin), first.state, "back to {} at once", first.xid);
        twin_apply(scene, &twin, &["diff", &first.xid, &last.xid, "--sql", "-"]);
        assert_eq!(state(&twin), last.state, "and on to {}", last.xid);
    }
}

fn twin_apply(scene: &Scene, twin: &Scene, arguments: &[&str]) {
    scene.apply(twin.backwhen.database(), &scene.backwhen.ok(arguments));
}
