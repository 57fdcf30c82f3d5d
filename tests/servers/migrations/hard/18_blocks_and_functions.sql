-- Statements that a program writes: partitions by month in a loop, a function that alters, a savepoint.
DO $$
DECLARE month date;
BEGIN
    CREATE TABLE trade.visits (at timestamptz NOT NULL, customer bigint, PRIMARY KEY (at)) PARTITION BY RANGE (at);
    FOR month IN SELECT generate_series('2024-01-01', '2024-04-01', interval '1 month') LOOP
        EXECUTE format('CREATE TABLE trade.%I PARTITION OF trade.visits FOR VALUES FROM (%L) TO (%L)', 'visits_' || to_char(month, 'MM'), month, month + interval '1 month');
    END LOOP;
    INSERT INTO trade.visits SELECT '2024-01-01'::timestamptz + g * interval '1 day', g FROM generate_series(0, 90) g;
END $$;
CREATE FUNCTION trade.add_column(it text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('ALTER TABLE trade.visits ADD COLUMN %I int DEFAULT %s', it, length(it)); END $$;
SELECT trade.add_column('pages');
BEGIN;
SAVEPOINT a;
ALTER TABLE trade.visits ADD COLUMN gone int DEFAULT 1;
UPDATE trade.visits SET pages = 0;
ROLLBACK TO a;
SELECT trade.add_column('Odd "name"');
UPDATE trade.visits SET pages = 99 WHERE customer % 8 = 0;
COMMIT;
ALTER TABLE trade.visits DETACH PARTITION trade.visits_04;
DROP TABLE trade.visits_01;
COMMENT ON TABLE trade.visits IS 'who came; it''s "all"'; COMMENT ON COLUMN trade.visits.pages IS 'seen';
