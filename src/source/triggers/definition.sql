-- Describes the tables among some relations, after it has published those that should be: as the
-- catalogs have them now, the same without images, and the tables whose rows must follow.
CREATE OR REPLACE FUNCTION backwhen.{slot}_protect(
    config backwhen.{slot}_config, relations oid[], rewritten oid[],
    OUT tables json[], OUT imageless json[], OUT images oid[], OUT trouble text)
LANGUAGE plpgsql AS $body$
DECLARE
    encoding name := getdatabaseencoding();
    utf8 bool := encoding = 'UTF8';
    found record;
    refused text;
    named text;
    published bool;
    image bool;
    described json;
BEGIN
    tables := '{}';
    imageless := '{}';
    images := '{}';
    FOR found IN
        SELECT c.oid, n.nspname, c.relname, c.relpersistence::text,
               c.relreplident::text, c.relfilenode::int8, e.of_extension, i.key, m.in_exact, m.in_inserts, a.columns,
               c.relreplident = 'f' OR cardinality(i.key) > 0 AND NOT i.key && a.generated AS exact
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
          LEFT JOIN LATERAL (
               SELECT (x.indkey::int2[])[0:x.indnkeyatts - 1] AS key FROM pg_index x
                WHERE x.indrelid = c.oid AND x.indimmediate AND x.indisvalid
                  AND CASE c.relreplident WHEN 'd' THEN x.indisprimary WHEN 'i' THEN x.indisreplident END
                LIMIT 1) i ON true
         CROSS JOIN LATERAL (
               SELECT coalesce(bool_or(d.deptype = 'e'), false) AS of_extension FROM pg_depend d
                WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid) e
         CROSS JOIN LATERAL (
               SELECT coalesce(bool_or(p.pubname = config.exact), false) AS in_exact,
                      coalesce(bool_or(p.pubname = config.inserts), false) AS in_inserts
                 FROM pg_publication_rel pr JOIN pg_publication p ON p.oid = pr.prpubid WHERE pr.prrelid = c.oid) m
         CROSS JOIN LATERAL (
               SELECT CASE WHEN EXISTS (SELECT FROM pg_attribute h WHERE h.attrelid = c.oid AND h.atthasmissing)
                           THEN backwhen.{slot}_missing(c.oid) END AS missing
               OFFSET 0) old
         CROSS JOIN LATERAL (
               SELECT coalesce(array_agg(a.attnum) FILTER (WHERE a.attgenerated <> ''), '{}') AS generated,
                      coalesce(json_agg(json_build_object(
                          'number', a.attnum, 'name', a.attname, 'type', a.atttypid::int8, 'modifier', a.atttypmod,
                          'type_name', format_type(a.atttypid, a.atttypmod), 'generated', a.attgenerated <> '',
                          'missing', old.missing[a.attnum],
                          'raw_missing', CASE WHEN NOT utf8
                              THEN encode(convert_to(old.missing[a.attnum], encoding), 'hex') END,
                          'definer', a.xmin::text,
                          'raw_name', CASE WHEN NOT utf8 THEN encode(convert_to(a.attname::text, encoding), 'hex') END)
                          ORDER BY a.attnum), '[]') AS columns
                 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) a
         WHERE c.oid = ANY (relations) AND c.relkind = 'r' AND c.relpersistence <> 't'
           AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND n.nspname <> 'backwhen'
    LOOP
        published := found.in_exact OR found.in_inserts;
        -- While it had no identity, its updates and deletes were not in the stream.
        image := found.oid = ANY (rewritten) OR found.exact AND found.in_inserts
            OR NOT published AND pg_relation_size(found.oid) > 0;
        IF found.relpersistence = 'p' AND NOT found.of_extension
           AND NOT (CASE WHEN found.exact THEN found.in_exact ELSE found.in_inserts END)
           AND backwhen.{slot}_wants(found.nspname, found.relname, config) THEN
            named := format('%I.%I', found.nspname, found.relname);
            refused := CASE WHEN found.exact
                THEN backwhen.{slot}_join(named, config.exact, config.inserts, found.in_inserts)
                ELSE backwhen.{slot}_join(named, config.inserts, config.exact, found.in_exact) END;
            trouble := concat_ws('; ', trouble, refused);
            published := published OR refused IS NULL;
        END IF;
        image := image AND published;
        IF image AND pg_table_size(found.oid) > config.image_limit THEN
            image := false;
            trouble := concat_ws('; ', trouble, format(
                'the rows of %I.%I are not written: it is larger than %s bytes', found.nspname, found.relname, config.image_limit));
        END IF;
        described := backwhen.{slot}_table(found, published, false);
        imageless := array_append(imageless, described);
        IF image THEN
            images := array_append(images, found.oid);
            described := backwhen.{slot}_table(found, published, true);
        END IF;
        tables := array_append(tables, described);
    END LOOP;
