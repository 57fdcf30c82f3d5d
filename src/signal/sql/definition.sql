-- Publishes those of some relations that should be published, then describes the tables among them as the catalogs
-- have them now, and lists the tables whose rows must follow. `reaching` extends this to the tables that change with
-- the only relation among them: tables below it, or with columns of its row type. The server keeps a plan for each
-- expression here, and looks through all of these plans at each schema change. So there are few expressions, and rare
-- cases have functions of their own.
CREATE OR REPLACE FUNCTION backwhen.{slot}_protect(
    tag text, caller text, exact_ids oid[], inserts_ids oid[], relations oid[], rewritten oid[], fresh oid[], reaching bool)
RETURNS text[] LANGUAGE plpgsql AS $body$
DECLARE
    told text[];
    relation oid;
    space text;
    called text;
    kind text;
    persistence text;
    identity text;
    file oid;
    reached bool;
    key int2[];
    publications oid[];
    columns text[];
    above text[];
    rare record;
BEGIN
    FOREACH relation IN ARRAY relations LOOP
        -- A function that asks the server's cache costs less than one more table in the query, and a list costs less
        -- than an aggregate.
        SELECT c.relnamespace::regnamespace::text, c.relname, c.relkind::text, c.relpersistence::text,
               -- With a column that is computed when it is read, REPLICA IDENTITY FULL does not serve (from version 18 on).
               CASE WHEN c.relreplident = 'f' AND EXISTS (
                   SELECT FROM pg_attribute v WHERE v.attrelid = c.oid AND v.attgenerated = 'v') THEN 'v' ELSE c.relreplident::text END,
               c.relfilenode,
               reaching AND (c.relhassubclass OR EXISTS (
                   SELECT FROM pg_depend d WHERE d.refclassid = 'pg_type'::regclass AND d.refobjid = c.reltype
                      -- The dependency is on the type itself, or on its array type.
                      AND (d.deptype <> 'i' OR EXISTS (
                          SELECT FROM pg_depend e WHERE e.refclassid = 'pg_type'::regclass AND e.refobjid = d.objid)))),
               (SELECT (x.indkey::int2[])[0:x.indnkeyatts - 1] FROM pg_index x
                 WHERE x.indrelid = c.oid AND x.indimmediate AND x.indisvalid
                   AND CASE c.relreplident WHEN 'd' THEN x.indisprimary WHEN 'i' THEN x.indisreplident END LIMIT 1),
               ARRAY(SELECT r.prpubid FROM pg_publication_rel r WHERE r.prrelid = c.oid),
               -- This includes the value that rows older than the column have in it, if no setting can change how
               -- that value is formatted.
               ARRAY(SELECT CASE WHEN a.attgenerated = ''
                             AND (NOT a.atthasmissing OR a.atttypid IN (16, 20, 21, 23, 25, 114, 1042, 1043, 1700, 2950, 3802))
                            THEN concat_ws(' ', CASE WHEN a.atthasmissing THEN '=' || a.attnum ELSE a.attnum::text END, a.atttypid::int8,
                                a.atttypmod, a.xmin, octet_length(a.attname::text), a.attname,
                                CASE WHEN a.atthasmissing THEN
                                          concat(format_type(a.atttypid, a.atttypmod), E'\n', (a.attmissingval::text::text[])[1])
                                     -- The commonest types are known by their numbers.
                                     WHEN a.atttypmod >= 0 OR a.atttypid NOT IN ({common_types})
                                     THEN format_type(a.atttypid, a.atttypmod) ELSE '' END) END
                       FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                      ORDER BY a.attnum),
               CASE WHEN c.relispartition THEN backwhen.{slot}_above(c.oid) END
          INTO space, called, kind, persistence, identity, file, reached, key, publications, columns, above
          FROM pg_class c WHERE c.oid = relation;
        -- This is the usual case: the table is in the right publication, and neither its columns nor its names are
        -- unusual.
        IF kind = 'r' AND NOT reached AND persistence = 'p' AND relation <> ALL (rewritten) AND array_position(columns, NULL) IS NULL
            AND (CASE WHEN key IS NOT NULL OR identity = 'f' THEN exact_ids && publications
                      ELSE inserts_ids && publications AND NOT exact_ids && publications END)
            AND NOT starts_with(space, '"') AND getdatabaseencoding() = 'UTF8' THEN
            told := ARRAY[concat_ws(',', told[1], concat('[', to_json(ARRAY[relation::text, space, called, persistence, identity,
                file::text, key::text, 'true'] || above), ',', to_json(columns), ']')), told[2], told[3], told[4]];
            CONTINUE;
        END IF;
        IF reached THEN
            told := backwhen.{slot}_reach(tag, caller, exact_ids, inserts_ids, relations, rewritten, fresh);
        END IF;
        CONTINUE WHEN kind <> 'r' OR persistence = 't' OR space IN ('information_schema', 'backwhen') OR starts_with(space, 'pg_')
            OR kind IS NULL;
        rare := backwhen.{slot}_rare(relation, space, called, persistence = 'p', identity = 'f',
            key, columns, publications, (relation = ANY (rewritten)) IS TRUE, (relation = ANY (fresh)) IS TRUE);
        told := backwhen.{slot}_joined(told, ARRAY[
            concat('[', to_json(ARRAY[relation::text, rare.space, called, persistence, identity, file::text, rare.kept_key::text,
                rare.published::text] || coalesce(rare.raw_names, above[1:2]) || above[3:]), ',', to_json(rare.described), ']'),
            CASE WHEN rare.image THEN relation::text END, rare.trouble]);
    END LOOP;
    RETURN told;
