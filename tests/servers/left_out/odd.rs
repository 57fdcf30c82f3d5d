//! Objects of many kinds that no server takes as they are, all in one database: each costs only itself and what needs it.

use super::{protected, recover};
use crate::support::Server;

/// Objects whose libraries, files or functions are not on any other server, beside rows that need none of them.
const ODD: &str = "
CREATE TABLE fine (id int PRIMARY KEY, v text); INSERT INTO fine SELECT g, 'x' FROM generate_series(1, 100) g;
CREATE FUNCTION wrap() RETURNS fdw_handler LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
CREATE FOREIGN DATA WRAPPER lost_wrapper HANDLER wrap; CREATE SERVER lost_server FOREIGN DATA WRAPPER lost_wrapper;
CREATE FOREIGN TABLE lost_foreign (a int) SERVER lost_server; CREATE USER MAPPING FOR PUBLIC SERVER lost_server;
CREATE VIEW over_foreign AS SELECT a FROM lost_foreign;
CREATE TEXT SEARCH DICTIONARY lost_words (TEMPLATE = simple, STOPWORDS = english);
CREATE TEXT SEARCH CONFIGURATION lost_search (COPY = simple); ALTER TEXT SEARCH CONFIGURATION lost_search
    ALTER MAPPING FOR asciiword WITH lost_words;
