//! One at a time: who would spoil another's work is refused, who would not is not; and what a killed
//! process held is free at once.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::shop::{assert_says, assert_source_clean, assert_visits_are_held, captured_shop, shop};
use crate::support::{Backwhen, Server, wait, wait_for};
use crate::trouble::exit;

/// A command that has come to a failpoint and dawdles there.
struct Dawdler(Child);

impl Dawdler {
    fn at(backwhen: &Backwhen, point: &str, arguments: &[&str]) -> Dawdler {
        let mut command = backwhen.command(arguments);
        command.env("BACKWHEN_TEST_POINT", format!("{point}=60000"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Dawdler(child.expect("backwhen starts"))
    }

    /// Returns once somebody shares a lock.
    fn sharing(mut self, lock: &std::path::Path) -> Dawdler {
        let is_shared = || std::fs::File::open(lock).is_ok_and(|file| file.try_lock().is_err());
        self.wait_until(format_args!("{} is shared", lock.display()), is_shared);
        self
    }

    /// Returns once it holds a lock.
    fn holding(mut self, lock: std::path::PathBuf) -> Dawdler {
        let holder = format!("process {}", self.0.id());
        let is_held = || std::fs::read_to_string(&lock).unwrap_or_default().trim() == holder;
        self.wait_until(format_args!("{} is taken", lock.display()), is_held);
        self
    }

    fn wait_until(&mut self, what: impl std::fmt::Display, is_so: impl Fn() -> bool) {
        wait_for(what, || {
            assert!(self.0.try_wait().unwrap().is_none(), "it ended");
            is_so()
        });
    }
}

/// As `kill -9` does.
impl Drop for Dawdler {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn refused(backwhen: &Backwhen, what: &str, holder: &Dawdler, arguments: &[&str]) {
    let message = backwhen.fails(exit::LOCKED, arguments);
    assert_says(&message, &[what, "already running", &format!("process {}", holder.0.id())]);
}

#[test]
fn beside_a_checkpoint_others_read_and_no_second_one_is_made() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    let copy = backwhen.folder().join("copy").to_str().unwrap().to_owned();
    backwhen.ok(&["copy", "--to", &copy]);
    server.psql(backwhen.database(), "INSERT INTO visits (page) VALUES ('/more')");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let lock = backwhen.history().join("locks/checkpoint.lock");
    let first = Dawdler::at(&backwhen, "checkpoint.image", &["checkpoint"]).holding(lock.clone());
    for second in [&["checkpoint"][..], &["checkpoint", "--from-source"], &["repair", "--from", &copy]] {
        refused(&backwhen, "checkpoint", &first, second);
    }
    // None of these waits for it or is in its way.
    let into = format!("beside_of_{}", backwhen.database());
    backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &server.conninfo(&into)]);
    assert_eq!(server.psql(&into, "SELECT count(*) FROM visits WHERE page = '/more'"), "1");
    backwhen.ok(&["copy", "--to", &copy]);
    backwhen.ok(&["verify", "--history", &copy]);
    backwhen.ok(&["verify"]);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    drop(first);
    // It was killed, and nobody has to clear anything away.
    let second = Dawdler::at(&backwhen, "checkpoint.publish", &["checkpoint"]).holding(lock);
    refused(&backwhen, "checkpoint", &second, &["checkpoint"]);
    drop(second);
    backwhen.ok(&["checkpoint"]);
    backwhen.ok(&["verify", "--prove"]);
}

