//! A large backlog is fetched in batches by SQL: the history must be what the stream would have made
//! of it, nothing is confirmed before it is durable, and where it cannot be done it is streamed.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::thread::sleep;
use std::time::Duration;

use crate::support::shop::{CHANGES, shop};
use crate::support::{Backwhen, Dump, Server, assert_same, for_each_version};
use backwhen::capture::state::State;
use backwhen::codec::pgoutput;
use backwhen::history::History;
use backwhen::history::catalog::Catalog;
use backwhen::history::journal::Event;
use backwhen::history::timeline::Timeline;
use backwhen::model::{Lsn, Message};
use backwhen::signal::key::body_of;

/// Drained whatever there is, in batches that hold a few transactions.
const SMALL_BATCHES: (&str, &str) = ("BACKWHEN_TEST_DRAIN", "0:32768");
/// Each full long before it has reached as far as it may.
const FULL_BATCHES: (&str, &str) = ("BACKWHEN_TEST_DRAIN", "0:1000000000:100");
const ONE_BATCH: (&str, &str) = ("BACKWHEN_TEST_DRAIN", "0:1000000000");

/// The text of every value hangs on a setting that is set otherwise for the whole database.
const TABLES: &str = "
CREATE TABLE typed (id int PRIMARY KEY, at timestamptz, day date, span interval, f float8, g float4, price money,
    bytes bytea, list int[], doc jsonb, big text);
ALTER TABLE typed ALTER big SET STORAGE EXTERNAL;
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE whole (a int, m mood); ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE keyless (n numeric, x xml);
CREATE PROCEDURE many(first int, count int) LANGUAGE plpgsql AS $$ BEGIN
    FOR n IN first .. first + count - 1 LOOP
        INSERT INTO typed VALUES (n, timestamptz '2024-03-10 12:34:56.789+02' + n * interval '1 day', date '1999-12-31',
            interval '1 year 2 mons -3 days 04:05:06.7', 1.0 / (3 + n), 0.1 + n, n::numeric::money,
            decode(md5(n::text), 'hex'), array[n, NULL], '{\"a\": 1}', repeat('x', 300));
        INSERT INTO whole VALUES (n % 3, CASE WHEN n % 2 = 0 THEN 'glad'::mood END);
        COMMIT;
    END LOOP;
END $$;";

const ODD_SETTINGS: &[&str] = &[
    "datestyle = 'German, DMY'",
    "timezone = 'Asia/Kathmandu'",
    "intervalstyle = 'iso_8601'",
    "extra_float_digits = -5",
    "bytea_output = 'escape'",
    "search_path = 'nowhere'",
    "statement_timeout = '20s'",
];

const WORK: &str = "
INSERT INTO typed (id, big) VALUES (1000003, 'begin here');
CALL many(1, 150);
UPDATE typed SET f = f + 1 WHERE id % 3 = 0;
UPDATE typed SET id = -id WHERE id % 7 = 0;
DELETE FROM typed WHERE id % 5 = 0;
BEGIN; INSERT INTO keyless VALUES (1); SAVEPOINT s; INSERT INTO keyless VALUES (2); ROLLBACK TO s;
    INSERT INTO keyless VALUES ('NaN', '<a/>'); COMMIT;
BEGIN; INSERT INTO keyless VALUES (3); ROLLBACK;
SELECT pg_logical_emit_message(false, 'test', 'outside a transaction');
DELETE FROM whole WHERE a = 1; UPDATE whole SET a = a + 10 WHERE m IS NULL;
INSERT INTO typed (id, big) SELECT n, repeat(md5(n::text), 2000) FROM generate_series(10000, 10020) n;
UPDATE typed SET f = 0 WHERE id > 10000;
ALTER TABLE whole ADD COLUMN late text DEFAULT 'late';
INSERT INTO whole VALUES (5, 'sad', 'in time');
TRUNCATE keyless;
CALL many(20000, 150);
INSERT INTO typed (id, big) VALUES (1000006, 'end here');";

