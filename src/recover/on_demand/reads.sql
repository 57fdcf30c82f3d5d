-- The relations that materialised views read, through other views and down to partitions and children; and whether a view
-- calls a function of the application, which may read anything.
WITH RECURSIVE reads (view, relation) AS (
    SELECT v.oid, v.oid FROM pg_catalog.unnest($1::pg_catalog.oid[]) v (oid)
    UNION
    SELECT r.view, found.relation FROM reads r CROSS JOIN LATERAL (
        SELECT d.refobjid FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_depend d
            ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid
           AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
         WHERE w.ev_class = r.relation
        UNION ALL SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = r.relation) found (relation)
)
SELECT r.view, r.relation, EXISTS (
    SELECT FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_depend d
        ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid
     WHERE w.ev_class = r.relation AND d.refobjid >= 16384
       AND d.refclassid IN ('pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = d.refclassid AND e.objid = d.refobjid
                          AND e.deptype = 'e'))
  FROM reads r
