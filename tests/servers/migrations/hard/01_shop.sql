CREATE TYPE order_state AS ENUM ('new', 'paid', 'sent');
CREATE TABLE customers (id serial PRIMARY KEY, name text NOT NULL, street text, town text, born varchar(20));
CREATE TABLE orders (
    id serial PRIMARY KEY,
    customer integer NOT NULL REFERENCES customers,
    state order_state NOT NULL DEFAULT 'new',
    amount text NOT NULL,
    placed date NOT NULL
);
CREATE INDEX orders_placed ON orders (placed);
CREATE VIEW open_orders AS SELECT o.id, c.name, o.amount, o.state FROM orders o JOIN customers c ON c.id = o.customer WHERE o.state <> 'sent';
INSERT INTO customers (name, street, town, born)
SELECT 'customer ' || g, 'street ' || g % 7, CASE WHEN g % 5 <> 0 THEN 'town ' || g % 3 END, '19' || 50 + g % 40 || '-05-0' || 1 + g % 9
FROM generate_series(1, 60) g;
INSERT INTO orders (customer, state, amount, placed)
SELECT 1 + g % 60, (ARRAY['new', 'paid', 'sent'])[1 + g % 3]::order_state, g || ',50', date '2023-11-01' + g
FROM generate_series(1, 120) g;
