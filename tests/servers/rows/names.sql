-- Names that must be quoted, and quoted right, everywhere.

--- image
CREATE TABLE "Mixed" ("Id" int PRIMARY KEY, "value" text);
CREATE TABLE mixed ("Id" int PRIMARY KEY, "VALUE" text, "value" text);
CREATE TABLE "with space" ("a column" int PRIMARY KEY, "b  column" text);
CREATE TABLE "dot.ted" ("a.b" int PRIMARY KEY, "c.d" text);
CREATE TABLE "quo""ted" ("i""d" int PRIMARY KEY, "v""" text);
CREATE TABLE "back\slash" ("i\d" int PRIMARY KEY, "\N" text, "\." text);
CREATE TABLE "per%cent %s" ("%d" int PRIMARY KEY, "100%" text);
CREATE TABLE "apo'strophe" ("i'd" int PRIMARY KEY, "v''" text);
CREATE TABLE "new
line" ("i
d" int PRIMARY KEY, "v
" text);
CREATE TABLE "tab	ulator" ("i	d" int PRIMARY KEY, "v" text);
CREATE TABLE "Übergröße" ("Schlüssel" int PRIMARY KEY, "Straße" text);
CREATE TABLE "表" ("鍵" int PRIMARY KEY, "値" text);
CREATE TABLE "😀" ("🔑" int PRIMARY KEY, "💾" text);
CREATE TABLE "select" ("from" int PRIMARY KEY, "where" text);
CREATE TABLE "$1" ("$2" int PRIMARY KEY, "$$" text);
CREATE TABLE ";--" ("/*" int PRIMARY KEY, "*/" text);
CREATE TABLE " " (" " int PRIMARY KEY, "  " text);
CREATE TABLE "*" ("?" int PRIMARY KEY, "[a]" text);
CREATE TABLE "{curly}" ("{}" int PRIMARY KEY, "{0}" text);
CREATE TABLE "1" ("2" int PRIMARY KEY, "3" text);
CREATE TABLE "an_identifier_as_long_as_they_can_be_which_is_63_bytes_in_all__"
    ("a_column_as_long_as_they_can_be_which_is_63_bytes_in_all_______" int PRIMARY KEY, "v" text);
CREATE TABLE "given""s" ("I'd" serial PRIMARY KEY, "v" text);
CREATE SCHEMA "Schema with ""everything"": .%\'ü";
CREATE TABLE "Schema with ""everything"": .%\'ü"."and a ""table""" ("and a ""column""" int PRIMARY KEY, "v" text);
CREATE SCHEMA "a.b";
CREATE TABLE "a.b".c (id int PRIMARY KEY, v text);
CREATE SCHEMA a;
CREATE TABLE a."b.c" (id int PRIMARY KEY, v text);
CREATE TYPE "a Type" AS ENUM ('a "label"', 'an,other', E'back\\slash', 'ü', '(');
CREATE TYPE "Pair" AS ("A" int, "b c" "a Type");
CREATE TABLE "of types" (id int PRIMARY KEY, e "a Type", es "a Type"[], p "Pair", ps "Pair"[]);
INSERT INTO "of types" SELECT n, 'a "label"', ARRAY['an,other', 'ü', NULL]::"a Type"[], ROW(1, '(')::"Pair",
    ARRAY[ROW(2, E'back\\slash'), NULL]::"Pair"[] FROM generate_series(1, 5) n;
CREATE TABLE "Full ""bag""" ("a b" text, "A B" text);
ALTER TABLE "Full ""bag""" REPLICA IDENTITY FULL;
INSERT INTO "Full ""bag""" VALUES ('a', 'b'), ('a', 'b'), (NULL, 'c');

-- The tables whose first columns are a number and a text: filled and changed by name.
CREATE TABLE every_name (n serial PRIMARY KEY, place text, key text, value text);
INSERT INTO every_name (place, key, value)
    SELECT format('%I.%I', n.nspname, c.relname), format('%I', k.attname), format('%I', v.attname)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = 1 AND k.atttypid = 'int'::regtype
      JOIN pg_attribute v ON v.attrelid = c.oid AND v.attnum = 2 AND v.atttypid = 'text'::regtype
     WHERE c.relkind = 'r' AND c.relname <> 'every_name'
       AND (n.nspname IN ('names', 'a', 'a.b') OR n.nspname LIKE 'Schema with%');
CREATE FUNCTION everywhere(statement text) RETURNS void LANGUAGE plpgsql AS $f$
DECLARE it record;
BEGIN
    FOR it IN SELECT * FROM names.every_name ORDER BY n LOOP
        EXECUTE replace(replace(replace(statement, '«table»', it.place), '«key»', it.key), '«value»', it.value);
    END LOOP;
END $f$;
SELECT everywhere('INSERT INTO «table» («key», «value») SELECT n, ''value '' || n FROM generate_series(1, 20) n');

--- each
SELECT everywhere('UPDATE «table» SET «value» = «value» || '' touched'' WHERE «key» % 3 = ' || :step - 1);
SELECT everywhere('UPDATE «table» SET «key» = «key» + 100 WHERE «key» = ' || :step);
SELECT everywhere('DELETE FROM «table» WHERE «key» = 10 + ' || :step);
SELECT everywhere('INSERT INTO «table» («key», «value») VALUES (1000 + ' || :step || ', ''new'')');
UPDATE "of types" SET e = 'ü', p."b c" = 'an,other' WHERE id = :step;
UPDATE "Full ""bag""" SET "A B" = 'touched ' || :step WHERE ctid = (SELECT min(ctid) FROM "Full ""bag""");
UPDATE mixed SET "value" = 'lower' WHERE "Id" = :step;

--- third
TRUNCATE "quo""ted", "表", "a.b".c;
INSERT INTO "表" VALUES (1, 'after');
