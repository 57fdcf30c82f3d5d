-- These are the functions of the event triggers. Nobody can call a function that returns event_trigger: only the
-- server does, when the event occurs. So the functions here that run as their owner need not check their caller, and
-- nothing else in this schema runs as its owner.

-- Runs as the application's role and notes that role and its search path, which a function that runs as its owner
-- cannot know. The event trigger that tells the statement follows at once, so no session can put other values in
-- between. Every name here has its schema, as the search path is the session's.
CREATE OR REPLACE FUNCTION backwhen.{slot}_who() RETURNS event_trigger LANGUAGE plpgsql AS $body$
DECLARE
    noted pg_catalog.text;
BEGIN
    noted := pg_catalog.set_config('backwhen.{slot}_role', CURRENT_USER::pg_catalog.text, true);
    noted := pg_catalog.set_config('backwhen.{slot}_path', pg_catalog.current_setting('search_path'), true);
END
$body$;

-- Runs before a statement. Most statements that get here are an ALTER TABLE that needs nothing beforehand, and settings
-- take time. So this function has none: every name here has its schema, as the search path is the session's.
CREATE OR REPLACE FUNCTION backwhen.{slot}_start() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $body$
DECLARE
    context pg_catalog.text;
BEGIN
    IF TG_TAG OPERATOR(pg_catalog.=) 'ALTER TABLE' AND pg_catalog.lower(pg_catalog.current_query() COLLATE pg_catalog."C")
       OPERATOR(pg_catalog.!~~) ALL ('{%set%unlogged%,%set%expression%}'::pg_catalog.text[]) THEN
        RETURN;
    END IF;
    GET DIAGNOSTICS context = PG_CONTEXT;
    BEGIN
        context := backwhen.{slot}_before(TG_TAG, context);
    EXCEPTION WHEN statement_too_complex THEN
        RAISE;
    WHEN OTHERS THEN
        NULL;
    END;
END
$body$;

-- Keeps what must be known before a statement for its end: the state of types and names, and that an extension's script
-- is left to the extension. Takes tables out of publications for the statement.
CREATE OR REPLACE FUNCTION backwhen.{slot}_before(tag text, context text) RETURNS text LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $body$
DECLARE
    kept text;
    kinds oid[];
    settled bool;
BEGIN
    IF tag = 'ALTER TABLE' THEN
        -- Within a function, the statement may be another role's than the session's.
        IF split_part(context, E'\n', 2) = '' THEN
            kept := backwhen.{slot}_keep('unpublished', backwhen.{slot}_unpublish(lower(current_query() COLLATE "C")));
        END IF;
        RETURN NULL;
    END IF;
    IF tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN
        kept := backwhen.{slot}_keep('extension', 'on');
    END IF;
    -- Changes that an extension's script makes are told with the statement that runs the script.
    IF tag <> 'ALTER EXTENSION' AND backwhen.{slot}_kept('extension') = 'on' THEN
        RETURN NULL;
    END IF;
    -- backwhen's own statement within the application's; what was kept for that statement stays.
    IF current_setting('backwhen.{slot}_joining', true) <> '' AND backwhen.{slot}_kept('joining') = 'on' THEN
        RETURN NULL;
    END IF;
    kinds := backwhen.{slot}_name_types();
    IF tag IN ('ALTER TYPE', 'ALTER EXTENSION') OR kinds <> '{}' THEN
        -- While another session alters such an object, the object's state before this statement cannot be known until
        -- that session has ended: the statement may wait for it. Then '' says that the state is not known.
        settled := NOT EXISTS (
            SELECT FROM pg_locks l WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
               AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
               AND l.mode IN ('ExclusiveLock', 'AccessExclusiveLock')
               AND (l.classid IN ('pg_type'::regclass, 'pg_proc'::regclass, 'pg_operator'::regclass, 'pg_namespace'::regclass,
                        'pg_collation'::regclass, 'pg_ts_config'::regclass, 'pg_ts_dict'::regclass)
                    OR l.relation IN (SELECT c.oid FROM pg_class c WHERE c.relkind = 'c')));
        IF tag IN ('ALTER TYPE', 'ALTER EXTENSION') THEN
            kept := backwhen.{slot}_keep('types', CASE WHEN settled THEN coalesce(backwhen.{slot}_types_before(), '') ELSE '' END);
        END IF;
        kept := backwhen.{slot}_keep('names', CASE WHEN settled THEN coalesce(backwhen.{slot}_names(kinds), '') ELSE '' END);
    END IF;
    RETURN NULL;
END
$body$;

