-- Finds types whose values read differently after a statement, although the statement writes no row: an enum's label
-- was renamed, or a composite type's attributes changed. The reader of the history rewrites the values that it holds.
-- No rows of the tables are read here, since rows that others commit before this transaction does would be missing.

-- Returns the labels of all enums and the attributes of all composite types, to be kept for the end of an ALTER TYPE.
CREATE OR REPLACE FUNCTION backwhen.{slot}_types_before() RETURNS text LANGUAGE plpgsql AS $body$
DECLARE
    facts text := concat('{"labels":',
        coalesce((SELECT json_agg(json_build_array(e.enumtypid::int8, e.oid::int8, e.enumlabel)) FROM pg_enum e)::text, '[]'),
        ',"attributes":',
        coalesce((SELECT json_agg(json_build_array(c.reltype::int8, a.attnum))
                    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
                   WHERE c.relkind = 'c' AND a.attnum > 0 AND NOT a.attisdropped)::text, '[]'), '}');
BEGIN
    RETURN CASE WHEN octet_length(facts) <= 1048576 THEN facts END;
END
$body$;

-- Returns what the statement did to values, in the form of the message's member "retold"; NULL if it did nothing.
-- `types` and `relations` are those that the statement altered. `before` is the kept text: NULL if it was too long,
-- and '' if the statement alters no types.
CREATE OR REPLACE FUNCTION backwhen.{slot}_types_changed(before text, types oid[], relations oid[]) RETURNS text
LANGUAGE plpgsql AS $body$
DECLARE
    told text;
    changed oid[];
    more record;
BEGIN
    -- The server names a composite type by its relation.
    types := types || ARRAY(SELECT c.reltype FROM pg_class c WHERE c.oid = ANY (relations) AND c.relkind = 'c');
    IF before IS NULL THEN
        RETURN CASE WHEN EXISTS (SELECT FROM pg_type t WHERE t.oid = ANY (types) AND t.typtype IN ('c', 'e') AND t.oid >= 16384)
            THEN '{"trouble":"the database has too many types to tell which values read otherwise"}' END;
    END IF;
    IF before <> '' AND cardinality(types) > 0 THEN
        SELECT string_agg(t.told, ','), array_agg(t.type) INTO told, changed
          FROM backwhen.{slot}_altered(before::json, types, getdatabaseencoding()) t;
    END IF;
    IF cardinality(relations) > 0 THEN
        SELECT string_agg(r.told, ',') AS told, array_agg(r.type) AS changed INTO more
          FROM backwhen.{slot}_regrown(relations) r;
        told := nullif(concat_ws(',', told, more.told), '');
        changed := changed || more.changed;
    END IF;
    RETURN concat('{"before":{', told, '},"types":{', backwhen.{slot}_type_graph(changed, getdatabaseencoding()), '}',
        CASE WHEN getdatabaseencoding() <> 'UTF8' THEN ',"hex":true' END, '}') FROM (SELECT WHERE told IS NOT NULL) s;
END
$body$;

-- Describes how values of new types are composed, since a type inside them may have been altered since this
-- transaction began. NULL if the statement made no type that contains others.
CREATE OR REPLACE FUNCTION backwhen.{slot}_types_made(types oid[], relations oid[]) RETURNS text LANGUAGE plpgsql AS $body$
DECLARE
    made oid[] := ARRAY(SELECT t.oid FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
        WHERE t.typtype IN ('c', 'd', 'r') AND (t.oid = ANY (types) OR c.oid = ANY (relations) AND c.relkind = 'c'));
BEGIN
    RETURN CASE WHEN made <> '{}' THEN concat('{"types":{', backwhen.{slot}_type_graph(made, getdatabaseencoding()), '}}') END;
END
$body$;

-- Formats a label for the message: in an encoding other than UTF-8, as its bytes.
CREATE OR REPLACE FUNCTION backwhen.{slot}_label(label text, encoding name) RETURNS json LANGUAGE plpgsql AS $body$
BEGIN
    RETURN CASE WHEN encoding = 'UTF8' THEN to_json(label) ELSE to_json(encode(convert_to(label, encoding), 'hex')) END;
END
$body$;

