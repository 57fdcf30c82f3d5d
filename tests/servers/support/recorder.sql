-- Records what each statement changed of the definitions, as backwhen's own triggers would tell it.
CREATE SCHEMA backwhen;
CREATE TABLE backwhen.log (number bigserial, signal jsonb);
GRANT USAGE ON SCHEMA backwhen TO PUBLIC;
GRANT INSERT ON backwhen.log TO PUBLIC;
GRANT USAGE ON SEQUENCE backwhen.log_number_seq TO PUBLIC;
CREATE FUNCTION backwhen.settings() RETURNS jsonb LANGUAGE sql AS $$
    SELECT pg_catalog.jsonb_object_agg(name, pg_catalog.current_setting(name))
      FROM pg_catalog.unnest(ARRAY['search_path', 'standard_conforming_strings', 'datestyle', 'intervalstyle',
                                   'timezone', 'default_tablespace', 'default_table_access_method',
                                   'check_function_bodies', 'escape_string_warning']) AS name
$$;
CREATE FUNCTION backwhen.record() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
    context text;
    settings pg_catalog.jsonb := backwhen.settings();
    path text := pg_catalog.current_setting('search_path');
    objects pg_catalog.jsonb;
    tables pg_catalog.jsonb;
    body text;
BEGIN
    GET DIAGNOSTICS context = PG_CONTEXT;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog', true);
    SELECT jsonb_agg(jsonb_build_object('catalog', coalesce(classid::regclass::text, ''), 'oid', coalesce(objid, 0)::int8, 'tag', command_tag,
                                        'kind', object_type, 'identity', coalesce(object_identity, '')))
      INTO objects FROM pg_event_trigger_ddl_commands() WHERE NOT in_extension;
    SELECT jsonb_agg(jsonb_build_object(
               'oid', c.oid::int8, 'schema', nspname, 'name', relname, 'persistence', relpersistence,
               'replica_identity', relreplident, 'file', 0, 'columns', (
                   SELECT coalesce(jsonb_agg(jsonb_build_object(
                              'number', attnum, 'name', attname, 'type', atttypid::int8, 'modifier', atttypmod,
                              'type_name', format_type(atttypid, atttypmod), 'generated', attgenerated <> '')
                            ORDER BY attnum), '[]')
                     FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)))
      INTO tables
      FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
     WHERE relkind IN ('r', 'f', 'p')
       AND c.oid IN (SELECT objid FROM pg_event_trigger_ddl_commands() WHERE classid = 'pg_class'::regclass);
    body := jsonb_build_object(
        'tag', tg_tag, 'objects', coalesce(objects, '[]'), 'tables', coalesce(tables, '[]'),
        'statement', jsonb_build_object(
            'query', current_query(), 'context', regexp_replace(context, '^[^\n]*\n?', ''),
            'started', (extract(epoch FROM statement_timestamp()) * 1000000)::int8, 'process', pg_backend_pid(),
            'role', current_user, 'login', session_user, 'settings', settings));
    INSERT INTO backwhen.log (signal) VALUES (body::jsonb);
    PERFORM pg_logical_emit_message(true, 'backwhen.ddl',
        encode(sha256(convert_to('secret' || body || 'secret', 'UTF8')), 'hex') || E'\n' || body);
    -- Not under the seal, and so nobody's word.
    PERFORM pg_logical_emit_message(true, 'backwhen.ddl', repeat('0', 64) || E'\n' || body);
    PERFORM set_config('search_path', path, true);
END $$;
CREATE EVENT TRIGGER backwhen_record ON ddl_command_end EXECUTE FUNCTION backwhen.record();
