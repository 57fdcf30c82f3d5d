//! A recovery on demand needs a superuser, and lends its rights to nobody.

use super::{GATES_HELD, Opened, gates, resume, run_unlocked};
use crate::demand::{protected, psql};
use crate::support::shop::assert_says;
use crate::support::{Backwhen, on_oldest_and_newest};

/// Code of an ordinary role in every place that loading may come across.
const ATTACKS: &str = "
CREATE FUNCTION mallory.rise(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
    $$BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = current_user AND rolsuper) OR
        EXISTS (SELECT FROM pg_roles WHERE rolname = session_user AND rolsuper) AND current_user <> 'MALLORY' THEN
        EXECUTE 'ALTER ROLE MALLORY SUPERUSER'; END IF; RETURN true; EXCEPTION WHEN OTHERS THEN RETURN true; END$$;
CREATE DOMAIN mallory.domain AS int CHECK (mallory.rise(VALUE));
CREATE TABLE mallory.checked (id int PRIMARY KEY, CHECK (mallory.rise(id)));
CREATE TABLE mallory.computed (id int PRIMARY KEY, b boolean GENERATED ALWAYS AS (mallory.rise(id)) STORED);
CREATE TABLE mallory.indexed (id int PRIMARY KEY);
CREATE INDEX ON mallory.indexed (mallory.rise(id));
CREATE INDEX ON mallory.indexed ((mallory.rise(7)));
CREATE TABLE mallory.of_domain (id mallory.domain PRIMARY KEY);
CREATE TABLE mallory.parted (id int) PARTITION BY LIST (mallory.rise(id));
CREATE TABLE mallory.part PARTITION OF mallory.parted FOR VALUES IN (true);
CREATE TABLE mallory.plain (id int PRIMARY KEY);
INSERT INTO mallory.checked SELECT generate_series(1, 9);
INSERT INTO mallory.computed SELECT generate_series(1, 9);
INSERT INTO mallory.indexed SELECT generate_series(1, 9);
INSERT INTO mallory.of_domain SELECT generate_series(1, 9);
INSERT INTO mallory.plain SELECT generate_series(1, 9);
";

#[test]
fn an_ordinary_role_of_the_source_does_not_become_a_superuser() {
    on_oldest_and_newest(|server| {
        let database = server.fresh_database("demand");
        let role = format!("{database}_mallory");
        server.psql(
            &database,
            &format!("CREATE ROLE {role} LOGIN; CREATE SCHEMA mallory AUTHORIZATION {role}; GRANT ALL ON SCHEMA mallory TO {role}"),
        );
        server.psql(&database, &format!("SET ROLE {role}; {}", ATTACKS.replace("MALLORY", &role)));
        let backwhen = Backwhen::new(server, &database);
        backwhen.init();
        let target = format!("{database}_attacked");
        let into = server.conninfo(&target);
        let opened = Opened::begin(&backwhen, &into, false, &[]);
        // Tables whose loading would compute something are loaded before, under the guard of every recovery.
        assert_eq!(gates(&backwhen, &into), ["mallory.plain closed", "mallory.checked closed"]);
        // A table that somebody alters while nothing loads it is refused.
        opened.kill();
        let alter = "CREATE INDEX ON mallory.plain ((mallory.rise(7)))";
        crate::support::wait_for("the gates are gone", || server.psql(&target, GATES_HELD) == "0");
        server.psql(&target, &format!("SET ROLE {role}; {alter}"));
        let refused = run_unlocked(&backwhen, &["recover", "--resume", "--into", &into]);
        assert_eq!(refused.status.code(), Some(14), "{}", refused.stderr);
        assert_says(&refused.stderr, &["mallory.plain was changed since the recovery began"]);
        server.psql(&target, "DROP INDEX mallory.plain_rise_idx");
        resume(&backwhen, &into);
        assert_eq!(psql(server, &into, "SELECT count(*) FROM mallory.plain"), "9");
        let rose = format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{role}'");
        assert_eq!(server.psql("postgres", &rose), "f");
    });
}

#[test]
fn it_is_refused_where_it_cannot_be_right() {
    let server = crate::support::Server::shared(None);
    let backwhen = protected(&server);
    let role = format!("{}_owner", backwhen.database());
    server.psql("postgres", &format!("CREATE ROLE {role} LOGIN CREATEDB"));
    let target = format!("{}_refused", backwhen.database());
    let into = server.conninfo(&target).replace("user=postgres", &format!("user={role}"));
    let begin = |into: &str| {
        ["recover", "--to", "latest", "--on-demand", "--create", "--into", into].map(str::to_owned)
    };
    let fails = |code, arguments: &[String], words: &[&str]| {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        assert_says(&backwhen.fails(code, &arguments), words);
    };
    fails(14, &begin(&into), &["--on-demand needs a superuser on the target"]);
    let left = format!("SELECT count(*) FROM pg_database WHERE datname LIKE '{target}%'");
    assert_eq!(server.psql("postgres", &left), "0", "nothing is left");
    fails(2, &begin("sqlite:x.db"), &["--on-demand needs a PostgreSQL server"]);
    let first = ["--first", "nowhere"].map(str::to_owned);
    fails(2, &[&begin(&server.conninfo(&target))[..], &first].concat(), &["no table matches nowhere"]);
    let resume = ["recover", "--resume", "--into", &server.conninfo(backwhen.database())].map(str::to_owned);
    fails(14, &resume, &["holds no recovery on demand that is unfinished"]);
    // Statements of a ledger are run, so nobody else's is believed.
    let forged =
        "CREATE SCHEMA backwhen_unfinished; CREATE TABLE backwhen_unfinished.recovery (own_comment text)";
    let allow = format!("GRANT CREATE ON DATABASE {} TO {role}", backwhen.database());
    server.psql(backwhen.database(), &format!("{allow}; SET ROLE {role}; {forged}"));
    fails(14, &resume, &["was not made by a superuser"]);
}
