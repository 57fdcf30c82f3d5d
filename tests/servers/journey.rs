//! The whole way, on every version: protect, change, crash, recover; the truth is `pg_dump`.

use crate::support::{Backwhen, Dump, Server, assert_same, for_each_version};

const SCHEMA: &str = r#"
    CREATE TYPE mood AS ENUM ('glad', 'sad');
    CREATE TABLE people (id bigserial PRIMARY KEY, name text NOT NULL, m mood, seen timestamptz, notes jsonb,
        amount numeric(20, 4), tags text[], photo bytea, span int4range, initials text GENERATED ALWAYS AS (left(name, 1)) STORED);
    CREATE TABLE visits (person bigint REFERENCES people ON DELETE CASCADE, at timestamptz, PRIMARY KEY (person, at));
    CREATE TABLE papers (id int PRIMARY KEY, body text);
    ALTER TABLE papers ALTER body SET STORAGE EXTERNAL;
    CREATE TABLE bag (line text, n float8);
    ALTER TABLE bag REPLICA IDENTITY FULL;
    CREATE VIEW glad AS SELECT * FROM people WHERE m = 'glad';
    CREATE INDEX people_name ON people (name);
    INSERT INTO people (name, m, seen, notes, amount, tags, photo, span)
        SELECT 'person ' || n, 'glad', '2020-01-01Z'::timestamptz + n * interval '1 hour', jsonb_build_object('n', n),
            n / 7.0, ARRAY['a', NULL, E'tab\t"\\' || n], decode(md5(n::text), 'hex'), int4range(n, n + 5)
        FROM generate_series(1, 500) n;
    INSERT INTO visits SELECT 1 + n % 500, '2020-02-01Z'::timestamptz + n * interval '1 minute' FROM generate_series(1, 2000) n;
    INSERT INTO papers SELECT n, repeat(md5(n::text), 300) FROM generate_series(1, 20) n;
    INSERT INTO bag SELECT 'line ' || n % 3, n % 2 FROM generate_series(1, 30) n;
"#;

const CHANGES: &str = r#"
    UPDATE people SET m = 'sad', amount = 'NaN' WHERE id % 10 = 0;
    UPDATE people SET id = id + 10000 WHERE id BETWEEN 490 AND 495 AND id NOT IN (SELECT person FROM visits);
    UPDATE papers SET id = id + 100 WHERE id <= 5;
    UPDATE papers SET body = body || 'x' WHERE id = 6;
    DELETE FROM people WHERE id % 17 = 0;
    INSERT INTO people (name, seen) VALUES (E'new\nline', 'infinity'), ('', '-infinity'), ('Ünïcödé 🐘', '0044-03-15 12:00 BC');
    DELETE FROM bag WHERE ctid IN (SELECT min(ctid::text)::tid FROM bag GROUP BY line);
    INSERT INTO bag VALUES (NULL, 'NaN'), ('\N', '-0');
    BEGIN; DELETE FROM visits; ROLLBACK;
    BEGIN; SAVEPOINT a; DELETE FROM papers; ROLLBACK TO a; INSERT INTO papers VALUES (1000, 'kept'); COMMIT;
"#;

/// Recovers to `moment` in a new database of the same server and compares it with the truth.
fn assert_recovers(backwhen: &Backwhen, moment: &str, truth: &Dump) {
    let server = backwhen.server();
    let target =
        format!("{}_back_{}", backwhen.database(), moment.replace(|c: char| !c.is_alphanumeric(), "_"));
    let report = backwhen.json(&["recover", "--to", moment, "--create", "--into", &server.conninfo(&target)]);
    assert_eq!(report["proved"], true, "{report}");
    assert_same(truth, &Dump::of(server, &target));
}

fn protected(server: &Server) -> Backwhen {
    let database = server.fresh_database("journey");
    server.psql(&database, SCHEMA);
    let backwhen = Backwhen::new(server, &database).with_env("BACKWHEN_HEARTBEAT", "500ms");
    backwhen.init();
    backwhen
}

#[test]
fn every_moment_comes_back_as_it_was() {
    for_each_version(|server| {
        let backwhen = protected(server);
        let database = backwhen.database().to_owned();
        let at_first = Dump::of(server, &database);
        let mut capture = backwhen.spawn_capture();
        capture.wait_caught_up();
        backwhen.ok(&["mark", "first"]);
        server.psql(&database, CHANGES);
        backwhen.ok(&["mark", "changed"]);
        let changed = Dump::of(server, &database);
        capture.wait_caught_up();
        capture.kill();
        server.psql(
            &database,
            "TRUNCATE people CASCADE; UPDATE papers SET body = NULL; DELETE FROM bag WHERE n = 0",
        );
        let last = Dump::of(server, &database);
        let mut capture = backwhen.spawn_capture();
        capture.wait_caught_up();
        assert_recovers(&backwhen, "mark:first", &at_first);
        assert_recovers(&backwhen, "mark:changed", &changed);
        assert_recovers(&backwhen, "latest", &last);
        capture.stop();
        backwhen.ok(&["verify"]);
    });
}

#[test]
fn folded_checkpoints_change_nothing() {
    let backwhen = protected(&Server::shared(None));
    let (server, database) = (backwhen.server().clone(), backwhen.database().to_owned());
    let mut capture = backwhen.spawn_capture();
    server.psql(&database, CHANGES);
    backwhen.ok(&["mark", "changed"]);
    let changed = Dump::of(&server, &database);
    capture.wait_caught_up();
    backwhen.ok(&["checkpoint", "--label", "folded"]);
    server.psql(&database, "DELETE FROM people WHERE id % 2 = 0; INSERT INTO papers VALUES (7000, 'late')");
    let last = Dump::of(&server, &database);
    capture.wait_caught_up();
    capture.stop();
    assert_recovers(&backwhen, "mark:changed", &changed);
    assert_recovers(&backwhen, "latest", &last);
    backwhen.ok(&["verify", "--prove"]);
}

#[test]
fn a_target_that_is_not_empty_is_refused() {
    let backwhen = protected(&Server::shared(None));
    let message = backwhen.fails(14, &["recover", "--to", "latest", "--into", &backwhen.source()]);
    assert!(message.contains("empty"), "{message}");
    backwhen.fails(11, &["recover", "--to", "2001-01-01T00:00:00Z", "--dry-run"]);
    backwhen.fails(2, &["recover", "--to", "yesterday-ish", "--dry-run"]);
}
