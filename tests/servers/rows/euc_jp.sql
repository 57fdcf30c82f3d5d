-- Letters of two bytes, whose second looks like others' first.

--- image
CREATE TABLE "表" (id int PRIMARY KEY, "漢字" text, note text);
ALTER TABLE "表" ALTER "漢字" SET STORAGE EXTERNAL;
INSERT INTO "表" SELECT n, 'テスト能' || n, 'note' FROM generate_series(1, 50) n;
INSERT INTO "表" SELECT 100 + n, repeat('テスト能', 3000) || n, 'note' FROM generate_series(1, 9) n;
CREATE TABLE "漢字" ("表" text PRIMARY KEY, v text);
INSERT INTO "漢字" SELECT 'テスト能' || n, 'v' FROM generate_series(1, 30) n;
CREATE TABLE bag (line text);
ALTER TABLE bag REPLICA IDENTITY FULL;
INSERT INTO bag SELECT 'テスト能' || n % 3 FROM generate_series(1, 30) n;
CREATE SCHEMA "テスト能";
CREATE TYPE "テスト能".kind AS ENUM ('表', '漢字');
CREATE TABLE "テスト能".plain (id serial PRIMARY KEY, k "テスト能".kind);
INSERT INTO "テスト能".plain (k) VALUES ('表'), ('漢字');
CREATE MATERIALIZED VIEW "テスト能"."テスト能" AS SELECT * FROM bag;

--- each
UPDATE "表" SET "漢字" = 'テスト能' || "漢字" WHERE id % 7 = :step;
UPDATE "表" SET note = '表' WHERE id = 100 + :step;
UPDATE "表" SET id = id + 1000 WHERE id = 103 + :step;
DELETE FROM "表" WHERE id = 106 + :step;
INSERT INTO "表" VALUES (2000 + :step, repeat('漢字', 4000), NULL);
UPDATE "漢字" SET v = 'テスト能' WHERE "表" = 'テスト能' || :step;
UPDATE "漢字" SET "表" = '漢字' || "表" WHERE "表" = 'テスト能' || (10 + :step);
DELETE FROM "漢字" WHERE "表" = 'テスト能' || (20 + :step);
UPDATE bag SET line = line || '表' WHERE ctid = (SELECT min(ctid) FROM bag);
DELETE FROM bag WHERE ctid = (SELECT max(ctid) FROM bag);
INSERT INTO bag VALUES ('テスト能'), ('漢字');
UPDATE "テスト能".plain SET k = '漢字' WHERE id = 1;
INSERT INTO "テスト能".plain (k) VALUES ('表');
-- Only its name can tell that it went on.
SELECT nextval('"テスト能".plain_id_seq') > 0;
