-- Rows told apart by their bytes alone, and equal ones by their number.

--- image
CREATE TABLE bag (line text, n int);
ALTER TABLE bag REPLICA IDENTITY FULL;
INSERT INTO bag SELECT 'same', n % 4 FROM generate_series(1, 400) n;
INSERT INTO bag VALUES (NULL, NULL), (NULL, NULL), ('', NULL), (NULL, 0);

-- Long ones differ only at their end.
CREATE TABLE long_bag (line text);
ALTER TABLE long_bag REPLICA IDENTITY FULL;
INSERT INTO long_bag SELECT repeat('x', 1000) || n % 5 FROM generate_series(1, 200) n;

-- More equal rows than one block of an image holds.
CREATE TABLE heavy_bag (line text);
ALTER TABLE heavy_bag REPLICA IDENTITY FULL;
INSERT INTO heavy_bag SELECT repeat('heavy', 40) FROM generate_series(1, 3000);
INSERT INTO heavy_bag SELECT repeat('heavy', 39) || n FROM generate_series(1, 100) n;

-- Types that SQL has no equality for.
CREATE TABLE unequal (j json, x xml, p point, path path, tq jsonpath);
ALTER TABLE unequal REPLICA IDENTITY FULL;
INSERT INTO unequal SELECT '{"a" : 1, "a":2}', '<a b="c"/>', '(1,-0)', '[(0,0),(1,1)]', '$.a' FROM generate_series(1, 6);
INSERT INTO unequal VALUES (NULL, NULL, NULL, NULL, NULL), ('null', '', '(NaN,Infinity)', '((1,2))', '$');

-- Only ever inserted into, and emptied: that is all the stream tells of such a table.
CREATE TABLE book (line text, n int);
INSERT INTO book SELECT 'line', n FROM generate_series(1, 20) n;
INSERT INTO book SELECT * FROM book;

CREATE TABLE empty_bag (line text);
ALTER TABLE empty_bag REPLICA IDENTITY FULL;
CREATE TABLE never_filled (id int PRIMARY KEY, v text);

-- No columns, but rows.
CREATE TABLE nothing ();
ALTER TABLE nothing REPLICA IDENTITY FULL;
INSERT INTO nothing DEFAULT VALUES;
INSERT INTO nothing DEFAULT VALUES;
CREATE TABLE nothing_at_all ();

-- A column that was there is gone, one came later with a default that no row holds.
CREATE TABLE altered (gone int, kept text, also_gone text);
INSERT INTO altered VALUES (1, 'one', 'x'), (1, 'one', 'x'), (2, 'two', 'y');
ALTER TABLE altered DROP gone, DROP also_gone;
ALTER TABLE altered ADD late text DEFAULT 'late', ADD later numeric DEFAULT 1.50;
ALTER TABLE altered REPLICA IDENTITY FULL;

--- each
DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE n = :step ORDER BY ctid DESC LIMIT 3);
UPDATE bag SET line = 'other' WHERE ctid IN (SELECT ctid FROM bag WHERE n = :step ORDER BY ctid LIMIT 2);
UPDATE bag SET n = n WHERE n = 0;
UPDATE bag SET n = 1 - n WHERE n IN (0, 1) AND line = 'other';
DELETE FROM bag WHERE ctid = (SELECT max(ctid) FROM bag WHERE line IS NULL AND n IS NULL);
INSERT INTO bag VALUES (NULL, NULL), ('same', 3), ('same', 3);
BEGIN;
INSERT INTO bag VALUES ('fleeting', :step), ('fleeting', :step);
DELETE FROM bag WHERE ctid = (SELECT max(ctid) FROM bag WHERE line = 'fleeting');
COMMIT;
UPDATE long_bag SET line = line || '!' WHERE ctid IN (SELECT ctid FROM long_bag WHERE line LIKE '%' || :step LIMIT 5);
DELETE FROM long_bag WHERE ctid IN (SELECT ctid FROM long_bag WHERE line LIKE '%4' LIMIT 5);
DELETE FROM heavy_bag WHERE ctid IN (SELECT ctid FROM heavy_bag ORDER BY ctid LIMIT 700);
UPDATE heavy_bag SET line = line || :step WHERE ctid IN (SELECT ctid FROM heavy_bag ORDER BY ctid DESC LIMIT 50);
INSERT INTO heavy_bag SELECT repeat('heavy', 40) FROM generate_series(1, 10);
DELETE FROM unequal WHERE ctid = (SELECT min(ctid) FROM unequal WHERE p IS NOT NULL);
UPDATE unequal SET p = '(0,0)' WHERE ctid = (SELECT min(ctid) FROM unequal WHERE p IS NOT NULL);
UPDATE unequal SET j = '{"a" : 1,  "a":2}' WHERE ctid = (SELECT max(ctid) FROM unequal);
UPDATE unequal SET x = '<a/>' WHERE j IS NULL;
INSERT INTO book SELECT 'line', n FROM generate_series(1, 5) n;
INSERT INTO empty_bag VALUES ('now there is one');
DELETE FROM empty_bag;
INSERT INTO nothing DEFAULT VALUES;
INSERT INTO nothing DEFAULT VALUES;
DELETE FROM nothing WHERE ctid = (SELECT min(ctid) FROM nothing);
UPDATE altered SET kept = kept || :step WHERE ctid = (SELECT min(ctid) FROM altered);
DELETE FROM altered WHERE ctid = (SELECT max(ctid) FROM altered) AND :step < 3;
INSERT INTO altered (kept) VALUES ('one');

--- third
BEGIN;
TRUNCATE book;
INSERT INTO book VALUES ('new page', 1), ('new page', 1);
COMMIT;
