//! Targets that do not suit: refused before anything is changed there.

use crate::support::shop::{assert_says, captured_shop};
use crate::support::{Backwhen, Dump, Server, assert_same, versions};
use crate::trouble::exit;

#[test]
fn a_database_that_is_not_empty() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    let other = server.fresh_database("taken");
    server.psql(&other, "CREATE TABLE precious (id int PRIMARY KEY); INSERT INTO precious VALUES (1)");
    let before = Dump::of(&server, &other);
    let message =
        backwhen.fails(exit::REFUSED, &["recover", "--to", "latest", "--into", &server.conninfo(&other)]);
    assert_says(&message, &[&other, "is not empty", "public.precious", "--create", "DROP DATABASE"]);
    assert!(Dump::of(&server, &other) == before, "the target was changed");

    let message = backwhen
        .fails(exit::REFUSED, &["recover", "--to", "latest", "--create", "--into", &server.conninfo(&other)]);
    assert_says(&message, &[&other, "exists already", "choose another name"]);
    assert!(Dump::of(&server, &other) == before, "the target was changed");
}

#[test]
fn the_source_itself() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    let message = backwhen.fails(exit::REFUSED, &["recover", "--to", "latest", "--into", &backwhen.source()]);
    assert_says(&message, &["is not empty"]);
}

#[test]
fn a_database_that_is_not_there() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    let into = server.conninfo("not_there_at_all");
    let message = backwhen.fails(exit::REFUSED, &["recover", "--to", "latest", "--into", &into]);
    assert_says(&message, &["not_there_at_all does not exist", "--create"]);
    let into = "host=127.0.0.1 port=1 dbname=x";
    let message = backwhen.fails(exit::UNAVAILABLE, &["recover", "--to", "latest", "--into", into]);
    assert_says(&message, &["127.0.0.1:1"]);
}

#[test]
fn files_that_exist_or_cannot_be_made() {
    let backwhen = captured_shop(&Server::shared(None));
    for kind in ["sql", "sqlite"] {
        let path = backwhen.folder().join(format!("mine.{kind}"));
        std::fs::write(&path, "precious").unwrap();
        let into = format!("{kind}:{}", path.display());
        let message = backwhen.fails(exit::REFUSED, &["recover", "--to", "latest", "--into", &into]);
        assert_says(&message, &["exists already", "name another file or remove it"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");

        let into = format!("{kind}:/no/such/folder/file");
        let message = backwhen.fails(exit::UNAVAILABLE, &["recover", "--to", "latest", "--into", &into]);
        assert_says(&message, &["/no/such/folder/file"]);
        backwhen.fails(exit::USAGE, &["recover", "--to", "latest", "--into", &format!("{kind}:")]);
    }
    let left: Vec<_> =
        std::fs::read_dir(backwhen.folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "more than the history and two files: {left:?}");
}

#[test]
fn a_server_older_than_the_source() {
    let (Some(&oldest), Some(&newest)) = (versions().first(), versions().last()) else { return };
    if oldest == newest {
        eprintln!("skipped: only PostgreSQL {newest} is on this machine");
        return;
    }
    let backwhen = captured_shop(&Server::shared(Some(newest)));
    let older = Server::shared(Some(oldest));
    let into = older.conninfo("from_the_future");
    let message = backwhen.fails(exit::REFUSED, &["recover", "--to", "latest", "--create", "--into", &into]);
    assert_says(&message, &[&oldest.to_string(), &newest.to_string(), "older"]);
    let left =
        older.psql("postgres", "SELECT datname FROM pg_database WHERE datname LIKE 'from_the_future%'");
    assert_eq!(left, "");
}

#[test]
fn roles_that_the_target_lacks_are_made_on_request() {
    let (server, other) = (Server::start(None), Server::start(None));
    let database = server.fresh_database("owned");
    server.psql(
        &database,
        "CREATE ROLE keeper LOGIN CONNECTION LIMIT 3 PASSWORD 'secret'; CREATE ROLE readers; GRANT readers TO keeper;
         CREATE TABLE kept (id int PRIMARY KEY); ALTER TABLE kept OWNER TO keeper; GRANT SELECT ON kept TO readers",
    );
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    let into = other.conninfo("without");
    let report = backwhen.json_incomplete(&["recover", "--to", "latest", "--create", "--into", &into]);
    assert_says(&report["notes"].to_string(), &["has no role keeper", "recover with --create-roles"]);
    let into = other.conninfo("rescued");
    let report = backwhen.json(&["recover", "--to", "latest", "--create", "--create-roles", "--into", &into]);
    let notes = report["notes"].to_string();
    assert!(notes.contains("made roles without passwords: keeper, readers"), "{notes}");
    assert_same(&Dump::of(&server, &database), &Dump::of(&other, "rescued"));
    let role =
        "SELECT rolcanlogin, rolconnlimit, rolpassword IS NULL, pg_has_role('keeper', 'readers', 'MEMBER')
                  FROM pg_authid WHERE rolname = 'keeper'";
    assert_eq!(other.psql("postgres", role), "t|3|t|t");
}
