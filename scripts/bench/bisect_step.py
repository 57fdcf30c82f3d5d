"""Measures how soon the first bad one of many transactions is found."""

import json

from measure import sizes, step

TRANSACTIONS = sizes("BISECT_TRANSACTIONS", 400_000)
ACCOUNTS = 1000

BOOKS = f"""
CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE entries (id bigserial PRIMARY KEY, account int NOT NULL REFERENCES accounts, amount bigint NOT NULL);
INSERT INTO accounts SELECT g, 0 FROM generate_series(0, {ACCOUNTS - 1}) g;
CREATE PROCEDURE book(first int, last int) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN first .. last LOOP
        UPDATE accounts SET balance = balance + n WHERE id = n % {ACCOUNTS};
        INSERT INTO entries (account, amount) VALUES (n % {ACCOUNTS}, n);
        COMMIT;
    END LOOP;
END $$
"""
CHECK = "SELECT (SELECT sum(balance) FROM accounts) = (SELECT coalesce(sum(amount), 0) FROM entries)"


def bisect(bench, runs):
    """Books balance until one transaction that changes a balance only, a third of the way through."""
    step(f"the first bad one of {TRANSACTIONS} transactions")
    server = bench.own_server("bisect")
    server.sql("CREATE DATABASE bench")
    server.sql(BOOKS, "bench")
    history = bench.work / "history.bisect"
    bench.run_backwhen("init", "--source", server.conninfo(), history=history)
    server.sql("SELECT pg_logical_emit_message(true, 'bench', 'begin')", "bench")
    bench.run_backwhen("mark", "good", history=history)
    third, quick = TRANSACTIONS // 3, "-c synchronous_commit=off"
    server.sql(f"CALL book(1, {third})", "bench", options=quick)
    bad = server.sql(
        "WITH bad AS (UPDATE accounts SET balance = balance + 1 WHERE id = 7 RETURNING 1) SELECT pg_current_xact_id() FROM bad",
        "bench",
    )
    server.sql(f"CALL book({third + 1}, {TRANSACTIONS - 1})", "bench", options=quick)
    bench.run_backwhen("capture", "--until", "caught-up", history=history)
    found = []
    for _ in range(runs):
        done = bench.run_backwhen("bisect", "--good", "mark:good", "--bad", "latest", "--check", CHECK, history=history)
        report = json.loads(done.output)
        bench.same(str(report["first_bad"]["xid"]), bad, "backwhen bisect")
        print(f"  {report['steps']} steps, {done.seconds:.1f} s, {done.peak_bytes >> 20} MiB", flush=True)
        found.append(done)
    bench.figures["bisect"] = {
        "transactions": TRANSACTIONS,
        "steps": report["steps"],
        "seconds": [run.seconds for run in found],
        "peak_bytes": max(run.peak_bytes for run in found),
    }
    server.remove()
