//! `init` is all or nothing, however it ends.

use std::process::{Child, Stdio};

use crate::support::shop::{OpenSession, assert_says, assert_source_clean, captured_shop, shop};
use crate::support::{Backwhen, Server, wait_for};
use crate::trouble::exit;

#[test]
fn an_existing_history_is_refused() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    let status = backwhen.json(&["status"]);
    let message = backwhen.fails(exit::REFUSED, &["init", "--source", &backwhen.source()]);
    assert_says(&message, &["is a history already", "backwhen status --history"]);
    assert_eq!(backwhen.json(&["status"])["slot"]["name"], status["slot"]["name"]);
    backwhen.ok(&["capture", "--until", "caught-up"]);
}

#[test]
fn a_folder_with_other_files_is_refused() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    std::fs::create_dir(backwhen.history()).unwrap();
    std::fs::write(backwhen.history().join("thesis.txt"), "precious").unwrap();
    let message = backwhen.fails(exit::REFUSED, &["init", "--source", &backwhen.source()]);
    assert_says(&message, &["is not empty", "thesis.txt", "name a new folder"]);
    assert_source_clean(&server, backwhen.database());
    assert_eq!(std::fs::read_dir(backwhen.history()).unwrap().count(), 1);
}

#[test]
fn a_folder_that_cannot_be_made() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let file = backwhen.folder().join("file");
    std::fs::write(&file, "").unwrap();
    let inside = file.join("history");
    let output =
        backwhen.run(&["init", "--source", &backwhen.source(), "--history", inside.to_str().unwrap()]);
    assert!(matches!(output.status.code(), Some(exit::UNAVAILABLE | exit::REFUSED)), "{}", output.stderr);
    assert_says(&output.stderr, &[inside.to_str().unwrap()]);
    assert_source_clean(&server, backwhen.database());
}

#[test]
fn commands_on_no_history_say_how_to_make_one() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    for arguments in [
        &["status"][..],
        &["list", "marks"],
        &["capture"],
        &["checkpoint"],
        &["verify"],
        &["drop"],
        &["mark", "m"],
        &["recover", "--to", "latest", "--dry-run"],
    ] {
        let message = backwhen.fails(exit::REFUSED, arguments);
        assert_says(&message, &["holds no history", "backwhen init --history"]);
    }
    assert!(!backwhen.history().exists(), "looking made a folder");
}

/// An `init` that waits for its slot because a transaction does not end.
fn blocked_init(backwhen: &Backwhen) -> (OpenSession, Child) {
    let server = backwhen.server();
    let mut session = OpenSession::new(server, &server.conninfo(backwhen.database()));
    session.run("BEGIN; INSERT INTO visits (page) VALUES ('/slow');");
    let mut command = backwhen.command(&["init", "--source", &backwhen.source()]);
    let init = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let slot = "SELECT count(*) = 1 FROM pg_replication_slots WHERE database = current_database()";
    server.wait_until(backwhen.database(), slot);
    (session, init)
}

fn signal(child: &Child, name: &str) {
    let status =
        std::process::Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

#[test]
fn interrupted_it_leaves_the_source_as_it_was() {
    for name in ["INT", "TERM"] {
        let backwhen = shop(&Server::shared(None));
        let (session, init) = blocked_init(&backwhen);
        signal(&init, name);
        // The server notices that its client went only once it need not wait any more.
        drop(session);
        let output = init.wait_with_output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(exit::INTERRUPTED),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_source_clean(backwhen.server(), backwhen.database());
        assert!(!backwhen.history().join("history.json").exists());
        backwhen.init();
    }
}

#[test]
fn killed_it_is_cleaned_up_by_the_next_one_in_that_folder() {
    let backwhen = shop(&Server::shared(None));
    let (session, mut init) = blocked_init(&backwhen);
    init.kill().unwrap();
    init.wait().unwrap();
    drop(session);
    assert!(!backwhen.history().join("history.json").exists());
    let message = backwhen.fails(exit::REFUSED, &["status"]);
    assert_says(&message, &["init"]);
    backwhen.init();
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    assert_eq!(backwhen.server().psql(backwhen.database(), slots), "1");
    assert_eq!(backwhen.server().psql(backwhen.database(), "SELECT count(*) FROM pg_publication"), "48");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["verify"]);
}

