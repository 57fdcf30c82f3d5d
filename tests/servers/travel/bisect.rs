//! `backwhen bisect` finds the first transaction after which a check is false, as a scan of all transactions does.
//!
//! `BACKWHEN_TEST_SEED` replays a seed that a failure printed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::{SHOP, Scene, on_oldest_and_newest};
use crate::support::shop::assert_says;
use crate::support::{Server, seed, wait_for};

/// A check that reads through a view and through functions, one of which is called only once there are rows.
const LAYERS: &str = "
CREATE FUNCTION is_known(o int) RETURNS boolean LANGUAGE plpgsql STABLE AS
    $$BEGIN RETURN EXISTS (SELECT FROM items WHERE order_id = o); END$$;
CREATE VIEW open_orders AS SELECT id, total FROM orders WHERE status = 'open';
CREATE TABLE unread (id int PRIMARY KEY, what text);
";

const ALL_KNOWN: &str = "SELECT coalesce(bool_and(is_known(id)), true) FROM open_orders";

fn bisect(scene: &Scene, good: &str, check: &str) -> Value {
    scene.backwhen.json(&["bisect", "--good", good, "--bad", "latest", "--check", check])
}

fn xid(found: &Value) -> String {
    format!("xid:{}", found["first_bad"]["xid"])
}

/// The checkpoint before the good moment has the table under another name.
#[test]
fn a_table_that_was_renamed_before_the_good_moment_is_followed() {
    let server = Server::shared(None);
    let scene = Scene::new(&server, SHOP);
    let good = scene.transaction("ALTER TABLE orders RENAME TO purchases");
    scene.transaction("UPDATE purchases SET total = 7 WHERE id = 1");
    let bad = scene.transaction("UPDATE purchases SET total = -1 WHERE id = 3");
    scene.transaction("UPDATE purchases SET total = 8 WHERE id = 1");
    scene.drain();
    let found = bisect(&scene, &good, "SELECT bool_and(total > 0) FROM purchases");
    assert_eq!(xid(&found), bad, "{found}");
}

#[test]
fn the_transaction_is_found_through_views_and_functions() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, &format!("{SHOP}{LAYERS}"));
        let good = scene.transaction("UPDATE orders SET note = 'good' WHERE id = 1");
        for number in 0..12 {
            scene.transaction(&format!("INSERT INTO unread VALUES ({number}, 'x')"));
            scene.transaction(&format!("UPDATE orders SET total = {number} WHERE id = 2"));
            scene.transaction(
                "DELETE FROM items WHERE (order_id, line) = (3, 2); INSERT INTO items VALUES (3, 2, 'again')",
            );
        }
        let bad = scene.transaction("DELETE FROM items WHERE order_id = 4");
        for number in 0..9 {
            scene
                .transaction(&format!("UPDATE orders SET total = {number} WHERE id = 5; DELETE FROM unread"));
        }
        scene.drain();
        let found = bisect(&scene, &good, ALL_KNOWN);
        assert_eq!(xid(&found), bad, "{found}");
        assert_eq!(found["tables"], json!(["public.items", "public.orders"]));
        assert_eq!(found["candidates"], 34, "what changes no table that is read is passed over: {found}");
        assert!(found["steps"].as_u64().unwrap() <= 6, "{found}");
        assert_eq!(found["changed"][0]["deletes"], 2);
        let moment = scene.lines(&["log", "--since", &good]);
        let logged = moment.iter().find(|line| line["xid"] == found["first_bad"]["xid"]).unwrap();
        assert_eq!(
            (&logged["lsn"], &logged["time"]),
            (&found["first_bad"]["lsn"], &found["first_bad"]["time"])
        );
        let text = scene.backwhen.ok(&["bisect", "--good", &good, "--bad", "latest", "--check", ALL_KNOWN]);
        let (show, undo) = (format!("backwhen show {bad}"), format!("backwhen undo {bad}"));
        let before = format!("backwhen recover --to {bad} --before");
        assert_says(&text, &[&show, &undo, &before, "public.items: 2 deleted"]);
    });
}

