-- These functions write the messages, as the role that installed them. Names are set to be safe here, and values are
-- formatted as the stream formats them.

-- Signs a body with the history's key. The signature holds for this transaction alone: HMAC-SHA256 of prefix,
-- transaction and body. The message begins with "2 ", the digest, the transaction and a line end.
CREATE OR REPLACE FUNCTION backwhen.{slot}_signed(prefix text, body bytea) RETURNS bytea LANGUAGE plpgsql AS $body$
DECLARE
    inner_key bytea;
    outer_key bytea;
    transaction text := pg_current_xact_id()::text;
BEGIN
    SELECT f.inner_key, f.outer_key INTO inner_key, outer_key FROM backwhen.{slot}_config f;
    RETURN convert_to(concat('2 ', encode(sha256(outer_key || sha256(
        inner_key || convert_to(concat(prefix, E'\n', transaction, E'\n'), 'UTF8') || body)), 'hex'), ' ', transaction, E'\n'), 'UTF8') || body;
END
$body$;

-- Writes a signed message.
CREATE OR REPLACE FUNCTION backwhen.{slot}_emit(prefix text, body bytea) RETURNS pg_lsn LANGUAGE plpgsql AS $body$
DECLARE
    written pg_lsn;
    after pg_lsn;
BEGIN
    written := pg_logical_emit_message(true, prefix, backwhen.{slot}_signed(prefix, body));
    -- The server sorts a transaction's messages by the end of their WAL records and its rows by the start of theirs,
    -- so in two subtransactions the row after a message may be decoded first. Another record between message and row
    -- prevents this.
    after := pg_logical_emit_message(true, 'backwhen.after', '');
    RETURN written;
END
$body$;

-- Keeps a text for a later event of this transaction, in a setting. Any session may set that setting too, so the text
-- is signed; it is in hexadecimal, so that the server refuses no character of it.
CREATE OR REPLACE FUNCTION backwhen.{slot}_keep(key text, content text) RETURNS text LANGUAGE plpgsql AS $body$
BEGIN
    RETURN set_config('backwhen.{slot}_' || key, convert_from(backwhen.{slot}_signed(
        'backwhen.' || key, convert_to(encode(convert_to(content, 'SQL_ASCII'), 'hex'), 'SQL_ASCII')), 'SQL_ASCII'), true);
END
$body$;

-- Returns the text that an earlier event of this transaction kept; empty if no event kept one, or if somebody else
-- set the setting.
CREATE OR REPLACE FUNCTION backwhen.{slot}_kept(key text) RETURNS text LANGUAGE plpgsql AS $body$
DECLARE
    kept text := current_setting('backwhen.{slot}_' || key, true);
    content text;
BEGIN
    IF kept <> '' THEN
        content := substr(kept, strpos(kept, E'\n') + 1);
        IF convert_to(kept, 'SQL_ASCII') = backwhen.{slot}_signed('backwhen.' || key, convert_to(content, 'SQL_ASCII')) THEN
            RETURN convert_from(decode(content, 'hex'), getdatabaseencoding());
        END IF;
    END IF;
    RETURN '';
END
$body$;

-- Returns the kept text, and clears it.
CREATE OR REPLACE FUNCTION backwhen.{slot}_take(key text) RETURNS text LANGUAGE plpgsql AS $body$
DECLARE
    content text := backwhen.{slot}_kept(key);
    emptied text := set_config('backwhen.{slot}_' || key, '', true);
BEGIN
    RETURN content;
END
$body$;

-- Whether backwhen runs the statement: one of its sessions, or a function of its triggers.
CREATE OR REPLACE FUNCTION backwhen.{slot}_is_own() RETURNS bool LANGUAGE plpgsql AS $body$
BEGIN
    RETURN backwhen.{slot}_kept('joining') = 'on'
        OR EXISTS (SELECT FROM backwhen.{slot}_config f WHERE f.own = pg_current_xact_id());
END
$body$;

-- Converts text of the database to UTF-8. Where the database has no known encoding and the bytes are not UTF-8, each
-- byte becomes the letter of that number.
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

-- The context of the event trigger's function without the function's own lines. The server's wording may be in
-- another language, which a recovery could not read; setting the language at each statement would take longer.
CREATE OR REPLACE FUNCTION backwhen.{slot}_caller(context text) RETURNS text LANGUAGE plpgsql AS $body$
BEGIN
    IF current_setting('lc_messages') NOT IN ('C', 'POSIX') AND NOT starts_with(current_setting('lc_messages'), 'en_') THEN
        context := backwhen.{slot}_context();
        -- These are this function's own two lines, and the caller's.
        FOR line IN 1..3 LOOP
            context := substr(context, strpos(context, E'\n') + 1);
        END LOOP;
    END IF;
    RETURN substr(context, length(split_part(context, E'\n', 1)) + 2);
