-- The table of an older version has other columns; values that somebody set in it by hand stay.
DO $do$
DECLARE
    columns name[] := ARRAY(SELECT a.attname FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = pg_catalog.to_regclass('backwhen.{slot}_config') AND a.attnum > 0 AND NOT a.attisdropped);
BEGIN
    IF 'secret' OPERATOR(pg_catalog.=) ANY (columns) THEN
        ALTER TABLE backwhen.{slot}_config DROP COLUMN secret, ADD COLUMN inner_key bytea, ADD COLUMN outer_key bytea,
            ADD COLUMN IF NOT EXISTS taken_out int8 NOT NULL DEFAULT 0, ADD COLUMN own xid8, ADD COLUMN functions text;
        ALTER TABLE backwhen.{slot}_config SET UNLOGGED;
    END IF;
    IF 'exact' OPERATOR(pg_catalog.=) ANY (columns) THEN
        ALTER TABLE backwhen.{slot}_config DROP COLUMN exact, DROP COLUMN inserts,
            DROP COLUMN IF EXISTS exact_id, DROP COLUMN IF EXISTS inserts_id,
            ADD COLUMN exact_ids oid[] NOT NULL DEFAULT '{}', ADD COLUMN inserts_ids oid[] NOT NULL DEFAULT '{}',
            ADD COLUMN pooled bool NOT NULL DEFAULT false;
    END IF;
END
$do$;