CREATE TABLE searched (id int PRIMARY KEY, t text, v tsvector GENERATED ALWAYS AS (to_tsvector('public.lost_search', t)) STORED);
INSERT INTO searched (id, t) VALUES (1, 'a b');
CREATE INDEX by_words ON searched USING gin (to_tsvector('public.lost_search', t));
CREATE COLLATION lost_order (provider = libc, locale = 'C');
CREATE TABLE ordered (id int PRIMARY KEY, t text); CREATE INDEX by_order ON ordered (t COLLATE lost_order);
INSERT INTO ordered VALUES (1, 'a');
CREATE FUNCTION span(int) RETURNS int4range IMMUTABLE LANGUAGE sql AS 'SELECT int4range($1, $1 + 1)';
CREATE TABLE apart (id int PRIMARY KEY, n int, CONSTRAINT no_overlap EXCLUDE USING gist (span(n) WITH &&));
INSERT INTO apart VALUES (1, 1), (2, 2);
CREATE FUNCTION low(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1';
CREATE TABLE uniq (id int PRIMARY KEY, n int); CREATE UNIQUE INDEX by_low ON uniq (low(n)); INSERT INTO uniq VALUES (1, 1), (2, 2);
CREATE TABLE keyed (id int NOT NULL, v text); INSERT INTO keyed VALUES (1, 'a'); CREATE UNIQUE INDEX keyed_id ON keyed (id);
ALTER TABLE keyed REPLICA IDENTITY USING INDEX keyed_id;
CREATE TYPE lost_type AS (w text COLLATE lost_order);
CREATE TABLE lost_parts (id int, w lost_type) PARTITION BY RANGE (id);
CREATE TABLE lost_part PARTITION OF lost_parts FOR VALUES FROM (0) TO (10); INSERT INTO lost_parts VALUES (1, ROW('a'));
CREATE RULE lost_rule AS ON DELETE TO fine WHERE old.v > 'z' COLLATE lost_order DO INSTEAD NOTHING;
CREATE POLICY lost_policy ON fine USING (v > 'a' COLLATE lost_order);
CREATE FUNCTION linked() RETURNS trigger LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
CREATE TRIGGER lost_trigger BEFORE DELETE ON fine FOR EACH ROW EXECUTE FUNCTION linked();
CREATE FUNCTION handler() RETURNS language_handler LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
CREATE LANGUAGE lost_language HANDLER handler; CREATE FUNCTION spoken() RETURNS int LANGUAGE lost_language AS 'x';
CREATE AGGREGATE lost_sum(int) (SFUNC = int4pl, STYPE = int); CREATE STATISTICS some_statistics ON id, v FROM fine;
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);
CREATE CAST (lost_type AS text) WITH INOUT;
CREATE ACCESS METHOD lost_method TYPE TABLE HANDLER heap_tableam_handler; CREATE TABLE of_method (id int PRIMARY KEY) USING lost_method;
INSERT INTO of_method VALUES (1);
CREATE FUNCTION checked(int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT true';
CREATE DOMAIN narrow AS int CHECK (checked(VALUE)); CREATE TABLE of_domain (id int PRIMARY KEY, n narrow, l narrow[]);
INSERT INTO of_domain VALUES (1, 1, '{1,2}');
CREATE SEQUENCE counted; CREATE TABLE with_default (id int PRIMARY KEY DEFAULT nextval('counted')); INSERT INTO with_default DEFAULT VALUES;
SELECT lo_create(4711); SELECT lo_put(4711, 0, 'abc')";

/// Changes on the target that no server can know of: libraries and files are gone, functions are replaced.
const SPOILT: &str = "
UPDATE pg_proc SET probin = '$libdir/nowhere' WHERE proname IN ('wrap', 'linked', 'handler');
UPDATE pg_ts_dict SET dictinitoption = 'stopwords = ''nowhere''' WHERE dictname = 'lost_words';
UPDATE pg_collation SET collcollate = 'xx_XX', collctype = 'xx_XX' WHERE collname = 'lost_order';
CREATE OR REPLACE FUNCTION span(int) RETURNS int4range IMMUTABLE LANGUAGE sql AS 'SELECT int4range(0, 10)';
CREATE OR REPLACE FUNCTION low(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 0';
CREATE OR REPLACE FUNCTION checked(int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT false'";

/// The objects that are left out, and no others.
const LEFT_OUT: [&str; 27] = [
    "CAST CAST (public.lost_type AS text)",
    "COLLATION public.lost_order",
    "CONSTRAINT public.apart no_overlap",
    "FOREIGN DATA WRAPPER lost_wrapper",
    "FOREIGN TABLE public.lost_foreign",
    "FUNCTION public.handler()",
    "FUNCTION public.linked()",
    "FUNCTION public.spoken()",
    "FUNCTION public.wrap()",
    "INDEX public.by_low",
    "INDEX public.by_order",
    "INDEX public.by_words",
    "POLICY public.fine lost_policy",
    "PROCEDURAL LANGUAGE lost_language",
    "RULE public.fine lost_rule",
    "SERVER lost_server",
    "TABLE ATTACH public.lost_part",
    "TABLE public.lost_part",
    "TABLE public.lost_parts",
    "TABLE public.searched",
    "TEXT SEARCH CONFIGURATION public.lost_search",
    "TEXT SEARCH DICTIONARY public.lost_words",
    "TRIGGER public.fine lost_trigger",
    "TYPE public.lost_type",
    "USER MAPPING USER MAPPING public SERVER lost_server",
    "VIEW public.over_foreign",
    "access method of TABLE public.of_method",
];

#[test]
fn odd_objects_cost_only_themselves() {
    let server = Server::shared(None);
    let backwhen = protected(&server, "odd", &format!("{ODD}; {SPOILT}"));
    let done = recover(&backwhen, &server, &["latest"]);
    let mut found = done.left_out();
    found.sort_unstable();
    assert_eq!(found, LEFT_OUT);
    let rows = "SELECT (SELECT count(*) FROM fine), (SELECT t FROM searched), (SELECT w FROM lost_part), (SELECT n FROM of_domain)";
    assert_eq!(server.psql(&done.database, rows), "100|a b|(a)|1");
    // As on the source: the rows do not fulfil the domain's CHECK, and it is valid.
    let check = "SELECT convalidated FROM pg_constraint WHERE conname = 'narrow_check'";
    assert_eq!(server.psql(&done.database, check), "t");
    let public = done.report["left_out"].to_string();
    assert!(!public.contains("no role"), "{public}");
}
