//! A test database that goes back between tests: by the Rust interface, by `rewind --reset`, and by the script for CI.

mod command;
mod interface;
mod script;

use crate::support::{Dump, Server, compare};

/// Tables as an application's: with serial and identity columns, without a key, with references and a trigger.
const SEEDED: &str = "
CREATE TYPE mood AS ENUM ('well', 'ill');
CREATE TABLE customers (id serial PRIMARY KEY, name text UNIQUE, mood mood, twice int GENERATED ALWAYS AS (length(name) * 2) STORED);
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int REFERENCES customers ON DELETE CASCADE ON UPDATE CASCADE, note text);
CREATE TABLE log (line text, at timestamptz DEFAULT now());
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (TG_OP); RETURN NULL; END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON customers FOR EACH STATEMENT EXECUTE FUNCTION note();
CREATE VIEW well AS SELECT * FROM customers WHERE mood = 'well';
INSERT INTO customers (name, mood) SELECT 'c' || g, 'well' FROM generate_series(1, 20) g;
INSERT INTO orders (customer, note) SELECT g, E'tab\\t \"quoted\" back\\\\slash, (comma)' FROM generate_series(1, 20) g";

/// A test that changes rows and sequences only.
const ROWS: &str = "
UPDATE customers SET id = id + 1000 WHERE id <= 3;
INSERT INTO customers (name, mood) VALUES ('new', 'ill'), ('other', NULL);
DELETE FROM customers WHERE id = 7;
UPDATE orders SET note = NULL WHERE id = 8;
INSERT INTO log VALUES ('a'), ('a'); DELETE FROM log WHERE line = 'INSERT'";

/// A test that makes things.
const MADE: &str = "
CREATE SCHEMA extra CREATE TABLE made (id serial PRIMARY KEY, customer int REFERENCES public.customers ON UPDATE CASCADE);
INSERT INTO extra.made (customer) VALUES (1);
ALTER TABLE orders ADD COLUMN paid boolean NOT NULL DEFAULT false;
CREATE INDEX by_note ON orders (note, paid);
CREATE VIEW paid AS SELECT * FROM orders WHERE paid;
ALTER TABLE customers ADD CONSTRAINT short CHECK (length(name) < 100);
CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE TYPE kind AS (a int, b text);
UPDATE orders SET paid = true WHERE id < 5";

/// A test that drops and changes things.
const DROPPED: &str = "
DROP TABLE orders; ALTER TABLE log ALTER COLUMN line TYPE varchar(50); DROP VIEW IF EXISTS well;
ALTER TYPE mood ADD VALUE 'dead'; UPDATE customers SET name = 'x' || id";

/// The database is what it was, to the last sequence.
#[track_caller]
fn assert_reset(truth: &Dump, server: &Server, database: &str) {
    let differences = compare(truth, &Dump::of(server, database));
    assert!(differences.is_empty(), "{differences:#?}");
}

/// Nothing of backwhen's is in the database.
#[track_caller]
fn assert_no_trace(server: &Server, database: &str) {
    let traces = "SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())
        + (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_event_trigger)
        + (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'backwhen%')";
    assert_eq!(server.psql(database, traces), "0");
}
