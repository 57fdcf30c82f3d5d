-- "!" comes before the names that people give: event triggers fire in order of name, and what
-- another one does must be told after the statement that made it do so.
CREATE EVENT TRIGGER "!{slot}_start" ON ddl_command_start WHEN TAG IN ('CREATE EXTENSION', 'ALTER EXTENSION')
    EXECUTE FUNCTION backwhen.{slot}_start();
CREATE EVENT TRIGGER "!{slot}_drop" ON sql_drop EXECUTE FUNCTION backwhen.{slot}_drop();
CREATE EVENT TRIGGER "!{slot}_rewrite" ON table_rewrite EXECUTE FUNCTION backwhen.{slot}_rewrite();
CREATE EVENT TRIGGER "!{slot}_end" ON ddl_command_end EXECUTE FUNCTION backwhen.{slot}_end();
-- Also where a session replays another server's changes.
ALTER EVENT TRIGGER "!{slot}_start" ENABLE ALWAYS;
ALTER EVENT TRIGGER "!{slot}_drop" ENABLE ALWAYS;
ALTER EVENT TRIGGER "!{slot}_rewrite" ENABLE ALWAYS;
ALTER EVENT TRIGGER "!{slot}_end" ENABLE ALWAYS;

-- Of the application's roles, all may call what its event triggers call as them, and nothing else.
GRANT USAGE ON SCHEMA backwhen TO PUBLIC;
DO $do$
DECLARE
    routine record;
    callable text[] := '{{slot}_tell,{slot}_trouble,{slot}_taken_out}';
BEGIN
    FOR routine IN
        SELECT p.oid::pg_catalog.regprocedure AS signature, p.proname = ANY (callable) AS callable FROM pg_catalog.pg_proc p
         WHERE p.pronamespace = 'backwhen'::pg_catalog.regnamespace AND p.proname LIKE '{slot}\_%'
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', routine.signature);
        IF routine.callable THEN
            EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', routine.signature);
        END IF;
    END LOOP;
END
$do$;