#[test]
fn killed_while_it_reads_tables_it_is_cleaned_up_too() {
    let backwhen = shop(&Server::shared(None));
    let rows = "CREATE TABLE big AS SELECT n AS id, md5(n::text) || md5((-n)::text) AS v FROM generate_series(1, 300000) n; \
                ALTER TABLE big ADD PRIMARY KEY (id)";
    backwhen.server().psql(backwhen.database(), rows);
    let mut command = backwhen.command(&["init", "--jobs", "1", "--source", &backwhen.source()]);
    let mut init = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let reading = "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() \
                   AND query LIKE 'COPY%big%' AND state = 'active'";
    backwhen.server().wait_until(backwhen.database(), reading);
    init.kill().unwrap();
    init.wait().unwrap();
    assert!(!backwhen.history().join("history.json").exists());
    backwhen.init();
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    assert_eq!(backwhen.server().psql(backwhen.database(), slots), "1");
    backwhen.ok(&["verify"]);
}

#[test]
fn drop_leaves_nothing_on_the_source_and_the_history_whole() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    let plan = backwhen.ok(&["recover", "--to", "latest", "--dry-run", "--output", "json"]);
    backwhen.ok(&["drop", "--source", &backwhen.source()]);
    assert_source_clean(&server, backwhen.database());
    backwhen.ok(&["drop"]);
    assert_eq!(backwhen.ok(&["recover", "--to", "latest", "--dry-run", "--output", "json"]), plan);
    backwhen.ok(&["verify"]);
}

/// Two people make the same history at the same time: the slower one has looked into the folder before the faster
/// one was done.
#[test]
fn of_two_in_one_folder_only_one_makes_the_history() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let mut slow = backwhen.command(&["init", "--source", &backwhen.source()]);
    slow.env("BACKWHEN_TEST_POINT", "folder.sync=1500").stdout(Stdio::null()).stderr(Stdio::piped());
    let slow = slow.spawn().unwrap();
    // The slower init has seen an empty folder, and waits until its own first folder is durable.
    wait_for("the slower init has made a folder", || backwhen.history().exists());
    let fast = backwhen.run(&["init", "--source", &backwhen.source()]);
    let output = slow.wait_with_output().unwrap();
    let codes = [fast.status.code(), output.status.code()];
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
    let refused = |code: &&Option<i32>| matches!(code, Some(exit::REFUSED | exit::LOCKED));
    assert_eq!(codes.iter().filter(refused).count(), 1, "{codes:?}");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    assert_eq!(server.psql(backwhen.database(), slots), "1");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["verify", "--prove"]);
    let into = format!("two_inits_{}", backwhen.database());
    backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &server.conninfo(&into)]);
}

/// The disk fails at each of the files that it makes, before or after the file has its name; `history.json` is the last.
#[test]
fn that_fails_at_any_file_leaves_the_source_as_it_was() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    for point in ["file.link", "file.linked"] {
        for number in 1.. {
            let mut command = backwhen.command(&["init", "--source", &backwhen.source()]);
            command.env("BACKWHEN_TEST_POINT", format!("{point}=error@{number}"));
            let output = command.output().unwrap();
            if output.status.success() {
                assert!(number > 5, "init made only {number} files");
                break;
            }
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(exit::UNAVAILABLE), "{point} {number}: {stderr}");
            assert_source_clean(&server, backwhen.database());
            assert!(!backwhen.history().join("history.json").exists(), "{point} {number}: {stderr}");
        }
        backwhen.ok(&["capture", "--until", "caught-up"]);
        backwhen.ok(&["drop"]);
        std::fs::remove_dir_all(backwhen.history()).unwrap();
    }
}
