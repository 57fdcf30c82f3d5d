//! What befalls a capture: servers that go and come back, consumers that take its slot, tables that
//! come, change and go.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use backwhen::model::Lsn;

use crate::support::{Backwhen, Capture, Dump, Server, Stop, assert_same, wait_for};

const SCHEMA: &str = "CREATE TABLE t (id serial PRIMARY KEY, v text); INSERT INTO t (v) VALUES ('first')";

fn protected(server: &Server, name: &str, schema: &str) -> Backwhen {
    let database = server.fresh_database(name);
    server.psql(&database, schema);
    let backwhen = Backwhen::new(server, &database).with_env("BACKWHEN_HEARTBEAT", "200ms");
    backwhen.init();
    backwhen
}

fn spawn(backwhen: &Backwhen) -> Capture<'_> {
    let mut capture = backwhen.spawn_capture();
    capture.allow("trying again");
    capture
}

fn insert(backwhen: &Backwhen, value: &str) {
    backwhen.server().psql(backwhen.database(), &format!("INSERT INTO t (v) VALUES ('{value}')"));
}

/// What a recovery of `latest` gives, and what it says is not exact.
fn recover(backwhen: &Backwhen, to: &str) -> (Dump, Vec<String>) {
    let server = backwhen.server();
    let database = server.fresh_database("recovered");
    let report = backwhen.json(&["recover", "--to", to, "--into", &server.conninfo(&database)]);
    let dump = Dump::of(server, &database);
    let inexact = report["inexact"].as_array().expect("a list").iter();
    let inexact = inexact.map(|it| it["what"].as_str().expect("a name").to_owned()).collect();
    (dump, inexact)
}

fn assert_latest_is_exact(backwhen: &Backwhen) {
    let (dump, inexact) = recover(backwhen, "latest");
    assert_same(&Dump::of(backwhen.server(), backwhen.database()), &dump);
    assert_eq!(inexact, Vec::<String>::new());
}

fn gaps(backwhen: &Backwhen) -> Vec<String> {
    let gaps = backwhen.json_lines(&["list", "gaps"]);
    gaps.iter().map(|gap| gap["cause"].as_str().expect("a cause").to_owned()).collect()
}

fn slot(backwhen: &Backwhen) -> String {
    let sql =
        "SELECT slot_name FROM pg_replication_slots WHERE database = current_database() AND NOT temporary";
    backwhen.server().psql(backwhen.database(), sql)
}

/// Returns once capture has taken in so many new schemas of the source, each with a checkpoint after the first one.
fn wait_for_schemas(capture: &mut Capture<'_>, count: usize) {
    capture.wait_for_checkpoints(1 + count);
}

#[test]
fn a_server_that_restarts_or_crashes_is_followed_again() {
    let server = Server::start(None);
    let backwhen = protected(&server, "restart", SCHEMA);
    let mut capture = spawn(&backwhen);
    capture.wait_caught_up();
    for round in 0..2 {
        insert(&backwhen, "before");
        server.stop(Stop::Fast);
        // Capture tries in vain, for longer the second time.
        sleep(Duration::from_millis(200 * round));
        server.start_again();
        insert(&backwhen, "between");
        server.crash();
        server.start_again();
        insert(&backwhen, "after");
    }
    capture.wait_caught_up();
    capture.stop();
    assert_eq!(gaps(&backwhen), Vec::<String>::new());
    assert_latest_is_exact(&backwhen);
}

#[test]
fn a_walsender_that_is_ended_is_asked_for_again() {
    let server = Server::shared(None);
    let backwhen = protected(&server, "ended", SCHEMA);
    let mut capture = spawn(&backwhen);
    capture.wait_caught_up();
    let end = format!(
        "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots WHERE slot_name = '{}'",
        slot(&backwhen)
    );
    for _ in 0..3 {
        insert(&backwhen, "before");
        server.psql(backwhen.database(), &end);
        insert(&backwhen, "after");
        capture.wait_caught_up();
    }
    capture.stop();
    assert_eq!(gaps(&backwhen), Vec::<String>::new());
    assert_latest_is_exact(&backwhen);
}

