-- Strings that mean something to COPY, to SQL or to a careless reader.

--- image
CREATE TABLE line (id int PRIMARY KEY, v text);
INSERT INTO line (id, v) SELECT n, v FROM unnest(ARRAY[
    E'\\N', E'\\.', E'\\H', E'\\\\N', E'\\', E'\\\\', E'\t', E'\n', E'\r', E'\r\n', E'\v', E'\f', E'\b', E'\x01', E'\x7f',
    '', ' ', '  ', E'\\n', E'\\t', E'a\tb\nc\rd', E'\\.\n', E'\n\\.\n', E'x\\', E'\\x41', E'\\101', '''', '''''', '"', '""',
    'NULL', 'null', 'N', 'H', '$$', '$1', '--', '/*', ';', E'\u00a0', E'\ufeff', E'\ufffd', 'é', E'e\u0301', '表', '😀',
    E'\U0010ffff', 'true', 't', '0', '-0', '1e5', '{}', '{NULL}', '()', E'(",")', E'\u2028', E'\u0085',
    repeat(E'\\', 5000), repeat(E'\t\n', 5000), repeat(' ', 10000), repeat('é', 10000)]) WITH ORDINALITY AS u (v, n);
CREATE TABLE keyed (v text PRIMARY KEY, n int);
INSERT INTO keyed SELECT v, id FROM line WHERE length(v) < 100;
CREATE TABLE bagged (a text, b text, c text);
ALTER TABLE bagged REPLICA IDENTITY FULL;
INSERT INTO bagged SELECT v, NULL, v FROM line;
CREATE TABLE together (id int PRIMARY KEY, a text[], b varchar(20), c char(10), d name, e "char", f json, g bytea);
INSERT INTO together SELECT id, ARRAY[v, NULL, v], left(v, 20), left(v, 10), left(v, 10), CASE WHEN v <> '' AND ascii(v) < 128 THEN left(v, 1) END, to_json(v),
    convert_to(v, 'UTF8') FROM line;
CREATE TYPE both_texts AS (a text, b text);
CREATE TABLE nested (id int PRIMARY KEY, v both_texts, w both_texts[]);
INSERT INTO nested SELECT id, ROW(v, v)::both_texts, ARRAY[ROW(v, NULL)::both_texts, NULL, ROW('', v)::both_texts] FROM line;
-- Out of line, and full of what must be escaped.
CREATE TABLE escaped (id int PRIMARY KEY, body text, note text);
ALTER TABLE escaped ALTER body SET STORAGE EXTERNAL;
INSERT INTO escaped SELECT n, repeat(E'\\N\t\\.\n\\H' || n, 2000), 'note' FROM generate_series(1, 12) n;

--- each
-- Every string becomes the next one, so each arrives by the stream, and once more in every other place.
UPDATE line l SET v = (SELECT o.v FROM line o WHERE o.id = 1 + l.id % (SELECT max(id) FROM line WHERE id < 1000)) WHERE l.id < 1000;
INSERT INTO line SELECT :step * 1000 + id, v FROM line WHERE id < 1000;
UPDATE line SET v = NULL WHERE id = 1000 + :step;
UPDATE keyed SET n = n + 1 WHERE n % 3 = :step - 1;
UPDATE keyed SET v = v || E'\t\\' WHERE n % 7 = :step;
DELETE FROM keyed WHERE n % 11 = :step;
INSERT INTO keyed SELECT v, id FROM line WHERE length(v) < 100 AND id < 1000 ON CONFLICT (v) DO UPDATE SET n = keyed.n + 1000;
DELETE FROM bagged WHERE ctid IN (SELECT ctid FROM bagged ORDER BY ctid LIMIT 10);
UPDATE bagged SET b = a WHERE ctid IN (SELECT ctid FROM bagged ORDER BY ctid LIMIT 30);
INSERT INTO bagged SELECT v, v, NULL FROM line WHERE id < 1000;
INSERT INTO together SELECT :step * 1000 + id, ARRAY[v], left(v, 20), left(v, 10), left(v, 10), CASE WHEN v <> '' AND ascii(v) < 128 THEN left(v, 1) END, to_json(v),
    convert_to(v, 'UTF8') FROM line WHERE id < 1000;
UPDATE together SET a = a || a WHERE id % 5 = :step;
UPDATE nested SET v.a = (v).b || E'"\\', w = w || v WHERE id % 4 = :step;
UPDATE escaped SET note = E'\\H\t' || :step WHERE id % 4 = :step;
UPDATE escaped SET id = id + 100 WHERE id = 4 * :step;
UPDATE escaped SET note = E'\\H' WHERE id > 100;