-- Returns the enums and composite types among `types` that differed before, and how they differed.
CREATE OR REPLACE FUNCTION backwhen.{slot}_altered(before json, types oid[], encoding name, OUT type oid, OUT told text)
RETURNS SETOF record LANGUAGE plpgsql AS $body$
BEGIN
    RETURN QUERY
    WITH was AS (
        SELECT (l.value ->> 0)::oid AS enum, (l.value ->> 1)::oid AS label, l.value ->> 2 AS name
          FROM json_array_elements(before -> 'labels') l WHERE (l.value ->> 0)::oid = ANY (types)),
    had AS (
        SELECT (a.value ->> 0)::oid AS composite, array_agg((a.value ->> 1)::int2 ORDER BY (a.value ->> 1)::int2) AS numbers
          FROM json_array_elements(before -> 'attributes') a WHERE (a.value ->> 0)::oid = ANY (types) GROUP BY 1)
    SELECT t.oid, concat(to_json(t.oid::text), ':{"enum":',
               coalesce((SELECT json_agg(json_build_array(w.label::int8, backwhen.{slot}_label(w.name, encoding)) ORDER BY w.label)
                           FROM was w WHERE w.enum = t.oid)::text, '[]'), '}')
      FROM pg_type t
     WHERE t.oid = ANY (types) AND t.typtype = 'e'
       -- An enum that had no labels before, or that was made since, has no labels that read differently.
       AND ARRAY(SELECT concat(w.label, ' ', w.name) FROM was w WHERE w.enum = t.oid ORDER BY w.label)
           <> ARRAY(SELECT concat(e.oid, ' ', e.enumlabel) FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.oid)
    UNION ALL
    SELECT t.oid, concat(to_json(t.oid::text), ':{"composite":', to_json(coalesce(h.numbers, '{}')), '}')
      FROM pg_type t JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c' LEFT JOIN had h ON h.composite = t.oid
     WHERE t.oid = ANY (types)
       AND coalesce(h.numbers, '{}') <> ARRAY(SELECT a.attnum FROM pg_attribute a
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum);
END
$body$;

-- Returns the row types, used by other types or tables, of those relations whose columns this transaction changed:
-- which columns it dropped, and whether it may have added some.
CREATE OR REPLACE FUNCTION backwhen.{slot}_regrown(relations oid[], OUT type oid, OUT told text)
RETURNS SETOF record LANGUAGE plpgsql AS $body$
BEGIN
    RETURN QUERY
    SELECT c.reltype, concat(to_json(c.reltype::text), ':{"row":{"dropped":', to_json(f.dropped), ',"grown":', f.grown::text, '}}')
      FROM pg_class c CROSS JOIN LATERAL (
           SELECT ARRAY(SELECT a.attnum FROM pg_attribute a
                         WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attisdropped AND age(a.xmin) <= 0 ORDER BY 1) AS dropped,
                  coalesce((SELECT age(a.xmin) <= 0 FROM pg_attribute a
                             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                             ORDER BY a.attnum DESC LIMIT 1), false) AS grown) f
     WHERE c.oid = ANY (relations) AND c.reltype <> 0 AND c.relkind <> 'c' AND (f.grown OR f.dropped <> '{}')
       AND backwhen.{slot}_is_used(c.reltype);
END
$body$;

-- Whether another type or column uses a row type, or its array type.
CREATE OR REPLACE FUNCTION backwhen.{slot}_is_used(type oid) RETURNS bool LANGUAGE plpgsql AS $body$
BEGIN
    RETURN EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_type'::regclass AND d.refobjid = type
                      AND (d.deptype <> 'i' OR EXISTS (
                          SELECT FROM pg_depend e WHERE e.refclassid = 'pg_type'::regclass AND e.refobjid = d.objid)));
END
$body$;