END
$body$;

-- Returns the schemas and names of the partitioned tables above a partition, the nearest first, behind two empty places
-- for the partition's own names in another encoding.
CREATE OR REPLACE FUNCTION backwhen.{slot}_above(partition oid) RETURNS text[] LANGUAGE plpgsql AS $body$
BEGIN
    RETURN ARRAY[NULL, NULL]::text[] || ARRAY(
        SELECT unnest(ARRAY[n.nspname::text, c.relname::text])
          FROM pg_partition_ancestors(partition) WITH ORDINALITY a(relid, place)
          JOIN pg_class c ON c.oid = a.relid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE a.relid <> partition ORDER BY a.place);
END
$body$;

-- Joins what is told of some tables (the elements of a list, the oids of the tables whose rows follow, and what could
-- not be done) and what is told of others.
CREATE OR REPLACE FUNCTION backwhen.{slot}_joined(told text[], also text[]) RETURNS text[] LANGUAGE plpgsql AS $body$
BEGIN
    RETURN ARRAY[nullif(concat_ws(',', told[1], also[1]), ''), nullif(concat_ws(',', told[2], also[2]), ''),
                 nullif(concat_ws('; ', told[3], also[3]), ''), coalesce(also[4], told[4])];
END
$body$;

-- Describes the tables that change with a relation, without the relation itself.
CREATE OR REPLACE FUNCTION backwhen.{slot}_reach(
    tag text, caller text, exact_ids oid[], inserts_ids oid[], relations oid[], rewritten oid[], fresh oid[])
RETURNS text[] LANGUAGE plpgsql {joins} AS $body$
DECLARE
    more oid[] := backwhen.{slot}_affected(tag, relations, '{}');
    told text[] := backwhen.{slot}_protect(tag, caller, exact_ids, inserts_ids,
        array(SELECT m FROM unnest(more) m EXCEPT SELECT r FROM unnest(relations) r ORDER BY 1), rewritten, fresh, false);
BEGIN
    RETURN ARRAY[told[1], told[2], told[3], backwhen.{slot}_types_changed(
        CASE WHEN tag = 'ALTER TYPE' THEN nullif(backwhen.{slot}_take('types'), '') ELSE '' END, '{}', relations || more)];
END
$body$;

-- Describes a table that is not yet in the right publication, or that is unusual.
CREATE OR REPLACE FUNCTION backwhen.{slot}_rare(
    relation oid, quoted text, called text, permanent bool, whole bool, key int2[], columns text[], publications oid[], rewritten bool, fresh bool,
    OUT space text, OUT kept_key int2[], OUT described text[], OUT raw_names text[],
    OUT published bool, OUT image bool, OUT trouble text)