/// Another program that reads from our slot.
fn consume(backwhen: &Backwhen) -> Child {
    let server = backwhen.server();
    let program = server.bin().map_or("pg_recvlogical".into(), |bin| bin.join("pg_recvlogical"));
    let mut command = Command::new(program);
    command.args(["--start", "--no-loop", "-f", "/dev/null", "--fsync-interval=1"]);
    command.args(["-S", &slot(backwhen), "-d", &backwhen.source()]);
    command.args(["-o", "proto_version=1", "-o", &format!("publication_names={}", slot(backwhen))]);
    let child = command.stderr(Stdio::null()).spawn().expect("pg_recvlogical starts");
    let active = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{}'", slot(backwhen));
    server.wait_until(backwhen.database(), &active);
    child
}

#[test]
fn a_slot_that_somebody_else_reads_is_waited_for_and_what_he_took_is_a_gap() {
    let server = Server::shared(None);
    let backwhen = protected(&server, "taken", SCHEMA);
    let mut thief = consume(&backwhen);
    let mut capture = spawn(&backwhen);
    capture.allow("continuity is lost");
    capture.wait_for_failure("in use");
    insert(&backwhen, "stolen");
    let confirmed = format!(
        "SELECT confirmed_flush_lsn > '{}' FROM pg_replication_slots WHERE slot_name = '{}'",
        server.psql(backwhen.database(), "SELECT pg_current_wal_insert_lsn()"),
        slot(&backwhen)
    );
    insert(&backwhen, "stolen as well");
    wait_for("the thief has confirmed what he took", || {
        insert(&backwhen, "and more");
        server.psql(backwhen.database(), &confirmed) == "t"
    });
    thief.kill().unwrap();
    thief.wait().unwrap();
    capture.wait_for_epoch(2);
    insert(&backwhen, "ours again");
    capture.wait_caught_up();
    capture.stop();
    let gaps = gaps(&backwhen);
    assert!(matches!(&gaps[..], [cause] if cause.contains("moved on")), "{gaps:?}");
    assert_latest_is_exact(&backwhen);
}

#[test]
fn tables_that_come_while_it_runs_are_protected_with_images_of_their_own() {
    let server = Server::shared(None);
    let backwhen = protected(&server, "come", SCHEMA);
    let database = backwhen.database();
    let mut capture = spawn(&backwhen);
    capture.wait_caught_up();
    server.psql(
        database,
        "BEGIN; CREATE TABLE made (id int PRIMARY KEY, v text); INSERT INTO made VALUES (1, 'with it'); COMMIT;
         CREATE TABLE made_as AS SELECT n FROM generate_series(1, 100) n; ALTER TABLE made_as ADD PRIMARY KEY (n);
         CREATE TABLE short_lived (id int PRIMARY KEY); INSERT INTO short_lived VALUES (1);
         DROP TABLE short_lived",
    );
    wait_for_schemas(&mut capture, 1);
    server.psql(database, "INSERT INTO made VALUES (2, 'later'); DELETE FROM made_as WHERE n > 50");
    capture.wait_caught_up();
    let between = server.psql(database, "SELECT pg_current_wal_insert_lsn()");
    let truth = Dump::of(&server, database);
    server.psql(database, "DROP TABLE made_as; UPDATE made SET v = v || '!'");
    wait_for_schemas(&mut capture, 2);
    capture.wait_caught_up();
    capture.stop();
    assert_latest_is_exact(&backwhen);
    assert_same(&truth, &recover(&backwhen, &between).0);
    backwhen.ok(&["verify", "--prove"]);
}

#[test]
fn tables_that_lose_or_get_a_key_or_another_name_are_followed() {
    let server = Server::shared(None);
    let schema = "CREATE TABLE loses (id int CONSTRAINT loses_key PRIMARY KEY, v text);
        CREATE TABLE gets (id int, v text); CREATE TABLE old_name (id int PRIMARY KEY, v text);
        INSERT INTO loses VALUES (1, 'a'), (2, 'b'); INSERT INTO gets VALUES (1, 'a'), (2, 'b');
        INSERT INTO old_name VALUES (1, 'a')";
    let backwhen = protected(&server, "keys", schema);
    let database = backwhen.database();
    let mut capture = spawn(&backwhen);
    capture.wait_caught_up();
    server.psql(
        database,
        "ALTER TABLE loses DROP CONSTRAINT loses_key; ALTER TABLE gets ADD PRIMARY KEY (id);
         ALTER TABLE old_name RENAME TO new_name; INSERT INTO new_name VALUES (2, 'b');
         INSERT INTO loses VALUES (1, 'twice')",
    );
    wait_for_schemas(&mut capture, 1);
    // Our publication must not keep the application from updating a table without a key.
    server.psql(database, "UPDATE loses SET v = v || '!'; UPDATE gets SET v = 'c' WHERE id = 2");
    server.psql(database, "DELETE FROM gets WHERE id = 1; UPDATE new_name SET v = 'd'");
    capture.wait_caught_up();
    let (dump, inexact) = recover(&backwhen, "latest");
    let truth = Dump::of(&server, database);
    assert_eq!(inexact, ["public.loses"]);
    for table in ["public.gets (id, v)", "public.new_name (id, v)"] {
        assert_eq!(truth.rows[table], dump.rows[table], "{table}");
    }

    server.psql(database, "DELETE FROM loses WHERE v = 'twice!'; ALTER TABLE loses ADD PRIMARY KEY (id)");
    wait_for_schemas(&mut capture, 2);
    server.psql(database, "UPDATE loses SET v = 'again' WHERE id = 1");
    capture.wait_caught_up();
    capture.stop();
    assert_latest_is_exact(&backwhen);
}

