"""Measures how soon a recovery on demand answers: in a database and in one of ten times the data, against pg_restore."""

import shutil
import subprocess
import time
from dataclasses import dataclass

from measure import Series, run, sizes, start, step
from report import Seconds

SCALE = sizes("DEMAND_SCALE", 3)
TIMES = 10
TRANSACTIONS = sizes("DEMAND_TRANSACTIONS", 2_000)
CLIENTS = 2

SMALL, LARGE = "SELECT count(*) FROM pgbench_branches", "SELECT count(*) FROM pgbench_accounts"
# Another large table, which is loaded while the application is at work.
ARCHIVE = f"""
CREATE TABLE archive AS SELECT g AS id, md5(g::text) AS text FROM generate_series(1, {SCALE * TIMES * 100_000}) g;
ALTER TABLE archive ADD PRIMARY KEY (id); CREATE INDEX ON archive (text)
"""


@dataclass
class Protected:
    """A pgbench database on the step's server, with its history and a dump of the same state."""

    bench: object
    server: object
    scale: int
    name: str
    further: str = ""

    def prepare(self):
        bench, conninfo = self.bench, self.server.conninfo(self.name)
        self.history, self.dump = bench.work / f"history.{self.name}", bench.work / f"dump.{self.name}"
        self.server.sql(f"CREATE DATABASE {self.name}")
        run([bench.bin / "pgbench", "-i", "-q", "-s", str(self.scale), conninfo])
        if self.further:
            self.server.sql(self.further, self.name)
        bench.run_backwhen("init", "--source", conninfo, history=self.history)
        quick = {"PGOPTIONS": "-c synchronous_commit=off"}
        run([bench.bin / "pgbench", "-n", "-c", "4", "-t", str(TRANSACTIONS // 4), conninfo], quick)
        bench.run_backwhen("capture", "--until", "caught-up", history=self.history)
        run([bench.bin / "pg_dump", "-Fd", "-j2", "-f", self.dump, conninfo])
        return self

    def open(self, *further):
        """Starts a recovery on demand, and returns its process once the database is open."""
        into = ["--to", "latest", "--jobs", "2", "--create", "--into", self.server.conninfo("opened"), *further]
        command = self.bench.command("recover", "--on-demand", *into, history=self.history)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "env": self.bench.environment, "cwd": "/"}
        child = subprocess.Popen(command, **pipes)
        self.bench.children.append(child)
        if not child.stdout.readline():
            raise SystemExit(f"bench: not opened: {' '.join(command)}")
        return child

    def answers(self):
        """Recovers on demand; returns the seconds to the answers of a small and of the large table, and to the end."""
        self.server.sql("CHECKPOINT")
        started = start()
        child = self.open()
        seconds = []
        for question in [SMALL, LARGE]:
            self.server.sql(question, "opened")
            seconds.append(time.monotonic() - started)
        child.communicate(timeout=3600)
        seconds.append(time.monotonic() - started)
        if child.returncode != 0:
            raise SystemExit(f"bench: recover --on-demand ended with {child.returncode}")
        self.compare("opened")
        return [Seconds(one) for one in seconds]

    def restored(self):
        """Restores the dump with pg_restore -j2."""
        return self.timed("restored", lambda target: [self.pg_restore("-j2", target)])

    def restored_alone(self):
        """Restores the large table by itself, with its key, and asks it."""
        key = f"ALTER TABLE pgbench_accounts ADD PRIMARY KEY (aid); {LARGE}"
        psql = lambda target: [self.bench.bin / "psql", "-Xq", "-c", key, target]
        return self.timed("alone", lambda target: [self.pg_restore("-tpgbench_accounts", target), psql(target)], False)

    def pg_restore(self, option, target):
        return [self.bench.bin / "pg_restore", option, "-d", target, self.dump]

    def timed(self, database, commands, is_whole=True):
        self.server.sql("CHECKPOINT")
        started = start()
        self.server.sql(f"CREATE DATABASE {database}")
        for command in commands(self.server.conninfo(database)):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = Seconds(time.monotonic() - started)
        if is_whole:
            self.compare(database)
        else:
            self.server.sql(f"DROP DATABASE {database}")
        return seconds

    def compare(self, database):
        self.bench.same(self.server.fingerprint(database), self.server.fingerprint(self.name), database)
        self.server.sql(f"DROP DATABASE {database}")

    def throughput(self):
        """Transactions a second while the archive is loaded, and for as long again when all is loaded."""
        child = self.open("--first", "pgbench_*")
        self.server.sql(LARGE, "opened")
        command = [self.bench.bin / "pgbench", "-n", "-c", str(CLIENTS), "-T", "3600", self.server.conninfo("opened")]
        application = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.bench.children.append(application)
        started, before = time.monotonic(), self.done()
        child.communicate(timeout=3600)
        ended, loaded = time.monotonic(), self.done()
        time.sleep(max(1.0, ended - started))
        finished, after = time.monotonic(), self.done()
        application.kill()
        application.wait(60)
        self.server.sql("DROP DATABASE opened WITH (FORCE)")
        return (loaded - before) / (ended - started), (after - loaded) / (finished - ended)

    def done(self):
        """The number of transactions that pgbench has committed."""
        return int(self.server.sql("SELECT count(*) FROM pgbench_history", "opened"))


def demand(bench, runs):
    """Both databases in turn, so that passing load falls on both."""
    server = bench.own_server("demand")
    figures = {"scale": SCALE, "times": TIMES}
    step(f"recovery on demand at scale {SCALE} and {SCALE * TIMES}, in turn with pg_restore")
    names = ["small", "large"]
    both = [Protected(bench, server, scale, name).prepare() for scale, name in zip([SCALE, SCALE * TIMES], names)]
    what = ["first answer", "query --at", "large table", "whole", "pg_restore -j2", "pg_restore -t"]
    series = {name: [Series(f"{one} ({name})") for one in what] for name in names}
    for _ in range(runs):
        for it in both:
            first, touched, whole = it.answers()
            asked = bench.run_backwhen("query", "--at", "latest", SMALL, history=it.history)
            for one, found in zip(series[it.name], [first, asked, touched, whole, it.restored(), it.restored_alone()]):
                one.add(found)
    for name in names:
        figures[name] = {one: found.seconds for one, found in zip(what, series[name])}
    for it in both:
        shutil.rmtree(it.dump)
    step(f"{CLIENTS} clients of pgbench while another table is loaded, and afterwards")
    busy = Protected(bench, server, SCALE, "busy", ARCHIVE).prepare()
    figures["tps"] = [busy.throughput() for _ in range(runs)]
    for loading, loaded in figures["tps"]:
        print(f"  {loading:.0f} and {loaded:.0f} transactions a second", flush=True)
    bench.figures["demand"] = figures
    server.remove()