END
$body$;

CREATE OR REPLACE FUNCTION backwhen.{slot}_context() RETURNS text LANGUAGE plpgsql {english} AS $body$
DECLARE
    context text;
BEGIN
    GET DIAGNOSTICS context = PG_CONTEXT;
    RETURN context;
END
$body$;

-- Builds a signed DefinitionSignal of version 2 for the event trigger to write. Returns NULL if this function has
-- written the message itself, because rows follow it. The JSON is concatenated from text and lists, since the
-- functions that build JSON objects look up the type of each value at each call. `objects` has one row for each
-- object. `told` is what the message says of tables: the elements of a list, the oids of the tables whose rows
-- follow, and what could not be done. `gone` holds members of the JSON object.
CREATE OR REPLACE FUNCTION backwhen.{slot}_message(
    inner_key bytea, outer_key bytea, tag text, who text, path text, context text, objects text[], told text[], gone text)
RETURNS text LANGUAGE plpgsql AS $body$
DECLARE
    message text := concat('[2,', to_json(ARRAY[tag, CASE WHEN octet_length(current_query()) > 4096 THEN backwhen.{slot}_query() ELSE current_query() END,
            coalesce(context, ''), coalesce(who, ''), session_user, coalesce(path, ''),
            current_setting('check_function_bodies'), current_setting('default_tablespace'),
            current_setting('default_table_access_method'), current_setting('default_toast_compression'),
            current_setting('standard_conforming_strings'), current_setting('array_nulls'),
            current_setting('transform_null_equals'), current_setting('xmloption'), current_setting('datestyle'),
            current_setting('intervalstyle'), current_setting('timezone'), current_setting('lc_monetary'),
            current_setting('bytea_output'), current_setting('extra_float_digits'), current_setting('backslash_quote')]),
        ',', (date_part('epoch', statement_timestamp()) * 1000000)::int8, ',', pg_backend_pid(), ',', to_json(objects), ',[', told[1],
        '],{"trouble":', coalesce(to_json(told[3])::text, 'null'), gone, ',"retold":' || told[4], '}]');
BEGIN
    RETURN CASE WHEN told[2] IS NULL AND getdatabaseencoding() = 'UTF8' AND octet_length(message) < 67108864
        THEN concat('2 ', encode(sha256(outer_key || sha256(inner_key || convert_to(
                concat('backwhen.ddl', E'\n', pg_current_xact_id(), E'\n', message), 'UTF8'))), 'hex'), ' ', pg_current_xact_id(), E'\n', message)
        WHEN told[2] IS NULL THEN backwhen.{slot}_written(message)
        ELSE backwhen.{slot}_with_rows(message, told[2]) END;
END
$body$;

-- The text of a long script is sent once, not again for each of its statements.
CREATE OR REPLACE FUNCTION backwhen.{slot}_query() RETURNS text LANGUAGE plpgsql AS $body$
DECLARE
    message text := concat(pg_backend_pid(), ' ', extract(epoch FROM statement_timestamp()));
BEGIN
    IF backwhen.{slot}_kept('query') = message THEN
        RETURN '';
    END IF;
    message := backwhen.{slot}_keep('query', message);
    RETURN current_query();
END
$body$;

-- Returns these tables and all tables below them, by inheritance or as partitions.
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

-- Returns the tables with a column of one of these types or of these relations' row types, also inside arrays,
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
           -- This subquery makes the server use the index, type by type.
           SELECT d.objid FROM pg_depend d
            WHERE d.refclassid = 'pg_type'::regclass AND d.refobjid = used.type
              AND d.classid = 'pg_class'::regclass AND d.objsubid > 0
           OFFSET 0) u;
    RETURN users;
END
$body$;

-- Writes a message itself, where the event trigger is not to write it.
CREATE OR REPLACE FUNCTION backwhen.{slot}_written(message text) RETURNS text LANGUAGE plpgsql AS $body$
DECLARE
    written pg_lsn;
BEGIN
    written := backwhen.{slot}_emit('backwhen.ddl', backwhen.{slot}_utf8(message));
    RETURN NULL;
END
$body$;