#[test]
fn what_is_drained_is_byte_for_byte_what_is_streamed() {
    for_each_version(|server| {
        let database = server.fresh_database("both_ways");
        for setting in ODD_SETTINGS {
            server.psql("postgres", &format!("ALTER DATABASE {database} SET {setting}"));
        }
        server.psql(&database, &format!("SET search_path = public; {TABLES}"));
        let streamed = Backwhen::new(server, &database);
        let drained = Backwhen::new(server, &database).with_env(SMALL_BATCHES.0, SMALL_BATCHES.1);
        let filled = Backwhen::new(server, &database).with_env(FULL_BATCHES.0, FULL_BATCHES.1);
        let all = [&streamed, &drained, &filled];
        all.iter().for_each(|backwhen| drop(backwhen.init()));
        server.psql(&database, &format!("SET search_path = public; {WORK}"));

        let said = all.map(capture_to_the_end);
        assert!(said[0].contains("streaming from") && !said[0].contains("draining"), "{}", said[0]);
        assert!(batches(&said[1]) > 5, "{}", said[1]);
        assert!(batches(&said[2]) > 5, "{}", said[2]);
        let [streamed, drained, filled] = all.map(work_as_recorded);
        assert!(streamed.len() > 700, "only {} messages", streamed.len());
        assert!(streamed == drained, "batches give another history than the stream");
        assert!(
            streamed == filled,
            "batches that end when they are full give another history than the stream"
        );
    });
}

/// Everything it said.
fn capture_to_the_end(backwhen: &Backwhen) -> String {
    let output = backwhen.run(&["capture", "--until", "caught-up"]);
    assert!(output.status.success() && !output.stderr.contains("WARN"), "{}", output.stderr);
    output.stderr
}

fn batches(said: &str) -> usize {
    let (before, _) = said.split_once(" batches").unwrap_or_else(|| panic!("nothing was drained: {said}"));
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

/// The messages of the work. A Relation or Type message says nothing new if it came before, and each
/// batch and each connection begins with them.
fn work_as_recorded(backwhen: &Backwhen) -> Vec<Vec<u8>> {
    let mut known = HashMap::new();
    let mut all = messages(backwhen);
    all.retain(|message| {
        let told = matches!(message[0], b'R' | b'Y');
        !told || known.insert(message[..5].to_vec(), message.clone()).as_ref() != Some(message)
    });
    let find = |what: &[u8]| all.iter().position(|message| message.ends_with(what)).expect("it is there");
    let (begin, end) = (find(b"begin here"), find(b"end here"));
    all[begin..=end].iter().map(|message| without_signature(message)).collect()
}

/// Each history signs what its own event triggers tell; what they tell is the same.
fn without_signature(message: &[u8]) -> Vec<u8> {
    match pgoutput::decode(message).unwrap() {
        Message::Logical { prefix, content, .. } => [prefix, body_of(content)].concat(),
        _ => message.to_vec(),
    }
}

fn messages(backwhen: &Backwhen) -> Vec<Vec<u8>> {
    let history = History::open(&backwhen.local(), None).unwrap();
    let timeline = Timeline::read(&history, &Catalog::open(&history).unwrap()).unwrap();
    let mut found = Vec::new();
    for view in &timeline.current().unwrap().segments {
        let segment = view.open().unwrap();
        let mut visit = |event: Event<'_>| {
            if let Event::Message(message) = event {
                found.push(message.to_vec());
            }
            Ok(ControlFlow::Continue(()))
        };
        segment.read(Lsn::ZERO, Lsn(u64::MAX), &mut visit).unwrap();
    }
    found
}

