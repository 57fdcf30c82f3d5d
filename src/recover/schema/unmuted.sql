DROP EVENT TRIGGER backwhen_mute;
UPDATE pg_catalog.pg_proc p SET prolang = m.prolang, prosrc = m.prosrc, probin = m.probin, prosqlbody = m.prosqlbody
  FROM backwhen.muted m WHERE p.oid OPERATOR(pg_catalog.=) m.oid;
DROP FUNCTION backwhen.mute();
DROP TABLE backwhen.muted;
