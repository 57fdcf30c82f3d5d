//! The live database is either as it was or put right, also if something goes wrong, or if others write meanwhile.

use std::sync::atomic::{AtomicU32, Ordering};

use backwhen::connect::Conninfo;
use backwhen::model::{Column, Grade, RowIdentity, Storage, Table};
use backwhen::source::amend::{Act, AmendSession, AmendedRow, AmendedTable, live_schema};

use super::{Scene, assert_rows, on_oldest_and_newest, while_captured};
use crate::support::shop::OpenSession;
use crate::support::{Dump, Server, meanwhile};

const BANK: &str = "
CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
CREATE TABLE moves (id serial PRIMARY KEY, account int REFERENCES accounts, amount int);
CREATE TABLE elsewhere (id serial PRIMARY KEY, v int);
INSERT INTO accounts SELECT g, 1000 FROM generate_series(1, 50) g";

const MOVE: &str = "DO $$ DECLARE a int := 1 + random() * 49; b int := 1 + random() * 49; BEGIN
    PERFORM FROM accounts WHERE id IN (a, b) ORDER BY id FOR UPDATE;
    UPDATE accounts SET balance = balance - 5 WHERE id = a; UPDATE accounts SET balance = balance + 5 WHERE id = b;
    INSERT INTO moves (account, amount) VALUES (a, -5), (b, 5); INSERT INTO elsewhere (v) VALUES (a);
    EXCEPTION WHEN deadlock_detected THEN NULL; -- two writers may meet each other
    END $$";

/// The rows of some tables at a moment, as a recovery has them.
fn recovered(scene: &Scene, to: &str) -> Dump {
    let server = scene.backwhen.server();
    let target = server.fresh_database("recovered");
    scene.backwhen.ok(&[
        "recover",
        "--to",
        to,
        "--into",
        &server.conninfo(&target),
        "--table",
        "accounts",
        "--table",
        "moves",
    ]);
    Dump::of(server, &target)
}

/// Writers of the same tables wait or come before; what they did before the locks is taken back, too, and what they do
/// afterwards stays.
#[test]
fn a_rewind_among_writers_leaves_exactly_the_moment() {
    on_oldest_and_newest(|server| {
        while_captured(server, BANK, |scene| {
            scene.psql(&format!("{MOVE}; {MOVE}; {MOVE}"));
            scene.mark("good");
            let good = recovered(scene, "mark:good");
            let report = meanwhile(
                3,
                |_| drop(scene.psql(MOVE)),
                || {
                    scene.psql("UPDATE accounts SET balance = 0; DELETE FROM moves");
                    scene.rewind(&["--to", "mark:good", "--table", "accounts", "--table", "moves"])
                },
            );
            let xid = format!("xid:{}", report["xid"]);
            assert_rows(&good, &recovered(scene, &xid));
            assert_eq!(
                scene.psql("SELECT sum(balance) FROM accounts"),
                "50000",
                "later writers found the right books"
            );
        });
    });
}

#[test]
fn an_undo_among_writers_takes_back_just_its_transaction() {
    on_oldest_and_newest(|server| {
        while_captured(server, BANK, |scene| {
            let moved = AtomicU32::new(0);
            let again = |_| {
                scene.psql(MOVE);
                moved.fetch_add(1, Ordering::Relaxed);
            };
            meanwhile(3, again, || {
                let wrong = scene.transaction("INSERT INTO accounts SELECT g, 7 FROM generate_series(100, 2000) g; UPDATE elsewhere SET v = -v");
                scene.undo(&format!("xid:{wrong}"), &[]);
            });
            assert_eq!(scene.psql("SELECT count(*), sum(balance) FROM accounts"), "50|50000");
            assert_eq!(scene.psql("SELECT count(*) FROM elsewhere WHERE v < 0"), "0");
            assert_eq!(scene.psql("SELECT count(*) FROM moves"), (2 * moved.into_inner()).to_string());
        });
    });
}

/// The failpoints at which a rewind can be killed.
pub const REWIND: &[&str] = &["rewind.planned", "rewind.locked", "rewind.applied", "rewind.committed"];

#[test]
fn a_kill_leaves_the_database_as_it_was_or_rewound() {
    let server = Server::shared(None);
    let triggers =
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER t AFTER UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION nothing()";
    while_captured(&server, &format!("{BANK}; {triggers}"), |scene| {
        for point in REWIND {
            let good = scene.dump();
            scene.mark(point);
            scene.psql("UPDATE accounts SET balance = balance + 1");
            let bad = scene.dump();
            scene.backwhen.dies(point, &["rewind", "--to", &format!("mark:{point}"), "--apply"]);
            let busy = "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '%rewind%'";
            server.wait_until(scene.backwhen.database(), busy);
            let (expected, other) = if *point == "rewind.committed" { (&good, &bad) } else { (&bad, &good) };
            assert_rows(expected, &scene.dump());
            assert_ne!(expected.rows, other.rows);
            assert_eq!(scene.psql("SELECT tgenabled FROM pg_trigger WHERE tgname = 't'"), "O");
            scene.rewind(&["--to", &format!("mark:{point}")]);
            assert_rows(&good, &scene.dump());
        }
    });
}

