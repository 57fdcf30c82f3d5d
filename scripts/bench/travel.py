"""Measures questions to the past, rewind and undo: their time must follow what changed, not the size of the database.

The rows of the large table are TRAVEL_ROWS, and a tenth of that first; pgbench changes other tables at TRAVEL_TPS
transactions a second meanwhile. Times are those of whole commands, from the start of the process to its end.
"""

import json
import re
import shutil
import signal
import statistics
import subprocess
import time
from contextlib import contextmanager

from measure import run, sizes, step

ROWS = sizes("TRAVEL_ROWS", 5_000_000)
TPS = sizes("TRAVEL_TPS", 300)
UPDATES = sizes("TRAVEL_UPDATES", 100_000)
CHANGES = sizes("TRAVEL_CHANGES", 10_000_000)
TOUCHED = 1000
# A table as applications have it: a key, an amount, a text.
TABLE = """CREATE TABLE big (id bigint PRIMARY KEY, amount int NOT NULL, words text NOT NULL);
    INSERT INTO big SELECT n, n % 1000, md5(n::text) FROM generate_series(1, {}) n; VACUUM (FREEZE, ANALYZE) big"""


def travel(bench, runs):
    """Measures a tenth of the rows, then all of them, and last one row among many changes."""
    server = bench.own_server("travel")
    figures = bench.figures["travel"] = {"rows": [ROWS // 10, ROWS], "updates": UPDATES, "tps": TPS}
    for rows in figures["rows"]:
        step(f"rewind, undo and diff in a table of {rows} rows, {TPS} transactions a second on other tables")
        with protected(bench, server, TABLE.format(rows)) as scene, traffic(bench, server):
            note(figures, "diff", [diff(scene, rows) for _ in range(runs)])
            for name, times in pairs([rewind(scene, rows) for _ in range(runs)]).items():
                note(figures, name, times)
            for name, times in pairs([undo(scene) for _ in range(runs)]).items():
                note(figures, name, times)
        bench.record()
    lookup(bench, server, figures)
    server.remove()


def note(figures, name, times):
    figures.setdefault(name, []).append(statistics.median(times))
    print(f"  {name}: {' / '.join(f'{one:.3f}' for one in times)} s", flush=True)


def pairs(measured):
    return {name: [one[name] for one in measured] for name in measured[0]}


class Scene:
    """A database whose history a capture follows."""

    def __init__(self, bench, server, history):
        self.bench, self.server, self.history, self.marks = bench, server, history, 0

    def run(self, *arguments):
        return self.bench.run_backwhen(*arguments, history=self.history)

    def mark(self):
        self.marks += 1
        self.run("mark", f"m{self.marks}")
        return f"mark:m{self.marks}"

    def sql(self, statement):
        return self.server.sql(statement, "bench")


@contextmanager
def protected(bench, server, sql):
    server.sql("CREATE DATABASE bench")
    bench.make_accounts(server, 1)
    for statement in sql.split(";"):
        server.sql(statement, "bench")
    history = bench.work / "history.travel"
    bench.run_backwhen("init", "--source", server.conninfo(), history=history)
    command = bench.command("capture", "--source", server.conninfo(), history=history)
    capture = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    bench.children.append(capture)
    server.wait_until("SELECT count(*) > 0 AND bool_and(active) FROM pg_replication_slots", 60)
    try:
        yield Scene(bench, server, history)
    finally:
        capture.send_signal(signal.SIGTERM)
        capture.wait(120)
        server.wait_until("SELECT NOT coalesce(bool_or(active), false) FROM pg_replication_slots", 60)
        server.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
        server.sql("DROP DATABASE bench WITH (FORCE)")
        shutil.rmtree(history)


@contextmanager
def traffic(bench, server):
    command = [bench.bin / "pgbench", "-n", "-c", "2", "-R", str(TPS), "-T", "3600", server.conninfo()]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen([str(part) for part in command], **quiet)
    bench.children.append(child)
    time.sleep(2)
    try:
        yield
    finally:
        child.terminate()
        child.wait(60)


def neighbours(rows):
    """A condition that TOUCHED neighbouring rows meet. Rows all over the table lie in as many blocks of the image."""
    return f"id BETWEEN {rows // 2} AND {rows // 2 + TOUCHED - 1}"


def rewind(scene, rows):
    """Deletes rows, and takes that back with rewind."""
    moment, before = scene.mark(), scene.sql("SELECT count(*) FROM big")
    scene.sql(f"DELETE FROM big WHERE {neighbours(rows)}")
    done = scene.run("rewind", "--to", moment, "--table", "big", "--apply")
    report = json.loads(done.output)
    inserted = [table["inserted"] for table in report["tables"]]
    if inserted != [TOUCHED] or scene.sql("SELECT count(*) FROM big") != before:
        raise SystemExit(f"bench: the rewind did not give the rows back: {done.output}")
    return {"rewind": done.seconds, "locked": report["locked_seconds"]}


def undo(scene):
    """Lets PostgreSQL update rows in one transaction, takes that back with undo, and compares. The same rows are updated by
    one statement, and then, as applications do it, by a prepared statement for each of them."""
    one_by_one = prepared(scene)
    update = f"UPDATE big SET amount = amount + 1 WHERE id <= {UPDATES}"
    begun = time.monotonic()
    said = scene.sql(f"BEGIN; SELECT pg_current_xact_id(); {update}; COMMIT")
    update = time.monotonic() - begun
    done = scene.run("undo", f"xid:{said}", "--apply")
    if [table["updated"] for table in json.loads(done.output)["tables"]] != [UPDATES]:
        raise SystemExit(f"bench: the undo did not take the updates back: {done.output}")
    locked = json.loads(done.output)["locked_seconds"]
    return {"update": update, "update_one_by_one": one_by_one, "undo": done.seconds, "undo_locked": locked}


def prepared(scene):
    """Updates the rows one by one by their keys, in one transaction with a prepared statement; returns the time."""
    statements = ["PREPARE one (bigint) AS UPDATE big SET amount = amount + 1 WHERE id = $1; BEGIN;"]
    statements += [f"EXECUTE one ({number});" for number in range(1, UPDATES + 1)]
    script = scene.bench.work / "one_by_one.sql"
    script.write_text("\n".join([*statements, "COMMIT;"]))
    begun = time.monotonic()
    scene.server.script(script, "bench")
    seconds = time.monotonic() - begun
    # The next transaction is in the journal behind this one, so that undo need not wait for this one.
    caught_up(scene, scene.mark())
    return seconds


def diff(scene, rows):
    """Measures the difference of two moments with TOUCHED changes between them."""
    one = scene.mark()
    scene.sql(f"UPDATE big SET amount = amount + 1 WHERE {neighbours(rows)}")
    other = scene.mark()
    caught_up(scene, other)
    done = scene.run("diff", one, other, "--table", "big")
    if f'"changed":{TOUCHED}' not in done.output:
        raise SystemExit(f"bench: the difference is another one: {done.output}")
    return done.seconds


def caught_up(scene, moment):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if f'"name":"{moment[5:]}"' in scene.run("list", "marks").output:
            return
        time.sleep(0.1)
    raise SystemExit(f"bench: {moment} does not come into the history")


def lookup(bench, server, figures):
    """Reads the versions of one row, which changed twice, among CHANGES changes, and counts the bytes of the journal that are read for it."""
    step(f"one row in {CHANGES} changes")
    rows = max(CHANGES // 10, 200)
    change = f"""CREATE PROCEDURE work() LANGUAGE plpgsql AS $$ BEGIN
        FOR n IN 1..{CHANGES // 200} LOOP
            UPDATE big SET amount = amount + 1 WHERE id BETWEEN (n - 1) % {rows // 100} * 100 + 1
                AND (n - 1) % {rows // 100} * 100 + 100;
            COMMIT;
        END LOOP; END $$"""
    with protected(bench, server, TABLE.format(rows) + "; INSERT INTO big VALUES (0, 0, 'asked for')") as scene:
        scene.sql(change)
        for _ in range(2):
            server.sql("CALL work()", "bench", options="-c synchronous_commit=off")
            # The row that is asked for changes in the middle and at the end.
            scene.sql("UPDATE big SET amount = -1 WHERE id = 0")
        caught_up(scene, scene.mark())
        segments = [json.loads(line) for line in scene.run("list", "segments").output.splitlines()]
        journal = sum(segment["bytes"] for segment in segments)
        figures |= {"lookup_changes": CHANGES, "lookup_journal_bytes": journal}
        for name, question in [("row", ["row", "big", "0"]), ("log_key", ["log", "--key", "big=0"])]:
            found = [scene.run(*question) for _ in range(5)]
            bytes_ = bytes_read(bench, scene, question)
            figures[name] = {"seconds": min(one.seconds for one in found), "bytes": bytes_}
            print(f"  {name}: {figures[name]['seconds']:.3f} s, {bytes_} of {journal} bytes", flush=True)


def bytes_read(bench, scene, question):
    """Returns the bytes of blocks that a command reads. A block that is read twice counts once."""
    environment = bench.environment | {"BACKWHEN_LOG": "backwhen::history::journal=trace"}
    command = bench.command(*question, history=scene.history)
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd="/")
    return sum(int(bytes_) for bytes_, _ in set(re.findall(r"reading (\d+) of \d+ bytes of (\S+)", done.stderr)))
