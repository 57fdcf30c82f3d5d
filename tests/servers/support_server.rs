//! The servers for tests: they start, come back after a crash, and leave nothing behind.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::support::{Server, Stop, for_each_version, wait_at_most};

#[test]
fn every_version_starts_and_decodes() {
    for_each_version(|server| {
        let database = server.fresh_database("decode");
        let sql = "SELECT pg_create_logical_replication_slot('s', 'pgoutput', true)";
        assert!(server.psql(&database, sql).starts_with("(s,"), "no logical slot");
        for conninfo in [server.conninfo(&database), server.conninfo_tcp(&database), server.uri(&database)] {
            let output = server.client("psql", &conninfo, &["-XqAtc", "SELECT current_database()"], "");
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), database);
        }
    });
}

#[test]
fn a_message_of_the_server_is_the_error() {
    let message = Server::shared(None).try_psql("postgres", "SELECT 1; SELECT nonsense;").unwrap_err();
    assert!(message.contains("column \"nonsense\" does not exist"), "{message}");
}

#[test]
fn committed_rows_survive_restart_and_crash() {
    let server = Server::builder().setting("work_mem", "5MB").start();
    assert_eq!(server.psql("postgres", "SHOW work_mem"), "5MB");
    server.psql("postgres", "CREATE TABLE t (n int); INSERT INTO t VALUES (1)");
    server.restart();
    server.psql("postgres", "INSERT INTO t VALUES (2)");
    server.crash();
    assert!(server.try_psql("postgres", "SELECT 1").is_err(), "a crashed server answers");
    server.start_again();
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM t"), "2");
    assert!(server.log().contains("automatic recovery in progress"), "{}", server.log());
    server.stop(Stop::Fast);
}

#[test]
fn a_server_ends_with_its_handle() {
    let server = Server::start(None);
    let folder = server.psql("postgres", "SHOW data_directory");
    let pid = server_pid(Path::new(&folder));
    drop(server);
    assert!(!Path::new(&folder).exists() && !is_alive(pid));
}

/// Not a test of its own: the process that `a_server_ends_with_a_killed_test` kills.
#[test]
#[ignore = "run by a_server_ends_with_a_killed_test"]
fn holds_a_server_until_killed() {
    let server = Server::start(None);
    println!("folder={}", server.psql("postgres", "SHOW data_directory"));
    // To be killed long before.
    sleep(Duration::from_secs(60));
}

#[test]
fn a_server_ends_with_a_killed_test() {
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--ignored", "--exact", "--nocapture", "support_server::holds_a_server_until_killed"]);
    let mut child = test.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let folder = lines.map_while(Result::ok).find_map(|line| Some(line.split_once("folder=")?.1.to_owned()));
    let folder = folder.expect("the child names its server's folder");
    let pid = server_pid(Path::new(&folder));
    child.kill().unwrap();
    child.wait().unwrap();
    let limit = Duration::from_secs(20);
    wait_at_most(limit, "the server ends after the killed test", || !is_alive(pid));
    wait_at_most(limit, format_args!("{folder} goes after the killed test"), || !Path::new(&folder).exists());
}

fn server_pid(data: &Path) -> u32 {
    let file = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
    file.lines().next().unwrap().parse().unwrap()
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}