LANGUAGE plpgsql AS $body$
DECLARE
    is_exact bool;
    in_exact bool;
    in_inserts bool;
    size_limit int8;
    fitting oid[];
    picky bool;
    of_extension bool;
    unreadable text;
BEGIN
    space := CASE WHEN starts_with(quoted, '"') THEN (parse_ident(quoted))[1] ELSE quoted END;
    IF getdatabaseencoding() <> 'UTF8' OR array_position(columns, NULL) IS NOT NULL THEN
        described := backwhen.{slot}_columns(relation, getdatabaseencoding());
        raw_names := backwhen.{slot}_raw_names(space, called, getdatabaseencoding());
        key := backwhen.{slot}_stored(relation, key);
    END IF;
    is_exact := key IS NOT NULL OR whole;
    SELECT key, coalesce(described, columns), c.exact_ids && publications, c.inserts_ids && publications, c.image_limit,
           CASE WHEN is_exact THEN c.exact_ids[1:CASE WHEN c.pooled THEN 1000 ELSE 1 END]
                ELSE c.inserts_ids[1:CASE WHEN c.pooled THEN 1000 ELSE 1 END] END,
           c.include_name <> '{}' OR c.exclude_name <> '{}',
           EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = relation AND d.deptype = 'e')
      INTO kept_key, described, in_exact, in_inserts, size_limit, fitting, picky, of_extension
      FROM backwhen.{slot}_config c;
    published := in_exact OR in_inserts;
    -- A table that has an exact publication may stay in an inserts-only one too: the stream carries what either publishes.
    IF permanent AND (in_exact <> is_exact OR NOT published) AND NOT of_extension
        AND (NOT picky OR backwhen.{slot}_wants(relation)) THEN
        trouble := backwhen.{slot}_join(format('%I.%I', space, called), in_exact, in_inserts, publications, fitting);
        published := published OR trouble IS NULL;
    END IF;
    -- While the table had no replica identity, its updates and deletes were not in the stream.
    image := published AND (rewritten OR is_exact AND in_inserts AND NOT in_exact
        OR NOT in_exact AND NOT in_inserts AND pg_relation_size(relation) > 0);
    IF image THEN
        unreadable := backwhen.{slot}_unreadable(relation, fresh);
    END IF;
    IF unreadable IS NOT NULL THEN
        image := false;
        trouble := concat_ws('; ', trouble, format(
            'the rows of %I.%I are not written: %s', space, called, unreadable));
    ELSIF image AND pg_table_size(relation) > size_limit THEN
        image := false;
        trouble := concat_ws('; ', trouble, format(
            'the rows of %I.%I are not written: it is larger than %s bytes', space, called, size_limit));
    END IF;
END
$body$;

-- Returns a key that the stream carries: computed columns have no old values in it.
CREATE OR REPLACE FUNCTION backwhen.{slot}_stored(relation oid, key int2[]) RETURNS int2[] LANGUAGE plpgsql AS $body$
BEGIN
    IF EXISTS (SELECT FROM pg_attribute a
                WHERE a.attrelid = relation AND a.attnum = ANY (key) AND a.attgenerated <> '') THEN
        RETURN NULL;
    END IF;
    RETURN key;
END
$body$;

-- Describes the columns of a table if some are computed, were added to existing rows, or have names in another
-- encoding. The description includes the value that older rows have in an added column.
CREATE OR REPLACE FUNCTION backwhen.{slot}_columns(relation oid, encoding name) RETURNS text[] LANGUAGE plpgsql {values} AS $body$
DECLARE
    utf8 bool := encoding = 'UTF8';
