-- Drops the rest, once the triggers and the functions that they call are gone.
DO $do$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT pg_catalog.format('DROP FUNCTION %s', p.oid::pg_catalog.regprocedure) FROM pg_catalog.pg_proc p
          JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname = 'backwhen' AND p.proname LIKE '{slot}\_%'
    LOOP
        EXECUTE statement;
    END LOOP;
    DROP TABLE IF EXISTS backwhen.{slot}_config;
END
$do$;
