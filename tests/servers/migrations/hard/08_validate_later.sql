ALTER TABLE customers ADD CONSTRAINT named CHECK (name <> '') NOT VALID;
ALTER TABLE changes ADD COLUMN customer integer;
ALTER TABLE changes ADD CONSTRAINT of_customer FOREIGN KEY (customer) REFERENCES customers ON DELETE SET NULL NOT VALID;
UPDATE changes SET customer = id WHERE id <= 10;
