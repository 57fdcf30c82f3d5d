-- Values that are stored out of line and left out of the stream while nobody touches them.

--- image
-- Nothing in it repeats, so it stays as large as it is.
CREATE FUNCTION noise(seed text, blocks int) RETURNS text LANGUAGE sql IMMUTABLE
    AS $$ SELECT string_agg(md5(seed || n), '') FROM generate_series(1, blocks) n $$;

CREATE TABLE letter (id int PRIMARY KEY, body text, note text, second text);
ALTER TABLE letter ALTER body SET STORAGE EXTERNAL, ALTER second SET STORAGE EXTERNAL;
INSERT INTO letter SELECT n, noise('body' || n, 300), 'note', noise('second' || n, 280) FROM generate_series(1, 120) n;

-- With a key, but told apart by the whole row.
CREATE TABLE full_letter (id int PRIMARY KEY, body text, note text, second text);
ALTER TABLE full_letter ALTER body SET STORAGE EXTERNAL, ALTER second SET STORAGE EXTERNAL;
ALTER TABLE full_letter REPLICA IDENTITY FULL;
INSERT INTO full_letter SELECT * FROM letter;

CREATE TABLE keyless_letter (body text, note text, n int);
ALTER TABLE keyless_letter ALTER body SET STORAGE EXTERNAL;
ALTER TABLE keyless_letter REPLICA IDENTITY FULL;
INSERT INTO keyless_letter SELECT noise('same', 300), 'note', n / 2 FROM generate_series(1, 60) n;

CREATE TABLE coded_letter (code text NOT NULL, body text, note text);
CREATE UNIQUE INDEX coded_letter_code ON coded_letter (code);
ALTER TABLE coded_letter REPLICA IDENTITY USING INDEX coded_letter_code;
INSERT INTO coded_letter SELECT 'code ' || n, noise('coded' || n, 300), 'note' FROM generate_series(1, 60) n;

-- Keys that are themselves out of line: just short enough for an index.
CREATE TABLE long_key (k text, part int, v text, PRIMARY KEY (k, part));
ALTER TABLE long_key ALTER k SET STORAGE EXTERNAL;
INSERT INTO long_key SELECT noise('key' || n, 80), n, 'v' FROM generate_series(1, 60) n;

--- each
UPDATE letter SET note = 'touched ' || :step WHERE id % 3 = 0;
UPDATE letter SET note = 'touched again' WHERE id % 6 = 0;
-- Twice in one transaction, with the key changed between.
BEGIN;
UPDATE letter SET note = 'once' WHERE id = 10 * :step + 1;
UPDATE letter SET id = id + 1000, note = 'moved' WHERE id = 10 * :step + 1;
UPDATE letter SET note = 'twice' WHERE id = 10 * :step + 1001;
COMMIT;
-- Moved, and another row takes the key.
BEGIN;
UPDATE letter SET id = id + 2000 WHERE id = 10 * :step + 2;
INSERT INTO letter VALUES (10 * :step + 2, noise('other', 290), 'other', NULL);
UPDATE letter SET note = 'other, touched' WHERE id = 10 * :step + 2;
UPDATE letter SET note = 'the one before' WHERE id = 10 * :step + 2002;
COMMIT;
-- Two rows change places; neither value is sent.
BEGIN;
UPDATE letter SET id = -1 WHERE id = 10 * :step + 3;
UPDATE letter SET id = 10 * :step + 3 WHERE id = 10 * :step + 4;
UPDATE letter SET id = 10 * :step + 4 WHERE id = -1;
COMMIT;
-- A chain: each takes the next one's key.
BEGIN;
UPDATE letter SET id = id + 3000 WHERE id = 10 * :step + 7;
UPDATE letter SET id = id + 1, note = 'chain' WHERE id = 10 * :step + 6;
UPDATE letter SET id = id + 1 WHERE id = 10 * :step + 5;
COMMIT;
-- Away and home again.
UPDATE letter SET id = -2 WHERE id = 10 * :step + 8;
UPDATE letter SET id = 10 * :step + 8, note = 'home' WHERE id = -2;
-- New, replaced, emptied and gone values.
BEGIN;
INSERT INTO letter VALUES (5000 + :step, noise('new' || :step, 300), 'new', noise('n', 300));
UPDATE letter SET note = 'new, touched' WHERE id = 5000 + :step;
COMMIT;
UPDATE letter SET body = noise('replaced' || :step, 310) WHERE id = 10 * :step + 9;
UPDATE letter SET note = 'after the replaced' WHERE id = 10 * :step + 9;
UPDATE letter SET body = NULL, note = 'no body' WHERE id = 10 * :step;
UPDATE letter SET note = 'still none' WHERE id = 10 * :step;
UPDATE letter SET second = '' WHERE id = 60 + :step;
UPDATE letter SET note = 'second is empty' WHERE id = 60 + :step;
DELETE FROM letter WHERE id = 70 + :step;
INSERT INTO letter VALUES (70 + :step, noise('again' || :step, 300), 'again', NULL);
UPDATE letter SET note = 'again, touched' WHERE id = 70 + :step;
DELETE FROM letter WHERE id = 80 + :step;
BEGIN;
SAVEPOINT s;
UPDATE letter SET body = noise('never', 300) WHERE id = 90 + :step;
ROLLBACK TO s;
UPDATE letter SET note = 'as it was' WHERE id = 90 + :step;
COMMIT;
BEGIN;
UPDATE letter SET id = id + 4000 WHERE id = 100 + :step;
DELETE FROM letter WHERE id = 4100 + :step;
COMMIT;

UPDATE full_letter SET note = 'touched ' || :step WHERE id % 5 = :step;
UPDATE full_letter SET id = id + 1000 WHERE id = 10 * :step + 7;
UPDATE full_letter SET note = 'moved' WHERE id = 10 * :step + 1007;
UPDATE full_letter SET second = noise('full' || :step, 300) WHERE id = 20 + :step;
DELETE FROM full_letter WHERE id IN (50 + :step, 20 + :step);

-- Equal rows, large ones: one of two.
UPDATE keyless_letter SET note = 'one of two' WHERE ctid = (SELECT max(ctid) FROM keyless_letter WHERE n = :step);
DELETE FROM keyless_letter WHERE ctid = (SELECT max(ctid) FROM keyless_letter WHERE n = 10 + :step);
UPDATE keyless_letter SET n = n + 1 WHERE n = 20 + :step;

UPDATE coded_letter SET note = 'touched' WHERE code = 'code ' || :step;
UPDATE coded_letter SET code = 'new ' || code WHERE code = 'code ' || (10 + :step);
UPDATE coded_letter SET note = 'moved' WHERE code = 'new code ' || (10 + :step);
DELETE FROM coded_letter WHERE code = 'code ' || (20 + :step);

UPDATE long_key SET v = 'touched' WHERE part = :step;
UPDATE long_key SET part = part + 1000 WHERE part = 10 + :step;
UPDATE long_key SET v = 'moved' WHERE part = 1010 + :step;
UPDATE long_key SET k = noise('other key' || :step, 80) WHERE part = 20 + :step;
DELETE FROM long_key WHERE part = 30 + :step;
INSERT INTO long_key VALUES (noise('new key' || :step, 80), 2000 + :step, 'new');
UPDATE long_key SET v = 'new, touched' WHERE part = 2000 + :step;

--- third
-- Rows whose values came with the journal before the checkpoint.
UPDATE letter SET note = 'from the journal' WHERE id IN (5001, 19, 1011, 2012, 71);
UPDATE full_letter SET note = 'from the journal' WHERE id IN (1017, 1027);
UPDATE keyless_letter SET note = 'all';
