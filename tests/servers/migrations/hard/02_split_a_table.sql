-- The rows move to a table of their own within the transaction that drops their columns.
BEGIN;
CREATE TABLE addresses (customer integer PRIMARY KEY REFERENCES customers ON DELETE CASCADE, street text NOT NULL, town text);
INSERT INTO addresses SELECT id, street, town FROM customers WHERE street IS NOT NULL;
UPDATE addresses SET town = upper(town) WHERE customer % 2 = 0;
ALTER TABLE customers DROP COLUMN street, DROP COLUMN town;
UPDATE customers SET name = name || ' (moved)' WHERE id % 10 = 0;
COMMIT;