END
$body$;

-- What rows written before a column was added have in it, by the number of the column.
CREATE OR REPLACE FUNCTION backwhen.{slot}_missing(relation oid) RETURNS text[] LANGUAGE plpgsql {values} AS $body$
BEGIN
    RETURN (SELECT array_agg(CASE WHEN a.atthasmissing THEN (a.attmissingval::text::text[])[1] END ORDER BY a.attnum)
              FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0);
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

-- What the statement made or changed outside of extensions, temporary schemas and our own things; NULL
-- if that is nothing. With the relations that these are or hang on, and the types that they are. Small
-- questions, asked where they can matter: a query for all of it would take longer than most statements.
CREATE OR REPLACE FUNCTION backwhen.{slot}_made(OUT objects json[], OUT relations oid[], OUT types oid[], OUT of_tables bool)
LANGUAGE plpgsql AS $body$
DECLARE
    made record;
    relation oid;
    kind text;
    persistence text;
BEGIN
    relations := '{}';
    types := '{}';
    of_tables := false;
    FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() LOOP
        CONTINUE WHEN made.in_extension AND made.classid <> 'pg_extension'::regclass
            OR made.schema_name IN ('pg_temp', 'pg_toast', 'pg_toast_temp', 'backwhen')
            OR made.object_type LIKE 'publication%' AND made.object_identity ~ '(^|in publication )backwhen_';
        relation := CASE WHEN made.classid = 'pg_class'::regclass THEN made.objid
                         WHEN made.schema_name IS NULL OR made.classid = 'pg_constraint'::regclass
                         THEN backwhen.{slot}_hangs_on(made.classid, made.objid) END;
        IF relation IS NOT NULL THEN
            SELECT c.relkind, c.relpersistence INTO kind, persistence FROM pg_class c WHERE c.oid = relation;
            CONTINUE WHEN persistence = 't';
            IF kind IN ('i', 'I') THEN
                relation := (SELECT i.indrelid FROM pg_index i WHERE i.indexrelid = relation);
            END IF;
            of_tables := of_tables OR kind IN ('r', 'p', 'i', 'I');
            IF relation <> ALL (relations) THEN
                relations := array_append(relations, relation);
            END IF;
        ELSIF made.classid = 'pg_type'::regclass THEN
            types := array_append(types, made.objid);
        END IF;
        objects := array_append(objects, json_build_object(
            'catalog', coalesce(made.classid::regclass::text, ''), 'oid', coalesce(made.objid::int8, 0),
            'tag', made.command_tag, 'kind', coalesce(made.object_type, ''),
            'identity', coalesce(made.object_identity, '')));
    END LOOP;
END
$body$;

CREATE OR REPLACE FUNCTION backwhen.{slot}_hangs_on(catalog oid, object oid) RETURNS oid LANGUAGE plpgsql AS $body$
BEGIN
    RETURN CASE catalog
        WHEN 'pg_constraint'::regclass THEN (SELECT nullif(k.conrelid, 0) FROM pg_constraint k WHERE k.oid = object)
        WHEN 'pg_trigger'::regclass THEN (SELECT g.tgrelid FROM pg_trigger g WHERE g.oid = object)
        WHEN 'pg_policy'::regclass THEN (SELECT p.polrelid FROM pg_policy p WHERE p.oid = object)
        WHEN 'pg_rewrite'::regclass THEN (SELECT r.ev_class FROM pg_rewrite r WHERE r.oid = object)
    END;
END
$body$;

-- The end of a statement: whether there was something to tell. What the application does within a
-- transaction without that passes through here, so what is rare is asked for only where it can matter.
CREATE OR REPLACE FUNCTION backwhen.{slot}_tell(tag text, who text, settings json) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER {pins} AS $body$
DECLARE
    config backwhen.{slot}_config;
    context text;
    statement json;
    made record;
    objects json;
    relations oid[];
    of_tables bool;
    drops json;
    dropped int8[] := '{}';
    rewritten oid[] := '{}';
    protected record;
    image oid;
    done bool;
