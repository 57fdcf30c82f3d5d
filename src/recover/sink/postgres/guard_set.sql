-- The tables and types are made and have no rows yet. From here on a function that the server calls by itself has no more
-- rights than those who wrote it and those whose objects call it: it is lent, as SECURITY DEFINER, to one of their roles
-- from which all of them inherit, or to a role without rights if there is none. Inside of it nobody can take up another
-- role. Functions of superusers that only superusers' objects call stay as they are, and so do functions that nothing in
-- the catalogs refers to: only other functions can call them, and they run as those do.
CREATE TABLE {guard}.lent (function oid PRIMARY KEY, owner oid NOT NULL, acl aclitem[]);
CREATE TABLE {guard}.borrowers (function oid, role oid NOT NULL);
-- Functions whose names are in definitions that follow the rows, with the owners of those.
CREATE TABLE {guard}.later (function oid, caller oid);

-- Each of the application's functions with the owners of the objects whose expressions call it, through operators, casts,
-- operator classes, domains and types that hold those, and defaults of arguments too.
CREATE FUNCTION {guard}.callers() RETURNS TABLE (function oid, caller oid) LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $body$
WITH RECURSIVE uses (function, class, object) AS (
    SELECT p.oid, 'pg_proc'::regclass::oid, p.oid
      FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
     WHERE p.oid >= 16384 AND p.prokind IN ('f', 'p', 'w') AND l.lanname NOT IN ('internal', 'c')
       AND p.pronamespace <> '{guard}'::regnamespace
       AND (NOT p.prosecdef OR EXISTS (SELECT FROM {guard}.lent t WHERE t.function = p.oid))
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
    UNION
    SELECT u.function, e.class, e.object FROM uses u CROSS JOIN LATERAL (
        -- Objects that refer to this one and can be part of an expression or have one,
        SELECT d.classid, d.objid FROM pg_depend d
         WHERE d.refclassid = u.class AND d.refobjid = u.object AND d.deptype <> 'e'
           AND d.classid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass, 'pg_class'::regclass,
                   'pg_constraint'::regclass, 'pg_attrdef'::regclass, 'pg_cast'::regclass, 'pg_amproc'::regclass,
                   'pg_amop'::regclass, 'pg_opclass'::regclass, 'pg_opfamily'::regclass, 'pg_statistic_ext'::regclass)
           AND (u.class <> 'pg_class'::regclass OR d.classid = 'pg_class'::regclass)
           AND u.class NOT IN ('pg_constraint'::regclass, 'pg_attrdef'::regclass)
           AND (d.classid <> 'pg_proc'::regclass OR EXISTS (SELECT FROM pg_proc p
                   WHERE p.oid = d.objid AND (p.proargdefaults IS NOT NULL OR p.prosqlbody IS NOT NULL)))
        -- a row type with a column of this type,
        UNION ALL SELECT 'pg_type'::regclass, c.reltype FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
         WHERE u.class = 'pg_type'::regclass AND d.refclassid = u.class AND d.refobjid = u.object
           AND d.classid = 'pg_class'::regclass AND d.objsubid > 0 AND c.reltype <> 0
        -- and what it is a part of.
        UNION ALL SELECT part.class, part.object FROM pg_constraint k,
               LATERAL (VALUES ('pg_type'::regclass::oid, k.contypid), ('pg_class'::regclass, k.conrelid)) part (class, object)
         WHERE u.class = 'pg_constraint'::regclass AND k.oid = u.object AND part.object <> 0
        UNION ALL SELECT 'pg_class'::regclass, a.adrelid FROM pg_attrdef a
         WHERE u.class = 'pg_attrdef'::regclass AND a.oid = u.object
        UNION ALL SELECT d.refclassid, d.refobjid FROM pg_depend d
         WHERE u.class IN ('pg_amproc'::regclass, 'pg_amop'::regclass) AND d.classid = u.class AND d.objid = u.object
           AND d.refclassid IN ('pg_opclass'::regclass, 'pg_opfamily'::regclass)
        UNION ALL SELECT 'pg_type'::regclass, o.opcintype FROM pg_opclass o
         WHERE u.class = 'pg_opclass'::regclass AND o.oid = u.object
        UNION ALL SELECT 'pg_type'::regclass, converted.type FROM pg_cast k, LATERAL (VALUES (k.castsource), (k.casttarget)) converted (type)
         WHERE u.class = 'pg_cast'::regclass AND k.oid = u.object) e (class, object)
)
SELECT u.function, o.owner FROM uses u CROSS JOIN LATERAL (
    SELECT c.relowner FROM pg_class c
     WHERE u.class = 'pg_class'::regclass AND c.oid = u.object AND c.relkind IN ('r', 'p', 'f', 'i', 'I')
    UNION ALL SELECT t.typowner FROM pg_type t WHERE u.class = 'pg_type'::regclass AND t.oid = u.object AND t.typtype IN ('d', 'r')
    UNION ALL SELECT p.oprowner FROM pg_operator p WHERE u.class = 'pg_operator'::regclass AND p.oid = u.object
    UNION ALL SELECT p.proowner FROM pg_proc p
     WHERE u.class = 'pg_proc'::regclass AND p.oid = u.object AND u.object <> u.function
    UNION ALL SELECT s.stxowner FROM pg_statistic_ext s WHERE u.class = 'pg_statistic_ext'::regclass AND s.oid = u.object) o (owner)
