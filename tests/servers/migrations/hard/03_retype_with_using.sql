BEGIN;
DROP VIEW open_orders;
UPDATE orders SET amount = '0,99' WHERE id = 7;
ALTER TABLE orders ALTER COLUMN amount TYPE numeric(12, 2) USING replace(amount, ',', '.')::numeric;
ALTER TABLE customers ALTER COLUMN born TYPE date USING to_date(born, 'YYYY-MM-DD'), ALTER COLUMN name TYPE varchar(200);
UPDATE orders SET amount = amount * 2 WHERE id % 9 = 0;
-- The view comes back with one more column, and another on top of it.
CREATE VIEW open_orders AS SELECT o.id, c.name, o.amount, o.state, o.placed FROM orders o JOIN customers c ON c.id = o.customer WHERE o.state <> 'sent';
CREATE VIEW open_sums AS SELECT name, sum(amount) AS amount FROM open_orders GROUP BY name;
COMMIT;
INSERT INTO orders (customer, amount, placed) VALUES (3, 12.345, '2024-05-05');
