-- The rest, once the triggers and their functions are gone.
DO $do$
BEGIN
    PERFORM pg_catalog.set_config('backwhen.own', 'install', true);
    DROP TABLE IF EXISTS backwhen.{slot}_config;
    -- Another history may live in it.
    IF EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = 'backwhen')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = pg_catalog.to_regnamespace('backwhen'))
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace = pg_catalog.to_regnamespace('backwhen')) THEN
        DROP SCHEMA backwhen;
    END IF;
END
$do$;
