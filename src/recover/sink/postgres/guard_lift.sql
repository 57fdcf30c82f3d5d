DO $do$
DECLARE
    set_aside text;
BEGIN
    -- The application's own event triggers are there by now, and this is none of their business.
    PERFORM pg_catalog.set_config('session_replication_role', 'replica', true);
    EXECUTE 'DROP EVENT TRIGGER "!backwhen_guard"';
    EXECUTE 'DROP EVENT TRIGGER "!backwhen_guard_extended"';
    FOR set_aside IN SELECT c.statement FROM {guard}.checks c LOOP
        EXECUTE set_aside;
    END LOOP;
    UPDATE pg_catalog.pg_proc p SET proowner = t.owner, prosecdef = false, proacl = t.acl FROM {guard}.lent t
     WHERE p.oid OPERATOR(pg_catalog.=) t.function;
    EXECUTE 'DROP SCHEMA {guard} CASCADE';
END
$do$;
