ALTER TABLE customers ADD COLUMN shouted text GENERATED ALWAYS AS (upper(name)) STORED;
CREATE INDEX customers_shouted ON customers (shouted);
UPDATE customers SET name = 'renamed ' || id WHERE id % 6 = 0;
ALTER TABLE trade.addresses ADD COLUMN label text GENERATED ALWAYS AS (street || coalesce(', ' || town, '')) STORED;
