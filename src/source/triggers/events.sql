-- What the event triggers call. Nothing here may depend on the application's search_path, and none of
-- it may fail the application's statement.

-- An extension's script is the extension's own affair.
CREATE OR REPLACE FUNCTION backwhen.{slot}_start() RETURNS event_trigger LANGUAGE plpgsql AS $body$
BEGIN
    PERFORM pg_catalog.set_config('backwhen.{slot}_extension', 'on', true);
EXCEPTION WHEN OTHERS THEN
    NULL;
END
$body$;

-- Keeps for the end of the statement what it drops, which only this event tells.
CREATE OR REPLACE FUNCTION backwhen.{slot}_drop() RETURNS event_trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    dropped text[];
    kept text;
    counted bool;
BEGIN
    IF TG_TAG = 'ALTER PUBLICATION' THEN
        IF coalesce(current_setting('backwhen.own', true), '') <> 'publish'
           AND EXISTS (SELECT FROM pg_event_trigger_dropped_objects() d
                        WHERE d.object_type = 'publication relation' AND d.object_identity ~ ' in publication {slot}(_inserts)?$') THEN
            -- Not by PERFORM, which puts a line of its own into the context.
            counted := backwhen.{slot}_taken_out();
        END IF;
    END IF;
    dropped := ARRAY(
        SELECT ARRAY[d.classid::text, d.objid::text, d.objsubid::text, d.object_type, CASE WHEN d.original THEN '!original' ELSE '' END,
                     CASE WHEN d.original THEN d.address_names[cardinality(d.address_names)] END]
          FROM pg_event_trigger_dropped_objects() d
         WHERE NOT d.is_temporary AND d.object_identity NOT LIKE '% on pg\_temp%'
           AND d.schema_name IS DISTINCT FROM 'pg_toast' AND d.schema_name IS DISTINCT FROM 'backwhen'
           AND NOT (d.object_type IN ('publication', 'publication relation', 'publication namespace')
                    AND d.object_identity ~ '(^|in publication )backwhen_'));
    -- What came along with a temporary thing does not always say that it is one.
    IF dropped && '{!original}' THEN
        kept := set_config('backwhen.{slot}_dropped', dropped::text, true);
    END IF;
EXCEPTION WHEN OTHERS THEN
    NULL;
END
$body$;

-- Remembers that a table was taken out of our publications by somebody else, who may put it back before anybody
-- looks.
CREATE OR REPLACE FUNCTION backwhen.{slot}_taken_out() RETURNS bool LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    context text;
BEGIN
    GET DIAGNOSTICS context = PG_CONTEXT;
    IF backwhen.{slot}_is_translated(context) THEN
        context := backwhen.{slot}_context();
    END IF;
    IF backwhen.{slot}_is_trigger('{slot}_drop', context) THEN
        UPDATE backwhen.{slot}_config SET taken_out = taken_out + 1;
    END IF;
    RETURN FOUND;
END
$body$;

-- Keeps for the end of the statement which tables get other values: by a default (2) or a type (4).
CREATE OR REPLACE FUNCTION backwhen.{slot}_rewrite() RETURNS event_trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF pg_event_trigger_table_rewrite_reason() & 6 <> 0 THEN
        PERFORM set_config('backwhen.{slot}_rewritten',
                           concat_ws(',', nullif(current_setting('backwhen.{slot}_rewritten', true), ''),
                                     pg_event_trigger_table_rewrite_oid()), true);
    END IF;
EXCEPTION WHEN OTHERS THEN
    NULL;
END
$body$;

-- Runs as the application's role under its settings: so every call and operator here names its schema.
-- What it calls has another search_path, and is told this one.
CREATE OR REPLACE FUNCTION backwhen.{slot}_end() RETURNS event_trigger LANGUAGE plpgsql AS $body$
DECLARE
    message pg_catalog.text;
BEGIN
    -- Our own doing.
    IF pg_catalog.current_setting('backwhen.own', true) OPERATOR(pg_catalog.<>) ''
       AND (pg_catalog.current_setting('backwhen.own', true) OPERATOR(pg_catalog.=) 'install'
            OR pg_catalog.current_setting('backwhen.own', true) OPERATOR(pg_catalog.=) 'publish'
               AND TG_TAG OPERATOR(pg_catalog.=) 'ALTER PUBLICATION') THEN
        RETURN;
    END IF;
    BEGIN
        message := backwhen.{slot}_tell(TG_TAG, CURRENT_USER, pg_catalog.current_setting('search_path'));
    EXCEPTION WHEN OTHERS THEN
        BEGIN
            message := backwhen.{slot}_trouble(
                TG_TAG, CURRENT_USER, pg_catalog.current_setting('search_path'), SQLSTATE, SQLERRM);
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
    END;
    -- Not within the block above, whose subtransaction would then need a number of its own for each statement.
    IF message IS NOT NULL AND pg_catalog.pg_logical_emit_message(true, 'backwhen.ddl', message)
        OPERATOR(pg_catalog.>) pg_catalog.pg_logical_emit_message(true, 'backwhen.after', '') THEN
        NULL;
    END IF;
END
$body$;
