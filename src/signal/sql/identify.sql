-- Gives those of these tables, and of the tables below them, that lack a key REPLICA IDENTITY FULL, and gives tables
-- that have a key by now back what they had. Installed only for `init --full-identity`. A table that another session
-- has locked is left to the capture.
CREATE OR REPLACE FUNCTION backwhen.{slot}_identify(relations oid[]) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
    reached oid[] := backwhen.{slot}_below(relations);
    due record;
BEGIN
    FOR due IN {identities} LOOP
        PERFORM backwhen.{slot}_change_identity(due.statements);
    END LOOP;
END
$body$;

-- Runs such statements while neither other people's event triggers fire nor backwhen's tell of them: the message of the
-- statement at hand describes the table afterwards.
CREATE OR REPLACE FUNCTION backwhen.{slot}_change_identity(statements text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $body$
DECLARE
    silenced text[];
    kept text;
BEGIN
    silenced := backwhen.{slot}_silenced('{ALTER TABLE,CREATE TYPE,DROP TYPE}');
    kept := backwhen.{slot}_keep('joining', 'on');
    EXECUTE statements;
    kept := set_config('backwhen.{slot}_joining', '', true);
    IF silenced IS NOT NULL THEN
        kept := set_config(silenced[1], silenced[2], true);
    END IF;
EXCEPTION WHEN OTHERS THEN
    -- The error has put back the settings.
    NULL;
END
$body$;
