-- Functions, and statements that functions run.
SET search_path = app, public;
CREATE FUNCTION add_table(name text) RETURNS void LANGUAGE plpgsql AS $fn$
BEGIN
    EXECUTE format('CREATE TABLE %I (id int, "quoted;" text); CREATE INDEX ON %I (id)', name, name);
    EXECUTE 'COMMENT ON TABLE ' || quote_ident(name) || ' IS ''made "by" ; a function''';
    CREATE TABLE IF NOT EXISTS fixed (id int CHECK (id > 0));
    ALTER TABLE fixed ADD COLUMN IF NOT EXISTS more text;
END $fn$;
SELECT add_table('made one'), add_table('made two');
SELECT add_table('made three');
DO $$ DECLARE n int; BEGIN
    FOR n IN 1..3 LOOP
        EXECUTE format('CREATE TABLE part_%s (v int DEFAULT %s)', n, n);
        EXECUTE 'CREATE TABLE again (a int); ALTER TABLE again ADD b int; DROP TABLE again';
    END LOOP;
    n := 5;
    CREATE TABLE of_variable AS SELECT n AS v, 'x'::varchar(3) AS w;
    BEGIN
        CREATE TABLE lost (a int);
        RAISE EXCEPTION 'no';
    EXCEPTION WHEN OTHERS THEN
        CREATE TABLE kept (a int);
    END;
END $$;
CREATE FUNCTION two_steps() RETURNS int LANGUAGE sql AS $$
    CREATE TABLE step_one (a int); -- a ; comment
    CREATE VIEW step_two AS SELECT 1 AS b;
    SELECT 1;
$$;
CREATE FUNCTION two_steps(text) RETURNS int LANGUAGE sql AS 'SELECT 1; SELECT 2';
SELECT two_steps();
CREATE PROCEDURE proceed(x int) LANGUAGE plpgsql AS $$ BEGIN
    CREATE TABLE proceeded_1 (a int);
    COMMIT;
    CREATE TABLE proceeded_2 (a int);
    ROLLBACK;
    CREATE TABLE proceeded_3 (a int);
END $$;
CALL proceed(1);
CREATE FUNCTION atomic_sum(a int, b int DEFAULT 2) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE
    BEGIN ATOMIC SELECT CASE WHEN a > b THEN a ELSE b END; SELECT a + b; END;
CREATE OR REPLACE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = app AS
    $$ BEGIN RETURN NULL; END $$;
ALTER FUNCTION atomic_sum(int, int) RENAME TO summed;
ALTER FUNCTION summed(int, int) COST 5 LEAKPROOF;
ALTER ROUTINE summed(int, int) STRICT;
ALTER PROCEDURE proceed(int) SET work_mem = '1MB';
DROP FUNCTION two_steps(text);
CREATE TRIGGER after_all AFTER INSERT ON customers REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT WHEN (true) EXECUTE FUNCTION touch();
DROP TRIGGER after_all ON customers;
CREATE CONSTRAINT TRIGGER checked AFTER UPDATE ON customers DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.id <> NEW.id) EXECUTE FUNCTION touch();
ALTER TRIGGER checked ON customers RENAME TO rechecked;
ALTER TABLE customers ENABLE ALWAYS TRIGGER rechecked;
CREATE RULE twofold AS ON INSERT TO step_two DO INSTEAD (INSERT INTO part_1 VALUES (1); DELETE FROM part_2);
CREATE OR REPLACE RULE twofold AS ON INSERT TO step_two DO INSTEAD NOTHING;
CREATE RULE likewise AS ON DELETE TO part_1 WHERE old.v > 1 DO ALSO (DELETE FROM part_2; DELETE FROM part_3);
ALTER RULE likewise ON part_1 RENAME TO too;
ALTER TABLE part_1 DISABLE RULE too;
CREATE OR REPLACE VIEW names AS SELECT id, name, email FROM customers WHERE name <> ';';
CREATE VIEW checked WITH (security_barrier) AS SELECT * FROM names WHERE id > 1 WITH LOCAL CHECK OPTION;
ALTER VIEW checked ALTER COLUMN name SET DEFAULT 'n', SET (security_barrier = off);
CREATE RECURSIVE VIEW counted (n) AS VALUES (1) UNION ALL SELECT n + 1 FROM counted WHERE n < 9;
ALTER VIEW names RENAME COLUMN email TO mail;
CREATE MATERIALIZED VIEW derived AS SELECT count(*) / 0 AS never FROM totals WHERE false GROUP BY customer;
CREATE MATERIALIZED VIEW later AS SELECT * FROM derived WITH NO DATA;
CREATE INDEX ON derived (never);
REFRESH MATERIALIZED VIEW unfilled;
REFRESH MATERIALIZED VIEW totals WITH NO DATA;
ALTER MATERIALIZED VIEW unfilled RENAME TO refilled;
SET standard_conforming_strings = off;
SET escape_string_warning = off;
CREATE TABLE escaped (a text DEFAULT 'it\'s; \\', b text DEFAULT E'\x41');
SET standard_conforming_strings = on;
CREATE TABLE backslashed (a text DEFAULT 'c:\', b text DEFAULT U&'d\0061t');
SET datestyle = 'SQL, DMY';
CREATE TABLE dated (d date DEFAULT '03/02/2024', i interval DEFAULT '1 day');
SET check_function_bodies = off;
CREATE FUNCTION to_nowhere() RETURNS int LANGUAGE sql AS 'SELECT a FROM nowhere_at_all';
RESET ALL;