/// A command that waits for the history, and has said so.
fn waiting(backwhen: &Backwhen, arguments: &[&str]) -> Child {
    let mut command = backwhen.command(arguments);
    command.args(["--wait", "1m"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("backwhen starts");
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let said = lines.find(|line| line.contains("waiting for up to 1m")).expect("it says that it waits");
    assert_says(&said, &["already running"]);
    // The rest is read, so that nobody waits for a reader.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

#[test]
fn a_command_that_may_wait_begins_when_the_history_is_free() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    server.psql(backwhen.database(), "INSERT INTO visits (page) VALUES ('/more')");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let lock = backwhen.history().join("locks/checkpoint.lock");
    let first = Dawdler::at(&backwhen, "checkpoint.image", &["checkpoint"]).holding(lock);
    let begun = Instant::now();
    refused(&backwhen, "checkpoint", &first, &["checkpoint", "--wait", "300ms"]);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let source = backwhen.source();
    let commands: [&[&str]; 4] = [
        &["checkpoint"],
        &["checkpoint", "--from-source"],
        &["expire", "--keep-last", "1", "--apply"],
        &["resync", "--source", &source],
    ];
    let children: Vec<_> = commands.iter().map(|command| waiting(&backwhen, command)).collect();
    drop(first);
    for (mut child, command) in children.into_iter().zip(commands) {
        let status = wait(&mut child, Duration::from_secs(60));
        assert!(status.is_some_and(|status| status.success()), "{command:?}: {status:?}");
    }
    let mut capture = backwhen.spawn_capture();
    capture.wait_streaming();
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port().to_string();
    let mut next = waiting(&backwhen, &["capture", "--until", "caught-up", "--metrics-listen", &port]);
    capture.stop();
    assert!(wait(&mut next, Duration::from_secs(60)).unwrap().success());
    let mut capture = backwhen.spawn_capture();
    capture.wait_streaming();
    let mut dropping = waiting(&backwhen, &["drop"]);
    capture.stop();
    assert!(wait(&mut dropping, Duration::from_secs(60)).unwrap().success());
    assert_source_clean(&server, backwhen.database());
}

#[test]
fn beside_a_capture_a_copy_or_an_init_no_second_one_runs() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let source = backwhen.source();
    let init = ["init", "--source", &source];
    let lock = backwhen.history().join("locks/capture.lock");
    let first = Dawdler::at(&backwhen, "init.slot", &init).holding(lock.clone());
    refused(&backwhen, "init", &first, &init);
    drop(first);
    backwhen.ok(&init);

    let capture = Dawdler::at(&backwhen, "journal.sync", &["capture"]).holding(lock);
    let copy = backwhen.folder().join("copy").to_str().unwrap().to_owned();
    backwhen.ok(&["copy", "--to", &copy]);
    for second in [&["capture", "--until", "caught-up"][..], &["repair", "--from", &copy], &["drop"]] {
        refused(&backwhen, "capture", &capture, second);
    }
    drop(capture);
    backwhen.ok(&["capture", "--until", "caught-up"]);

    // Something to copy.
    backwhen.ok(&["checkpoint", "--from-source"]);
    let lock = backwhen.folder().join("copy/locks/capture.lock");
    let copying = Dawdler::at(&backwhen, "file.sync", &["copy", "--to", &copy]).holding(lock);
    let message = backwhen.fails(exit::LOCKED, &["copy", "--to", &copy]);
    assert_says(&message, &[&format!("process {}", copying.0.id())]);
    drop(copying);
    backwhen.ok(&["copy", "--to", &copy]);
    backwhen.ok(&["repair", "--from", &copy]);
}

/// Its first snapshot does not show the rows of that table any more.
#[test]
fn a_checkpoint_is_begun_anew_where_a_table_is_truncated_under_its_hands() {
    let backwhen = captured_shop(&Server::shared(None));
    let (server, database) = (backwhen.server(), backwhen.database());
    let mut command = backwhen.command(&["-v", "checkpoint", "--from-source"]);
    command.env("BACKWHEN_TEST_POINT", "checkpoint.snapshot=1500");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let checkpoint = command.spawn().unwrap();
    let has_snapshot = "SELECT count(*) = 1 FROM pg_replication_slots
                         WHERE database = current_database() AND temporary AND confirmed_flush_lsn IS NOT NULL";
    server.wait_until(database, has_snapshot);
    server.psql(database, "TRUNCATE visits");
    let output = checkpoint.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert_says(&told, &["visits was truncated or rewritten while its image was begun"]);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["verify", "--prove"]);
    let newest = backwhen.json_lines(&["list", "checkpoints"]).pop().unwrap();
    assert_eq!(newest["origin"], "source", "{newest}");
    assert_visits_are_held(&backwhen, server);
}

