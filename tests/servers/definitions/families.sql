-- One family of objects after the other. Its lines: the statement that makes an object {x}, those that alter it, and after
-- `drop:` those that drop it, of which one is chosen. {n} is a new number each time, {y} a name that is not used again,
-- {i} the object's number. A number and a colon before a statement: only from that major version on.
-- family: table
CREATE TABLE {x} (id int PRIMARY KEY, v text)
ALTER TABLE {x} ADD COLUMN c_{n} int DEFAULT {n}
ALTER TABLE {x} ALTER v SET DEFAULT 'v{n}'
ALTER TABLE {x} ADD CONSTRAINT k_{n} CHECK (id <> {n})
ALTER TABLE {x} OWNER TO ddl_a
ALTER TABLE {x} SET (fillfactor = 7{i})
ALTER TABLE {x} ENABLE ROW LEVEL SECURITY
INSERT INTO {x} (id, v) VALUES ({n}, 'row')
GRANT SELECT ON {x} TO ddl_b
GRANT UPDATE (v) ON {x} TO ddl_b
REVOKE SELECT ON {x} FROM ddl_b
COMMENT ON TABLE {x} IS 'comment {n}'
COMMENT ON COLUMN {x}.v IS 'comment {n}'
CREATE TEMP TABLE {y} (id int PRIMARY KEY); GRANT SELECT ON {y}, {x} TO ddl_b; DROP TABLE {y}
drop: DROP TABLE {x}
drop: CREATE TEMP TABLE {y} (a int); DROP TABLE {y}, {x}
drop: CREATE TEMP TABLE IF NOT EXISTS other_1 (a int); DROP TABLE other_1, {x}
-- family: inherited
CREATE TABLE {x} (id int PRIMARY KEY, a text); CREATE TABLE {x}_child (b text, PRIMARY KEY (id)) INHERITS ({x})
ALTER TABLE {x} ADD COLUMN c_{n} int DEFAULT {n}
ALTER TABLE {x}_child ADD COLUMN d_{n} text
INSERT INTO {x}_child (id, a) VALUES ({n}, 'a')
ALTER TABLE {x}_child NO INHERIT {x}; ALTER TABLE {x}_child INHERIT {x}
drop: DROP TABLE {x} CASCADE
-- family: selected
CREATE TABLE {x} AS SELECT {n} AS one, 'x'::text AS two
ALTER TABLE {x} ADD PRIMARY KEY (one)
ALTER TABLE {x} RENAME COLUMN two TO two_{n}
drop: DROP TABLE {x}
-- family: explained
EXPLAIN ANALYZE CREATE TABLE {x} AS SELECT {n} AS one
ALTER TABLE {x} ADD COLUMN c_{n} int
drop: DROP TABLE {x}
-- family: into
SELECT {n} AS one INTO {x}
COMMENT ON TABLE {x} IS 'selected {n}'
drop: DROP TABLE IF EXISTS {y}, {x}
-- family: part
CREATE TABLE {x} (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)
CREATE TABLE {x}_{n} PARTITION OF {x} FOR VALUES FROM ({n}) TO ({n} + 1)
CREATE TABLE {x}_{n} (at int NOT NULL, id int NOT NULL); ALTER TABLE {x} ATTACH PARTITION {x}_{n} FOR VALUES FROM ({n}) TO ({n} + 1)
ALTER TABLE {x} ADD COLUMN c_{n} text DEFAULT 'c'
drop: DROP TABLE {x}
-- family: index
CREATE TABLE {x}_t (id int PRIMARY KEY, v int); INSERT INTO {x}_t VALUES (1, 1), (2, 1); CREATE INDEX {x} ON {x}_t (v)
ALTER INDEX {x} SET (fillfactor = 8{i})
COMMENT ON INDEX {x} IS 'comment {n}'
REINDEX INDEX {x}
REINDEX TABLE {x}_t
CREATE UNIQUE INDEX CONCURRENTLY {x}_u ON {x}_t (v)
DELETE FROM {x}_t WHERE id = 2
REINDEX INDEX CONCURRENTLY {x}_u
DROP INDEX {x}_u
CREATE STATISTICS {x}_s ON id, v FROM {x}_t
ALTER STATISTICS {x}_s SET STATISTICS 4{i}
DROP STATISTICS {x}_s
CLUSTER {x}_t USING {x}
drop: DROP INDEX {x}
drop: DROP INDEX CONCURRENTLY {x}
drop: DROP TABLE {x}_t
-- family: view
CREATE VIEW {x} AS SELECT {n} AS one
CREATE OR REPLACE VIEW {x} AS SELECT {n} AS one
ALTER VIEW {x} ALTER one SET DEFAULT {n}
ALTER VIEW {x} OWNER TO ddl_b
ALTER VIEW {x} SET (security_barrier)
COMMENT ON VIEW {x} IS 'comment {n}'
drop: DROP VIEW {x}
drop: CREATE TEMP VIEW {y} AS SELECT 2 AS two; DROP VIEW {y}, {x}
-- family: materialised
CREATE MATERIALIZED VIEW {x} AS SELECT {n} AS one
REFRESH MATERIALIZED VIEW {x}
REFRESH MATERIALIZED VIEW {x} WITH NO DATA
ALTER MATERIALIZED VIEW {x} RENAME COLUMN one TO one_{n}
ALTER MATERIALIZED VIEW {x} OWNER TO ddl_a
CREATE UNIQUE INDEX ON {x} ((1))
drop: DROP MATERIALIZED VIEW {x}
-- family: plan
EXPLAIN ANALYZE CREATE MATERIALIZED VIEW {x} AS SELECT {n} AS one
REFRESH MATERIALIZED VIEW {x}
drop: DROP MATERIALIZED VIEW {x}
-- family: sequence
CREATE SEQUENCE {x}
ALTER SEQUENCE {x} INCREMENT 2 MAXVALUE 9{n}00
ALTER SEQUENCE {x} OWNER TO ddl_a
ALTER SEQUENCE {x} OWNED BY NONE
CREATE TABLE {x}_o (id int PRIMARY KEY); ALTER SEQUENCE {x} OWNED BY {x}_o.id
SELECT nextval('{x}')
GRANT USAGE ON SEQUENCE {x} TO ddl_b
drop: DROP SEQUENCE {x} CASCADE
drop: CREATE TEMP SEQUENCE {y}; DROP SEQUENCE {y}, {x} CASCADE
-- family: function
CREATE FUNCTION {x}() RETURNS int LANGUAGE sql AS 'SELECT {n}'
CREATE OR REPLACE FUNCTION {x}() RETURNS int LANGUAGE sql AS 'SELECT {n}'
ALTER FUNCTION {x}() STABLE
ALTER FUNCTION {x}() OWNER TO ddl_a
ALTER ROUTINE {x}() COST {n}
GRANT EXECUTE ON FUNCTION {x}() TO ddl_b
REVOKE EXECUTE ON FUNCTION {x}() FROM PUBLIC
COMMENT ON FUNCTION {x}() IS 'comment {n}'
drop: DROP FUNCTION {x}()
drop: DROP ROUTINE {x}
drop: CREATE FUNCTION pg_temp.{y}(int) RETURNS int LANGUAGE sql AS 'SELECT 1'; DROP FUNCTION pg_temp.{y}(int), {x}()
-- family: procedure
CREATE PROCEDURE {x}() LANGUAGE plpgsql AS 'BEGIN PERFORM {n}; END'
ALTER PROCEDURE {x}() SET work_mem = '{n}MB'
GRANT EXECUTE ON PROCEDURE {x}() TO ddl_b
drop: DROP PROCEDURE {x}
-- family: aggregate
CREATE AGGREGATE {x}(int) (SFUNC = int4pl, STYPE = int, INITCOND = '{n}')
ALTER AGGREGATE {x}(int) OWNER TO ddl_b
COMMENT ON AGGREGATE {x}(int) IS 'comment {n}'
drop: DROP AGGREGATE {x}(int)
-- family: domain
CREATE DOMAIN {x} AS int DEFAULT {n} CHECK (VALUE <> {n})
ALTER DOMAIN {x} SET DEFAULT {n}
ALTER DOMAIN {x} ADD CONSTRAINT d_{n} CHECK (VALUE > -{n})
ALTER DOMAIN {x} SET NOT NULL
GRANT USAGE ON TYPE {x} TO ddl_b
drop: DROP DOMAIN {x}
drop: CREATE DOMAIN pg_temp.{y} AS int; DROP DOMAIN pg_temp.{y}, {x}
-- family: type
CREATE TYPE {x} AS ENUM ('a{n}', 'b{n}')
ALTER TYPE {x} ADD VALUE 'c{n}'
ALTER TYPE {x} ADD VALUE 'd{n}' BEFORE 'never' 
ALTER TYPE {x} OWNER TO ddl_a
COMMENT ON TYPE {x} IS 'comment {n}'
drop: DROP TYPE {x}
drop: CREATE TYPE pg_temp.{y} AS (a int); DROP TYPE pg_temp.{y}, {x}
-- family: composite
CREATE TYPE {x} AS (a int, b text)
ALTER TYPE {x} ADD ATTRIBUTE c_{n} int
ALTER TYPE {x} RENAME ATTRIBUTE a TO a_{n}
drop: DROP TYPE {x}
-- family: span
CREATE TYPE {x} AS RANGE (SUBTYPE = int)
ALTER TYPE {x} OWNER TO ddl_b
drop: DROP TYPE {x}
-- family: schema
CREATE SCHEMA {x} CREATE TABLE inner_{n} (id int PRIMARY KEY)
ALTER SCHEMA {x} OWNER TO ddl_a
CREATE TABLE {x}.made_{n} (id int PRIMARY KEY)
GRANT USAGE ON SCHEMA {x} TO ddl_b
GRANT SELECT ON ALL TABLES IN SCHEMA {x} TO ddl_b
ALTER DEFAULT PRIVILEGES IN SCHEMA {x} GRANT SELECT ON TABLES TO ddl_b
COMMENT ON SCHEMA {x} IS 'comment {n}'
drop: DROP SCHEMA {x} CASCADE
-- family: rule
CREATE TABLE {x} (id int PRIMARY KEY); CREATE RULE r_{i} AS ON DELETE TO {x} DO INSTEAD NOTHING
CREATE OR REPLACE RULE r_{i} AS ON DELETE TO {x} DO ALSO SELECT {n}
ALTER RULE r_{i} ON {x} RENAME TO r_{n}
ALTER TABLE {x} DISABLE RULE r_{i}
drop: DROP RULE r_{i} ON {x}
drop: DROP TABLE {x}
-- family: trigger
CREATE TABLE {x} (id int PRIMARY KEY); CREATE FUNCTION {x}_f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER t_{i} BEFORE INSERT ON {x} FOR EACH ROW EXECUTE FUNCTION {x}_f()
ALTER TABLE {x} DISABLE TRIGGER t_{i}
ALTER TABLE {x} ENABLE ALWAYS TRIGGER t_{i}
ALTER TRIGGER t_{i} ON {x} RENAME TO t_{n}
COMMENT ON TRIGGER t_{i} ON {x} IS 'comment {n}'
drop: DROP TRIGGER t_{i} ON {x}
drop: DROP FUNCTION {x}_f() CASCADE
-- family: policy
CREATE TABLE {x} (id int PRIMARY KEY); CREATE POLICY p_{i} ON {x} FOR SELECT TO ddl_a USING (id > {n})
ALTER POLICY p_{i} ON {x} TO ddl_b USING (id < {n})
ALTER TABLE {x} ENABLE ROW LEVEL SECURITY
drop: DROP POLICY p_{i} ON {x}
drop: DROP TABLE {x}
-- family: operator
CREATE OPERATOR public.@{p} (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl)
ALTER OPERATOR public.@{p} (int, int) OWNER TO ddl_a
COMMENT ON OPERATOR public.@{p} (int, int) IS 'comment {n}'
drop: DROP OPERATOR public.@{p} (int, int)
-- family: opfamily
CREATE OPERATOR FAMILY {x} USING btree
ALTER OPERATOR FAMILY {x} USING btree ADD OPERATOR 1 < (int, int), FUNCTION 1 btint4cmp(int, int)
ALTER OPERATOR FAMILY {x} USING btree OWNER TO ddl_b
drop: DROP OPERATOR FAMILY {x} USING btree
-- family: opclass
CREATE OPERATOR CLASS {x} FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint4cmp(int, int)
ALTER OPERATOR CLASS {x} USING btree OWNER TO ddl_a
drop: DROP OPERATOR CLASS {x} USING btree
drop: DROP OPERATOR FAMILY {x} USING btree
-- family: cast
CREATE TYPE {x} AS (a int); CREATE CAST ({x} AS text) WITH INOUT
COMMENT ON CAST ({x} AS text) IS 'comment {n}'
drop: DROP CAST ({x} AS text)
drop: DROP TYPE {x} CASCADE
-- family: collation
CREATE COLLATION {x} FROM "C"
ALTER COLLATION {x} OWNER TO ddl_a
COMMENT ON COLLATION {x} IS 'comment {n}'
drop: DROP COLLATION {x}
-- family: conversion
CREATE CONVERSION {x} FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8
ALTER CONVERSION {x} OWNER TO ddl_b
drop: DROP CONVERSION {x}
-- family: configuration
CREATE TEXT SEARCH CONFIGURATION {x} (COPY = pg_catalog.simple)
ALTER TEXT SEARCH CONFIGURATION {x} DROP MAPPING IF EXISTS FOR word
ALTER TEXT SEARCH CONFIGURATION {x} OWNER TO ddl_a
drop: DROP TEXT SEARCH CONFIGURATION {x}
-- family: dictionary
CREATE TEXT SEARCH DICTIONARY {x} (TEMPLATE = simple)
ALTER TEXT SEARCH DICTIONARY {x} (ACCEPT = false)
drop: DROP TEXT SEARCH DICTIONARY {x}
-- family: parser
CREATE TEXT SEARCH PARSER {x} (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype)
ALTER TEXT SEARCH PARSER {x} RENAME TO {x}_{n}; ALTER TEXT SEARCH PARSER {x}_{n} RENAME TO {x}
drop: DROP TEXT SEARCH PARSER {x}
-- family: template
CREATE TEXT SEARCH TEMPLATE {x} (LEXIZE = dsimple_lexize)
ALTER TEXT SEARCH TEMPLATE {x} RENAME TO {x}_{n}; ALTER TEXT SEARCH TEMPLATE {x}_{n} RENAME TO {x}
drop: DROP TEXT SEARCH TEMPLATE {x}
-- family: wrapper
CREATE FOREIGN DATA WRAPPER {x} OPTIONS (a 'b'); CREATE SERVER {x}_s FOREIGN DATA WRAPPER {x}
ALTER FOREIGN DATA WRAPPER {x} OPTIONS (SET a 'c{n}')
ALTER SERVER {x}_s OPTIONS (ADD o_{n} 'x')
ALTER SERVER {x}_s OWNER TO ddl_a
GRANT USAGE ON FOREIGN SERVER {x}_s TO ddl_b
CREATE USER MAPPING FOR ddl_b SERVER {x}_s
ALTER USER MAPPING FOR ddl_b SERVER {x}_s OPTIONS (ADD m_{n} 'x')
DROP USER MAPPING FOR ddl_b SERVER {x}_s
CREATE FOREIGN TABLE {x}_f (a int) SERVER {x}_s
ALTER FOREIGN TABLE {x}_f ADD COLUMN c_{n} int
DROP FOREIGN TABLE {x}_f
drop: DROP FOREIGN DATA WRAPPER {x} CASCADE
drop: DROP SERVER {x}_s CASCADE
-- family: extension
CREATE EXTENSION IF NOT EXISTS citext
ALTER EXTENSION citext SET SCHEMA public
COMMENT ON EXTENSION citext IS 'comment {n}'
ALTER EXTENSION citext UPDATE
drop: DROP EXTENSION IF EXISTS citext CASCADE
-- family: language
CREATE LANGUAGE {x} HANDLER plpgsql_call_handler
ALTER LANGUAGE {x} OWNER TO ddl_a
drop: DROP LANGUAGE {x}
-- family: method
CREATE ACCESS METHOD {x} TYPE TABLE HANDLER heap_tableam_handler
COMMENT ON ACCESS METHOD {x} IS 'comment {n}'
drop: DROP ACCESS METHOD {x}
-- family: transform
CREATE DOMAIN {x}_d AS int; CREATE TYPE {x} AS (a int); CREATE TRANSFORM FOR {x} LANGUAGE sql (FROM SQL WITH FUNCTION pg_catalog.prsd_lextype(internal))
drop: DROP TRANSFORM IF EXISTS FOR {x} LANGUAGE sql
drop: DROP TYPE {x} CASCADE
-- family: publication
CREATE TABLE {x}_t (id int PRIMARY KEY); CREATE PUBLICATION {x} FOR TABLE {x}_t
ALTER PUBLICATION {x} SET (publish = 'insert')
ALTER PUBLICATION {x} DROP TABLE {x}_t
ALTER PUBLICATION {x} OWNER TO postgres
drop: DROP PUBLICATION {x}
drop: DROP TABLE {x}_t
-- family: subscription
CREATE SUBSCRIPTION {x} CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE)
ALTER SUBSCRIPTION {x} SET (synchronous_commit = on)
drop: DROP SUBSCRIPTION {x}
-- family: large
SELECT lo_create(7000{i})
ALTER LARGE OBJECT 7000{i} OWNER TO ddl_a
drop: SELECT lo_unlink(7000{i})
-- family: owned
CREATE TABLE {x} (id int PRIMARY KEY); ALTER TABLE {x} OWNER TO ddl_c
GRANT SELECT ON {x} TO ddl_d
REASSIGN OWNED BY ddl_c TO ddl_a
DROP OWNED BY ddl_d
drop: DROP OWNED BY ddl_c
-- family: whole
COMMENT ON DATABASE {db} IS 'comment {n}'
ALTER DATABASE {db} SET work_mem = '{n}MB'
GRANT CONNECT ON DATABASE {db} TO ddl_b
ALTER DEFAULT PRIVILEGES FOR ROLE ddl_a GRANT SELECT ON TABLES TO ddl_b
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC
drop: ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC
