//! The words of `status`, `--nagios` and the log when protection is lost or late: the rows of the table in
//! docs/monitoring.md.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::thread::{sleep, spawn};
use std::time::Duration;

use crate::support::shop::{OpenSession, assert_says, assert_source_clean, captured_shop, shop};
use crate::support::{Backwhen, Proxy, Server, wait, wait_for};
use crate::trouble::exit;

fn nagios(backwhen: &Backwhen, arguments: &[&str]) -> (i32, String) {
    let output = backwhen.run(&[&["status", "--nagios"], arguments].concat());
    (output.status.code().unwrap(), output.stdout)
}

#[test]
fn where_the_source_cannot_be_asked_the_lag_grows_with_the_clock() {
    let backwhen = captured_shop(&Server::shared(None));
    let proxy = Proxy::before(backwhen.server());
    proxy.cut();
    let source = ["--source", &proxy.conninfo(backwhen.database())];
    let lag = || {
        let status = backwhen.json(&[&["status"], &source[..]].concat());
        assert!(status["lag"]["bytes"].is_null(), "{status}");
        assert!(status["slot"]["retained_bytes"].is_null(), "{status}");
        assert_says(status["source"].as_str().unwrap(), &["cannot be asked", "could not reach"]);
        status["lag"]["seconds"].as_f64().unwrap()
    };
    let before = lag();
    // The clock itself is what is tested.
    sleep(Duration::from_millis(1500));
    assert!(lag() >= before + 1.5);
    assert_says(&backwhen.ok(&[&["status"], &source[..]].concat()), &["source       cannot be asked"]);
    let (code, line) = nagios(&backwhen, &source);
    assert_says(&line, &["WARNING", "cannot be asked", "lag_bytes=U", "retained_wal=U", ";60;600"]);
    assert_eq!(code, 1, "{line}");
    let (code, line) = nagios(&backwhen, &[&source[..], &["--critical-lag", "1s"]].concat());
    assert_says(&line, &["CRITICAL", ";60;1 "]);
    assert_eq!(code, 2, "{line}");
    let metrics = backwhen.ok(&[&["status", "--output", "prometheus"], &source[..]].concat());
    assert!(!metrics.contains("backwhen_frontier_lag_bytes"), "{metrics}");
    assert_says(&metrics, &["backwhen_frontier_age_seconds{"]);
}

/// A password is rotated, pg_hba.conf has a mistake: the capture that ran goes on once it is let in again.
#[test]
fn a_running_capture_outlives_a_refused_login() {
    let server = Server::start(None);
    let backwhen = shop(&server);
    let role = "CREATE ROLE bw LOGIN SUPERUSER PASSWORD 'one'";
    server.psql("postgres", role);
    let folder = server.psql("postgres", "SHOW data_directory");
    let rules = "local all postgres trust\nhost all bw all scram-sha-256\nhost replication all all reject\n";
    std::fs::write(format!("{folder}/pg_hba.conf"), rules).unwrap();
    server.psql("postgres", "SELECT pg_reload_conf()");
    let passfile = backwhen.folder().join(".pgpass");
    let write_password = |password: &str| {
        std::fs::write(&passfile, format!("*:*:*:bw:{password}\n")).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&passfile, private).unwrap();
    };
    write_password("one");
    let source = server.conninfo_tcp(backwhen.database()).replace("user=postgres", "user=bw");
    backwhen.ok(&["init", "--source", &source]);
    let mut capture = backwhen.spawn_capture();
    capture.allow("trying again").wait_for_line("→ Streaming");
    let rotate = "ALTER ROLE bw PASSWORD 'two'; \
                  SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'bw'";
    server.psql("postgres", rotate);
    capture.wait_for_line("could not log in");
    let mut said = String::new();
    wait_for("monitoring is critical by the age", || {
        let (code, line) = nagios(&backwhen, &["--critical-lag", "1s", "--warn-lag", "1s"]);
        said = line;
        code == 2
    });
    assert_says(&said, &["CRITICAL", "blackout", "cannot be asked", "password"]);
    write_password("two");
    server.psql(backwhen.database(), "INSERT INTO visits (page) VALUES ('/after')");
    capture.wait_caught_up();
    capture.stop();
    assert_eq!(backwhen.json_lines(&["list", "gaps"]).len(), 0);
}

