-- Each function is SECURITY DEFINER from the moment on that it is made. What was not is remembered.
CREATE SCHEMA {guard};
CREATE TABLE {guard}.invokers (function oid PRIMARY KEY);
CREATE FUNCTION {guard}.watch() RETURNS event_trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    made record;
BEGIN
    FOR made IN
        SELECT p.oid, p.prosecdef FROM pg_event_trigger_ddl_commands() o
          JOIN pg_proc p ON p.oid = o.objid
          JOIN pg_language l ON l.oid = p.prolang
         WHERE o.classid = 'pg_proc'::regclass AND NOT o.in_extension
           AND p.prokind IN ('f', 'p', 'w') AND l.lanname NOT IN ('internal', 'c')
    LOOP
        -- A function that runs may alter its owner's others.
        IF TG_TAG LIKE 'ALTER %' AND NOT made.prosecdef THEN
            RAISE EXCEPTION '% cannot be altered so while the database is being rebuilt', made.oid::regprocedure;
        END IF;
        CONTINUE WHEN TG_TAG LIKE 'ALTER %';
        IF NOT made.prosecdef THEN
            INSERT INTO {guard}.invokers VALUES (made.oid) ON CONFLICT DO NOTHING;
            EXECUTE format('ALTER ROUTINE %s SECURITY DEFINER', made.oid::regprocedure);
        END IF;
        IF {owner} IS NOT NULL THEN
            EXECUTE format('ALTER ROUTINE %s OWNER TO %I', made.oid::regprocedure, {owner});
        END IF;
    END LOOP;
END
$body$;
CREATE EVENT TRIGGER "!backwhen_guard" ON ddl_command_end
    WHEN TAG IN ('CREATE FUNCTION', 'CREATE PROCEDURE', 'ALTER FUNCTION', 'ALTER PROCEDURE', 'ALTER ROUTINE')
    EXECUTE FUNCTION {guard}.watch();