-- Returns these types and all types that contain one of them, as the members of a JSON object that says how their
-- values are composed.
CREATE OR REPLACE FUNCTION backwhen.{slot}_type_graph(types oid[], encoding name) RETURNS text LANGUAGE plpgsql AS $body$
BEGIN
    RETURN (
    WITH RECURSIVE used(type) AS (
        SELECT unnest(types)
        UNION
        SELECT CASE d.classid WHEN 'pg_type'::regclass THEN d.objid
                              -- Few tables lend their row type to others.
                              ELSE (SELECT c.reltype FROM pg_class c WHERE c.oid = d.objid AND d.objsubid > 0
                                       AND (c.relkind = 'c' OR backwhen.{slot}_is_used(c.reltype))) END
          FROM used JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = used.type
         WHERE d.classid IN ('pg_type'::regclass, 'pg_class'::regclass))
    SELECT string_agg(concat(to_json(t.oid::text), ':', CASE t.typtype
               WHEN 'e' THEN concat('{"enum":', coalesce(
                   (SELECT json_agg(json_build_array(e.oid::int8, backwhen.{slot}_label(e.enumlabel::text, encoding)) ORDER BY e.oid)
                      FROM pg_enum e WHERE e.enumtypid = t.oid)::text, '[]'), '}')
               WHEN 'd' THEN concat('{"domain":', t.typbasetype::int8, '}')
               WHEN 'r' THEN concat('{"range":', (SELECT r.rngsubtype::int8 FROM pg_range r WHERE r.rngtypid = t.oid), '}')
               WHEN 'm' THEN concat('{"multirange":', (SELECT r.rngtypid::int8 FROM pg_range r WHERE r.rngmultitypid = t.oid), '}')
               WHEN 'c' THEN concat('{"composite":', coalesce(
                   (SELECT json_agg(json_build_array(a.attnum, a.atttypid::int8) ORDER BY a.attnum)
                      FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)::text, '[]'), '}')
               ELSE concat('{"array":', json_build_array(t.typelem::int8, e.typdelim), '}') END), ',')
      FROM used JOIN pg_type t ON t.oid = used.type LEFT JOIN pg_type e ON e.oid = t.typelem
     WHERE t.typtype IN ('e', 'd', 'r', 'm', 'c') OR t.typcategory = 'A' AND t.typelem <> 0);
END
$body$;

-- Returns how values of these reg* types read, as an object with a member for each type: the oids of the objects that
-- such a value may name, with their texts. NULL if there is none, or too much to keep.
CREATE OR REPLACE FUNCTION backwhen.{slot}_names(kinds oid[]) RETURNS text LANGUAGE plpgsql AS $body$
DECLARE
    facts text;
BEGIN
    SELECT json_object_agg(n.kind, coalesce(n.names, '[]'))::text INTO facts FROM (
        SELECT 24 AS kind, (SELECT json_agg(json_build_array(o.oid::int8, o.oid::regproc::text)) FROM pg_proc o WHERE o.oid >= 16384) AS names
        UNION ALL
        SELECT 2202, (SELECT json_agg(json_build_array(o.oid::int8, o.oid::regprocedure::text)) FROM pg_proc o WHERE o.oid >= 16384)
        UNION ALL
        SELECT 2203, (SELECT json_agg(json_build_array(o.oid::int8, o.oid::regoper::text)) FROM pg_operator o WHERE o.oid >= 16384)
        UNION ALL
        SELECT 2204, (SELECT json_agg(json_build_array(o.oid::int8, o.oid::regoperator::text)) FROM pg_operator o WHERE o.oid >= 16384)
        UNION ALL
        SELECT 2206, (SELECT json_agg(json_build_array(o.oid::int8, o.oid::regtype::text)) FROM pg_type o WHERE o.oid >= 16384)
        UNION ALL
        SELECT 3734, (SELECT json_agg(json_build_array(o.oid::int8, o.oid::regconfig::text)) FROM pg_ts_config o WHERE o.oid >= 16384)
        UNION ALL
        SELECT 3769, (SELECT json_agg(json_build_array(o.oid::int8, o.oid::regdictionary::text)) FROM pg_ts_dict o WHERE o.oid >= 16384)
        UNION ALL
        SELECT 4089, (SELECT json_agg(json_build_array(o.oid::int8, o.oid::regnamespace::text)) FROM pg_namespace o WHERE o.oid >= 16384)
        UNION ALL
        SELECT 4191, (SELECT json_agg(json_build_array(o.oid::int8, o.oid::regcollation::text)) FROM pg_collation o WHERE o.oid >= 16384)
        ) n WHERE n.kind = ANY (kinds);
    RETURN CASE WHEN octet_length(facts) <= 1048576 AND getdatabaseencoding() = 'UTF8' THEN facts END;