BEGIN
    RETURN ARRAY(SELECT CASE WHEN utf8 AND NOT a.atthasmissing AND a.attgenerated = ''
               THEN concat(a.attnum, ' ', a.atttypid, ' ', a.atttypmod, ' ', a.xmin, ' ',
                   octet_length(a.attname::text), ' ', a.attname, ' ', format_type(a.atttypid, a.atttypmod))
               ELSE concat('{"number":', a.attnum, ',"name":', to_json(a.attname), ',"type":', a.atttypid,
                   ',"modifier":', a.atttypmod, ',"type_name":', to_json(format_type(a.atttypid, a.atttypmod)),
                   ',"generated":', (a.attgenerated <> '')::text, ',"definer":"', a.xmin, '"',
                   ',"missing":' || to_json(m.missing),
                   CASE WHEN NOT utf8 THEN ',"raw_missing":"' || encode(convert_to(m.missing, encoding), 'hex') || '"' END,
                   CASE WHEN NOT utf8 THEN concat(',"raw_name":"', encode(convert_to(a.attname::text, encoding), 'hex'), '"') END, '}')
               END
              FROM pg_attribute a
             CROSS JOIN LATERAL (SELECT CASE WHEN a.atthasmissing THEN (a.attmissingval::text::text[])[1] END AS missing OFFSET 0) m
             WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attnum);
END
$body$;

-- Returns the bytes of schema and name of a table as the database has them, where they are not UTF-8.
CREATE OR REPLACE FUNCTION backwhen.{slot}_raw_names(space text, called text, encoding name) RETURNS text[]
LANGUAGE plpgsql AS $body$
BEGIN
    IF encoding = 'UTF8' THEN
        RETURN NULL;
    END IF;
    RETURN ARRAY[encode(convert_to(space, encoding), 'hex'), encode(convert_to(called, encoding), 'hex')];
END
$body$;

-- Whether a table is to be protected, by its own name and those of the partitioned tables above it.
CREATE OR REPLACE FUNCTION backwhen.{slot}_wants(relation oid) RETURNS bool LANGUAGE plpgsql AS $body$
BEGIN
    RETURN (SELECT (cardinality(c.include_name) = 0 OR backwhen.{slot}_fits(relation, c.include_schema, c.include_name))
               AND (cardinality(c.exclude_name) = 0 OR NOT backwhen.{slot}_fits(relation, c.exclude_schema, c.exclude_name))
              FROM backwhen.{slot}_config c);
END
$body$;

CREATE OR REPLACE FUNCTION backwhen.{slot}_fits(relation oid, schemas text[], names text[]) RETURNS bool
LANGUAGE plpgsql AS $body$
BEGIN
    RETURN EXISTS (
        SELECT FROM pg_class c JOIN pg_namespace t ON t.oid = c.relnamespace CROSS JOIN unnest(schemas, names) p(s, n)
         WHERE c.oid IN (SELECT relation UNION ALL SELECT a.relid FROM pg_partition_ancestors(relation) a)
           AND t.nspname LIKE p.s AND c.relname LIKE p.n);
END
$body$;

-- Returns the relation that an object depends on; NULL if the object depends on none, and 0 if that relation is
-- temporary.
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

-- Whether a publication, or a membership in one, is backwhen's: decided by its name and its owner.
CREATE OR REPLACE FUNCTION backwhen.{slot}_is_ours(catalog oid, object oid) RETURNS bool LANGUAGE plpgsql AS $body$
BEGIN
    RETURN EXISTS (SELECT FROM pg_publication p JOIN pg_roles r ON r.oid = p.pubowner
        WHERE p.oid = CASE WHEN catalog = 'pg_publication'::regclass THEN object
                      ELSE (SELECT m.prpubid FROM pg_publication_rel m WHERE m.oid = object) END
          AND p.pubname ~ '^backwhen_[0-9a-f]{12}(_inserts)?(_[0-9]+)?$' AND (r.rolsuper OR r.rolname = current_user));
END
$body$;

