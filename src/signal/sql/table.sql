-- What the triggers know of their history. One row. Unlogged, since a publication FOR ALL TABLES would send it, keys and
-- all, to subscribers that have no such table. After a crash it is empty, until capture looks at it again.
CREATE UNLOGGED TABLE IF NOT EXISTS backwhen.{slot}_config (
    -- The two keys of HMAC-SHA256, derived from the history's secret: with them the triggers sign what they write.
    inner_key bytea NOT NULL,
    outer_key bytea NOT NULL,
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
    -- How often somebody else took a table out of the publications.
    taken_out int8 NOT NULL DEFAULT 0,
    -- The last transaction that backwhen itself ran here: its statements are not told. Who may write this row is
    -- backwhen; a setting of the session could be anybody's.
    own xid8,
    -- A digest of the functions, as they were installed.
    functions text
);

-- ALTER DEFAULT PRIVILEGES may have given the table away.
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
    -- Nobody but the owner has any business in the schema: event triggers find their functions without rights.
    FOR grantee IN
        SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(acl.grantee)) END
          FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) acl
         WHERE n.nspname = 'backwhen' AND acl.grantee <> n.nspowner
    LOOP
        EXECUTE 'REVOKE ALL ON SCHEMA backwhen FROM ' || grantee;
    END LOOP;
END
$do$;
