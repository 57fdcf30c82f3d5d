//! 5. All or nothing: an interrupted recovery leaves nothing that could be taken for a database.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{Backwhen, Dump, Server, assert_same, wait_at_most};

const KILLS: usize = 6;

/// Enough to be interrupted in: rows, indexes, constraints, a materialised view.
const SHOP: &str = "
    CREATE TABLE customer (id int PRIMARY KEY, name text UNIQUE);
    CREATE TABLE purchase (id serial PRIMARY KEY, customer int REFERENCES customer, what text);
    CREATE INDEX ON purchase (what);
    CREATE MATERIALIZED VIEW popular AS SELECT what, count(*) FROM purchase GROUP BY what;
    INSERT INTO customer SELECT n, 'customer ' || n FROM generate_series(1, 20000) n;
    INSERT INTO purchase (customer, what) SELECT n, md5((n % 99)::text) FROM generate_series(1, 20000) n;
    REFRESH MATERIALIZED VIEW popular";

fn shop() -> Backwhen {
    let server = Server::shared(None);
    let database = server.fresh_database("shop");
    server.psql(&database, SHOP);
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    server.psql(&database, "UPDATE purchase SET what = 'changed' WHERE id % 10 = 0");
    server.psql(&database, "REFRESH MATERIALIZED VIEW popular");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen
}

fn spawn(backwhen: &Backwhen, arguments: &[&str]) -> Child {
    let mut command: Command = backwhen.command(&[&["recover", "--to", "latest"], arguments].concat());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, name: &str) {
    let _ = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
}

/// Interrupts recoveries at random instants; `check` sees what each left, and says whether that is the
/// whole. Then one must succeed.
fn interrupt(backwhen: &Backwhen, arguments: &[&str], check: &dyn Fn() -> bool, begin_again: &dyn Fn()) {
    let begun = Instant::now();
    assert!(spawn(backwhen, arguments).wait().unwrap().success());
    let length = begun.elapsed();
    assert!(check());
    begin_again();
    let mut random = StdRng::seed_from_u64(5);
    for number in 0..KILLS {
        let child = spawn(backwhen, arguments);
        // Spread over the whole run, so that every phase is met.
        let part = (number as f64 + random.random_range(0.0..1.0)) / KILLS as f64;
        // The instant is what the test chooses.
        sleep(length.mul_f64(part));
        let interrupted = number % 2 == 0;
        signal(&child, if interrupted { "INT" } else { "KILL" });
        let output = child.wait_with_output().unwrap();
        let (status, complaint) = (output.status, String::from_utf8_lossy(&output.stderr));
        // Before it has begun anything the signal itself ends it, which a shell calls 130 as well.
        let code = status.code().or(status.signal().map(|signal| 128 + signal));
        if interrupted {
            assert!(matches!(code, Some(0 | 130)), "SIGINT after {part:.2} of it: {code:?}: {complaint}");
        }
        // A kill may come after the last step, too.
        let whole = check();
        assert!(whole || code != Some(0), "it ended well, and nothing is there");
        if whole {
            begin_again();
        }
    }
    succeed(backwhen, arguments);
    assert!(check());
}

/// What the killed one started may hold the database for a moment; then it is locked, no more.
fn succeed(backwhen: &Backwhen, arguments: &[&str]) {
    wait_at_most(Duration::from_secs(15), "a recovery is locked out by nobody", || {
        let output = backwhen.run(&[&["recover", "--to", "latest"], arguments].concat());
        if output.status.code() == Some(13) {
            return false;
        }
        // A kill that came after the last step left it whole.
        let done = output.status.code() == Some(14) && output.stderr.contains("exist");
        assert!(output.status.success() || done, "{}{}", output.stdout, output.stderr);
        true
    });
}

/// What a killed one started may still be at work: the server finishes a RENAME by itself, and a
/// pg_restore goes on until its session ends.
fn exists(server: &Server, database: &str) -> bool {
    let at_work = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'
            AND (position('{database}' IN query) > 0 OR datname LIKE '{database}%')"
    );
    let mut quiet = 0;
    wait_at_most(Duration::from_secs(15), format_args!("nobody is at work in {database}"), || {
        quiet = if server.psql("postgres", &at_work) == "0" { quiet + 1 } else { 0 };
        // A pg_restore of several jobs may be between two sessions when the server is asked once.
        quiet == 5
    });
    let sql = format!("SELECT count(*) FROM pg_database WHERE datname = '{database}'");
    server.psql("postgres", &sql) == "1"
}

