-- Drops the schema, unless another history lives in it, or tables have yet to get back their replica identity.
DO $do$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = 'backwhen')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = pg_catalog.to_regnamespace('backwhen'))
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace = pg_catalog.to_regnamespace('backwhen')) THEN
        DROP SCHEMA backwhen;
    END IF;
END
$do$;
