BEGIN;
ALTER TABLE customers DROP COLUMN shouted;
ALTER TABLE trade.addresses ALTER COLUMN label DROP EXPRESSION;
UPDATE trade.addresses SET label = 'by hand' WHERE customer < 9;
ALTER TABLE customers ADD COLUMN shouted text;
UPDATE customers SET shouted = 'no longer computed' WHERE id % 7 = 0;
COMMIT;
