//! `query --where` loads only the rows of a table that are asked for.

use serde_json::json;

use super::protected;
use crate::support::shop::assert_says;
use crate::support::{Backwhen, Server, on_oldest_and_newest};

#[test]
fn only_the_rows_that_meet_a_condition_are_loaded() {
    on_oldest_and_newest(|server| {
        let backwhen = protected(server);
        let truth = |sql: &str| server.psql(backwhen.database(), sql);
        let orders = "SELECT count(*), sum(total) FROM sales.orders";
        let condition = "customer = 7 AND lower(note) LIKE 'note%' -- a remark";
        let said = backwhen.run(&[
            "query",
            "--at",
            "latest",
            "--where",
            &format!("sales.orders: {condition}"),
            "--format",
            "csv",
            &format!("{orders}; SELECT total FROM totals; SELECT count(*) FROM customers"),
        ]);
        let expected = truth(&format!("{orders} WHERE customer = 7")).replace('|', ",");
        let total = truth("SELECT sum(total) FROM sales.orders WHERE customer = 7");
        assert_eq!(
            said.stdout,
            format!("count,sum\n{expected}\ntotal\n{total}\ncount\n41\n"),
            "{}",
            said.stderr
        );
        let rows = truth("SELECT count(*) FROM sales.orders WHERE customer = 7");
        let all = truth("SELECT count(*) FROM sales.orders");
        assert_says(
            &said.stderr,
            &[
                "note: only these rows of sales.orders are loaded: customer = 7 AND",
                &format!("loaded sales.orders: {rows} of {all} rows, each proved"),
                "loaded public.customers: 41 rows, proved",
            ],
        );
        // Partitions, a pattern of which one table lacks the column, and two moments.
        let first = backwhen.json_lines(&["list", "checkpoints"])[0]["id"].as_str().unwrap().to_owned();
        let first = format!("checkpoint:{first}");
        let counts = "SELECT (SELECT count(*) FROM at1.visits), (SELECT count(*) FROM at2.visits) AS later, \
                      (SELECT count(*) FROM at2.customers) AS one, (SELECT count(*) FROM at2.log) AS log";
        let moments = ["query", "--at", &first, "--at", "latest"];
        let conditions = ["--where", "visits: at IN (0, 7, 501)", "--where", "public.*o*: id = 7"];
        let found = backwhen.json(&[&moments[..], &conditions, &[counts]].concat());
        assert_eq!(found, json!({"count": 2, "later": 3, "one": 1, "log": 0}));
    });
}

#[test]
fn a_condition_that_cannot_be_used_is_refused() {
    let server = Server::shared(None);
    let backwhen = protected(&server);
    let fails = |code, conditions: &[&str], words: &[&str]| {
        let conditions = conditions.iter().flat_map(|text| ["--where", text]);
        let arguments: Vec<_> = ["query", "--at", "latest"].into_iter().chain(conditions).collect();
        assert_says(&backwhen.fails(code, &[&arguments[..], &["SELECT 1"]].concat()), words);
    };
    fails(2, &["customer = 7"], &["does not say which table is meant", "--where 'orders: customer_id = 42'"]);
    fails(2, &["nowhere: customer = 7"], &["no table matches nowhere"]);
    fails(2, &["sales.orders: tenant = 7"], &["no table that matches sales.orders has the columns"]);
    fails(2, &["customers: loud = 'C7'"], &["a computed column cannot be asked for"]);
    fails(2, &["log: number = 1", "public.*: id = 7"], &["two --where mean public.log"]);
    fails(14, &["log: number ="], &["cannot use --where", "syntax error"]);
    fails(14, &["log: number IN (SELECT 1)"], &["cannot use --where", "subquery"]);
    fails(14, &["log: number = 1); SELECT (1"], &["cannot use --where"]);
    // A condition that fails for a row costs the table.
    let divide = ["query", "--at", "latest", "--where", "log: 1 / (number - 1) > 0", "TABLE log"];
    assert_says(&backwhen.fails(14, &divide), &["division by zero"]);
}

/// The condition is sent with the rows, which are in the encoding of the database.
#[test]
fn letters_of_another_encoding_are_not_mistaken() {
    let server = Server::shared(None);
    let database = server.fresh_database("latin");
    server.psql(
        "postgres",
        &format!("DROP DATABASE {database}; CREATE DATABASE {database} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"),
    );
    server.psql(
        &database,
        "CREATE TABLE drinks (name text PRIMARY KEY); INSERT INTO drinks VALUES (U&'caf\\00e9'), ('tea')",
    );
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    let ask = ["query", "--at", "latest", "TABLE drinks", "--where"];
    let refused = backwhen.fails(2, &[&ask[..], &["drinks: name = 'café'"]].concat());
    assert_says(&refused, &["letters beyond ASCII", "the database is in LATIN1", "U&'caf\\00e9'"]);
    let found = backwhen.json(&[&ask[..], &["drinks: name = U&'caf\\00e9'"]].concat());
    assert_eq!(found, json!({"name": "café"}));
}
