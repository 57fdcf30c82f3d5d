-- What tells one row from another, and how it changes.

--- image
CREATE TABLE seat (id int PRIMARY KEY, who text);
INSERT INTO seat SELECT n, 'guest ' || n FROM generate_series(1, 100) n;

-- Texts that run into each other if the key is put together carelessly.
CREATE TABLE pair (a text, b text, v text, PRIMARY KEY (a, b));
INSERT INTO pair VALUES ('a', 'b|c', '1'), ('a|b', 'c', '2'), (E'a\tb', 'c', '3'), ('a', E'b\tc', '4'),
    ('', E'\t', '5'), (E'\t', '', '6'), (E'\\', 'N', '7'), (E'\\N', '', '8'), ('', E'\\N', '9'), ('', '', '10'),
    (E'a\\', 'b', '11'), ('a', E'\\b', '12'), (E'a\n', 'b', '13'), ('a', E'\nb', '14'), (E'\\t', 'x', '15'),
    (E'\t', 'x', '16'), (E'\\.', '', '17'), ('', E'\\.', '18'), (E'\\H', '', '19'), ('NULL', 'null', '20');

-- The key's columns in another order than the table's, apart from each other.
CREATE TABLE crossed (v text, a int, w text, b text, x int, PRIMARY KEY (b, a));
INSERT INTO crossed SELECT 'v' || n, n % 10, 'w', 'b' || n / 10, n FROM generate_series(0, 99) n;

CREATE TABLE badge (id int PRIMARY KEY, who text, colour text NOT NULL, number int NOT NULL, extra text);
CREATE UNIQUE INDEX badge_number ON badge (number, colour) INCLUDE (extra);
ALTER TABLE badge REPLICA IDENTITY USING INDEX badge_number;
INSERT INTO badge SELECT n, 'who ' || n, 'red', n, 'extra' FROM generate_series(1, 60) n;

CREATE TABLE extreme (k bigint PRIMARY KEY, v text);
INSERT INTO extreme VALUES (-9223372036854775808, 'least'), (9223372036854775807, 'most'), (0, 'none'), (-1, 'minus');

CREATE TYPE colour AS ENUM ('red', 'green', 'a "quoted" one', 'with space', '');
CREATE TYPE point3 AS (x int, y numeric, label text);
CREATE DOMAIN code AS text CHECK (value <> 'never');
CREATE TABLE odd_keys (
    kind text, e colour, c point3, d code, u uuid, ts timestamptz, b bytea, iv interval, r int4range, a int[],
    ch "char", n name, ok boolean, net inet, day date, v text,
    PRIMARY KEY (kind, e, c, d, u, ts, b, iv, r, a, ch, n, ok, net, day));
INSERT INTO odd_keys SELECT 'k' || n, 'a "quoted" one', ROW(n, n + 0.50, 'a,"b' || n)::point3, 'code', md5(n::text)::uuid,
    '2001-02-03 04:05:06.789+00'::timestamptz + n * interval '1 microsecond', decode(md5(n::text), 'hex'),
    n * interval '1 mon 2 days', int4range(n, n + 5), ARRAY[n, NULL, n], 'x', 'name ' || n, n % 2 = 0, '10.0.0.1/8',
    date '0044-03-15 BC' + n, 'v' FROM generate_series(1, 30) n;

