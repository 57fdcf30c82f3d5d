//! Messages in the WAL that backwhen did not write tell a recovery nothing, and cost the history nothing.

use crate::security::mallory::{Scene, on_oldest_and_newest};
use crate::support::Server;

/// A message of mallory's, as text.
fn emit(prefix: &str, content: &str) -> String {
    format!("SELECT pg_logical_emit_message(true, '{prefix}', $q${content}$q$)")
}

#[test]
fn marks_samples_and_heartbeats_of_others_are_none() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, "");
        scene.run("CREATE TABLE bill (id serial PRIMARY KEY, t text); INSERT INTO bill (t) SELECT 'x' FROM generate_series(1, 50)");
        scene.backwhen.init();
        let oid = scene.run("SELECT 'bill_id_seq'::regclass::oid");
        let sample = |value: i64| {
            format!(
                r#"{{"sampled":"FFFFFFFF/FFFFFFFE","complete":true,"dropped":[],"sequences":[{{"oid":{oid},"schema":"public",
                   "name":"bill_id_seq","last_value":{value},"is_called":true,"increment":1,"owner":null}}]}}"#
            )
        };
        for message in [
            emit("backwhen.sequences", &sample(1)),
            emit("backwhen.sequences", &sample(-5)),
            emit("backwhen.mark", r#"{"name":"release"}"#),
            emit("backwhen.heartbeat", r#"{"fingerprint":"00"}"#),
            emit("backwhen.roles", r#"{"digest":"00","globals":"00"}"#),
            emit("backwhen.ddl", "{}"),
            emit("backwhen.rows", "1 t\n"),
        ] {
            scene.as_mallory(&message).unwrap();
            scene.as_mallory(&message.replace("(true", "(false")).unwrap();
        }
        scene.run("INSERT INTO bill (t) SELECT 'y' FROM generate_series(1, 50)");
        scene.capture();
        scene.backwhen.ok(&["mark", "release"]);
        scene.assert_exact();
        assert_eq!(scene.backwhen.json_lines(&["list", "marks"]).len(), 1);
        let (target, said) = scene.recover("mark:release");
        assert_eq!(scene.server.psql(&target, "SELECT last_value FROM bill_id_seq"), "100");
        assert_eq!(said["inexact"].as_array().unwrap().len(), 0, "{said}");
    });
}

#[test]
fn a_message_copied_from_the_wal_holds_in_no_other_transaction() {
    on_oldest_and_newest(|server| {
        let scene = Scene::protected(server, "");
        let slot = scene.slot();
        scene.run("CREATE TABLE told (a int PRIMARY KEY)");
        scene.backwhen.ok(&["mark", "release"]);
        // All that ever was signed, as somebody with a slot of his own would see it.
        let seen = scene.run(&format!(
            "SET bytea_output = hex; SELECT format('SELECT pg_logical_emit_message(true, %L, %L::bytea);',
                 convert_from(substr(data, 11, position('\\x00'::bytea in substr(data, 11)) - 1), 'SQL_ASCII'),
                 substr(data, 11 + position('\\x00'::bytea in substr(data, 11)) + 4))
               FROM pg_logical_slot_peek_binary_changes('{slot}', NULL, NULL, 'proto_version', '1',
                    'publication_names', '{slot}', 'messages', 'true') WHERE get_byte(data, 0) = ascii('M')"
        ));
        assert!(seen.lines().count() >= 4 && seen.contains("backwhen.mark"), "{seen}");
        scene.as_mallory(&seen).unwrap();
        scene.capture();
        assert_eq!(scene.backwhen.json_lines(&["list", "marks"]).len(), 1);
        assert_eq!(scene.backwhen.json_lines(&["list", "schemas"]).len(), 1);
        scene.assert_exact();
    });
}

#[test]
fn one_of_ours_that_cannot_be_read_is_named_and_costs_nothing_else() {
    on_oldest_and_newest(|server| {
        let scene = Scene::protected(server, "");
        let slot = scene.slot();
        scene.run("CREATE TABLE before (a int PRIMARY KEY); INSERT INTO before VALUES (1)");
        scene.run(&format!("SELECT backwhen.{slot}_emit('backwhen.ddl', '{{\"tag\":,}}')"));
        scene.run("CREATE TABLE after (a int PRIMARY KEY); INSERT INTO after VALUES (2)");
        let moment = scene.lsn();
        scene.backwhen.ok(&["capture", "--until", &moment]);
        let (target, said) = scene.recover(&moment);
        assert!(said["inexact"].to_string().contains("cannot be read"), "{said}");
        assert_eq!(scene.server.psql(&target, "SELECT before.a + after.a FROM before, after"), "3");
        assert_eq!(scene.backwhen.json_lines(&["list", "schemas"]).len(), 3);
        scene.backwhen.ok(&["checkpoint"]);
        scene.backwhen.ok(&["verify", "--prove"]);
        scene.assert_exact();
    });
}

#[test]
fn the_history_does_not_grow_by_what_others_write() {
    let server = Server::shared(None);
    let scene = Scene::protected(&server, "");
    let size = |scene: &Scene| {
        let status = scene.backwhen.json(&["status"]);
        status["size"]["journal_bytes"].as_u64().unwrap()
    };
    scene.capture();
    let before = size(&scene);
    // Random, so that nothing of it could be compressed away.
    let noise = "(SELECT string_agg(md5(g::text || h::text), '') FROM generate_series(1, 60000) h)";
    for prefix in ["x", "backwhen.mark", "backwhen.sequences", "backwhen.unheard"] {
        scene
            .as_mallory(&format!("SELECT length(pg_logical_emit_message(true, '{prefix}', {noise})::text) FROM generate_series(1, 2) g"))
            .unwrap();
    }
    scene.capture();
    assert!(size(&scene) - before < 100_000, "{} bytes", size(&scene) - before);
    scene.assert_exact();
}

#[test]
fn the_keys_are_in_no_log_of_the_server() {
    let server = Server::builder()
        .setting("log_statement", "all")
        .setting("log_min_duration_statement", "0")
        .setting("wal_level", "logical")
        .start();
    let scene = Scene::protected(&server, "");
    scene.backwhen.ok(&["mark", "release"]);
    scene.capture();
    let identity = std::fs::read_to_string(scene.backwhen.history().join("history.json")).unwrap();
    let identity: serde_json::Value = serde_json::from_str(&identity).unwrap();
    let secret = identity["secret"].as_str().unwrap();
    let keys = scene.run(&format!(
        "SELECT encode(inner_key, 'hex'), encode(outer_key, 'hex') FROM backwhen.{}_config",
        scene.slot()
    ));
    let log = server.log();
    assert!(log.contains("COPY backwhen."), "statements are in the log");
    for key in keys.split('|').chain([secret]) {
        assert_eq!(key.len() % 64, 0);
        assert!(!log.contains(key));
    }
}
