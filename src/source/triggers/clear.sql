-- What an installation puts on the source, but for the table and the schema: a newer one of another shape
-- could not replace it in place.
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
    LOOP
        EXECUTE statement;
    END LOOP;
END
$do$;