END
$body$;

-- Returns the reg* types that columns and domains use, also as arrays. regclass is left out, as the reader of the
-- history follows the names of relations by itself. regrole is left out, as no event trigger fires when a role is
-- renamed.
CREATE OR REPLACE FUNCTION backwhen.{slot}_name_types() RETURNS oid[] LANGUAGE plpgsql AS $body$
DECLARE
    known oid[] := '{24,1008,2202,2207,2203,2208,2204,2209,2206,2211,3734,3735,3769,3770,4089,4090,4191,4192}';
    used oid[] := ARRAY(
        SELECT a.atttypid FROM pg_attribute a WHERE a.atttypid = ANY (known) AND a.attrelid >= 16384 AND NOT a.attisdropped
        UNION
        SELECT t.typbasetype FROM pg_type t WHERE t.typbasetype = ANY (known));
BEGIN
    RETURN ARRAY(SELECT t.oid FROM pg_type t WHERE t.oid = ANY (known) AND t.typcategory <> 'A' AND (t.oid = ANY (used) OR t.typarray = ANY (used)));
END
$body$;

-- Compares the texts of reg* values with those in `kept`, from before the statement, and adds the differences to what
-- the statement did to types. A type is listed even if all its texts are the same, so that the reader knows this.
CREATE OR REPLACE FUNCTION backwhen.{slot}_renamed(kept text, retold text) RETURNS text LANGUAGE plpgsql AS $body$
DECLARE
    kinds oid[] := ARRAY(SELECT k::oid FROM json_object_keys(kept::json) k);
    with_arrays oid[] := ARRAY(SELECT unnest(ARRAY[k.oid, k.typarray]) FROM pg_type k WHERE k.oid = ANY (kinds));
    graph text := backwhen.{slot}_type_graph(ARRAY(
        SELECT t.oid FROM pg_type t WHERE t.typbasetype = ANY (with_arrays)
        UNION
        SELECT c.reltype FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND (c.relkind = 'c' OR backwhen.{slot}_is_used(c.reltype))
         WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attrelid >= 16384 AND a.atttypid = ANY (with_arrays)), 'UTF8');
    now text := backwhen.{slot}_names(kinds);
    told jsonb;
BEGIN
    -- With longer names there may be too much to tell; then the reader names the columns.
    IF now IS NULL THEN
        RETURN retold;
    END IF;
    WITH reads AS (
        SELECT t.is_now, k.key AS kind, (n.value ->> 0)::int8 AS object, n.value ->> 1 AS name
          FROM (VALUES (false, kept), (true, now)) t (is_now, names) CROSS JOIN LATERAL json_each(t.names::json) k
         CROSS JOIN LATERAL json_array_elements(k.value) n),
    changed AS (
        -- An object that is gone is written as its number.
        SELECT w.kind, w.object, w.name AS old, coalesce(r.name, w.object::text) AS new
          FROM reads w LEFT JOIN reads r ON r.is_now AND r.kind = w.kind AND r.object = w.object
         WHERE NOT w.is_now AND w.name IS DISTINCT FROM r.name)
    SELECT jsonb_build_object(
               'before', jsonb_object_agg(k.oid::text, jsonb_build_object('names', coalesce(
                   (SELECT jsonb_agg(jsonb_build_array(c.object, c.old)) FROM changed c WHERE c.kind = k.oid::text), '[]'))),
               'types', jsonb_object_agg(k.oid::text, jsonb_build_object('names', coalesce(
                   (SELECT jsonb_agg(jsonb_build_array(c.object, c.new)) FROM changed c WHERE c.kind = k.oid::text), '[]')))
                 || jsonb_object_agg(k.typarray::text, jsonb_build_object('array', jsonb_build_array(k.oid::int8, ',')))
                 || concat('{', graph, '}')::jsonb)
      INTO told FROM pg_type k WHERE k.oid = ANY (kinds);
    RETURN coalesce(retold::jsonb, '{}') || jsonb_build_object(
        'before', coalesce(retold::jsonb -> 'before', '{}') || (told -> 'before'),
        'types', (told -> 'types') || coalesce(retold::jsonb -> 'types', '{}'));
END
$body$;
