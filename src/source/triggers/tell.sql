-- What writes the messages, as the role that installed it. Names are safe here, and values come out as
-- they do in the stream.

-- A message under the history's seal.
CREATE OR REPLACE FUNCTION backwhen.{slot}_emit(prefix text, body bytea) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
    secret bytea := convert_to((SELECT c.secret FROM backwhen.{slot}_config c), 'UTF8');
BEGIN
    PERFORM pg_logical_emit_message(
        true, prefix, convert_to(encode(sha256(secret || body || secret), 'hex') || E'\n', 'UTF8') || body);
    -- The server sorts a transaction's messages by the end of their records and its rows by the start of
    -- theirs, so that of two subtransactions the row after a message may come first. With another record
    -- between them it cannot.
    PERFORM pg_logical_emit_message(true, 'backwhen.after', '');
END
$body$;

-- Text of the database as UTF-8. Where it knows no encoding and the bytes are no UTF-8, each stands
-- for the letter of that number.
CREATE OR REPLACE FUNCTION backwhen.{slot}_utf8(content text) RETURNS bytea LANGUAGE plpgsql AS $body$
BEGIN
    IF getdatabaseencoding() = 'SQL_ASCII' THEN
        BEGIN
            PERFORM convert_from(convert_to(content, 'SQL_ASCII'), 'UTF8');
        EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
            RETURN convert(convert_to(content, 'SQL_ASCII'), 'LATIN1', 'UTF8');
        END;
    END IF;
    RETURN convert_to(content, 'UTF8');
END
$body$;

-- The caller is the event trigger's function, so its arguments can be believed. The name of a function
-- that stands elsewhere could not begin with this schema's.
CREATE OR REPLACE FUNCTION backwhen.{slot}_is_trigger(context text) RETURNS bool LANGUAGE plpgsql AS $body$
BEGIN
    RETURN split_part(context, E'\n', 2) ~ '^[[:alpha:]/ -]* backwhen\.{slot}_end\(\) ';
END
$body$;

CREATE OR REPLACE FUNCTION backwhen.{slot}_statement(who text, settings json, context text) RETURNS jsonb
LANGUAGE plpgsql AS $body$
DECLARE
    query text := current_query();
    message text := pg_backend_pid() || ' ' || statement_timestamp();
BEGIN
    -- A long script is not written again for each of its statements.
    IF length(query) > 65536 THEN
        IF current_setting('backwhen.{slot}_query', true) = message THEN
            query := '';
        END IF;
        PERFORM set_config('backwhen.{slot}_query', message, true);
    END IF;
    RETURN jsonb_build_object(
        'query', query,
        -- Without our own two frames.
        'context', substr(context, length(split_part(context, E'\n', 1)) + length(split_part(context, E'\n', 2)) + 3),
        'started', (extract(epoch FROM statement_timestamp()) * 1000000)::int8,
        'process', pg_backend_pid(),
        'role', who,
        'login', session_user::text,
        'settings', settings);
END
$body$;

-- Tables below these, by inheritance or as partitions, and these.
CREATE OR REPLACE FUNCTION backwhen.{slot}_below(relations oid[]) RETURNS oid[] LANGUAGE plpgsql AS $body$
BEGIN
    RETURN array(WITH RECURSIVE below(relation) AS (
        SELECT unnest(relations)
        UNION
        SELECT i.inhrelid FROM below JOIN pg_inherits i ON i.inhparent = below.relation)
    SELECT relation FROM below);
END
$body$;

-- Tables with a column of one of these types, also inside of arrays, domains, ranges and composites.
CREATE OR REPLACE FUNCTION backwhen.{slot}_using(types oid[]) RETURNS oid[] LANGUAGE plpgsql AS $body$
BEGIN
    RETURN array(WITH RECURSIVE used(type) AS (
        SELECT unnest(types)
        UNION
        SELECT CASE d.classid WHEN 'pg_type'::regclass THEN d.objid
                              ELSE (SELECT c.reltype FROM pg_class c WHERE c.oid = d.objid) END
          FROM used JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = used.type
         WHERE d.classid IN ('pg_type'::regclass, 'pg_class'::regclass))
    SELECT DISTINCT d.objid
      FROM used JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = used.type
     WHERE d.classid = 'pg_class'::regclass AND d.objsubid > 0);
END
$body$;

CREATE OR REPLACE FUNCTION backwhen.{slot}_wants(space text, named text, config backwhen.{slot}_config) RETURNS bool
LANGUAGE plpgsql AS $body$
BEGIN
    RETURN (cardinality(config.include_name) = 0 OR EXISTS (
                SELECT FROM unnest(config.include_schema, config.include_name) p(s, n)
                 WHERE space LIKE p.s AND named LIKE p.n))
       AND NOT EXISTS (
                SELECT FROM unnest(config.exclude_schema, config.exclude_name) p(s, n)
                 WHERE space LIKE p.s AND named LIKE p.n);
END
$body$;

-- A table as the catalogs have it now, with its columns.
CREATE OR REPLACE FUNCTION backwhen.{slot}_columns(relation oid) RETURNS jsonb LANGUAGE plpgsql AS $body$
BEGIN
    RETURN (SELECT coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
            'number', a.attnum,
            'name', a.attname,
            'type', a.atttypid::int8,
            'modifier', a.atttypmod,
            'type_name', format_type(a.atttypid, a.atttypmod),
            'generated', a.attgenerated <> '',
            'missing', CASE WHEN a.atthasmissing THEN (a.attmissingval::text::text[])[1] END,
            'definer', a.xmin::text,
            'raw_name', CASE WHEN getdatabaseencoding() <> 'UTF8'
                             THEN encode(convert_to(a.attname::text, getdatabaseencoding()), 'hex') END))
            ORDER BY a.attnum), '[]')
       FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped);
END
$body$;

-- Which of a history's publications a change is made to, without waiting long for whoever holds it.
CREATE OR REPLACE FUNCTION backwhen.{slot}_publish(statements text[]) RETURNS void LANGUAGE plpgsql
SET lock_timeout = '200ms' AS $body$
DECLARE
    statement text;
BEGIN
    PERFORM set_config('backwhen.own', 'publish', true);
    FOREACH statement IN ARRAY statements LOOP
        EXECUTE statement;
    END LOOP;
    PERFORM set_config('backwhen.own', '', true);
END
$body$;
