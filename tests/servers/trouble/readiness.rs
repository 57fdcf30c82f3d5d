//! Sources that are not ready: `check` and `init` name the command that mends it.

use crate::support::shop::{OpenSession, assert_says, assert_source_clean, shop};
use crate::support::{Backwhen, Server, versions};
use crate::trouble::exit;

/// `check` and `init` both refuse, with the same words; the source stays as it was.
fn refused(backwhen: &Backwhen, source: &str, pieces: &[&str]) {
    let checked = backwhen.run(&["check", "--source", source]);
    assert_eq!(checked.status.code(), Some(exit::REFUSED), "{}{}", checked.stdout, checked.stderr);
    assert_says(&checked.stdout, pieces);
    assert_says(&checked.stdout, &["not ready"]);
    assert_says(&backwhen.fails(exit::REFUSED, &["init", "--source", source]), pieces);
    assert_source_clean(backwhen.server(), backwhen.database());
    assert!(!backwhen.history().join("history.json").exists());
}

#[test]
fn a_server_without_logical_log_slots_and_senders() {
    let server = Server::builder()
        .setting("wal_level", "minimal")
        .setting("max_wal_senders", "0")
        .setting("max_replication_slots", "0")
        .start();
    let backwhen = shop(&server);
    refused(
        &backwhen,
        &backwhen.source(),
        &[
            "wal_level is minimal, not logical",
            "ALTER SYSTEM SET wal_level = logical; then restart the server",
            "no replication slot is free",
            "ALTER SYSTEM SET max_replication_slots",
            "no walsender is free",
            "ALTER SYSTEM SET max_wal_senders",
        ],
    );
}

#[test]
fn slots_and_senders_that_others_use() {
    let server =
        Server::builder().setting("max_wal_senders", "1").setting("max_replication_slots", "1").start();
    let backwhen = shop(&server);
    let source = backwhen.source();
    server.psql("postgres", "SELECT pg_create_physical_replication_slot('taken')");
    refused(&backwhen, &source, &["no replication slot is free", "drop a slot that nobody uses"]);
    server.psql("postgres", "SELECT pg_drop_replication_slot('taken')");
    let sender = OpenSession::new(&server, &format!("{source} replication=database"));
    refused(&backwhen, &source, &["no walsender is free"]);
    drop(sender);
    backwhen.init();
}

#[test]
fn a_role_without_rights_is_told_the_grant_for_each() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let database = backwhen.database();
    let role = format!("limited_{database}");
    let source = server.conninfo(database).replace("user=postgres", &format!("user={role}"));
    server.psql(database, &format!("CREATE ROLE {role} LOGIN; CREATE ROLE owner_{database}"));
    server.psql(database, &format!("ALTER TABLE orders OWNER TO owner_{database}"));
    refused(
        &backwhen,
        &source,
        &[
            &format!("{role} may not replicate"),
            &format!("ALTER ROLE \"{role}\" REPLICATION;"),
            &format!("GRANT CREATE ON DATABASE \"{database}\" TO \"{role}\";"),
            &format!("{role} does not own 3 tables"),
            &format!("GRANT \"owner_{database}\" TO \"{role}\"; GRANT \"postgres\" TO \"{role}\";"),
        ],
    );
    // The very commands that were named, and it is ready.
    server.psql(
        database,
        &format!(
            "ALTER ROLE {role} REPLICATION; GRANT CREATE ON DATABASE {database} TO {role};
             GRANT owner_{database} TO {role}; GRANT USAGE ON SCHEMA public TO {role};
             ALTER TABLE customers OWNER TO {role}; ALTER TABLE visits OWNER TO {role};
             ALTER VIEW latest_orders OWNER TO {role}"
        ),
    );
    backwhen.ok(&["init", "--source", &source]);
    backwhen.ok(&["capture", "--until", "caught-up"]);
}

#[test]
fn a_table_without_identity_is_graded_and_the_mend_mends_it() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let source = backwhen.source();
    let mend = "ALTER TABLE \"public\".\"visits\" REPLICA IDENTITY FULL;";
    let checked = backwhen.ok(&["check", "--source", &source]);
    let line = checked.lines().find(|line| line.starts_with("public.visits")).unwrap();
    assert_says(line, &["insert-only", "no primary key", mend]);
    let begun = backwhen.run(&["init", "--source", &source]);
    assert!(begun.status.success(), "{}", begun.stderr);
    assert_says(&begun.stderr, &["inserts only: public.visits has no replica identity", mend]);

    server.psql(backwhen.database(), mend);
    let checked = backwhen.ok(&["check", "--source", &source]);
    let line = checked.lines().find(|line| line.starts_with("public.visits")).unwrap();
    assert_says(line, &["exact"]);
}

