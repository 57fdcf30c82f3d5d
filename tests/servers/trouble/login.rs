//! Servers that cannot be reached or do not let us in.

use crate::support::shop::{assert_says, shop};
use crate::support::{Backwhen, Server};
use crate::trouble::exit;

/// The message names host, port, database and user; never the password.
fn cannot_log_in(backwhen: &Backwhen, code: i32, source: &str, pieces: &[&str]) {
    for command in ["check", "init"] {
        let message = backwhen.fails(code, &[command, "--source", source]);
        assert_says(&message, pieces);
        assert!(!message.contains("s3cret"), "{message}");
    }
    assert!(!backwhen.history().join("history.json").exists());
}

#[test]
fn a_server_that_is_not_there() {
    let server = Server::shared(None);
    let backwhen = Backwhen::new(&server, "postgres");
    let source = "host=127.0.0.1 port=1 user=me dbname=shop password=s3cret";
    cannot_log_in(
        &backwhen,
        exit::UNAVAILABLE,
        source,
        &["\"shop\" at 127.0.0.1:1 as user \"me\"", "look at host and port"],
    );
    let source = "postgresql://me:s3cret@no-such-host.invalid/shop";
    cannot_log_in(&backwhen, exit::UNAVAILABLE, source, &["no-such-host.invalid:5432"]);
}

#[test]
fn a_database_or_role_that_is_not_there() {
    let server = Server::shared(None);
    let backwhen = Backwhen::new(&server, "postgres");
    let source = server.conninfo("no_such_database");
    cannot_log_in(
        &backwhen,
        exit::REFUSED,
        &source,
        &["no_such_database", "create the database, or name another"],
    );
    let source = server.conninfo("postgres").replace("user=postgres", "user=nobody_knows");
    cannot_log_in(&backwhen, exit::REFUSED, &source, &["nobody_knows", "the role must exist"]);
}

#[test]
fn a_wrong_password_and_a_refusal_by_pg_hba() {
    let server = Server::start(None);
    let backwhen = shop(&server);
    let database = backwhen.database();
    server.psql("postgres", "CREATE ROLE locked LOGIN PASSWORD 'right'; CREATE ROLE unwanted LOGIN");
    let rules =
        "local all locked scram-sha-256\nlocal all unwanted reject\nlocal replication,all all trust\n";
    let folder = server.psql("postgres", "SHOW data_directory");
    std::fs::write(format!("{folder}/pg_hba.conf"), rules).unwrap();
    server.psql("postgres", "SELECT pg_reload_conf()");
    let as_user = |user: &str| server.conninfo(database).replace("user=postgres", &format!("user={user}"));

    let source = format!("{} password=s3cret", as_user("locked"));
    cannot_log_in(&backwhen, exit::REFUSED, &source, &["\"locked\"", "password"]);
    cannot_log_in(&backwhen, exit::REFUSED, &as_user("locked"), &["\"locked\"", "password", ".pgpass"]);
    cannot_log_in(&backwhen, exit::REFUSED, &as_user("unwanted"), &["\"unwanted\"", "pg_hba.conf"]);
}

#[test]
fn a_connection_string_that_is_none() {
    let server = Server::shared(None);
    let backwhen = Backwhen::new(&server, "postgres");
    for source in ["host=", "nonsense", "host=x nosuchoption=1", "postgresql://%zz/"] {
        let output = backwhen.run(&["check", "--source", source]);
        let code = output.status.code().unwrap();
        assert!(matches!(code, exit::USAGE | exit::UNAVAILABLE), "{source}: {code} {}", output.stderr);
        assert!(output.stderr.starts_with("backwhen: ") && output.stderr.len() > 30, "{}", output.stderr);
    }
    let message = backwhen.fails(exit::USAGE, &["check"]);
    assert_says(&message, &["no source is named", "--source", "BACKWHEN_SOURCE"]);
}
