"""Figures: backwhen against pg_recvlogical, pgBackRest, pg_dump and pg_restore, on one throw-away server.

    make bench                     SCALE=50 TRANSACTIONS=400000 RUNS=3 by default
    SCALE=2 TRANSACTIONS=5000 RUNS=1 make bench

Writes docs/PERFORMANCE.md and target/bench.json. With RECORD=0 only the latter.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report
from measure import Series, ratio, run
from servers import PgBackRest, Server, find_bin, own_folder, size_of

PROJECT = Path(__file__).resolve().parents[2]
SCALE = int(os.environ.get("SCALE", 50))
TRANSACTIONS = int(os.environ.get("TRANSACTIONS", 400_000))
RUNS = int(os.environ.get("RUNS", 3))
BIG = int(os.environ.get("BIG", 2_000_000))
STEPS = os.environ.get("STEPS", "drain,recover,checkpoint,big").split(",")


class Bench:
    def __init__(self, work):
        self.work, self.bin = work, find_bin()
        self.backwhen = Path(os.environ.get("BACKWHEN", PROJECT / "target/release/backwhen")).resolve()
        self.history, self.figures = work / "history", {}
        self.source = Server(work / "source", self.bin)
        self.backrest = PgBackRest(work, self.source)
        self.servers = [self.source]
        self.slot = None

    # ---- what is compared ------------------------------------------------------------------------------
    def prepare(self):
        """A database, a first checkpoint and a backup, a backlog behind the slot, and its end."""
        step(f"pgbench -i -s {SCALE}, a backup, a first checkpoint")
        self.source.settings |= {"archive_mode": "on", "archive_command": self.backrest.archive_command}
        self.source.init()
        self.source.start()
        self.source.sql("CREATE DATABASE bench")
        pgbench = [self.bin / "pgbench", self.source.conninfo()]
        subprocess.run([*pgbench, "-i", "-q", "-s", str(SCALE)], check=True, stderr=subprocess.DEVNULL)
        self.source.sql("CREATE TABLE big (id bigint PRIMARY KEY, text text)", "bench")
        self.backrest.run("stanza-create")
        backup = run(self.backrest.command("backup", "--type=full"))
        init = self.run_backwhen("init", "--source", self.source.conninfo())
        self.slot = self.source.sql("SELECT slot_name FROM pg_replication_slots")
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

    def traffic(self, transactions):
        # Only the client's wait for the disk is left out; the log is the same.
        environment = {**os.environ, "PGOPTIONS": "-c synchronous_commit=off"}
        command = [self.bin / "pgbench", "-n", "-c", "4", "-j", "2", "-t", str(transactions // 4)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*command, self.source.conninfo()], check=True, env=environment, **quiet)

    def dump(self, name):
        target = self.work / f"dump.{name}"
        shutil.rmtree(target, ignore_errors=True)
        command = [self.bin / "pg_dump", "-Fd", "-j2", "-f", target, self.source.conninfo()]
        return run(command)

    def run_backwhen(self, *arguments):
        flags = ["--history", self.history, "--output", "json", "--no-progress"]
        environment = {"PATH": f"{self.bin}:{os.environ['PATH']}"}
        return run([self.backwhen, *arguments, *flags], environment)

    # ---- (a) drain, (b) size ---------------------------------------------------------------------------
    def rewind_slot(self):
        """The history and the slot as they were before the backlog."""
        shutil.rmtree(self.history)
        shutil.copytree(self.work / "history.fresh", self.history)
        self.copy_slot("backlog", self.slot)

    def copy_slot(self, old, new):
        self.source.wait_until("SELECT NOT bool_or(active) FROM pg_replication_slots")
        drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{}'"
        self.source.sql(drop.format(new))
        self.source.sql(f"SELECT pg_copy_logical_replication_slot('{old}', '{new}')", "bench")

    def capture(self, way="unix"):
        return self.run_backwhen("capture", "--until", "caught-up", "--source", self.source.conninfo(way=way))

    def receive(self, way):
        self.copy_slot("backlog", "reference")
        options = {"proto_version": "1", "publication_names": self.publications(), "messages": "true"}
        command = [self.bin / "pg_recvlogical", "--start", "-f", "/dev/null", "--no-loop", "--slot", "reference"]
        command += ["--endpos", self.end_lsn, "-d", self.source.conninfo(way=way)]
        for name, value in options.items():
            command += ["-o", f"{name}={value}"]
        return run(command)

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
        target = Server(self.work / "target", self.bin, {"wal_level": "replica"})
        self.servers.append(target)
        target.init()
        target.start()
        for name, moment, rows in [("end", "latest", self.end), ("middle", "mark:middle", self.middle)]:
            step(f"recovery to the {name}, alternating")
            if name == "end":
                self.dump("end")
            ours, replay, dump = (Series(f"{who} ({name})") for who in ["backwhen recover", "pgBackRest", "pg_restore -j2"])
            for _ in range(RUNS):
                into = target.conninfo("back")
                ours.add(self.run_backwhen("recover", "--to", moment, "--into", into, "--create", "--jobs", "2"))
                same(target.fingerprint("back"), rows, ours.name)
                target.sql("DROP DATABASE back")
                replay.add(self.replay(name, rows))
                target.sql("CREATE DATABASE dumped")
                restore = [self.bin / "pg_restore", "-j2", "-d", target.conninfo("dumped"), self.work / f"dump.{name}"]
                dump.add(run(restore))
                same(target.fingerprint("dumped"), rows, dump.name)
                target.sql("DROP DATABASE dumped")
            phases = json.loads(ours.runs[-1].output.splitlines()[-1])["phases"]
            figures = {**pair(ours, replay), "pg_restore": dump.seconds, "ratio_to_pg_restore": ratio(ours, dump)}
            self.figures[f"recover_{name}"] = {**figures, "phases": phases}
            record(self)
        target.remove()

    def replay(self, name, rows):
        """pgBackRest: the files back, and the log replayed, until the server takes writes."""
        restored = Server(self.work / "restored", self.bin, {"archive_mode": "off"})
        self.servers.append(restored)
        own_folder(restored.data)
        to = ["--type=name", "--target=middle", "--target-action=promote"] if name == "middle" else ["--type=default"]
        started = time.monotonic()
        self.backrest.run("restore", f"--pg1-path={restored.data}", *to)
        restored.start()
        seconds = time.monotonic() - started
        same(restored.fingerprint(), rows, f"pgBackRest ({name})")
        restored.remove()
        return report.Seconds(seconds)

    # ---- (e) checkpoints -------------------------------------------------------------------------------
    def checkpoint(self):
        step("checkpoints, folded, against pg_dump")
        shutil.copytree(self.history, self.work / "history.drained")
        ours, dump = Series("backwhen checkpoint"), Series("pg_dump -Fd -j2")
        for _ in range(RUNS):
            shutil.rmtree(self.history)
            shutil.copytree(self.work / "history.drained", self.history)
            ours.add(self.run_backwhen("checkpoint"))
            dump.add(self.dump("again"))
        self.figures["checkpoint"] = pair(ours, dump)
        self.source.sql("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 1000 = 0", "bench")
        self.capture()
        shutil.rmtree(self.work / "history.drained")
        shutil.copytree(self.history, self.work / "history.drained")
        few, dump = Series("backwhen checkpoint, 0.1 % changed"), Series("pg_dump -Fd -j2")
        for _ in range(RUNS):
            shutil.rmtree(self.history)
            shutil.copytree(self.work / "history.drained", self.history)
            before = size_of(self.history / "packs")
            few.add(self.run_backwhen("checkpoint"))
            dump.add(self.dump("again"))
        added = size_of(self.history / "packs") - before
        self.figures["checkpoint_few"] = {**pair(few, dump), "bytes": added}
        self.figures["dump_bytes"] = size_of(self.work / "dump.again")

    # ---- (d) memory ------------------------------------------------------------------------------------
    def big(self):
        step(f"one transaction of {BIG} rows")
        values = f"SELECT n, md5(n::text) FROM generate_series(1, {BIG}) n"
        self.source.sql(f"INSERT INTO big {values}", "bench")
        done = Series("backwhen capture, one large transaction")
        done.add(self.capture())
        self.figures["big"] = {"rows": BIG, "seconds": done.seconds, "peak_bytes": done.peak}


def record(bench):
    facts = {"scale": SCALE, "transactions": TRANSACTIONS, "runs": RUNS, **report.machine(), **bench.figures}
    (PROJECT / "target/bench.json").write_text(json.dumps(facts, indent=2) + "\n")
    if os.environ.get("RECORD", "1") == "1":
        (PROJECT / "docs/PERFORMANCE.md").write_text(report.page(facts))
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


def step(text):
    print(f"# {text}", flush=True)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not shutil.which("pgbackrest"):
        raise SystemExit("bench: pgBackRest is missing: apt-get install pgbackrest")
    work = Path(tempfile.mkdtemp(prefix="backwhen-bench.", dir=os.environ.get("BENCH_DIR", "/tmp")))
    work.chmod(0o755)
    bench = Bench(work)
    try:
        bench.prepare()
        for name in STEPS:
            getattr(bench, name)()
            # After each step, so that a run that is cut short leaves what it has measured.
            facts = record(bench)
        print(report.table(facts))
    finally:
        for server in bench.servers:
            server.stop(signal.SIGQUIT)
        if os.environ.get("KEEP") != "1":
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
