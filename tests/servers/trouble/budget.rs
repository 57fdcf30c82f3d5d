//! How much WAL the slot may retain: production's disk counts for more than the history.

use crate::support::shop::{assert_says, captured_shop, shop};
use crate::support::{Backwhen, Server, wait_for};
use crate::trouble::disk::{Disk, random_rows, with_history};

fn slots(backwhen: &Backwhen) -> String {
    let sql = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    backwhen.server().psql(backwhen.database(), sql)
}

/// The history's disk is full, the source's WAL grows, and there is a limit to that.
#[test]
fn a_slot_that_keeps_too_much_is_given_up_and_made_anew_once_there_is_room() {
    let Some(disk) = Disk::mount("2m") else { return };
    let server = Server::shared(None);
    let backwhen = with_history(&disk, shop(&server))
        .with_env("BACKWHEN_HEARTBEAT", "100ms")
        .with_env("BACKWHEN_MAX_RETAINED_WAL", "16MB");
    server.psql(backwhen.database(), "CREATE TABLE big (id int PRIMARY KEY, v text)");
    backwhen.init();
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let before = backwhen.json(&["recover", "--to", "latest", "--dry-run"]);
    let mut capture = backwhen.spawn_capture();
    capture.allow("No space left on device").allow("WARN").allow("max-retained-wal");
    capture.wait_until("the slot is given up", |capture| {
        random_rows(&backwhen, "big", 3000);
        // Not more rows than the larger disk below has room for.
        std::thread::sleep(std::time::Duration::from_millis(100));
        capture.printed().contains("was given up")
    });
    assert_eq!(slots(&backwhen), "0");
    assert_says(&capture.printed(), &["at --max-retained-wal, 16 MiB, it is given up", "No space left"]);
    let status = backwhen.json(&["status"]);
    assert_eq!(status["state"], "lost");
    let last = status["transitions"].as_array().unwrap().last().unwrap();
    assert_says(
        last["cause"].as_str().unwrap(),
        &["retained more of the source's WAL than --max-retained-wal"],
    );
    let nagios = backwhen.run(&["status", "--nagios"]);
    assert_eq!(nagios.status.code(), Some(2), "{}", nagios.stdout);
    // What was there is still there.
    let moment = before["moment"]["lsn"].as_str().unwrap();
    backwhen.ok(&["recover", "--to", moment, "--dry-run"]);

    disk.remount("size=128m");
    capture.wait_for_epoch(2);
    capture.wait_caught_up();
    capture.stop();
    let gaps = backwhen.json_lines(&["list", "gaps"]);
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_says(gaps[0]["cause"].as_str().unwrap(), &["--max-retained-wal, 16 MiB, and was given up"]);
    let into = format!("given_up_of_{}", backwhen.database());
    let target = server.conninfo(&into);
    backwhen.ok(&["recover", "--to", "latest", "--table", "public.big", "--create", "--into", &target]);
    let rows = "SELECT count(*), md5(string_agg(v, '' ORDER BY id)) FROM big";
    assert_eq!(server.psql(&into, rows), server.psql(backwhen.database(), rows));
}

/// Nobody gives it up where no capture runs; one that comes back in time has time to catch up.
#[test]
fn a_backlog_beyond_the_budget_is_warned_of_and_may_be_caught_up_with() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server).with_env("BACKWHEN_MAX_RETAINED_WAL", "2MB");
    server.psql(backwhen.database(), "CREATE TABLE big (id int PRIMARY KEY, v text)");
    random_rows(&backwhen, "big", 3000);
    let status = backwhen.json(&["status"]);
    assert_eq!(status["slot"]["max_retained_bytes"], 2 << 20);
    assert_says(&backwhen.ok(&["status"]), &["warning", "more than --max-retained-wal"]);
    let nagios = backwhen.run(&["status", "--nagios"]);
    assert_eq!(nagios.status.code(), Some(2), "{}", nagios.stdout);
    for wrong in ["2", "2 MiB", "0GB", "99999999TB", "much"] {
        let message = backwhen.fails(crate::trouble::exit::USAGE, &["status", "--max-retained-wal", wrong]);
        assert_says(&message, &["500MB", "none"]);
    }

    let mut capture = backwhen.spawn_capture();
    capture.allow("at --max-retained-wal, 2 MiB, it is given up").wait_for_line("at --max-retained-wal");
    capture.wait_caught_up();
    // The slot lets go of log when it meets the next note of running transactions.
    let kept = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) < 1048576 FROM pg_replication_slots \
                WHERE database = current_database()";
    wait_for("the slot has let go of its log", || {
        server.psql(backwhen.database(), "CHECKPOINT");
        server.psql(backwhen.database(), kept) == "t"
    });
    assert!(!backwhen.ok(&["status"]).contains("warning "));
    capture.stop();
    assert_eq!(backwhen.json_lines(&["list", "gaps"]).len(), 0);
}