#[test]
fn schema_changes_between_the_moments_are_crossed() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, &format!("{SHOP}{LAYERS}"));
        let good = scene.transaction("UPDATE orders SET note = 'good' WHERE id = 1");
        scene.transaction("ALTER TABLE orders ADD COLUMN flag int DEFAULT 7");
        scene.transaction("UPDATE orders SET flag = 8 WHERE id = 2");
        scene.transaction("ALTER TABLE items RENAME TO lines; CREATE TABLE items (order_id int, line int)");
        let bad = scene.transaction(
            "ALTER TABLE items RENAME TO other; ALTER TABLE lines RENAME TO items; DELETE FROM items",
        );
        scene.transaction("ALTER TABLE orders DROP COLUMN flag");
        scene.transaction("UPDATE orders SET total = 0");
        scene.drain();
        // The new table of that name has no rows for a while: the check is false from there on.
        let first = bisect(&scene, &good, ALL_KNOWN);
        let renamed = scene.listed(&["--since", &good])[2].clone();
        assert_eq!(xid(&first), renamed, "{first}");
        let later = bisect(&scene, &good, "SELECT count(*) < 9 OR sum(total) > 0 FROM orders");
        assert_ne!(xid(&later), bad);
        // A transaction that only replaces a function may be the one that is looked for.
        let start = scene.transaction("UPDATE orders SET total = 1");
        scene.transaction("UPDATE orders SET total = 2");
        let replaced = scene.transaction(
            "CREATE OR REPLACE FUNCTION is_known(o int) RETURNS boolean LANGUAGE sql AS 'SELECT false'",
        );
        scene.transaction("UPDATE orders SET total = 3");
        scene.drain();
        let check = "SELECT is_known(1) OR NOT EXISTS (SELECT FROM orders WHERE total > 1) OR sum(total) < 20 FROM orders";
        let found = bisect(&scene, &start, check);
        assert_eq!(found["definitions"].as_array().unwrap().len(), 0, "{found}");
        assert!(xid(&found) > replaced, "{found}");
        let found = bisect(
            &scene,
            &start,
            "SELECT coalesce(is_known(1), false) OR (SELECT min(total) FROM orders) = 1 \
                                            OR (SELECT prolang <> 14 FROM pg_proc WHERE proname = 'is_known')",
        );
        assert_eq!(xid(&found), replaced, "{found}");
    });
}

#[test]
fn what_cannot_be_answered_is_said() {
    let server = Server::shared(None);
    let views = "CREATE MATERIALIZED VIEW sums AS SELECT sum(total) FROM orders; CREATE UNLOGGED TABLE loose (id int)";
    let scene = Scene::new(&server, &format!("{SHOP}{LAYERS}{views}"));
    let good = scene.transaction("UPDATE orders SET note = 'good' WHERE id = 1");
    let bad = scene.transaction("UPDATE orders SET total = -1, status = NULL WHERE id = 2");
    scene.transaction("INSERT INTO unread VALUES (1)");
    scene.drain();
    let fails = |code, check: &str, words: &[&str]| {
        assert_says(
            &scene.backwhen.fails(code, &["bisect", "--good", &good, "--bad", "latest", "--check", check]),
            words,
        );
    };
    fails(14, "SELECT min(total) < 0 FROM orders", &["false at --good already", "earlier moment"]);
    fails(14, "SELECT count(*) = 9 FROM orders", &["true at --bad", "later moment"]);
    fails(14, "SELECT (SELECT status FROM orders WHERE id = 2) = 'open'", &["gives NULL at", "coalesce"]);
    fails(14, "SELECT true FROM orders", &["gives 9 rows at"]);
    fails(2, "SELECT count(*) FROM orders", &["true or false"]);
    fails(2, "SELECT $1::int = 1", &["parameters"]);
    fails(14, "SELECT total > 0 FROM order", &["cannot be run", "syntax error"]);
    fails(
        14,
        "SELECT 1 / (SELECT count(*) FROM orders WHERE id = 2 AND total = 2) = 1",
        &["the check fails at", "division by zero"],
    );
    fails(14, "SELECT count(*) = 1 FROM sums", &["public.sums", "materialised view"]);
    fails(14, "SELECT count(*) = 0 FROM loose", &["public.loose", "does not hold"]);
    fails(14, "SELECT now() < '2000-01-01'", &["false at --good"]);
    fails(14, "SELECT random() < 2", &["no transaction between", "the clock"]);
    let check = ["--check", "SELECT min(total) >= 0 FROM orders"];
    let turned =
        scene.backwhen.fails(2, &[&["bisect", "--good", "latest", "--bad", &good], &check[..]].concat());
    assert_says(&turned, &["--good must be the earlier one"]);
    let found = scene.backwhen.json(&[&["bisect", "--good", &good, "--bad", &bad], &check[..]].concat());
    assert_eq!((xid(&found), &found["steps"]), (bad, &json!(0)));
}

