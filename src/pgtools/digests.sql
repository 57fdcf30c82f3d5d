-- One row for each part of each object that pg_dump would write: the object, the part, whether the text below it is
-- known to change on its way through pg_dump, and the digests of that text. No oid is part of a text, so that two
-- databases can be compared. Runs on PostgreSQL 14 and newer, with an empty search_path. Several sessions may take a share of
-- the objects each; cheap parts come with every share.
WITH
member AS MATERIALIZED (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
space AS MATERIALIZED (
    SELECT n.oid FROM pg_namespace n
     WHERE nspname <> 'information_schema' AND nspname !~ '^pg_' AND nspname NOT IN ('backwhen', 'backwhen_unfinished')),
rel AS MATERIALIZED (
    SELECT c.* FROM pg_class c
     WHERE relnamespace IN (SELECT oid FROM space) AND relpersistence <> 't' AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c')
       AND NOT EXISTS (SELECT FROM member WHERE classid = 'pg_class'::regclass AND objid = c.oid)),
type AS MATERIALIZED (
    SELECT t.*, pg_get_expr(typdefaultbin, 0) AS preset FROM pg_type t
     WHERE typnamespace IN (SELECT oid FROM space)
       AND (typtype IN ('e', 'd', 'r') OR typtype IN ('b', 'p') AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
            OR typtype = 'c' AND typrelid IN (SELECT oid FROM rel WHERE relkind = 'c'))),
col AS MATERIALIZED (
    SELECT a.* FROM pg_attribute a
     WHERE attrelid IN (SELECT oid FROM rel) AND attnum > 0 AND NOT attisdropped AND {share of attrelid}),
-- Objects with an owner and privileges of their own; `kind` is the letter that acldefault takes.
object(class, oid, owner, kind, acl, fuzzy, text) AS (
    SELECT 'pg_namespace'::regclass, n.oid, nspowner, 'n'::"char", nspacl, false, 'schema'
      FROM pg_namespace n WHERE n.oid IN (SELECT oid FROM space)
UNION ALL
    SELECT 'pg_class'::regclass, c.oid, relowner, CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relacl, relkind IN ('v', 'm'),
           ROW(relkind, relpersistence, relreplident, relrowsecurity, relforcerowsecurity, relispartition,
               ARRAY(SELECT unnest(reloptions) ORDER BY 1),
               ARRAY(SELECT unnest(t.reloptions) FROM pg_class t WHERE t.oid = c.reltoastrelid ORDER BY 1),
               (SELECT amname FROM pg_am WHERE pg_am.oid = relam), nullif(reloftype, 0)::regtype,
               pg_get_partkeydef(c.oid), pg_get_expr(relpartbound, c.oid),
               ARRAY(SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = c.oid ORDER BY inhseqno),
               (SELECT ROW(srvname, ARRAY(SELECT unnest(ftoptions) ORDER BY 1)) FROM pg_foreign_table f JOIN pg_foreign_server s
                    ON s.oid = ftserver WHERE ftrelid = c.oid),
               CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END,
               (SELECT ROW(seqtypid::regtype, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle)
                  FROM pg_sequence WHERE seqrelid = c.oid),
               (SELECT ROW(refobjid::regclass, attname, deptype) FROM pg_depend d JOIN pg_attribute a ON attrelid = refobjid
                       AND attnum = refobjsubid
                 WHERE relkind = 'S' AND classid = 'pg_class'::regclass AND objid = c.oid AND deptype IN ('a', 'i')
                   AND refclassid = 'pg_class'::regclass AND refobjsubid > 0))::text
      FROM rel c
UNION ALL
    SELECT 'pg_proc'::regclass, p.oid, proowner, 'f', proacl, prokind <> 'a',
           CASE WHEN prokind <> 'a' THEN pg_get_functiondef(p.oid) ELSE
               (SELECT ROW(pg_get_function_arguments(p.oid), proparallel, aggkind, aggnumdirectargs, aggtransfn::regprocedure,
                           aggfinalfn::regprocedure, aggcombinefn::regprocedure, aggserialfn::regprocedure,
                           aggdeserialfn::regprocedure, aggmtransfn::regprocedure, aggminvtransfn::regprocedure,
                           aggmfinalfn::regprocedure, aggfinalextra, aggmfinalextra, aggfinalmodify, aggmfinalmodify,
                           aggsortop::regoperator, format_type(aggtranstype, NULL), aggtransspace,
                           format_type(aggmtranstype, NULL), aggmtransspace, agginitval, aggminitval)::text
                  FROM pg_aggregate WHERE aggfnoid = p.oid) END
      FROM pg_proc p WHERE pronamespace IN (SELECT oid FROM space)
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND deptype = 'i')
UNION ALL
    SELECT 'pg_type'::regclass, t.oid, typowner, 'T', typacl, typtype = 'd',
           ROW(typtype, typdelim,
               ARRAY(SELECT enumlabel FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder),
               CASE WHEN typtype = 'd' THEN
                   ROW(format_type(typbasetype, typtypmod), typnotnull, typcollation::regcollation, coalesce(preset, typdefault))::text END,
               (SELECT ROW(format_type(rngsubtype, NULL), rngcollation::regcollation, (SELECT ROW(opcnamespace::regnamespace, opcname) FROM pg_opclass o WHERE o.oid = rngsubopc),
                           rngcanonical::regprocedure, rngsubdiff::regprocedure, rngmultitypid::regtype)
                  FROM pg_range WHERE rngtypid = t.oid),
               CASE WHEN typtype = 'b' THEN
                   ROW(typlen, typbyval, typcategory, typispreferred, typisdefined, typinput::regprocedure, typoutput::regprocedure,
                       typreceive::regprocedure, typsend::regprocedure, typmodin::regprocedure, typmodout::regprocedure,
                       typanalyze::regprocedure, typsubscript::regprocedure, typalign, typstorage, typcollation::regcollation,
                       format_type(typelem, NULL), coalesce(preset, typdefault))::text END)::text
      FROM type t
UNION ALL
    SELECT 'pg_operator'::regclass, o.oid, oprowner, NULL, NULL, false,
           ROW(oprcode::regprocedure, oprcom::regoperator, oprnegate::regoperator, oprrest::regproc, oprjoin::regproc,
               oprcanmerge, oprcanhash)::text
      FROM pg_operator o WHERE oprnamespace IN (SELECT oid FROM space)
UNION ALL
    SELECT 'pg_opfamily'::regclass, f.oid, opfowner, NULL, NULL, false,
           ROW(ARRAY(SELECT ROW(amoplefttype::regtype, amoprighttype::regtype, amopstrategy, amoppurpose, amopopr::regoperator,
                                (SELECT ROW(opfnamespace::regnamespace, opfname) FROM pg_opfamily s WHERE s.oid = amopsortfamily))::text
                       FROM pg_amop WHERE amopfamily = f.oid ORDER BY 1),
               ARRAY(SELECT ROW(amproclefttype::regtype, amprocrighttype::regtype, amprocnum, amproc::regprocedure)::text
                       FROM pg_amproc WHERE amprocfamily = f.oid ORDER BY 1))::text
      FROM pg_opfamily f WHERE opfnamespace IN (SELECT oid FROM space)
UNION ALL
    SELECT 'pg_opclass'::regclass, o.oid, opcowner, NULL, NULL, false,
           ROW((SELECT ROW(opfnamespace::regnamespace, opfname) FROM pg_opfamily f WHERE f.oid = opcfamily), opcintype::regtype,
               opcdefault, opckeytype::regtype)::text
      FROM pg_opclass o WHERE opcnamespace IN (SELECT oid FROM space)
UNION ALL
    SELECT 'pg_collation'::regclass, c.oid, collowner, NULL, NULL, false,
           ROW(collprovider, collisdeterministic, CASE WHEN collprovider = 'c' THEN ROW(collcollate, collctype) END,
               CASE WHEN collprovider <> 'c' THEN coalesce(j->>'colllocale', j->>'colliculocale', collcollate) END,
               j->>'collicurules')::text
      FROM pg_collation c, LATERAL (SELECT to_jsonb(c) AS j) AS json WHERE collnamespace IN (SELECT oid FROM space)
UNION ALL
    SELECT 'pg_conversion'::regclass, c.oid, conowner, NULL, NULL, false,
           ROW(pg_encoding_to_char(conforencoding), pg_encoding_to_char(contoencoding), conproc::regproc, condefault)::text
      FROM pg_conversion c WHERE connamespace IN (SELECT oid FROM space)
UNION ALL
    SELECT 'pg_ts_config'::regclass, c.oid, cfgowner, NULL, NULL, false,
           ROW((SELECT ROW(prsnamespace::regnamespace, prsname) FROM pg_ts_parser p WHERE p.oid = cfgparser),
               ARRAY(SELECT ROW(maptokentype, mapseqno, mapdict::regdictionary)::text FROM pg_ts_config_map
                      WHERE mapcfg = c.oid ORDER BY 1))::text
      FROM pg_ts_config c WHERE cfgnamespace IN (SELECT oid FROM space)
UNION ALL
    SELECT 'pg_ts_dict'::regclass, d.oid, dictowner, NULL, NULL, false,
           ROW((SELECT ROW(tmplnamespace::regnamespace, tmplname) FROM pg_ts_template t WHERE t.oid = dicttemplate), dictinitoption)::text
      FROM pg_ts_dict d WHERE dictnamespace IN (SELECT oid FROM space)
UNION ALL
    SELECT 'pg_ts_parser'::regclass, p.oid, NULL, NULL, NULL, false,
           ROW(prsstart::regproc, prstoken::regproc, prsend::regproc, prsheadline::regproc, prslextype::regproc)::text
      FROM pg_ts_parser p WHERE prsnamespace IN (SELECT oid FROM space)
UNION ALL
    SELECT 'pg_ts_template'::regclass, t.oid, NULL, NULL, NULL, false, ROW(tmplinit::regproc, tmpllexize::regproc)::text
      FROM pg_ts_template t WHERE tmplnamespace IN (SELECT oid FROM space)
UNION ALL
    SELECT 'pg_statistic_ext'::regclass, s.oid, stxowner, NULL, NULL, true,
           ROW(pg_get_statisticsobjdef(s.oid), coalesce(stxstattarget, -1))::text
      FROM pg_statistic_ext s WHERE stxnamespace IN (SELECT oid FROM space)
UNION ALL
    SELECT 'pg_extension'::regclass, e.oid, extowner, NULL, NULL, false, ROW(extversion, extnamespace::regnamespace)::text
      FROM pg_extension e WHERE e.oid >= 16384
UNION ALL
    SELECT 'pg_language'::regclass, l.oid, lanowner, 'l', lanacl, false,
           ROW(lanpltrusted, lanplcallfoid::regprocedure, laninline::regprocedure, lanvalidator::regprocedure)::text
      FROM pg_language l WHERE l.oid >= 16384
UNION ALL
    SELECT 'pg_am'::regclass, a.oid, NULL, NULL, NULL, false, ROW(amhandler::regproc, amtype)::text FROM pg_am a WHERE a.oid >= 16384
UNION ALL
    SELECT 'pg_cast'::regclass, c.oid, NULL, NULL, NULL, false, ROW(castfunc::regprocedure, castcontext, castmethod)::text
      FROM pg_cast c WHERE c.oid >= 16384
UNION ALL
    SELECT 'pg_transform'::regclass, t.oid, NULL, NULL, NULL, false, ROW(trffromsql::regprocedure, trftosql::regprocedure)::text
      FROM pg_transform t WHERE t.oid >= 16384
UNION ALL
    SELECT 'pg_foreign_data_wrapper'::regclass, w.oid, fdwowner, 'F', fdwacl, false,
           ROW(fdwhandler::regproc, fdwvalidator::regproc, ARRAY(SELECT unnest(fdwoptions) ORDER BY 1))::text
      FROM pg_foreign_data_wrapper w WHERE w.oid >= 16384
UNION ALL
    SELECT 'pg_foreign_server'::regclass, s.oid, srvowner, 'S', srvacl, false,
           ROW((SELECT fdwname FROM pg_foreign_data_wrapper w WHERE w.oid = srvfdw), srvtype, srvversion,
               ARRAY(SELECT unnest(srvoptions) ORDER BY 1))::text
      FROM pg_foreign_server s WHERE s.oid >= 16384
UNION ALL
    -- The options may be secrets, and only some roles may read them.
    SELECT 'pg_user_mapping'::regclass, umid, NULL, NULL, NULL, false, 'user mapping' FROM pg_user_mappings WHERE umid >= 16384
UNION ALL
    SELECT 'pg_event_trigger'::regclass, e.oid, evtowner, NULL, NULL, false, ROW(evtevent, evtfoid::regproc, evtenabled, evttags)::text
      FROM pg_event_trigger e WHERE evtname !~ '^!?backwhen_'
UNION ALL
    SELECT 'pg_publication'::regclass, p.oid, pubowner, NULL, NULL, true,
           ROW(puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot, coalesce(nullif(j->>'pubgencols', 'n'), ''),
               {published})::text
      FROM pg_publication p, LATERAL (SELECT to_jsonb(p) AS j) AS json WHERE pubname !~ '^backwhen_'
UNION ALL
    SELECT 'pg_subscription'::regclass, s.oid, subowner, NULL, NULL, false,
           ROW(subbinary, substream, subslotname, subsynccommit, ARRAY(SELECT unnest(subpublications) ORDER BY 1))::text
      FROM pg_subscription s WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
UNION ALL
    SELECT 'pg_default_acl'::regclass, d.oid, NULL, NULL, NULL, false,
           ARRAY(SELECT ROW(grantor::regrole, CASE WHEN grantee > 0 THEN grantee::regrole::text END, privilege_type, is_grantable)::text
                   FROM aclexplode(defaclacl) WHERE privilege_type <> 'MAINTAIN' ORDER BY 1)::text
      FROM pg_default_acl d
UNION ALL
    SELECT 'pg_database'::regclass, d.oid, datdba, 'd', datacl, false, ROW(datconnlimit, datistemplate)::text
      FROM pg_database d WHERE datname = current_database()
UNION ALL
    -- An index that is not valid is not in a dump, unless it is a partitioned one.
    SELECT 'pg_class'::regclass, indexrelid, NULL, NULL, NULL, true,
           ROW(pg_get_indexdef(indexrelid), indisvalid, indisclustered, indisreplident, ARRAY(SELECT unnest(c.reloptions) ORDER BY 1),
               (SELECT inhparent::regclass FROM pg_inherits WHERE inhrelid = indexrelid),
               ARRAY(SELECT ROW(attnum, attstattarget)::text FROM pg_attribute
                      WHERE attrelid = indexrelid AND attnum > 0 AND attstattarget >= 0 ORDER BY 1))::text
      FROM pg_index JOIN pg_class c ON c.oid = indexrelid
     WHERE indrelid IN (SELECT oid FROM rel) AND (indisvalid OR c.relkind = 'I')
UNION ALL
    -- Foreign keys of partitions follow those of their roots, under names of the server's choice; NOT NULL is a part of its table.
    SELECT 'pg_constraint'::regclass, c.oid, NULL, NULL, NULL, true, ROW(pg_get_constraintdef(c.oid), convalidated)::text
      FROM pg_constraint c
     WHERE (conrelid IN (SELECT oid FROM rel) OR contypid IN (SELECT oid FROM type))
       AND contype IN ('c', 'u', 'p', 'f', 'x') AND (contype <> 'f' OR conparentid = 0)
UNION ALL
    SELECT 'pg_trigger'::regclass, t.oid, NULL, NULL, NULL, true, ROW(pg_get_triggerdef(t.oid), tgenabled)::text
      FROM pg_trigger t
     WHERE tgrelid IN (SELECT oid FROM rel)
       -- Before 15, the clones of a partitioned table's triggers count as internal.
       AND (NOT tgisinternal OR tgparentid <> 0 AND tgconstrrelid = 0 AND tgconstrindid = 0)
UNION ALL
    SELECT 'pg_rewrite'::regclass, r.oid, NULL, NULL, NULL, true, ROW(pg_get_ruledef(r.oid), ev_enabled)::text
      FROM pg_rewrite r WHERE ev_class IN (SELECT oid FROM rel) AND rulename <> '_RETURN'
UNION ALL
    SELECT 'pg_policy'::regclass, p.oid, NULL, NULL, NULL, true,
           ROW(polcmd, polpermissive, ARRAY(SELECT CASE r WHEN 0 THEN 'public' ELSE r::regrole::text END FROM unnest(polroles) r ORDER BY 1),
               pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))::text
      FROM pg_policy p WHERE polrelid IN (SELECT oid FROM rel)
),
own AS MATERIALIZED (
    SELECT * FROM object o
     WHERE NOT EXISTS (SELECT FROM member WHERE classid = o.class AND objid = o.oid) AND {share of oid}),
