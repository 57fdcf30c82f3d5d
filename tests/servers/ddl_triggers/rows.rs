//! Rows that the stream does not carry are told as COPY writes them, to the byte.

use crate::ddl_triggers::told::{Source, Told};
use crate::support::{Server, for_each_version};

const ODD: &str = r#"CREATE TABLE odd AS SELECT n AS id, CASE n % 4 WHEN 0 THEN NULL ELSE
        E'\\ \t \n \r \b \f \x0b ' || repeat(chr(n), 3) || E'\\N' END AS t, ROW(NULL, n)::pair AS p,
    NULLIF(n, 5) AS maybe, 1.0::float8 / n AS f, n::numeric / 7 AS num, make_interval(secs => n * 1.5) AS iv,
    to_timestamp(n) AS at, decode(md5(n::text), 'hex') AS bytes, ARRAY[n::text, NULL, E'a\\"b'] AS list,
    jsonb_build_object('n', n, 't', E'\t') AS doc, NULL::pair AS nopair, '12.5'::money AS cash, 'pair'::regtype AS rt,
    int4range(n, NULL) AS span, '' AS empty FROM generate_series(1, 400) n"#;

/// As COPY writes them under the settings of the stream.
fn copied(source: &Source, table: &str) -> String {
    let pins = "SET datestyle = 'ISO, MDY'; SET intervalstyle = postgres; SET extra_float_digits = 3;
                SET timezone = 'UTC'; SET bytea_output = hex; SET lc_monetary = 'C'; SET search_path = pg_catalog;";
    source.psql(&format!("{pins} COPY public.{table} TO STDOUT"))
}

fn assert_told(source: &Source, told: &Told, table: &str) {
    told.assert_no_trouble();
    assert!(told.table(table).image, "{:?}", told.table(table));
    let lines = String::from_utf8(told.rows[&told.table(table).facts.oid].clone()).unwrap();
    assert_eq!(lines.trim_end_matches('\n'), copied(source, table), "{table}");
}

#[test]
fn rows_are_told_as_copy_writes_them() {
    for_each_version(|server| {
        let source = Source::new(server);
        source.run("CREATE TYPE pair AS (a int, b int)");
        let told = source.run(&format!("SET standard_conforming_strings = off; SET standard_conforming_strings = on;
            SET timezone = 'Asia/Tokyo'; SET datestyle = 'German'; SET bytea_output = escape; SET extra_float_digits = 0;
            SET intervalstyle = iso_8601; SET quote_all_identifiers = on; {ODD}"));
        assert_told(&source, &told, "odd");
        // Two values cannot be told apart from their texts unless each row comes from its own line.
        let told = source.run("ALTER TABLE odd ADD COLUMN luck float8 DEFAULT random()");
        assert_told(&source, &told, "odd");
        let told = source.run("ALTER TABLE odd ALTER num TYPE text USING num::text || E'\\t'");
        assert_told(&source, &told, "odd");
    });
}

/// A function that a rewrite calls for each row may itself make, drop and rewrite.
#[test]
fn what_runs_within_a_rewrite_does_not_hide_it() {
    for_each_version(|server| {
        let source = Source::new(server);
        source.run(
            "CREATE FUNCTION busy(x int) RETURNS int LANGUAGE plpgsql AS $f$ BEGIN
                 CREATE TEMP TABLE passing (a int); DROP TABLE passing;
                 CREATE TABLE kept AS SELECT 1 AS a; ALTER TABLE kept ALTER a TYPE bigint USING a * 2; DROP TABLE kept;
                 RETURN x + 1000; END $f$;
             CREATE TABLE t (a int PRIMARY KEY, b int); INSERT INTO t VALUES (1, 1), (2, 2)",
        );
        let told = source.run("ALTER TABLE t ADD COLUMN c int DEFAULT busy(7)");
        assert_told(&source, &told, "t");
        let told = source.run("ALTER TABLE t ALTER b TYPE bigint USING busy(b)");
        assert_told(&source, &told, "t");
        let told = source.run(
            "DO $$ BEGIN ALTER TABLE t ALTER b TYPE int USING busy(b::int); COMMENT ON TABLE t IS 'x';
            ALTER TABLE t SET (fillfactor = 50); END $$",
        );
        // The rows are told once, and not again with what comes later in the same transaction.
        let tables = told.signals.iter().flat_map(|signal| &signal.tables);
        assert_eq!(tables.filter(|table| table.facts.name == "t" && table.image).count(), 1);
        let lines = String::from_utf8(told.rows[&told.table("t").facts.oid].clone()).unwrap();
        assert_eq!(lines.trim_end_matches('\n'), copied(&source, "t"));
    });
}

#[test]
fn a_table_that_was_not_in_the_stream_comes_with_its_rows() {
    let source = Source::new(&Server::shared(None));
    let told = source.run(
        "SELECT 1 AS i INTO picked; CREATE UNLOGGED TABLE u (i int PRIMARY KEY); INSERT INTO u VALUES (7)",
    );
    assert_told(&source, &told, "picked");
    assert!(!told.table("u").published && told.table("u").facts.persistence == 'u');
    let told = source.run("ALTER TABLE u SET LOGGED; INSERT INTO u VALUES (8)");
    assert_eq!(told.rows[&told.table("u").facts.oid], b"7\n");
    assert_eq!(told.inserts, 1);
    let told = source
        .run("ALTER TABLE picked SET (fillfactor = 50); CREATE TABLE empty AS SELECT 1 AS i WITH NO DATA");
    assert!(told.rows.is_empty());
}

#[test]
fn a_table_that_is_too_large_is_named_instead() {
    let source = Source::new(&Server::shared(None));
    source.psql(&format!("UPDATE backwhen.{}_config SET image_limit = 10000", source.slot()));
    let told = source.run("CREATE TABLE large AS SELECT n FROM generate_series(1, 5000) n");
    assert!(told.rows.is_empty() && !told.table("large").image && told.table("large").published);
    let trouble = told.signal().trouble.as_deref().unwrap_or_default();
    assert!(trouble.contains("public.large") && trouble.contains("10000"), "{trouble}");
}

#[test]
fn many_rows_come_in_pieces() {
    let source = Source::new(&Server::shared(None));
    let told = source.run("CREATE TABLE many AS SELECT n, repeat('x', 500) FROM generate_series(1, 9000) n");
    assert_told(&source, &told, "many");
}
