-- One of everything that a schema archive and a sink must bring back.
CREATE EXTENSION hstore;
CREATE EXTENSION citext;
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE SCHEMA shop;
DO $$ BEGIN CREATE ROLE sink_owner; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE sink_reader; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
CREATE TABLE shop.customer (
    id serial PRIMARY KEY, name text NOT NULL, mood mood DEFAULT 'ok', tags hstore, email citext
);
CREATE TABLE shop.orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer int REFERENCES shop.customer,
    amount numeric(10, 2),
    twice numeric GENERATED ALWAYS AS (amount * 2) STORED,
    qty positive
);
-- Only types that go in as binary COPY; from the row on that cannot, the rest goes as text.
CREATE TABLE plain_types (
    i2 smallint, i4 int, i8 bigint, n numeric, n2 numeric(10, 2), f4 real, f8 double precision, ok bool, t text,
    c char(5), v varchar(5), b bytea, d date, ts timestamp, tz timestamptz, u uuid, j json, jb jsonb
);
INSERT INTO plain_types VALUES
    (-32768, -2147483648, -9223372036854775808, 12345678.000123400, -0.5, '1e-45', '5e-324', true, '', '', '', '',
     '0001-01-01', '0001-01-01', '0001-01-01+00', '00000000-0000-0000-0000-000000000000', ' {"a": 1}', '{"b": [1.50]}'),
    (32767, 2147483647, 9223372036854775807, '-1e1000', 99999999.99, '3.4028235e38', '-Infinity', false,
     E'tab\tline\nback\\ \x01', 'ab', 'ab   ', '\x00ff5c0a09', '9999-12-31', '1999-12-31 23:59:59.999999',
     '2000-01-01 00:00:00.1+00', 'ffffffff-ffff-ffff-ffff-ffffffffffff', '"x"', 'null'),
    (0, 0, 0, '1e-16383', 0, '-0', 'NaN', NULL, '\N', NULL, NULL, NULL, '2024-02-29', '2024-02-29 12:00:00.5', NULL, NULL, NULL, NULL),
    (0, 0, 0, 0.0000, 10000, 'NaN', '-0', NULL, '\.', NULL, NULL, NULL, '1970-01-01', '1858-11-17', NULL, NULL, NULL, NULL);
CREATE TABLE not_all_binary (n int, d date, x numeric);
INSERT INTO not_all_binary VALUES (1, '2020-01-01', 1), (2, 'infinity', 'NaN'), (3, '4714-11-24 BC', 3), (4, '2020-01-01', 4);
CREATE VIEW shop.v AS SELECT * FROM shop.orders;
CREATE VIEW shop.joined AS SELECT o.id, c.name FROM shop.orders o JOIN shop.customer c ON c.id = o.customer;
CREATE MATERIALIZED VIEW shop.mv AS SELECT customer, sum(amount) AS sum FROM shop.orders GROUP BY 1;
CREATE UNIQUE INDEX mv_customer_idx ON shop.mv (customer);
CREATE MATERIALIZED VIEW shop.mv2 AS SELECT count(*) FROM shop.mv;
CREATE TABLE "we ird;name" ("a b" int, "c;d" text);
CREATE TABLE nocols ();
CREATE TABLE only_generated (g int GENERATED ALWAYS AS (1) STORED);
CREATE TABLE part (id int, d date, PRIMARY KEY (id, d)) PARTITION BY RANGE (d);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE part_d PARTITION OF part DEFAULT;
CREATE TABLE parent (a int);
CREATE TABLE child (b int) INHERITS (parent);
CREATE RULE keep AS ON DELETE TO parent DO INSTEAD NOTHING;
CREATE FUNCTION shop.forbid() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no more'; END $$;
INSERT INTO shop.customer (name, tags) VALUES ('a', 'x=>1'), ('b', NULL);
INSERT INTO shop.orders (customer, amount, qty) VALUES (1, 10.50, 1), (2, NULL, 3);
INSERT INTO nocols DEFAULT VALUES;
INSERT INTO only_generated DEFAULT VALUES;
INSERT INTO part VALUES (1, '2020-03-03'), (2, '2025-01-01');
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (2, 3);
INSERT INTO "we ird;name" VALUES (1, E'tab\there'), (2, E'\\N\\.\nend'), (NULL, '');
REFRESH MATERIALIZED VIEW shop.mv;
REFRESH MATERIALIZED VIEW shop.mv2;
CREATE TRIGGER forbid BEFORE INSERT ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.forbid();
ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY;
ALTER TABLE shop.orders FORCE ROW LEVEL SECURITY;
CREATE POLICY mine ON shop.orders TO sink_reader USING (amount > 0);
CREATE POLICY anyone ON shop.orders USING (amount > 0);
ALTER TABLE shop.customer OWNER TO sink_owner;
GRANT SELECT ON shop.orders TO sink_reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO sink_reader;
SELECT lo_from_bytea(4242, 'hello large');
COMMENT ON LARGE OBJECT 4242 IS 'two
COMMIT;
lines';
GRANT SELECT ON LARGE OBJECT 4242 TO sink_reader;
CREATE SEQUENCE shop.free START 5;
SELECT nextval('shop.free');
CREATE SEQUENCE shop.unused START 9;
CREATE STATISTICS shop.st ON id, name FROM shop.customer;
CREATE AGGREGATE shop.agg (int) (sfunc = int4pl, stype = int);
CREATE OPERATOR shop.=== (leftarg = int, rightarg = int, function = int4eq);
CREATE UNLOGGED TABLE unlogged (a int);
CREATE PUBLICATION other FOR TABLE shop.customer;
-- What backwhen itself leaves in a source.
CREATE SCHEMA backwhen;
CREATE TABLE backwhen.x (a int);
CREATE FUNCTION backwhen.ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE EVENT TRIGGER backwhen_ddl ON ddl_command_end EXECUTE FUNCTION backwhen.ddl();
CREATE PUBLICATION backwhen_abc FOR TABLE shop.customer, shop.orders;
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET work_mem TO ''8MB''', current_database());
    EXECUTE format('COMMENT ON DATABASE %I IS ''the source''', current_database());
    EXECUTE format('GRANT CREATE ON DATABASE %I TO sink_reader', current_database());
END $$;
