//! Rows that their table does not take as it is defined.

use super::{protected, recover};
use crate::support::{Backwhen, Dump, Part, Server, assert_same, compare};

/// The hash of a label is that of its oid, which is another in the recovered database.
#[test]
fn rows_of_hash_partitions_go_where_their_hash_is_here() {
    let server = Server::shared(None);
    let backwhen = protected(
        &server,
        "hashed",
        "CREATE TYPE color AS ENUM ('red', 'green', 'blue', 'black', 'white', 'pink');
         CREATE TABLE hp (c color, id int, PRIMARY KEY (c, id)) PARTITION BY HASH (c);
         CREATE TABLE hp0 PARTITION OF hp FOR VALUES WITH (MODULUS 3, REMAINDER 0);
         CREATE TABLE hp1 PARTITION OF hp FOR VALUES WITH (MODULUS 3, REMAINDER 1);
         CREATE TABLE hp2 (id int, c color, PRIMARY KEY (c, id));
         ALTER TABLE hp ATTACH PARTITION hp2 FOR VALUES WITH (MODULUS 3, REMAINDER 2);
         INSERT INTO hp SELECT c, g FROM unnest(enum_range(NULL::color)) c, generate_series(1, 20) g",
    );
    // An enum's label is hashed by its oid. One time in 729, all six labels lie in the same partitions in a new database.
    let mut attempts = 0..5;
    while !rows_are_elsewhere(&server, &backwhen, attempts.next().expect("a label has another hash by now")) {
    }
}

/// Recovers into a new database, and returns whether rows are in other partitions there than on the source.
fn rows_are_elsewhere(server: &Server, backwhen: &Backwhen, attempt: u32) -> bool {
    let database = server.fresh_database(&format!("hashed_again_{attempt}"));
    // The oids of new labels go on from here.
    server.psql(&database, "SELECT lo_unlink(lo_create(0)) FROM generate_series(1, 500)");
    let report = backwhen.json(&["recover", "--to", "latest", "--into", &server.conninfo(&database)]);
    assert_eq!(report["proved"], true, "{report}");
    let rows = "SELECT count(*), md5(string_agg(hp::text, ',' ORDER BY c, id)) FROM hp";
    assert_eq!(server.psql(&database, rows), server.psql(backwhen.database(), rows));
    let differences = compare(&Dump::of(server, backwhen.database()), &Dump::of(server, &database));
    let moved = differences.iter().all(|it| it.part == Part::Rows && it.object.starts_with("public.hp"));
    assert!(moved, "{differences:?}");
    if !differences.is_empty() {
        assert!(report["inexact"].to_string().contains("partitions of public.hp"), "{report}");
    }
    !differences.is_empty()
}

/// Without telling anybody, a superuser renames a label: the archive of the definitions does not have the new one.
#[test]
fn a_column_whose_type_does_not_take_a_value_is_of_type_text() {
    let server = Server::shared(None);
    let backwhen = protected(
        &server,
        "labels",
        "CREATE TYPE mood AS ENUM ('glad', 'sad');
         CREATE TABLE t (id int PRIMARY KEY, m mood DEFAULT 'glad', n int); INSERT INTO t VALUES (1, 'glad', 1);
         CREATE TABLE other (id int PRIMARY KEY, m mood); INSERT INTO other VALUES (1, 'sad')",
    );
    server.psql(
        backwhen.database(),
        "UPDATE pg_enum SET enumlabel = 'merry' WHERE enumlabel = 'glad'; INSERT INTO t VALUES (2, 'merry', 2)",
    );
    let moment = server.psql("postgres", "SELECT pg_current_wal_insert_lsn()");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let done = recover(&backwhen, &server, &[&moment]);
    done.names(&["type of COLUMN public.t.m"]);
    assert!(!done.report["left_out"].to_string().contains("merry"), "a row's value is told: {}", done.report);
    let rows = "SELECT string_agg(id || m::text || n, ' ' ORDER BY id) FROM t";
    assert_eq!(server.psql(&done.database, rows), "1glad1 2merry2");
    server.psql(&done.database, "ALTER TYPE mood ADD VALUE 'merry'");
    server.psql(&done.database, &done.sql);
    assert_eq!(server.psql(&done.database, "SELECT max(m) FROM t"), "merry");
}

/// Event triggers of the application would fire for the recovery's own statements, and forbid them.
#[test]
fn event_triggers_neither_fire_nor_forbid_while_the_database_is_made() {
    let server = Server::shared(None);
    let backwhen = protected(
        &server,
        "guards",
        "CREATE TABLE fired (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tag text); CREATE TABLE t (id int PRIMARY KEY);
         INSERT INTO t VALUES (1); CREATE MATERIALIZED VIEW v AS SELECT id FROM t;
         CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.fired (tag) VALUES (tg_tag); END';
         CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS
            $$ BEGIN IF current_database() LIKE '%unfinished' THEN RAISE 'no %', tg_tag; END IF; END $$;
         CREATE EVENT TRIGGER a_note ON ddl_command_end EXECUTE FUNCTION note();
         CREATE EVENT TRIGGER b_forbid ON ddl_command_start EXECUTE FUNCTION forbid();
         ALTER EVENT TRIGGER a_note ENABLE ALWAYS; ALTER EVENT TRIGGER b_forbid ENABLE ALWAYS;
         COMMENT ON EVENT TRIGGER b_forbid IS 'nothing here'; TRUNCATE fired",
    );
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let database = server.fresh_database("guards_again");
    backwhen.ok(&["recover", "--to", "latest", "--into", &server.conninfo(&database)]);
    assert_same(&Dump::of(&server, backwhen.database()), &Dump::of(&server, &database));
}
