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

-- Puts a table into the publication that fits it; what kept it from that is the answer. An ALTER PUBLICATION fires the
-- event triggers of others, whose functions would run with our rights here, on a search path that they were not
-- written for: they are kept from firing, or the table is left to the capture.
CREATE OR REPLACE FUNCTION backwhen.{slot}_join(named text, here text, other text, is_in_other bool) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $body$
DECLARE
    statement text;
    silenced text[];
    kept text;
BEGIN
    IF backwhen.{slot}_kept('locked') = 'on' THEN
        RETURN format('%s is not published yet: the publications are in use', named);
    END IF;
    silenced := backwhen.{slot}_silenced();
    IF silenced[1] IS DISTINCT FROM 'event_triggers' THEN
        -- Our own fire, then.
        kept := backwhen.{slot}_keep('joining', 'on');
    END IF;
    FOREACH statement IN ARRAY
        CASE WHEN is_in_other THEN ARRAY[format('ALTER PUBLICATION %I DROP TABLE ONLY %s', other, named)] END
        || format('ALTER PUBLICATION %I ADD TABLE ONLY %s', here, named) LOOP
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
        -- Who holds them may hold them long. Waited once, the others are left to the capture.
        kept := backwhen.{slot}_keep('locked', 'on');
    END IF;
    RETURN format('%s is not published yet: %s', named, SQLERRM);
END
$body$;

-- Keeps other people's event triggers from firing: the setting that was changed for it, and what it was before; NULL if
-- there are none to fire. From version 17 on there is a setting for all event triggers; before, replication's role
-- silences those that are neither for replicas nor for always, at the cost of planning the session's statements anew.
CREATE OR REPLACE FUNCTION backwhen.{slot}_silenced() RETURNS text[] LANGUAGE plpgsql AS $body$
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
          AND (e.evttags IS NULL OR 'ALTER PUBLICATION' = ANY (e.evttags))
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

-- Why the rows of a table must not be read here; NULL if they may. What others write between this statement and the end
-- of its transaction would be lost, so only where a lock keeps them from writing. A snapshot that is older
-- than the lock has not what they wrote before; `fresh` says that this transaction itself wrote all rows.
CREATE OR REPLACE FUNCTION backwhen.{slot}_unreadable(relation oid, fresh bool) RETURNS text LANGUAGE plpgsql AS $body$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'relation' AND l.relation = $1
                      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                      AND l.pid = pg_backend_pid() AND l.granted
                      AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')) THEN
        RETURN 'others may write it meanwhile';
    ELSIF NOT fresh AND current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted')
        -- One that this transaction made: its rows are all its own. Each of its subtransactions holds a lock on its number.
        AND NOT EXISTS (SELECT FROM pg_attribute a JOIN pg_locks l ON l.transactionid = a.xmin
                         WHERE a.attrelid = $1 AND a.attnum = -1 AND l.locktype = 'transactionid'
                           AND l.pid = pg_backend_pid() AND l.mode = 'ExclusiveLock') THEN
        RETURN 'the transaction''s snapshot may be older than they are';
    END IF;
    RETURN NULL;
END
$body$;
