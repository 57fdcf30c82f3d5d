CREATE UNIQUE INDEX CONCURRENTLY customers_name ON customers (lower(name), id);
CREATE INDEX CONCURRENTLY changes_at ON changes USING brin (at);
DROP INDEX orders_by_placed;
CREATE INDEX orders_by_placed ON ONLY orders (placed DESC);
CREATE INDEX CONCURRENTLY orders_2024_by_placed ON orders_2024 (placed DESC);
ALTER INDEX orders_by_placed ATTACH PARTITION orders_2024_by_placed;
REINDEX INDEX CONCURRENTLY customers_name;
DROP INDEX CONCURRENTLY changes_at;
ALTER TABLE customers ADD CONSTRAINT customers_number UNIQUE (id, born);
