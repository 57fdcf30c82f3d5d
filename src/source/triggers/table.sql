-- What the triggers know of their history. One row.
CREATE TABLE IF NOT EXISTS backwhen.{slot}_config (
    secret text NOT NULL,
    exact name NOT NULL,
    inserts name NOT NULL,
    -- For LIKE: schema and name of what is wanted, and of what is not.
    include_schema text[] NOT NULL,
    include_name text[] NOT NULL,
    exclude_schema text[] NOT NULL,
    exclude_name text[] NOT NULL,
    -- Of larger tables (pg_table_size, in bytes) no rows are written.
    image_limit int8 NOT NULL DEFAULT 1073741824,
    version text NOT NULL,
    -- The publications' oids.
    exact_id oid,
    inserts_id oid,
    -- How often somebody else took a table out of them.
    taken_out int8 NOT NULL DEFAULT 0
);
-- One that an older version made. Only then, as whoever is in the midst of a migration reads it.
DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                    WHERE a.attrelid = 'backwhen.{slot}_config'::pg_catalog.regclass AND a.attname = 'taken_out') THEN
        ALTER TABLE backwhen.{slot}_config ADD COLUMN IF NOT EXISTS exact_id oid, ADD COLUMN IF NOT EXISTS inserts_id oid,
            ADD COLUMN taken_out int8 NOT NULL DEFAULT 0;
    END IF;
END
$do$;

-- ALTER DEFAULT PRIVILEGES may have given it away.
DO $do$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(acl.grantee)) END
          FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) acl
         WHERE c.oid = 'backwhen.{slot}_config'::pg_catalog.regclass AND acl.grantee <> c.relowner
    LOOP
        EXECUTE 'REVOKE ALL ON backwhen.{slot}_config FROM ' || grantee;
    END LOOP;
END
$do$;
