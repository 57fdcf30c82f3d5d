//! `backwhen log` lists the transactions that are asked for, with what they did.

use serde_json::json;

use super::{SHOP, Scene, on_oldest_and_newest};
use crate::support::Server;
use crate::support::shop::assert_says;

#[test]
fn transactions_come_with_what_they_did_in_commit_order() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, SHOP);
        let paid = scene.transaction("UPDATE orders SET status = 'paid' WHERE id <= 4");
        let gone = scene.transaction("DELETE FROM orders WHERE id = 2");
        let altered = scene.transaction("ALTER TABLE orders ADD COLUMN flag int DEFAULT 7");
        let many = scene.transaction(
            "INSERT INTO orders (tenant_id) VALUES (7), (7); UPDATE orders SET total = 1 WHERE tenant_id = 7; \
             INSERT INTO audit VALUES ('x')",
        );
        // A transaction that changed nothing, and one that was rolled back.
        scene.psql("SELECT pg_current_xact_id(); BEGIN; DELETE FROM items; ROLLBACK");
        let emptied = scene.transaction("TRUNCATE audit, items");
        scene.drain();
        let lines = scene.lines(&["log"]);
        assert_eq!(scene.listed(&[]), [paid, gone, altered, many, emptied]);
        let counts = |table: &str, inserts: u64, updates: u64, deletes: u64, truncates: u64| json!({"table": table, "inserts": inserts, "updates": updates, "deletes": deletes, "truncates": truncates});
        let tables: Vec<_> = lines.iter().map(|line| &line["tables"]).collect();
        assert_eq!(*tables[0], json!([counts("public.orders", 0, 4, 0, 0)]));
        assert_eq!(
            *tables[1],
            json!([counts("public.orders", 0, 0, 1, 0), counts("public.items", 0, 0, 2, 0)])
        );
        assert_eq!(lines[2]["definitions"], json!(["ALTER TABLE public.orders"]));
        assert_eq!(
            *tables[3],
            json!([counts("public.orders", 2, 2, 0, 0), counts("public.audit", 1, 0, 0, 0)])
        );
        assert_eq!(lines[3]["rows"], 5);
        assert_eq!(
            *tables[4],
            json!([counts("public.items", 0, 0, 0, 1), counts("public.audit", 0, 0, 0, 1)])
        );
        assert!(lines[0]["bytes"].as_u64().unwrap() > 0);
    });
}

#[test]
fn filters_leave_only_what_is_asked_for() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, SHOP);
        let one = scene.transaction("UPDATE orders SET status = 'paid' WHERE id = 1");
        let five = scene.transaction("DELETE FROM orders WHERE id = 5");
        scene.backwhen.ok(&["mark", "middle"]);
        let tenant = scene.transaction("UPDATE orders SET tenant_id = 9 WHERE tenant_id = 0");
        let audit = scene.transaction("INSERT INTO audit SELECT 'x' FROM generate_series(1, 20)");
        let added = scene.transaction("ALTER TABLE audit ADD COLUMN tenant_id int");
        let late = scene.transaction("UPDATE audit SET tenant_id = 1 WHERE what = 'x'");
        let renamed = scene.transaction("ALTER TABLE items RENAME TO positions");
        let moved = scene.transaction("UPDATE positions SET line = line + 10 WHERE order_id = 3");
        scene.drain();
        let assert_lists = |arguments: &[&str], expected: &[&String]| {
            let listed = scene.listed(arguments);
            assert!(
                listed.iter().eq(expected.iter().copied()),
                "{arguments:?}: {listed:?}, not {expected:?}"
            );
        };
        assert_lists(&["--table", "orders"], &[&one, &five, &tenant]);
        assert_lists(&["--op", "delete"], &[&five]);
        assert_lists(&["--op", "ddl"], &[&added, &renamed]);
        assert_lists(&["--min-rows", "20"], &[&audit, &late]);
        assert_lists(&["--since", "mark:middle", "--until", &audit], &[&tenant, &audit]);
        assert_lists(&["--newest", "--limit", "2"], &[&moved, &renamed]);
        assert_lists(&["--largest", "--limit", "2"], &[&audit, &late]);
        assert_lists(&["--limit", "2"], &[&one, &five]);
        // The rows before these changes are not in the WAL.
        assert_lists(&["--where", "tenant_id = 0"], &[&tenant]);
        assert_lists(&["--where", "tenant_id = 2 AND total > 4.5"], &[&five]);
        assert_lists(&["--where", "tenant_id = 1"], &[&one, &late]);
        assert_lists(&["--key", "orders=5"], &[&five]);
        assert_lists(&["--key", "positions=order_id=3,line=1"], &[&moved]);
        assert_lists(&["--table", "items"], &[&five, &renamed, &moved]);
    });
}

