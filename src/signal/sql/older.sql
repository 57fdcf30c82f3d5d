-- The table of an older version has other columns; values that somebody set in it by hand stay.
DO $do$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = pg_catalog.to_regclass('backwhen.{slot}_config') AND a.attname = 'secret') THEN
        ALTER TABLE backwhen.{slot}_config DROP COLUMN secret, ADD COLUMN inner_key bytea, ADD COLUMN outer_key bytea,
            ADD COLUMN IF NOT EXISTS exact_id oid, ADD COLUMN IF NOT EXISTS inserts_id oid,
            ADD COLUMN IF NOT EXISTS taken_out int8 NOT NULL DEFAULT 0, ADD COLUMN own xid8, ADD COLUMN functions text;
        ALTER TABLE backwhen.{slot}_config SET UNLOGGED;
    END IF;
END
$do$;
