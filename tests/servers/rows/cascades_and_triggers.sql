-- What the source's own rules write is in the stream; recovery must not write it again.

--- image
CREATE TABLE customer (id int PRIMARY KEY, name text, email text UNIQUE);
CREATE TABLE purchase (id int PRIMARY KEY,
    customer int REFERENCES customer ON DELETE CASCADE ON UPDATE CASCADE, what text);
CREATE TABLE parcel (id int PRIMARY KEY, purchase int REFERENCES purchase ON DELETE CASCADE, weight numeric(6, 2));
CREATE TABLE review (id int PRIMARY KEY, customer int DEFAULT 1 REFERENCES customer ON DELETE SET NULL ON UPDATE SET NULL,
    by_email text REFERENCES customer (email) ON DELETE SET DEFAULT ON UPDATE CASCADE, stars int);
CREATE TABLE branch (id int PRIMARY KEY, parent int REFERENCES branch ON DELETE CASCADE, name text);
INSERT INTO customer SELECT n, 'name ' || n, 'mail' || n FROM generate_series(1, 40) n;
INSERT INTO purchase SELECT n, 1 + n % 40, 'what' FROM generate_series(1, 200) n;
INSERT INTO parcel SELECT n, 1 + n % 200, n / 7.0 FROM generate_series(1, 400) n;
INSERT INTO review SELECT n, 1 + n % 40, 'mail' || 1 + n % 40, n % 5 FROM generate_series(1, 100) n;
INSERT INTO branch SELECT n, NULLIF(n / 3, 0), 'b' FROM generate_series(1, 100) n;

CREATE TABLE audit (id bigserial PRIMARY KEY, at_table text, what text, before jsonb, after jsonb);
CREATE TABLE always_audit (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, line text);
CREATE TABLE replica_audit (line text PRIMARY KEY);
CREATE TABLE totals (customer int PRIMARY KEY, purchases int NOT NULL);
INSERT INTO totals SELECT customer, count(*) FROM purchase GROUP BY 1;
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO cascades_and_triggers.audit (at_table, what, before, after)
        VALUES (TG_TABLE_NAME, TG_OP, to_jsonb(OLD), to_jsonb(NEW));
    RETURN coalesce(NEW, OLD);
END $$;
CREATE FUNCTION note_always() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO cascades_and_triggers.always_audit (line) VALUES (TG_TABLE_NAME || ' ' || TG_OP); RETURN NULL; END $$;
CREATE FUNCTION note_replica() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO cascades_and_triggers.replica_audit VALUES (clock_timestamp()::text || random()); RETURN NULL; END $$;
CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.name := NEW.name || ' (tidy)'; RETURN NEW; END $$;
CREATE FUNCTION count_purchases() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE cascades_and_triggers.totals t SET purchases = (SELECT count(*) FROM cascades_and_triggers.purchase p
        WHERE p.customer = t.customer);
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON customer FOR EACH ROW EXECUTE FUNCTION note_change();
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON purchase FOR EACH ROW EXECUTE FUNCTION note_change();
CREATE TRIGGER tidy BEFORE INSERT OR UPDATE ON customer FOR EACH ROW EXECUTE FUNCTION tidy();
CREATE TRIGGER total AFTER INSERT OR UPDATE OR DELETE ON purchase FOR EACH STATEMENT EXECUTE FUNCTION count_purchases();
CREATE TRIGGER always AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON branch FOR EACH STATEMENT EXECUTE FUNCTION note_always();
ALTER TABLE branch ENABLE ALWAYS TRIGGER always;
CREATE TRIGGER always AFTER INSERT ON review FOR EACH ROW EXECUTE FUNCTION note_always();
ALTER TABLE review ENABLE ALWAYS TRIGGER always;
CREATE TRIGGER replica AFTER INSERT ON review FOR EACH ROW EXECUTE FUNCTION note_replica();
ALTER TABLE review ENABLE REPLICA TRIGGER replica;
CREATE RULE keep AS ON DELETE TO parcel WHERE OLD.weight > 50 DO ALSO
    INSERT INTO always_audit (line) VALUES ('heavy parcel ' || OLD.id);
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON parcel DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION note_always();

--- each
DELETE FROM customer WHERE id = 5 + :step;
UPDATE customer SET id = id + 1000 WHERE id = 10 + :step;
UPDATE customer SET email = email || '.new' WHERE id = 20 + :step;
UPDATE customer SET name = 'renamed' WHERE id = 30 + :step;
INSERT INTO customer VALUES (2000 + :step, 'new', 'new' || :step) ON CONFLICT (id) DO NOTHING;
INSERT INTO customer VALUES (2000 + :step, 'new', 'new' || :step) ON CONFLICT (id) DO UPDATE SET name = 'upserted';
DELETE FROM purchase WHERE id % 10 = :step;
DELETE FROM branch WHERE id = 10 + :step;
UPDATE branch SET name = 'touched' WHERE id < 3;
INSERT INTO review VALUES (1000 + :step, 1, NULL, 5);
BEGIN;
INSERT INTO parcel VALUES (1000 + :step, NULL, 60);
UPDATE parcel SET weight = 61 WHERE id = 1000 + :step;
COMMIT;
DELETE FROM parcel WHERE id IN (SELECT id FROM parcel WHERE weight > 50 ORDER BY id LIMIT 3);

--- third
TRUNCATE branch;