BEGIN
    GET DIAGNOSTICS context = PG_CONTEXT;
    IF backwhen.{slot}_is_translated(context) THEN
        context := backwhen.{slot}_context();
    END IF;
    IF NOT backwhen.{slot}_is_trigger(context) THEN
        RAISE EXCEPTION 'this function belongs to an event trigger';
    END IF;
    IF tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN
        done := backwhen.{slot}_take('extension') = '';
    END IF;
    IF current_setting('backwhen.{slot}_dropped', true) <> '' THEN
        drops := backwhen.{slot}_take('dropped');
    END IF;
    IF current_setting('backwhen.{slot}_rewritten', true) <> '' THEN
        rewritten := string_to_array(backwhen.{slot}_take('rewritten'), ',');
    END IF;
    IF current_setting('backwhen.{slot}_extension', true) = 'on' OR tag = 'REINDEX' THEN
        RETURN false;
    END IF;

    made := backwhen.{slot}_made();
    IF made.objects IS NULL AND drops IS NULL AND tag <> 'DROP OWNED' THEN
        RETURN false;
    END IF;
    objects := array_to_json(made.objects);
    relations := made.relations;
    of_tables := made.of_tables;

    SELECT * INTO config FROM backwhen.{slot}_config;
    IF tag LIKE 'ALTER %' OR tag = 'CREATE VIEW' THEN
        relations := backwhen.{slot}_affected(tag, relations, made.types, objects);
        IF cardinality(relations) > cardinality(made.relations) THEN
            of_tables := true;
            rewritten := rewritten || backwhen.{slot}_retold(relations, made.types, context);
        END IF;
    END IF;
    IF drops IS NOT NULL THEN
        of_tables := true;
        PERFORM set_config('backwhen.{slot}_names', drops->>'names', true);
        relations := relations || array(SELECT json_array_elements_text(drops->'tables')::oid);
        -- Whatever somebody put there: what is still here is not dropped.
        dropped := array(SELECT d::int8 FROM json_array_elements_text(drops->'relations') d
                          WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = d::oid));
        IF (drops->>'keys')::bool THEN
            relations := relations
                || backwhen.{slot}_keyless(config.exact, tag NOT IN ('DROP TABLE', 'DROP INDEX', 'ALTER TABLE'));
        END IF;
    END IF;
    statement := backwhen.{slot}_statement(who, settings, context);
    -- A column that is computed no more keeps values that the stream never carried.
    IF tag = 'ALTER TABLE' AND (statement->>'query' ~* 'drop\s+expression' OR context ~* 'drop\s+expression') THEN
        rewritten := rewritten || relations;
    END IF;
    -- What these make changes nothing that a table's rows depend on.
    IF NOT of_tables OR tag IN ('COMMENT', 'SECURITY LABEL', 'CREATE INDEX', 'CREATE STATISTICS', 'ALTER STATISTICS',
                                'CREATE TRIGGER', 'ALTER TRIGGER', 'CREATE POLICY', 'ALTER POLICY', 'CREATE RULE',
                                'ALTER RULE') THEN
        RETURN backwhen.{slot}_write(config, tag, statement, objects, '{}', dropped, NULL);
    END IF;
    protected := backwhen.{slot}_protect(config, relations, rewritten);
    IF cardinality(protected.images) = 0 THEN
        RETURN backwhen.{slot}_write(
            config, tag, statement, objects, protected.tables, dropped, protected.trouble);
    END IF;
    BEGIN
        done := backwhen.{slot}_write(
            config, tag, statement, objects, protected.tables, dropped, protected.trouble);
        FOREACH image IN ARRAY protected.images LOOP
            done := backwhen.{slot}_rows(config, image);
        END LOOP;
    EXCEPTION WHEN OTHERS THEN
        done := backwhen.{slot}_write(config, tag, statement, objects, protected.imageless, dropped,
            concat_ws('; ', protected.trouble, format('rows cannot be read: %s: %s', SQLSTATE, SQLERRM)));
    END;
    RETURN true;
END
$body$;

-- The end of a statement that could not be told: that much is said at least.
CREATE OR REPLACE FUNCTION backwhen.{slot}_trouble(tag text, who text, settings json, code text, message text)
RETURNS bool LANGUAGE plpgsql SECURITY DEFINER {pins} AS $body$
DECLARE
    config backwhen.{slot}_config;
    context text;
    statement json;
BEGIN
    GET DIAGNOSTICS context = PG_CONTEXT;
    IF backwhen.{slot}_is_translated(context) THEN
        context := backwhen.{slot}_context();
    END IF;
    SELECT * INTO config FROM backwhen.{slot}_config;
    PERFORM backwhen.{slot}_take('dropped'), backwhen.{slot}_take('rewritten');
    IF tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN
        PERFORM backwhen.{slot}_take('extension');
    END IF;
    IF backwhen.{slot}_is_trigger(context) THEN
        statement := backwhen.{slot}_statement(who, settings, context);
    ELSE
        -- Somebody may have called this by hand, or have our schema in their search_path.
        statement := json_build_object(
            'query', '', 'started', 0, 'process', pg_backend_pid(), 'role', '', 'login', session_user::text);
    END IF;
    RETURN backwhen.{slot}_write(config, tag, statement, '[]', '{}', '{}', format('%s: %s', code, message));
END
$body$;