#[test]
fn a_transaction_in_the_way_is_named_and_the_rewind_gives_up() {
    let server = Server::shared(None);
    while_captured(&server, BANK, |scene| {
        scene.mark("good");
        scene.psql("UPDATE accounts SET balance = 0");
        let mut holder = OpenSession::new(&server, &scene.backwhen.source());
        holder.run("BEGIN; UPDATE accounts SET balance = 1 WHERE id = 1;");
        let error = scene.backwhen.fails(10, &["rewind", "--to", "mark:good", "--apply"]);
        assert!(error.contains("is in the way") && error.contains("pg_terminate_backend"), "{error}");
        holder.run("COMMIT;");
        scene.rewind(&["--to", "mark:good"]);
        assert_eq!(
            scene.psql("SELECT sum(balance) FROM accounts"),
            "50000",
            "what it held back goes back, too"
        );
    });
}

#[test]
fn without_a_capture_nothing_is_known_and_nothing_changed() {
    let server = Server::shared(None);
    let database = server.fresh_database("live");
    server.psql(&database, BANK);
    let backwhen = crate::support::Backwhen::new(&server, &database);
    backwhen.init();
    let error = backwhen.fails(14, &["rewind", "--to", "latest", "--apply"]);
    assert!(error.contains("no capture is running") && error.contains("backwhen capture"), "{error}");
    backwhen.fails(14, &["undo", "xid:5", "--apply"]);
}

/// A row that is not what the history says, although nobody can write: nothing is changed, and the row is named.
#[test]
fn a_row_that_is_not_what_it_must_be_stops_everything() {
    let server = Server::shared(None);
    let database = server.fresh_database("live");
    server.psql(
        &database,
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')",
    );
    let oid: u32 = server.psql(&database, "SELECT 't'::regclass::oid").parse().unwrap();
    let column = |name: &str, number, type_oid| Column {
        name: name.into(),
        number,
        type_oid,
        type_modifier: -1,
        type_name: String::new(),
    };
    let table = Table {
        oid,
        schema: "public".into(),
        name: "t".into(),
        columns: vec![column("id", 1, 23), column("v", 2, 25)],
        generated: Vec::new(),
        identity: RowIdentity::Key(vec![0]),
        grade: Grade::Exact,
        storage: Storage::default(),
        in_stream: None,
        partition_of: Vec::new(),
    };
    let row = |now: &str, then: &str| AmendedRow {
        act: Act::Update,
        now: Some(now.as_bytes().into()),
        then: Some(then.as_bytes().into()),
        parks: false,
    };
    let rows = vec![row("1\ta", "1\tx"), row("2\tother", "2\tx"), row("3\tc", "3\tx"), row("4\td", "4\tx")];
    let amended = AmendedTable { table, rows, parking: None };
    let source = Conninfo::parse(&server.conninfo(&database)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let surprises = runtime.block_on(async {
        let mut session = AmendSession::open(&source).await.unwrap();
        session.load(&[&amended]).await.unwrap();
        session.lock().await.unwrap();
        let catalogs = backwhen::connect::Session::connect_utf8(&source, "test").await.unwrap();
        let schema = live_schema(&catalogs, &[oid]).await.unwrap();
        session.apply(&schema, &[&amended]).await.unwrap()
    });
    assert_eq!(surprises, [(0, 1), (0, 3)]);
    assert_eq!(server.psql(&database, "SELECT string_agg(v, '' ORDER BY id) FROM t"), "abc");
}

/// A role that owns the tables is enough; one that does not is refused, and nothing is changed.
#[test]
fn the_owner_of_the_tables_may_rewind_and_nobody_else() {
    let server = Server::shared(None);
    let tables = "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1);
        CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER t AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION nothing();
        DROP ROLE IF EXISTS rewinder; CREATE ROLE rewinder LOGIN; GRANT SELECT, UPDATE ON t TO rewinder";
    while_captured(&server, tables, |scene| {
        scene.mark("good");
        scene.psql("UPDATE t SET v = 2");
        let source = scene.backwhen.source().replace("user=postgres", "user=rewinder");
        scene.backwhen.fails(14, &["rewind", "--to", "mark:good", "--apply", "--source", &source]);
        assert_eq!(scene.psql("SELECT v FROM t"), "2");
        scene.psql("ALTER TABLE t OWNER TO rewinder");
        scene.rewind(&["--to", "mark:good", "--source", &source]);
        assert_eq!(scene.psql("SELECT v FROM t"), "1");
        scene.psql("REASSIGN OWNED BY rewinder TO postgres; DROP OWNED BY rewinder; DROP ROLE rewinder");
    });
}
