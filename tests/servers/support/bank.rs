//! A bank under load, and an auditor: what money there is never changes, and every client counts its
//! trades without a hole. So a transaction that is missing, torn or there twice cannot hide.

use std::path::Path;

use backwhen::history::catalog::Catalog;
use backwhen::history::timeline::Timeline;
use backwhen::model::Lsn;

use super::scan::readable;
use super::{Backwhen, Server, meanwhile};

const ACCOUNTS: u32 = 20;
const CLIENTS: u32 = 2;

/// `counted` has no key, so that a row that came twice would stay twice.
const BANK: &str = "
    CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL);
    INSERT INTO account SELECT n, 1000 FROM generate_series(1, 20) n;
    CREATE TABLE counted (client int, n int);
    CREATE INDEX ON counted (client, n);
    ALTER TABLE counted REPLICA IDENTITY FULL;
    CREATE PROCEDURE trade(client int, count int) LANGUAGE plpgsql AS $$
    DECLARE n int := (SELECT coalesce(max(c.n), 0) FROM counted c WHERE c.client = trade.client);
    BEGIN
        FOR i IN 1..count LOOP
            n := n + 1;
            UPDATE account SET balance = balance - n % 100 WHERE id = 1 + n % 10;
            INSERT INTO counted VALUES (client, n);
            UPDATE account SET balance = balance + n % 100 WHERE id = 11 + n % 10;
            COMMIT;
        END LOOP;
    END $$;";

/// Names of the source, which no object has by chance.
const NAMES: &[&str] = &["account", "counted", "balance"];

/// Names of the source are readable in a history that is not encrypted, so the scan finds them, and in no other.
pub fn assert_shows_names(objects: &[(String, Vec<u8>)], is_encrypted: bool) {
    let expected = if is_encrypted { &[] } else { NAMES };
    assert_eq!(readable(NAMES, objects), expected, "of {} objects", objects.len());
}

pub fn bank(server: &Server) -> String {
    let database = server.fresh_database("bank");
    server.psql(&database, BANK);
    database
}

/// Trades in the background for as long as `work` takes; all of it is committed when this returns.
pub fn while_trading<T>(server: &Server, database: &str, work: impl FnOnce() -> T) -> T {
    let trade = |client| drop(server.psql(database, &format!("CALL trade({client}, 40)")));
    meanwhile(CLIENTS, trade, work)
}

/// How often each client has traded, as the source knows.
pub fn trades(server: &Server, database: &str) -> String {
    server.psql(database, "SELECT client, count(*) FROM counted GROUP BY 1 ORDER BY 1")
}

/// What the server has been told to be durable is in the history. Asked in this order a frontier that
/// moves on cannot hide a fault.
pub fn assert_confirmed_is_held(backwhen: &Backwhen) {
    let confirmed = confirmed(backwhen);
    let frontier = timeline(backwhen).current().unwrap().frontier();
    assert!(confirmed <= frontier, "{confirmed} is confirmed, and the history ends at {frontier}");
}

/// The position up to which the server has been told that everything is durable.
pub fn confirmed(backwhen: &Backwhen) -> Lsn {
    let sql = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database() AND NOT temporary";
    backwhen.server().psql(backwhen.database(), sql).parse().unwrap()
}

/// Reads the objects as a process does that comes fresh to them.
pub fn timeline(backwhen: &Backwhen) -> Timeline {
    timeline_at(backwhen, &backwhen.history())
}

fn timeline_at(backwhen: &Backwhen, folder: &Path) -> Timeline {
    let history = backwhen.history_at(folder);
    Timeline::read(&history, &Catalog::open(&history).unwrap()).unwrap()
}

/// The ends of all transactions, in the order in which they are kept; each must be there once.
pub fn commits(backwhen: &Backwhen) -> Vec<Lsn> {
    commits_at(backwhen, &backwhen.history())
}

/// The same of any folder with that history.
pub fn commits_at(backwhen: &Backwhen, history: &Path) -> Vec<Lsn> {
    let timeline = timeline_at(backwhen, history);
    let segments = timeline.current().unwrap().segments.iter();
    let segments = segments.map(|view| view.open().unwrap());
    let commits: Vec<_> = segments
        .flat_map(|segment| segment.transactions().iter().map(|it| it.end_lsn).collect::<Vec<_>>())
        .collect();
    assert!(commits.windows(2).all(|pair| pair[0] < pair[1]), "a transaction is in the journal twice");
    commits
}

/// Recovers the moment. The total is what it always was, and each client's count has no hole and
/// nothing twice. Returns the counts.
pub fn assert_books_balance(backwhen: &Backwhen, to: &str) -> String {
    assert_history_balances(backwhen, backwhen.history().to_str().unwrap(), to)
}

/// The same of any history, in a folder or in an object store.
pub fn assert_history_balances(backwhen: &Backwhen, history: &str, to: &str) -> String {
    let file = backwhen.folder().join(format!("{}.sqlite", to.replace('/', "-")));
    let _ = std::fs::remove_file(&file);
    let into = format!("sqlite:{}", file.display());
    backwhen.ok(&["recover", "--history", history, "--to", to, "--into", &into]);
    let books = rusqlite::Connection::open(file).unwrap();
    let number = |sql: &str| books.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(number("SELECT sum(balance) FROM account"), i64::from(ACCOUNTS) * 1000, "at {to}");
    let traded = number("SELECT coalesce(sum(n % 100), 0) FROM counted");
    let paid_in = number("SELECT sum(balance) - 10000 FROM account WHERE id > 10");
    assert_eq!(traded, paid_in, "at {to}");
    let mut counts = Vec::new();
    for client in 1..=CLIENTS {
        let of_client = format!("FROM counted WHERE client = {client}");
        let count = number(&format!("SELECT count(*) {of_client}"));
        let last = number(&format!("SELECT coalesce(max(n), 0) {of_client}"));
        let different = number(&format!("SELECT count(DISTINCT n) {of_client}"));
        assert_eq!((count, count), (last, different), "client {client} at {to}");
        if count > 0 {
            counts.push(format!("{client}|{count}"));
        }
    }
    counts.join("\n")
}
