//! 1. Nothing is acknowledged to the server before it is durable in the history. A crash at any
//!    instruction loses nothing and doubles nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use backwhen::history::History;
use backwhen::history::catalog::Catalog;
use backwhen::history::timeline::Timeline;
use backwhen::model::Lsn;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{Backwhen, Server};

const ACCOUNTS: u32 = 20;
const KILLS: usize = 12;

/// `counted` has no key, so that a row that came twice would stay twice.
const BANK: &str = "
    CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL);
    INSERT INTO account SELECT n, 1000 FROM generate_series(1, 20) n;
    CREATE TABLE counted (client int, n int);
    ALTER TABLE counted REPLICA IDENTITY FULL;
    CREATE PROCEDURE trade(client int, count int) LANGUAGE plpgsql AS $$
    DECLARE n int := (SELECT coalesce(max(c.n), 0) FROM counted c WHERE c.client = trade.client);
    BEGIN
        FOR i IN 1..count LOOP
            n := n + 1;
            UPDATE account SET balance = balance - n WHERE id = 1 + n % 10;
            INSERT INTO counted VALUES (client, n);
            UPDATE account SET balance = balance + n WHERE id = 11 + n % 10;
            COMMIT;
        END LOOP;
    END $$;";

#[test]
fn a_capture_killed_again_and_again_loses_and_doubles_nothing() {
    let server = Server::shared(None);
    let database = server.fresh_database("bank");
    server.psql(&database, BANK);
    let backwhen = Backwhen::new(&server, &database).with_env("BACKWHEN_HEARTBEAT", "1s");
    backwhen.init();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in 1..=2 {
            let (server, database, done) = (&server, &database, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    server.psql(database, &format!("CALL trade({client}, 50)"));
                }
            });
        }
        kill_often(&backwhen);
        done.store(true, Ordering::Relaxed);
    });
    backwhen.ok(&["capture", "--until", "caught-up"]);

    let commits = commits(&backwhen);
    assert!(commits.windows(2).all(|pair| pair[0] < pair[1]), "a transaction is in the journal twice");
    let step = (commits.len() / 6).max(1);
    for end in commits.iter().step_by(step).skip(1) {
        assert_books_balance(&backwhen, &end.to_string());
    }
    let expected = server.psql(&database, "SELECT client, count(*) FROM counted GROUP BY 1 ORDER BY 1");
    assert_eq!(assert_books_balance(&backwhen, "latest"), expected);
}

/// Everything is received, and the disk keeps it waiting for longer than the server goes without
/// news from us.
#[test]
fn what_the_disk_has_not_taken_is_not_acknowledged() {
    let server = Server::shared(None);
    let database = server.fresh_database("slow_disk");
    server.psql(&database, "CREATE TABLE t (id int PRIMARY KEY)");
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    let mut capture = backwhen.spawn_capture_where("BACKWHEN_TEST_PAUSE", "disk:25000");
    capture.wait_for_line("streaming from");
    server.psql(&database, "INSERT INTO t SELECT generate_series(1, 1000)");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(13) {
        assert_confirmed_is_held(&backwhen);
        sleep(Duration::from_millis(200));
    }
    assert_eq!(commits(&backwhen), [], "the disk was not slow, so this proves nothing");
    capture.kill();
    assert_confirmed_is_held(&backwhen);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &server.conninfo("slow_disk_past")]);
    assert_eq!(server.psql("slow_disk_past", "SELECT count(*) FROM t").trim(), "1000");
}

fn kill_often(backwhen: &Backwhen) {
    let mut random = StdRng::seed_from_u64(1);
    for kill in 0..KILLS {
        // Every other one fetches what it missed in batches, of a few transactions each.
        let backlog = if kill % 2 == 0 { "0:65536" } else { "" };
        let mut capture = backwhen.spawn_capture_where("BACKWHEN_TEST_DRAIN", backlog);
        capture.allow("trying again");
        // The first ones meet it while it starts, the later ones in the middle of work.
        sleep(Duration::from_millis(random.random_range(30..700)));
        assert_confirmed_is_held(backwhen);
        capture.kill();
        assert_confirmed_is_held(backwhen);
    }
}

/// Asked in this order a frontier that moves on cannot hide a fault.
fn assert_confirmed_is_held(backwhen: &Backwhen) {
    let sql = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()";
    let confirmed: Lsn = backwhen.server().psql(backwhen.database(), sql).parse().unwrap();
    let frontier = timeline(backwhen).current().unwrap().frontier();
    assert!(confirmed <= frontier, "{confirmed} is confirmed, and the history ends at {frontier}");
}

/// Reads the objects as a process does that comes fresh to them.
fn timeline(backwhen: &Backwhen) -> Timeline {
    let history = History::open(&backwhen.history()).unwrap();
    Timeline::read(&history, &Catalog::open(&history).unwrap()).unwrap()
}

/// The ends of all transactions, in the order in which they are kept.
fn commits(backwhen: &Backwhen) -> Vec<Lsn> {
    use backwhen::history::journal::Segment;
    let timeline = timeline(backwhen);
    let segments = timeline.current().unwrap().segments.iter();
    let segments = segments.map(|view| Segment::open(&view.file.path).unwrap());
    segments
        .flat_map(|segment| segment.transactions().iter().map(|it| it.end_lsn).collect::<Vec<_>>())
        .collect()
}

/// The total is what it always was, and each client's count has no hole and nothing twice. Returns
/// the counts.
fn assert_books_balance(backwhen: &Backwhen, to: &str) -> String {
    let file = backwhen.folder().join(format!("{}.sqlite", to.replace('/', "-")));
    backwhen.ok(&["recover", "--to", to, "--into", &format!("sqlite:{}", file.display())]);
    let books = rusqlite::Connection::open(file).unwrap();
    let number = |sql: &str| books.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(number("SELECT sum(balance) FROM account"), i64::from(ACCOUNTS) * 1000, "at {to}");
    let traded = number("SELECT coalesce(sum(n), 0) FROM counted");
    let paid_in = number("SELECT sum(balance) - 10000 FROM account WHERE id > 10");
    assert_eq!(traded, paid_in, "at {to}");
    let mut counts = Vec::new();
    for client in 1..=2 {
        let of_client = format!("FROM counted WHERE client = {client}");
        let count = number(&format!("SELECT count(*) {of_client}"));
        assert_eq!(
            count,
            number(&format!("SELECT coalesce(max(n), 0) {of_client}")),
            "client {client} at {to}"
        );
        assert_eq!(
            count,
            number(&format!("SELECT count(DISTINCT n) {of_client}")),
            "client {client} at {to}"
        );
        counts.push(format!("{client}|{count}"));
    }
    counts.join("\n")
}