#[test]
fn beside_an_expiry_nobody_reads_and_beside_a_reader_nothing_is_expired() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    backwhen.ok(&["checkpoint"]);
    let expire = ["expire", "--keep-last", "1", "--apply"];
    let database = format!("together_{}", backwhen.database());
    let into = server.conninfo(&database);
    let recover = ["recover", "--to", "latest", "--create", "--into", &into];
    let copy = backwhen.folder().join("copy").to_str().unwrap().to_owned();
    let readers = [
        ("recover.opened", &recover[..]),
        ("file.sync", &["copy", "--to", &copy]),
        ("file.create", &["verify"]),
    ];
    for (point, reader) in readers {
        let shared = backwhen.history().join("locks/objects.lock");
        let reading = Dawdler::at(&backwhen, point, reader).sharing(&shared);
        assert_says(&backwhen.fails(exit::LOCKED, &expire), &["expire is not done beside that"]);
        backwhen.ok(&["status"]);
        drop(reading);
    }
    let lock = backwhen.history().join("locks/checkpoint.lock");
    let expiring = Dawdler::at(&backwhen, "expire.recorded", &expire).holding(lock);
    refused(&backwhen, "checkpoint", &expiring, &["checkpoint"]);
    refused(&backwhen, "checkpoint", &expiring, &expire);
    // Shows how it stands, and whoever wants to read waits for it to end.
    backwhen.ok(&["status"]);
    let recovering = backwhen.command(&recover).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut recovering = recovering.unwrap();
    // One that did not wait would be done with so little by then.
    sleep(Duration::from_millis(500));
    assert!(recovering.try_wait().unwrap().is_none(), "it did not wait");
    drop(expiring);
    assert!(recovering.wait().unwrap().success());
    backwhen.ok(&expire);
    backwhen.ok(&["verify"]);

    // A capture goes on, whatever goes behind it.
    let mut capture = backwhen.spawn_capture();
    server.psql(backwhen.database(), "INSERT INTO visits (page) VALUES ('/beside')");
    capture.wait_caught_up();
    backwhen.ok(&["checkpoint"]);
    backwhen.ok(&expire);
    server.psql(backwhen.database(), "INSERT INTO visits (page) VALUES ('/after')");
    capture.wait_caught_up();
    capture.stop();
    assert_visits_are_held(&backwhen, &server);
    backwhen.ok(&["verify", "--prove"]);
}

/// A migration may wait, with a partition locked, for a table that a checkpoint holds: nothing that capture and
/// checkpoints ask may wait for that partition.
#[test]
fn a_locked_partition_holds_up_neither_marks_nor_heartbeats() {
    let server = Server::shared(None);
    let database = server.fresh_database("partition");
    let schema = "CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
                  CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (10);";
    server.psql(&database, schema);
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    let locked = "SELECT count(*) = 1 FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
                  WHERE c.relname = 'part' AND l.mode = 'AccessExclusiveLock' AND l.granted";
    std::thread::scope(|scope| {
        scope.spawn(|| {
            drop(server.try_psql(&database, "BEGIN; LOCK TABLE part; SELECT pg_sleep(60); COMMIT"))
        });
        server.wait_until(&database, locked);
        let begun = Instant::now();
        backwhen.ok(&["mark", "meanwhile"]);
        let took = begun.elapsed();
        let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
                      WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%pg_sleep(60)%'";
        server.psql(&database, cancel);
        assert!(took < Duration::from_secs(20), "it waited: {took:?}");
    });
}
