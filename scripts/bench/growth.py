"""Measures the cost of ten or a thousand times as much: time must grow linearly at most, and memory hardly at all."""

import shutil

from measure import sizes, step

SCALE = sizes("GROWTH_SCALE", 3)
TRANSACTIONS = sizes("GROWTH_TRANSACTIONS", 10_000)
TABLES = sizes("GROWTH_TABLES", 1000)
ROWS = 100


def growth(bench, _runs):
    server = bench.own_server("growth", {"max_locks_per_transaction": "256"})

    def accounts(scale, transactions):
        bench.make_accounts(server, scale)
        return lambda: bench.traffic(transactions, server)

    def tables(count):
        table = "CREATE TABLE t%s AS SELECT n AS id, md5(n::text) AS t FROM generate_series(1, %s) n"
        key = "ALTER TABLE t%s ADD PRIMARY KEY (id)"
        make = f"FOR n IN 1 .. {count} LOOP EXECUTE format('{table}', n, {ROWS}); EXECUTE format('{key}', n); END LOOP"
        change = f"FOR n IN 1 .. {count} LOOP EXECUTE format('UPDATE t%s SET t = id', n); END LOOP"
        server.sql(f"DO 'BEGIN {quoted(make)}; END'", "bench")
        return lambda: server.sql(f"DO 'BEGIN {quoted(change)}; END'", "bench")

    for name, what, factor, small, large in [
        ("database", f"a database of scale {SCALE}, then {10 * SCALE}; {TRANSACTIONS} transactions", 10,
         lambda: accounts(SCALE, TRANSACTIONS), lambda: accounts(10 * SCALE, TRANSACTIONS)),
        ("journal", f"a journal of {TRANSACTIONS} transactions, then {10 * TRANSACTIONS}; scale {SCALE}", 10,
         lambda: accounts(SCALE, TRANSACTIONS), lambda: accounts(SCALE, 10 * TRANSACTIONS)),
        ("tables", f"one table of {ROWS} rows, then {TABLES}; each row updated once", TABLES,
         lambda: tables(1), lambda: tables(TABLES)),
    ]:
        step(what)
        runs = {"small": measure(bench, server, small), "large": measure(bench, server, large)}
        bench.figures[f"growth_{name}"] = {"what": what, "factor": factor, **runs}
        bench.record()
    server.remove()


def quoted(text):
    return text.replace("'", "''")


def measure(bench, server, make):
    """Returns seconds and peak bytes of each command on a database that `make` fills."""
    history = bench.work / "history.growth"
    server.sql("CREATE DATABASE bench")
    change = make()
    figures = {}

    def note(command, *arguments):
        found = bench.run_backwhen(command, *arguments, history=history)
        figures[command] = {"seconds": found.seconds, "peak_bytes": found.peak_bytes}
        print(f"  {command}: {found.seconds:.2f} s, {found.peak_bytes >> 20} MiB", flush=True)

    note("init", "--source", server.conninfo())
    change()
    note("capture", "--until", "caught-up", "--source", server.conninfo())
    note("recover", "--to", "latest", "--into", server.conninfo("back"), "--create", "--jobs", "2")
    note("checkpoint")
    server.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    server.sql("DROP DATABASE back")
    server.sql("DROP DATABASE bench")
    shutil.rmtree(history)
    return figures