UNION SELECT l.function, l.caller FROM {guard}.later l WHERE l.function IN (SELECT u.function FROM uses u WHERE u.object <> u.function)
-- Functions of event triggers are called by the server alone.
UNION SELECT p.oid, p.proowner FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
 WHERE p.oid >= 16384 AND p.prorettype = 'event_trigger'::regtype AND NOT p.prosecdef AND l.lanname NOT IN ('internal', 'c')
   AND p.pronamespace <> '{guard}'::regnamespace
$body$;

-- The catalog is written directly, as ALTER FUNCTION could not give owners and privileges back exactly.
CREATE FUNCTION {guard}.lend() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    -- Indexes are made in several sessions.
    LOCK TABLE {guard}.lent IN EXCLUSIVE MODE;
    DELETE FROM {guard}.borrowers;
    INSERT INTO {guard}.borrowers
    WITH callers AS MATERIALIZED (SELECT * FROM {guard}.callers()),
    concerned (function, role) AS (
        SELECT k.function, k.caller FROM callers k
        UNION
        SELECT k.function, coalesce(t.owner, p.proowner) FROM callers k
          JOIN pg_proc p ON p.oid = k.function LEFT JOIN {guard}.lent t ON t.function = k.function),
    ordinary AS (SELECT c.function, c.role FROM concerned c JOIN pg_roles r ON r.oid = c.role WHERE NOT r.rolsuper)
    SELECT o.function, coalesce(
               (SELECT min(low.role) FROM ordinary low WHERE low.function = o.function
                   AND NOT EXISTS (SELECT FROM ordinary high WHERE high.function = o.function
                                      AND NOT pg_has_role(high.role, low.role, 'USAGE'))),
               (SELECT r.oid FROM pg_roles r WHERE r.rolname = {powerless}))
      FROM ordinary o GROUP BY o.function;
    INSERT INTO {guard}.lent SELECT p.oid, p.proowner, p.proacl FROM {guard}.borrowers b JOIN pg_proc p ON p.oid = b.function
        ON CONFLICT DO NOTHING;
    -- Roles that cannot act for the borrower cannot call the function either.
    UPDATE pg_proc p SET proowner = b.role, prosecdef = true,
           proacl = CASE WHEN r.rolname <> {powerless} THEN ARRAY[makeaclitem(b.role, b.role, 'EXECUTE', false)] END
      FROM {guard}.borrowers b JOIN pg_roles r ON r.oid = b.role
     WHERE p.oid = b.function AND (p.proowner <> b.role OR NOT p.prosecdef);
END
$body$;

-- Code of ordinary roles alters nothing here: neither a function nor a table whose rows are still to come.
CREATE FUNCTION {guard}.refuse() RETURNS event_trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = current_user AND r.rolsuper) THEN
        RAISE EXCEPTION 'no % while the database is being rebuilt', TG_TAG;
    END IF;
END
$body$;
CREATE EVENT TRIGGER "!backwhen_guard" ON ddl_command_start EXECUTE FUNCTION {guard}.refuse();
ALTER EVENT TRIGGER "!backwhen_guard" ENABLE ALWAYS;

-- An index or statistics may call functions too: their expressions are evaluated whenever a query on the table is planned.
CREATE FUNCTION {guard}.extend() RETURNS event_trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    -- Where there is no function that could be lent, a thousand keys need not be looked at.
    IF NOT EXISTS (SELECT FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
                    WHERE p.oid >= 16384 AND l.lanname NOT IN ('internal', 'c') AND p.pronamespace <> '{guard}'::regnamespace)
    THEN
        RETURN;
    END IF;
    IF EXISTS (
        SELECT FROM pg_event_trigger_ddl_commands() c CROSS JOIN LATERAL (
            SELECT c.classid, c.objid
            UNION ALL SELECT 'pg_class'::regclass, i.indexrelid FROM pg_index i WHERE i.indrelid = c.objid
            UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint k WHERE k.conrelid = c.objid AND k.contype = 'c') made (class, object)
          JOIN pg_depend d ON d.classid = made.class AND d.objid = made.object
         WHERE d.refobjid >= 16384 AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_opclass'::regclass, 'pg_type'::regclass)
           -- An extension's own parts call nothing of the application's,
           AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.refclassid AND e.objid = d.refobjid AND e.deptype = 'e')
           -- and a function may be lent already to a role that suits the table's owner, too.
           AND NOT EXISTS (SELECT FROM {guard}.lent t JOIN pg_proc p ON p.oid = t.function JOIN pg_class r ON r.oid = made.object
                            WHERE d.refclassid = 'pg_proc'::regclass AND t.function = d.refobjid AND made.class = 'pg_class'::regclass
                              AND p.proargdefaults IS NULL AND p.prosqlbody IS NULL
                              AND NOT EXISTS (SELECT FROM pg_roles u WHERE u.oid = r.relowner AND u.rolsuper)
                              AND pg_has_role(r.relowner, p.proowner, 'USAGE')))
    THEN
        PERFORM {guard}.lend();
    END IF;
END
$body$;
CREATE EVENT TRIGGER "!backwhen_guard_extended" ON ddl_command_end
    WHEN TAG IN ('CREATE INDEX', 'ALTER TABLE', 'CREATE STATISTICS') EXECUTE FUNCTION {guard}.extend();
ALTER EVENT TRIGGER "!backwhen_guard_extended" ENABLE ALWAYS;
