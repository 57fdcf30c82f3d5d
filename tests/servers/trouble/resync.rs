//! The source and the history are brought together again by digests: only what differs is read.

use std::collections::BTreeMap;

use backwhen::history::History;
use backwhen::history::resync::{Resync, TableResync};

use crate::support::shop::{CHANGES as SALES, assert_says, shop};
use crate::support::{Backwhen, Dump, Proxy, Server, assert_same, meanwhile};

/// Values whose text is easily got wrong, and tables of every kind.
const SCHEMA: &str = r#"
CREATE TYPE pair AS (a int, b text);
CREATE TABLE "Odd ""values""" (id bigint PRIMARY KEY, "Näme" text, yes bool, padded char(9), address inet,
    letter "char", two pair, raw bytea, f float8, n numeric(20, 5), list text[], doc json, at timestamptz,
    span interval, length int GENERATED ALWAYS AS (octet_length("Näme")) STORED);
INSERT INTO "Odd ""values""" SELECT n,
    CASE n % 7 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN E'it''s\t\\N\n' WHEN 3 THEN 'NULL' WHEN 4 THEN 'é,"' ELSE repeat('long ', n % 60) END,
    n % 2 = 0, 'x', '10.0.0.1', 'c', CASE n % 3 WHEN 0 THEN ROW(NULL, NULL)::pair WHEN 1 THEN ROW(n, '')::pair END,
    '\x00ff5c'::bytea, CASE n % 5 WHEN 0 THEN 'NaN' ELSE sqrt(n) END, n / 3.0, ARRAY['a', NULL, 'b"c'], '{"a" : 1}',
    '2001-02-03 04:05:06.789+00'::timestamptz + n * interval '1 day', n * interval '1.5 hours'
  FROM generate_series(1, 3000) n;
CREATE TABLE bag (a int, b text);
ALTER TABLE bag REPLICA IDENTITY FULL;
INSERT INTO bag SELECT n % 50, 'same' FROM generate_series(1, 1000) n;
CREATE TABLE keyless (n int); INSERT INTO keyless SELECT generate_series(1, 500);
CREATE TABLE bare (); ALTER TABLE bare REPLICA IDENTITY FULL; INSERT INTO bare DEFAULT VALUES;
CREATE TABLE empty (id uuid PRIMARY KEY);
CREATE TABLE parted (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE part PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO parted SELECT n, '2026-01-01'::date + n % 300 FROM generate_series(1, 2000) n;
CREATE TABLE reshaped (id int PRIMARY KEY, v text); INSERT INTO reshaped SELECT n, 'v' FROM generate_series(1, 900) n;
CREATE TABLE dropped (id int PRIMARY KEY);
DO $$ BEGIN EXECUTE 'CREATE TABLE wide (id int PRIMARY KEY, ' ||
    (SELECT string_agg('c' || n || ' int', ', ') FROM generate_series(1, 200) n) || ')'; END $$;
INSERT INTO wide (id, c1, c95, c200) SELECT n, n, n, n FROM generate_series(1, 700) n;
"#;

/// In each table as many rows as `expected` says.
const CHANGES: &str = r#"
UPDATE "Odd ""values""" SET "Näme" = '' WHERE id IN (700, 1400);
DELETE FROM "Odd ""values""" WHERE id = 17;
INSERT INTO "Odd ""values""" (id) VALUES (100000);
DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE a = 7 LIMIT 3);
INSERT INTO bag VALUES (8, 'same'), (8, 'same'), (NULL, 'new');
DELETE FROM keyless WHERE n = 250; UPDATE keyless SET n = -1 WHERE n = 1;
INSERT INTO bare DEFAULT VALUES;
INSERT INTO empty VALUES ('00000000-0000-0000-0000-000000000001');
UPDATE parted SET day = day + 1 WHERE id = 1000;
UPDATE wide SET c200 = 0 WHERE id = 350;
ALTER TABLE reshaped ADD COLUMN more int;
DROP TABLE dropped;
CREATE TABLE made (id int PRIMARY KEY); INSERT INTO made SELECT generate_series(1, 300);
"#;

fn lose_the_slot(backwhen: &Backwhen) {
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
               WHERE database = current_database() AND NOT temporary";
    backwhen.server().psql(backwhen.database(), sql);
}

