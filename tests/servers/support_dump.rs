//! The comparer of dumps must see every difference: a truth that cannot fail proves nothing.

use crate::support::{Difference, Dump, Part, Server, assert_same, compare, for_each_version};

const SHOP: &str = r#"
    CREATE TYPE mood AS ENUM ('glad', 'sad');
    CREATE TABLE goods (id bigserial PRIMARY KEY, name text DEFAULT 'a;b' NOT NULL, price numeric(10, 2), m mood);
    CREATE TABLE bag (line text);
    CREATE INDEX goods_name ON goods (name);
    CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS $$
SET LOCAL work_mem = '1MB';
-- a comment inside
SELECT n * 2;
$$;
    COMMENT ON TABLE goods IS 'what we sell';
    CREATE VIEW dear AS SELECT * FROM goods WHERE price > 10;
    INSERT INTO goods (name, price, m) SELECT 'thing ' || n, n + 0.50, 'glad' FROM generate_series(1, 50) n;
    INSERT INTO bag VALUES ('same'), ('same'), (E'tab\there\nand \\.'), (NULL);
"#;

/// Compares the shop with a copy of it to which `change` was done.
fn differences_after(change: &str) -> Vec<Difference> {
    let server = Server::shared(None);
    let truth = server.fresh_database("truth");
    let other = server.fresh_database("other");
    server.psql(&truth, SHOP);
    server.psql(&other, SHOP);
    server.psql(&other, change);
    compare(&Dump::of(&server, &truth), &Dump::of(&server, &other))
}

fn assert_only(change: &str, part: Part, object: &str, how: &str) {
    let differences = differences_after(change);
    let [difference] = differences.as_slice() else {
        panic!("{change}: expected one difference, found {differences:#?}");
    };
    assert_eq!((difference.part, difference.object.as_str()), (part, object), "{change}");
    assert!(difference.how.contains(how), "{change}: {difference}");
}

#[test]
fn equal_databases_are_equal_whatever_the_order_of_their_rows() {
    let rewrite = "UPDATE goods SET name = name WHERE id < 10; CLUSTER goods USING goods_name";
    assert_eq!(differences_after(&format!("{rewrite}; ALTER TABLE goods SET WITHOUT CLUSTER")), []);
}

#[test]
fn every_difference_in_rows_is_seen() {
    let goods = "public.goods (id, name, price, m)";
    let bag = "public.bag (line)";
    assert_only("UPDATE goods SET name = 'Thing 7' WHERE id = 7", Part::Rows, goods, "1 lacking, 1 too many");
    assert_only("DELETE FROM goods WHERE id = 50", Part::Rows, goods, "1 lacking, 0 too many");
    assert_only("INSERT INTO bag VALUES ('same')", Part::Rows, bag, "0 lacking, 1 too many");
    assert_only("DELETE FROM bag WHERE ctid = '(0,1)'", Part::Rows, bag, "1 lacking, 0 too many");
    assert_only("UPDATE bag SET line = '' WHERE line IS NULL", Part::Rows, bag, r"lacking: \N");
}

#[test]
fn every_difference_in_the_schema_is_seen() {
    let default = "ALTER TABLE goods ALTER name SET DEFAULT 'a;c'";
    assert_only(default, Part::Schema, "TABLE public.goods", "'a;c'");
    assert_only("DROP INDEX goods_name", Part::Schema, "INDEX public.goods_name", "is missing");
    assert_only("COMMENT ON TABLE goods IS 'x'", Part::Schema, "COMMENT public.TABLE goods", "lacking");
    assert_only("CREATE SEQUENCE s", Part::Schema, "SEQUENCE public.s", "should not be there");
    let body = "CREATE OR REPLACE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS $$
SET LOCAL work_mem = '2MB';
-- a comment inside
SELECT n * 2;
$$";
    assert_only(body, Part::Schema, "FUNCTION public.twice(integer)", "2MB");
}

#[test]
fn a_sequence_may_be_ahead_but_not_behind() {
    assert_eq!(differences_after("SELECT setval('goods_id_seq', 1000)"), []);
    assert_only("SELECT setval('goods_id_seq', 3)", Part::Sequence, "public.goods_id_seq", "behind the 50");
    assert_only("SELECT setval('goods_id_seq', 50, false)", Part::Sequence, "public.goods_id_seq", "49");
}

#[test]
fn what_backwhen_itself_needs_on_the_source_is_left_out() {
    let ours = "CREATE SCHEMA backwhen; CREATE TABLE backwhen.beat (id int PRIMARY KEY);
        INSERT INTO backwhen.beat VALUES (1); COMMENT ON SCHEMA backwhen IS 'ours';
        CREATE FUNCTION backwhen.ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
        CREATE EVENT TRIGGER backwhen_ddl ON ddl_command_end EXECUTE FUNCTION backwhen.ddl();
        CREATE PUBLICATION backwhen_1 FOR TABLE goods;";
    assert_eq!(differences_after(ours), []);
}

#[test]
fn a_restored_dump_equals_its_source_on_every_version() {
    for_each_version(|server| {
        let source = server.fresh_database("source");
        let copy = server.fresh_database("copy");
        server.psql(&source, SHOP);
        let script = String::from_utf8(server.pg_dump(&source, &[])).unwrap();
        server.psql(&copy, &script);
        let truth = Dump::of(server, &source);
        assert_eq!(truth.row_count(), 54);
        assert_eq!(truth.sequences.get("public.goods_id_seq"), Some(&50));
        assert_same(&truth, &Dump::of(server, &copy));
    });
}
