//! Another server takes the source's place, or the source's own past does: what the history holds and
//! the source has lost is never taken for what the source has now.

use backwhen::model::Lsn;

use crate::support::shop::{assert_visits_are_held, shop};
use crate::support::{Backwhen, Capture, Dump, Server, Stop, assert_same, wait_for};

fn visit(server: &Server, database: &str, page: &str) {
    server.psql(database, &format!("INSERT INTO visits (page) VALUES ('{page}')"));
}

fn gap_causes(backwhen: &Backwhen) -> Vec<String> {
    let gaps = backwhen.json_lines(&["list", "gaps"]);
    gaps.iter().map(|gap| gap["cause"].as_str().expect("a cause").to_owned()).collect()
}

/// The history's latest moment is what this server holds.
fn assert_holds(backwhen: &Backwhen, server: &Server, name: &str) {
    let into = format!("{name}_of_{}", backwhen.database());
    backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &server.conninfo(&into)]);
    assert_same(&Dump::of(server, backwhen.database()), &Dump::of(server, &into));
}

/// A history whose source was set back to a snapshot of its disk, and has since come beyond the history's end.
struct Restored {
    server: Server,
    backwhen: Backwhen,
    /// The end of the history, on the log that the source has lost.
    lost: String,
}

impl Restored {
    fn new() -> Restored {
        let server = Server::start(None);
        let backwhen = shop(&server);
        backwhen.init();
        backwhen.ok(&["capture", "--until", "caught-up"]);
        let database = backwhen.database();
        server.stop(Stop::Fast);
        server.keep_data();
        server.start_again();
        for page in ["/lost", "/lost as well"] {
            visit(&server, database, page);
        }
        backwhen.ok(&["capture", "--until", "caught-up"]);
        let lost = backwhen.json(&["status"])["window"]["latest"]["lsn"].as_str().unwrap().to_owned();
        server.stop(Stop::Fast);
        server.bring_back_data();
        server.start_again();
        let beyond = format!("SELECT pg_current_wal_flush_lsn() > '{lost}'::pg_lsn + 1000");
        while server.psql(database, &beyond) != "t" {
            visit(&server, database, "/another life");
        }
        Restored { server, backwhen, lost }
    }

    fn assert_one_gap(&self) {
        let causes = gap_causes(&self.backwhen);
        assert!(matches!(&causes[..], [cause] if cause.contains("restored from a backup")), "{causes:?}");
        assert_holds(&self.backwhen, &self.server, "now");
    }
}

#[test]
fn a_source_that_was_restored_from_a_backup_is_a_gap() {
    let restored = Restored::new();
    let backwhen = &restored.backwhen;
    let output = backwhen.run(&["capture", "--until", "caught-up"]);
    assert!(output.status.success(), "{}", output.stderr);
    restored.assert_one_gap();
    // What the source has lost is still there.
    let into = format!("sqlite:{}", backwhen.folder().join("lost").display());
    backwhen.ok(&["recover", "--to", &restored.lost, "--into", &into]);
}

/// Only the stream shows the loss. The slot is as it was when the source is looked at again.
#[test]
fn a_loss_whose_new_epoch_cannot_be_begun_at_once_is_not_forgotten() {
    let restored = Restored::new();
    let mut command = restored.backwhen.command(&["capture", "--until", "caught-up"]);
    let output = command.env("BACKWHEN_TEST_POINT", "resync.lost=error-once").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("a test asked for one error at resync.lost"), "{stderr}");
    restored.assert_one_gap();
}

/// A primary with its standby, and a history whose source is whichever of them takes writes.
struct Pair {
    primary: Server,
    standby: Server,
    backwhen: Backwhen,
}

impl Pair {
    fn start() -> Pair {
        let primary = Server::start(None);
        let backwhen = shop(&primary).with_env("BACKWHEN_HEARTBEAT", "300ms");
        let standby = primary.standby();
        let (first, second) = (primary.tcp_address(), standby.tcp_address());
        let source = format!(
            "host={},{} port={},{} user=postgres dbname={} target_session_attrs=read-write",
            first.0,
            second.0,
            first.1,
            second.1,
            backwhen.database()
        );
        backwhen.ok(&["init", "--source", &source]);
        Pair { primary, standby, backwhen }
    }

    fn database(&self) -> &str {
        self.backwhen.database()
    }

