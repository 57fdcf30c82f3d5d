-- What the first checkpoint knows.
DO $$ DECLARE name text; BEGIN
    FOREACH name IN ARRAY ARRAY['ddl_owner', 'ddl_reader', 'ddl Writer', 'ddl_other'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I', name);
        END IF;
    END LOOP;
END $$;
GRANT CREATE ON SCHEMA public TO ddl_owner;
CREATE SCHEMA app;
ALTER SCHEMA app OWNER TO ddl_owner;
CREATE TYPE app.mood AS ENUM ('sad', 'ok');
CREATE TYPE app.pair AS (a int, b text);
CREATE DOMAIN app.positive AS int CHECK (VALUE > 0);
CREATE TABLE app.customers (id serial PRIMARY KEY, name text NOT NULL, mood app.mood DEFAULT 'ok', born date);
CREATE TABLE app.orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int REFERENCES app.customers,
    total numeric(10, 2), note varchar(20));
CREATE INDEX ON app.orders (customer);
CREATE TABLE app.events (at timestamptz NOT NULL, kind text, body jsonb) PARTITION BY RANGE (at);
CREATE TABLE app.events_2024 PARTITION OF app.events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE VIEW app.names AS SELECT id, name FROM app.customers;
CREATE MATERIALIZED VIEW app.totals AS SELECT customer, sum(total) AS total FROM app.orders GROUP BY 1;
CREATE MATERIALIZED VIEW app.unfilled AS SELECT 1 AS one WITH NO DATA;
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := 'x;y'; RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON app.orders FOR EACH ROW EXECUTE FUNCTION app.touch();
CREATE TABLE public.dropme (id int);
CREATE TABLE "Odd name" ("Select" int, "a ""b" text);
INSERT INTO app.customers (name) SELECT 'customer ' || n FROM generate_series(1, 20) n;
INSERT INTO app.orders (customer, total) SELECT n, n * 1.5 FROM generate_series(1, 20) n;
