-- Little stories, each in objects of its own: {n} is its number. Steps are told in order, one message to
-- the server each; several stories are told at once, their steps mixed. After any step the database
-- must come back as it was.

-- story: a table grows
CREATE TABLE grow_{n} (id int PRIMARY KEY, name text);
-- then
INSERT INTO grow_{n} SELECT g, 'name ' || g FROM generate_series(1, 40) g;
-- then
ALTER TABLE grow_{n} ADD COLUMN amount numeric(10, 2) NOT NULL DEFAULT 12.50;
-- then
UPDATE grow_{n} SET amount = id WHERE id % 3 = 0;
-- then
ALTER TABLE grow_{n} ADD COLUMN nothing jsonb, ADD COLUMN list int[] DEFAULT '{1,NULL,3}', ADD COLUMN odd text DEFAULT E'tab\there\\N "quoted"';
-- then
BEGIN; INSERT INTO grow_{n} (id, name) VALUES (1000, 'in'); ALTER TABLE grow_{n} DROP COLUMN name; INSERT INTO grow_{n} (id) VALUES (1001);
ALTER TABLE grow_{n} ADD COLUMN name text DEFAULT 'again'; UPDATE grow_{n} SET name = 'mine' WHERE id > 1000; COMMIT;
-- then
ALTER TABLE grow_{n} RENAME COLUMN amount TO price; ALTER TABLE grow_{n} RENAME TO grown_{n};
-- then
UPDATE grown_{n} SET price = price + 1 WHERE id % 5 = 0; DELETE FROM grown_{n} WHERE id % 7 = 0;
-- then
ALTER TABLE grown_{n} ALTER price DROP NOT NULL, ALTER price DROP DEFAULT, ALTER name SET DEFAULT 'new', ALTER name SET STORAGE EXTERNAL, ALTER price SET STATISTICS 50;

-- story: rows are rewritten
CREATE TABLE rewritten_{n} (id int PRIMARY KEY, a text, b int);
INSERT INTO rewritten_{n} SELECT g, g::text, g FROM generate_series(1, 60) g;
-- then
ALTER TABLE rewritten_{n} ADD COLUMN filled timestamptz DEFAULT clock_timestamp();
-- then
UPDATE rewritten_{n} SET b = b + 1 WHERE id < 10;
-- then
ALTER TABLE rewritten_{n} ALTER a TYPE int USING length(a) * 100;
-- then
INSERT INTO rewritten_{n} VALUES (100, 7, 7); ALTER TABLE rewritten_{n} ALTER id TYPE bigint; DELETE FROM rewritten_{n} WHERE id = 5;
-- then
BEGIN; UPDATE rewritten_{n} SET a = 0 WHERE id = 6; ALTER TABLE rewritten_{n} ALTER b TYPE text USING 'b' || b; UPDATE rewritten_{n} SET b = 'after' WHERE id = 7; COMMIT;

-- story: keys change
CREATE TABLE keyed_{n} (a int NOT NULL, b text NOT NULL, c int, PRIMARY KEY (a));
INSERT INTO keyed_{n} SELECT g, 'k' || (100 - g), g % 7 FROM generate_series(1, 50) g;
-- then
ALTER TABLE keyed_{n} DROP CONSTRAINT keyed_{n}_pkey, ADD PRIMARY KEY (b);
-- then
UPDATE keyed_{n} SET a = a + 1000 WHERE c = 3; DELETE FROM keyed_{n} WHERE b = 'k50';
-- then
ALTER TABLE keyed_{n} DROP CONSTRAINT keyed_{n}_pkey; ALTER TABLE keyed_{n} REPLICA IDENTITY FULL;
-- then
INSERT INTO keyed_{n} VALUES (1, 'twin', 0), (1, 'twin', 0), (1, 'twin', 0); DELETE FROM keyed_{n} WHERE ctid = (SELECT min(ctid) FROM keyed_{n} WHERE b = 'twin');
-- then
ALTER TABLE keyed_{n} ADD COLUMN d int DEFAULT 9;
-- then
UPDATE keyed_{n} SET d = c WHERE c = 1;
-- then
DELETE FROM keyed_{n} WHERE b = 'twin'; CREATE UNIQUE INDEX keyed_{n}_ab ON keyed_{n} (b, a); ALTER TABLE keyed_{n} REPLICA IDENTITY USING INDEX keyed_{n}_ab;
-- then
UPDATE keyed_{n} SET b = b || '!' WHERE c = 2;

