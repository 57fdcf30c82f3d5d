//! What is proved is kept, and shown; what is not as it should be is named.

use crate::support::shop::{CHANGES, assert_says, captured_shop, shop};
use crate::support::{Backwhen, Server};
use crate::trouble::exit;

/// The newest line of `list proofs`.
fn newest(backwhen: &Backwhen) -> serde_json::Value {
    backwhen.json_lines(&["list", "proofs"]).pop().expect("there is evidence")
}

#[test]
fn a_throw_away_recovery_leaves_evidence_and_nothing_else() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    assert_says(&backwhen.ok(&["status"]), &["proof        none yet"]);
    backwhen.ok(&["verify"]);
    assert_eq!(newest(&backwhen)["how"], "read");
    assert_says(&backwhen.ok(&["status"]), &["every byte read up to", "0 faults"]);

    let into = server.conninfo("postgres");
    let shown = backwhen.json(&["verify", "--restore", "--into", &into]);
    assert_eq!(
        (&shown["ok"], &shown["restored"]["rows"]),
        (&true.into(), &(201 + 3040 + 3).into()),
        "{shown}"
    );
    let left = "SELECT datname FROM pg_database WHERE datname LIKE 'backwhen\\_verify%'";
    assert_eq!(server.psql("postgres", left), "", "left on the server");
    let proof = newest(&backwhen);
    assert_eq!(
        (&proof["how"], &proof["tables"], &proof["rows"]),
        (&"restore".into(), &3.into(), &3244.into())
    );
    assert_eq!(
        proof["up_to"],
        serde_json::json!({
            "lsn": shown["restored"]["moment"]["lsn"], "time": shown["restored"]["moment"]["time"]
        })
    );
    // What was only read since says less, and does not hide it.
    backwhen.ok(&["verify"]);
    let up_to = proof["up_to"]["time"].as_str().unwrap();
    assert_says(&backwhen.ok(&["status"]), &[&format!("proven up to {up_to}, 3 tables, 0 differences")]);

    let evidence = backwhen.history().join(proof["evidence"].as_str().unwrap());
    let text = std::fs::read_to_string(&evidence).unwrap();
    assert_says(&text, &["public.orders", "\"rows\": 3040"]);
    let message = backwhen.fails(exit::USAGE, &["verify", "--restore"]);
    assert_says(&message, &["--into"]);
}

#[test]
fn a_checkpoint_that_vanished_is_missed_by_what_tells_of_it() {
    let backwhen = captured_shop(&Server::shared(None));
    // Before anybody looked at it only the catalog has seen it.
    let made = backwhen.json(&["checkpoint", "--label", "never looked at"]);
    let path = backwhen.history().join(format!("checkpoints/{}.json", made["id"].as_str().unwrap()));
    std::fs::remove_file(&path).unwrap();
    let output = backwhen.run(&["verify"]);
    assert_eq!(output.status.code(), Some(exit::DAMAGED));
    assert_says(&output.stdout, &[path.file_name().unwrap().to_str().unwrap(), "the catalog has seen it"]);

    let made = backwhen.json(&["checkpoint", "--label", "soon gone"]);
    let id = made["id"].as_str().unwrap();
    backwhen.ok(&["verify"]);
    std::fs::remove_file(backwhen.history().join(format!("checkpoints/{id}.json"))).unwrap();
    // The catalog forgets it as soon as anybody asks; the evidence does not.
    backwhen.ok(&["status"]);
    let output = backwhen.run(&["verify"]);
    assert_eq!(output.status.code(), Some(exit::DAMAGED));
    assert_says(&output.stdout, &[id, "is missing", "evidence/"]);
    assert_says(&backwhen.ok(&["status"]), &["NOT PROVEN: 1 faults"]);
}

#[test]
fn a_catalog_that_says_something_else_than_the_objects_is_found_and_made_anew() {
    let backwhen = captured_shop(&Server::shared(None));
    backwhen.ok(&["status"]);
    let catalog = rusqlite::Connection::open(backwhen.history().join("catalog.sqlite")).unwrap();
    catalog.execute("UPDATE checkpoints SET lsn = lsn - 8", []).unwrap();
    drop(catalog);
    let output = backwhen.run(&["verify"]);
    assert_eq!(output.status.code(), Some(exit::DAMAGED), "{}", output.stdout);
    assert_says(&output.stdout, &["catalog.sqlite", "made anew"]);
    backwhen.ok(&["verify"]);
}

#[test]
fn the_latest_state_is_compared_with_the_live_source() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    server.psql(backwhen.database(), "CREATE TABLE other (id int PRIMARY KEY, v text)");
    backwhen.init();
    let check = ["check", "--against-source"];
    assert_says(&backwhen.fails(exit::REFUSED, &check), &["no capture is running"]);
    let mut capture = backwhen.spawn_capture();
    capture.wait_streaming();
    server.psql(backwhen.database(), CHANGES);
    let shown = backwhen.json(&check);
    assert_eq!((&shown["ok"], &shown["tables"]), (&true.into(), &3.into()), "{shown}");
    assert_says(&shown["not_compared"].to_string(), &["public.visits: inserts only"]);
    assert_eq!(newest(&backwhen)["how"], "against-source");

    // A change that the stream never carries.
    let publication = format!("ALTER PUBLICATION {} SET", exact_publication(&backwhen));
    server.psql(
        backwhen.database(),
        &format!(
            "{publication} (publish = 'insert'); UPDATE customers SET name = 'unseen' WHERE id = 7;
             {publication} (publish = 'insert, update, delete, truncate')"
        ),
    );
    let output = backwhen.run(&check);
    assert_eq!(output.status.code(), Some(exit::DAMAGED), "{}{}", output.stdout, output.stderr);
    assert_says(&output.stdout, &["DIFFERS   public.customers (201 rows in the history, 201 in the source)"]);
    assert_eq!(output.stdout.matches("DIFFERS").count(), 1, "{}", output.stdout);
    assert_says(&backwhen.ok(&["status"]), &["NOT PROVEN: 0 faults, 1 differences"]);
    let slots =
        "SELECT slot_name FROM pg_replication_slots WHERE temporary AND database = current_database()";
    assert_eq!(server.psql(backwhen.database(), slots), "", "a slot is left");
    capture.stop();
}

/// The publication that carries updates.
fn exact_publication(backwhen: &Backwhen) -> String {
    let sql =
        "SELECT quote_ident(pubname) FROM pg_publication WHERE pubupdate ORDER BY length(pubname) LIMIT 1";
    backwhen.server().psql(backwhen.database(), sql)
}
