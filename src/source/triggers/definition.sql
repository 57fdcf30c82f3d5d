-- Describes the tables among some relations, after it has published those that should be: as the
-- catalogs have them now, and the tables whose rows must follow.
CREATE OR REPLACE FUNCTION backwhen.{slot}_protect(
    exact text, inserts text, relations oid[], rewritten oid[],
    OUT tables text[], OUT images oid[], OUT trouble text)
LANGUAGE plpgsql AS $body$
DECLARE
    encoding name := getdatabaseencoding();
    relation oid;
    space text;
    called text;
    persistence "char";
    identity "char";
    file oid;
    key int2[];
    publications text[];
    columns text[];
    described text;
    fitting text;
    placed record;
    published bool;
    image bool;
BEGIN
    tables := '{}';
    images := '{}';
    FOREACH relation IN ARRAY relations LOOP
        -- A function that asks the server's cache costs less than one more table in the query, and a list
        -- less than an aggregate.
        SELECT (parse_ident(c.relnamespace::regnamespace::text))[1], c.relname, c.relpersistence, c.relreplident, c.relfilenode,
               (SELECT (x.indkey::int2[])[0:x.indnkeyatts - 1] FROM pg_index x
                 WHERE x.indrelid = c.oid AND x.indimmediate AND x.indisvalid
                   AND CASE c.relreplident WHEN 'd' THEN x.indisprimary WHEN 'i' THEN x.indisreplident END LIMIT 1),
               ARRAY(SELECT (pg_identify_object('pg_publication'::regclass, r.prpubid, 0)).identity
                       FROM pg_publication_rel r WHERE r.prrelid = c.oid),
               ARRAY(SELECT CASE WHEN a.atthasmissing OR a.attgenerated <> '' THEN NULL
                            ELSE concat('{"number":', a.attnum, ',"name":', to_json(a.attname), ',"type":', a.atttypid,
                                        ',"modifier":', a.atttypmod, ',"type_name":', to_json(format_type(a.atttypid, a.atttypmod)),
                                        ',"definer":"', a.xmin, '"}') END
                       FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                      ORDER BY a.attnum)
          INTO space, called, persistence, identity, file, key, publications, columns
          FROM pg_class c
         WHERE c.oid = relation AND c.relkind = 'r' AND c.relpersistence <> 't';
        CONTINUE WHEN NOT FOUND OR space = 'information_schema' OR starts_with(space, 'pg_') OR space = 'backwhen';
        described := concat('{"oid":', relation, ',"schema":', to_json(space), ',"name":', to_json(called),
            ',"persistence":"', persistence, '","replica_identity":"', identity, '","file":', file, ',"identity":' || to_json(key));
        IF encoding <> 'UTF8' OR array_position(columns, NULL) IS NOT NULL THEN
            columns := backwhen.{slot}_columns(relation, encoding);
            described := described || backwhen.{slot}_raw_names(space, called, encoding);
            key := backwhen.{slot}_stored(relation, key);
        END IF;
        fitting := CASE WHEN key IS NOT NULL OR identity = 'f' THEN exact ELSE inserts END;
        IF publications = ARRAY[fitting] AND persistence = 'p' AND relation <> ALL (rewritten) THEN
            published := true;
            image := false;
        ELSE
            placed := backwhen.{slot}_place(relation, space, called, persistence = 'p', fitting = ANY (publications),
                CASE fitting WHEN exact THEN inserts ELSE exact END = ANY (publications), fitting = exact, relation = ANY (rewritten));
            published := placed.published;
            image := placed.image;
            trouble := concat_ws('; ', trouble, placed.trouble);
            IF image THEN
                images := array_append(images, relation);
            END IF;
        END IF;
        tables := array_append(tables, concat(described, ',"columns":[', array_to_string(columns, ','),
            '],"published":', published::text, ',"image":', image::text, '}'));
    END LOOP;
END
$body$;