#[test]
fn check_changes_nothing() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let before = server.pg_dump(backwhen.database(), &[]);
    backwhen.ok(&["check", "--source", &backwhen.source()]);
    assert_source_clean(&server, backwhen.database());
    // Later versions put a random key into every dump.
    let lines = |dump: &[u8]| {
        let text = String::from_utf8_lossy(dump).into_owned();
        text.lines().filter(|line| !line.contains("restrict")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines(&server.pg_dump(backwhen.database(), &[])), lines(&before));
    assert!(!backwhen.history().exists());
}

/// Whether a role may use the output plugin, only the server itself knows.
#[test]
fn a_server_that_does_not_make_a_slot_is_told_by_check() {
    // From version 18 on, the server looks for PL/pgSQL on that path too.
    let server = Server::shared(versions().into_iter().next());
    let backwhen = shop(&server);
    let role = format!("pluginless_{}", backwhen.database());
    let make = format!(
        "CREATE ROLE {role} SUPERUSER LOGIN; ALTER ROLE {role} SET dynamic_library_path = '/nowhere'"
    );
    server.psql("postgres", &make);
    let source = backwhen.source().replace("user=postgres", &format!("user={role}"));
    let checked = backwhen.run(&["check", "--source", &source]);
    assert_eq!(checked.status.code(), Some(exit::REFUSED), "{}{}", checked.stdout, checked.stderr);
    assert_says(
        &checked.stdout,
        &["no slot can be made for the output plugin pgoutput", "could not access file"],
    );
    // A transaction that keeps a new slot waiting is told, and is no reason to say no.
    let mut session = OpenSession::new(&server, &server.conninfo(backwhen.database()));
    session.run("BEGIN; INSERT INTO visits (page) VALUES ('/open');");
    let checked = backwhen.ok(&["check", "--source", &backwhen.source()]);
    assert_says(&checked, &["a new slot waits for transactions that are open", "ready: capture could start"]);
    drop(session);
    assert_source_clean(&server, backwhen.database());
}

#[test]
fn a_role_that_may_have_few_sessions_is_told_so() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let database = backwhen.database();
    let role = format!("few_{database}");
    let make = format!(
        "CREATE ROLE {role} LOGIN REPLICATION CONNECTION LIMIT 2; GRANT CREATE ON DATABASE {database} TO {role};
         ALTER TABLE customers OWNER TO {role}; ALTER TABLE orders OWNER TO {role}; ALTER TABLE visits OWNER TO {role}"
    );
    server.psql(database, &make);
    let source = backwhen.source().replace("user=postgres", &format!("user={role}"));
    let mend = format!("ALTER ROLE \"{role}\" CONNECTION LIMIT -1;");
    refused(&backwhen, &source, &[&format!("{role} may have 2 sessions in {database}"), &mend]);
    let one = format!("ALTER ROLE {role} CONNECTION LIMIT 1");
    server.psql(database, &one);
    let mut session = OpenSession::new(&server, &source);
    session.run("SELECT 1;");
    let message = backwhen.fails(exit::UNAVAILABLE, &["check", "--source", &source]);
    assert_says(&message, &["ALTER ROLE … CONNECTION LIMIT"]);
    drop(session);
    server.psql(database, &format!("ALTER ROLE {role} CONNECTION LIMIT 8"));
    backwhen.ok(&["init", "--source", &source]);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["drop"]);
    assert_source_clean(&server, database);
}

/// pg_dump locks also what is left out.
#[test]
fn tables_that_are_left_out_need_no_owner_but_must_be_readable() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let database = backwhen.database();
    let role = format!("one_table_{database}");
    let make = format!(
        "CREATE ROLE {role} LOGIN REPLICATION; GRANT CREATE ON DATABASE {database} TO {role};
         ALTER TABLE customers OWNER TO {role}"
    );
    server.psql(database, &make);
    let source = backwhen.source().replace("user=postgres", &format!("user={role}"));
    let exclude = ["--exclude", "public.orders", "--exclude", "public.visits"];
    let init = [&["init", "--source", &source], &exclude[..]].concat();
    let mend = format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO \"{role}\";");
    let message = backwhen.fails(exit::REFUSED, &init);
    assert_says(&message, &["may not read 2 tables, such as public.orders, public.visits", &mend]);
    server.psql(database, &mend);
    assert_says(&backwhen.ok(&[&["check", "--source", &source], &exclude[..]].concat()), &["ready"]);
    backwhen.ok(&init);
    backwhen.ok(&["drop"]);
    assert_source_clean(&server, database);
}
