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
    -- Another history may live in this schema.
    IF EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = 'backwhen')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = pg_catalog.to_regnamespace('backwhen'))
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace = pg_catalog.to_regnamespace('backwhen')) THEN
        DROP SCHEMA backwhen;
    END IF;
END
$do$;
