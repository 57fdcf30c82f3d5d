//! `backwhen query` answers as the source did.

use serde_json::json;

use super::{damaged, protected};
use crate::support::shop::assert_says;
use crate::support::{Server, on_oldest_and_newest};

/// Questions that reach tables in many ways.
const QUESTIONS: [&str; 10] = [
    "SELECT count(*), sum(total) FROM sales.orders",
    "SELECT * FROM spenders ORDER BY name",
    "SELECT id, spent(id) FROM customers ORDER BY id",
    "SELECT tableoid::regclass, count(*) FROM visits GROUP BY 1 ORDER BY 1",
    "SELECT * FROM totals ORDER BY 1",
    "SELECT total FROM grand",
    "SELECT * FROM log ORDER BY what, number",
    "SELECT name, loud, mood, extra, since FROM customers WHERE name = 'c7' OR name = 'late' ORDER BY 1",
    "SELECT note FROM sales.orders WHERE total > 50 AND lower(note) = 'note 60'",
    "SELECT 'a,\"b\"' AS quoted, NULL AS nothing, E'x\\ny' AS lines",
];

#[test]
fn statements_get_the_answers_of_the_source() {
    on_oldest_and_newest(|server| {
        let backwhen = protected(server);
        let script = QUESTIONS.join(";\n");
        let file = backwhen.folder().join("questions.sql");
        std::fs::write(&file, &script).unwrap();
        let file = file.to_str().unwrap();
        let answers = backwhen.ok(&["query", "--at", "latest", "--format", "csv", "-f", file]);
        let truth = server.client("psql", backwhen.database(), &["-Xq", "--csv", "-f", "-"], &script);
        assert_eq!(answers, String::from_utf8(truth.stdout).unwrap());
    });
}

#[test]
fn only_the_tables_that_a_statement_touches_are_loaded() {
    on_oldest_and_newest(|server| {
        let backwhen = protected(server);
        let said = backwhen.run(&["query", "--at", "latest", "SELECT spent(1) > 0 AS yes"]);
        assert_eq!(said.stdout, " yes\n-----\n t\n(1 row)\n", "{}", said.stderr);
        let loaded: Vec<_> = said.stderr.lines().filter(|line| line.starts_with("loaded ")).collect();
        assert!(
            loaded.len() == 1 && loaded[0].starts_with("loaded sales.orders: 890 rows, proved"),
            "{loaded:?}"
        );
        // A foreign key asks for the table that it refers to, and a write is thrown away.
        let write = "INSERT INTO empty VALUES (3) RETURNING id; SELECT count(*) FROM empty";
        let said = backwhen.run(&["query", "--at", "latest", "--format", "csv", write]);
        assert_eq!(said.stdout, "id\n3\ncount\n1\n", "{}", said.stderr);
        let loaded: Vec<_> = said.stderr.lines().filter(|line| line.starts_with("loaded ")).collect();
        assert!(loaded.len() == 1 && loaded[0].starts_with("loaded public.untouched"), "{loaded:?}");
        let refused = backwhen.fails(14, &["query", "--at", "latest", "INSERT INTO empty VALUES (99)"]);
        assert_says(&refused, &["the statement fails", "empty_id_fkey"]);
        assert_eq!(server.psql(backwhen.database(), "SELECT count(*) FROM empty"), "0");
    });
}

#[test]
fn moments_are_compared_in_one_statement() {
    on_oldest_and_newest(|server| {
        let backwhen = protected(server);
        let first = backwhen.json_lines(&["list", "checkpoints"])[0]["id"].as_str().unwrap().to_owned();
        let first = format!("checkpoint:{first}");
        let question = "SELECT (SELECT count(*) FROM at1.customers), (SELECT count(*) FROM at2.customers) AS later, \
                        (SELECT count(*) FROM customers) AS unnamed, \
                        (SELECT sum(total) FROM at2_sales.orders) - (SELECT sum(total) FROM at1_sales.orders) AS more, \
                        (SELECT count(*) FROM at2.visits EXCEPT SELECT count(*) FROM at1.visits) AS visits, \
                        (SELECT count(*) FROM at1.log) - (SELECT count(*) FROM at2.log) AS logged, \
                        (SELECT total FROM at1.grand) = (SELECT sum(total) FROM at1.spenders) AS same";
        let found = backwhen.json(&["query", "--at", &first, "--at", "latest", question]);
        let truth = "SELECT sum(total) FROM sales.orders";
        let now: i64 = server.psql(backwhen.database(), truth).parse().unwrap();
        let before: i64 = (1..=900).map(|n| n % 97).sum();
        assert_eq!(
            found,
            json!({"count": 40, "later": 41, "unnamed": 40, "more": now - before, "visits": 1000, "logged": -29, "same": true})
        );
    });
}

#[test]
fn values_have_their_types_in_json_and_mistakes_their_exit_codes() {
    let server = crate::support::Server::shared(None);
    let backwhen = protected(&server);
    let sql = "SELECT id, total, note IS NULL AS bare, note, NULL AS nothing, extra FROM sales.orders o \
               JOIN customers c USING (id) WHERE id IN (1, 40)";
    let rows = backwhen.json_lines(&["query", "--at", "latest", sql]);
    assert_eq!(
        rows,
        [json!({"id": 1, "total": 2, "bare": false, "note": "Note 1", "nothing": null, "extra": {"n": 1}})]
    );
    let fails = |code, arguments: &[&str], words: &[&str]| {
        assert_says(&backwhen.fails(code, &[&["query"], arguments].concat()), words);
    };
    fails(2, &["SELECT 1"], &["--at"]);
    fails(2, &["--at", "latest", "  -- nothing"], &["no statement to run"]);
    fails(2, &["--at", "latest", "SELECT $1::int"], &["parameters"]);
    fails(2, &["--at", "latest", "-f", "/nowhere.sql"], &["cannot read /nowhere.sql"]);
    fails(11, &["--at", "0/1", "SELECT 1"], &[]);
    fails(14, &["--at", "latest", "SELECT * FROM nowhere"], &["relation \"nowhere\" does not exist"]);
    fails(14, &["--at", "latest", "SELECT * FROM never"], &["has not been populated"]);
    fails(14, &["--at", "latest", "SELECT 1 / 0 FROM customers"], &["division by zero"]);
}

/// The answer is refused, with the reason, if a table cannot be loaded; other tables answer.
#[test]
fn a_damaged_block_costs_its_own_table_only() {
    let (backwhen, ..) = damaged(&Server::shared(None));
    assert_eq!(backwhen.json(&["query", "--at", "latest", "SELECT sum(id) FROM small"]), json!({"sum": 3}));
    let refused = backwhen.fails(12, &["query", "--at", "latest", "SELECT count(*) FROM large"]);
    assert_says(&refused, &["public.large cannot be loaded", "damaged"]);
}
