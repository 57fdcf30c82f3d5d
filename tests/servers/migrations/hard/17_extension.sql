CREATE EXTENSION hstore SCHEMA public;
CREATE EXTENSION IF NOT EXISTS citext;
ALTER TABLE customers ADD COLUMN traits hstore NOT NULL DEFAULT 'since=>"always"', ADD COLUMN mail citext;
UPDATE customers SET traits = traits || hstore('number', id::text), mail = 'C' || id || '@Example.org' WHERE id % 2 = 0;
CREATE INDEX customers_traits ON customers USING gin (traits);
ALTER TABLE customers ADD CONSTRAINT customers_mail UNIQUE (mail);
CREATE DOMAIN address AS citext CHECK (VALUE ~ '@');
ALTER TABLE customers ALTER COLUMN mail TYPE address;
INSERT INTO customers (name, born, mail) VALUES ('mailed', '1999-09-09', 'M@Example.org');
