//! PostgreSQL's client programs: missing, too old, or failing.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::shop::{assert_says, assert_source_clean, captured_shop, shop};
use crate::support::{Server, versions};
use crate::trouble::exit;

/// Programs that know their version and fail at everything else.
fn fake_programs(folder: &Path, major: u32) {
    std::fs::create_dir_all(folder).unwrap();
    for name in ["pg_dump", "pg_restore", "pg_dumpall"] {
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" = --version ]; then echo '{name} (PostgreSQL) {major}.0'; exit 0; fi\n\
             echo '{name}: error: it is broken' >&2\nexit 1\n"
        );
        let path = folder.join(name);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn missing_programs_are_named_with_what_to_install() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let empty = tempfile::tempdir().unwrap();
    let folder = empty.path().to_str().unwrap();
    let expected = ["not found", folder, "apt-get install postgresql-client", "BACKWHEN_PG_BIN"];
    let source = backwhen.source();
    assert_says(
        &backwhen.fails(exit::REFUSED, &["init", "--pg-bin", folder, "--source", &source]),
        &expected,
    );
    assert_source_clean(&server, backwhen.database());
    assert!(!backwhen.history().exists());
    let checked = backwhen.run(&["check", "--pg-bin", folder, "--source", &source]);
    assert_eq!(checked.status.code(), Some(exit::REFUSED));
    assert_says(&checked.stdout, &expected);

    backwhen.init();
    let into = format!("untooled_{}", backwhen.database());
    let arguments = ["recover", "--to", "latest", "--create", "--pg-bin", folder, "--into"];
    let message = backwhen.fails(exit::REFUSED, &[&arguments[..], &[&server.conninfo(&into)]].concat());
    assert_says(&message, &expected);
    assert_no_database(&server, &into);
}

fn assert_no_database(server: &Server, name: &str) {
    let left =
        server.psql("postgres", &format!("SELECT datname FROM pg_database WHERE datname LIKE '{name}%'"));
    assert_eq!(left, "", "left on the target");
}

#[test]
fn programs_older_than_the_server_are_refused() {
    let (Some(&oldest), Some(&newest)) = (versions().first(), versions().last()) else { return };
    if oldest == newest {
        eprintln!("skipped: only PostgreSQL {newest} is on this machine");
        return;
    }
    let server = Server::shared(Some(newest));
    let backwhen = captured_shop(&server);
    let older = Server::shared(Some(oldest));
    let old = older.bin().unwrap().to_str().unwrap();
    let source = backwhen.source();
    let other = backwhen.folder().join("other");
    let other = other.to_str().unwrap();
    let arguments = ["init", "--history", other, "--pg-bin", old, "--source", &source];
    let message = backwhen.fails(exit::REFUSED, &arguments);
    let wanted = format!("pg_dump {newest} or newer not found");
    assert_says(
        &message,
        &[&wanted, &format!("found only {oldest}"), &format!("postgresql-client-{newest}")],
    );

    let into = format!("old_tools_{}", backwhen.database());
    let arguments = ["recover", "--to", "latest", "--create", "--pg-bin", old, "--into"];
    let message = backwhen.fails(exit::REFUSED, &[&arguments[..], &[&server.conninfo(&into)]].concat());
    assert_says(&message, &[&format!("pg_restore {newest} or newer not found")]);
    assert_no_database(&server, &into);
}

#[test]
fn programs_that_fail_leave_nothing() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let folder = backwhen.folder().join("fake");
    fake_programs(&folder, server.major());
    let folder = folder.to_str().unwrap();
    let message =
        backwhen.fails(exit::UNAVAILABLE, &["init", "--pg-bin", folder, "--source", &backwhen.source()]);
    assert_says(&message, &["pg_dump", "it is broken"]);
    assert_source_clean(&server, backwhen.database());
    assert!(!backwhen.history().join("history.json").exists());

    // Only pg_restore makes large objects.
    server.psql(backwhen.database(), "SELECT lo_create(0)");
    backwhen.init();
    let into = format!("faked_{}", backwhen.database());
    let arguments = ["recover", "--to", "latest", "--create", "--pg-bin", folder, "--into"];
    let output = backwhen.run(&[&arguments[..], &[&server.conninfo(&into)]].concat());
    assert!(matches!(output.status.code(), Some(exit::UNAVAILABLE | exit::REFUSED)), "{}", output.stderr);
    assert_says(&output.stderr, &["pg_restore", "it is broken"]);
    assert_no_database(&server, &into);
}
