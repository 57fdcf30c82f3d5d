-- Letters that are one byte here and two in UTF-8.

--- image
CREATE TABLE "Größe" (id int PRIMARY KEY, "façade" text, note text);
ALTER TABLE "Größe" ALTER "façade" SET STORAGE EXTERNAL;
INSERT INTO "Größe" SELECT n, 'é±ÿ ' || n, 'note' FROM generate_series(1, 50) n;
INSERT INTO "Größe" SELECT 100 + n, repeat('é±ÿ ', 3000) || n, 'note' FROM generate_series(1, 9) n;
CREATE TABLE "façade" ("Größe" text PRIMARY KEY, v text);
INSERT INTO "façade" SELECT 'é±ÿ ' || n, 'v' FROM generate_series(1, 30) n;
CREATE TABLE bag (line text);
ALTER TABLE bag REPLICA IDENTITY FULL;
INSERT INTO bag SELECT 'é±ÿ ' || n % 3 FROM generate_series(1, 30) n;
CREATE SCHEMA "é±ÿ ";
CREATE TYPE "é±ÿ ".kind AS ENUM ('Größe', 'façade');
CREATE TABLE "é±ÿ ".plain (id serial PRIMARY KEY, k "é±ÿ ".kind);
INSERT INTO "é±ÿ ".plain (k) VALUES ('Größe'), ('façade');
CREATE MATERIALIZED VIEW "é±ÿ "."é±ÿ " AS SELECT * FROM bag;

--- each
UPDATE "Größe" SET "façade" = 'é±ÿ ' || "façade" WHERE id % 7 = :step;
UPDATE "Größe" SET note = 'Größe' WHERE id = 100 + :step;
UPDATE "Größe" SET id = id + 1000 WHERE id = 103 + :step;
DELETE FROM "Größe" WHERE id = 106 + :step;
INSERT INTO "Größe" VALUES (2000 + :step, repeat('façade', 4000), NULL);
UPDATE "façade" SET v = 'é±ÿ ' WHERE "Größe" = 'é±ÿ ' || :step;
UPDATE "façade" SET "Größe" = 'façade' || "Größe" WHERE "Größe" = 'é±ÿ ' || (10 + :step);
DELETE FROM "façade" WHERE "Größe" = 'é±ÿ ' || (20 + :step);
UPDATE bag SET line = line || 'Größe' WHERE ctid = (SELECT min(ctid) FROM bag);
DELETE FROM bag WHERE ctid = (SELECT max(ctid) FROM bag);
INSERT INTO bag VALUES ('é±ÿ '), ('façade');
UPDATE "é±ÿ ".plain SET k = 'façade' WHERE id = 1;
INSERT INTO "é±ÿ ".plain (k) VALUES ('Größe');
-- Only its name can tell that it went on.
SELECT nextval('"é±ÿ ".plain_id_seq') > 0;
