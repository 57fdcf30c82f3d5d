"""Measures how soon a test database is as it was before a test, beside the usual ways."""

import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from measure import Series, run, sizes, start, step
from report import Seconds

PROJECT = Path(__file__).resolve().parents[2]
TABLES = sizes("RESET_TABLES", 50)
ROWS = sizes("RESET_ROWS", 1000)
CHANGED = sizes("RESET_CHANGED", 100)


def reset(bench, runs):
    """A test changes some rows in each of many tables; each way makes the database what it was."""
    step(f"a test changes {CHANGED} rows in {TABLES} tables of {ROWS} rows")
    server = bench.own_server("reset")
    server.sql("CREATE DATABASE bench")
    server.sql(seeded(), "bench")
    server.sql("CREATE DATABASE seeded TEMPLATE bench")
    dump = bench.work / "seeded.dump"
    run([bench.bin / "pg_dump", "-Fc", "-f", dump, server.conninfo("seeded")])
    figures = {"tables": TABLES, "rows": ROWS, "changed": CHANGED, "ways": {}}
    for name, way in {
        "ROLLBACK": lambda: server.sql(f"BEGIN; {test()}; ROLLBACK", "bench"),
        "CREATE DATABASE … TEMPLATE": lambda: template(server, ""),
        "CREATE DATABASE … TEMPLATE … STRATEGY file_copy": lambda: template(server, "STRATEGY file_copy"),
        "pg_restore -j2": lambda: restore(bench, server, dump),
    }.items():
        figures["ways"][name] = timed(name, runs, way)
    figures["ways"]["backwhen rewind --reset"] = by_command(bench, server, runs)
    figures["ways"]["backwhen::testing"] = by_interface(bench, server, runs)
    bench.figures["reset"] = figures
    server.remove()


def timed(name, runs, way):
    series = Series(name)
    for _ in range(runs):
        started = start()
        way()
        series.add(Seconds(time.monotonic() - started))
    return series.seconds


def by_command(bench, server, runs):
    """A process for each reset, while a capture runs."""
    history = bench.work / "history.reset"
    bench.run_backwhen("init", "--source", server.conninfo(), history=history)
    series = Series("backwhen rewind --reset")
    with capturing(bench, server, history):
        bench.run_backwhen("mark", "seeded", history=history)
        before = rows(server)
        for _ in range(2 * runs):
            server.sql(test(), "bench")
            series.add(bench.run_backwhen("rewind", "--to", "mark:seeded", "--reset", "--apply", history=history))
            bench.same(rows(server), before, "backwhen rewind")
    bench.run_backwhen("drop", history=history)
    return series.seconds


def by_interface(bench, server, runs):
    """One process that keeps the history open, as the tests of an application do."""
    command = [PROJECT / "target/release/examples/reset", server.conninfo(), str(2 * runs)]
    before, environment = rows(server), {**bench.environment, "TEST": test()}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    bench.same(rows(server), before, "backwhen::testing")
    seconds = [float(line) for line in done.stdout.split()]
    print("  backwhen::testing: " + ", ".join(f"{one * 1000:.0f} ms" for one in seconds), flush=True)
    return seconds


@contextmanager
def capturing(bench, server, history):
    command = bench.command("capture", history=history)
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=bench.environment, cwd="/")
    bench.children.append(child)
    server.wait_until("SELECT active FROM pg_replication_slots", 60)
    try:
        yield
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


def seeded():
    """Tables that refer to each other, as an application's do."""
    return "".join(
        f"CREATE TABLE t{n} (id int PRIMARY KEY, parent int{f' REFERENCES t{n - 1}' if n else ''}, body text, at timestamptz DEFAULT now());"
        f"INSERT INTO t{n} SELECT g, g, md5(g::text) FROM generate_series(1, {ROWS}) g;"
        for n in range(TABLES)
    )


def test():
    """Inserts, updates and deletes."""
    each = max(1, CHANGED // TABLES)
    return "".join(
        f"INSERT INTO t{n} SELECT {ROWS} + g, NULL, 'new' FROM generate_series(1, {each - each // 2}) g;"
        f"UPDATE t{n} SET body = 'changed' WHERE id <= {each // 2};"
        for n in range(TABLES)
    )


def rows(server):
    every = " UNION ALL ".join(f"SELECT {n} AS n, count(*) AS rows, sum(hashtextextended(t::text, 0)) AS sum FROM t{n} t" for n in range(TABLES))
    return server.sql(f"SELECT array_agg((n, rows, sum)::text ORDER BY n) FROM ({every}) every", "bench")


def template(server, strategy):
    server.sql("DROP DATABASE IF EXISTS again WITH (FORCE)")
    server.sql(f"CREATE DATABASE again TEMPLATE seeded {strategy}")


def restore(bench, server, dump):
    server.sql("DROP DATABASE IF EXISTS again WITH (FORCE)")
    server.sql("CREATE DATABASE again")
    subprocess.run([bench.bin / "pg_restore", "-j2", "-d", server.conninfo("again"), dump], check=True)