--- each
-- Two change places; three go round; a chain moves up by one; all in transactions of their own.
BEGIN;
UPDATE seat SET id = 0 WHERE id = 10 * :step + 1;
UPDATE seat SET id = 10 * :step + 1 WHERE id = 10 * :step + 2;
UPDATE seat SET id = 10 * :step + 2 WHERE id = 0;
COMMIT;
BEGIN;
UPDATE seat SET id = 0 WHERE id = 10 * :step + 3;
UPDATE seat SET id = 10 * :step + 3 WHERE id = 10 * :step + 4;
UPDATE seat SET id = 10 * :step + 4 WHERE id = 10 * :step + 5;
UPDATE seat SET id = 10 * :step + 5 WHERE id = 0;
COMMIT;
BEGIN;
UPDATE seat SET id = 200 + :step WHERE id = 10 * :step + 9;
UPDATE seat SET id = id + 1 WHERE id = 10 * :step + 8;
UPDATE seat SET id = id + 1 WHERE id = 10 * :step + 7;
UPDATE seat SET id = id + 1 WHERE id = 10 * :step + 6;
INSERT INTO seat VALUES (10 * :step + 6, 'latecomer');
COMMIT;
BEGIN;
DELETE FROM seat WHERE id = 50 + :step;
UPDATE seat SET id = 50 + :step WHERE id = 60 + :step;
INSERT INTO seat VALUES (60 + :step, 'guest of the moved');
UPDATE seat SET who = who || ', again' WHERE id IN (50 + :step, 60 + :step);
COMMIT;
-- Everybody moves far, so that each old key is a new one's neighbour.
UPDATE seat SET id = -id WHERE id > 80;
UPDATE seat SET id = -id WHERE id < 0;

UPDATE pair SET v = v || ' touched ' || :step WHERE (length(a) + length(b)) % 3 = :step - 1;
UPDATE pair SET a = b, b = a WHERE (a, b) = ('a', 'b|c') OR (b, a) = ('a', 'b|c');
UPDATE pair SET a = a || E'\t', b = E'\\' || b WHERE v LIKE '3%';
DELETE FROM pair WHERE (a, b) IN (('', E'\t'), (E'\\', 'N'), (E'\t', 'x')) AND v NOT LIKE '5 new%';
INSERT INTO pair VALUES ('', E'\t', '5 new ' || :step), (E'\\', 'N', '7 new'), (E'\t', 'x', '16 new')
    ON CONFLICT (a, b) DO UPDATE SET v = 'conflict';

UPDATE crossed SET v = 'touched' WHERE a = :step;
UPDATE crossed SET b = b || '!', w = NULL WHERE a = 3 + :step;
UPDATE crossed SET a = a + 100 WHERE b = 'b' || :step;
DELETE FROM crossed WHERE b = 'b' || (5 + :step) AND a < 5;

UPDATE badge SET who = 'touched' WHERE id % 7 = :step;
UPDATE badge SET id = id + 1000 WHERE id = :step;
UPDATE badge SET colour = 'blue' WHERE number = 10 + :step;
UPDATE badge SET number = number + 500, extra = 'moved' WHERE number = 20 + :step;
UPDATE badge SET extra = 'only what the index includes' WHERE number = 30 + :step;
DELETE FROM badge WHERE number = 40 + :step;

DELETE FROM extreme WHERE k = -9223372036854775807;
UPDATE extreme SET v = v || '!';
UPDATE extreme SET k = -9223372036854775807 WHERE k = -9223372036854775808;
UPDATE extreme SET k = -9223372036854775808 WHERE k = -9223372036854775807 AND :step <> 2;
INSERT INTO extreme SELECT -9223372036854775808, 'in between' WHERE :step = 2;
DELETE FROM extreme WHERE k = 0;
INSERT INTO extreme VALUES (0, 'new');

UPDATE odd_keys SET v = 'touched' WHERE kind = 'k' || :step;
UPDATE odd_keys SET e = '' WHERE kind = 'k' || (4 + :step);
UPDATE odd_keys SET c.label = E'\\"' || :step, v = 'label' WHERE kind = 'k' || (8 + :step);
UPDATE odd_keys SET b = '\x00ff', a = '{}', iv = '-1 mon +1 day', r = 'empty', day = 'infinity' WHERE kind = 'k' || (12 + :step);
DELETE FROM odd_keys WHERE kind = 'k' || (16 + :step);
INSERT INTO odd_keys SELECT 'new' || :step, e, c, d, u, '-infinity', b, iv, r, '[-1:0]={1,2}', '', n, ok, '::1', day, v
    FROM odd_keys WHERE kind = 'k25';
UPDATE odd_keys SET v = 'new, touched' WHERE kind = 'new' || :step;