-- Privileges that are not those that the object was made with. Of objects of the server and of extensions only changes of
-- privileges are dumped.
acls(class, oid, acl) AS (
    SELECT class, oid, acl FROM own
     WHERE ARRAY(SELECT a::text FROM unnest(acl) a ORDER BY 1) <> ARRAY(SELECT a::text FROM unnest(acldefault(kind, owner)) a ORDER BY 1)
       AND acl IS NOT NULL
UNION ALL
    SELECT class, d.oid, acl
      FROM (SELECT 'pg_proc'::regclass, oid, pronamespace, proacl FROM pg_proc UNION ALL
            SELECT 'pg_class'::regclass, oid, relnamespace, relacl FROM pg_class) d(class, oid, space, acl)
      LEFT JOIN pg_init_privs ON classoid = class AND objoid = d.oid AND objsubid = 0
     WHERE acl IS DISTINCT FROM initprivs
       AND (space = 'pg_catalog'::regnamespace OR EXISTS (SELECT FROM member WHERE classid = class AND objid = d.oid))
),
part(class, oid, part, fuzzy, text) AS (
    SELECT class, oid, '', fuzzy, text FROM own
UNION ALL
    -- The objects that initdb made belong to a role whose name tells nothing about the database.
    SELECT class, oid, 'owner', false, CASE WHEN owner = 10 AND oid < 16384 THEN 'initdb' ELSE pg_get_userbyid(owner) END
      FROM own WHERE owner IS NOT NULL
UNION ALL
    SELECT class, oid, 'privileges', false,
           (SELECT array_agg(g ORDER BY g)::text FROM (
               SELECT ROW(CASE WHEN grantor = 10 AND a.oid < 16384 THEN 'initdb' ELSE grantor::regrole::text END,
                          CASE WHEN grantee = 10 AND a.oid < 16384 THEN 'initdb' WHEN grantee > 0 THEN grantee::regrole::text END,
                          privilege_type, is_grantable)::text AS g
                 -- From version 17 on, whoever has all privileges has MAINTAIN too, and a dump grants ALL.
                 FROM aclexplode(acl) g WHERE privilege_type <> 'MAINTAIN' OR NOT EXISTS (
                      SELECT FROM aclexplode(acl) o WHERE o.grantee = g.grantee AND o.privilege_type = 'TRIGGER')) granted)
      FROM acls a
UNION ALL
    SELECT 'pg_class'::regclass, attrelid, 'column ' || quote_ident(attname), false,
           ROW(format_type(atttypid, atttypmod), attnotnull, attcollation::regcollation, attstorage, attcompression, attidentity,
               attgenerated, coalesce(attstattarget, -1), ARRAY(SELECT unnest(attoptions) ORDER BY 1),
               ARRAY(SELECT unnest(attfdwoptions) ORDER BY 1))::text
      FROM col WHERE attrelid IN (SELECT oid FROM rel WHERE relkind <> 'S')
UNION ALL
    SELECT 'pg_class'::regclass, attrelid, 'order of columns', false, array_agg(attname ORDER BY attnum)::text FROM col
     WHERE attrelid IN (SELECT oid FROM rel WHERE relkind <> 'S') GROUP BY attrelid
UNION ALL
    SELECT 'pg_class'::regclass, attrelid, 'default of column ' || quote_ident(attname), true, pg_get_expr(adbin, adrelid)
      FROM pg_attrdef JOIN col ON attrelid = adrelid AND attnum = adnum
UNION ALL
    -- From version 18 on, NOT NULL of a column has a name.
    SELECT 'pg_class'::regclass, attrelid, 'NOT NULL of column ' || quote_ident(attname), false, ROW(conname, convalidated, connoinherit)::text
      FROM pg_constraint JOIN col ON attrelid = conrelid AND attnum = conkey[1] WHERE contype = 'n'
UNION ALL
    -- That of a domain has one from version 17 on.
    SELECT 'pg_type'::regclass, contypid, 'NOT NULL of the domain', false, conname::text
      FROM pg_constraint WHERE contype = 'n' AND contypid IN (SELECT oid FROM type)
UNION ALL
    SELECT 'pg_class'::regclass, attrelid, 'privileges of column ' || quote_ident(attname), false,
           ARRAY(SELECT ROW(grantor::regrole, CASE WHEN grantee > 0 THEN grantee::regrole::text END, privilege_type, is_grantable)::text
                   FROM aclexplode(attacl) ORDER BY 1)::text
      FROM col WHERE attacl IS NOT NULL AND cardinality(attacl) > 0
UNION ALL
    SELECT 'pg_class'::regclass, c.oid, 'tablespace', false, spcname
      FROM pg_class c JOIN pg_tablespace s ON s.oid = reltablespace
     WHERE c.oid IN (SELECT oid FROM own WHERE class = 'pg_class'::regclass)
UNION ALL
    SELECT class, o.oid, concat_ws(' ', 'comment', attname), false, description
      FROM own o JOIN pg_description ON classoid = class AND objoid = o.oid
           LEFT JOIN pg_attribute ON class = 'pg_class'::regclass AND attrelid = objoid AND attnum = objsubid AND objsubid > 0
UNION ALL
    SELECT class, o.oid, concat_ws(' ', 'security label', provider, attname), false, label
      FROM own o JOIN pg_seclabel ON classoid = class AND objoid = o.oid
           LEFT JOIN pg_attribute ON class = 'pg_class'::regclass AND attrelid = objoid AND attnum = objsubid AND objsubid > 0
UNION ALL
    SELECT class, o.oid, 'comment', false, shobj_description(o.oid, 'pg_database') FROM own o
     WHERE class = 'pg_database'::regclass AND shobj_description(o.oid, 'pg_database') IS NOT NULL
UNION ALL
    -- Nothing tells of large objects; the moments at which a database has some are seen by this.
    SELECT class, o.oid, 'large objects', false, 'exist' FROM own o
     WHERE class = 'pg_database'::regclass AND EXISTS (SELECT FROM pg_largeobject_metadata)
UNION ALL
    SELECT class, o.oid, concat_ws(' ', 'settings', CASE WHEN setrole > 0 THEN 'of role ' || setrole::regrole END), false,
           ARRAY(SELECT unnest(setconfig) ORDER BY 1)::text
      FROM own o JOIN pg_db_role_setting ON setdatabase = o.oid WHERE class = 'pg_database'::regclass
),
-- An object has many parts, and one identity.
named(class, oid, type, identity) AS MATERIALIZED (
    SELECT class, oid, i.type, i.identity
      FROM (SELECT DISTINCT class, oid FROM part) o, pg_identify_object(class, oid, 0) i WHERE i.identity IS NOT NULL)
SELECT i.type, CASE class WHEN 'pg_database'::regclass THEN '' ELSE replace(i.identity, ' on language ', ' language ') END, part,
       substr(encode(sha256(convert_to(text, getdatabaseencoding())), 'hex'), 1, 16),
       CASE WHEN fuzzy THEN substr(encode(sha256(convert_to(
           regexp_replace(text, '::(character varying|text)(\(\d+\))?(\[\])?|[()\s]', '', 'g'), getdatabaseencoding())), 'hex'), 1, 16) END
  FROM part JOIN named i USING (class, oid) WHERE text IS NOT NULL