#[test]
fn a_clean_stop_brings_the_window_to_the_stop() {
    let backwhen = captured_shop(&Server::shared(None));
    let mut capture = backwhen.spawn_capture_with(&["--heartbeat", "10m"]);
    capture.wait_for_line("→ Streaming");
    capture.wait_caught_up();
    // The stop is to be later than all that the stream has brought.
    sleep(Duration::from_millis(1200));
    let server = backwhen.server();
    server.psql(backwhen.database(), "SELECT setval('orders_id_seq', 777000)");
    let stopped = server.psql(backwhen.database(), "SELECT extract(epoch FROM clock_timestamp())");
    capture.stop();
    let metrics = backwhen.ok(&["status", "--output", "prometheus"]);
    let latest = metrics.lines().find(|line| line.starts_with("backwhen_window_latest_timestamp_seconds{"));
    let latest: f64 = latest.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(latest >= stopped.parse::<f64>().unwrap(), "{latest} {stopped}");
    let into = format!("stopped_{}", backwhen.database());
    backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &server.conninfo(&into)]);
    assert_eq!(server.psql(&into, "SELECT last_value FROM orders_id_seq"), "777000");
}

#[test]
fn a_reader_of_the_log_that_goes_away_costs_the_log_alone() {
    let backwhen = captured_shop(&Server::shared(None));
    let mut command = backwhen.command(&["-v", "capture"]);
    let mut capture = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(capture.stderr.take());
    let streams =
        "SELECT coalesce(max(active_pid), 0) FROM pg_replication_slots WHERE database = current_database()";
    let serving = |other: &str| {
        let mut process = String::new();
        wait_for("capture streams", || {
            process = backwhen.server().psql(backwhen.database(), streams);
            process != "0" && process != other
        });
        process
    };
    let first = serving("");
    backwhen.server().psql(backwhen.database(), &format!("SELECT pg_terminate_backend({first})"));
    serving(&first);
    assert!(capture.try_wait().unwrap().is_none(), "capture ended");
    let id = capture.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert!(wait(&mut capture, Duration::from_secs(60)).expect("capture ends").success());
}

/// The transaction keeps the slot from letting go of WAL, though capture has all that was committed.
#[test]
fn a_transaction_that_uses_up_the_budget_is_named_and_the_slot_given_up() {
    let server = Server::start(None);
    let backwhen = captured_shop(&server);
    let database = backwhen.database();
    server.create_database("busy");
    server.psql("busy", "CREATE TABLE b (x text)");
    let mut capture = backwhen.spawn_capture_with(&["--heartbeat", "400ms", "--max-retained-wal", "16MB"]);
    capture.allow("max-retained-wal").allow("trying again").allow("waits:").wait_for_line("→ Streaming");
    let mut session = OpenSession::new(&server, &server.conninfo(database));
    session.run("BEGIN; INSERT INTO visits (page) VALUES ('/slow');");
    let process = session.process();
    let write = "INSERT INTO b SELECT repeat(md5(g::text), 20) FROM generate_series(1, 12000) g; TRUNCATE b; CHECKPOINT";
    for _ in 0..3 {
        server.psql("busy", write);
    }
    let named = format!("process {process} of role postgres in database {database} (idle in transaction)");
    capture.wait_for_line(&format!("16 MiB, it is given up; {named}"));
    let status = backwhen.json(&["status"]);
    // The running capture's own budget, not the default.
    assert_eq!(status["slot"]["max_retained_bytes"], 16 << 20);
    // As long as the history itself is behind, the transaction is not in the way.
    wait_for("monitoring names the transaction", || nagios(&backwhen, &[]).1.contains(&named));
    assert_says(&nagios(&backwhen, &[]).1, &["CRITICAL", "--max-retained-wal", &named]);
    capture.wait_for_line("and was given up before production's disk could fill");
    // The new slot waits for that transaction, too, and says so.
    capture.wait_for_line("the creation of the replication slot waits");
    session.run("COMMIT;");
    capture.wait_for_line("begins epoch 2");
    capture.wait_caught_up();
    capture.stop();
    let gaps = backwhen.json_lines(&["list", "gaps"]);
    assert_says(gaps[0]["cause"].as_str().unwrap(), &["--max-retained-wal, 16 MiB", &named]);
}

