-- What a statement made or changed outside of extensions, temporary schemas and our own things; NULL if
-- there is nothing. Of each object the relation that it is or hangs on, and the type that it is.
CREATE OR REPLACE FUNCTION backwhen.{slot}_commands(OUT objects jsonb, OUT relations oid[], OUT types oid[])
LANGUAGE plpgsql AS $body$
BEGIN
    SELECT jsonb_agg(jsonb_build_object(
               'catalog', coalesce(command.classid::regclass::text, ''), 'oid', coalesce(command.objid::int8, 0),
               'tag', command.command_tag, 'kind', coalesce(command.object_type, ''),
               'identity', coalesce(command.object_identity, '')) ORDER BY command.ordinality),
           coalesce(array_agg(DISTINCT relation) FILTER (WHERE relation <> 0), '{}'),
           coalesce(array_agg(DISTINCT objid) FILTER (WHERE classid = 'pg_type'::regclass), '{}')
      INTO objects, relations, types
      FROM (SELECT c.*, CASE c.classid
              WHEN 'pg_class'::regclass
              THEN coalesce((SELECT i.indrelid FROM pg_index i WHERE i.indexrelid = c.objid), c.objid)
              WHEN 'pg_constraint'::regclass THEN (SELECT k.conrelid FROM pg_constraint k WHERE k.oid = c.objid)
              WHEN 'pg_trigger'::regclass THEN (SELECT g.tgrelid FROM pg_trigger g WHERE g.oid = c.objid)
              WHEN 'pg_policy'::regclass THEN (SELECT p.polrelid FROM pg_policy p WHERE p.oid = c.objid)
              WHEN 'pg_rewrite'::regclass THEN (SELECT r.ev_class FROM pg_rewrite r WHERE r.oid = c.objid)
              WHEN 'pg_attrdef'::regclass THEN (SELECT d.adrelid FROM pg_attrdef d WHERE d.oid = c.objid)
              WHEN 'pg_statistic_ext'::regclass THEN (SELECT s.stxrelid FROM pg_statistic_ext s WHERE s.oid = c.objid)
            END AS relation
              FROM pg_event_trigger_ddl_commands() WITH ORDINALITY c
             WHERE NOT c.in_extension OR c.classid = 'pg_extension'::regclass) command
      LEFT JOIN pg_class r ON r.oid = command.relation
     WHERE coalesce(command.schema_name, '') NOT IN ('pg_temp', 'pg_toast', 'pg_toast_temp', 'backwhen')
       AND r.relpersistence IS DISTINCT FROM 't'
       AND NOT (command.object_type LIKE 'publication%'
                AND command.object_identity ~ '(^|in publication )backwhen_');
END
$body$;

-- Which tables a statement may have changed (of any kind of relation), and which of them read otherwise
-- now although nobody wrote them: a type of theirs has other labels or attributes.
CREATE OR REPLACE FUNCTION backwhen.{slot}_affected(
    tag text, INOUT relations oid[], types oid[], objects jsonb, context text, OUT retold oid[])
LANGUAGE plpgsql AS $body$
DECLARE
    changed oid[];
    words text;
BEGIN
    retold := '{}';
    IF tag IN ('ALTER SCHEMA', 'ALTER EXTENSION') THEN
        -- A new name of the schema is one of all that is in it; what an extension let go is an orphan.
        SELECT relations || coalesce(array_agg(c.oid), '{}') INTO relations FROM pg_class c
         WHERE c.relkind = 'r' AND (tag = 'ALTER EXTENSION' OR c.relnamespace IN (
               SELECT (o->>'oid')::oid FROM jsonb_array_elements(objects) o));
        SELECT types || coalesce(array_agg(t.oid), '{}') INTO types FROM pg_type t
         WHERE t.oid >= 16384 AND (tag = 'ALTER EXTENSION' OR t.typnamespace IN (
               SELECT (o->>'oid')::oid FROM jsonb_array_elements(objects) o));
    END IF;
    IF cardinality(relations) > 0 THEN
        relations := backwhen.{slot}_below(relations);
    END IF;
    IF tag ~ '^ALTER ' OR tag = 'CREATE VIEW' THEN
        -- Not older than this transaction, that is: its own.
        SELECT coalesce(array_agg(c.reltype), '{}') INTO changed FROM pg_class c
         WHERE c.oid = ANY (relations) AND c.reltype <> 0
           AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND age(a.xmin) <= 0);
        words := lower(current_query() || context);
        -- A new label changes no value. Where neither word is to be seen, it may be a new name.
        IF words LIKE '%rename%' OR words NOT LIKE '%add%' THEN
            SELECT changed || coalesce(array_agg(DISTINCT e.enumtypid), '{}') INTO changed FROM pg_enum e
             WHERE e.enumtypid = ANY (types) AND age(e.xmin) <= 0;
        END IF;
        IF cardinality(changed) > 0 THEN
            retold := backwhen.{slot}_using(changed);
        END IF;
        types := types || array(SELECT c.reltype FROM pg_class c WHERE c.oid = ANY (relations) AND c.reltype <> 0);
        relations := relations || backwhen.{slot}_using(types);
    END IF;
