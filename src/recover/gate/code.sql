-- Those of some tables that compute something of the application's when rows are loaded or looked at: that call a function
-- in a computed column, an index, a statistics object or a partition key, or that have a value of a domain, which may get a
-- CHECK at any time. Parts of extensions count as the server's own. CHECKs of the tables do not count: they are not looked
-- at while rows are loaded.
WITH RECURSIVE needs (relation, class, object) AS (
    SELECT t.oid, part.class, part.object FROM pg_catalog.pg_class t CROSS JOIN LATERAL (
        SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid, t.oid
        UNION ALL SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, a.relid::pg_catalog.oid
          FROM pg_catalog.pg_partition_ancestors(t.oid) a
        UNION ALL SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, i.indexrelid
          FROM pg_catalog.pg_index i WHERE i.indrelid = t.oid
        UNION ALL SELECT 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass, s.oid
          FROM pg_catalog.pg_statistic_ext s WHERE s.stxrelid = t.oid
        UNION ALL SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, d.oid FROM pg_catalog.pg_attrdef d
          JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
         WHERE d.adrelid = t.oid AND a.attgenerated <> '') part (class, object)
     WHERE t.oid = ANY ($1)
    UNION
    SELECT n.relation, d.refclassid, d.refobjid FROM needs n
      JOIN pg_catalog.pg_depend d ON d.classid = n.class AND d.objid = n.object AND d.refobjid >= 16384
     WHERE d.refclassid IN ('pg_catalog.pg_type'::pg_catalog.regclass, 'pg_catalog.pg_class'::pg_catalog.regclass,
               'pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass,
               'pg_catalog.pg_opclass'::pg_catalog.regclass)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = d.refclassid AND e.objid = d.refobjid
                          AND e.deptype = 'e')
)
SELECT DISTINCT n.relation FROM needs n
 WHERE n.class IN ('pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass,
           'pg_catalog.pg_opclass'::pg_catalog.regclass)
    OR n.class = 'pg_catalog.pg_type'::pg_catalog.regclass
       AND EXISTS (SELECT FROM pg_catalog.pg_type t WHERE t.oid = n.object AND t.typtype = 'd')