/// Checkpoints in between, and rows that are changed again and again, change no answer.
/// The names that decide are those where the question begins and ends, not those of the checkpoint before it.
#[test]
fn a_table_that_took_the_name_of_another_is_the_one_that_is_asked_for() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, SHOP);
        scene.psql("ALTER TABLE audit RENAME TO audit_of_last_year; CREATE TABLE audit (id int PRIMARY KEY)");
        scene.backwhen.ok(&["mark", "new year"]);
        let old = scene.transaction("INSERT INTO audit_of_last_year VALUES ('late')");
        let new = scene.transaction("INSERT INTO audit VALUES (1)");
        // A table that is there neither where the question begins nor where it ends.
        let passing =
            scene.transaction("CREATE TABLE audit_of_now (id int); INSERT INTO audit_of_now VALUES (1)");
        let end = scene.transaction("DROP TABLE audit_of_now");
        scene.drain();
        let listed = |table: &str, condition: &str| {
            let question = ["--since", "mark:new year", "--until", &end, "--op", "insert", "--table", table];
            let condition = if condition.is_empty() { vec![] } else { vec!["--where", condition] };
            scene.listed(&[&question[..], &condition].concat())
        };
        for condition in ["", "id > 0"] {
            assert_eq!(listed("audit", condition), std::slice::from_ref(&new), "{condition}");
        }
        for condition in ["", "what = 'late'"] {
            assert_eq!(listed("audit_of_last_year", condition), std::slice::from_ref(&old), "{condition}");
        }
        assert_eq!(listed("audit*", ""), [old, new, passing]);
    });
}

#[test]
fn checkpoints_in_between_change_no_answer() {
    let server = Server::shared(None);
    let scene = Scene::new(&server, SHOP);
    let mut all = Vec::new();
    for round in 0..6 {
        all.push(
            scene.transaction(&format!("UPDATE orders SET total = {round} WHERE id = {}", 1 + round % 3)),
        );
        all.push(scene.transaction(&format!("INSERT INTO audit VALUES ('{round}')")));
        scene.drain();
        if round % 2 == 0 {
            scene.backwhen.ok(&["checkpoint"]);
        }
    }
    assert_eq!(scene.listed(&[]), all);
    let newest: Vec<_> = all.iter().rev().take(7).cloned().collect();
    assert_eq!(scene.listed(&["--newest", "--limit", "7"]), newest);
    assert_eq!(scene.listed(&["--where", "note = 'n2'"]), [all[2].clone(), all[8].clone()]);
    assert_eq!(scene.listed(&["--where", "total = 3.0"]), [all[4].clone(), all[6].clone()]);
}

#[test]
fn text_has_a_bar_and_the_command_that_looks_closer() {
    let server = Server::shared(None);
    let scene = Scene::new(&server, SHOP);
    scene.transaction("UPDATE orders SET status = 'x' WHERE id = 1");
    let largest = scene.transaction("DELETE FROM items");
    scene.drain();
    let text = scene.backwhen.ok(&["log"]);
    let lines: Vec<_> = text.lines().collect();
    assert_says(lines[0], &["█", "public.orders ~1"]);
    assert_says(lines[1], &["████████████████████", "public.items -18"]);
    assert_eq!(lines[2], format!("look closer with: backwhen show {largest}"));
    assert_says(&scene.backwhen.ok(&["log", "--op", "truncate"]), &["no transaction fits"]);
    assert_says(&scene.backwhen.run(&["log", "--since", "365 days ago"]).stderr, &["is outside the window"]);
}

#[test]
fn what_cannot_be_answered_rightly_is_refused() {
    let server = Server::shared(None);
    let scene = Scene::new(&server, SHOP);
    scene.transaction("INSERT INTO audit VALUES ('secret', '{}')");
    scene.drain();
    for (arguments, pieces) in [
        (&["log", "--where", "nobody = 1"][..], &["no table has all columns"][..]),
        (&["log", "--where", "tenant_id = "], &["is no condition", "behind \"=\""]),
        (&["log", "--where", "extra = 'x'"], &["it is not known how values of json", "extra::text"]),
        (&["log", "--where", "what > 'a'"], &["depends on a collation"]),
        (&["log", "--table", "ordres"], &["no table matches ordres", "list checkpoints --tables"]),
        (&["diff", "latest", "latest", "--table", "ordres"], &["no table matches ordres"]),
        (&["log", "--key", "orders"], &["--key names a table and a key"]),
        (&["log", "--key", "items=1"], &["the key of public.items is written as order_id=…,line=…"]),
        (&["log", "--key", "*=1"], &["can be several tables"]),
        (&["log", "--since", "latest", "--until", "0/1"], &[]),
    ] {
        let output = scene.backwhen.run(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert_says(&output.stderr, pieces);
        assert!(!output.stderr.contains("secret"), "a row's value was told: {}", output.stderr);
    }
}

/// No event trigger told of the column, so its values are left out. That is said whoever listens.
#[test]
fn what_is_not_exact_is_said_also_with_quiet() {
    let server = Server::shared(None);
    let database = server.fresh_database("untold");
    server.psql(&database, "CREATE TABLE t (id int PRIMARY KEY)");
    let backwhen = crate::support::Backwhen::new(&server, &database);
    backwhen.ok(&["init", "--no-event-triggers", "--source", &backwhen.source()]);
    server.psql(&database, "ALTER TABLE t ADD untold int; INSERT INTO t VALUES (1, 2)");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let first = backwhen.json_lines(&["list", "checkpoints"])[0]["id"].as_str().unwrap().to_owned();
    let first = format!("checkpoint:{first}");
    for question in [&["log"][..], &["row", "t", "1"], &["diff", &first, "latest", "--rows"]] {
        for options in [&["--quiet"][..], &["--quiet", "--output", "json"]] {
            let said = backwhen.run(&[question, options].concat()).stderr;
            assert!(
                said.contains("not exact: public.t: column untold added or renamed"),
                "{question:?}: {said}"
            );
        }
    }
}