#[test]
fn a_publication_that_somebody_changes_costs_no_row_in_silence() {
    let server = Server::shared(None);
    let backwhen = protected(&server, "emptied", SCHEMA);
    let mut capture = spawn(&backwhen);
    capture.allow("continuity is lost");
    capture.wait_caught_up();
    let before = server.psql(backwhen.database(), "SELECT pg_current_wal_insert_lsn()");
    let until: Lsn = before.parse().unwrap();
    capture
        .wait_for_live("a beat has found the publications whole", |live| live.published_until >= Some(until));
    let emptied = format!("ALTER PUBLICATION {} DROP TABLE t", slot(&backwhen));
    server.psql(backwhen.database(), &emptied);
    insert(&backwhen, "unseen");
    let after = server.psql(backwhen.database(), "SELECT pg_current_wal_insert_lsn()");
    capture.wait_for_epoch(2);
    insert(&backwhen, "seen");
    capture.wait_caught_up();
    capture.stop();
    assert_eq!(gaps(&backwhen).len(), 1);
    assert_latest_is_exact(&backwhen);
    assert_eq!(recover(&backwhen, &before).1, Vec::<String>::new());
    // Where the end of the epoch before holds this moment at all, it says what it may lack. Only the new
    // image may be of that very moment, if nothing else happened meanwhile.
    let output =
        backwhen.run(&["recover", "--dry-run", "--output", "json", "--to", &after, "--into", "sqlite:no"]);
    let said = output.status.code() == Some(11) || output.stdout.contains("may lack changes since");
    assert!(said || output.stdout.contains("\"epoch\":2"), "{}{}", output.stdout, output.stderr);
}

#[test]
fn publications_that_are_gone_are_a_gap() {
    let server = Server::shared(None);
    let backwhen = protected(&server, "unpublished", SCHEMA);
    let mut capture = spawn(&backwhen);
    capture.allow("continuity is lost").allow("publication");
    capture.wait_caught_up();
    server.psql(backwhen.database(), &format!("DROP PUBLICATION {}", slot(&backwhen)));
    insert(&backwhen, "unseen");
    capture.wait_for_epoch(2);
    insert(&backwhen, "seen");
    capture.wait_caught_up();
    capture.stop();
    let gaps = gaps(&backwhen);
    assert!(matches!(&gaps[..], [cause] if cause.contains("publications are gone")), "{gaps:?}");
    assert_latest_is_exact(&backwhen);
}

/// Nothing of it is in the stream, and the columns look as before.
#[test]
fn rows_that_a_definition_rewrote_are_read_again() {
    let server = Server::shared(None);
    let schema = "CREATE TABLE t (id serial PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, n int);
        INSERT INTO t (v) VALUES ('first'); INSERT INTO u VALUES (1, 1), (2, 2)";
    let backwhen = protected(&server, "rewritten", schema);
    let database = backwhen.database();
    let mut capture = spawn(&backwhen);
    capture.wait_caught_up();
    server.psql(database, "ALTER TABLE u ALTER n TYPE int USING n * 10");
    wait_for_schemas(&mut capture, 1);
    capture.wait_caught_up();
    assert_latest_is_exact(&backwhen);
    server.psql(database, "ALTER TABLE t DROP COLUMN v; ALTER TABLE t ADD COLUMN v text");
    wait_for_schemas(&mut capture, 2);
    capture.wait_caught_up();
    capture.stop();
    assert_latest_is_exact(&backwhen);
    backwhen.ok(&["verify", "--prove"]);
}
