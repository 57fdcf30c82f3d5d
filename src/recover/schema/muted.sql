-- While an archive is restored, the application's functions give NULL and do nothing: types, constraints and indexes
-- evaluate some as they are made, and the restoring session is a superuser's. Those of superusers too: anybody's
-- domain may call one, with what its author likes.
CREATE TABLE backwhen.muted (oid oid PRIMARY KEY, prolang oid, prosrc text, probin text, prosqlbody pg_node_tree);
CREATE FUNCTION backwhen.mute() RETURNS event_trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $body$
BEGIN
    INSERT INTO backwhen.muted
    SELECT p.oid, p.prolang, p.prosrc, p.probin, p.prosqlbody
      FROM pg_event_trigger_ddl_commands() c JOIN pg_proc p ON p.oid = c.objid JOIN pg_language l ON l.oid = p.prolang
     WHERE c.classid = 'pg_proc'::regclass AND NOT c.in_extension
       AND p.prokind IN ('f', 'p', 'w') AND l.lanname NOT IN ('c', 'internal')
       AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
    ON CONFLICT DO NOTHING;
    -- In PL/pgSQL, as the server would put a function in SQL into the expression that calls it: a partition key must not
    -- become a constant.
    UPDATE pg_proc p SET prolang = (SELECT oid FROM pg_language WHERE lanname = 'plpgsql'), probin = NULL, prosqlbody = NULL,
           prosrc = CASE WHEN p.proretset OR p.prokind = 'p' OR p.prorettype = 'void'::regtype OR p.proargmodes && '{o,b,t}'
                    THEN 'BEGIN RETURN; END' ELSE 'BEGIN RETURN NULL; END' END
      FROM backwhen.muted m, pg_event_trigger_ddl_commands() c
     WHERE c.classid = 'pg_proc'::regclass AND c.objid = m.oid AND p.oid = m.oid;
END
$body$;
CREATE EVENT TRIGGER backwhen_mute ON ddl_command_end
    WHEN TAG IN ('CREATE FUNCTION', 'CREATE PROCEDURE')
    EXECUTE FUNCTION backwhen.mute();
ALTER EVENT TRIGGER backwhen_mute ENABLE ALWAYS;
