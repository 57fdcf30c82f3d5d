//! 6, of definitions: what replayed statements do not lead to comes back as the source had it, from what the history holds
//! of later positions.

use serde_json::Value;

use super::proved::{OFF, ON, head, named, protected, recovered};
use crate::support::{Backwhen, Dump, Server, assert_same, for_each_version};

/// Recovers, and compares the definitions and rows with what the source's were.
fn comes_back(backwhen: &Backwhen, to: &str, truth: &Dump) -> Value {
    let server = backwhen.server();
    let into = server.fresh_database("mended");
    let report = backwhen.json(&["recover", "--to", to, "--into", &server.conninfo(&into)]);
    assert_same(truth, &Dump::of(server, &into));
    report
}

/// Captures until the schema as it is now is in the history.
fn capture(backwhen: &Backwhen) {
    let mut capture = backwhen.spawn_capture();
    capture.wait_for_line("has the schema as it is now");
    capture.stop();
}

#[test]
fn what_nothing_told_comes_back_and_is_named_beside_what_was_told() {
    for_each_version(|server| {
        let backwhen = protected(
            server,
            "CREATE TABLE a (id int PRIMARY KEY, d int DEFAULT 1); ALTER TABLE a OWNER TO proved_a;
             CREATE TABLE c (id int PRIMARY KEY, x int); CREATE INDEX gone ON c (x);",
        );
        let untold =
            "ALTER TABLE a ALTER d SET DEFAULT 2; DROP INDEX gone; CREATE VIEW quiet AS SELECT 1 AS one;";
        server.psql(
            backwhen.database(),
            &format!(
                "{OFF} {untold} {ON} REASSIGN OWNED BY proved_a TO proved_b; CREATE TABLE told (id int PRIMARY KEY)"
            ),
        );
        let (moment, truth) = (head(server), Dump::of(server, backwhen.database()));
        capture(&backwhen);
        let report = comes_back(&backwhen, &moment, &truth);
        let mut named = named(&report);
        named.iter_mut().for_each(|it| it.truncate(it.find(" between").unwrap_or(it.len())));
        named.sort();
        assert_eq!(
            named,
            [
                "index public.gone: was dropped",
                "public.a: default of column d, owner changed",
                "view public.quiet: was made",
            ]
        );
        assert_eq!(
            (&report["schema"]["known"], &report["schema_proof"]["proof"]),
            (&"within".into(), &"proved".into())
        );
    });
}