-- Puts a table into the publication that fits it, and not into the other, if it is wanted in one.
CREATE OR REPLACE FUNCTION backwhen.{slot}_place(
    relation oid, space text, called text, permanent bool, in_fitting bool, in_other bool, exactly bool, rewritten bool,
    OUT published bool, OUT image bool, OUT trouble text)
LANGUAGE plpgsql AS $body$
DECLARE
    config backwhen.{slot}_config;
BEGIN
    SELECT * INTO config FROM backwhen.{slot}_config;
    published := in_fitting OR in_other;
    -- While it had no identity, its updates and deletes were not in the stream.
    image := rewritten OR exactly AND in_other OR NOT published AND pg_relation_size(relation) > 0;
    IF permanent AND NOT in_fitting AND backwhen.{slot}_wants(space, called, config)
       AND NOT backwhen.{slot}_is_of_extension(relation) THEN
        trouble := backwhen.{slot}_join(
            format('%I.%I', space, called), CASE WHEN exactly THEN config.exact ELSE config.inserts END,
            CASE WHEN exactly THEN config.inserts ELSE config.exact END, in_other);
        published := published OR trouble IS NULL;
    END IF;
    image := image AND published;
    IF image AND pg_table_size(relation) > config.image_limit THEN
        image := false;
        trouble := concat_ws('; ', trouble, format(
            'the rows of %I.%I are not written: it is larger than %s bytes', space, called, config.image_limit));
    END IF;
END
$body$;

-- A key, if the stream has it: of computed columns it has no old values.
CREATE OR REPLACE FUNCTION backwhen.{slot}_stored(relation oid, key int2[]) RETURNS int2[] LANGUAGE plpgsql AS $body$
BEGIN
    IF EXISTS (SELECT FROM pg_attribute a
                WHERE a.attrelid = relation AND a.attnum = ANY (key) AND a.attgenerated <> '') THEN
        RETURN NULL;
    END IF;
    RETURN key;
END
$body$;

CREATE OR REPLACE FUNCTION backwhen.{slot}_is_of_extension(relation oid) RETURNS bool LANGUAGE plpgsql AS $body$
BEGIN
    RETURN EXISTS (SELECT FROM pg_depend d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = relation AND d.deptype = 'e');
END
$body$;

-- The columns of a table of which some are computed or were added to rows, or have names in another encoding.
CREATE OR REPLACE FUNCTION backwhen.{slot}_columns(relation oid, encoding name) RETURNS text[] LANGUAGE plpgsql AS $body$
DECLARE
    utf8 bool := encoding = 'UTF8';
    missing text[] := backwhen.{slot}_missing(relation);
BEGIN
    RETURN ARRAY(SELECT json_build_object(
               'number', a.attnum, 'name', a.attname, 'type', a.atttypid::int8, 'modifier', a.atttypmod,
               'type_name', format_type(a.atttypid, a.atttypmod), 'generated', a.attgenerated <> '',
               'missing', missing[a.attnum], 'definer', a.xmin::text,
               'raw_missing', CASE WHEN NOT utf8 THEN encode(convert_to(missing[a.attnum], encoding), 'hex') END,
               'raw_name', CASE WHEN NOT utf8 THEN encode(convert_to(a.attname::text, encoding), 'hex') END)::text
              FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attnum);
END
$body$;

-- Schema and name of a table as the database has them, where that is not UTF-8.
CREATE OR REPLACE FUNCTION backwhen.{slot}_raw_names(space text, called text, encoding name) RETURNS text
LANGUAGE plpgsql AS $body$
BEGIN
    IF encoding = 'UTF8' THEN
        RETURN '';
    END IF;
    RETURN ',"raw_names":' || json_build_array(
        encode(convert_to(space, encoding), 'hex'), encode(convert_to(called, encoding), 'hex'));
END
$body$;

