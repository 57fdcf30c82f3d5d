-- Materialised views are filled as their owners, as the server sees to itself: their functions run as on the source.
UPDATE pg_catalog.pg_proc p SET proowner = t.owner, prosecdef = false, proacl = t.acl FROM {guard}.lent t
 WHERE p.oid OPERATOR(pg_catalog.=) t.function
   AND p.prorettype OPERATOR(pg_catalog.<>) 'pg_catalog.event_trigger'::pg_catalog.regtype;
