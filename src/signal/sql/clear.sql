-- Drops the parts of an installation that a newer one of another shape could not replace in place. The event
-- triggers' own functions stay: a statement that is about to end may still call them, and would fail without them.
DO $do$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT pg_catalog.format('DROP EVENT TRIGGER %I', e.evtname) FROM pg_catalog.pg_event_trigger e
         WHERE e.evtname LIKE '!{slot}\_%'
        UNION ALL
        SELECT pg_catalog.format('DROP FUNCTION %s CASCADE', p.oid::pg_catalog.regprocedure) FROM pg_catalog.pg_proc p
          JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname = 'backwhen' AND p.proname LIKE '{slot}\_%'
           AND p.prorettype <> 'pg_catalog.event_trigger'::pg_catalog.regtype
    LOOP
        EXECUTE statement;
    END LOOP;
END
$do$;
