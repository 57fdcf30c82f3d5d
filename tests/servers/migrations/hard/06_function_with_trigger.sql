CREATE TABLE changes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO changes (what) VALUES (TG_OP || ' ' || NEW.name); RETURN NEW; END $$;
CREATE TRIGGER customers_noted AFTER INSERT OR UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION note_change();
UPDATE customers SET name = name || '.' WHERE id < 5;
BEGIN;
ALTER TABLE changes ADD COLUMN who name NOT NULL DEFAULT current_user;
CREATE OR REPLACE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    -- Words of DDL in a body: CREATE TABLE nonsense (); DROP TABLE customers;
    INSERT INTO changes (what) VALUES (format('%s of %s: "%s"', TG_OP, TG_RELNAME, NEW.name));
    RETURN NEW;
END $body$;
DROP TRIGGER customers_noted ON customers;
CREATE TRIGGER customers_noted AFTER INSERT OR UPDATE OF name ON customers FOR EACH ROW WHEN (NEW.name <> '') EXECUTE FUNCTION note_change();
UPDATE customers SET name = name || '!' WHERE id < 8;
COMMIT;
CREATE PROCEDURE settle(below numeric) LANGUAGE sql BEGIN ATOMIC UPDATE orders SET state = 'paid' WHERE amount < below AND state = 'new'; END;
CALL settle(20);
