-- What writes the messages, as the role that installed it. Names are safe here, and values come out as
-- they do in the stream.

-- A message under the history's seal.
CREATE OR REPLACE FUNCTION backwhen.{slot}_emit(config backwhen.{slot}_config, prefix text, body bytea) RETURNS pg_lsn
LANGUAGE plpgsql AS $body$
DECLARE
    secret bytea := convert_to(config.secret, 'UTF8');
    written pg_lsn;
    after pg_lsn;
BEGIN
    written := pg_logical_emit_message(
        true, prefix, convert_to(encode(sha256(secret || body || secret), 'hex') || E'\n', 'UTF8') || body);
    -- The server sorts a transaction's messages by the end of their records and its rows by the start of
    -- theirs, so that of two subtransactions the row after a message may come first. With another record
    -- between them it cannot.
    after := pg_logical_emit_message(true, 'backwhen.after', '');
    RETURN written;
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
DECLARE
    line text := split_part(context, E'\n', 2);
BEGIN
    -- As it nearly always is; the pattern takes ten times as long.
    RETURN starts_with(line, 'PL/pgSQL function backwhen.{slot}_end() ')
        OR line ~ '^[[:alpha:]/ -]* (backwhen\.{slot}_end|"backwhen"\."{slot}_end")\(\) ';
END
$body$;

-- Whether the words of a context may be another language's, which a recovery could not read.
CREATE OR REPLACE FUNCTION backwhen.{slot}_is_translated(context text) RETURNS bool LANGUAGE plpgsql AS $body$
BEGIN
    RETURN NOT starts_with(context, 'PL/pgSQL function ')
        OR current_setting('lc_messages') NOT IN ('C', 'POSIX') AND current_setting('lc_messages') NOT LIKE 'en\_%';
END
$body$;

-- The caller's context once more, in English. To set the language at each statement would take longer.
CREATE OR REPLACE FUNCTION backwhen.{slot}_context() RETURNS text LANGUAGE plpgsql {english} AS $body$
DECLARE
    context text;
BEGIN
    GET DIAGNOSTICS context = PG_CONTEXT;
    RETURN substr(context, strpos(context, E'\n') + 1);
END
$body$;

CREATE OR REPLACE FUNCTION backwhen.{slot}_statement(who text, settings json, context text) RETURNS json
LANGUAGE plpgsql AS $body$
DECLARE
    query text := current_query();
    message text;
BEGIN
    -- A long script is not written again for each of its statements.
    IF length(query) > 65536 THEN
        message := pg_backend_pid() || ' ' || extract(epoch FROM statement_timestamp());
        IF current_setting('backwhen.{slot}_query', true) = message THEN
            query := '';
        END IF;
        PERFORM set_config('backwhen.{slot}_query', message, true);
    END IF;
    RETURN json_build_object(
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
DECLARE
    reached oid[];
BEGIN
    WITH RECURSIVE below(relation) AS (
        SELECT unnest(relations)
        UNION
        SELECT i.inhrelid FROM below JOIN pg_inherits i ON i.inhparent = below.relation)
    SELECT array_agg(relation) INTO reached FROM below;
    RETURN reached;
END
$body$;

-- Tables with a column of one of these types or of these relations' row types, also inside of arrays,
-- domains, ranges and composites; NULL if there are none.
CREATE OR REPLACE FUNCTION backwhen.{slot}_using(types oid[], relations oid[]) RETURNS oid[] LANGUAGE plpgsql AS $body$
DECLARE
    users oid[];
BEGIN
    WITH RECURSIVE used(type) AS (
        (SELECT unnest(types) UNION ALL SELECT c.reltype FROM pg_class c WHERE c.oid = ANY (relations))
        UNION
        SELECT CASE d.classid WHEN 'pg_type'::regclass THEN d.objid
                              ELSE (SELECT c.reltype FROM pg_class c WHERE c.oid = d.objid) END
          FROM used JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = used.type
         WHERE d.classid IN ('pg_type'::regclass, 'pg_class'::regclass))
    SELECT array_agg(DISTINCT u.objid) INTO users
      FROM used CROSS JOIN LATERAL (
           -- Read by its index, type by type.
           SELECT d.objid FROM pg_depend d
            WHERE d.refclassid = 'pg_type'::regclass AND d.refobjid = used.type
              AND d.classid = 'pg_class'::regclass AND d.objsubid > 0
           OFFSET 0) u;
    RETURN users;
END
$body$;

-- Changes the publications, without waiting long for whoever holds them.
CREATE OR REPLACE FUNCTION backwhen.{slot}_publish(statements text[]) RETURNS bool LANGUAGE plpgsql
SET lock_timeout = '200ms' AS $body$
DECLARE
    statement text;
BEGIN
    PERFORM set_config('backwhen.own', 'publish', true);
    FOREACH statement IN ARRAY statements LOOP
        EXECUTE statement;
    END LOOP;
    PERFORM set_config('backwhen.own', '', true);
    RETURN true;
END
$body$;

-- What the statement's other events kept for its end, given out once.
CREATE OR REPLACE FUNCTION backwhen.{slot}_take(key text) RETURNS text LANGUAGE plpgsql AS $body$
DECLARE
    value text := current_setting('backwhen.{slot}_' || key, true);
    emptied text;
BEGIN
    IF value <> '' THEN
        emptied := set_config('backwhen.{slot}_' || key, '', true);
    END IF;
    RETURN coalesce(value, '');
END
$body$;


CREATE OR REPLACE FUNCTION backwhen.{slot}_write(
    config backwhen.{slot}_config, tag text, statement json, objects json, tables json[], dropped int8[], trouble text)
RETURNS bool LANGUAGE plpgsql AS $body$
BEGIN
    RETURN backwhen.{slot}_emit(config, 'backwhen.ddl', backwhen.{slot}_utf8(json_build_object(
        'tag', tag, 'statement', statement, 'objects', coalesce(objects, '[]'), 'tables', array_to_json(tables),
        'dropped', array_to_json(dropped),
        'dropped_names', coalesce(nullif(backwhen.{slot}_take('names'), '')::json, '[]'), 'trouble', nullif(trouble, ''))::text)) IS NOT NULL;
END
$body$;

-- A table as the message has it.
CREATE OR REPLACE FUNCTION backwhen.{slot}_table(found record, published bool, image bool) RETURNS json
LANGUAGE plpgsql AS $body$
DECLARE
    encoding name := getdatabaseencoding();
BEGIN
    RETURN json_build_object(
        'oid', found.oid::int8, 'schema', found.nspname, 'name', found.relname, 'persistence', found.relpersistence,
        'replica_identity', found.relreplident, 'file', found.relfilenode, 'identity', to_json(found.key),
        'of_extension', found.of_extension, 'columns', found.columns,
        'raw_names', CASE WHEN encoding <> 'UTF8' THEN json_build_array(
            encode(convert_to(found.nspname::text, encoding), 'hex'),
            encode(convert_to(found.relname::text, encoding), 'hex')) END,
        'published', published, 'image', image);
END
$body$;
