sequence s.t_id_seq: owner; table s.t: owner, privileges, privileges of column v | ALTER TABLE s.t OWNER TO digest_b
table s.t: privileges | GRANT DELETE ON s.t TO digest_b
table s.t: privileges of column v | REVOKE UPDATE (v) ON s.t FROM digest_b
table s.t: default of column v | ALTER TABLE ONLY s.t ALTER v SET DEFAULT 'y'
table s.t: default of column v | ALTER TABLE ONLY s.t ALTER v DROP DEFAULT
table s.child: column g, default of column g; table s.t: column g, default of column g | ALTER TABLE s.t ALTER g DROP EXPRESSION
table s.t: NOT NULL of column c, column c | ALTER TABLE ONLY s.t ALTER c SET NOT NULL
table s.counted: NOT NULL of column i | 18: ALTER TABLE s.counted RENAME CONSTRAINT counted_i_not_null TO other
table s.t: column c | ALTER TABLE ONLY s.t ALTER c SET STORAGE PLAIN
table s.t: column n | ALTER TABLE ONLY s.t ALTER n SET STATISTICS 78
table s.t: column v | ALTER TABLE ONLY s.t ALTER v RESET (n_distinct)
table s.t: comment | COMMENT ON TABLE s.t IS 'buys'
table s.t: comment v | COMMENT ON COLUMN s.t.v IS NULL
table s.t: itself | ALTER TABLE s.t SET (fillfactor = 80)
table s.t: itself | ALTER TABLE s.t SET (toast.autovacuum_enabled = on)
table s.t: itself | ALTER TABLE s.t REPLICA IDENTITY NOTHING
table s.t: itself | ALTER TABLE s.t FORCE ROW LEVEL SECURITY
table s.t: itself | ALTER TABLE s.t DISABLE ROW LEVEL SECURITY
sequence s.counted_i_seq: itself; table s.counted: NOT NULL of column i, NOT NULL of column k, column i, column k, order of columns | ALTER TABLE s.counted RENAME i TO k
table s.counted: column k, order of columns | ALTER TABLE s.counted ADD k int
table s.counted: column i | ALTER TABLE s.counted ALTER i SET GENERATED ALWAYS
table s.packed: column c | ALTER TABLE s.packed ALTER c SET COMPRESSION DEFAULT
table s.packed: column c | ALTER TABLE s.packed ALTER c TYPE varchar
table s.passing: itself | ALTER TABLE s.passing SET LOGGED
table s.child: itself | ALTER TABLE s.child NO INHERIT s.t
table s.p2: itself; index s.p2_pkey: itself; index s.p2_k_idx: itself; trigger of_parts on s.p2: gone | ALTER TABLE s.part DETACH PARTITION s.p2
index s.other_k_idx: itself; index s.other_pkey: itself; table constraint other_pkey on s.other: gone; table constraint other_pkey on s.renamed: new; table constraint part_k_check on s.other: gone; table constraint part_k_check on s.renamed: new; table s.other: gone; table s.renamed: new; trigger of_parts on s.other: gone; trigger of_parts on s.renamed: new | ALTER TABLE s.other RENAME TO renamed
sequence s.q: itself | ALTER SEQUENCE s.q CACHE 4
sequence s.q: itself | ALTER SEQUENCE s.q OWNED BY NONE
sequence s.q: privileges | REVOKE USAGE ON SEQUENCE s.q FROM digest_a
sequence s.counted_i_seq: itself | ALTER TABLE s.counted ALTER i SET INCREMENT 3
index s.lower_v: gone | DROP INDEX s.lower_v
index s.next_id: itself | ALTER INDEX s.next_id ALTER COLUMN 1 SET STATISTICS 56
index s.next_id: itself | ALTER TABLE s.t SET WITHOUT CLUSTER
index s.mv_c: itself | ALTER INDEX s.mv_c SET (fillfactor = 50)
table constraint of_t on s.ref: itself | ALTER TABLE s.ref VALIDATE CONSTRAINT of_t
table constraint of_t on s.ref: itself | ALTER TABLE s.ref ALTER CONSTRAINT of_t DEFERRABLE
table constraint of_t on s.ref: gone | ALTER TABLE s.ref DROP CONSTRAINT of_t
table constraint t_pkey on s.t: comment | COMMENT ON CONSTRAINT t_pkey ON s.t IS NULL
domain constraint positive_check on s.positive: gone | ALTER DOMAIN s.positive DROP CONSTRAINT positive_check
type s.positive: itself | ALTER DOMAIN s.positive SET DEFAULT 4
type s.positive: itself | ALTER DOMAIN s.positive DROP NOT NULL
type s.positive: NOT NULL of the domain | 17: ALTER DOMAIN s.positive RENAME CONSTRAINT positive_not_null TO other
type s.mood: itself | ALTER TYPE s.mood ADD VALUE 'fair' BEFORE 'bad'
table s.child: default of column m; table s.t: default of column m; type s.mood: itself | ALTER TYPE s.mood RENAME VALUE 'good' TO 'fine'
type s.mood: privileges | REVOKE USAGE ON TYPE s.mood FROM digest_b
composite type s.pair: owner; type s.pair: owner | ALTER TYPE s.pair OWNER TO digest_b
view s.v: itself | ALTER VIEW s.v RESET (security_barrier)
view s.joined: itself | CREATE OR REPLACE VIEW s.joined AS SELECT x.id, y.at, count(*) OVER (PARTITION BY x.v ORDER BY x.id) w FROM s.t x LEFT JOIN s.part y USING (id) WHERE x.at > '2020-02-02'
function s.f(integer): itself | ALTER FUNCTION s.f SET work_mem = '1MB'
function s.f(integer): itself | CREATE OR REPLACE FUNCTION s.f(int DEFAULT 3) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 3'
function s.f(integer): owner | ALTER FUNCTION s.f OWNER TO digest_a
function s.f(integer): privileges | REVOKE EXECUTE ON FUNCTION s.f FROM PUBLIC
function pg_catalog.pg_read_file(pg_catalog.text): privileges | REVOKE EXECUTE ON FUNCTION pg_read_file(text) FROM digest_a
function public.similarity(pg_catalog.text,pg_catalog.text): privileges | GRANT EXECUTE ON FUNCTION public.similarity(text, text) TO digest_b
trigger tr on s.t: itself | ALTER TABLE s.t DISABLE TRIGGER tr
trigger of_parts on s.p1: itself | ALTER TABLE s.p1 DISABLE TRIGGER of_parts
rule tell on s.ref: itself | ALTER TABLE s.ref DISABLE RULE tell
policy po on s.t: itself | ALTER POLICY po ON s.t TO digest_b
policy po on s.t: itself | ALTER POLICY po ON s.t USING (v IN ('b'))
schema s: owner | ALTER SCHEMA s OWNER TO digest_b
schema public: privileges | REVOKE CREATE ON SCHEMA public FROM digest_b
default acl for role postgres in schema s on tables: itself | ALTER DEFAULT PRIVILEGES IN SCHEMA s GRANT INSERT ON TABLES TO digest_a
statistics object s."both": itself | ALTER STATISTICS s.both SET STATISTICS 44
publication pub: itself | ALTER PUBLICATION pub SET (publish = 'insert, update')
publication pub: itself | ALTER PUBLICATION pub DROP TABLE s.ref
subscription digest_sub: itself | ALTER SUBSCRIPTION digest_sub SET PUBLICATION q WITH (refresh = false)
event trigger et: itself | ALTER EVENT TRIGGER et DISABLE
text search configuration s.words: itself | ALTER TEXT SEARCH CONFIGURATION s.words ALTER MAPPING FOR asciiword WITH s.dict, simple
text search dictionary s.dict: itself | ALTER TEXT SEARCH DICTIONARY s.dict (STOPWORDS)
foreign-data wrapper away: itself | ALTER FOREIGN DATA WRAPPER away OPTIONS (SET a 'c')
server far: itself | ALTER SERVER far OPTIONS (ADD port '1')
foreign table s.remote: itself | ALTER FOREIGN TABLE s.remote OPTIONS (SET t 'v')
foreign table s.remote: column i | ALTER FOREIGN TABLE s.remote ALTER i OPTIONS (SET x 'z')
operator s.@+(integer,integer): owner | ALTER OPERATOR s.@+ (int, int) OWNER TO digest_b
operator family s.fam USING btree: itself | ALTER OPERATOR FAMILY s.fam USING btree ADD OPERATOR 1 < (int, bigint)
cast (s.pair AS pg_catalog.text): gone | DROP CAST (s.pair AS text)
conversion s.conv: gone | DROP CONVERSION s.conv
access method amm: gone | DROP ACCESS METHOD amm
transform for integer language sql: gone | DROP TRANSFORM FOR int LANGUAGE sql
user mapping digest_a on server far: gone | DROP USER MAPPING FOR digest_a SERVER far
collation s.plain: gone | DROP COLLATION s.plain
database: settings | ALTER DATABASE @ SET work_mem = '5MB'
database: settings of role digest_a | ALTER ROLE digest_a IN DATABASE @ SET work_mem = '6MB'
database: privileges | GRANT TEMPORARY ON DATABASE @ TO digest_b
database: itself | ALTER DATABASE @ CONNECTION LIMIT 50
database: large objects | SELECT lo_create(0)
table s.t: privileges | 17: GRANT MAINTAIN ON s.t TO digest_b
publication pub: itself | 15: ALTER PUBLICATION pub ADD TABLES IN SCHEMA s
publication pub: itself | 15: ALTER PUBLICATION pub SET TABLE s.part, s.ref (id)
publication pub: itself | 15: ALTER PUBLICATION pub SET TABLE s.part, s.ref WHERE (id > 3)
view s.v: itself | 15: ALTER VIEW s.v SET (security_invoker)
nothing | ANALYZE s.t
nothing | INSERT INTO s.counted DEFAULT VALUES
nothing | REFRESH MATERIALIZED VIEW s.mv
nothing | REINDEX TABLE s.t
nothing | CREATE TEMP TABLE passing (i int)