-- story: made, filled and altered at once
BEGIN; CREATE TABLE once_{n} (id serial PRIMARY KEY, v text); INSERT INTO once_{n} (v) SELECT md5(g::text) FROM generate_series(1, 30) g;
ALTER TABLE once_{n} ADD COLUMN w int DEFAULT 3; UPDATE once_{n} SET w = 4 WHERE id < 5; COMMIT;
-- then
BEGIN; DROP TABLE once_{n}; CREATE TABLE once_{n} (v text PRIMARY KEY); INSERT INTO once_{n} VALUES ('another table'); COMMIT;
-- then
BEGIN; SAVEPOINT s; CREATE TABLE never_{n} (id int); ALTER TABLE once_{n} ADD COLUMN never int; ROLLBACK TO s; ALTER TABLE once_{n} ADD COLUMN kept int DEFAULT 1; INSERT INTO once_{n} VALUES ('kept', 2); COMMIT;
-- then
DROP TABLE once_{n};

-- story: tables from queries
CREATE TABLE from_query_{n} AS SELECT g AS id, 'row ' || g AS v FROM generate_series(1, 100) g;
-- then
ALTER TABLE from_query_{n} ADD PRIMARY KEY (id);
-- then
UPDATE from_query_{n} SET v = 'changed' WHERE id < 10;
-- then
SELECT id, v INTO into_{n} FROM from_query_{n} WHERE id < 20;
-- then
CREATE TABLE like_{n} (LIKE from_query_{n} INCLUDING ALL); INSERT INTO like_{n} SELECT * FROM from_query_{n} WHERE id > 90;
-- then
CREATE UNLOGGED TABLE unlogged_{n} (id int PRIMARY KEY, v text); INSERT INTO unlogged_{n} VALUES (1, 'a'), (2, 'b'); ALTER TABLE unlogged_{n} SET LOGGED;
-- then
UPDATE unlogged_{n} SET v = 'c' WHERE id = 2;

