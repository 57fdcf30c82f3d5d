//! Roles are the server's, and nothing in the stream tells of them: capture looks with its heartbeats.

use serde_json::Value;

use crate::promises::head;
use crate::support::{Backwhen, Server};

/// A target server without any of the roles.
fn recovered_roles(backwhen: &Backwhen, to: &str) -> (String, Value) {
    let target = Server::start(None);
    let into = target.conninfo("recovered");
    let report = backwhen.json(&["recover", "--to", to, "--create", "--create-roles", "--into", &into]);
    let roles = "SELECT r.rolname, r.rolcanlogin, r.rolconfig, \
                        array(SELECT g.roleid::regrole::text FROM pg_auth_members g WHERE g.member = r.oid) \
                   FROM pg_roles r WHERE r.rolname LIKE 'told\\_%' ORDER BY 1";
    (target.psql("postgres", roles), report)
}

#[test]
fn roles_are_those_of_the_moment_also_between_two_checkpoints() {
    let server = Server::start(None);
    let database = server.fresh_database("roles");
    server.psql(
        &database,
        "CREATE ROLE told_owner; CREATE ROLE told_login LOGIN IN ROLE told_owner;
         CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO told_owner",
    );
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let before = head(&server);
    // None of it changes a definition of the database.
    server.psql(
        &database,
        "CREATE ROLE told_later LOGIN PASSWORD 'secret' IN ROLE told_login; ALTER ROLE told_login NOLOGIN;
         ALTER ROLE told_owner SET work_mem = '3MB'; CREATE ROLE told_apart",
    );
    backwhen.ok(&["capture", "--until", "caught-up"]);
    assert_eq!(backwhen.json_lines(&["list", "checkpoints"]).len(), 1, "no checkpoint tells of it");

    let (roles, _) = recovered_roles(&backwhen, &before);
    assert_eq!(roles, "told_login|t||{told_owner}\ntold_owner|f||{}");
    let (roles, report) = recovered_roles(&backwhen, "latest");
    let expected = "told_later|t||{told_login}\ntold_login|f||{told_owner}\ntold_owner|f|{work_mem=3MB}|{}";
    assert_eq!(roles, expected);
    assert!(!report.to_string().contains("not done"), "{report}");

    // They are told once, and a folded checkpoint carries them on.
    let lists = || std::fs::read_dir(backwhen.history().join("schemas")).unwrap().count();
    let before = lists();
    server.psql(&database, "INSERT INTO t VALUES (1)");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    assert_eq!(lists(), before);
    let folded = backwhen.json(&["checkpoint"]);
    let moment = format!("checkpoint:{}", folded["id"].as_str().unwrap());
    assert_eq!(recovered_roles(&backwhen, &moment).0, expected);
    let secret = std::fs::read_dir(backwhen.history().join("schemas")).unwrap().any(|file| {
        std::fs::read_to_string(file.unwrap().path()).is_ok_and(|text| text.contains("PASSWORD"))
    });
    assert!(!secret, "no password, nor a digest of one");
}
