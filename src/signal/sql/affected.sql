-- Returns the relations of any kind that a statement may have changed, beside those that the statement names; NULL if
-- there are none.
CREATE OR REPLACE FUNCTION backwhen.{slot}_affected(tag text, relations oid[], types oid[]) RETURNS oid[]
LANGUAGE plpgsql AS $body$
DECLARE
    named oid[];
BEGIN
    IF tag IN ('ALTER SCHEMA', 'ALTER EXTENSION') THEN
        -- Renaming a schema renames all that is in it; an object that an extension released becomes an orphan.
        named := array(SELECT o.objid FROM pg_event_trigger_ddl_commands() o);
        relations := relations || array(SELECT c.oid FROM pg_class c
            WHERE c.relkind = 'r' AND (tag = 'ALTER EXTENSION' OR c.relnamespace = ANY (named)));
        types := types || array(SELECT t.oid FROM pg_type t
            WHERE t.oid >= 16384 AND (tag = 'ALTER EXTENSION' OR t.typnamespace = ANY (named)));
    ELSIF cardinality(types) = 0 AND NOT EXISTS (
        -- The search below takes longer than most statements; few tables have children or lend their row type to
        -- others.
        SELECT FROM pg_class c WHERE c.oid = ANY (relations) AND (c.relhassubclass OR EXISTS (
            SELECT FROM pg_depend d WHERE d.refclassid = 'pg_type'::regclass AND d.refobjid = c.reltype
               -- The dependency is on the type itself, or on its array type.
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

-- Returns the tables that lost the index of their replica identity.
CREATE OR REPLACE FUNCTION backwhen.{slot}_keyless(exact oid[], cascaded bool) RETURNS oid[] LANGUAGE plpgsql AS $body$
BEGIN
    RETURN array(SELECT c.oid FROM pg_publication_rel pr
      JOIN pg_class c ON c.oid = pr.prrelid
     WHERE pr.prpubid = ANY (exact) AND (c.relreplident = 'i' OR c.relreplident = 'd' AND cascaded)
       AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid
                          AND CASE c.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END));
END
$body$;

-- Puts a table into a publication that fits it, and returns the reason if that was not possible. A table that has lost
-- its replica identity must leave the exact publication, or its updates would fail; a table that has gained one may
-- stay in the other publication.
CREATE OR REPLACE FUNCTION backwhen.{slot}_join(named text, is_exact bool, in_inserts bool, publications oid[]) RETURNS text
LANGUAGE plpgsql AS $body$
DECLARE
    reason text;
BEGIN
    IF backwhen.{slot}_kept('locked') = 'on' THEN
        RETURN format('%s is not published yet: the publications are in use', named);
    END IF;
    reason := backwhen.{slot}_publish(CASE WHEN NOT is_exact THEN
            ARRAY(SELECT format('ALTER PUBLICATION %I DROP TABLE ONLY %s', p.pubname, named) FROM pg_publication p
                   WHERE p.oid = ANY (publications) AND p.oid IN (SELECT unnest(f.exact_ids) FROM backwhen.{slot}_config f)) END
        || CASE WHEN is_exact OR NOT in_inserts
                THEN ARRAY[format('ALTER PUBLICATION %I ADD TABLE ONLY %s', backwhen.{slot}_free(is_exact), named)] END);
    RETURN format('%s is not published yet: ', named) || reason;
END
$body$;

-- Returns the name of a publication that no other transaction is altering. An ALTER PUBLICATION holds a lock until its
-- transaction ends, so each transaction chooses one of several publications by a lock of its own, for which it never
-- waits. Anybody could take such a lock, so it decides nothing but the choice.
CREATE OR REPLACE FUNCTION backwhen.{slot}_free(is_exact bool) RETURNS name LANGUAGE plpgsql AS $body$
DECLARE
    ids oid[] := (SELECT CASE WHEN NOT f.pooled THEN ARRAY[CASE WHEN is_exact THEN f.exact_ids[1] ELSE f.inserts_ids[1] END]
                              WHEN is_exact THEN f.exact_ids ELSE f.inserts_ids END FROM backwhen.{slot}_config f);
    chosen oid;
BEGIN
    FOR i IN 1..cardinality(ids) LOOP
        -- Sessions begin at different places, so that one which stays open keeps few tables' publications locked.
        chosen := ids[1 + (pg_backend_pid() + i) % cardinality(ids)];
        EXIT WHEN pg_try_advisory_xact_lock(6104, chosen::int);
    END LOOP;
    RETURN (SELECT p.pubname FROM pg_publication p WHERE p.oid = chosen);
END
$body$;

-- Takes tables out of the publications for the statement that begins, which the server would refuse for a published
-- table: SET UNLOGGED, and SET EXPRESSION of a column that is computed when it is read. Returns the tables with their
-- publications. A table must be named in the text, or be below a table that is; and the session's user must be a member
-- of its owner, since the table stays locked until the transaction ends.
CREATE OR REPLACE FUNCTION backwhen.{slot}_unpublish(query text) RETURNS text LANGUAGE plpgsql AS $body$
DECLARE
    unpublished text;
    statements text[];
BEGIN
    WITH RECURSIVE named(relation) AS (
        SELECT c.oid FROM pg_class c
         WHERE c.relkind IN ('r', 'p') AND strpos(query, lower(replace(c.relname, '"', '""') COLLATE "C")) > 0
        UNION
        SELECT i.inhrelid FROM named JOIN pg_inherits i ON i.inhparent = named.relation)
    SELECT string_agg(concat(c.oid, '/', p.oid), ','),
           array_agg(format('ALTER PUBLICATION %I DROP TABLE ONLY %I.%I', p.pubname, n.nspname, c.relname))
      INTO unpublished, statements
      FROM named JOIN pg_class c ON c.oid = named.relation JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_publication_rel m ON m.prrelid = c.oid JOIN pg_publication p ON p.oid = m.prpubid
     WHERE p.oid IN (SELECT unnest(f.exact_ids || f.inserts_ids) FROM backwhen.{slot}_config f)
       AND pg_has_role(session_user, c.relowner, 'MEMBER')
       AND (query LIKE '%unlogged%' OR EXISTS (
            SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated = 'v' AND NOT a.attisdropped));
    RETURN CASE WHEN unpublished IS NULL OR backwhen.{slot}_publish(statements) IS NOT NULL THEN '' ELSE unpublished END;
END
$body$;

-- Puts tables back into the publications that they were taken out of for the statement that ends; an unlogged table
-- cannot be in one. Returns the reason if that was not possible.
CREATE OR REPLACE FUNCTION backwhen.{slot}_republish(unpublished text) RETURNS text LANGUAGE plpgsql AS $body$
BEGIN
    RETURN backwhen.{slot}_publish(ARRAY(
        SELECT format('ALTER PUBLICATION %I ADD TABLE ONLY %I.%I', p.pubname, n.nspname, c.relname)
          FROM unnest(string_to_array(unpublished, ',')) l JOIN pg_class c ON c.oid = split_part(l, '/', 1)::oid
          JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_publication p ON p.oid = split_part(l, '/', 2)::oid
         WHERE c.relpersistence = 'p'));
END
$body$;

-- Alters the publications, and returns the reason if that was not possible. An ALTER PUBLICATION fires other people's
-- event triggers, whose functions would run with our rights here, on a search path that they were not written for. So
-- either they are kept from firing, or the tables are left to the capture.
CREATE OR REPLACE FUNCTION backwhen.{slot}_publish(statements text[]) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $body$
DECLARE
    statement text;
    silenced text[];
    kept text;
BEGIN
    silenced := backwhen.{slot}_silenced('{ALTER PUBLICATION}');
    IF silenced[1] IS DISTINCT FROM 'event_triggers' THEN
        -- Now backwhen's own event triggers fire.
        kept := backwhen.{slot}_keep('joining', 'on');
    END IF;
    FOREACH statement IN ARRAY statements LOOP
        EXECUTE statement;
    END LOOP;
    IF kept IS NOT NULL THEN
        kept := set_config('backwhen.{slot}_joining', '', true);
    END IF;
    IF silenced IS NOT NULL THEN
        kept := set_config(silenced[1], silenced[2], true);
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    IF SQLSTATE = '55P03' THEN
        -- Another session may hold these locks for long. After one wait, the other tables are left to the capture.
        kept := backwhen.{slot}_keep('locked', 'on');
    END IF;
    RETURN SQLERRM;
END
$body$;

-- Keeps other people's event triggers for some commands from firing. Returns the setting that was changed for this, and
-- its value before; NULL if no such trigger would fire. From version 17 on, one setting covers all event triggers. Before,
-- session_replication_role silences those that are enabled neither for replicas nor always; changing it makes the
-- session plan its statements anew.
CREATE OR REPLACE FUNCTION backwhen.{slot}_silenced(tags text[]) RETURNS text[] LANGUAGE plpgsql AS $body$
DECLARE
    before text := current_setting('session_replication_role');
    others text[];
    changed text;
BEGIN
    IF current_setting('server_version_num')::int >= 170000 THEN
        IF has_parameter_privilege('event_triggers', 'SET') THEN
            before := current_setting('event_triggers');
            changed := set_config('event_triggers', 'off', true);
            RETURN ARRAY['event_triggers', before];
        END IF;
    END IF;
    others := array(SELECT e.evtenabled::text FROM pg_event_trigger e
        WHERE e.evtevent IN ('ddl_command_start', 'ddl_command_end', 'sql_drop') AND e.evtenabled <> 'D'
          AND (e.evttags IS NULL OR e.evttags && tags)
          AND e.evtfoid NOT IN (SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'backwhen'::regnamespace));
    IF others && '{A,R}' THEN
        RAISE EXCEPTION 'another event trigger, enabled for replicas, would run as %', current_user;
    ELSIF cardinality(others) = 0 OR before = 'replica' THEN
        RETURN NULL;
    END IF;
    changed := set_config('session_replication_role', 'replica', true);
    RETURN ARRAY['session_replication_role', before];
END
$body$;

-- Returns why the rows of a table must not be read here; NULL if they may be read. Rows that others write between
-- this statement and the end of its transaction would be lost, so rows are read only under a lock that prevents such
-- writes. A snapshot older than the lock lacks the rows that others wrote before the lock; `fresh` says that this
-- transaction itself wrote all rows.
CREATE OR REPLACE FUNCTION backwhen.{slot}_unreadable(relation oid, fresh bool) RETURNS text LANGUAGE plpgsql AS $body$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'relation' AND l.relation = $1
                      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                      AND l.pid = pg_backend_pid() AND l.granted
                      AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')) THEN
        RETURN 'others may write it meanwhile';
    ELSIF NOT fresh AND current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted')
        -- If this transaction made the table, all its rows are this transaction's. Each subtransaction holds a lock
        -- on its own transaction number.
        AND NOT EXISTS (SELECT FROM pg_attribute a JOIN pg_locks l ON l.transactionid = a.xmin
                         WHERE a.attrelid = $1 AND a.attnum = -1 AND l.locktype = 'transactionid'
                           AND l.pid = pg_backend_pid() AND l.mode = 'ExclusiveLock') THEN
        RETURN 'the transaction''s snapshot may be older than they are';
    END IF;
    RETURN NULL;
END
$body$;