END
$body$;

-- Tables that lost the index of their replica identity.
CREATE OR REPLACE FUNCTION backwhen.{slot}_keyless(exact name, cascaded bool) RETURNS oid[] LANGUAGE plpgsql AS $body$
BEGIN
    RETURN array(SELECT c.oid FROM pg_publication p
      JOIN pg_publication_rel pr ON pr.prpubid = p.oid
      JOIN pg_class c ON c.oid = pr.prrelid
     WHERE p.pubname = exact AND (c.relreplident = 'i' OR c.relreplident = 'd' AND cascaded)
       AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid
                          AND CASE c.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END));
END
$body$;

-- The tables among some relations as the catalogs have them now, and how they are and should be published.
CREATE OR REPLACE FUNCTION backwhen.{slot}_described(relations oid[], config backwhen.{slot}_config)
RETURNS TABLE (relation oid, named text, facts jsonb, wanted bool, exact bool, in_exact bool, in_inserts bool)
LANGUAGE plpgsql AS $body$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT c.oid, format('%I.%I', n.nspname, c.relname),
           jsonb_build_object(
               'oid', c.oid::int8, 'schema', n.nspname, 'name', c.relname, 'persistence', c.relpersistence::text,
               'replica_identity', c.relreplident::text, 'file', c.relfilenode::int8,
               'identity', to_jsonb(i.key), 'of_extension', e.of_extension,
               'columns', backwhen.{slot}_columns(c.oid),
               'raw_names', CASE WHEN getdatabaseencoding() <> 'UTF8' THEN jsonb_build_array(
                   encode(convert_to(n.nspname::text, getdatabaseencoding()), 'hex'),
                   encode(convert_to(c.relname::text, getdatabaseencoding()), 'hex')) END),
           c.relpersistence = 'p' AND NOT e.of_extension AND backwhen.{slot}_wants(n.nspname, c.relname, config),
           c.relreplident = 'f' OR coalesce(cardinality(i.key), 0) > 0 AND NOT EXISTS (
               SELECT FROM pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum = ANY (i.key) AND a.attgenerated <> ''),
           EXISTS (SELECT FROM pg_publication_rel pr JOIN pg_publication p ON p.oid = pr.prpubid
                    WHERE pr.prrelid = c.oid AND p.pubname = config.exact),
           EXISTS (SELECT FROM pg_publication_rel pr JOIN pg_publication p ON p.oid = pr.prpubid
                    WHERE pr.prrelid = c.oid AND p.pubname = config.inserts)
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN LATERAL (
           SELECT (x.indkey::int2[])[0:x.indnkeyatts - 1] AS key FROM pg_index x
            WHERE x.indrelid = c.oid AND x.indimmediate AND x.indisvalid
              AND CASE c.relreplident WHEN 'd' THEN x.indisprimary WHEN 'i' THEN x.indisreplident END
            LIMIT 1) i ON true
     CROSS JOIN LATERAL (
           SELECT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                             AND d.deptype = 'e') AS of_extension) e
     WHERE c.oid = ANY (relations) AND c.relkind = 'r' AND c.relpersistence <> 't'
       AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND n.nspname <> 'backwhen'
     ORDER BY c.oid;
END
$body$;

