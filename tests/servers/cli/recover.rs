//! `recover`: the plan is what is done, and every kind of target holds the same rows.

use std::process::Command;

use crate::support::shop::{assert_says, captured_shop};
use crate::support::{Backwhen, Dump, Server, assert_same};

#[test]
fn the_dry_run_is_what_is_then_done() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    backwhen.ok(&["mark", "middle"]);
    server.psql(backwhen.database(), "DELETE FROM orders WHERE id > 100");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["checkpoint"]);
    for (number, moment) in ["latest", "mark:middle"].into_iter().enumerate() {
        let plan = backwhen.json(&["recover", "--to", moment, "--dry-run"]);
        let into = format!("planned_{number}_{}", backwhen.database());
        let done = backwhen.json(&["restore", "--to", moment, "--create", "--into", &server.conninfo(&into)]);
        for field in ["moment", "checkpoint", "segments", "tables", "inexact"] {
            assert_eq!(plan[field], done[field], "{field} of {moment}");
        }
        assert_eq!(plan["transactions"], done["transactions_folded"], "{moment}");
        assert_eq!(done["proved"], true);
        // The resolved moment, given back, is the same moment.
        let lsn = plan["moment"]["lsn"].as_str().unwrap();
        let again = backwhen.json(&["recover", "--to", lsn, "--dry-run"]);
        assert_eq!(again["moment"], plan["moment"]);
    }
    assert_eq!(
        server.psql(&format!("planned_0_{}", backwhen.database()), "SELECT count(*) FROM orders"),
        "90"
    );
    assert_eq!(
        server.psql(&format!("planned_1_{}", backwhen.database()), "SELECT count(*) FROM orders"),
        "3040"
    );
}

#[test]
fn the_moment_is_printed_in_full() {
    let backwhen = captured_shop(&Server::shared(None));
    let marks = backwhen.json(&["recover", "--to", "latest", "--dry-run"]);
    let mut command = backwhen.command(&["recover", "--to", "latest", "--dry-run"]);
    let output = command.env("TZ", "Asia/Kolkata").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let moment = &marks["moment"];
    assert_says(&text, &[moment["time"].as_str().unwrap(), "+05:30 local", moment["lsn"].as_str().unwrap()]);
    assert_says(&text, &[&format!("xid {}", moment["xid"]), "next commit  none is held"]);
    let xid = format!("xid:{}", moment["xid"]);
    let before = backwhen.json(&["recover", "--to", &xid, "--before", "--dry-run"]);
    assert_eq!(before["moment"]["next"]["xid"], moment["xid"]);
}

/// A moment that a person copies from a server's log, or from a clock, is understood or refused with what to write.
#[test]
fn moments_are_understood_as_people_have_them() {
    let backwhen = captured_shop(&Server::shared(None));
    let moment = &backwhen.json(&["recover", "--to", "latest", "--dry-run"])["moment"];
    let with_epoch = format!("xid:{}", moment["xid"].as_u64().unwrap() + (7 << 32));
    let message = backwhen.fails(11, &["recover", "--to", &with_epoch, "--dry-run"]);
    assert_says(&message, &[&format!("transaction {} is not in the journal", &with_epoch[4..])]);
    let ends = |text: &str| {
        let mut command = backwhen.command(&["recover", "--to", text, "--dry-run"]);
        let output = command.env("TZ", "Europe/Berlin").output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = ends("1999-11-27 22:30:00 CET");
    assert_eq!(code, 11, "{said}");
    assert_says(&said, &["1999-11-27T21:30:00.000000Z is before the window"]);
    let (code, said) = ends("2026-10-25 02:30:00");
    assert_eq!(code, 2, "{said}");
    assert_says(&said, &["2026-10-25T02:30:00Z", "2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"]);
}

#[test]
fn a_script_on_standard_output_goes_into_psql() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    let output = backwhen.run(&["recover", "--to", "latest", "--into", "sql:-", "--output", "json"]);
    assert!(output.status.success(), "{}", output.stderr);
    assert!(output.stdout.starts_with("-- Written by backwhen"), "{:.200}", output.stdout);
    let report: serde_json::Value = serde_json::from_str(output.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(report["rows"], 201 + 3040 + 3);
    let into = server.fresh_database("piped");
    let applied = server.client("psql", &into, &["-Xq", "-v", "ON_ERROR_STOP=1", "-f", "-"], &output.stdout);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    assert_same(&Dump::of(&server, backwhen.database()), &Dump::of(&server, &into));

    let file = backwhen.folder().join("shop.sql");
    backwhen.ok(&["recover", "--to", "latest", "--into", &format!("sql:{}", file.display())]);
    let written = std::fs::read_to_string(&file).unwrap();
    assert_eq!(written.lines().count(), output.stdout.lines().count());
}

#[test]
fn a_reader_that_goes_away_is_no_full_disk() {
    let backwhen = captured_shop(&Server::shared(None));
    let program = env!("CARGO_BIN_EXE_backwhen");
    let script = format!("\"{program}\" recover --to latest --into sql:- | head -c 100 >/dev/null");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env("BACKWHEN_HISTORY", backwhen.history());
    command.env("PATH", format!("{}:/usr/bin:/bin", backwhen.server().bin().unwrap().display()));
    let output = command.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_says(&message, &["standard output", "reader"]);
    assert!(!message.contains("panicked"), "{message}");
}

#[test]
fn a_sqlite_file_can_be_queried() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    let file = backwhen.folder().join("shop.db");
    let report =
        backwhen.json(&["recover", "--to", "latest", "--into", &format!("sqlite:{}", file.display())]);
    let connection = rusqlite::Connection::open(&file).unwrap();
    let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    let query = "SELECT count(*) || ' ' || sum(customer) || ' ' || max(note) FROM orders";
    assert_eq!(one(query), server.psql(backwhen.database(), query));
    let joined = "SELECT group_concat(n, ',') FROM (SELECT c.name || count(*) AS n FROM orders o \
                  JOIN customers c ON c.id = o.customer GROUP BY c.id, c.name ORDER BY c.id)";
    let in_postgres = joined.replace("group_concat(n, ',')", "string_agg(n, ',')");
    assert_eq!(one(joined), server.psql(backwhen.database(), &in_postgres));
    assert_eq!(one("SELECT lsn FROM backwhen_recovery"), report["moment"]["lsn"].as_str().unwrap());
    assert_eq!(one("PRAGMA integrity_check"), "ok");
}