-- Returns the objects that a statement made or changed outside of extensions, temporary schemas and backwhen's own
-- objects, each with the relation that the object is or depends on.
CREATE OR REPLACE FUNCTION backwhen.{slot}_objects(tag text) RETURNS text[] LANGUAGE plpgsql AS $body$
BEGIN
    RETURN ARRAY(SELECT ARRAY[o.classid::text, o.objid::text, o.command_tag, o.object_type, o.object_identity, o.relation::text]
        FROM (SELECT o.classid, o.objid, o.command_tag, o.object_type, o.object_identity,
                     CASE WHEN o.schema_name IS NULL OR o.classid = 'pg_constraint'::regclass
                            OR o.object_type LIKE 'index%' AND tag NOT IN ('CREATE INDEX', 'CREATE TABLE')
                          THEN backwhen.{slot}_hangs_on(o.classid, o.objid)
                          WHEN o.classid = 'pg_class'::regclass AND o.object_type <> 'sequence' THEN o.objid END AS relation
                FROM pg_event_trigger_ddl_commands() o
               WHERE (NOT o.in_extension OR o.classid = 'pg_extension'::regclass)
                 AND (o.schema_name IS NULL OR o.schema_name NOT IN ('pg_temp', 'pg_toast', 'pg_toast_temp', 'backwhen'))
                 AND NOT (o.object_type LIKE 'publication%' AND backwhen.{slot}_is_ours(o.classid, o.objid))
              OFFSET 0) o
       WHERE o.relation IS DISTINCT FROM 0);
END
$body$;

-- Handles the end of a statement: returns the message to write, if there is something to tell. Every DDL statement of
-- an application's transactions passes through here, so rare cases are checked only where they can matter.
CREATE OR REPLACE FUNCTION backwhen.{slot}_tell(tag text, who text, path text, context text) RETURNS text
LANGUAGE plpgsql AS $body$
DECLARE
    caller text;
    inner_key bytea;
    outer_key bytea;
    is_own bool;
    exact_ids oid[];
    inserts_ids oid[];
    objects text[];
    object text[];
    relations oid[];
    types oid[];
    reaching bool;
    drops text[];
    rewrites text[];
    rewritten oid[];
    fresh oid[];
    gathered record;
    gone text;
    told text[];
    trouble text;
