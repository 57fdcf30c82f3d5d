-- Owners, privileges, policies, comments.
GRANT SELECT, UPDATE (name) ON app.customers TO ddl_reader, "ddl Writer" WITH GRANT OPTION;
REVOKE UPDATE (name) ON app.customers FROM ddl_reader;
GRANT USAGE ON SCHEMA app TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA app TO "ddl Writer";
GRANT EXECUTE ON FUNCTION app.touch() TO ddl_reader;
REVOKE ALL ON FUNCTION app.touch() FROM PUBLIC;
GRANT USAGE ON TYPE app.pair TO ddl_reader;
GRANT USAGE ON FOREIGN SERVER away TO ddl_reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO ddl_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE ddl_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE TABLE app.granted_by_default (a int);
CREATE POLICY own ON public."Orders" FOR SELECT TO ddl_reader, "ddl Writer" USING (note = current_user || ';');
CREATE POLICY every ON public."Orders" AS RESTRICTIVE USING (true) WITH CHECK (total > 0);
ALTER POLICY own ON public."Orders" RENAME TO owned;
ALTER POLICY every ON public."Orders" TO ddl_owner;
SET ROLE ddl_owner;
CREATE TABLE public.of_owner (id serial PRIMARY KEY, note text);
CREATE FUNCTION public.of_owner_too() RETURNS int LANGUAGE sql AS 'SELECT 1';
GRANT SELECT ON public.of_owner TO ddl_other;
CREATE TABLE app.of_owner AS SELECT 1 AS a;
RESET ROLE;
CREATE SCHEMA AUTHORIZATION ddl_other
    CREATE TABLE inner_one (a int PRIMARY KEY)
    CREATE VIEW inner_view AS SELECT a FROM inner_one
    GRANT SELECT ON inner_view TO ddl_reader;
CREATE SCHEMA IF NOT EXISTS app;
ALTER SCHEMA ddl_other RENAME TO "Other's";
ALTER FUNCTION app.touch() OWNER TO ddl_owner;
ALTER TYPE app.pair OWNER TO ddl_owner;
COMMENT ON TABLE app.customers IS 'it''s; "the" customers';
COMMENT ON COLUMN app.customers.name IS $$ a name $$;
COMMENT ON FUNCTION app.touch() IS E'two\nlines';
COMMENT ON CONSTRAINT has_score ON app.customers IS 'c';
COMMENT ON TRIGGER touch ON public."Orders" IS 't';
COMMENT ON SCHEMA app IS 's';
COMMENT ON SCHEMA app IS NULL;
COMMENT ON TYPE app.pair IS 'p';
CREATE EXTENSION IF NOT EXISTS plpgsql;
DROP POLICY owned ON public."Orders";
DROP VIEW app.checked;
DROP SCHEMA "Other's" CASCADE;
REVOKE SELECT ON app.customers FROM "ddl Writer" CASCADE;
