//! `--output json`: one object and nothing else, and every field of it documented.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::shop::{CHANGES, shop};
use crate::support::{Backwhen, Server};

/// Objects with a field for each column of a table, in what tells of a change.
const BY_COLUMN: [&str; 4] = ["key", "before", "after", "row"];

/// Paths of the fields that are there, as `docs/JSON.md` writes them.
fn paths(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                let is_change = fields.contains_key("op") || fields.contains_key("why");
                let by_column = is_change && BY_COLUMN.contains(&name.as_str()) && value.is_object();
                if by_column || !value.is_object() {
                    found.insert(path.clone());
                }
                if !by_column {
                    paths(value, &path, found);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| paths(value, &format!("{prefix}[]"), found)),
        _ => {}
    }
}

/// `## section` → its field names.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = include_str!("../../../docs/JSON.md");
    let mut sections = BTreeMap::<String, BTreeSet<String>>::new();
    let mut section = String::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.to_owned();
        } else if let Some(field) = line.strip_prefix("| `").and_then(|rest| rest.split_once('`')) {
            sections.entry(section.clone()).or_default().insert(field.0.to_owned());
        }
    }
    sections
}

/// A history with everything in it that a field can be about: a gap, a mark, a fold, tables left out.
fn eventful() -> (Backwhen, BTreeMap<String, BTreeSet<String>>) {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let key = backwhen.folder().join("shop.key").to_str().unwrap().to_owned();
    let backwhen = backwhen.with_env("BACKWHEN_KEY_FILE", &key);
    let database = backwhen.database().to_owned();
    server.psql(&database, "CREATE UNLOGGED TABLE scratch (n int)");
    let source = backwhen.source();
    let mut found = BTreeMap::<String, BTreeSet<String>>::new();
    let mut note = |name: &str, arguments: &[&str]| {
        let values = backwhen.json_lines(arguments);
        let section = found.entry(name.to_owned()).or_default();
        values.iter().for_each(|value| paths(value, "", section));
        values
    };
    assert_eq!(note("check", &["check", "--source", &source]).len(), 1);
    assert_eq!(note("init", &["init", "--source", &source]).len(), 1);
    assert_eq!(note("mark", &["mark", "before"]).len(), 1);
    server.psql(&database, CHANGES);
    assert_eq!(note("capture", &["capture", "--until", "caught-up"]).len(), 1);
    let logged = note("log", &["log", "--op", "update"]);
    assert_eq!(note("show", &["show", &format!("xid:{}", logged[0]["xid"])]).len(), 20);
    assert_eq!(note("row", &["row", "orders", "5"]).len(), 2);
    assert_eq!(note("diff", &["diff", "mark:before", "latest"]).len(), 1);
    assert_eq!(
        note("diff --rows", &["diff", "mark:before", "latest", "--rows", "--table", "orders"]).len(),
        80
    );
    assert_eq!(note("checkpoint", &["checkpoint"]).len(), 1);
    assert_eq!(note("recover --dry-run", &["recover", "--to", "mark:before", "--dry-run"]).len(), 1);
    let file = format!("sqlite:{}", backwhen.folder().join("shop.db").display());
    assert_eq!(note("recover", &["recover", "--to", "mark:before", "--into", &file]).len(), 1);
    let check = ["--check", "SELECT count(*) = 200 FROM customers"];
    let ends = ["bisect", "--good", "mark:before", "--bad", "latest"];
    assert_eq!(note("bisect", &[&ends[..], &check].concat()).len(), 1);
    assert_eq!(note("show schema", &["show", "schema", "--at", "mark:before"]).len(), 1);
    let into = server.conninfo("postgres");
    let restore =
        ["verify", "--prove", "--restore", "--keep-template", "--to", "mark:before", "--into", &into];
    assert_eq!(note("verify", &restore).len(), 1);
    backwhen.ok(&["verify"]);
    assert_eq!(note("list proofs", &["list", "proofs"]).len(), 2);
    let copy = backwhen.folder().join("copy").to_str().unwrap().to_owned();
    assert_eq!(note("copy", &["copy", "--to", &copy]).len(), 1);
    assert_eq!(note("repair", &["repair", "--from", &copy]).len(), 1);
    let dispersed = format!("disperse:k=1,m=1,file://{copy}-1,file://{copy}-2");
    backwhen.ok(&["copy", "--to", &dispersed]);
    assert_eq!(note("repair of a dispersed history", &["repair", "--history", &dispersed]).len(), 1);
    let (sealed, identity) = (format!("{copy}-sealed"), format!("{copy}-identity"));
    backwhen.ok(&["copy", "--to", &sealed, "--encrypt", "--identity-file", &identity]);
    assert_eq!(note("key", &["key", "list", "--history", &sealed, "--identity-file", &identity]).len(), 1);
    note("status", &["status", "--offline", "--history", &sealed, "--identity-file", &identity]);
    let mut capture = backwhen.spawn_capture();
    capture.wait_streaming();
    assert_eq!(note("check --against-source", &["check", "--against-source"]).len(), 1);
    let transaction =
        "BEGIN; SELECT pg_current_xact_id(); UPDATE customers SET name = 'wrong' WHERE id = 1; COMMIT";
    let wrong = server.psql(&database, transaction);
    server.psql(&database, "UPDATE customers SET name = 'later' WHERE id = 1");
    // An undo has the fields that JSON.md lists for rewind.
    assert_eq!(note("rewind", &["undo", &format!("xid:{}", wrong.trim())]).len(), 1);
    assert_eq!(
        note("rewind", &["rewind", "--to", "mark:before", "--key", "customers=1", "--apply"]).len(),
        1
    );
    assert_eq!(note("resync", &["resync"]).len(), 1);
    capture.stop();
    let slot = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()";
    server.psql(&database, slot);
    note("resync", &["resync"]);
    backwhen.ok(&["verify", "--prove"]);
    let needs = ["--time-to-discover", "30d", "--time-to-recover", "1h"];
    assert_eq!(note("status", &[&["status"], &needs[..]].concat()).len(), 1);
    assert_eq!(note("list checkpoints", &["list", "checkpoints"]).len(), 4);
    assert_eq!(note("list checkpoints --tables", &["list", "checkpoints", "--tables"]).len(), 3);
    assert!(note("list segments", &["list", "segments"]).len() >= 2);
    assert_eq!(note("list marks", &["list", "marks"]).len(), 1);
    assert_eq!(note("list gaps", &["list", "gaps"]).len(), 1);
    let id = backwhen.json_lines(&["list", "checkpoints"]).remove(0)["id"].as_str().unwrap().to_owned();
    assert_eq!(note("pin", &["pin", &id, "--reason", "audit"]).len(), 1);
    assert_eq!(note("pin", &["unpin", &id]).len(), 1);
    assert_eq!(note("list resolution", &["list", "resolution"]).len(), 1);
    assert_eq!(note("expire", &["expire", "--keep-last", "1"]).len(), 1);
    assert_eq!(note("init --full-identity", &["init", "--full-identity"]).len(), 1);
    note("drop", &["drop"]);
    let failed = backwhen.run(&["recover", "--to", "0/1", "--dry-run", "--output", "json"]);
    assert_eq!((failed.status.code(), failed.stdout.as_str()), (Some(11), ""));
    let last = failed.stderr.lines().last().unwrap_or_default();
    let error: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {last}"));
    assert_eq!(error["exit_code"], 11);
    paths(&error, "", found.entry("An error".into()).or_default());
    (backwhen, found)
}