-- What rows written before a column was added have in it, by the number of the column.
CREATE OR REPLACE FUNCTION backwhen.{slot}_missing(relation oid) RETURNS text[] LANGUAGE plpgsql {values} AS $body$
BEGIN
    RETURN (SELECT array_agg(CASE WHEN a.atthasmissing THEN (a.attmissingval::text::text[])[1] END ORDER BY a.attnum)
              FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0);
END
$body$;

CREATE OR REPLACE FUNCTION backwhen.{slot}_wants(space text, called text, config backwhen.{slot}_config) RETURNS bool
LANGUAGE plpgsql AS $body$
BEGIN
    RETURN (cardinality(config.include_name) = 0
            OR backwhen.{slot}_fits(space, called, config.include_schema, config.include_name))
       AND (cardinality(config.exclude_name) = 0
            OR NOT backwhen.{slot}_fits(space, called, config.exclude_schema, config.exclude_name));
END
$body$;

CREATE OR REPLACE FUNCTION backwhen.{slot}_fits(space text, called text, schemas text[], names text[]) RETURNS bool
LANGUAGE plpgsql AS $body$
BEGIN
    RETURN EXISTS (SELECT FROM unnest(schemas, names) p(s, n) WHERE space LIKE p.s AND called LIKE p.n);
END
$body$;

-- The relation that something hangs on; NULL if it is none, and 0 if that one is temporary.
CREATE OR REPLACE FUNCTION backwhen.{slot}_hangs_on(catalog oid, object oid) RETURNS oid LANGUAGE plpgsql AS $body$
DECLARE
    relation oid;
BEGIN
    IF catalog = 'pg_class'::regclass THEN
        relation := (SELECT i.indrelid FROM pg_index i WHERE i.indexrelid = object);
    ELSIF catalog = 'pg_constraint'::regclass THEN
        relation := (SELECT nullif(k.conrelid, 0) FROM pg_constraint k WHERE k.oid = object);
    ELSIF catalog = 'pg_trigger'::regclass THEN
        relation := (SELECT g.tgrelid FROM pg_trigger g WHERE g.oid = object);
    ELSIF catalog = 'pg_policy'::regclass THEN
        relation := (SELECT p.polrelid FROM pg_policy p WHERE p.oid = object);
    ELSIF catalog = 'pg_rewrite'::regclass THEN
        relation := (SELECT r.ev_class FROM pg_rewrite r WHERE r.oid = object);
    END IF;
    IF relation IS NOT NULL THEN
        RETURN (SELECT CASE WHEN c.relpersistence = 't' THEN 0 ELSE c.oid END FROM pg_class c WHERE c.oid = relation);
    END IF;
    RETURN NULL;
END
$body$;

-- The end of a statement: whether there was something to tell. What the application does within a
-- transaction without that passes through here, so what is rare is asked for only where it can matter.
CREATE OR REPLACE FUNCTION backwhen.{slot}_tell(tag text, who text, path text) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER {pins} AS $body$
DECLARE
    context text;
    secret text;
    exact text;
    inserts text;
    objects text;
    relations oid[];
    types oid[];
    of_tables bool;
    more oid[];
    drops json;
    gone text;
    rewritten oid[] := '{}';
    statement text;
    protected record;
    image oid;
    done bool;