fn drop_database(server: &Server, database: &str) {
    server.psql("postgres", &format!("DROP DATABASE {database} WITH (FORCE)"));
}

#[test]
fn a_new_database_is_whole_or_not_there() {
    let backwhen = shop();
    let server = backwhen.server();
    let truth = Dump::of(server, backwhen.database());
    let target = "whole_created";
    let check = || {
        let whole = exists(server, target);
        if whole {
            assert_same(&truth, &Dump::of(server, target));
        }
        whole
    };
    let into = server.conninfo(target);
    let begin_again = || drop_database(server, target);
    interrupt(&backwhen, &["--create", "--into", &into], &check, &begin_again);
    assert!(exists(server, target));
    assert!(!exists(server, &format!("{target}.backwhen-unfinished")));
}

/// A kill between making the database and saying in its comment whose it is.
#[test]
fn a_database_killed_before_its_first_word_is_made_anew() {
    let backwhen = shop();
    let server = backwhen.server();
    let into = server.conninfo("whole_wordless");
    server.create_database("whole_wordless.backwhen-unfinished");
    backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &into]);
    assert!(!exists(server, "whole_wordless.backwhen-unfinished"));
    assert_same(&Dump::of(server, backwhen.database()), &Dump::of(server, "whole_wordless"));

    drop_database(server, "whole_wordless");
    server.create_database("whole_wordless.backwhen-unfinished");
    server.psql("whole_wordless.backwhen-unfinished", "CREATE TABLE somebodys ()");
    let refused = backwhen.fails(14, &["recover", "--to", "latest", "--create", "--into", &into]);
    assert!(refused.contains("whole_wordless.backwhen-unfinished is in the way"), "{refused}");
    assert_eq!(server.psql("whole_wordless.backwhen-unfinished", "SELECT count(*) FROM somebodys"), "0");
}

#[test]
fn an_existing_database_is_whole_or_empty() {
    let backwhen = shop();
    let server = backwhen.server();
    let truth = Dump::of(server, backwhen.database());
    let target = "whole_existing";
    server.create_database(target);
    let empty = Dump::of(server, target);
    let check = || {
        if !exists(server, target) {
            return false;
        }
        let found = Dump::of(server, target);
        let whole = found.schema.len() > empty.schema.len();
        assert_same(if whole { &truth } else { &empty }, &found);
        whole
    };
    let begin_again = || {
        drop_database(server, target);
        server.create_database(target);
    };
    let into = server.conninfo(target);
    interrupt(&backwhen, &["--into", &into], &check, &begin_again);
    assert_same(&truth, &Dump::of(server, target));
}

#[test]
fn a_sqlite_file_is_whole_or_not_there() {
    let backwhen = shop();
    let file = backwhen.folder().join("shop.sqlite");
    let check = || {
        if !file.exists() {
            return false;
        }
        let books = rusqlite::Connection::open(&file).unwrap();
        let number = |sql: &str| books.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(number("SELECT count(*) FROM customer"), 20000);
        assert_eq!(number("SELECT count(*) FROM purchase WHERE what = 'changed'"), 2000);
        true
    };
    let begin_again = || std::fs::remove_file(&file).unwrap();
    interrupt(&backwhen, &["--into", "sqlite:shop.sqlite"], &check, &begin_again);
    assert!(file.exists());
}

#[test]
fn a_script_is_whole_or_not_there() {
    let backwhen = shop();
    let file = backwhen.folder().join("shop.sql");
    let check = || {
        if !file.exists() {
            return false;
        }
        let script = std::fs::read_to_string(&file).unwrap();
        assert_eq!(script.matches("\tchanged\n").count(), 2000);
        assert!(script.contains("REFRESH MATERIALIZED VIEW"), "the script has no end");
        true
    };
    let begin_again = || std::fs::remove_file(&file).unwrap();
    interrupt(&backwhen, &["--into", "sql:shop.sql"], &check, &begin_again);
    assert!(file.exists());
}