-- Puts a table into the publication that fits it; what kept it from that is the answer.
CREATE OR REPLACE FUNCTION backwhen.{slot}_join(named text, here name, other name, is_in_other bool) RETURNS text
LANGUAGE plpgsql AS $body$
BEGIN
    IF current_setting('backwhen.{slot}_locked', true) = 'on' THEN
        RETURN format('%s is not published yet: the publications are in use', named);
    END IF;
    PERFORM backwhen.{slot}_publish(
        CASE WHEN is_in_other THEN ARRAY[format('ALTER PUBLICATION %I DROP TABLE ONLY %s', other, named)]
             ELSE '{}'::text[] END
        || format('ALTER PUBLICATION %I ADD TABLE ONLY %s', here, named));
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    IF SQLSTATE = '55P03' THEN
        -- Who holds them may hold them long. Waited once, the others are left to the capture.
        PERFORM set_config('backwhen.{slot}_locked', 'on', true);
    END IF;
    RETURN format('%s is not published yet: %s', named, SQLERRM);
END
$body$;

-- Describes the tables, after it has published those that should be.
CREATE OR REPLACE FUNCTION backwhen.{slot}_protect(
    relations oid[], rewritten oid[], retold oid[], config backwhen.{slot}_config, OUT tables jsonb, OUT trouble text)
LANGUAGE plpgsql AS $body$
DECLARE
    found record;
    published bool;
    image bool;
    refused text;
BEGIN
    tables := '[]';
    FOR found IN SELECT * FROM backwhen.{slot}_described(relations, config) LOOP
        published := found.in_exact OR found.in_inserts;
        image := found.relation = ANY (rewritten || retold)
              OR NOT published AND pg_relation_size(found.relation) > 0;
        IF found.wanted AND NOT (CASE WHEN found.exact THEN found.in_exact ELSE found.in_inserts END) THEN
            refused := CASE WHEN found.exact
                THEN backwhen.{slot}_join(found.named, config.exact, config.inserts, found.in_inserts)
                ELSE backwhen.{slot}_join(found.named, config.inserts, config.exact, found.in_exact) END;
            trouble := nullif(concat_ws('; ', trouble, refused), '');
            published := published OR refused IS NULL;
        END IF;
        image := image AND published;
        IF image AND pg_table_size(found.relation) > config.image_limit THEN
            image := false;
            trouble := concat_ws('; ', trouble, format(
                'the rows of %s are not written: it is larger than %s bytes', found.named, config.image_limit));
        END IF;
        tables := tables || (found.facts || jsonb_build_object('published', published, 'image', image));
    END LOOP;
END
$body$;

-- Writes a definition's message, and the rows that follow it; or, where these cannot be read, why not.
CREATE OR REPLACE FUNCTION backwhen.{slot}_write(signal jsonb) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
    images oid[] := array(SELECT (t->>'oid')::oid FROM jsonb_array_elements(signal->'tables') t
                           WHERE (t->>'image')::bool);
    relation oid;
BEGIN
    IF cardinality(images) = 0 THEN
        PERFORM backwhen.{slot}_emit('backwhen.ddl', backwhen.{slot}_utf8(signal::text));
        RETURN;
    END IF;
    BEGIN
        PERFORM backwhen.{slot}_emit('backwhen.ddl', backwhen.{slot}_utf8(signal::text));
        FOREACH relation IN ARRAY images LOOP
            PERFORM backwhen.{slot}_rows(relation);
        END LOOP;
    EXCEPTION WHEN OTHERS THEN
        signal := signal || jsonb_build_object(
            'tables', (SELECT jsonb_agg(t || '{"image": false}') FROM jsonb_array_elements(signal->'tables') t),
            'trouble', concat_ws('; ', signal->>'trouble', format('rows cannot be read: %s: %s', SQLSTATE, SQLERRM)));
        PERFORM backwhen.{slot}_emit('backwhen.ddl', backwhen.{slot}_utf8(signal::text));
    END;
END
$body$;

-- What the statement's other events kept for its end, given out once.
CREATE OR REPLACE FUNCTION backwhen.{slot}_take(key text) RETURNS text LANGUAGE plpgsql AS $body$
DECLARE
    value text := current_setting('backwhen.{slot}_' || key, true);