BEGIN
    GET DIAGNOSTICS context = PG_CONTEXT;
    context := substr(context, strpos(context, E'\n') + 1);
    IF starts_with(context, 'PL/pgSQL function backwhen.{slot}_end() ') AND strpos(context, E'\n') = 0 THEN
        -- The client sent it itself, as it nearly always does.
        context := '';
    ELSE
        GET DIAGNOSTICS context = PG_CONTEXT;
        IF backwhen.{slot}_is_translated(context) THEN
            context := backwhen.{slot}_context();
        END IF;
        IF NOT backwhen.{slot}_is_trigger(context) THEN
            RAISE EXCEPTION 'this function belongs to an event trigger';
        END IF;
        context := backwhen.{slot}_outer(context);
    END IF;
    -- What the statement's other events kept for its end.
    IF concat(current_setting('backwhen.{slot}_dropped', true), current_setting('backwhen.{slot}_rewritten', true),
              current_setting('backwhen.{slot}_extension', true)) <> '' OR tag = 'REINDEX' THEN
        drops := nullif(backwhen.{slot}_take('dropped'), '');
        rewritten := string_to_array(backwhen.{slot}_take('rewritten'), ',');
        IF tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN
            done := backwhen.{slot}_take('extension') = '';
        END IF;
        IF current_setting('backwhen.{slot}_extension', true) = 'on' OR tag = 'REINDEX' THEN
            RETURN false;
        END IF;
    END IF;

    -- What the statement made or changed outside of extensions, temporary schemas and our own things; with
    -- the relations that these are or hang on, and the types that they are.
    SELECT f.secret, f.exact, f.inserts, m.objects, coalesce(m.relations, '{}'), coalesce(m.types, '{}'), m.of_tables
      INTO secret, exact, inserts, objects, relations, types, of_tables
      FROM backwhen.{slot}_config f
     CROSS JOIN (
           SELECT string_agg(concat('{"catalog":"', o.classid::regclass, '","oid":', coalesce(o.objid, 0), ',"tag":"', o.command_tag,
                                    '","kind":"', o.object_type, '","identity":', to_json(coalesce(o.object_identity, '')), '}'), ',') AS objects,
                  array_agg(o.relation) FILTER (WHERE o.relation IS NOT NULL) AS relations,
                  array_agg(o.objid) FILTER (WHERE o.classid = 'pg_type'::regclass) AS types,
                  bool_or(o.relation IS NOT NULL AND (o.object_type LIKE 'table%' OR o.object_type LIKE 'index%')) AS of_tables
             FROM (SELECT o.classid, o.objid, o.command_tag, o.object_type, o.object_identity,
                          CASE WHEN o.schema_name IS NULL OR o.classid = 'pg_constraint'::regclass
                                 OR o.object_type LIKE 'index%' AND tag NOT IN ('CREATE INDEX', 'CREATE TABLE')
                               THEN backwhen.{slot}_hangs_on(o.classid, o.objid)
                               WHEN o.classid = 'pg_class'::regclass AND o.object_type <> 'sequence' THEN o.objid END AS relation
                     FROM pg_event_trigger_ddl_commands() o
                    WHERE (NOT o.in_extension OR o.classid = 'pg_extension'::regclass)
                      AND (o.schema_name IS NULL OR o.schema_name NOT IN ('pg_temp', 'pg_toast', 'pg_toast_temp', 'backwhen'))
                      AND NOT (o.object_type LIKE 'publication%' AND o.object_identity ~ '(^|in publication )backwhen_')
                   OFFSET 0) o
            WHERE o.relation IS DISTINCT FROM 0) m;
    IF objects IS NULL AND drops IS NULL AND tag <> 'DROP OWNED' THEN
        RETURN false;
    END IF;

    IF (tag LIKE 'ALTER %' OR tag = 'CREATE VIEW')
       AND (cardinality(relations) > 0 OR cardinality(types) > 0 OR tag IN ('ALTER SCHEMA', 'ALTER EXTENSION')) THEN
        more := backwhen.{slot}_affected(tag, relations, types);
        IF more IS NOT NULL THEN
            of_tables := true;
            relations := relations || more;
            rewritten := rewritten || backwhen.{slot}_retold(relations, types, context);
        END IF;
    END IF;
    IF drops IS NOT NULL THEN
        of_tables := true;
        relations := relations || array(SELECT json_array_elements_text(drops->'tables')::oid);
        -- Whatever somebody put there: what is still here is not dropped.
        gone := concat(',"dropped":', array_to_json(array(
            SELECT d::int8 FROM json_array_elements_text(drops->'relations') d
             WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = d::oid))),
            ',"dropped_names":' || (drops->'names')::text);
        IF (drops->>'keys')::bool THEN
            relations := relations
                || backwhen.{slot}_keyless(exact, tag NOT IN ('DROP TABLE', 'DROP INDEX', 'ALTER TABLE'));
        END IF;
    END IF;
    statement := backwhen.{slot}_statement(who, path, context);
    -- A column that is computed no more keeps values that the stream never carried.
    IF tag = 'ALTER TABLE' AND concat(current_query(), context) ~* 'drop\s+expression' THEN
        rewritten := rewritten || relations;
    END IF;
    -- What these make changes nothing that a table's rows depend on.
    IF of_tables IS NOT TRUE OR cardinality(relations) = 0
       OR tag IN ('COMMENT', 'SECURITY LABEL', 'CREATE INDEX', 'CREATE STATISTICS', 'ALTER STATISTICS',
                  'CREATE TRIGGER', 'ALTER TRIGGER', 'CREATE POLICY', 'ALTER POLICY', 'CREATE RULE', 'ALTER RULE') THEN
        RETURN backwhen.{slot}_write(secret, tag, statement, objects, '', gone, NULL);
    END IF;
    IF cardinality(relations) > 1 THEN
        relations := array(SELECT DISTINCT r FROM unnest(relations) r ORDER BY r);
    END IF;
    protected := backwhen.{slot}_protect(exact, inserts, relations, rewritten);
    IF cardinality(protected.images) = 0 THEN
        RETURN backwhen.{slot}_write(
            secret, tag, statement, objects, array_to_string(protected.tables, ','), gone, protected.trouble);
    END IF;
    BEGIN
        done := backwhen.{slot}_write(
            secret, tag, statement, objects, array_to_string(protected.tables, ','), gone, protected.trouble);
        FOREACH image IN ARRAY protected.images LOOP
            done := backwhen.{slot}_rows(secret, image);
        END LOOP;
    EXCEPTION WHEN OTHERS THEN
        done := backwhen.{slot}_write(secret, tag, statement, objects, backwhen.{slot}_without_images(protected.tables), gone,
            concat_ws('; ', protected.trouble, format('rows cannot be read: %s: %s', SQLSTATE, SQLERRM)));
    END;
    RETURN true;