BEGIN
    -- This is the usual case: the client sent the statement itself, and no other event of the statement kept anything
    -- for its end.
    IF split_part(context, E'\n', 2) <> ''
       OR current_setting('backwhen.{slot}_dropped', true) <> '' OR current_setting('backwhen.{slot}_rewritten', true) <> ''
       OR current_setting('backwhen.{slot}_extension', true) <> '' OR tag IN ('REINDEX', 'ALTER PUBLICATION')
       OR current_setting('backwhen.{slot}_unpublished', true) <> '' THEN
        -- backwhen's own statement within the application's; it must not take what was kept for that statement's end.
        IF (tag = 'ALTER PUBLICATION' OR current_setting('backwhen.{slot}_joining', true) <> '') AND backwhen.{slot}_is_own() THEN
            RETURN NULL;
        END IF;
        IF split_part(context, E'\n', 2) <> '' THEN
            caller := backwhen.{slot}_caller(context);
        END IF;
        -- The statement that the tables were taken out for is this one, unless a function runs within it.
        IF caller IS NULL AND current_setting('backwhen.{slot}_unpublished', true) <> '' THEN
            trouble := backwhen.{slot}_republish(backwhen.{slot}_take('unpublished'));
        END IF;
        drops := nullif(backwhen.{slot}_take('dropped'), '')::text[];
        -- A function that runs while rows are rewritten may make and drop objects itself. The texts that were kept
        -- for the statement around it stay in their settings.
        rewrites := string_to_array(CASE WHEN caller IS NULL THEN backwhen.{slot}_take('rewritten')
                                         ELSE backwhen.{slot}_kept('rewritten') END, ',');
        IF rewrites IS NOT NULL THEN
            fresh := array(SELECT split_part(r, '/', 1)::oid FROM unnest(rewrites) r);
            rewritten := array(SELECT split_part(r, '/', 1)::oid FROM unnest(rewrites) r WHERE split_part(r, '/', 2)::int & 6 <> 0);
        END IF;
        IF (tag = 'REINDEX' OR current_setting('backwhen.{slot}_extension', true) <> '') AND backwhen.{slot}_is_silent(tag) THEN
            RETURN NULL;
        END IF;
    END IF;

    -- List what the statement made or changed, each object with the relation that it is. Where an object may be
    -- temporary, an extension's or backwhen's own, or may depend on such an object, it is examined more closely.
    SELECT f.inner_key, f.outer_key, f.own = pg_current_xact_id(), f.exact_ids, f.inserts_ids,
           ARRAY(SELECT ARRAY[o.classid::text, o.objid::text, o.command_tag, o.object_type, o.object_identity,
                     CASE WHEN o.classid = 'pg_class'::regclass AND o.object_type NOT IN ('sequence', 'index') THEN o.objid::text END,
                     CASE WHEN o.schema_name IS NULL OR o.schema_name IN ('pg_temp', 'pg_toast', 'pg_toast_temp', 'backwhen')
                            OR o.object_type = 'table constraint' THEN '!' END]
                   FROM pg_event_trigger_ddl_commands() o WHERE NOT o.in_extension)
      INTO inner_key, outer_key, is_own, exact_ids, inserts_ids, objects
      FROM backwhen.{slot}_config f;
    IF objects && '{!}'
       OR tag IN ('CREATE EXTENSION', 'ALTER EXTENSION', 'ALTER INDEX') THEN
        objects := backwhen.{slot}_objects(tag);
    END IF;
    IF is_own OR inner_key IS NULL OR cardinality(objects) = 0 AND drops IS NULL AND tag <> 'DROP OWNED' THEN
        RETURN NULL;
    END IF;

    -- The objects that these commands make change nothing that a table's rows depend on.
    IF drops IS NOT NULL
       OR tag NOT IN ('COMMENT', 'SECURITY LABEL', 'CREATE INDEX', 'CREATE STATISTICS', 'ALTER STATISTICS', 'CREATE FUNCTION',
                      'CREATE TRIGGER', 'ALTER TRIGGER', 'CREATE POLICY', 'ALTER POLICY', 'CREATE RULE', 'ALTER RULE') THEN
        reaching := tag LIKE 'ALTER %' OR tag = 'CREATE VIEW' AND (caller <> '' OR current_query() ~* 'replace');
        -- An empty list has no slices.
        FOREACH object SLICE 1 IN ARRAY CASE cardinality(objects) WHEN 0 THEN '{{NULL}}' ELSE objects END LOOP
            IF object[6] IS NOT NULL AND (reaching OR object[4] LIKE 'table%' OR object[4] LIKE 'index%') THEN
                relations := array_append(array_remove(relations, object[6]::oid), object[6]::oid);
                -- No other transaction has seen the table yet.
                IF object[3] IN ('CREATE TABLE AS', 'SELECT INTO') THEN
                    fresh := array_append(fresh, object[6]::oid);
                END IF;
            ELSIF object[1] = '1247' THEN
                types := array_append(types, object[2]::oid);
            END IF;
        END LOOP;
        -- A column that is no longer computed keeps values that the stream never carried.
        IF tag = 'ALTER TABLE' AND lower(concat(current_query(), caller) COLLATE "C") LIKE '%drop%expression%' THEN
            rewritten := rewritten || relations;
        END IF;
        IF drops IS NOT NULL OR types IS NOT NULL OR reaching AND cardinality(relations) IS DISTINCT FROM 1 THEN
            gathered := backwhen.{slot}_gather(tag, caller, relations, types, rewritten, reaching, drops);
            reaching := false;
            relations := gathered.relations;
            rewritten := gathered.rewritten;
            gone := gathered.gone;
        END IF;
        IF tag LIKE 'ALTER %' AND lower(concat(current_query(), caller) COLLATE "C")
               LIKE (CASE tag WHEN 'ALTER SCHEMA' THEN '%rename%' ELSE '%set%schema%' END) THEN
            gone := nullif(concat(gone, backwhen.{slot}_moved(tag, relations)), '');
        END IF;
        IF relations IS NOT NULL THEN
            {identify}
            IF caller IS NOT NULL AND cardinality(rewrites) > 0 THEN
                rewrites := backwhen.{slot}_leave(rewrites, relations);
            END IF;
            told := backwhen.{slot}_protect(tag, caller, exact_ids, inserts_ids, relations,
                coalesce(rewritten, '{}'), coalesce(fresh, '{}'), reaching);
        END IF;
    END IF;
    IF trouble IS NOT NULL THEN
        told := backwhen.{slot}_joined(told, ARRAY[NULL, NULL, 'tables are not published again: ' || trouble]);
    END IF;
    RETURN backwhen.{slot}_message(inner_key, outer_key, tag, who, path, caller, objects, told, gone);
