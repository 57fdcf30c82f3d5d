-- The tables and types are made and have no rows yet. From here on:
-- a function that an ordinary role owns runs as that role, in which nobody can take up another. A superuser's function
-- stays as it is: as SECURITY DEFINER it would lend a superuser's rights to whoever calls it;
CREATE TABLE {guard}.invokers (function oid PRIMARY KEY);
INSERT INTO {guard}.invokers
SELECT p.oid FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_language l ON l.oid = p.prolang JOIN pg_catalog.pg_roles r ON r.oid = p.proowner
 WHERE p.oid >= 16384 AND p.prokind IN ('f', 'p', 'w') AND l.lanname NOT IN ('internal', 'c')
   AND NOT p.prosecdef AND NOT r.rolsuper AND p.pronamespace <> '{guard}'::pg_catalog.regnamespace
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                      AND d.objid = p.oid AND d.deptype = 'e');
DO $do$
DECLARE
    routine text;
BEGIN
    FOR routine IN SELECT i.function::pg_catalog.regprocedure::text FROM {guard}.invokers i LOOP
        EXECUTE pg_catalog.format('ALTER ROUTINE %s SECURITY DEFINER', routine);
    END LOOP;
END
$do$;
-- and what such a function runs alters nothing here: neither a function nor a table whose rows are still to come.
CREATE FUNCTION {guard}.refuse() RETURNS event_trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = current_user AND r.rolsuper) THEN
        RAISE EXCEPTION 'no % while the database is being rebuilt', TG_TAG;
    END IF;
END
$body$;
CREATE EVENT TRIGGER "!backwhen_guard" ON ddl_command_start EXECUTE FUNCTION {guard}.refuse();
ALTER EVENT TRIGGER "!backwhen_guard" ENABLE ALWAYS;