/// What the newest epoch's first checkpoint was made of.
fn resync(backwhen: &Backwhen) -> Resync {
    let history = History::open(&backwhen.local(), None).unwrap();
    let epoch = history.current_epoch().unwrap();
    let id = backwhen::history::checkpoint::checkpoint_id(epoch.number, epoch.start);
    history.read_checkpoint(&id).unwrap().resync.expect("the source was compared")
}

fn by_name(resync: &Resync) -> BTreeMap<&str, &TableResync> {
    resync.tables.iter().map(|table| (table.table.as_str(), table)).collect()
}

fn assert_latest_is_exact(backwhen: &Backwhen) {
    let server = backwhen.server();
    let into = server.fresh_database("resynced");
    backwhen.ok(&["recover", "--to", "latest", "--into", &server.conninfo(&into)]);
    assert_same(&Dump::of(server, backwhen.database()), &Dump::of(server, &into));
}

#[test]
fn only_rows_that_differ_are_read_after_a_loss() {
    // The digests are the server's own work, so the oldest must do it too.
    for version in [crate::support::versions().into_iter().min(), None] {
        let server = &Server::shared(version);
        let database = server.fresh_database("differs");
        server.psql(&database, SCHEMA);
        let backwhen = Backwhen::new(server, &database);
        backwhen.init();
        backwhen.ok(&["capture", "--until", "caught-up"]);
        lose_the_slot(&backwhen);
        server.psql(&database, CHANGES);
        backwhen.ok(&["capture", "--until", "caught-up"]);

        let resync = resync(&backwhen);
        let tables = by_name(&resync);
        let expected = [
            ("public.Odd \"values\"", 3, 3),
            ("public.bag", 3, 3),
            ("public.keyless", 2, 1),
            ("public.bare", 0, 1),
            ("public.empty", 0, 1),
            ("public.part", 1, 1),
            ("public.wide", 1, 1),
        ];
        for (name, gone, new) in expected {
            let table = tables[name];
            assert_eq!((table.rows_gone, table.rows_new, &table.read_whole), (gone, new, &None), "{table:?}");
            assert!(table.differs && table.ranges_differed >= 1, "{table:?}");
        }
        let odd = tables["public.Odd \"values\""];
        assert!(odd.bytes_read * 8 < odd.bytes, "{odd:?}");
        for (name, why) in
            [("public.made", "does not have it"), ("public.reshaped", "its definition changed")]
        {
            assert!(tables[name].read_whole.as_ref().unwrap().contains(why), "{:?}", tables[name]);
        }
        assert_eq!(resync.gone, ["public.dropped"]);
        assert_latest_is_exact(&backwhen);
        backwhen.ok(&["verify", "--prove"]);
    }
}