END
$body$;

CREATE OR REPLACE FUNCTION backwhen.{slot}_without_images(tables text[]) RETURNS text LANGUAGE plpgsql AS $body$
BEGIN
    RETURN (SELECT string_agg(regexp_replace(t, ',"image":true}$', ',"image":false}'), ',') FROM unnest(tables) t);
END
$body$;

-- The end of a statement that could not be told: that much is said at least.
CREATE OR REPLACE FUNCTION backwhen.{slot}_trouble(tag text, who text, path text, code text, message text)
RETURNS bool LANGUAGE plpgsql SECURITY DEFINER {pins} AS $body$
DECLARE
    secret text;
    context text;
    statement text;
BEGIN
    GET DIAGNOSTICS context = PG_CONTEXT;
    IF backwhen.{slot}_is_translated(context) THEN
        context := backwhen.{slot}_context();
    END IF;
    SELECT c.secret INTO secret FROM backwhen.{slot}_config c;
    PERFORM backwhen.{slot}_take('dropped'), backwhen.{slot}_take('rewritten');
    IF tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN
        PERFORM backwhen.{slot}_take('extension');
    END IF;
    IF backwhen.{slot}_is_trigger(context) THEN
        statement := backwhen.{slot}_statement(who, path, backwhen.{slot}_outer(context));
    ELSE
        -- Somebody may have called this by hand, or have our schema in their search_path.
        statement := json_build_object(
            'query', '', 'started', 0, 'process', pg_backend_pid(), 'role', '', 'login', session_user::text);
    END IF;
    RETURN backwhen.{slot}_write(secret, tag, statement, '', '', '', format('%s: %s', code, message));
END
$body$;
