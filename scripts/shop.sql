-- A shop: customers, products, and orders with one or two items and a payment. psql's variables `customers` and `orders` are
-- their numbers.
CREATE TABLE customers (id bigserial PRIMARY KEY, name text NOT NULL, joined timestamptz NOT NULL DEFAULT now());
CREATE TABLE products (id bigserial PRIMARY KEY, name text NOT NULL, price numeric(12,2) NOT NULL CHECK (price > 0),
    stock int NOT NULL);
CREATE TABLE orders (id bigserial PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers,
    placed timestamptz NOT NULL DEFAULT clock_timestamp(), status text NOT NULL DEFAULT 'new');
CREATE TABLE order_items (order_id bigint REFERENCES orders ON DELETE CASCADE, product_id bigint REFERENCES products,
    quantity int NOT NULL, price numeric(12,2) NOT NULL, PRIMARY KEY (order_id, product_id));
CREATE TABLE payments (id bigserial PRIMARY KEY, order_id bigint NOT NULL REFERENCES orders ON DELETE CASCADE,
    amount numeric(12,2) NOT NULL);
CREATE INDEX ON orders (customer_id);
CREATE INDEX ON payments (order_id);
INSERT INTO customers (name) SELECT 'Customer ' || n FROM generate_series(1, :customers) n;
INSERT INTO products (name, price, stock) SELECT 'Product ' || n, 1 + n * 0.37, 100000 FROM generate_series(1, 300) n;
INSERT INTO orders (customer_id) SELECT 1 + n % :customers FROM generate_series(1, :orders) n;
INSERT INTO order_items SELECT o.id, p.id, 1 + o.id % 3, p.price
    FROM orders o JOIN products p ON p.id IN (1 + o.id % 300, 1 + (o.id * 7 + 5) % 300);
INSERT INTO payments (order_id, amount) SELECT order_id, sum(quantity * price) FROM order_items GROUP BY order_id;
