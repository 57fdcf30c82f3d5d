DO $do$
DECLARE
    statement text;
BEGIN
    PERFORM pg_catalog.set_config('backwhen.own', 'install', true);
    FOR statement IN
        SELECT pg_catalog.format('DROP EVENT TRIGGER %I', e.evtname) FROM pg_catalog.pg_event_trigger e
         WHERE e.evtname LIKE '!{slot}\_%'
        UNION ALL
        SELECT pg_catalog.format('DROP FUNCTION %s CASCADE', p.oid::pg_catalog.regprocedure) FROM pg_catalog.pg_proc p
          JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname = 'backwhen' AND p.proname LIKE '{slot}\_%'
        UNION ALL
        SELECT pg_catalog.format('DROP TABLE %s', c.oid::pg_catalog.regclass) FROM pg_catalog.pg_class c
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'backwhen' AND c.relname = '{slot}_config'
    LOOP
        EXECUTE statement;
    END LOOP;
    -- Another history may live in it.
    IF EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = 'backwhen')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = pg_catalog.to_regnamespace('backwhen'))
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace = pg_catalog.to_regnamespace('backwhen')) THEN
        DROP SCHEMA backwhen;
    END IF;
END
$do$;