END
$body$;

-- Leaves to the statement around this one the kept rewritten tables that are neither these relations nor below them.
CREATE OR REPLACE FUNCTION backwhen.{slot}_leave(rewrites text[], relations oid[]) RETURNS text[] LANGUAGE plpgsql AS $body$
DECLARE
    mine oid[] := backwhen.{slot}_below(relations);
    others text[] := array(SELECT r FROM unnest(rewrites) r WHERE split_part(r, '/', 1)::oid <> ALL (mine));
    kept text := backwhen.{slot}_keep('rewritten', array_to_string(others, ','));
BEGIN
    RETURN others;
END
$body$;

-- Whether a statement is not told, because it runs within an extension's script or changes no definition.
CREATE OR REPLACE FUNCTION backwhen.{slot}_is_silent(tag text) RETURNS bool LANGUAGE plpgsql AS $body$
DECLARE
    done bool;
BEGIN
    IF tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN
        done := backwhen.{slot}_take('extension') = '';
    END IF;
    RETURN backwhen.{slot}_kept('extension') = 'on' OR tag = 'REINDEX';
END
$body$;

-- Returns all relations that a statement concerns, where it concerns more than one table. They are found by the
-- objects that the statement dropped, or by what its types and relations reach. Also returns the dropped objects, in
-- the message's form.
CREATE OR REPLACE FUNCTION backwhen.{slot}_gather(
    tag text, caller text, INOUT relations oid[], types oid[], INOUT rewritten oid[], reaching bool, drops text[],
    OUT gone text)
LANGUAGE plpgsql {joins} AS $body$
DECLARE
    more oid[];
    drop text[];
    dropped int8[];
    identities text[];
    names text[];
    keys bool;
    retold text;
    kept text;
BEGIN
    IF reaching AND (relations IS NOT NULL OR types IS NOT NULL OR tag IN ('ALTER SCHEMA', 'ALTER EXTENSION')) THEN
        more := backwhen.{slot}_affected(tag, coalesce(relations, '{}'), coalesce(types, '{}'));
        IF more IS NOT NULL THEN
            relations := relations || more;
        END IF;
        retold := backwhen.{slot}_types_changed(
            CASE WHEN tag IN ('ALTER TYPE', 'ALTER EXTENSION') THEN nullif(backwhen.{slot}_take('types'), '') ELSE '' END,
            CASE WHEN tag = 'ALTER EXTENSION' THEN array(SELECT t.oid FROM pg_type t WHERE t.typtype IN ('c', 'e')) ELSE types END,
            relations);
    ELSIF tag IN ('CREATE TYPE', 'CREATE DOMAIN') THEN
        retold := backwhen.{slot}_types_made(types, relations);
    END IF;
    IF drops IS NOT NULL THEN
        FOREACH drop SLICE 1 IN ARRAY drops LOOP
            IF drop[3] <> '0' THEN
                relations := array_append(relations, drop[2]::oid);
            ELSIF drop[1] = '1259' THEN
                dropped := array_append(dropped, drop[2]::int8);
                identities := identities || ARRAY[ARRAY[drop[2], drop[7]]];
            END IF;
            IF drop[4] IN ('index', 'table constraint') THEN
                keys := true;
            END IF;
            IF drop[5] <> '' AND drop[6] IS NOT NULL THEN
                names := array_append(names, drop[6]);
            END IF;
        END LOOP;
        -- The setting may hold anything that somebody put there: an object that still exists is not dropped.
        IF dropped IS NOT NULL THEN
            dropped := array(SELECT d FROM unnest(dropped) d WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = d::oid));
        END IF;
        gone := concat(',"dropped":', to_json(coalesce(dropped, '{}')), ',"dropped_names":', to_json(coalesce(names, '{}')),
            ',"dropped_identities":' || to_json(identities));
        IF keys THEN
            relations := relations || backwhen.{slot}_keyless(
                (SELECT f.exact_ids FROM backwhen.{slot}_config f), tag NOT IN ('DROP TABLE', 'DROP INDEX', 'ALTER TABLE'));
        END IF;
    END IF;
    IF cardinality(relations) > 1 THEN
        relations := array(SELECT DISTINCT r FROM unnest(relations) r ORDER BY r);
    END IF;
    IF current_setting('backwhen.{slot}_names', true) <> '' THEN
        kept := backwhen.{slot}_take('names');
        IF kept <> '' THEN
            retold := backwhen.{slot}_renamed(kept, retold);
        END IF;
    END IF;
    gone := nullif(concat(gone, ',"retold":' || retold), '');