/// Runs pgbench's bank in the background for as long as `work` takes.
fn under_pgbench(server: &Server, database: &str, work: impl FnOnce()) {
    let trade = |_| {
        let output = server.client("pgbench", database, &["-n", "-c", "2", "-T", "1"], "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    meanwhile(1, trade, work);
}

/// Every transaction of pgbench's adds one number to an account, a teller, a branch and to what is noted of
/// it: a state in which one of these is torn does not add up.
fn assert_adds_up(backwhen: &Backwhen, to: &str) {
    let server = backwhen.server();
    let into = server.fresh_database("adds_up");
    backwhen.ok(&["recover", "--to", to, "--into", &server.conninfo(&into)]);
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
                (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history)";
    let sums = server.psql(&into, sums);
    let each: Vec<_> = sums.split('|').collect();
    assert!(!each[0].is_empty() && each.iter().all(|sum| *sum == each[0]), "at {to}: {sums}");
}

/// The capture runs on, and so does the application.
#[test]
fn a_source_under_load_is_brought_together_again() {
    let server = Server::shared(None);
    let database = server.fresh_database("pgbench");
    server.client("pgbench", &database, &["-i", "-q", "-I", "dtGvp"], "");
    let backwhen = Backwhen::new(&server, &database).with_env("BACKWHEN_HEARTBEAT", "200ms");
    backwhen.init();
    let mut capture = backwhen.spawn_capture();
    capture.allow("continuity is lost").allow("trying again").allow("is gone");
    under_pgbench(&server, &database, || {
        capture.wait_caught_up();
        let lost = "DO $$ BEGIN FOR i IN 1..1000 LOOP
            PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database();
            BEGIN
                PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database();
                EXIT;
            EXCEPTION WHEN object_in_use THEN PERFORM pg_sleep(0.005);
            END; END LOOP; END $$";
        server.psql(&database, lost);
        capture.wait_for_epoch(2);
        capture.wait_caught_up();
    });
    capture.wait_caught_up();
    capture.stop();
    let gap = &backwhen.json_lines(&["list", "gaps"])[0];
    for (side, what) in [("from", "lsn"), ("from", "time"), ("to", "lsn"), ("to", "time")] {
        assert_adds_up(&backwhen, gap[side][what].as_str().unwrap());
    }
    let resync = resync(&backwhen);
    let accounts = by_name(&resync)["public.pgbench_accounts"];
    assert!(accounts.read_whole.is_none() && accounts.rows == 100_000, "{accounts:?}");
    assert_latest_is_exact(&backwhen);
}

/// The stream carries nothing of what this transaction does to the tables, and the event triggers take it for
/// our own doing.
fn change_unseen(backwhen: &Backwhen, tables: &str, sql: &str) {
    let (server, database) = (backwhen.server(), backwhen.database());
    let exact = server.psql(
        database,
        "SELECT quote_ident(pubname) FROM pg_publication WHERE pubupdate ORDER BY length(pubname) LIMIT 1",
    );
    let publish = |how: &str| format!("ALTER PUBLICATION {exact} {how} TABLE {tables}");
    server.psql(
        database,
        &format!(
            "BEGIN; UPDATE backwhen.{exact}_config SET own = pg_current_xact_id(); {}; {sql}; {}; COMMIT",
            publish("DROP"),
            publish("ADD")
        ),
    );
}

#[test]
fn on_suspicion_rows_that_were_lost_unnoticed_are_found_and_put_right() {
    let server = Server::shared(None);
    let backwhen = shop(&server).with_env("BACKWHEN_HEARTBEAT", "200ms");
    backwhen.init();
    let mut capture = backwhen.spawn_capture();
    capture.wait_streaming();
    server.psql(backwhen.database(), SALES);
    let resync = || backwhen.json(&["resync"]);
    let whole = resync();
    let none = serde_json::Value::Null;
    assert_eq!((&whole["ok"], &whole["checkpoint"], &whole["gap"]), (&true.into(), &none, &none), "{whole}");
    assert_says(&whole["not_compared"].to_string(), &["public.visits: inserts only"]);
    assert_says(&backwhen.ok(&["status"]), &["proven up to", "(resync, "]);

    change_unseen(
        &backwhen,
        "customers, orders",
        "UPDATE customers SET name = 'unseen' WHERE id = 7; DELETE FROM orders WHERE id = 40",
    );
    server.psql(backwhen.database(), "INSERT INTO orders (customer) VALUES (1)");
    let before = server.psql("postgres", "SELECT pg_current_wal_insert_lsn()");
    let mended = resync();
    assert_eq!((&mended["ok"], &mended["gap"]), (&false.into(), &none), "{mended}");
    assert_eq!((&mended["rows_gone"], &mended["rows_new"]), (&2.into(), &1.into()), "{mended}");
    assert!(mended["bytes_read"].as_u64() < mended["bytes"].as_u64().map(|bytes| bytes / 10), "{mended}");
    server.psql(backwhen.database(), "INSERT INTO orders (customer) VALUES (2)");
    assert_eq!(resync()["ok"], true);
    capture.wait_caught_up();
    capture.stop();

    let mended = format!("checkpoint:{}", mended["checkpoint"].as_str().unwrap());
    assert_eq!(backwhen.json_lines(&["list", "gaps"]).len(), 0);
    assert_latest_is_exact(&backwhen);
    backwhen.ok(&["verify", "--prove"]);
    let said = |to: &str| {
        let plan = backwhen.json(&["recover", "--to", to, "--dry-run", "--into", "sqlite:no"]);
        let list = plan["inexact"].as_array().unwrap().iter();
        let lost = list.filter(|it| it["why"].as_str().unwrap().contains("may lack changes since"));
        lost.map(|it| it["what"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(said(&before), ["public.customers", "public.orders"]);
    assert_eq!(said(&mended), Vec::<String>::new());
    assert_eq!(said("latest"), Vec::<String>::new());
}

/// The command has the lock that capture needs to begin a new epoch, and capture was to bring the history to where
/// the command compares.
#[test]
fn it_steps_aside_for_a_capture_that_finds_a_loss() {
    let server = Server::shared(None);
    let backwhen = shop(&server).with_env("BACKWHEN_HEARTBEAT", "200ms");
    backwhen.init();
    let mut capture = backwhen.spawn_capture();
    capture.allow("trying again").allow("continuity is lost");
    capture.wait_caught_up();
    capture.signal("STOP");
    let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
               WHERE active AND NOT temporary AND database = current_database()";
    server.psql(backwhen.database(), end);
    let wait_for = |condition: &str, count: u32| {
        let slots = "FROM pg_replication_slots WHERE database = current_database()";
        let sql = format!("SELECT count(*) = {count} {slots} AND {condition}");
        server.wait_until(backwhen.database(), &sql);
    };
    wait_for("active", 0);
    lose_the_slot(&backwhen);
    server.psql(backwhen.database(), "UPDATE orders SET note = 'in the gap' WHERE id = 100");
    std::thread::scope(|scope| {
        let resyncing = scope.spawn(|| backwhen.json(&["resync"]));
        wait_for("temporary", 1);
        capture.signal("CONT");
        let shown = resyncing.join().expect("it succeeds");
        assert_eq!((&shown["ok"], &shown["epoch"]), (&true.into(), &2.into()), "{shown}");
        assert_eq!((&shown["rows_gone"], &shown["rows_new"]), (&1.into(), &1.into()), "{shown}");
    });
    capture.wait_caught_up();
    capture.stop();
    assert_latest_is_exact(&backwhen);
}

/// It brings the history up to now by itself.
#[test]
fn without_a_capture_too_and_after_a_loss_behind_a_gap() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    backwhen.init();
    server.psql(backwhen.database(), SALES);
    assert_says(&backwhen.ok(&["resync"]), &["the history is what the source is"]);
    assert_latest_is_exact(&backwhen);
    lose_the_slot(&backwhen);
    server.psql(backwhen.database(), "UPDATE orders SET note = 'in the gap' WHERE id = 100");
    let shown = backwhen.json(&["resync"]);
    assert_eq!((&shown["ok"], &shown["epoch"]), (&true.into(), &2.into()), "{shown}");
    assert_eq!((&shown["rows_gone"], &shown["rows_new"]), (&1.into(), &1.into()), "{shown}");
    assert_eq!(shown["gap"], backwhen.json_lines(&["list", "gaps"])[0]);
    assert!(shown["evidence"].is_string(), "{shown}");
    assert_latest_is_exact(&backwhen);
}

/// The journal since the last checkpoint is spoilt, or all that there is to compare with.
#[test]
fn a_damaged_history_is_compared_as_far_as_it_can_be_read() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    backwhen.init();
    server.psql(backwhen.database(), SALES);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    for pack in std::fs::read_dir(backwhen.history().join("packs")).unwrap() {
        let path = pack.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    lose_the_slot(&backwhen);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let resync = resync(&backwhen);
    let whole = resync.tables.iter().filter_map(|table| table.read_whole.as_ref());
    assert!(whole.clone().any(|why| why.contains("the history's image is damaged")), "{resync:?}");
    assert_latest_is_exact(&backwhen);
}

/// One row in ten thousand, as in a table of 10 million rows of which 1000 differ.
#[test]
fn a_large_table_with_few_differing_rows_sends_a_hundredth_of_itself() {
    let server = Server::shared(None);
    let database = server.fresh_database("large");
    let rows = "SELECT n, repeat(md5(n::text), 3) FROM generate_series(1, 100000) n";
    server.psql(&database, &format!("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t {rows}"));
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    change_unseen(&backwhen, "t", "UPDATE t SET v = 'new' WHERE id % 10000 = 77");
    let proxy = Proxy::before(&server);
    let shown = backwhen.json(&["resync", "--source", &proxy.conninfo(&database)]);
    assert_eq!((&shown["rows_gone"], &shown["rows_new"]), (&10.into(), &10.into()), "{shown}");
    let (read, bytes) = (shown["bytes_read"].as_u64().unwrap(), shown["bytes"].as_u64().unwrap());
    assert!(read * 100 <= bytes, "{read} of {bytes} bytes were sent");
    // All else, catalogs and pg_dump's questions, does not grow with the table.
    let sent = proxy.sent();
    assert!((read..read + 1_000_000).contains(&sent), "{sent} bytes came from the server, {read} are told");
}
