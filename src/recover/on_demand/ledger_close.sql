-- While a table is not loaded, nobody has a privilege to see it empty: only TRUNCATE stays, which is checked before the
-- server waits for the gate, and which shows nothing. An empty list of privileges is none that the server takes, and TRUNCATE
-- means nothing for a sequence.
UPDATE backwhen_unfinished.gates g SET acl = c.relacl, file = pg_catalog.pg_relation_filenode(c.oid),
       bytes = pg_catalog.pg_relation_size(c.oid)
  FROM pg_catalog.pg_class c WHERE c.oid = g.oid;
INSERT INTO backwhen_unfinished.columns SELECT a.attrelid, a.attnum, a.attacl FROM pg_catalog.pg_attribute a
 WHERE a.attrelid IN (SELECT g.oid FROM backwhen_unfinished.gates g) AND a.attacl IS NOT NULL;
UPDATE pg_catalog.pg_attribute a SET attacl = NULL FROM backwhen_unfinished.columns k
 WHERE k.oid = a.attrelid AND k.number = a.attnum;
UPDATE pg_catalog.pg_class c SET relacl = coalesce((
    SELECT pg_catalog.array_agg(pg_catalog.makeaclitem(a.grantee, a.grantor, 'TRUNCATE', a.is_grantable))
      FROM pg_catalog.aclexplode(coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))) a
     WHERE a.privilege_type = 'TRUNCATE'),
    ARRAY[pg_catalog.makeaclitem(c.relowner, c.relowner, 'TRUNCATE', false)])
  FROM backwhen_unfinished.gates g WHERE g.oid = c.oid AND c.relkind <> 'm';
-- Privileges hold back neither a superuser nor a member of pg_read_all_data, but nobody's query scans a table that is not
-- populated. (COPY reads it nevertheless.)
UPDATE pg_catalog.pg_class c SET relispopulated = false FROM backwhen_unfinished.gates g WHERE g.oid = c.oid AND c.relkind = 'r';
INSERT INTO backwhen_unfinished.event_triggers SELECT e.oid, e.evtenabled FROM pg_catalog.pg_event_trigger e
 WHERE e.evtenabled IN ('R', 'A') OR e.evtevent = 'login' AND e.evtenabled <> 'D';
UPDATE pg_catalog.pg_event_trigger e SET evtenabled = 'D' FROM backwhen_unfinished.event_triggers t WHERE t.oid = e.oid;
