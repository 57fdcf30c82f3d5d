CREATE SCHEMA backwhen_unfinished;
COMMENT ON SCHEMA backwhen_unfinished IS 'the tables that backwhen has yet to load; it goes when all are loaded';
-- The recovery: `known` is what the report has to say, as JSON, and `own_comment` gives the database its own comment.
CREATE TABLE backwhen_unfinished.recovery (history text NOT NULL, epoch int NOT NULL, lsn text NOT NULL, known text NOT NULL,
    own_comment text NOT NULL, opened timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp());
-- The relations behind each gate. `source` is a table's oid on the source, `file` its file, `bytes` the size of that, `acl` its
-- privileges, and `inexact` what is not exact about it, as JSON.
CREATE TABLE backwhen_unfinished.gates (oid oid PRIMARY KEY, gate int NOT NULL, kind text NOT NULL, name text NOT NULL,
    source oid, details text, file oid, bytes int8, acl aclitem[], inexact text, loaded boolean NOT NULL DEFAULT false, seconds float8, rows int8,
    digest text);
CREATE TABLE backwhen_unfinished.columns (oid oid NOT NULL, number int2 NOT NULL, acl aclitem[] NOT NULL);
-- Event triggers that would fire for the loading.
CREATE TABLE backwhen_unfinished.event_triggers (oid oid NOT NULL, enabled "char" NOT NULL);
