-- Which relations a statement may have changed, of whatever kind, beside those that it names; NULL if none.
CREATE OR REPLACE FUNCTION backwhen.{slot}_affected(tag text, relations oid[], types oid[]) RETURNS oid[]
LANGUAGE plpgsql AS $body$
DECLARE
    named oid[];
BEGIN
    IF tag IN ('ALTER SCHEMA', 'ALTER EXTENSION') THEN
        -- A new name of the schema is one of all that is in it; what an extension let go is an orphan.
        named := array(SELECT o.objid FROM pg_event_trigger_ddl_commands() o);
        relations := relations || array(SELECT c.oid FROM pg_class c
            WHERE c.relkind = 'r' AND (tag = 'ALTER EXTENSION' OR c.relnamespace = ANY (named)));
        types := types || array(SELECT t.oid FROM pg_type t
            WHERE t.oid >= 16384 AND (tag = 'ALTER EXTENSION' OR t.typnamespace = ANY (named)));
    ELSIF cardinality(types) = 0 AND NOT EXISTS (
        -- The search below takes longer than most statements; few tables have children or lend others their type.
        SELECT FROM pg_class c WHERE c.oid = ANY (relations) AND (c.relhassubclass OR EXISTS (
            SELECT FROM pg_depend d WHERE d.refclassid = 'pg_type'::regclass AND d.refobjid = c.reltype
               -- Of the type itself, or of the array type that comes with it.
               AND (d.deptype <> 'i' OR EXISTS (
                   SELECT FROM pg_depend e WHERE e.refclassid = 'pg_type'::regclass AND e.refobjid = d.objid))))) THEN
        RETURN NULL;
    END IF;
    IF cardinality(relations) > 0 THEN
        relations := backwhen.{slot}_below(relations);
    END IF;
    RETURN relations || backwhen.{slot}_using(types, relations);
END
$body$;

-- Tables that read otherwise now although nobody wrote them: a type of theirs has other labels or
-- attributes. What this transaction made is not older than it.
CREATE OR REPLACE FUNCTION backwhen.{slot}_retold(relations oid[], types oid[], context text) RETURNS oid[]
LANGUAGE plpgsql AS $body$
DECLARE
    words text := lower(concat(current_query(), context));
    changed oid[] := array(
        SELECT c.reltype FROM pg_class c WHERE c.oid = ANY (relations) AND c.reltype <> 0
           AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND age(a.xmin) <= 0));
BEGIN
    -- A further label changes no value. Where neither word is to be seen, it may be a new name.
    IF words LIKE '%rename%' OR words NOT LIKE '%add%' THEN
        changed := changed || array(
            SELECT e.enumtypid FROM pg_enum e WHERE e.enumtypid = ANY (types) AND age(e.xmin) <= 0);
    END IF;
    IF cardinality(changed) = 0 THEN
        RETURN '{}';
    END IF;
    RETURN coalesce(backwhen.{slot}_using(changed, '{}'), '{}');
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

-- Puts a table into the publication that fits it; what kept it from that is the answer.
-- The event trigger, which this fires, then finds the search path that its expressions are planned for; the
-- statements name their schemas.
CREATE OR REPLACE FUNCTION backwhen.{slot}_join(named text, here text, other text, is_in_other bool, path text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' SET backwhen.own = 'publish' AS $body$
DECLARE
    statement text;
BEGIN
    IF current_setting('backwhen.{slot}_locked', true) = 'on' THEN
        RETURN format('%s is not published yet: the publications are in use', named);
    END IF;
    FOREACH statement IN ARRAY
        CASE WHEN is_in_other THEN ARRAY[format('ALTER PUBLICATION %I DROP TABLE ONLY %s', other, named)] END
        || format('ALTER PUBLICATION %I ADD TABLE ONLY %s', here, named) LOOP
        path := pg_catalog.set_config('search_path', path, true);
        EXECUTE statement;
    END LOOP;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    IF SQLSTATE = '55P03' THEN
        -- Who holds them may hold them long. Waited once, the others are left to the capture.
        PERFORM set_config('backwhen.{slot}_locked', 'on', true);
    END IF;
    RETURN format('%s is not published yet: %s', named, SQLERRM);
END
$body$;

