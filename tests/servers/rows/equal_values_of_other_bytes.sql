-- Keys that SQL calls equal and that are written in other ways: a row is the one with these bytes.

--- image
CREATE EXTENSION IF NOT EXISTS citext SCHEMA public;
CREATE TABLE numbers (k numeric PRIMARY KEY, v text);
INSERT INTO numbers VALUES (1.0, 'a'), (2.00, 'b'), (3, 'c'), ('NaN', 'not'), ('Infinity', 'all'), (-0.0, 'zero'),
    (100, 'd'), (1e2 + 1, 'e'), (0.1, 'f');
CREATE TABLE floats (k float8 PRIMARY KEY, v text);
INSERT INTO floats VALUES ('-0', 'minus zero'), (1, 'one'), ('NaN', 'not'), ('Infinity', 'all'), ('-Infinity', 'none'),
    ('5e-324', 'least'), ('1.7976931348623157e308', 'most'), (0.1 + 0.2, 'point three');
CREATE TABLE small_floats (k float4 PRIMARY KEY, v text);
INSERT INTO small_floats VALUES ('-0', 'minus zero'), (0.1, 'tenth'), ('1e-45', 'least'), ('3.4028235e38', 'most');
CREATE TABLE words (k public.citext PRIMARY KEY, v text);
INSERT INTO words VALUES ('Abc', 'a'), ('ÄRGER', 'b'), ('word', 'c');
CREATE TABLE padded (k char(5) PRIMARY KEY, v text);
INSERT INTO padded VALUES ('a', '1'), ('b ', '2'), ('', '3');
CREATE TABLE spans (k interval PRIMARY KEY, v text);
INSERT INTO spans VALUES ('1 day', 'a'), ('30 days', 'b'), ('00:00:00', 'c');
CREATE TABLE documents (k jsonb PRIMARY KEY, v text);
INSERT INTO documents VALUES ('{"a": 1.0}', 'a'), ('[1, 2]', 'b'), ('"x"', 'c'), ('null', 'd');
CREATE TABLE zoned (k timetz PRIMARY KEY, v text);
INSERT INTO zoned VALUES ('12:00:00+00', 'a'), ('24:00:00-05:30', 'b');
CREATE TABLE arrays (k numeric[] PRIMARY KEY, v text);
INSERT INTO arrays VALUES ('{1.0,2}', 'a'), ('{NULL}', 'b'), ('{}', 'c'), ('[0:1]={5,6}', 'd');
-- The same without a key: there the bytes are all there is.
CREATE TABLE loose (n numeric, f float8, c public.citext, j json);
ALTER TABLE loose REPLICA IDENTITY FULL;
INSERT INTO loose VALUES (1.0, '-0', 'x', '{"a":1}'), (1.00, 0, 'X', '{"a": 1}'), (1.0, '-0', 'x', '{"a":1}');

--- each
-- Only the bytes change, then the rest of the row, then the row goes and comes again.
UPDATE numbers SET k = k + 0.000 WHERE k IN (1, 2, 3);
UPDATE numbers SET v = v || :step WHERE k = 1;
DELETE FROM numbers WHERE k = 2;
INSERT INTO numbers VALUES (2.0 + 0.0000 * :step, 'again');
UPDATE numbers SET v = 'touched ' || :step WHERE k IN ('NaN', 'Infinity', 0);
INSERT INTO numbers VALUES (100.000, 'e') ON CONFLICT (k) DO UPDATE SET k = excluded.k, v = excluded.v || :step;
UPDATE floats SET k = -k, v = 'zero ' || :step WHERE k = 0;
UPDATE floats SET v = v || :step WHERE k = 0;
UPDATE floats SET v = 'touched ' || :step WHERE k IN ('NaN', 'Infinity', '5e-324', '1.7976931348623157e308', 0.1::float8 + 0.2);
DELETE FROM floats WHERE k = '-Infinity';
INSERT INTO floats VALUES ('-Infinity', 'again ' || :step);
UPDATE small_floats SET k = -k, v = v || :step WHERE k = 0;
UPDATE small_floats SET v = v || :step;
UPDATE words SET k = CASE :step WHEN 1 THEN 'ABC' WHEN 2 THEN 'aBC' ELSE 'abc' END WHERE k = 'abc';
UPDATE words SET v = v || :step WHERE k = 'ABC';
DELETE FROM words WHERE k = 'WORD';
INSERT INTO words VALUES (CASE :step WHEN 1 THEN 'WORD' ELSE 'Word' END, 'again');
UPDATE padded SET v = v || :step WHERE k = 'a';
UPDATE padded SET k = k || ' ' WHERE k = 'b';
DELETE FROM padded WHERE k = '';
INSERT INTO padded VALUES ('   ', 'again ' || :step);
UPDATE spans SET k = CASE :step WHEN 2 THEN '1 day' ELSE '24:00:00' END::interval WHERE k = '1 day';
UPDATE spans SET v = v || :step WHERE k = '1 day';
UPDATE spans SET k = CASE :step WHEN 2 THEN '30 days' ELSE '1 mon' END::interval, v = 'month' WHERE k = '1 mon';
UPDATE documents SET k = CASE :step WHEN 1 THEN '{"a": 1.00}' WHEN 2 THEN '{"a": 1}' ELSE '{"a": 1.000}' END::jsonb
    WHERE k = '{"a": 1}';
UPDATE documents SET v = v || :step;
DELETE FROM documents WHERE k = '"x"' AND :step = 2;
UPDATE zoned SET v = v || :step;
DELETE FROM zoned WHERE k = '12:00:00+00' AND :step = 1;
UPDATE arrays SET k = CASE :step WHEN 1 THEN '{1,2.0}' WHEN 2 THEN '{1.00,2}' ELSE '{1,2}' END::numeric[] WHERE k = '{1,2}';
UPDATE arrays SET v = v || :step;
UPDATE loose SET n = n + 0.000 WHERE ctid = (SELECT min(ctid) FROM loose WHERE n = 1);
UPDATE loose SET f = -f WHERE ctid = (SELECT max(ctid) FROM loose WHERE f = 0);
DELETE FROM loose WHERE ctid = (SELECT min(ctid) FROM loose);
INSERT INTO loose VALUES (1.0, '-0', 'x', '{"a":1}'), (1.00, '-0', 'x', '{"a":1}'), (1.0, '-0', 'X', '{"a" :1}');