/// A source hangs, as it does when its disk hangs: what capture heard seconds ago is no news.
#[test]
fn a_source_that_hangs_is_a_warning_within_seconds() {
    let backwhen = captured_shop(&Server::shared(None));
    let mut capture = backwhen.spawn_capture();
    capture.wait_streaming();
    wait_for("all is well", || nagios(&backwhen, &[]).0 == 0);
    // The kernel makes the connection, and nobody answers.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let source = format!("host=127.0.0.1 port={port} user=postgres dbname={}", backwhen.database());
    let begun = std::time::Instant::now();
    let status = backwhen.json(&["status", "--source", &source]);
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    assert!(status["lag"]["bytes"].is_null() && status["lag"]["seconds"].as_f64().unwrap() > 0.0, "{status}");
    let (code, line) = nagios(&backwhen, &["--source", &source]);
    assert_says(&line, &["WARNING - streaming", "does not answer within 5 s", "lag_bytes=U"]);
    assert_eq!(code, 1, "{line}");
    capture.stop();
}

/// Only its owner can put a table into a publication.
#[test]
fn a_table_that_capture_may_not_publish_is_a_warning_until_it_may() {
    let server = Server::shared(None);
    let database = server.fresh_database("unprotected");
    let role = format!("keeper_{database}");
    let make = format!(
        "CREATE ROLE {role} LOGIN REPLICATION; GRANT CREATE ON DATABASE {database} TO {role};
         CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO {role}"
    );
    server.psql(&database, &make);
    let backwhen = Backwhen::new(&server, &database);
    let source = backwhen.source().replace("user=postgres", &format!("user={role}"));
    backwhen.ok(&["init", "--source", &source]);
    let mut capture = backwhen.spawn_capture_with(&["--heartbeat", "200ms"]);
    capture.allow("is not protected").wait_streaming();
    assert_eq!(nagios(&backwhen, &[]).0, 0);
    server.psql(&database, "CREATE TABLE strange (id int PRIMARY KEY); GRANT SELECT ON strange TO PUBLIC");
    capture.wait_for_line("public.strange is not protected: ");
    let is = |code: i32| wait_for(format!("--nagios is {code}"), || nagios(&backwhen, &[]).0 == code);
    is(1);
    assert_says(
        &nagios(&backwhen, &[]).1,
        &["WARNING", "streaming", "not protected: public.strange (", "owner"],
    );
    assert_says(&backwhen.ok(&["status"]), &["unprotected  public.strange: "]);
    let metrics = backwhen.ok(&["status", "--output", "prometheus"]);
    let counts = |line: &str| line.starts_with("backwhen_unprotected_tables{") && line.ends_with(" 1");
    assert!(metrics.lines().any(counts), "{metrics}");
    server.psql(&database, &format!("ALTER TABLE strange OWNER TO {role}"));
    is(0);
    capture.stop();
}

/// pg_upgrade makes another cluster of the source, with another identifier and the same slots.
#[test]
fn another_cluster_is_told_by_status_and_mark_and_left_by_drop() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    let other = Server::start(None);
    other.create_database(backwhen.database());
    let source = ["--source", &other.conninfo(backwhen.database())];
    let status = backwhen.json(&[&["status"], &source[..]].concat());
    assert_eq!(status["state"], "lost");
    assert_says(status["cause"].as_str().unwrap(), &["another cluster", "pg_upgrade", "backwhen drop"]);
    assert_eq!(nagios(&backwhen, &source).0, 2);
    let message = backwhen.fails(exit::REFUSED, &[&["mark", "m"], &source[..]].concat());
    assert_says(&message, &["another cluster"]);
    // Nothing of this history is there: the source may be misnamed.
    backwhen.fails(exit::REFUSED, &[&["drop"], &source[..]].concat());
    let slot = status["slot"]["name"].as_str().unwrap();
    let make =
        format!("CREATE PUBLICATION {slot}; SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    other.psql(backwhen.database(), &make);
    backwhen.ok(&[&["drop"], &source[..]].concat());
    assert_source_clean(&other, backwhen.database());
    backwhen.ok(&[&["drop", "--force"], &source[..]].concat());
    backwhen.ok(&["drop"]);
    assert_source_clean(&server, backwhen.database());
}