END
$body$;

-- Lists what moves into another schema with a relation, or whose schema was renamed, in the message's form: the
-- relation (0 for everything in the schema), then the oid and name of each object that moves with it. After the move,
-- values of regclass name these objects differently.
CREATE OR REPLACE FUNCTION backwhen.{slot}_moved(tag text, relations oid[]) RETURNS text LANGUAGE plpgsql {joins} AS $body$
BEGIN
    IF tag = 'ALTER SCHEMA' THEN
        RETURN (SELECT ',"moved":' || json_agg(json_build_array(0, c.oid::int8, c.relname))
                  FROM pg_event_trigger_ddl_commands() o JOIN pg_class c ON c.relnamespace = o.objid
                 WHERE o.classid = 'pg_namespace'::regclass);
    END IF;
    RETURN (SELECT ',"moved":' || json_agg(json_build_array(m.relation::int8, c.oid::int8, c.relname))
              FROM (SELECT i.indrelid AS relation, i.indexrelid AS oid FROM pg_index i WHERE i.indrelid = ANY (relations)
                    UNION
                    SELECT d.refobjid, d.objid FROM pg_depend d
                     WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY (relations) AND d.refobjsubid > 0
                       AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')) m
              JOIN pg_class c ON c.oid = m.oid AND c.relkind IN ('i', 'I', 'S'));
END
$body$;

-- Writes a message and the rows of the tables that it describes. Where the rows cannot be read, the message says so.
CREATE OR REPLACE FUNCTION backwhen.{slot}_with_rows(message text, images text) RETURNS text LANGUAGE plpgsql AS $body$
DECLARE
    opened text := left(message, -2);
    written pg_lsn;
    done bool;
    image oid;
BEGIN
    written := backwhen.{slot}_emit('backwhen.ddl', backwhen.{slot}_utf8(concat(opened, ',"images":[', images, ']}]')));
    FOREACH image IN ARRAY string_to_array(images, ',')::oid[] LOOP
        done := backwhen.{slot}_rows(image);
    END LOOP;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN backwhen.{slot}_written(concat(opened, ',"rows_trouble":',
        to_json(format('rows cannot be read: %s: %s', SQLSTATE, SQLERRM)), '}]'));
END
$body$;

-- Writes a message for the end of a statement that could not be described, so that the history at least knows of the
-- statement.
CREATE OR REPLACE FUNCTION backwhen.{slot}_trouble(tag text, who text, path text, context text, code text, message text)
RETURNS text LANGUAGE plpgsql AS $body$
DECLARE
    inner_key bytea;
    outer_key bytea;
BEGIN
    SELECT f.inner_key, f.outer_key INTO inner_key, outer_key FROM backwhen.{slot}_config f;
    PERFORM backwhen.{slot}_take('dropped'),
            CASE WHEN split_part(context, E'\n', 2) = '' THEN backwhen.{slot}_take('rewritten') END;
    IF tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN
        PERFORM backwhen.{slot}_take('extension');
    END IF;
    RETURN backwhen.{slot}_message(inner_key, outer_key, tag, who, path, backwhen.{slot}_caller(context), '{}',
        ARRAY[NULL, NULL, format('%s: %s', code, message)], '');
END
$body$;