/// Recovers some tables; returns the database and the report.
fn partial(backwhen: &Backwhen, name: &str, tables: &[&str]) -> (String, serde_json::Value) {
    let into = format!("{name}_{}", backwhen.database());
    let conninfo = backwhen.server().conninfo(&into);
    let mut arguments = vec!["recover", "--to", "latest", "--create", "--into", &conninfo];
    tables.iter().for_each(|table| arguments.extend(["--table", table]));
    let report = backwhen.json(&arguments);
    (into, report)
}

#[test]
fn some_tables_only() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    let tables = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class \
                  WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'";

    let (one, report) = partial(&backwhen, "one", &["public.customers"]);
    assert_eq!(server.psql(&one, tables), "customers");
    assert_eq!((&report["tables"], &report["rows"]), (&1.into(), &201.into()));
    assert_eq!(report["proved"], true);
    let (several, report) = partial(&backwhen, "several", &["public.cust*", "visit?"]);
    assert_eq!(server.psql(&several, tables), "customers visits");
    assert_eq!(report["rows"], 204);

    // A key to a table that is left out cannot be kept, and that is said; the sequence comes along.
    let (orders, report) = partial(&backwhen, "orders", &["public.orders"]);
    assert_eq!(server.psql(&orders, tables), "orders");
    let notes = report["notes"].to_string();
    assert_says(&notes, &["orders_customer_fkey"]);
    let rows = "SELECT count(*) || ' ' || md5(string_agg(o::text, '' ORDER BY id)) FROM orders o";
    assert_eq!(server.psql(&orders, rows), server.psql(backwhen.database(), rows));
    assert_eq!(server.psql(&orders, "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"), "0");
    let last =
        server.psql(backwhen.database(), "SELECT last_value FROM orders_id_seq").parse::<i64>().unwrap();
    let next =
        server.psql(&orders, "INSERT INTO orders (customer) VALUES (1) RETURNING id").parse::<i64>().unwrap();
    assert!(next > last, "{next} was handed out before ({last})");
    let index = "SELECT count(*) FROM pg_indexes WHERE indexname = 'orders_by_customer'";
    assert_eq!(server.psql(&orders, index), "1");

    // With the other table, the key is kept.
    let (both, _) = partial(&backwhen, "both", &["public.orders", "public.customers"]);
    assert_eq!(server.psql(&both, "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"), "1");
}

/// A person who reads only the messages, or only JSON, finds each part that is not exact, and nobody reads it twice.
#[test]
fn what_is_not_exact_is_said_once_and_much_of_it_goes_into_a_file() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    let recover = |into: &str| ["recover", "--to", "latest", "--create", "--into", into].map(str::to_owned);
    let run = |arguments: &[String]| {
        let output = backwhen.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{}", output.stderr);
        output
    };
    let into = server.conninfo(&format!("few_{}", backwhen.database()));
    let output = run(&recover(&into));
    assert_eq!(output.stderr.matches("not exact: public.visits: has no replica identity").count(), 1);
    assert!(!output.stdout.contains("not exact"), "{}", output.stdout);
    let planned = backwhen.run(&["recover", "--to", "latest", "--dry-run", "--quiet"]);
    assert_eq!(planned.stderr.matches("not exact: public.visits").count(), 1);
    assert!(!planned.stdout.contains("not exact"), "{}", planned.stdout);

    let make =
        "DO $$ BEGIN FOR i IN 1..12 LOOP EXECUTE format('CREATE TABLE heap%s (n int)', i); END LOOP; END $$";
    server.psql(backwhen.database(), make);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["checkpoint", "--from-source"]);
    let name = format!("many_{}", backwhen.database());
    let output = run(&recover(&server.conninfo(&name)));
    let file = format!("{name}.not-exact.txt");
    assert_says(&output.stderr, &["not exact: 13 parts of the database; they are in", &file]);
    assert!(!output.stderr.contains("heap1"), "{}", output.stderr);
    let lines = std::fs::read_to_string(backwhen.folder().join(file)).unwrap();
    assert_eq!(lines.lines().filter(|line| line.starts_with("not exact: public.")).count(), 13, "{lines}");
    let json =
        [recover(&server.conninfo(&format!("json_{name}"))).to_vec(), vec!["--output=json".into()]].concat();
    let output = run(&json);
    assert_eq!(output.stdout.matches("has no replica identity").count(), 13);
    assert!(!output.stderr.contains("not exact"), "{}", output.stderr);
}
