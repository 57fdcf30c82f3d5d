//! Passwords: in no argument and no environment of the programs that backwhen runs.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::shop::shop;
use crate::support::{Backwhen, Server};

/// With what a password file must escape.
const PASSWORD: &str = r"h:u\s'h";

/// A server that asks the role `locked` for its password.
fn locked_server() -> Server {
    let server = Server::start(None);
    let quoted = PASSWORD.replace('\'', "''");
    server.psql("postgres", &format!("CREATE ROLE locked SUPERUSER LOGIN PASSWORD '{quoted}'"));
    let rules = "local all locked scram-sha-256\nlocal replication locked scram-sha-256\nlocal all,replication all trust\n";
    let folder = server.psql("postgres", "SHOW data_directory");
    std::fs::write(format!("{folder}/pg_hba.conf"), rules).unwrap();
    server.psql("postgres", "SELECT pg_reload_conf()");
    server
}

/// Programs that write down how they were started before they do their work.
fn telling_programs(backwhen: &Backwhen, log: &Path) -> String {
    let folder = backwhen.folder().join("telling");
    std::fs::create_dir(&folder).unwrap();
    for name in ["pg_dump", "pg_restore", "pg_dumpall"] {
        let real = backwhen.server().bin().unwrap().join(name);
        let script = format!(
            "#!/bin/sh\n{{ echo \"ran {name} $*\"; env; }} >>'{}'\nexec '{}' \"$@\"\n",
            log.display(),
            real.display()
        );
        std::fs::write(folder.join(name), script).unwrap();
        std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder.display().to_string()
}

#[test]
fn a_password_is_in_no_childs_arguments_or_environment() {
    let server = locked_server();
    let backwhen = shop(&server);
    let log = backwhen.folder().join("log");
    let bin = telling_programs(&backwhen, &log);
    let quoted = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
    let locked = |database: &str| {
        let info = server.conninfo(database).replace("user=postgres", "user=locked");
        format!("{info} password='{quoted}'")
    };
    let source = locked(backwhen.database());
    backwhen.ok(&["init", "--pg-bin", &bin, "--source", &source]);
    backwhen.ok(&["checkpoint", "--from-source", "--pg-bin", &bin, "--source", &source]);
    let into = format!("unlocked_{}", backwhen.database());
    let arguments = ["recover", "--to", "latest", "--create", "--jobs", "4", "--pg-bin", &bin, "--into"];
    backwhen.ok(&[&arguments[..], &[&locked(&into)]].concat());
    assert_eq!(server.psql(&into, "SELECT count(*) FROM customers"), "200");

    let told = std::fs::read_to_string(&log).unwrap();
    for name in ["pg_dump", "pg_restore", "pg_dumpall"] {
        assert!(told.contains(&format!("ran {name} ")), "{name} was not run");
    }
    assert!(told.contains("PGPASSFILE=") && !told.contains("PGPASSWORD="));
    let parts = [PASSWORD, "h:u", r"h\:u", "s'h"];
    let line = told.lines().find(|line| parts.iter().any(|part| line.contains(part)));
    assert_eq!(line, None, "a password is in it");
}

#[test]
fn the_advice_on_a_source_that_proves_nothing_is_given() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let (_, port) = server.tcp_address();
    // An address that is no loopback, and leads there all the same.
    let source = format!("host=0.0.0.0 port={port} user=postgres dbname={}", backwhen.database());
    let checked = backwhen.json(&["check", "--source", &source]);
    let findings = checked["findings"].as_array().unwrap();
    let advice = findings.iter().find(|it| it["what"].as_str().unwrap().contains("sslmode=prefer")).unwrap();
    assert!(advice["fatal"] == false && advice["mend"].as_str().unwrap().contains("sslmode=verify-full"));
    assert_eq!(checked["ready"], true);
    let begun = backwhen.run(&["init", "--source", &source]);
    assert!(begun.status.success() && begun.stderr.contains("sslmode=verify-full"), "{}", begun.stderr);

    let near = backwhen.ok(&["check", "--source", &backwhen.source()]);
    assert!(!near.contains("sslmode"), "{near}");
    let near = backwhen.ok(&["check", "--source", &server.conninfo_tcp(backwhen.database())]);
    assert!(!near.contains("sslmode"), "{near}");
}
