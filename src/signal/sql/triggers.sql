-- "!" sorts before the names that people give. Event triggers fire in order of name, and the work of another event
-- trigger must be told after the statement that made it fire. "_by" sorts right before "_end".
CREATE EVENT TRIGGER "!{slot}_start" ON ddl_command_start WHEN TAG IN (
        'ALTER TABLE', 'CREATE EXTENSION', 'ALTER EXTENSION', 'DROP EXTENSION', 'ALTER TYPE', 'DROP TYPE', 'ALTER DOMAIN', 'DROP DOMAIN',
        'ALTER FUNCTION', 'DROP FUNCTION', 'ALTER PROCEDURE', 'DROP PROCEDURE', 'ALTER ROUTINE', 'DROP ROUTINE',
        'ALTER AGGREGATE', 'DROP AGGREGATE', 'ALTER OPERATOR', 'DROP OPERATOR', 'ALTER SCHEMA', 'DROP SCHEMA', 'DROP OWNED',
        'ALTER COLLATION', 'DROP COLLATION', 'ALTER TEXT SEARCH CONFIGURATION', 'DROP TEXT SEARCH CONFIGURATION',
        'ALTER TEXT SEARCH DICTIONARY', 'DROP TEXT SEARCH DICTIONARY')
    EXECUTE FUNCTION backwhen.{slot}_start();
CREATE EVENT TRIGGER "!{slot}_drop" ON sql_drop EXECUTE FUNCTION backwhen.{slot}_drop();
CREATE EVENT TRIGGER "!{slot}_rewrite" ON table_rewrite EXECUTE FUNCTION backwhen.{slot}_rewrite();
CREATE EVENT TRIGGER "!{slot}_by" ON ddl_command_end EXECUTE FUNCTION backwhen.{slot}_who();
CREATE EVENT TRIGGER "!{slot}_end" ON ddl_command_end EXECUTE FUNCTION backwhen.{slot}_end();
-- These triggers also fire where a session replays another server's changes.
ALTER EVENT TRIGGER "!{slot}_start" ENABLE ALWAYS;
ALTER EVENT TRIGGER "!{slot}_drop" ENABLE ALWAYS;
ALTER EVENT TRIGGER "!{slot}_rewrite" ENABLE ALWAYS;
ALTER EVENT TRIGGER "!{slot}_by" ENABLE ALWAYS;
ALTER EVENT TRIGGER "!{slot}_end" ENABLE ALWAYS;

-- Each of these functions runs with its caller's rights, except the event triggers' own functions, which nobody can
-- call. Even so, nobody else may call any of them.
DO $do$
DECLARE
    routine text;
BEGIN
    FOR routine IN
        SELECT p.oid::pg_catalog.regprocedure::text FROM pg_catalog.pg_proc p
         WHERE p.pronamespace = 'backwhen'::pg_catalog.regnamespace AND p.proname LIKE '{slot}\_%'
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', routine);
    END LOOP;
END
$do$;
UPDATE backwhen.{slot}_config SET functions = ({functions});
