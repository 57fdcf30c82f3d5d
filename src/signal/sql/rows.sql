-- Formats a value as COPY writes it; NULL stays NULL.
CREATE OR REPLACE FUNCTION backwhen.{slot}_line(relation oid) RETURNS text LANGUAGE plpgsql AS $body$
DECLARE
    -- Numbers, times and similar types have nothing to escape.
    plain oid[] := '{bool,int8,int2,int4,oid,float4,float8,numeric,date,time,timestamp,timestamptz,timetz,interval,uuid}'::regtype[]::oid[];
    -- The backslash itself is escaped first.
    escapes text[] := ARRAY[E'\\', E'\\\\', E'\b', E'\\b', E'\f', E'\\f', E'\n', E'\\n', E'\r', E'\\r', E'\t', E'\\t', E'\x0b', E'\\v'];
    opened text := '';
    closed text := '';
BEGIN
    FOR i IN 1..7 LOOP
        opened := 'replace(' || opened;
        closed := closed || format(', %L, %L)', escapes[2 * i - 1], escapes[2 * i]);
    END LOOP;
    -- Within dollar quotes, a backslash means the same under every setting of the session.
    RETURN (SELECT format($line$array_to_string(ARRAY[%s]::text[], E'\t', E'\\N') || E'\n'$line$,
        string_agg(CASE WHEN a.atttypid = ANY (plain)
                        THEN format('CASE WHEN num_nulls(%1$I) = 0 THEN format(''%%s'', %1$I) END', a.attname)
                        ELSE format('CASE WHEN num_nulls(%1$I) = 0 THEN %2$sformat(''%%s'', %1$I)%3$s END', a.attname, opened, closed)
                   END, ', ' ORDER BY a.attnum))
       FROM pg_attribute a
      WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '');
END
$body$;

-- Writes all rows of a table, in messages of about 1 MiB.
CREATE OR REPLACE FUNCTION backwhen.{slot}_rows(relation oid) RETURNS bool LANGUAGE plpgsql
{values} SET row_security = off SET enable_seqscan = on AS $body$
DECLARE
    line text;
    lines text[] := '{}';
    size int8 := 0;
    first text := 't';
    written pg_lsn;
BEGIN
    FOR line IN EXECUTE format('SELECT %s FROM ONLY %s', backwhen.{slot}_line(relation), relation::regclass) LOOP
        IF size >= 1048576 THEN
            written := backwhen.{slot}_lines(relation, first, lines);
            lines := '{}';
            size := 0;
            first := 'f';
        END IF;
        lines := array_append(lines, line);
        size := size + octet_length(line);
    END LOOP;
    written := backwhen.{slot}_lines(relation, first, lines);
    RETURN true;
END
$body$;

CREATE OR REPLACE FUNCTION backwhen.{slot}_lines(relation oid, first text, lines text[])
RETURNS pg_lsn LANGUAGE plpgsql AS $body$
BEGIN
    RETURN backwhen.{slot}_emit('backwhen.rows', convert_to(
        format(E'%s %s\n', relation, first) || array_to_string(lines, ''), getdatabaseencoding()));
END
$body$;
