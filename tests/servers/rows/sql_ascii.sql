-- Bytes that are no text in any encoding, and names that happen to be UTF-8.

--- image
-- Bytes here are what is sent; \x in a string is any of them.
SET client_encoding = 'SQL_ASCII';
CREATE TABLE raw (id int PRIMARY KEY, v text, note text);
ALTER TABLE raw ALTER v SET STORAGE EXTERNAL;
INSERT INTO raw SELECT n, chr(n), 'note' FROM generate_series(1, 255) n;
INSERT INTO raw VALUES (1000, E'\xff\xfe\t\\N\x80', E'\xc3'), (1001, E'\xed\xa0\x80', 'é'), (1002, E'\xc0\x80', NULL);
INSERT INTO raw SELECT 2000 + n, repeat(E'\xe9\xff\\\t', 2500) || n, 'long' FROM generate_series(1, 9) n;
CREATE TABLE "Größe" ("ключ" text PRIMARY KEY, "値" text);
INSERT INTO "Größe" SELECT chr(n) || E'\xe9', chr(n) FROM generate_series(128, 255) n;
CREATE TABLE bag (line text);
ALTER TABLE bag REPLICA IDENTITY FULL;
INSERT INTO bag SELECT chr(128 + n % 3) FROM generate_series(1, 30) n;

--- each
SET client_encoding = 'SQL_ASCII';
UPDATE raw SET v = v || E'\xfe' WHERE id % 10 = :step;
UPDATE raw SET note = E'\x81' WHERE id = 2000 + :step;
UPDATE raw SET id = id + 1000 WHERE id = 2003 + :step;
DELETE FROM raw WHERE id IN (128 + :step, 2006 + :step);
INSERT INTO raw SELECT 5000 + 300 * :step + n, chr(n) || chr(256 - n), chr(n) FROM generate_series(1, 255) n;
UPDATE "Größe" SET "値" = E'\xff' || "値" WHERE "ключ" = chr(150 + :step) || E'\xe9';
UPDATE "Größe" SET "ключ" = E'\xfd' || "ключ" WHERE "ключ" = chr(160 + :step) || E'\xe9';
DELETE FROM "Größe" WHERE "ключ" = chr(170 + :step) || E'\xe9';
UPDATE bag SET line = line || E'\xaa' WHERE ctid = (SELECT min(ctid) FROM bag);
DELETE FROM bag WHERE ctid = (SELECT max(ctid) FROM bag);