#[test]
fn every_field_is_documented_and_every_documented_field_is_there() {
    let (_backwhen, found) = eventful();
    let documented = documented();
    for (section, fields) in &found {
        let known =
            documented.get(section).unwrap_or_else(|| panic!("docs/JSON.md has no section {section:?}"));
        let unknown: Vec<_> = fields.difference(known).collect();
        assert!(unknown.is_empty(), "not in docs/JSON.md under {section:?}: {unknown:?}");
        // An object that can be null has a line of its own.
        let parent = |path: &&&String| fields.iter().any(|field| field.starts_with(&format!("{path}.")));
        let missing: Vec<_> = known.difference(fields).collect();
        let missing: Vec<_> =
            missing.iter().filter(|path| !parent(path)).filter(|path| !never_here(section, path)).collect();
        assert!(missing.is_empty(), "in docs/JSON.md under {section:?}, and not written: {missing:?}");
    }
    let commands = ["check", "init", "capture", "checkpoint", "mark", "status", "verify", "recover", "drop"];
    assert!(commands.iter().all(|command| found.contains_key(*command)));
}

/// Elements of arrays that are empty on a sound history.
fn never_here(section: &str, path: &str) -> bool {
    let schema = ["status", "recover", "recover --dry-run", "show schema"].contains(&section);
    // Which of its fields are there depends on what the digests say.
    let proof = path.contains("schema_proof.") && !path.ends_with(".proof");
    // Capture keeps no copy; `stores` tests the fields.
    (section == "status" && ["inexact[].", "copies[].", "forecast."].iter().any(|it| path.starts_with(it)))
        // A table that nobody has locked.
        || path.starts_with("refused[].")
        // The shop's schema does not change.
        || (section == "diff" && (path.starts_with("inexact[].") || path.starts_with("definitions[].")))
        || proof
        || path.starts_with("restored.inexact[].")
        || (section == "bisect" && path.starts_with("inexact[]."))
        // A target that takes everything leaves nothing out; `left_out` tests the fields.
        || path.starts_with("restored.left_out[].")
        || (section.starts_with("recover") && path.starts_with("left_out[]."))
        // A recovery of everything; `part` tests the fields.
        || (section.starts_with("recover") && ["part[].", "filter.", "except."].iter().any(|it| path.starts_with(it)))
        // No template is kept; `templates` tests the fields.
        || (section == "recover" && path.starts_with("template."))
        || (section == "expire" && path.starts_with("templates[]."))
        // The schema of a source with event triggers is known exactly.
        || (schema && path.starts_with("schema.") && path != "schema.known")
}