BEGIN
    IF value <> '' THEN
        PERFORM set_config('backwhen.{slot}_' || key, '', true);
    END IF;
    RETURN coalesce(value, '');
END
$body$;

-- The end of a statement: whether there was something to tell.
CREATE OR REPLACE FUNCTION backwhen.{slot}_tell(tag text, who text, settings json) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER {pins} AS $body$
DECLARE
    config backwhen.{slot}_config;
    context text;
    objects jsonb;
    relations oid[];
    types oid[];
    retold oid[];
    drops jsonb;
    rewritten oid[];
    tables jsonb;
    trouble text;
    own_end bool := tag IN ('CREATE EXTENSION', 'ALTER EXTENSION');
BEGIN
    GET DIAGNOSTICS context = PG_CONTEXT;
    -- Our own doing.
    CASE coalesce(current_setting('backwhen.own', true), '')
        WHEN 'install' THEN RETURN false;
        WHEN 'publish' THEN IF tag = 'ALTER PUBLICATION' THEN RETURN false; END IF;
        ELSE NULL;
    END CASE;
    IF NOT backwhen.{slot}_is_trigger(context) THEN
        RAISE EXCEPTION 'this function belongs to an event trigger';
    END IF;
    IF own_end THEN
        PERFORM backwhen.{slot}_take('extension');
    END IF;
    drops := coalesce(nullif(backwhen.{slot}_take('dropped'), ''), '{}');
    rewritten := string_to_array(backwhen.{slot}_take('rewritten'), ',');
    IF current_setting('backwhen.{slot}_extension', true) = 'on' OR tag = 'REINDEX' THEN
        RETURN false;
    END IF;
    SELECT * INTO objects, relations, types FROM backwhen.{slot}_commands();
    IF objects IS NULL AND drops = '{}' AND tag <> 'DROP OWNED' THEN
        RETURN false;
    END IF;
    SELECT * INTO config FROM backwhen.{slot}_config;
    relations := relations || array(SELECT jsonb_array_elements_text(drops->'tables')::oid);
    SELECT * INTO relations, retold FROM backwhen.{slot}_affected(tag, relations, types, objects, context);
    IF (drops->>'keys')::bool THEN
        relations := relations || backwhen.{slot}_keyless(config.exact, tag NOT IN ('DROP TABLE', 'DROP INDEX', 'ALTER TABLE'));
    END IF;
    SELECT * INTO tables, trouble FROM backwhen.{slot}_protect(relations, rewritten, retold, config);
    PERFORM backwhen.{slot}_write(jsonb_build_object(
        'tag', tag,
        'statement', backwhen.{slot}_statement(who, settings, context),
        'objects', coalesce(objects, '[]'),
        'tables', tables,
        -- Whatever somebody put there: what is still here is not dropped.
        'dropped', (SELECT coalesce(jsonb_agg(d::int8), '[]') FROM jsonb_array_elements_text(drops->'relations') d
                     WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = d::oid)),
        'trouble', trouble));
    RETURN true;
END
$body$;

-- The end of a statement that could not be told: that much is said at least.
CREATE OR REPLACE FUNCTION backwhen.{slot}_trouble(tag text, who text, settings json, code text, message text)
RETURNS bool LANGUAGE plpgsql SECURITY DEFINER {pins} AS $body$
DECLARE
    context text;
    statement jsonb;
BEGIN
    GET DIAGNOSTICS context = PG_CONTEXT;
    PERFORM backwhen.{slot}_take('dropped'), backwhen.{slot}_take('rewritten');
    IF tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN
        PERFORM backwhen.{slot}_take('extension');
    END IF;
    IF backwhen.{slot}_is_trigger(context) THEN
        statement := backwhen.{slot}_statement(who, settings, context);
    ELSE
        -- Somebody may have called this by hand, or have our schema in their search_path.
        statement := jsonb_build_object(
            'query', '', 'started', 0, 'process', pg_backend_pid(), 'role', '', 'login', session_user::text);
    END IF;
    PERFORM backwhen.{slot}_emit('backwhen.ddl', backwhen.{slot}_utf8(jsonb_build_object(
        'tag', tag, 'statement', statement, 'trouble', format('%s: %s', code, message))::text));
    RETURN true;
END
$body$;
