"""Measures backwhen against pg_recvlogical, pgBackRest, pg_dump and pg_restore, on throw-away servers.

    make bench                     SCALE=50 TRANSACTIONS=400000 RUNS=3 by default
    SCALE=2 TRANSACTIONS=5000 RUNS=1 make bench
    STEPS=live,hot make bench      only these steps

The sizes of a step stand at the top of its file: live.py, loading.py, volume.py, hot.py, growth.py, reset.py,
bisect_step.py, travel.py, demand.py, stores.py, encryption.py. The results go to target/bench.json and
docs/PERFORMANCE.md, whose text below the marker stays; with RECORD=0 only to target/bench.json. A step that fails is reported, and the other steps keep their figures.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import apply
import bisect_step
import demand
import encryption
import growth
import hot
import live
import loading
import report
import reset
import stores
import travel
import volume
from measure import Series, ratio, run, size_of, sizes, start, step
from servers import PgBackRest, Server, find_bin, own_folder

PROJECT = Path(__file__).resolve().parents[2]
SCALE = sizes("SCALE", 50)
TRANSACTIONS = sizes("TRANSACTIONS", 400_000)
RUNS = sizes("RUNS", 3)
ALL = "drain,recover,loading,apply,checkpoint,live,huge,filler,hot,growth,reset,bisect,travel,demand,stores,encryption"
# These steps make a server of their own.
ALONE = {"hot", "growth", "loading", "reset", "bisect", "travel", "demand", "stores", "encryption"}
STEPS = [name for name in (os.environ.get("STEPS") or ALL).split(",") if name]


class Bench:
    def __init__(self, work):
        self.work, self.bin = work, find_bin()
        self.backwhen = Path(os.environ.get("BACKWHEN", PROJECT / "target/release/backwhen")).resolve()
        self.history, self.figures = work / "history", {}
        self.source = Server(work / "source", self.bin)
        self.backrest = PgBackRest(work, self.source)
        self.servers, self.children = [self.source], []
        self.slot, self.restored = None, None
        self.transactions = TRANSACTIONS
        self.environment = {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}"}

    # ---- what is compared ------------------------------------------------------------------------------
    def prepare(self):
        """Makes a database, a first checkpoint and a backup, then a backlog behind the slot, and remembers its end."""
        step(f"pgbench -i -s {SCALE}, a backup, a first checkpoint")
        backup, init = self.begin(SCALE)
        self.source.sql(f"SELECT pg_copy_logical_replication_slot('{self.slot}', 'backlog')")
        shutil.copytree(self.history, self.work / "history.fresh")
        self.figures |= {
            "backup": {"seconds": backup.seconds, "bytes": size_of(self.backrest.repository / "backup")},
            "init": {"seconds": init.seconds, "peak_bytes": init.peak_bytes, "bytes": size_of(self.history / "packs")},
        }
        archived = self.backrest.archived()
        step(f"{TRANSACTIONS} transactions of TPC-B")
        self.traffic(TRANSACTIONS // 2)
        self.run_backwhen("mark", "middle", "--source", self.source.conninfo())
        self.source.sql("SELECT pg_create_restore_point('middle')")
        self.middle = self.source.fingerprint()
        self.dump("middle")
        self.traffic(TRANSACTIONS - TRANSACTIONS // 2)
        self.end_lsn = self.source.sql("SELECT pg_current_wal_flush_lsn()")
        self.end = self.source.fingerprint()
        self.figures["archive_bytes"] = self.backrest.archived() - archived

    def begin(self, scale):
        """Starts the source, and makes the accounts, a backup and a history; returns how the last two ran."""
        self.source.settings |= {"archive_mode": "on", "archive_command": self.backrest.archive_command}
        self.source.init()
        self.source.start()
        self.source.sql("CREATE DATABASE bench")
        self.make_accounts(self.source, scale)
        self.backrest.run("stanza-create")
        backup = run(self.backrest.command("backup", "--type=full"))
        init = self.run_backwhen("init", "--source", self.source.conninfo())
        self.slot = self.source.sql("SELECT slot_name FROM pg_replication_slots")
        return backup, init

    def own_server(self, name, settings=None):
        """Starts a server for one step; it is removed at the end, if the step does not remove it."""
        server = Server(self.work / name, self.bin, settings)
        self.servers.append(server)
        server.init()
        server.start()
        return server

    def make_accounts(self, server, scale):
        command = [self.bin / "pgbench", "-i", "-q", "-s", str(scale), server.conninfo()]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)

    def traffic(self, transactions, server=None):
        # The client does not wait for the disk; the WAL is the same.
        environment = {**os.environ, "PGOPTIONS": "-c synchronous_commit=off"}
        command = [self.bin / "pgbench", "-n", "-c", "4", "-j", "2", "-t", str(transactions // 4)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*command, (server or self.source).conninfo()], check=True, env=environment, **quiet)

    def dump(self, name):
        target = self.work / f"dump.{name}"
        shutil.rmtree(target, ignore_errors=True)
        command = [self.bin / "pg_dump", "-Fd", "-j2", "-f", target, self.source.conninfo()]
        return run(command)

    def command(self, *arguments, history=None):
        flags = ["--history", history or self.history, "--output", "json", "--no-progress"]
        return [str(part) for part in [self.backwhen, *arguments, *flags]]

    def run_backwhen(self, *arguments, history=None):
        return run(self.command(*arguments, history=history), self.environment)

    # ---- (a) drain, (b) size ---------------------------------------------------------------------------
    def rewind_slot(self, history="history.fresh"):
        """Resets the history and the slot to their state before the backlog."""
        shutil.rmtree(self.history)
        shutil.copytree(self.work / history, self.history)
        self.copy_slot("backlog", self.slot)

    def copy_slot(self, old, new):
        self.source.wait_until("SELECT NOT bool_or(active) FROM pg_replication_slots")
        self.drop_slot(new)
        self.source.sql(f"SELECT pg_copy_logical_replication_slot('{old}', '{new}')", "bench")

    def drop_slot(self, name):
        drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{}'"
        self.source.sql(drop.format(name))

    def capture(self, way="unix"):
        return self.run_backwhen("capture", "--until", "caught-up", "--source", self.source.conninfo(way=way))

    def receive(self, way):
        self.copy_slot("backlog", "reference")
        return run([*self.receiver("reference", self.source.conninfo(way=way)), "--endpos", self.end_lsn])

    def receiver(self, slot, conninfo):
        options = {"proto_version": "1", "publication_names": self.publications(), "messages": "true"}
        command = [self.bin / "pg_recvlogical", "--start", "-f", "/dev/null", "--no-loop", "--slot", slot]
        command += ["-d", conninfo]
        for name, value in options.items():
            command += ["-o", f"{name}={value}"]
        return command

    def publications(self):
        return self.source.sql("SELECT string_agg(quote_ident(pubname), ',') FROM pg_publication", "bench")

    def drain(self):
        step("draining the backlog, alternating")
        for way in ["unix", "tcp"]:
            ours, theirs = Series(f"backwhen capture, {way}"), Series(f"pg_recvlogical, {way}")
            for _ in range(RUNS):
                theirs.add(self.receive(way))
                self.rewind_slot()
                ours.add(self.capture(way))
            self.figures[f"drain_{way}"] = pair(ours, theirs)
        self.figures["journal_bytes"] = size_of(self.history / "journal")

    # ---- (c) recovery ----------------------------------------------------------------------------------
    def recover(self):
        target = self.target()
        for name, moment, rows in [("end", "latest", self.end), ("middle", "mark:middle", self.middle)]:
            step(f"recovery to the {name}, alternating")
            if name == "end":
                self.dump("end")
                # One run is not measured: a new server has no WAL files yet, and the first run would have to create
                # them.
                self.restore_into(target, name, rows)
                self.source.sql("CHECKPOINT")
            ours, replay, dump = (Series(f"{who} ({name})") for who in ["backwhen recover", "pgBackRest", "pg_restore -j2"])
            to = ["--type=name", "--target=middle", "--target-action=promote"] if name == "middle" else ["--type=default"]
            for _ in range(RUNS):
                ours.add(self.recover_into(target, moment, rows))
                dump.add(self.restore_into(target, name, rows))
                replay.add(self.replay(self.backrest, to, rows))
            figures = {**pair(ours, replay), "pg_restore": dump.seconds, "ratio_to_pg_restore": ratio(ours, dump)}
            self.figures[f"recover_{name}"] = {**figures, "phases": self.phases_of(ours)}
            record(self)

    def target(self):
        """The server to recover into; it is started when it is first needed."""
        if not self.restored:
            self.restored = Server(self.work / "target", self.bin, {"wal_level": "replica"})
            self.servers.append(self.restored)
            self.restored.init()
            self.restored.start()
        return self.restored

    def recover_into(self, target, moment, rows, history=None):
        into = ["--to", moment, "--into", target.conninfo("back"), "--jobs", "2"]
        target.sql("CREATE DATABASE back")
        target.sql("CHECKPOINT")
        done = self.run_backwhen("recover", *into, history=history)
        same(target.fingerprint("back"), rows, "backwhen recover")
        target.sql("DROP DATABASE back")
        return done

    def restore_into(self, target, name, rows):
        target.sql("CREATE DATABASE dumped")
        target.sql("CHECKPOINT")
        done = run([self.bin / "pg_restore", "-j2", "-d", target.conninfo("dumped"), self.work / f"dump.{name}"])
        same(target.fingerprint("dumped"), rows, "pg_restore")
        target.sql("DROP DATABASE dumped")
        return done

    def phases_of(self, series):
        return json.loads(series.runs[-1].output.splitlines()[-1])["phases"]

    def replay(self, backrest, to, rows):
        """Restores with pgBackRest: copies the files and replays the WAL until the server accepts writes."""
        restored = Server(self.work / "restored", self.bin, {"archive_mode": "off"})
        self.servers.append(restored)
        own_folder(restored.data)
        started = start()
        backrest.run("restore", f"--pg1-path={restored.data}", *to)
        restored.start()
        seconds = time.monotonic() - started
        same(restored.fingerprint(), rows, "pgBackRest")
        restored.remove()
        return report.Seconds(seconds)

    # ---- (e) checkpoints -------------------------------------------------------------------------------
    def checkpoint(self):
        step("checkpoints, folded, against pg_dump")
        ours, dump, full = self.checkpoints("backwhen checkpoint")
        self.figures["checkpoint"] = {**pair(ours, dump), "bytes": full}
        self.figures["dump_bytes"] = size_of(self.work / "dump.again")
        # From here on, each checkpoint has the one before as its base.
        self.run_backwhen("checkpoint")
        rows = SCALE * 100
        for name, where, what in [
            ("checkpoint_few", f"aid BETWEEN {SCALE * 50_000} AND {SCALE * 50_000 + rows - 1}", "in one key range"),
            ("checkpoint_spread", "aid % 1000 = 0", "evenly spread"),
        ]:
            step(f"a checkpoint after 0.1 % of the accounts changed, {what}")
            self.source.sql(f"UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE {where}", "bench")
            self.capture()
            few, dump, added = self.checkpoints(f"backwhen checkpoint, 0.1 % {what}")
            few_of_full = few.median / ours.median
            self.figures[name] = {**pair(few, dump), "bytes": added, "ratio_to_full": few_of_full}
            self.run_backwhen("checkpoint")

    def checkpoints(self, name):
        """Folds the same checkpoint repeatedly, each time from the same history, and runs pg_dump."""
        kept = self.work / "history.kept"
        shutil.copytree(self.history, kept)
        before = size_of(self.history / "packs")
        ours, dump = Series(name), Series("pg_dump -Fd -j2")
        for _ in range(RUNS):
            shutil.rmtree(self.history)
            shutil.copytree(kept, self.history)
            ours.add(self.run_backwhen("checkpoint"))
            dump.add(self.dump("again"))
        added = size_of(self.history / "packs") - before
        shutil.rmtree(self.history)
        kept.rename(self.history)
        return ours, dump, added

    def pair(self, ours, theirs):
        return pair(ours, theirs)

    def same(self, found, expected, who):
        same(found, expected, who)

    def history_checkpoints(self):
        """The names of the checkpoints, the oldest first."""
        lines = self.run_backwhen("list", "checkpoints").output.splitlines()
        return [json.loads(line)["id"] for line in lines]

    def record(self):
        return record(self)


def record(bench):
    facts = {"scale": SCALE, "transactions": TRANSACTIONS, "runs": RUNS, **report.machine(), **bench.figures}
    (PROJECT / "target").mkdir(exist_ok=True)
    (PROJECT / "target/bench.json").write_text(json.dumps(facts, indent=2) + "\n")
    if os.environ.get("RECORD", "1") == "1":
        report.write(PROJECT / "docs/PERFORMANCE.md", facts)
    return facts


def pair(ours, theirs):
    return {
        "backwhen": ours.seconds,
        "other": theirs.seconds,
        "ratio": ratio(ours, theirs),
        "peak_bytes": ours.peak,
    }


def same(found, expected, who):
    if found != expected:
        raise SystemExit(f"bench: {who} did not give the rows back: {found} instead of {expected}")


STEP = {
    "drain": lambda bench: bench.drain(),
    "recover": lambda bench: bench.recover(),
    "loading": lambda bench: loading.loading(bench, RUNS),
    "apply": lambda bench: apply.apply(bench, RUNS),
    "checkpoint": lambda bench: bench.checkpoint(),
    "live": lambda bench: live.live(bench, RUNS),
    "huge": lambda bench: volume.huge(bench, RUNS),
    "filler": lambda bench: volume.filler(bench, RUNS),
    "hot": lambda bench: hot.hot(bench, RUNS),
    "growth": lambda bench: growth.growth(bench, RUNS),
    "reset": lambda bench: reset.reset(bench, RUNS),
    "bisect": lambda bench: bisect_step.bisect(bench, RUNS),
    "travel": lambda bench: travel.travel(bench, RUNS),
    "demand": lambda bench: demand.demand(bench, RUNS),
    "stores": lambda bench: stores.stores(bench, RUNS),
    "encryption": lambda bench: encryption.encryption(bench, RUNS),
}


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not shutil.which("pgbackrest"):
        raise SystemExit("bench: pgBackRest is missing: apt-get install pgbackrest")
    work = Path(tempfile.mkdtemp(prefix="backwhen-bench.", dir=os.environ.get("BENCH_DIR", "/tmp")))
    work.chmod(0o755)
    bench = Bench(work)
    failed = []
    try:
        if unknown := [name for name in STEPS if name not in STEP]:
            raise SystemExit(f"bench: there is no step {unknown[0]}; there are {ALL}")
        if set(STEPS) - ALONE:
            bench.prepare()
        if {"recover", "apply", "checkpoint"} & set(STEPS) and "drain" not in STEPS:
            bench.capture()
        for name in STEPS:
            try:
                STEP[name](bench)
            except (Exception, SystemExit) as error:
                if not isinstance(error, SystemExit) or error.code == 143:
                    traceback.print_exc()
                if isinstance(error, SystemExit) and error.code == 143:
                    raise
                print(f"bench: step {name} failed: {error}", file=sys.stderr, flush=True)
                failed.append(name)
            # The report is written after each step, so that a run that is cut short keeps its measurements.
            bench.figures["failed"] = failed
            facts = record(bench)
        print(report.table(facts))
    finally:
        for child in bench.children:
            if child.poll() is None:
                child.kill()
        for server in bench.servers:
            server.stop(signal.SIGQUIT)
        if os.environ.get("KEEP") != "1":
            shutil.rmtree(work, ignore_errors=True)
    if failed:
        raise SystemExit(f"bench: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