-- story: code that makes tables
CREATE FUNCTION maker_{n}(name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('CREATE TABLE %I (id int PRIMARY KEY, "odd ""name""" text DEFAULT ''it''''s'')', name);
  EXECUTE format('INSERT INTO %I SELECT g FROM generate_series(1, 5) g', name);
  EXECUTE format('CREATE INDEX ON %I (id, "odd ""name""")', name);
END $$;
-- then
SELECT maker_{n}('Made {n}');
-- then
DO $do$ BEGIN
  CREATE TABLE done_{n} (id int PRIMARY KEY); INSERT INTO done_{n} VALUES (1), (2);
  ALTER TABLE done_{n} ADD COLUMN v text DEFAULT 'x'; COMMENT ON TABLE done_{n} IS 'made by a block; of code';
END $do$;
-- then
CREATE FUNCTION plain_{n}() RETURNS void LANGUAGE sql AS 'CREATE TABLE plain_made_{n} (id int PRIMARY KEY); CREATE VIEW plain_view_{n} AS SELECT id FROM done_{n}';
-- then
SELECT plain_{n}();
-- then
DROP FUNCTION maker_{n}(text); DROP TABLE "Made {n}";

-- story: partitions
CREATE TABLE parted_{n} (day date NOT NULL, id int NOT NULL, v text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
CREATE TABLE parted_{n}_a PARTITION OF parted_{n} FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE parted_{n}_rest PARTITION OF parted_{n} DEFAULT;
INSERT INTO parted_{n} SELECT date '2026-01-01' + g, g, 'v' || g FROM generate_series(0, 59) g;
-- then
ALTER TABLE parted_{n} ADD COLUMN more text DEFAULT 'more';
-- then
UPDATE parted_{n} SET day = day + 40 WHERE id = 3;
-- then
ALTER TABLE parted_{n} DETACH PARTITION parted_{n}_a;
-- then
INSERT INTO parted_{n}_a VALUES ('2026-01-20', 500, 'alone', 'x'); ALTER TABLE parted_{n}_a RENAME COLUMN v TO vv;
-- then
ALTER TABLE parted_{n}_a RENAME COLUMN vv TO v; ALTER TABLE parted_{n} ATTACH PARTITION parted_{n}_a FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
-- then
ALTER TABLE parted_{n} DROP COLUMN v; INSERT INTO parted_{n} VALUES ('2026-01-05', 900, 'end');

-- story: heirs
CREATE TABLE elder_{n} (id int PRIMARY KEY, v text); CREATE TABLE heir_{n} (PRIMARY KEY (id)) INHERITS (elder_{n});
INSERT INTO elder_{n} VALUES (1, 'e'); INSERT INTO heir_{n} VALUES (2, 'h');
-- then
ALTER TABLE elder_{n} ADD COLUMN shared int DEFAULT 11;
-- then
UPDATE elder_{n} SET shared = 12; ALTER TABLE heir_{n} ADD COLUMN extra int DEFAULT 5; ALTER TABLE heir_{n} NO INHERIT elder_{n};
-- then
ALTER TABLE elder_{n} DROP COLUMN shared; UPDATE heir_{n} SET extra = 6;

-- story: types
CREATE TYPE mood_{n} AS ENUM ('sad', 'ok'); CREATE TYPE pair_{n} AS (x int, y text); CREATE DOMAIN positive_{n} AS int CHECK (VALUE > 0);
CREATE TABLE typed_{n} (id int PRIMARY KEY, m mood_{n}, p pair_{n}, d positive_{n});
INSERT INTO typed_{n} VALUES (1, 'sad', (1, 'one'), 1), (2, 'ok', (2, NULL), 2);
-- then
ALTER TYPE mood_{n} ADD VALUE 'happy' AFTER 'ok';
-- then
INSERT INTO typed_{n} VALUES (3, 'happy', NULL, 3); ALTER TYPE mood_{n} RENAME VALUE 'sad' TO 'blue';
-- then
ALTER TYPE pair_{n} ADD ATTRIBUTE z int;
-- then
UPDATE typed_{n} SET p = (7, 'seven', 7) WHERE id = 1; ALTER TYPE pair_{n} RENAME ATTRIBUTE y TO why;
-- then
ALTER DOMAIN positive_{n} ADD CONSTRAINT small_{n} CHECK (VALUE < 1000); CREATE TYPE span_{n} AS RANGE (subtype = int4); ALTER TABLE typed_{n} ADD COLUMN s span_{n} DEFAULT '[1,5)';
-- then
ALTER TYPE mood_{n} RENAME TO feeling_{n}; COMMENT ON TYPE feeling_{n} IS 'how it feels';

-- story: things about tables
CREATE TABLE about_{n} (id int PRIMARY KEY, parent int, v text); INSERT INTO about_{n} SELECT g, NULL, g::text FROM generate_series(1, 20) g;
-- then
ALTER TABLE about_{n} ADD CONSTRAINT parent_{n} FOREIGN KEY (parent) REFERENCES about_{n} NOT VALID; CREATE INDEX about_{n}_v ON about_{n} (lower(v)) WHERE id > 3;
-- then
ALTER TABLE about_{n} VALIDATE CONSTRAINT parent_{n}; ALTER TABLE about_{n} ADD CHECK (id > 0), ADD UNIQUE (v); ALTER TABLE about_{n} CLUSTER ON about_{n}_pkey;
-- then
CREATE INDEX CONCURRENTLY about_{n}_later ON about_{n} (v, id)
-- then
CREATE VIEW seen_{n} AS SELECT id, v FROM about_{n} WHERE id < 10; CREATE MATERIALIZED VIEW kept_{n} AS SELECT count(*) AS c, max(v) AS m FROM about_{n};
-- then
CREATE FUNCTION touch_{n}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := NEW.v || '.'; RETURN NEW; END $$; CREATE TRIGGER touched_{n} BEFORE UPDATE ON about_{n} FOR EACH ROW EXECUTE FUNCTION touch_{n}();
-- then
UPDATE about_{n} SET parent = 1 WHERE id = 2; REFRESH MATERIALIZED VIEW kept_{n};
-- then
CREATE RULE quiet_{n} AS ON DELETE TO about_{n} WHERE OLD.id = 1 DO INSTEAD NOTHING; ALTER TABLE about_{n} ENABLE ROW LEVEL SECURITY; CREATE POLICY mine_{n} ON about_{n} USING (id > 0); CREATE STATISTICS stats_{n} ON id, v FROM about_{n};
-- then
ALTER TABLE about_{n} DISABLE TRIGGER touched_{n}; COMMENT ON COLUMN about_{n}.v IS 'a; "comment" it''s'; ALTER TABLE about_{n} SET (fillfactor = 70); DROP INDEX about_{n}_v;
-- then
DROP MATERIALIZED VIEW kept_{n}; ALTER VIEW seen_{n} RENAME TO saw_{n}; CREATE OR REPLACE VIEW saw_{n} AS SELECT id, v, parent FROM about_{n};

-- story: sequences and computed columns
CREATE SEQUENCE counter_{n} START 10 INCREMENT 5; CREATE TABLE computed_{n} (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED, s int DEFAULT nextval('counter_{n}'));
INSERT INTO computed_{n} (a) SELECT g FROM generate_series(1, 10) g;
-- then
ALTER TABLE computed_{n} ADD COLUMN thrice int GENERATED ALWAYS AS (a * 3) STORED;
-- then
ALTER SEQUENCE counter_{n} INCREMENT 7 OWNED BY computed_{n}.s; INSERT INTO computed_{n} (a) VALUES (100); UPDATE computed_{n} SET a = a + 1;
-- then
ALTER TABLE computed_{n} ALTER twice DROP EXPRESSION; UPDATE computed_{n} SET a = 0 WHERE id < 3;
-- then
ALTER TABLE computed_{n} ALTER id SET GENERATED ALWAYS; ALTER SEQUENCE counter_{n} RENAME TO counted_{n};

-- story: a schema of its own
CREATE SCHEMA space_{n} CREATE TABLE t (id int PRIMARY KEY, v text) CREATE VIEW w AS SELECT id FROM t;
-- then
INSERT INTO space_{n}.t VALUES (1, 'x'); SET search_path = space_{n}, public; CREATE TABLE near_{n} (id int PRIMARY KEY); INSERT INTO near_{n} VALUES (5); CREATE FUNCTION t() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM t';
-- then
ALTER TABLE space_{n}.near_{n} SET SCHEMA public; ALTER TABLE near_{n} RENAME TO nearer_{n}; UPDATE nearer_{n} SET id = 6;
-- then
ALTER SCHEMA space_{n} RENAME TO room_{n}; INSERT INTO room_{n}.t VALUES (2, 'y');
-- then
DROP SCHEMA room_{n} CASCADE;

-- story: rights
CREATE TABLE owned_{n} (id int PRIMARY KEY); GRANT SELECT ON owned_{n} TO PUBLIC; ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
-- then
ALTER TABLE owned_{n} OWNER TO definer; GRANT INSERT (id) ON owned_{n} TO definer WITH GRANT OPTION;
-- then
SET ROLE definer; CREATE TABLE definers_{n} (id int PRIMARY KEY, v text DEFAULT 'd'); INSERT INTO definers_{n} VALUES (1);
-- then
REVOKE SELECT ON owned_{n} FROM PUBLIC; ALTER TABLE definers_{n} OWNER TO CURRENT_USER;

-- story: rarer things
CREATE FUNCTION add_{n}(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2'; CREATE AGGREGATE total_{n}(int) (SFUNC = add_{n}, STYPE = int, INITCOND = '0');
-- then fails
CREATE TABLE nobodys_{n} (id int); CREATE OPERATOR +++ (LEFTARG = int, RIGHTARG = text, FUNCTION = there_is_none_{n});
-- then
CREATE OPERATOR public.@#{p} (LEFTARG = int, RIGHTARG = int, FUNCTION = add_{n}); CREATE PROCEDURE act_{n}(INOUT x int) LANGUAGE plpgsql AS $$ BEGIN x := x + 1; END $$;
-- then
CREATE COLLATION coll_{n} FROM "C"; CREATE TEXT SEARCH CONFIGURATION search_{n} (COPY = simple); CREATE TYPE text_{n} AS (t text); CREATE FUNCTION cast_{n}(text_{n}) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE CAST (text_{n} AS int) WITH FUNCTION cast_{n}(text_{n});
-- then
CREATE FOREIGN DATA WRAPPER wrap_{n}; CREATE SERVER far_{n} FOREIGN DATA WRAPPER wrap_{n} OPTIONS (host 'nowhere'); CREATE FOREIGN TABLE away_{n} (id int) SERVER far_{n};
-- then
CREATE TEMPORARY TABLE passing_{n} (id int); CREATE INDEX ON passing_{n} (id); DROP TABLE passing_{n}; ALTER SERVER far_{n} OPTIONS (SET host 'elsewhere');
-- then
DROP OPERATOR public.@#{p} (int, int); DROP FOREIGN DATA WRAPPER wrap_{n} CASCADE; DROP AGGREGATE total_{n}(int);
