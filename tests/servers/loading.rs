//! Rows, indexes and keys are made at the same time, together, or without a second look, and the recovered database is the
//! source's all the same.

use std::thread::scope;

use serde_json::json;

use crate::support::{Backwhen, Dump, Server, assert_same, on_oldest_and_newest, wait_for};

/// Protects a new database of this schema, recovers it, and compares both. Returns the source, the recovered database and
/// the report.
fn recovered(server: &Server, name: &str, schema: &str) -> (Backwhen, String, serde_json::Value) {
    let source = server.fresh_database(name);
    server.psql(&source, schema);
    let backwhen = Backwhen::new(server, &source);
    backwhen.init();
    let target = server.fresh_database(&format!("{name}_again"));
    let report = backwhen.json(&["recover", "--to", "latest", "--into", &server.conninfo(&target)]);
    assert_eq!((&report["left_out"], &report["proved"]), (&json!([]), &true.into()), "{report}");
    assert_same(&Dump::of(server, &source), &Dump::of(server, &target));
    (backwhen, target, report)
}

fn notes(report: &serde_json::Value) -> String {
    let notes = report["notes"].as_array().expect("a list").iter();
    notes.map(|note| note.as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Every form of an index or constraint that pg_dump writes, on a table large enough for sessions of their own.
#[test]
fn every_index_of_a_large_table_comes_back_while_the_table_is_read() {
    let server = Server::shared(None);
    let (_, target, _) = recovered(
        &server,
        "indexed",
        "CREATE TABLE large (id int, a int NOT NULL, b int, \"odd (name)\" int, filler text, CONSTRAINT large_pkey PRIMARY KEY (id));
         INSERT INTO large SELECT g, g, g % 7, g, repeat('x', 100) FROM generate_series(1, 60000) g;
         ALTER TABLE large ADD CONSTRAINT plain UNIQUE (a, b), ADD CONSTRAINT later UNIQUE (a) DEFERRABLE INITIALLY DEFERRED,
            ADD CONSTRAINT more UNIQUE (a) INCLUDE (b), ADD CONSTRAINT full_pages UNIQUE (a) WITH (fillfactor = 50),
            ADD CONSTRAINT \"odd (one)\" UNIQUE (\"odd (name)\"), ADD CONSTRAINT apart EXCLUDE USING btree (a WITH =);
         CREATE INDEX few ON large (b) WHERE b > 5; CREATE INDEX of_text ON large (lower(filler)) WITH (fillfactor = 70);
         CREATE UNIQUE INDEX identity ON large (a); ALTER TABLE large REPLICA IDENTITY USING INDEX identity;
         ALTER TABLE large CLUSTER ON plain; CREATE INDEX counted ON large ((a + b)); ALTER INDEX counted ALTER COLUMN 1 SET STATISTICS 7;
         COMMENT ON CONSTRAINT plain ON large IS 'plain'; COMMENT ON INDEX few IS 'few'",
    );
    let sound = "SELECT count(*) || ' ' || bool_and(indisvalid AND indisready) || ' ' || bool_or(indisprimary) FROM pg_index
                 WHERE indrelid = 'large'::regclass";
    assert_eq!(server.psql(&target, sound), "11 true true");
}

/// One table whose row no longer fulfils its CHECK is among many: then each is loaded by itself.
#[test]
fn small_tables_are_loaded_together_or_if_one_is_refused_singly() {
    let server = Server::shared(None);
    let tables = "DO $$ BEGIN FOR n IN 1..120 LOOP
            EXECUTE format('CREATE TABLE \"S %s\".\"t %s\" (id int PRIMARY KEY, v text, w numeric[])', n % 3, n);
            EXECUTE format('INSERT INTO \"S %s\".\"t %s\" SELECT g, E''a\\\\b\\tc'' || g, ARRAY[g, NULL] FROM generate_series(1, %s) g', n % 3, n, n % 5);
            EXECUTE format('CREATE INDEX ON \"S %s\".\"t %s\" (v)', n % 3, n);
         END LOOP; END $$;";
    let schemas = "CREATE SCHEMA \"S 0\"; CREATE SCHEMA \"S 1\"; CREATE SCHEMA \"S 2\"; CREATE TABLE nothing ();
         INSERT INTO nothing DEFAULT VALUES; CREATE TABLE own (n int GENERATED ALWAYS AS IDENTITY, twice int GENERATED ALWAYS AS (n * 2) STORED);
         INSERT INTO own VALUES (DEFAULT), (DEFAULT); ALTER TABLE own REPLICA IDENTITY FULL; ALTER TABLE nothing REPLICA IDENTITY FULL;";
    let broken = "CREATE FUNCTION is_good(text) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT true';
         CREATE TABLE checked (id int PRIMARY KEY, v text CHECK (is_good(v))); INSERT INTO checked VALUES (1, 'a');
         CREATE OR REPLACE FUNCTION is_good(text) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT false'";
    let (_, target, _) = recovered(&server, "together", &format!("{schemas} {tables}"));
    let of_tables = "IN (SELECT oid FROM pg_class WHERE relkind = 'r' AND oid >= 16384)";
    let indexed = format!("pg_index WHERE indrelid {of_tables}");
    let defined = format!("pg_attribute WHERE attrelid {of_tables} AND attname = 'v'");
    for made in [indexed, defined] {
        let transactions = server.psql(&target, &format!("SELECT count(DISTINCT xmin::text) FROM {made}"));
        assert!(
            transactions.parse::<u32>().unwrap() <= 3,
            "122 small tables took {transactions} transactions: {made}"
        );
    }
    let (_, _, report) = recovered(&server, "singly", &format!("{schemas} {tables} {broken}"));
    assert!(notes(&report).contains("checked_v_check"), "{report}");
}

/// Makes so many tables with an index, a TOAST table and a few rows each.
fn many(tables: usize) -> String {
    format!(
        "DO $$ BEGIN FOR n IN 1 .. {tables} LOOP
            EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, v text)', n);
            EXECUTE format('INSERT INTO t%s SELECT g, ''v'' || g FROM generate_series(1, 3) g', n);
            IF n % 50 = 0 THEN COMMIT; END IF;
         END LOOP; END $$"
    )
}

#[test]
fn many_small_tables_come_back_where_the_server_has_few_connections_or_locks() {
    // Up to version 16 more sessions are worth it.
    on_oldest_and_newest(|server| {
        for (name, value) in [("max_connections", "20"), ("max_locks_per_transaction", "10")] {
            let server = Server::builder_of(Some(server.major())).setting(name, value).start();
            recovered(&server, "narrow", &many(800));
        }
    });
}

/// The rows of the table fill more than the server's own setting allows, and enough pages for parallel workers.
#[test]
fn the_indexes_of_a_table_that_fits_in_memory_are_sorted_without_the_disk() {
    for own_setting in ["1MB", "64MB"] {
        let server = Server::builder().setting("maintenance_work_mem", own_setting).start();
        let (_, target, _) = recovered(
            &server,
            "sorted",
            "CREATE TABLE wide (id int, v text, w int, CONSTRAINT wide_pkey PRIMARY KEY (id)); CREATE INDEX ON wide (w);
             INSERT INTO wide SELECT g, repeat('x', 100), g * 7919 % 100003 FROM generate_series(1, 150000) g",
        );
        // This sort writes one file. Once the server has counted it, it has counted those of the recovery's sessions too.
        let spill = "SET work_mem = '64kB'; SET max_parallel_workers_per_gather = 0;
                     SELECT max(n) FROM (SELECT row_number() OVER (ORDER BY -w) AS n FROM wide) AS numbered";
        server.psql(&target, spill);
        let files = format!("SELECT temp_files FROM pg_stat_database WHERE datname = '{target}'");
        wait_for("the file is counted", || server.psql("postgres", &files) != "0");
        assert_eq!(server.psql("postgres", &files), "1", "maintenance_work_mem = {own_setting}");
    }
}

/// Somebody changes definitions while the database is built; each of several sessions compares a share of them.
#[test]
fn differences_in_definitions_are_named_when_several_sessions_compare() {
    let server = Server::shared(None);
    let source = server.fresh_database("compared");
    server.psql(&source, &many(500));
    let backwhen = Backwhen::new(&server, &source);
    backwhen.init();
    let target = server.fresh_database("compared_again");
    let changed = ["t150", "t220", "t299", "t7", "t99"];
    let report = scope(|scope| {
        let changing = scope.spawn(|| {
            let all: String =
                changed.iter().map(|it| format!("COMMENT ON TABLE {it} IS 'changed';")).collect();
            let unfinished = format!("{target}.backwhen-unfinished");
            wait_for("the tables are there", || server.try_psql(&unfinished, &all).is_ok());
        });
        let into = server.conninfo(&target);
        let report = backwhen.json_recovered(&["recover", "--to", "latest", "--jobs", "3", "--into", &into]);
        changing.join().expect("the tables are changed before the database has its name");
        report
    });
    let why = "comment not as in what was to be recovered";
    let named = changed.map(|table| json!({"what": format!("public.{table}"), "why": why}));
    assert_eq!(report["inexact"], json!(named), "{report}");
}

/// Keys of each kind. The source broke one of them, so a recovery that looked would find its row.
const KEYS: &str = "
    CREATE TABLE parents (id int PRIMARY KEY, code text UNIQUE, boss int REFERENCES parents);
    CREATE TABLE children (id int PRIMARY KEY, parent int CONSTRAINT broken REFERENCES parents ON DELETE CASCADE, code text,
        CONSTRAINT by_code FOREIGN KEY (code) REFERENCES parents (code) MATCH FULL DEFERRABLE INITIALLY DEFERRED,
        CONSTRAINT told FOREIGN KEY (id) REFERENCES parents);
    COMMENT ON CONSTRAINT told ON children IS 'told';
    CREATE TABLE parts (id int PRIMARY KEY, parent int REFERENCES parents) PARTITION BY RANGE (id);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
    CREATE TABLE of_part (id int PRIMARY KEY REFERENCES parts);
    INSERT INTO parents VALUES (1, 'a', 1), (2, 'b', 1); INSERT INTO children VALUES (1, 1, 'a'), (2, 2, 'b');
    INSERT INTO parts VALUES (1, 1); INSERT INTO of_part VALUES (1);
    ALTER TABLE children ADD CONSTRAINT never_looked FOREIGN KEY (parent) REFERENCES parents (id) NOT VALID;
    ALTER TABLE children DISABLE TRIGGER ALL; UPDATE children SET parent = 99 WHERE id = 2; ALTER TABLE children ENABLE TRIGGER ALL;";

#[test]
fn a_superuser_recovers_keys_as_they_were_and_says_which_were_not_checked() {
    on_oldest_and_newest(|server| {
        let (backwhen, target, report) = recovered(server, "keys", KEYS);
        let notes = notes(&report);
        for key in ["children broken", "children by_code", "parents parents_boss_fkey"] {
            assert!(notes.contains(key), "no {key:?} in {notes}");
        }
        assert!(!notes.contains("never_looked") && !notes.contains("99"), "{notes}");
        let valid = "SELECT string_agg(conname || convalidated, ' ' ORDER BY conname) FROM pg_constraint
                     WHERE conrelid = 'children'::regclass AND contype = 'f'";
        assert_eq!(server.psql(&target, valid), "brokentrue by_codetrue never_lookedfalse toldtrue");
        let refuses = "DO $$ BEGIN INSERT INTO children VALUES (1, 98, 'a'); EXCEPTION WHEN foreign_key_violation THEN NULL; END $$;
                       SELECT count(*) FROM children";
        server.psql(&target, "DELETE FROM children WHERE id = 1");
        assert_eq!(server.psql(&target, refuses), "1", "the recovered key is not enforced");
        let strict = server.fresh_database("keys_checked");
        let into = server.conninfo(&strict);
        let error = backwhen.fails(14, &["recover", "--to", "latest", "--strict", "--into", &into]);
        assert!(error.contains("children broken"), "{error}");
    });
}