#[test]
fn a_command_checks_and_can_only_read() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, SHOP);
        let good = scene.transaction("UPDATE orders SET note = 'good' WHERE id = 1");
        scene.transaction("UPDATE items SET sku = 'x' WHERE line = 1");
        scene.transaction("INSERT INTO audit VALUES ('a', '1'), ('a', '1'), ('b', '2')");
        let bad = scene.transaction("DELETE FROM audit WHERE ctid = (SELECT min(ctid) FROM audit)");
        scene.transaction("INSERT INTO audit VALUES ('c', '3'); TRUNCATE items");
        scene.drain();
        let command =
            "test \"$(psql -XAtc \"SELECT count(*) FILTER (WHERE what = 'a') <> 1 FROM audit\")\" = t";
        let run = |command: &str| {
            vec!["bisect", "--good", &good, "--bad", "latest", "--check-command"]
                .into_iter()
                .chain([command])
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let arguments = run(command);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let found = scene.backwhen.json(&arguments);
        assert_eq!(xid(&found), bad, "{found}");
        assert_eq!(found["candidates"], 4);
        let found = scene.backwhen.json(&[&arguments[..], &["--table", "audit"]].concat());
        assert_eq!((xid(&found), &found["candidates"]), (bad.clone(), &json!(3)));
        let writes = run("psql -XAt -v ON_ERROR_STOP=1 -c 'DELETE FROM audit'; test $? -eq 0 || exit 3");
        let writes: Vec<_> = writes.iter().map(String::as_str).collect();
        assert_says(&scene.backwhen.fails(14, &writes), &["exit status: 3", "must end with 0"]);
    });
}

#[test]
fn a_database_on_another_server_is_dropped_at_the_end_and_after_an_interruption() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, &format!("{SHOP}{LAYERS}"));
        let role = server.fresh_database("scratcher");
        server.psql("postgres", &format!("CREATE ROLE {role} LOGIN CREATEDB"));
        let good = scene.transaction("UPDATE orders SET note = 'good' WHERE id = 1");
        scene.transaction("DELETE FROM orders WHERE id = 9");
        let bad = scene.transaction("DELETE FROM items WHERE order_id = 4");
        scene.drain();
        let scratch = server.conninfo("postgres").replace("user=postgres", &format!("user={role}"));
        let base = ["bisect", "--good", &good, "--bad", "latest", "--scratch", &scratch];
        let found = scene.backwhen.json(&[&base[..], &["--check", ALL_KNOWN]].concat());
        assert_eq!(xid(&found), bad);
        let left = format!(
            "SELECT count(*) FROM pg_database JOIN pg_roles r ON r.oid = datdba WHERE rolname = '{role}'"
        );
        assert_eq!(server.psql("postgres", &left), "0");
        let mut command =
            scene.backwhen.command(&[&base[..], &["--check", "SELECT pg_sleep(600) IS NOT NULL"]].concat());
        let mut child = command.spawn().unwrap();
        wait_for("the check runs", || {
            let running = "SELECT count(*) FROM pg_stat_activity WHERE query ~ 'pg_sleep.600' AND usename = ";
            server.psql("postgres", &format!("{running}'{role}'")) == "1"
        });
        let process = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert_eq!(server.psql("postgres", &left), "0");
    });
}

