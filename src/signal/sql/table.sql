-- This table holds what the triggers know of their history, in one row. It is unlogged, since a publication FOR ALL
-- TABLES would send it, with its keys, to subscribers that have no such table. After a crash it is empty until the
-- capture fills it again.
CREATE UNLOGGED TABLE IF NOT EXISTS backwhen.{slot}_config (
    -- The two keys of HMAC-SHA256, derived from the history's secret: the triggers sign their messages with them.
    inner_key bytea NOT NULL,
    outer_key bytea NOT NULL,
    -- LIKE patterns: schema and name of the tables to protect, and of the tables to leave out.
    include_schema text[] NOT NULL,
    include_name text[] NOT NULL,
    exclude_schema text[] NOT NULL,
    exclude_name text[] NOT NULL,
    -- The rows of a table larger than this (pg_table_size, in bytes) are not written; those of a smaller one are.
    image_limit int8 NOT NULL DEFAULT 1073741824,
    version text NOT NULL,
    -- The oids of the publications. Only if the stream names all of them, tables are put into others than the first.
    exact_ids oid[] NOT NULL DEFAULT '{}',
    inserts_ids oid[] NOT NULL DEFAULT '{}',
    pooled bool NOT NULL DEFAULT false,
    -- How often somebody else took a table out of the publications.
    taken_out int8 NOT NULL DEFAULT 0,
    -- The last transaction that backwhen itself ran here; its statements are not told. Only backwhen may write this
    -- row, whereas anybody could write a setting of the session.
    own xid8,
    -- A digest of the functions as they were installed.
    functions text
);

-- ALTER DEFAULT PRIVILEGES may have granted rights on the table to others.
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
    -- Only the owner needs rights on the schema: event triggers find their functions without rights.
    FOR grantee IN
        SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(acl.grantee)) END
          FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) acl
         WHERE n.nspname = 'backwhen' AND acl.grantee <> n.nspowner
    LOOP
        EXECUTE 'REVOKE ALL ON SCHEMA backwhen FROM ' || grantee;
    END LOOP;
END
$do$;