    fn capture(&self) -> Capture<'_> {
        let mut capture = self.backwhen.spawn_capture();
        capture.allow("trying again").allow("continuity is lost");
        capture.wait_caught_up();
        capture
    }

    /// The standby has a copy of the slot that outlives a promotion.
    fn copy_slot(&self) {
        let copied = "SELECT count(*) FROM pg_replication_slots WHERE synced AND NOT temporary AND failover";
        wait_for("the slot is copied", || {
            visit(&self.primary, self.database(), "/on the way");
            // The copy is good once the slot has moved on from where the standby began to copy it.
            self.primary.psql("postgres", "SELECT pg_log_standby_snapshot()");
            self.standby.psql("postgres", copied) == "1"
        });
    }

    fn wait_for_standby(&self) {
        let head = self.primary.psql("postgres", "SELECT pg_current_wal_flush_lsn()");
        let there = format!("SELECT pg_last_wal_replay_lsn() >= '{head}'");
        self.standby.wait_until("postgres", &there);
    }

    /// Returns once the history holds all that the former standby has.
    fn wait_caught_up(&self, capture: &mut Capture<'_>) {
        let text = self
            .standby
            .psql(self.database(), "SELECT pg_logical_emit_message(true, 'backwhen-test', 'there?')");
        let target: Lsn = text.parse().expect("a position");
        capture.wait_until(&format!("the history reaches {target}"), |_| {
            let status = self.backwhen.json(&["status", "--offline"]);
            let latest = status["window"]["latest"]["lsn"].as_str().unwrap_or_default().parse::<Lsn>();
            let streaming = status["state"] == "streaming";
            streaming && latest.is_ok_and(|latest| latest > target)
        });
    }
}

fn knows_failover_slots(server: &Server) -> bool {
    server.major() >= 17
}

#[test]
fn a_promoted_standby_with_the_slot_is_followed_without_a_gap() {
    let pair = Pair::start();
    if !knows_failover_slots(&pair.primary) {
        return;
    }
    let mut capture = pair.capture();
    pair.copy_slot();
    visit(&pair.primary, pair.database(), "/last");
    pair.wait_for_standby();
    capture.wait_caught_up();
    // Whatever the primary still wrote, the standby has, and then it goes on by itself.
    pair.primary.stop(Stop::Fast);
    pair.standby.psql("postgres", "SELECT pg_promote()");
    visit(&pair.standby, pair.database(), "/after the promotion");
    pair.wait_caught_up(&mut capture);
    capture.stop();
    assert_eq!(gap_causes(&pair.backwhen), Vec::<String>::new());
    assert_visits_are_held(&pair.backwhen, &pair.standby);
    // Timelines that were changed once stay changed.
    visit(&pair.standby, pair.database(), "/later");
    pair.backwhen.ok(&["capture", "--until", "caught-up"]);
    assert_eq!(gap_causes(&pair.backwhen), Vec::<String>::new());
}

#[test]
fn a_promoted_standby_that_lacks_what_the_history_holds_is_a_gap() {
    let pair = Pair::start();
    if !knows_failover_slots(&pair.primary) {
        return;
    }
    let mut capture = pair.capture();
    pair.copy_slot();
    pair.wait_for_standby();
    // It goes down, and the primary goes on.
    pair.standby.stop(Stop::Fast);
    for page in ["/lost", "/lost as well"] {
        visit(&pair.primary, pair.database(), page);
    }
    capture.wait_caught_up();
    let lost = pair.primary.psql("postgres", "SELECT pg_current_wal_flush_lsn()");
    capture.signal("STOP");
    pair.primary.crash();
    pair.standby.start_again();
    pair.standby.psql("postgres", "SELECT pg_promote()");
    let beyond = format!("SELECT pg_current_wal_flush_lsn() > '{lost}'::pg_lsn + 1000");
    while pair.standby.psql(pair.database(), &beyond) != "t" {
        visit(&pair.standby, pair.database(), "/another life");
    }
    capture.signal("CONT");
    capture.wait_for_epoch(2);
    pair.wait_caught_up(&mut capture);
    capture.stop();
    let causes = gap_causes(&pair.backwhen);
    assert!(matches!(&causes[..], [cause] if cause.contains("lacked what had been committed")), "{causes:?}");
    assert_holds(&pair.backwhen, &pair.standby, "promoted");
}

#[test]
fn a_promoted_standby_without_the_slot_is_a_gap() {
    let pair = Pair::start();
    let mut capture = pair.capture();
    pair.wait_for_standby();
    pair.primary.crash();
    pair.standby.psql("postgres", "SELECT pg_promote()");
    visit(&pair.standby, pair.database(), "/after the promotion");
    capture.wait_for_epoch(2);
    pair.wait_caught_up(&mut capture);
    capture.stop();
    let causes = gap_causes(&pair.backwhen);
    assert!(matches!(&causes[..], [cause] if cause.contains("is gone from the source")), "{causes:?}");
    assert_visits_are_held(&pair.backwhen, &pair.standby);
}
