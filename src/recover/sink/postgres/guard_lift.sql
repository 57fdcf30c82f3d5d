DO $do$
DECLARE
    routine text;
BEGIN
    -- The application's own event triggers are there by now, and this is none of their business.
    PERFORM pg_catalog.set_config('session_replication_role', 'replica', true);
    EXECUTE 'DROP EVENT TRIGGER "!backwhen_guard"';
    FOR routine IN SELECT c.statement FROM {guard}.checks c LOOP
        EXECUTE routine;
    END LOOP;
    FOR routine IN
        SELECT p.oid::pg_catalog.regprocedure::text FROM {guard}.invokers i
          JOIN pg_catalog.pg_proc p ON p.oid = i.function
    LOOP
        EXECUTE pg_catalog.format('ALTER ROUTINE %s SECURITY INVOKER', routine);
    END LOOP;
    EXECUTE 'DROP SCHEMA {guard} CASCADE';
END
$do$;
