-- Marks the rest of this transaction as backwhen's own work, for the triggers of every history in this database whose
-- table this role may write.
DO $do$
DECLARE
    config text;
BEGIN
    -- This setting is for triggers that an older version installed.
    PERFORM pg_catalog.set_config('backwhen.own', '{own}', true);
    FOR config IN
        SELECT c.oid::pg_catalog.regclass::text FROM pg_catalog.pg_class c
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'backwhen' AND c.relkind = 'r' AND c.relname LIKE '%\_config'
           AND pg_catalog.has_table_privilege(c.oid, 'UPDATE')
           AND EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'own')
    LOOP
        EXECUTE pg_catalog.format('UPDATE %s SET own = pg_catalog.pg_current_xact_id()', config);
    END LOOP;
END
$do$;
