//! Random rows and references: a part must be what a query of the whole says.
//!
//! `BACKWHEN_TEST_SEED` replays a seed that a failure printed.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{assert_keys_hold, part_of, protected, recover};
use crate::support::{Dump, Server, on_oldest_and_newest, seed};

const TABLES: &str = "
CREATE TABLE nodes (id int PRIMARY KEY, next int REFERENCES nodes, tag text);
CREATE TABLE pairs (a int, b text, node int REFERENCES nodes, PRIMARY KEY (a, b));
CREATE TABLE leaves (region int, id int, node int REFERENCES nodes, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE leaves_0 PARTITION OF leaves FOR VALUES IN (0); CREATE TABLE leaves_1 PARTITION OF leaves FOR VALUES IN (1);
ALTER TABLE nodes ADD COLUMN a int, ADD COLUMN b text, ADD FOREIGN KEY (a, b) REFERENCES pairs DEFERRABLE INITIALLY DEFERRED;
CREATE TABLE items (id int PRIMARY KEY, tenant int, node int REFERENCES nodes, region int, leaf int,
    FOREIGN KEY (region, leaf) REFERENCES leaves)";

/// The tables with what each refers to: columns, table, columns.
const REFERENCES: [(&str, &str, &str, &str); 6] = [
    ("nodes", "next", "nodes", "id"),
    ("nodes", "a, b", "pairs", "a, b"),
    ("pairs", "node", "nodes", "id"),
    ("leaves", "node", "nodes", "id"),
    ("items", "node", "nodes", "id"),
    ("items", "region, leaf", "leaves", "region, id"),
];

const KEYS: [(&str, &str); 4] =
    [("nodes", "id"), ("pairs", "a, b"), ("leaves", "region, id"), ("items", "id")];

fn rows(random: &mut StdRng) -> String {
    let mut sql = String::from("BEGIN; ");
    let some = |random: &mut StdRng, most: i32| match random.random_range(0..3) {
        0 => "NULL".to_owned(),
        _ => random.random_range(1..=most).to_string(),
    };
    for id in 1..=25 {
        sql += &format!("INSERT INTO nodes (id, tag) VALUES ({id}, 't{id}'); ");
        sql += &format!(
            "INSERT INTO pairs VALUES ({id}, 'b', NULL); INSERT INTO leaves VALUES ({}, {id}); ",
            id % 2
        );
    }
    for id in 1..=25 {
        let (next, pair, node) = (some(random, 25), some(random, 25), some(random, 25));
        sql += &format!(
            "UPDATE nodes SET next = {next}, a = {pair}, b = CASE WHEN {pair} IS NULL THEN NULL ELSE 'b' END WHERE id = {id}; "
        );
        sql += &format!(
            "UPDATE pairs SET node = {node} WHERE a = {id}; UPDATE leaves SET node = {} WHERE id = {id}; ",
            some(random, 25)
        );
        let leaf = random.random_range(1..=25);
        sql += &format!(
            "INSERT INTO items VALUES ({id}, {}, {}, {}, {leaf}); ",
            random.random_range(0..9),
            some(random, 25),
            leaf % 2
        );
    }
    sql + "COMMIT"
}

/// The keys of the rows that must be there, by a loop over the whole database.
fn closure(server: &Server, database: &str, condition: &str) -> BTreeMap<String, String> {
    let text = |columns: &str, of: &str| {
        let each = columns.split(", ").map(|column| format!("{of}.{column}::text"));
        format!("concat_ws(':', {})", each.collect::<Vec<_>>().join(", "))
    };
    let mut script = format!(
        "CREATE TEMP TABLE wanted (t text, k text, UNIQUE (t, k));
         INSERT INTO wanted SELECT 'items', {} FROM items WHERE {condition}; ",
        text("id", "items")
    );
    for _ in 0..30 {
        for (child, columns, parent, keys) in REFERENCES {
            let child_key = KEYS.iter().find(|(table, _)| *table == child).unwrap().1;
            let on: Vec<_> = columns
                .split(", ")
                .zip(keys.split(", "))
                .map(|(column, key)| format!("c.{column} = p.{key}"))
                .collect();
            script += &format!(
                "INSERT INTO wanted SELECT '{parent}', {} FROM {child} c JOIN {parent} p ON {} JOIN wanted w ON w.t = '{child}'
                 AND w.k = {} ON CONFLICT DO NOTHING; ",
                text(keys, "p"),
                on.join(" AND "),
                text(child_key, "c")
            );
        }
    }
    let query = "SELECT t || '=' || string_agg(k, ' ' ORDER BY k COLLATE \"C\") FROM wanted GROUP BY t";
    let text = server.psql(database, &format!("{script}{query}"));
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines.map(|(table, keys)| (table.to_owned(), keys.to_owned())).collect()
}

#[test]
fn a_part_with_its_references_is_what_a_query_of_the_whole_says() {
    let seed = seed();
    on_oldest_and_newest(|server| {
        eprintln!("again with: BACKWHEN_TEST_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let backwhen = protected(server, TABLES, &rows(&mut random));
        for _ in 0..2 {
            let condition = format!("tenant = {}", random.random_range(0..9));
            let wanted = ["--table", "items", "--where", &condition, "--with-references"];
            let (database, report) = recover(&backwhen, &wanted);
            assert_eq!((&report["proved"], report["left_out"].as_array().unwrap().len()), (&true.into(), 0));
            let truth = closure(server, backwhen.database(), &condition);
            for (table, key) in KEYS {
                let key: Vec<_> = key.split(", ").map(|column| format!("{column}::text")).collect();
                let key = format!("concat_ws(':', {})", key.join(", "));
                let query =
                    format!("SELECT string_agg({key}, ' ' ORDER BY {key} COLLATE \"C\") FROM {table}");
                let expected = truth.get(table).map_or("", String::as_str);
                assert_eq!(server.psql(&database, &query), expected, "{table} where {condition}");
            }
            // The rows themselves are those of the whole.
            let (whole, part) =
                (Dump::of(server, backwhen.database()).rows, Dump::of(server, &database).rows);
            for (table, rows) in &part {
                assert!(rows.iter().all(|row| whole[table].contains(row)), "{table}");
            }
            assert!(part_of(&report, "public.items").0 <= 25);
            assert_keys_hold(server, &database, REFERENCES.len());
        }
    });
}