#[test]
fn what_others_rely_on_is_there_and_of_its_type() {
    let server = Server::shared(None);
    let backwhen = crate::support::shop::captured_shop(&server);
    let mut capture = backwhen.spawn_capture();
    capture.wait_caught_up();
    let status = backwhen.json(&["status"]);
    capture.stop();
    assert_eq!(status["state"], "streaming");
    for end in ["earliest", "latest"] {
        assert!(lsn(&status["window"][end]["lsn"]) > 0 && time(&status["window"][end]["time"]) > 0);
    }
    assert!(status["gaps"].as_array().unwrap().is_empty());
    assert!(status["lag"]["bytes"].is_u64() && status["lag"]["seconds"].is_f64(), "{status}");
    assert!(status["slot"]["name"].as_str().unwrap().starts_with("backwhen_"));
    assert!(status["slot"]["retained_bytes"].is_u64());
    assert_eq!(status["slot"]["wal_status"], "reserved");
    assert!(
        status["size"]["journal_bytes"].as_u64() > Some(0)
            && status["size"]["checkpoint_bytes"].as_u64() > Some(0)
    );

    let into = format!("relied_{}", backwhen.database());
    let report = backwhen.json(&["recover", "--to", "latest", "--create", "--into", &server.conninfo(&into)]);
    assert!(lsn(&report["moment"]["lsn"]) > 0 && time(&report["moment"]["time"]) > 0);
    assert!(report["moment"]["xid"].is_u64() && report["checkpoint"].is_string());
    assert!(report["segments"].as_u64() == Some(1) && report["transactions_folded"].as_u64() > Some(0));
    assert_eq!(report["rows"], 201 + 3040 + 3);
    assert!(report["seconds"].as_f64() > Some(0.0));
    let phases = report["phases"].as_array().unwrap();
    assert!(!phases.is_empty());
    assert!(phases.iter().all(|phase| phase["name"].is_string() && phase["seconds"].is_f64()));
    assert!(report["inexact"].is_array());
    assert_eq!(report["proved"], true);

    let checkpoints = backwhen.json_lines(&["list", "checkpoints"]);
    let first = &checkpoints[0];
    assert!(first["id"].is_string() && lsn(&first["lsn"]) > 0 && time(&first["time"]) > 0);
    assert!(first["label"].is_null());
    assert_eq!((&first["origin"], &first["rows"]), (&"source".into(), &3202.into()));
    assert!(
        first["bytes_new"].as_u64() > Some(0) && first["bytes_total"].as_u64() >= first["bytes_new"].as_u64()
    );
}