-- Keeps the objects that the statement drops for its end, since only this event lists them.
CREATE OR REPLACE FUNCTION backwhen.{slot}_drop() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $body$
DECLARE
    dropped text[];
    kept text;
BEGIN
    -- A table that somebody else takes out of our publications may be put back before the capture looks at it.
    IF TG_TAG = 'ALTER PUBLICATION' THEN
        IF EXISTS (SELECT FROM pg_event_trigger_dropped_objects() d
                    WHERE d.object_type = 'publication relation' AND d.address_args[1] ~ '^{slot}(_inserts)?(_[0-9]+)?$')
           AND NOT backwhen.{slot}_is_own() THEN
            UPDATE backwhen.{slot}_config SET taken_out = taken_out + 1;
        END IF;
    END IF;
    dropped := ARRAY(
        SELECT ARRAY[d.classid::text, d.objid::text, d.objsubid::text, d.object_type, CASE WHEN d.original THEN '!original' ELSE '' END,
                     CASE WHEN NOT d.original THEN NULL
                          WHEN d.classid = 'pg_type'::regclass THEN format('%I.%I', d.schema_name, d.object_name)
                          ELSE d.address_names[cardinality(d.address_names)] END,
                     -- The server has quoted the identity as the session's settings want it.
                     CASE WHEN d.classid = 'pg_class'::regclass THEN format('%I.%I', d.address_names[1], d.address_names[2]) END]
          FROM pg_event_trigger_dropped_objects() d
         WHERE NOT d.is_temporary AND d.address_names[1] IS DISTINCT FROM 'pg_temp'
           AND d.schema_name IS DISTINCT FROM 'pg_toast' AND d.schema_name IS DISTINCT FROM 'backwhen'
           AND NOT (d.object_type = 'publication' AND d.address_names[1] ~ '^backwhen_[0-9a-f]{12}(_inserts)?(_[0-9]+)?$'
                    OR d.object_type = 'publication relation' AND d.address_args[1] ~ '^backwhen_[0-9a-f]{12}(_inserts)?(_[0-9]+)?$'));
    -- The event does not always mark an object as temporary when it was dropped along with a temporary one.
    IF dropped && '{!original}' THEN
        kept := backwhen.{slot}_keep('dropped', dropped::text);
    END IF;
EXCEPTION WHEN statement_too_complex THEN
    RAISE;
WHEN OTHERS THEN
    NULL;
END
$body$;

-- Keeps for the end of the statement which tables are rewritten, and why: with other values for a default (2) or a
-- type (4).
CREATE OR REPLACE FUNCTION backwhen.{slot}_rewrite() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    kept text;
BEGIN
    kept := backwhen.{slot}_keep('rewritten', concat_ws(',', nullif(backwhen.{slot}_kept('rewritten'), ''),
        concat(pg_event_trigger_table_rewrite_oid(), '/', pg_event_trigger_table_rewrite_reason())));
EXCEPTION WHEN statement_too_complex THEN
    RAISE;
WHEN OTHERS THEN
    NULL;
END
$body$;

-- Runs at the end of a statement. If anything fails here, the statement still succeeds. The one exception is a
-- session whose stack is full: it may have recursed so deep that only its statement fits, and then the statement
-- fails.
CREATE OR REPLACE FUNCTION backwhen.{slot}_end() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER {pins} AS $body$
DECLARE
    context text;
    message text;
BEGIN
    GET DIAGNOSTICS context = PG_CONTEXT;
    BEGIN
        -- The role and the path are read as the arguments are evaluated: the statements of this call may fire the
        -- event that notes them again.
        message := backwhen.{slot}_tell(
            TG_TAG, current_setting('backwhen.{slot}_role', true), current_setting('backwhen.{slot}_path', true), context);
    EXCEPTION WHEN OTHERS THEN
        BEGIN
            -- The error has rolled back the settings that the call made meanwhile.
            message := backwhen.{slot}_trouble(TG_TAG, current_setting('backwhen.{slot}_role', true),
                current_setting('backwhen.{slot}_path', true), context, SQLSTATE, SQLERRM);
        EXCEPTION WHEN statement_too_complex THEN
            RAISE;
        WHEN OTHERS THEN
            NULL;
        END;
    END;
    -- This call stands outside the block above, whose subtransaction would otherwise need a transaction number for
    -- each statement.
    IF message IS NOT NULL AND pg_logical_emit_message(true, 'backwhen.ddl', message)
        > pg_logical_emit_message(true, 'backwhen.after', '') THEN
        NULL;
    END IF;
END
$body$;
