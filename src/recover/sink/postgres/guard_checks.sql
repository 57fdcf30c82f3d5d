-- CHECKs that call functions of the server or of an extension directly, which may do what only a superuser may: read and
-- write files, run SQL from a text, change settings; and those of ordinary roles that call a superuser's functions, with
-- what their authors like. They come back NOT VALID in the end. Harmless ones stay.
-- An ordinary role's function whose arguments have such a call as a default is as risky: the caller evaluates it. In other
-- expressions than CHECKs the server takes no function whose defaults are volatile.
CREATE TABLE {guard}.checks (name text, statement text);
CREATE TABLE {guard}.risky (function oid PRIMARY KEY);
INSERT INTO {guard}.risky
WITH RECURSIVE risky (function) AS (
    SELECT p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
     WHERE l.lanname IN ('internal', 'c')
       AND (p.provolatile = 'v' AND p.proname NOT IN ('random', 'clock_timestamp', 'timeofday', 'gen_random_uuid',
                'uuidv4', 'uuidv7', 'nextval', 'currval', 'lastval')
            OR p.proname ~ '^(query|table|cursor|schema|database)_to_xml' OR p.proname IN ('ts_stat', 'ts_rewrite'))
    UNION
    SELECT called.function FROM risky k JOIN (
        SELECT p.oid AS function, m[1]::oid AS default_calls FROM pg_catalog.pg_proc p
          JOIN pg_catalog.pg_roles r ON r.oid = p.proowner AND NOT r.rolsuper,
               pg_catalog.regexp_matches(p.proargdefaults::text, ':(?:funcid|opfuncid) (\d+)', 'g') m
         WHERE p.oid >= 16384) called ON called.default_calls = k.function)
SELECT k.function FROM risky k;
DO $do$
DECLARE
    risky oid[] := ARRAY(SELECT k.function FROM {guard}.risky k);
    trusted oid[] := ARRAY(
        SELECT p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
          JOIN pg_catalog.pg_roles r ON r.oid = p.proowner
         WHERE p.oid >= 16384 AND l.lanname NOT IN ('internal', 'c') AND NOT p.prosecdef AND r.rolsuper);
    found record;
BEGIN
    PERFORM pg_catalog.set_config('session_replication_role', 'replica', true);
    FOR found IN
        SELECT k.conname, pg_catalog.pg_get_constraintdef(k.oid) AS definition,
               CASE WHEN k.contypid <> 0 THEN 'DOMAIN' ELSE 'TABLE' END AS kind,
               CASE WHEN k.contypid <> 0 THEN k.contypid::pg_catalog.regtype::text ELSE k.conrelid::pg_catalog.regclass::text END AS of
          FROM pg_catalog.pg_constraint k
         WHERE k.contype = 'c' AND k.oid >= 16384 AND k.conislocal
           AND EXISTS (SELECT FROM pg_catalog.regexp_matches(k.conbin::text, ':(?:funcid|opfuncid|aggfnoid|winfnoid) (\d+)', 'g') m
                        WHERE m[1]::oid = ANY (risky)
                           OR m[1]::oid = ANY (trusted) AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolsuper AND r.oid =
                               coalesce((SELECT t.typowner FROM pg_catalog.pg_type t WHERE t.oid = k.contypid),
                                        (SELECT c.relowner FROM pg_catalog.pg_class c WHERE c.oid = k.conrelid))))
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.deptype = 'e'
                              AND d.objid = CASE WHEN k.contypid <> 0 THEN k.contypid ELSE k.conrelid END)
    LOOP
        EXECUTE pg_catalog.format('ALTER %s %s DROP CONSTRAINT %I', found.kind, found.of, found.conname);
        INSERT INTO {guard}.checks VALUES (pg_catalog.format('%s of %s %s', found.conname, pg_catalog.lower(found.kind), found.of),
            pg_catalog.format('ALTER %s %s ADD CONSTRAINT %I %s%s', found.kind, found.of, found.conname, found.definition,
                CASE WHEN found.definition ~ 'NOT (VALID|ENFORCED)$' THEN '' ELSE ' NOT VALID' END));
    END LOOP;
END
$do$;
