ALTER TABLE customers ADD COLUMN token uuid NOT NULL DEFAULT gen_random_uuid(), ADD COLUMN since timestamptz DEFAULT now(), ADD COLUMN luck double precision DEFAULT random();
CREATE SEQUENCE numbers START 100;
ALTER TABLE trade.orders ADD COLUMN number bigint NOT NULL DEFAULT nextval('numbers'), ADD COLUMN seen timestamptz NOT NULL DEFAULT clock_timestamp();
ALTER TABLE trade.addresses ADD COLUMN id bigserial UNIQUE;
INSERT INTO trade.orders (customer, amount, placed) VALUES (2, 1, '2024-02-02'), (2, 2, '2026-02-02');