fn lsn(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse::<backwhen::model::Lsn>().ok()).map_or(0, |lsn| lsn.0)
}

/// Microseconds, if it is RFC 3339 in UTC.
fn time(value: &Value) -> i64 {
    let text = value.as_str().unwrap_or_default();
    assert!(text.ends_with('Z'), "{text}");
    chrono::DateTime::parse_from_rfc3339(text).map_or(0, |time| time.timestamp_micros())
}

#[test]
fn a_folded_checkpoint_counts_the_bytes_that_it_shares() {
    let backwhen = shop(&Server::shared(None));
    let still = "CREATE TABLE still AS SELECT n FROM generate_series(1, 1000) n";
    backwhen.server().psql(backwhen.database(), still);
    backwhen.init();
    backwhen.server().psql(backwhen.database(), CHANGES);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let folded = backwhen.json(&["checkpoint", "--label", "after the rush"]);
    assert_eq!((&folded["origin"], &folded["label"]), (&"fold".into(), &"after the rush".into()));
    assert_eq!(folded["existing"], false);
    let again = backwhen.json(&["checkpoint"]);
    assert_eq!((&again["existing"], &again["id"]), (&true.into(), &folded["id"]));
    let young = backwhen.json(&["checkpoint", "--if-older-than", "1h"]);
    assert_eq!((&young["existing"], &young["id"]), (&true.into(), &folded["id"]));
    let shared = folded["bytes_total"].as_u64().unwrap() - folded["bytes_new"].as_u64().unwrap();
    assert!(shared > 0, "the untouched table's blocks are not counted: {folded}");
}

#[test]
fn monitoring_gets_one_line_and_its_own_exit_codes() {
    let server = Server::shared(None);
    let backwhen = crate::support::shop::captured_shop(&server);
    let line = |code: i32, word: &str| {
        let output = backwhen.run(&["status", "--nagios"]);
        assert_eq!(output.status.code(), Some(code), "{}{}", output.stdout, output.stderr);
        assert!(output.stdout.starts_with(&format!("BACKWHEN {word} - ")), "{}", output.stdout);
        assert_eq!(output.stdout.lines().count(), 1);
        let (_, values) = output.stdout.split_once(" | ").unwrap_or_default();
        values.to_owned()
    };
    let values = line(1, "WARNING");
    assert!(
        values.contains("lag_bytes=") && values.contains("retained_wal=") && values.contains("gaps=0"),
        "{values}"
    );
    let mut capture = backwhen.spawn_capture();
    capture.wait_caught_up();
    line(0, "OK");
    capture.stop();
    let slot = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()";
    server.psql(backwhen.database(), slot);
    line(2, "CRITICAL");
    std::fs::rename(backwhen.history(), backwhen.folder().join("away")).unwrap();
    line(3, "UNKNOWN");
}
