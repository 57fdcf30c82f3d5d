//! `init` installs the triggers, `capture` watches over them, `drop` takes them away, and a recovered
//! database has none.

use std::time::Duration;

use crate::ddl_triggers::told::Source;
use crate::support::shop::{assert_source_clean, captured_shop, shop};
use crate::support::{Dump, Server, wait_at_most};

const OURS: &str = "SELECT evtname FROM pg_event_trigger UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'backwhen'";

#[test]
fn several_histories_share_the_schema_until_the_last_one_goes() {
    let server = Server::shared(None);
    let one = Source::new(&server);
    let two = Source::of(&server, one.backwhen.database(), &[]);
    // Its installation was nothing to tell.
    assert!(one.told().signals.is_empty());
    for source in [&one, &two] {
        assert!(source.told().signals.is_empty());
    }
    one.psql("CREATE TABLE seen (i int PRIMARY KEY)");
    assert_eq!((one.told().tags(), two.told().tags()), (vec!["CREATE TABLE"], vec!["CREATE TABLE"]));
    one.backwhen.ok(&["drop"]);
    assert_eq!(two.run("DROP TABLE seen").tags(), ["DROP TABLE"]);
    two.backwhen.ok(&["drop"]);
    assert_source_clean(&server, one.backwhen.database());
}

#[test]
fn a_recovered_database_has_none() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    let target = server.fresh_database("recovered");
    backwhen.ok(&["recover", "--to", "latest", "--into", &server.conninfo(&target)]);
    assert_eq!(server.psql(&target, OURS), "");
    crate::support::assert_same(&Dump::of(&server, backwhen.database()), &Dump::of(&server, &target));
}

#[test]
fn only_chosen_tables_are_published() {
    let server = Server::shared(None);
    let database = server.fresh_database("ddl");
    let source =
        Source::of(&server, &database, &["--include", "sho?", "--include", "s.*", "--exclude", "*_tmp"]);
    let told = source.run("CREATE SCHEMA s; CREATE TABLE shop (i int); CREATE TABLE shops (i int); CREATE TABLE s.any (i int); CREATE TABLE s.a_tmp (i int)");
    let published: Vec<_> = told.signals[1..].iter().map(|signal| signal.tables[0].published).collect();
    assert_eq!(published, [true, false, true, false]);
}

#[test]
fn without_them_nothing_is_left_on_the_source() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    backwhen.ok(&["init", "--no-event-triggers", "--source", &backwhen.source()]);
    assert_eq!(server.psql(backwhen.database(), OURS), "");
    assert_eq!(backwhen.json(&["status"])["event_triggers"]["wanted"], false);
    backwhen.ok(&["drop"]);
    assert_source_clean(&server, backwhen.database());
}

#[test]
fn a_role_that_may_not_make_them_begins_without() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let database = backwhen.database();
    server.psql(database, &format!(
        "CREATE ROLE ddl_plain LOGIN REPLICATION; GRANT CREATE ON DATABASE {database} TO ddl_plain;
         ALTER TABLE customers OWNER TO ddl_plain; ALTER TABLE orders OWNER TO ddl_plain; ALTER TABLE visits OWNER TO ddl_plain;"
    ));
    let source = backwhen.source().replace("user=postgres", "user=ddl_plain");
    let checked = backwhen.ok(&["check", "--source", &source]);
    assert!(checked.contains("no event triggers can be made"), "{checked}");
    assert!(checked.contains("permission denied to create event trigger"), "{checked}");
    assert!(!backwhen.ok(&["check", "--source", &backwhen.source()]).contains("event trigger"));
    let begun = backwhen.run(&["init", "--source", &source]);
    assert!(begun.status.success(), "{}", begun.stderr);
    assert!(begun.stderr.contains("no event triggers: "), "{}", begun.stderr);
    assert_eq!(server.psql(database, OURS), "");
}

#[test]
fn capture_installs_again_what_somebody_took_away() {
    let server = Server::shared(None);
    let source = Source::new(&server);
    let slot = source.slot().to_owned();
    let states = "SELECT count(*) FROM pg_event_trigger WHERE evtenabled = 'A'";
    let mut capture = source.backwhen.spawn_capture_with(&["--heartbeat", "200ms"]);
    capture.allow("schema changes are no longer told by triggers");
    for harm in [
        format!("ALTER EVENT TRIGGER \"!{slot}_end\" DISABLE"),
        format!("DROP EVENT TRIGGER \"!{slot}_drop\""),
        format!("DROP FUNCTION backwhen.{slot}_wants"),
    ] {
        source.psql(&harm);
        let whole =
            format!("SELECT ({states}) = 5 AND EXISTS (SELECT FROM pg_proc WHERE proname = '{slot}_wants')");
        let limit = Duration::from_secs(20);
        wait_at_most(limit, format_args!("it is mended: {harm}"), || source.psql(&whole) == "t");
    }
    capture.stop();
}

#[test]
fn capture_replaces_what_another_version_installed() {
    let server = Server::shared(None);
    let source = Source::new(&server);
    let slot = source.slot().to_owned();
    // Whoever ends a statement while they are replaced may still call this one.
    let end = format!("SELECT 'backwhen.{slot}_end'::regproc::oid");
    let called = source.psql(&end);
    // Nothing of it could be replaced in place.
    source.psql(&format!(
        "SET backwhen.own = 'install'; DROP FUNCTION backwhen.{slot}_utf8;
         CREATE FUNCTION backwhen.{slot}_utf8(content text) RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION backwhen.{slot}_gone_since() RETURNS int LANGUAGE sql AS 'SELECT 1';
         UPDATE backwhen.{slot}_config SET version = 'older', image_limit = 7"
    ));
    let capture = source.backwhen.spawn_capture_with(&["--heartbeat", "200ms"]);
    let whole = format!(
        "SELECT version <> 'older' AND image_limit = 7 AND to_regproc('backwhen.{slot}_gone_since') IS NULL
            AND pg_get_function_result('backwhen.{slot}_utf8(text)'::regprocedure) = 'bytea' FROM backwhen.{slot}_config"
    );
    wait_at_most(Duration::from_secs(20), "the functions are replaced", || source.psql(&whole) == "t");
    capture.stop();
    assert_eq!(source.psql(&end), called);
    assert_eq!(source.backwhen.json(&["status"])["event_triggers"]["fault"], serde_json::Value::Null);
}
