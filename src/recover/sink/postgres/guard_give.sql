-- What is not an extension's, not the server's and not an owned part of something else.
DO $do$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT pg_catalog.format('ALTER SCHEMA %I OWNER TO %I', n.nspname, {owner}) FROM pg_catalog.pg_namespace n
         WHERE n.oid >= 16384 AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('{guard}', '{marker}')
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
                              AND d.objid = n.oid AND d.deptype = 'e')
        UNION ALL
        SELECT pg_catalog.format('ALTER TABLE %s OWNER TO %I', c.oid::pg_catalog.regclass, {owner}) FROM pg_catalog.pg_class c
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname !~ '^pg_'
           AND n.nspname NOT IN ('{guard}', '{marker}')
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                              AND d.objid = c.oid AND (d.deptype = 'e' OR d.deptype IN ('a', 'i') AND c.relkind = 'S'))
        UNION ALL
        SELECT pg_catalog.format('ALTER TYPE %s OWNER TO %I', t.oid::pg_catalog.regtype, {owner}) FROM pg_catalog.pg_type t
          JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
         WHERE t.oid >= 16384 AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('{guard}', '{marker}')
           AND t.typtype IN ('d', 'e', 'r', 'c')
           AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
                              AND d.objid = t.oid AND d.deptype = 'e')
        UNION ALL
        SELECT pg_catalog.format('ALTER ROUTINE %s OWNER TO %I', p.oid::pg_catalog.regprocedure, {owner}) FROM pg_catalog.pg_proc p
          JOIN pg_catalog.pg_language l ON l.oid = p.prolang
         WHERE p.oid >= 16384 AND p.prokind IN ('f', 'p', 'w') AND l.lanname NOT IN ('internal', 'c')
           AND p.pronamespace <> '{guard}'::pg_catalog.regnamespace
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                              AND d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE statement;
    END LOOP;
END
$do$;
