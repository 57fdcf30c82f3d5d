-- Selects the tables whose replica identity `init --full-identity` changes, each with the statements that do so. The
-- replica identity that a table had before lies in the name of an empty type in the schema backwhen, since a
-- publication FOR ALL TABLES would send a table of ours to subscribers: {slot}_was_TABLE_LETTER, with the table's oid,
-- the letter from pg_class.relreplident, and for an index its oid. {purpose} is one of
--   'new':  a table whose replica identity somebody has changed since is left alone
--   'all':  such a table gets FULL again
--   'none': every table gets back what it had.
SELECT t.named, t.statements
  FROM (SELECT d.named,
               CASE WHEN d.is_wanted AND d.identity <> 'f' AND NOT d.has_key AND (d.memory IS NULL OR {purpose} = 'all')
                    THEN pg_catalog.concat('DROP TYPE backwhen.' || pg_catalog.quote_ident(d.memory) || '; ',
                             'CREATE TYPE backwhen.{slot}_was_', d.oid, '_', d.identity, '_' || d.replica_index, ' AS (); ',
                             'ALTER TABLE ONLY ', d.named, ' REPLICA IDENTITY FULL')
                    WHEN d.memory IS NULL THEN NULL
                    -- With a primary key, the table needs FULL no longer. With a virtual column it would refuse updates.
                    WHEN d.identity = 'f' AND ({purpose} = 'none' OR d.has_virtual OR d.was = 'd' AND d.has_primary_key)
                    THEN pg_catalog.concat('ALTER TABLE ONLY ', d.named, ' REPLICA IDENTITY ',
                             CASE d.was WHEN 'd' THEN 'DEFAULT' ELSE coalesce('USING INDEX ' || pg_catalog.quote_ident(d.former_index), 'NOTHING') END,
                             '; DROP TYPE backwhen.', pg_catalog.quote_ident(d.memory))
                    WHEN {purpose} = 'none' OR d.has_key THEN 'DROP TYPE backwhen.' || pg_catalog.quote_ident(d.memory)
                    END AS statements
          FROM (SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS named, c.relreplident::text AS identity,
                       m.memory, pg_catalog.split_part(m.memory, '_', 5) AS was,
                       (SELECT x.relname FROM pg_catalog.pg_class x
                         WHERE x.oid = nullif(pg_catalog.split_part(m.memory, '_', 6), '')::oid) AS former_index,
                       (SELECT i.indexrelid FROM pg_catalog.pg_index i
                         WHERE i.indrelid = c.oid AND i.indisreplident AND c.relreplident = 'i') AS replica_index,
                       k.has_key, k.has_primary_key, v.has_virtual,
                       {purpose} <> 'none' AND c.relpersistence = 'p' AND NOT v.has_virtual AND {wanted}
                           AND n.nspname <> 'backwhen' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
                           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                                            WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid
                                              AND e.deptype = 'e') AS is_wanted
                  FROM pg_catalog.pg_class c
                  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                  LEFT JOIN LATERAL (
                       -- "`" is the letter after "_", so that an index of the catalog finds the name.
                       SELECT y.relname::text AS memory FROM pg_catalog.pg_class y
                        WHERE y.relnamespace = pg_catalog.to_regnamespace('backwhen') AND y.relkind = 'c'
                          AND y.relname > pg_catalog.concat('{slot}_was_', c.oid, '_')::name
                          AND y.relname < pg_catalog.concat('{slot}_was_', c.oid, '`')::name LIMIT 1) m ON true
                 -- The stream carries no value of a computed column, so a key with one cannot be used.
                 CROSS JOIN LATERAL (
                       SELECT coalesce(pg_catalog.bool_or(CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END), false)
                                  AS has_key,
                              coalesce(pg_catalog.bool_or(i.indisprimary), false) AS has_primary_key
                         FROM pg_catalog.pg_index i
                        WHERE i.indrelid = c.oid AND i.indimmediate AND i.indisvalid
                          AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                                           WHERE a.attrelid = c.oid AND a.attgenerated <> ''
                                             AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))) k
                 CROSS JOIN LATERAL (
                       SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                                       WHERE a.attrelid = c.oid AND a.attgenerated = 'v' AND NOT a.attisdropped) AS has_virtual) v
                 WHERE c.oid = ANY ({tables}) AND c.relkind = 'r') d) t
 WHERE t.statements IS NOT NULL