/// Answers as PgBouncer does to a replication connection, and passes on all others.
fn pooler(server: &Server) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (host, to) = server.tcp_address();
    spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut bytes = [0; 8192];
            let count = client.read(&mut bytes).unwrap_or(0);
            if bytes[..count].windows(11).any(|piece| piece == b"replication") {
                let fields = b"SERROR\0C08P01\0Munsupported startup parameter: replication\0\0";
                let length = (fields.len() as u32 + 4).to_be_bytes();
                let _ = client.write_all(&[&b"E"[..], &length, fields].concat());
                continue;
            }
            let Ok(mut server) = TcpStream::connect((host.as_str(), to)) else { continue };
            let _ = server.write_all(&bytes[..count]);
            let (mut back, mut forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            spawn(move || drop(std::io::copy(&mut back, &mut forth)));
            spawn(move || drop(std::io::copy(&mut client, &mut server)));
        }
    });
    port
}

#[test]
fn a_pooler_is_told_by_check_and_init() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let port = pooler(&server);
    let source =
        format!("host=127.0.0.1 port={port} user=postgres dbname={} sslmode=disable", backwhen.database());
    let output = backwhen.run(&["check", "--source", &source]);
    assert_eq!(output.status.code(), Some(exit::REFUSED), "{}", output.stderr);
    assert_says(
        &output.stdout,
        &["takes no replication connection", "the server's own address", "PgBouncer"],
    );
    let message = backwhen.fails(exit::REFUSED, &["init", "--source", &source]);
    assert_says(&message, &["the server's own address", "PgBouncer"]);
}

#[test]
fn a_source_that_is_read_only_by_default_is_protected() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let database = backwhen.database();
    server.psql("postgres", &format!("ALTER DATABASE {database} SET default_transaction_read_only = on"));
    backwhen.init();
    backwhen.ok(&["mark", "here"]);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["drop"]);
    assert_source_clean(&server, database);
}

#[test]
fn so_many_tables_that_the_server_has_no_room_for_two_locks_on_each() {
    let server = Server::builder()
        .setting("max_connections", "20")
        .setting("max_prepared_transactions", "0")
        .setting("max_wal_senders", "10")
        .setting("max_locks_per_transaction", "10")
        .start();
    let backwhen = shop(&server);
    let make = "DO $$ BEGIN FOR i IN 1..70 LOOP EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY)', i); END LOOP; END $$";
    let mut tables = 70;
    server.psql(backwhen.database(), make);
    let lock = "DO $$ DECLARE r record; BEGIN FOR r IN SELECT oid::regclass AS t FROM pg_class WHERE relkind = 'r' \
                AND relnamespace = 'public'::regnamespace LOOP EXECUTE 'LOCK TABLE ' || r.t || ' IN ACCESS SHARE MODE'; \
                END LOOP; END $$";
    // The server can lock this many tables once, with some room to spare.
    while tables < 4000 {
        let more = make.replace("1..70", &format!("{}..{}", tables + 1, tables + 70));
        server.psql(backwhen.database(), &more);
        tables += 70;
        if server.try_psql(backwhen.database(), lock).is_err() {
            break;
        }
    }
    // Each in a transaction of its own, which needs few locks.
    let drop = "SELECT format('DROP TABLE t%s', i) FROM generate_series({first}, {last}) i \\gexec";
    let drop = drop.replace("{first}", &(tables * 3 / 4).to_string()).replace("{last}", &tables.to_string());
    server.psql(backwhen.database(), &drop);
    let check = backwhen.ok(&["check", "--source", &backwhen.source()]);
    assert_says(
        &check,
        &["tables are locked at the same time", "ALTER SYSTEM SET max_locks_per_transaction"],
    );
    backwhen.init();
    backwhen.ok(&["verify"]);
}