/// What `latest` gives is what the source holds, and no transaction is in the journal twice.
fn assert_exact(backwhen: &Backwhen) {
    let server = backwhen.server();
    let ends: Vec<_> = messages(backwhen)
        .iter()
        .filter(|message| message[0] == b'C')
        .map(|message| u64::from_be_bytes(message[10..18].try_into().unwrap()))
        .collect();
    assert!(ends.windows(2).all(|pair| pair[0] < pair[1]), "a transaction is in the journal twice");
    let database = server.fresh_database("recovered");
    backwhen.ok(&["recover", "--to", "latest", "--into", &server.conninfo(&database)]);
    assert_same(&Dump::of(server, backwhen.database()), &Dump::of(server, &database));
}

fn confirmed(backwhen: &Backwhen) -> String {
    let sql = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()";
    backwhen.server().psql(backwhen.database(), sql)
}

#[test]
fn killed_between_what_is_durable_and_its_confirmation_it_doubles_nothing() {
    // Of its own, as a batch is so much of the whole server's log.
    let server = Server::start(None);
    let backwhen = shop(&server).with_env("BACKWHEN_TEST_DRAIN", "0:1000000");
    backwhen.init();
    // All of it in the first batch, and enough behind it for a second one.
    server.psql(backwhen.database(), CHANGES);
    let rows = "INSERT INTO orders (customer, note) SELECT 1, md5(n::text) FROM generate_series(1, 30000) n";
    server.psql(backwhen.database(), rows);
    let before = confirmed(&backwhen);
    // The batch is durable, and the slot is about to be told.
    let mut capture = backwhen.spawn_capture_where("BACKWHEN_TEST_PAUSE", "advance:60000");
    capture.wait_until("the batch is durable", |_| messages(&backwhen).len() > 10);
    // A slot that is told too early would move on by now.
    sleep(Duration::from_millis(200));
    assert_eq!(confirmed(&backwhen), before);
    capture.kill();
    assert!(messages(&backwhen).len() > 10, "nothing is durable yet, so this proves little");
    capture_to_the_end(&backwhen);
    assert_exact(&backwhen);
}

#[test]
fn stopped_in_a_batch_it_ends_soon_and_loses_nothing() {
    let server = Server::shared(None);
    let backwhen = shop(&server).with_env(ONE_BATCH.0, ONE_BATCH.1);
    backwhen.init();
    let rows = "INSERT INTO orders (customer, note) SELECT 1, md5(n::text) FROM generate_series(1, 20000) n";
    for name in ["INT", "KILL", "TERM"] {
        // A capture that is asked to end may fetch the whole batch while it waits for its last heartbeat.
        for _ in 0..10 {
            server.psql(backwhen.database(), rows);
        }
        let mut capture = backwhen.spawn_capture();
        capture.allow("trying again").wait_for_step(State::Streaming, "draining what was committed");
        // Nothing tells how far the server is with the batch; this is within it.
        sleep(Duration::from_millis(120));
        match name {
            "KILL" => capture.kill(),
            name => {
                capture.signal(name);
                assert!(capture.wait().success(), "after SIG{name}");
            }
        }
    }
    backwhen.ok(&["capture", "--until", "caught-up"]);
    assert_exact(&backwhen);
}

/// The batch would be too large for what the server may write to temporary files.
#[test]
fn what_may_not_be_fetched_in_batches_is_streamed() {
    let server = Server::shared(None);
    let backwhen = shop(&server).with_env(ONE_BATCH.0, ONE_BATCH.1);
    backwhen.init();
    server.psql(backwhen.database(), CHANGES);
    let rows = "INSERT INTO orders (customer, note) SELECT 1, md5(n::text) FROM generate_series(1, 50000) n";
    server.psql(backwhen.database(), rows);
    let limit = format!("ALTER DATABASE {} SET temp_file_limit = '1MB'", backwhen.database());
    server.psql("postgres", &limit);
    let output = backwhen.run(&["capture", "--until", "caught-up"]);
    assert!(output.status.success(), "{}", output.stderr);
    let said = ["cannot be fetched in batches", "temp_file_limit", "streaming from"];
    crate::support::shop::assert_says(&output.stderr, &said);
    assert_exact(&backwhen);
}