#[test]
fn a_planted_mistake_is_the_one_that_a_scan_finds() {
    let seed = seed();
    on_oldest_and_newest(|server| {
        eprintln!("again with: BACKWHEN_TEST_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let scene = Scene::new(server, LEDGER);
        let count = random.random_range(150..300);
        let planted = random.random_range(1..count);
        let sets_schema = random.random_bool(0.5).then(|| random.random_range(1..count));
        let statements: Vec<_> = (0..count)
            .map(|number| {
                let mut sql = honest(&mut random, number);
                if number == planted {
                    sql +=
                        "; UPDATE account SET balance = balance + 1 WHERE id = (SELECT min(id) FROM account)";
                }
                if sets_schema == Some(number) {
                    sql += "; ALTER TABLE account ADD COLUMN extra int DEFAULT 3";
                }
                format!("BEGIN; {sql}; SELECT pg_current_xact_id()::xid, ({BALANCED}); COMMIT")
            })
            .collect();
        // A transaction that changes nothing is in no stream, so the first one changes something for certain.
        let good = scene.transaction("UPDATE account SET balance = balance + 0 WHERE id = 1");
        let scanned = scene.psql(&statements.join(";\n"));
        let first = scanned.lines().find_map(|line| line.strip_suffix("|f")).expect("the planted one");
        scene.drain();
        let found = bisect(&scene, &good, BALANCED);
        assert_eq!(found["first_bad"]["xid"].to_string(), first, "{found}");
        assert!(found["steps"].as_u64().unwrap() <= 9, "{found}");
    });
}

const LEDGER: &str = "
CREATE TABLE account (id int PRIMARY KEY, place int UNIQUE DEFERRABLE, balance numeric, note text);
ALTER TABLE account ALTER note SET STORAGE EXTERNAL;
CREATE TABLE bag (x int, y text);
ALTER TABLE bag REPLICA IDENTITY FULL;
CREATE TABLE other (id int);
INSERT INTO account SELECT g, g, 100, repeat(g::text, 2000) FROM generate_series(1, 20) g;
";

const BALANCED: &str =
    "SELECT (SELECT sum(balance) FROM account) + (SELECT coalesce(sum(x), 0) FROM bag) = 2000";

/// A transaction after which the books balance.
fn honest(random: &mut StdRng, number: usize) -> String {
    let amount = random.random_range(1..9);
    match random.random_range(0..8) {
        0 => format!("UPDATE account SET balance = balance - {amount} WHERE id = 3; INSERT INTO bag VALUES ({amount}, 'b')"),
        1 => "UPDATE account SET balance = balance + (SELECT coalesce(sum(x), 0) FROM bag) WHERE id = 5; TRUNCATE bag".into(),
        2 => "UPDATE account SET place = 21 - place".into(),
        3 => format!("INSERT INTO bag VALUES ({amount}, 'c'), (-{amount}, 'c'), (0, 'd'), (0, 'd')"),
        4 => "DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE x = 0 LIMIT 1)".into(),
        5 => format!("UPDATE account SET id = {} WHERE id = (SELECT max(id) FROM account)", 100 + number),
        6 => format!("INSERT INTO other SELECT {amount}"),
        _ => format!("UPDATE account SET balance = balance + CASE id WHEN 1 THEN {amount} ELSE -{amount} END WHERE id IN (1, 2)"),
    }
}