/// Settings of a database say how values and strings are written and read, and what a session may do.
#[test]
fn whatever_is_set_for_a_database_its_definitions_and_values_come_back() {
    const SETTINGS: &[&str] = &[
        "DateStyle = 'SQL, DMY'",
        "IntervalStyle = 'sql_standard'",
        "bytea_output = 'escape'",
        "extra_float_digits = -15",
        "TimeZone = 'Asia/Kathmandu'",
        "array_nulls = off",
        "quote_all_identifiers = on",
        "standard_conforming_strings = off",
        "transform_null_equals = on",
        "xmlbinary = 'hex'",
        "check_function_bodies = off",
        "search_path = ''",
        "client_encoding = 'LATIN1'",
        "row_security = off",
        "lock_timeout = '200ms'",
        "default_transaction_read_only = on",
        "default_transaction_isolation = 'serializable'",
        "default_transaction_deferrable = on",
    ];
    // The session that sets them goes on without them.
    let set = |setting: &&str| {
        format!(
            "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET ', current_database()) || $q${setting}$q$; END$$;\n"
        )
    };
    let settings: String = SETTINGS.iter().map(set).collect();
    for_each_version(|server| {
        let backwhen = protected(
            server,
            &format!("{settings}CREATE TABLE t (id int PRIMARY KEY, at timestamptz, i interval, b bytea, f float8, a text[], s text DEFAULT E'a\\\\b');
             INSERT INTO t VALUES (1, '2020-02-03 04:05', '1 year 2 days 3.5 s', '\\x00ff5c', 0.1::float8 + 0.2,
                 ARRAY['NULL', NULL, E'\"\\\\'], E'\\\\\\'\u{e9}');"),
        );
        let database = backwhen.database();
        server.psql(
            database,
            "SET default_transaction_read_only = off;
             CREATE TABLE public.made (id int PRIMARY KEY, d date DEFAULT '01/02/2003', s text DEFAULT E'\\\\x', i interval DEFAULT '1-2');
             INSERT INTO public.made VALUES (1); ALTER TABLE public.made ADD e timestamptz DEFAULT '03/02/2020 23:00';
             INSERT INTO public.t SELECT 2, at + i, -i, b, 1e-300, a, s FROM public.t; ALTER TABLE public.t ALTER s SET DEFAULT E'q\\\\q';
             CREATE VIEW public.v AS SELECT at::text, i::text, s ~ E'\\\\d' AS d FROM public.t;",
        );
        let (moment, truth) = (head(server), Dump::of(server, database));
        capture(&backwhen);
        for (number, moment) in [&moment, "latest"].into_iter().enumerate() {
            // The settings are the database's own properties, which only a database has that the recovery makes.
            let into = format!("{database}_{number}");
            let report =
                backwhen.json(&["recover", "--to", moment, "--create", "--into", &server.conninfo(&into)]);
            assert_same(&truth, &Dump::of(server, &into));
            assert_eq!(named(&report), [""; 0], "{report:#}");
        }
    });
}

/// CREATE INDEX CONCURRENTLY that fails leaves an index that is not valid, REINDEX makes it valid, and nothing tells of either.
#[test]
fn an_index_that_was_made_valid_and_dropped_before_the_next_digests_is_named() {
    for_each_version(|server| {
        let backwhen = protected(
            server,
            "CREATE TABLE a (id int PRIMARY KEY, x int); INSERT INTO a VALUES (1, 1), (2, 1);",
        );
        let database = backwhen.database();
        assert!(server.try_psql(database, "CREATE UNIQUE INDEX CONCURRENTLY a_x ON a (x)").is_err());
        server.psql(database, "UPDATE a SET x = id; REINDEX INDEX a_x");
        let moment = head(server);
        server.psql(database, "DROP INDEX a_x; CREATE TABLE b (id int PRIMARY KEY)");
        capture(&backwhen);
        let into = server.fresh_database("mended");
        let report = backwhen.json(&["recover", "--to", &moment, "--into", &server.conninfo(&into)]);
        let inexact = &report["inexact"][0];
        assert_eq!(inexact["what"], "index a_x", "{report:#}");
        let why = inexact["why"].as_str().unwrap();
        assert!(why.ends_with("it may have been there, if it was ever valid"), "{why}");
    });
}

/// From version 18 on, of domains from 17 on, NOT NULL has a name, which LIKE copies. pg_dump leaves out the name that the
/// server would choose, but the server chooses another one if the copy, or another object with that name, is restored first.
#[test]
fn not_null_keeps_its_name_beside_a_table_that_copied_it() {
    for_each_version(|server| {
        let backwhen = protected(
            server,
            "CREATE TABLE \"T\" (id int PRIMARY KEY, \"a b\" int DEFAULT (CASE WHEN 1 IS NOT NULL THEN 1 END) NOT NULL);
             CREATE TABLE \"A\" (LIKE \"T\" INCLUDING ALL);
             CREATE DOMAIN d AS int NOT NULL; CREATE DOMAIN \"C\" AS int CONSTRAINT d_not_null NOT NULL;
             CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE f (i int NOT NULL) SERVER s;
             CREATE FOREIGN TABLE \"B\" (i int CONSTRAINT f_i_not_null NOT NULL) SERVER s",
        );
        let assert_exact = |report: &Value| {
            let foreign =
                ["f", "B"].map(|table| format!("public.{table}: foreign table: only its definition is kept"));
            assert_eq!(named(report), foreign);
        };
        let truth = Dump::of(server, backwhen.database());
        let report = comes_back(&backwhen, "latest", &truth);
        assert_exact(&report);
        let replayed = "CREATE TABLE u (id int PRIMARY KEY); CREATE TABLE b (LIKE u INCLUDING ALL); ALTER TABLE \"T\" ADD v int";
        server.psql(backwhen.database(), replayed);
        let (moment, truth) = (head(server), Dump::of(server, backwhen.database()));
        capture(&backwhen);
        assert_exact(&comes_back(&backwhen, &moment, &truth));
        if server.major() >= 18 {
            server.psql(backwhen.database(), "ALTER TABLE u RENAME CONSTRAINT u_id_not_null TO other");
            let (moment, truth) = (head(server), Dump::of(server, backwhen.database()));
            capture(&backwhen);
            assert_exact(&comes_back(&backwhen, &moment, &truth));
        }
    });
}

/// A DROP may name temporary objects beside permanent ones, and permanent ones may have the names of temporary ones.
#[test]
fn what_is_dropped_with_temporary_objects_is_gone() {
    for_each_version(|server| {
        let backwhen = protected(
            server,
            "CREATE TABLE perm (id int PRIMARY KEY); CREATE TABLE scratch (kept int PRIMARY KEY); CREATE VIEW pv AS SELECT 1 AS one;
             CREATE FUNCTION pf() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TYPE pt AS (a int); CREATE SEQUENCE ps;",
        );
        server.psql(
            backwhen.database(),
            "CREATE TEMP TABLE scratch (a int); DROP TABLE scratch, perm; CREATE TEMP VIEW tv AS SELECT 2 AS two; DROP VIEW tv, pv;
             CREATE FUNCTION pg_temp.tf() RETURNS int LANGUAGE sql AS 'SELECT 1'; DROP FUNCTION pg_temp.tf(), pf();
             CREATE TYPE pg_temp.tt AS (b int); DROP TYPE pg_temp.tt, pt; CREATE TEMP SEQUENCE ts; DROP SEQUENCE ts, ps;",
        );
        let (moment, truth) = (head(server), Dump::of(server, backwhen.database()));
        server.psql(backwhen.database(), "CREATE TABLE perm (other text PRIMARY KEY)");
        capture(&backwhen);
        let report = comes_back(&backwhen, &moment, &truth);
        assert_eq!(report["inexact"], Value::Array(Vec::new()));
        assert_eq!(report["schema_proof"]["proof"], "proved", "{report}");
    });
}

#[test]
fn columns_of_tables_that_inherit_come_back_in_their_order() {
    for_each_version(|server| {
        let backwhen = protected(
            server,
            "CREATE TABLE parent (a int PRIMARY KEY, t text COLLATE \"C\"); CREATE TABLE joined (q int PRIMARY KEY, t text COLLATE \"C\", a int NOT NULL);
             CREATE TABLE child (b varchar(7) DEFAULT 'b', PRIMARY KEY (a), CHECK (b <> 'x')) INHERITS (parent);
             CREATE TABLE grandchild (c int PRIMARY KEY) INHERITS (child); ALTER TABLE joined INHERIT parent;
             ALTER TABLE parent ADD COLUMN y int DEFAULT 1; CREATE VIEW v AS SELECT * FROM child;
             INSERT INTO child VALUES (1, 't', 'b', 2)",
        );
        let columns = "SELECT string_agg(concat(attrelid::regclass, '.', attname, attislocal, attinhcount), ',' ORDER BY attrelid::regclass::text, attnum)
             FROM pg_attribute WHERE attrelid IN (SELECT inhrelid FROM pg_inherits) AND attnum > 0 AND NOT attisdropped
               AND attrelid::regclass::text IN ('child', 'grandchild', 'joined')";
        let told = "ALTER TABLE parent ADD COLUMN z text DEFAULT 'z'; INSERT INTO child VALUES (2, 't', 'c', 3, 'zz')";
        let mut truths = Vec::new();
        for sql in ["INSERT INTO joined VALUES (1, 't', 2, 3)", told] {
            server.psql(backwhen.database(), sql);
            let database = backwhen.database();
            truths.push((head(server), Dump::of(server, database), server.psql(database, columns)));
        }
        capture(&backwhen);
        for (moment, truth, wanted) in truths {
            let into = server.fresh_database("mended");
            let report = backwhen.json(&["recover", "--to", &moment, "--into", &server.conninfo(&into)]);
            assert_eq!(server.psql(&into, columns), wanted);
            assert_same(&truth, &Dump::of(server, &into));
            assert_eq!(report["inexact"], Value::Array(Vec::new()), "{report}");
            assert_eq!(report["schema_proof"]["proof"], "proved", "{report}");
        }
    });
}

/// No checkpoint can be written while the definitions change.
#[test]
fn digests_in_the_stream_prove_what_no_checkpoint_does() {
    let server = &Server::shared(None);
    let backwhen = protected(server, "CREATE TABLE t (id int PRIMARY KEY)");
    let database = backwhen.database();
    let mut capture = backwhen.spawn_capture_where("BACKWHEN_TEST_POINT", "checkpoint.publish=error");
    capture.wait_streaming();
    server.psql(database, "CREATE VIEW one AS SELECT 1 AS one; INSERT INTO t VALUES (1)");
    let one = head(server);
    capture.wait_for_line("digests of 1 object whose");
    // All in one go, so that no heartbeat comes in between and digests the half of it.
    let at = "SELECT pg_current_wal_insert_lsn();";
    let moments = server.psql(
        database,
        &format!(
            "CREATE VIEW two AS SELECT 2 AS two; INSERT INTO t VALUES (2); {at} {OFF} ALTER TABLE t OWNER TO proved_a; {ON} {at}"
        ),
    );
    let (two, quiet) = moments.split_once('\n').expect("two positions");
    let (two, quiet) = (two.to_owned(), quiet.to_owned());
    capture.wait_for_line("digests of 2 objects whose");
    server.psql(database, "INSERT INTO t VALUES (3)");
    let latest = head(server);
    capture.wait_caught_up();
    capture.stop();
    assert_eq!(backwhen.json_lines(&["list", "checkpoints"]).len(), 1);
    let proof = |to: &str| {
        let report = recovered(&backwhen, to);
        let mut named = named(&report);
        // If a heartbeat lies between the change and its digests, it says by itself that something changed untold.
        named.retain(|it| !it.starts_with("schema: schema known within"));
        (report["schema_proof"]["proof"].clone(), report["schema"]["known"].clone(), named)
    };
    assert_eq!(proof(&one), ("proved".into(), "exactly".into(), vec![]));
    let owner = "public.t: owner not as in the source".to_owned();
    for to in [&two, &quiet, &latest] {
        assert_eq!(proof(to), ("differs".into(), "within".into(), vec![owner.clone()]), "{to}");
    }
}

/// Captures until the digests of the definitions as they are now are in the stream, and in no checkpoint. Each capture
/// takes digests with its first heartbeat.
fn digest(backwhen: &Backwhen) {
    let mut capture = backwhen.spawn_capture_where("BACKWHEN_TEST_POINT", "checkpoint.publish=error");
    capture.wait_for_line("whose definitions have changed are in the stream");
    capture.stop();
}

/// The digests before the moment show the objects, and those after the moment do not.
#[test]
fn what_was_made_and_dropped_untold_is_named_at_the_moments_between() {
    let server = &Server::shared(None);
    let backwhen = protected(server, "CREATE TABLE t (id int PRIMARY KEY)");
    let database = backwhen.database();
    server.psql(
        database,
        &format!("BEGIN; {OFF} CREATE TYPE passing AS ENUM ('a'); SELECT lo_create(7); {ON} COMMIT"),
    );
    digest(&backwhen);
    let at_once = head(server);
    server.psql(
        database,
        "CREATE VIEW one AS SELECT 1 AS one; CREATE VIEW two AS SELECT one + 1 AS two FROM one; ALTER VIEW one RENAME one TO uno",
    );
    let between = head(server);
    server.psql(database, &format!("BEGIN; {OFF} DROP TYPE passing; SELECT lo_unlink(7); {ON} COMMIT"));
    digest(&backwhen);
    let after = head(server);
    // Comments alone call for digests too.
    for commented in ["SCHEMA public".to_owned(), format!("DATABASE {database}")] {
        server.psql(database, &format!("COMMENT ON {commented} IS 'why'"));
        digest(&backwhen);
    }
    for moment in [at_once, between] {
        let report = recovered(&backwhen, &moment);
        let passing = [
            "database: large objects not as in the source",
            "type public.passing: is missing, although the source",
        ];
        let named = named(&report);
        assert!(passing.iter().all(|it| named.iter().any(|named| named == it)), "{named:?}: {report}");
    }
    let later = named(&recovered(&backwhen, &after));
    assert!(!later.iter().any(|it| it.contains("passing")), "{later:?}");
}
