"""Writes the figures as a page."""

import datetime
import os
import statistics
import subprocess
from dataclasses import dataclass


@dataclass
class Seconds:
    """A time that several programs took together."""

    seconds: float
    peak_bytes: int = 0
    output: str = ""


def machine():
    def said(*command):
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()

    with open("/proc/cpuinfo") as cpus:
        models = [line.split(":")[1].strip() for line in cpus if line.startswith("model name")]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": models[0] if models else os.uname().machine,
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "load": os.getloadavg()[1],
        "pgbackrest": said("pgbackrest", "version"),
        "commit": said("git", "rev-parse", "--short", "HEAD"),
    }


def mib(bytes_):
    return f"{bytes_ / (1 << 20):.1f} MiB"


def times(seconds):
    return " / ".join(f"{one:.1f}" for one in seconds) + " s"


def one(ratio):
    return f"{ratio:.3f}" if ratio < 0.1 else f"{ratio:.2f}"


@dataclass
class Row:
    """One comparison: the required ratio, the desired ratio, and the ratio that was reached."""

    what: str
    ours: str
    other: str
    ratio: float
    must: float | None = None
    aim: float | None = None
    # Whether a larger figure is better, as for speeds.
    more: bool = False

    def cells(self):
        sign = "≥" if self.more else "≤"
        bound = lambda limit: "" if limit is None else f"{sign} {limit:g}"
        return [self.what, self.ours, self.other, one(self.ratio), bound(self.must), bound(self.aim), self.reached()]

    def reached(self):
        meets = lambda limit: limit is not None and (self.ratio >= limit if self.more else self.ratio <= limit)
        if self.must is None:
            return ""
        if not meets(self.must):
            return "missed"
        if self.aim is None or meets(self.aim):
            return "aim" if self.aim is not None else "must"
        return f"must; {abs(self.ratio / self.aim - 1):.0%} off the aim"


def rows(facts):
    for way, must, aim in [("unix", 1.0, 2.2), ("tcp", 2.0, 6.0)]:
        if drain := facts.get(f"drain_{way}"):
            what = f"drain by {way} socket: speed against pg_recvlogical"
            yield Row(what, times(drain["backwhen"]), times(drain["other"]), 1 / drain["ratio"], must, aim, True)
    if live := facts.get("live"):
        what = "16 clients at full load: transactions a second, against those with pg_recvlogical attached"
        tps = lambda rates: " / ".join(f"{rate:.0f}" for rate in rates)
        yield Row(what, tps(live["backwhen"]), tps(live["other"]), live["ratio"], 0.97, 1.0, True)
    if lag := facts.get("lag"):
        what = f"durable lag at {lag['tps']:.0f} transactions a second, p99 in seconds"
        yield Row(what, f"median {lag['p50'] * 1000:.0f} ms, at most {lag['max'] * 1000:.0f} ms", "", lag["p99"], 0.25, 0.1)
    if huge := facts.get("huge"):
        what = f"one transaction of {huge['rows']} updates: speed against pg_recvlogical, proto 1"
        yield Row(what, times(huge["backwhen"]), times(huge["other"]), 1 / huge["ratio"], 1.0, 1.7, True)
    yield from sizes(facts)
    yield from resets(facts)
    if bisect := facts.get("bisect"):
        what = f"bisect over {bisect['transactions']} transactions: steps"
        yield Row(what, times(bisect["seconds"]), "", bisect["steps"], 20)
        yield Row("bisect, seconds", times(bisect["seconds"]), "", statistics.median(bisect["seconds"]), 30)
    yield from recoveries(facts)
    yield from checkpoints(facts)
    yield from questions(facts)
    yield from demands(facts)
    yield from stores(facts)
    yield from encryption(facts)


def encryption(facts):
    """A history that is encrypted, against the same one in the clear."""
    if capture := facts.get("encryption_capture"):
        seconds = lambda spent: f"median {statistics.median(spent):.2f} s"
        what = "capture into an encrypted history: CPU, against one in the clear"
        yield Row(what, seconds(capture["backwhen"]), seconds(capture["other"]), capture["ratio"], 1.15)
    if recover := facts.get("encryption_recover"):
        what = "recovery of an encrypted history: time, against one in the clear"
        yield Row(what, times(recover["backwhen"]), times(recover["other"]), recover["ratio"], 1.05)
    if size := facts.get("encryption_bytes"):
        yield Row("bytes of an encrypted history, against one in the clear", mib(size["backwhen"]), mib(size["other"]), size["backwhen"] / size["other"], 1.02)


def stores(facts):
    """A copy in an object store on the same machine."""
    tps = lambda rates: " / ".join(f"{rate:.0f}" for rate in rates)
    if live := facts.get("stores_live"):
        what = "16 clients at full load, capture --durable store with a copy in S3: transactions a second, against a history alone"
        yield Row(what, tps(live["backwhen"]), tps(live["other"]), live["ratio"], 0.95, None, True)
    if lag := facts.get("stores_lag"):
        what = f"the copy's durable lag at {lag['tps']:.0f} transactions a second, p99 in seconds"
        yield Row(what, f"median {lag['p50']:.2f} s, at most {lag['max']:.2f} s", "", lag["p99"], 2.0)
    if recover := facts.get("stores_recover"):
        ours = times(recover["backwhen"])
        yield Row("recovery to the end from S3 with a cold cache, against the folder", ours, times(recover["other"]), recover["ratio"], 1.25)
        what = "recovery to the end from S3 with a cold cache, against pgBackRest from the same S3"
        yield Row(what, ours, times(recover["pgbackrest"]), recover["ratio_to_pgbackrest"], 0.5)
    for name, what, must in [("idle", "when nothing changes", 800), ("quiet", "at 100 transactions a second", 4500)]:
        if counted := facts.get("stores_requests", {}).get(name):
            sorts = ", ".join(f"{count} {sort}" for sort, count in sorted(counted["requests"].items()))
            what = f"requests an hour of a capture with a copy, {what}"
            yield Row(what, f"{sorts} in {counted['seconds']} s", "", counted["an_hour"], must)
    if counts := facts.get("stores_requests"):
        lists = sum(counted["requests"].get("LIST", 0) for counted in counts.values())
        yield Row("lists among these requests", f"{lists}", "", lists, 0)


def questions(facts):
    travel = facts.get("travel", {})
    seconds = lambda time: f"{time:.3f} s"
    if "undo" in travel:
        (small, large), rows = travel["rewind"], travel["rows"]
        what = f"rewind of 1,000 deleted rows under traffic, in {rows[1]} rows and in {rows[0]}"
        yield Row(what, seconds(large), seconds(small), large / small, 1.3)
        yield Row("the same in the larger table, in seconds", seconds(large), "", large, 1.0)
        yield Row("how long its locks are held, in seconds", seconds(travel["locked"][1]), "", travel["locked"][1], 0.3)
        undo, update = travel["undo"][1], travel["update"][1]
        what = f"undo of a transaction of {travel['updates']} updates, against PostgreSQL's updates"
        yield Row(what, seconds(undo), seconds(update), undo / update, 2.0)
        if "update_one_by_one" in travel:
            update = travel["update_one_by_one"][1]
            what = "the same, against as many prepared updates by key"
            yield Row(what, seconds(undo), seconds(update), undo / update, 2.0)
        yield Row("diff of two moments with 1,000 changes between them, in seconds", seconds(travel["diff"][1]), "", travel["diff"][1], 0.2)
    if "log_key" in travel:
        journal = travel["lookup_journal_bytes"]
        for name in ["row", "log_key"]:
            found = travel[name]
            what = f"{name.replace('_', ' --')} for one row in {travel['lookup_changes']} changes: share of the journal that is read"
            yield Row(what, f"{found['bytes'] >> 10} KiB", mib(journal), found["bytes"] / journal, 0.01)
            yield Row("the same, in seconds", seconds(found["seconds"]), "", found["seconds"], 0.05)


def demands(facts):
    """A recovery on demand, in a database and in one of ten times the data."""
    demand = facts.get("demand")
    if not demand:
        return
    small, large = demand["small"], demand["large"]
    scales = f"at scale {demand['scale'] * demand['times']} and at {demand['scale']}"
    median, hundredths = statistics.median, lambda seconds: f"{statistics.median(seconds):.2f} s"
    for name, what in [("first answer", "recover --on-demand until a small table answers"), ("query --at", "query --at of a small table")]:
        ours, theirs = large[name], small[name]
        must, aim = (1.3, 1.1) if name == "first answer" else (None, None)
        yield Row(f"{what}, {scales}", hundredths(ours), hundredths(theirs), median(ours) / median(theirs), must, aim)
        yield Row("the same in the larger database, in seconds", hundredths(ours), "", median(ours), 3.0, 1.5)
    for name, other, what, must, aim in [
        ("large table", "pg_restore -t", "until the large table answers, against pg_restore -t of that table, with its key", 1.0, 0.7),
        ("whole", "pg_restore -j2", "to the end, against pg_restore -j2 of a dump of that state", 1.0, 0.85),
    ]:
        ratio = median(one / two for one, two in zip(large[name], large[other]))
        yield Row(f"recover --on-demand {what}", times(large[name]), times(large[other]), ratio, must, aim)
    loading, loaded = (median(rates) for rates in zip(*demand["tps"]))
    what = "transactions a second while another table is loaded, against the finished database"
    yield Row(what, f"{loading:.0f}", f"{loaded:.0f}", loading / loaded, None, 0.5, True)


def sizes(facts):
    if "journal_bytes" in facts:
        journal, archive = facts["journal_bytes"], facts["archive_bytes"]
        yield Row("journal, against pgBackRest's archive (zstd)", mib(journal), mib(archive), journal / archive, 0.1, 0.05)
        both, theirs = journal + facts["init"]["bytes"], archive + facts["backup"]["bytes"]
        yield Row("journal and first checkpoint, against archive and backup", mib(both), mib(theirs), both / theirs)
    if filler := facts.get("filler"):
        journal, archive = filler["journal_bytes"], filler["archive_bytes"]
        what = f"journal of {filler['transactions']} transactions with random filler, against the archive"
        yield Row(what, mib(journal), mib(archive), journal / archive, 0.04, 0.03)


def resets(facts):
    """A reset of a test database; the other ways stand beside it."""
    reset = facts.get("reset")
    if not reset:
        return
    milliseconds = lambda seconds: f"{statistics.median(seconds) * 1000:.0f} ms"
    what = f"reset after a test that changed {reset['changed']} rows in {reset['tables']} tables, in seconds: {{}}"
    for name, must in [("backwhen::testing", 0.1), ("backwhen rewind --reset", None)]:
        if name in reset["ways"]:
            seconds = reset["ways"][name]
            yield Row(what.format(name), milliseconds(seconds), "", statistics.median(seconds), must)
    for name, seconds in reset["ways"].items():
        if not name.startswith("backwhen"):
            yield Row(what.format("beside it"), "", f"{name}: {milliseconds(seconds)}", statistics.median(seconds))


def recoveries(facts):
    for name, must, aim in [("middle", 0.8, 0.6), ("end", 0.6, 0.45)]:
        if recover := facts.get(f"recover_{name}"):
            ours = times(recover["backwhen"])
            what = f"recovery to the {name}, against pgBackRest restore and replay"
            yield Row(what, ours, times(recover["other"]), recover["ratio"], must, aim)
            what = f"recovery to the {name}, against pg_restore -j2 of a dump of that state"
            yield Row(what, ours, times(recover["pg_restore"]), recover["ratio_to_pg_restore"], 1.0, 0.85)
    for name, what, must, aim in [("shop", "a shop with foreign keys", 0.7, 0.5), ("many", "1,000 tables of 100 rows", 0.3, 0.2)]:
        if loading := facts.get(f"loading_{name}"):
            what = f"whole recovery of {what}, against pg_restore -j2 of a dump of that state"
            yield Row(what, times(loading["backwhen"]), times(loading["other"]), loading["ratio"], must, aim)
    if apply := facts.get("apply"):
        what = "recovery to the end, against PostgreSQL's own logical apply from the first checkpoint's state on"
        yield Row(what, times(apply["backwhen"]), times(apply["other"]), apply["ratio"])
    for name, aim in [("hot", None), ("hot_long", 0.1)]:
        if hot := facts.get(name):
            what = f"{hot['updates']} updates of 1,000 rows: recovery to the end, against pgBackRest"
            yield Row(what, times(hot["backwhen"]), times(hot["other"]), hot["ratio"], 0.5, aim)


def checkpoints(facts):
    if full := facts.get("checkpoint"):
        what = "folded checkpoint after all transactions, against pg_dump -Fd -j2"
        yield Row(what, times(full["backwhen"]), times(full["other"]), full["ratio"], 1.5, 1.0)
    if few := facts.get("checkpoint_few"):
        what = "folded checkpoint, 0.1 % of rows changed in one key range, against the one before"
        yield Row(what, times(few["backwhen"]), times(full["backwhen"]), few["ratio_to_full"], 0.1)
        what = "bytes that it adds, against the dump"
        yield Row(what, mib(few["bytes"]), mib(facts["dump_bytes"]), few["bytes"] / facts["dump_bytes"])
    if spread := facts.get("checkpoint_spread"):
        what = "folded checkpoint, 0.1 % of rows changed, evenly spread (in nearly every block), against pg_dump -Fd -j2"
        yield Row(what, times(spread["backwhen"]), times(spread["other"]), spread["ratio"])


def peaks(facts):
    """Rows of the table of peaks: subject, peak, limit."""
    for key, what, limit in [
        ("drain_unix", "capture, draining", "256 MiB"),
        ("live", "capture, 16 clients at full load", "256 MiB"),
        ("huge", "capture, one transaction of {rows} updates", "256 MiB"),
        ("stores_live", "capture --durable store, 16 clients at full load", "256 MiB"),
        ("recover_end", "recover", "1 GiB"),
        ("stores_recover", "recover from S3", "1 GiB"),
        ("hot_long", "recover, {updates} updates of 1,000 rows", "1 GiB"),
        ("checkpoint", "checkpoint", "1 GiB"),
        ("init", "init", ""),
    ]:
        if key in facts:
            yield [what.format(**facts[key]), mib(facts[key]["peak_bytes"]), limit]


def growths(facts):
    """Rows of the table of growth: subject, command, seconds small and large, quotient, peaks."""
    for name in ["database", "journal", "tables"]:
        grown = facts.get(f"growth_{name}")
        for command in grown["small"] if grown else []:
            small, large = grown["small"][command], grown["large"][command]
            seconds = [f"{run['seconds']:.2f} s" for run in (small, large)]
            factor = f"{large['seconds'] / small['seconds']:.1f}"
            yield [grown["what"], f"× {grown['factor']}", command, *seconds, factor, mib(small["peak_bytes"]), mib(large["peak_bytes"])]


def lines(header, body):
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    yield from ("| " + " | ".join(cells) + " |" for cells in body)
    yield ""


def table(facts):
    text = list(lines(["what", "backwhen", "the other", "ratio", "must", "aim", "reached"], [row.cells() for row in rows(facts)]))
    text += lines(["peak memory (VmHWM)", "", "limit"], peaks(facts))
    if grown := list(growths(facts)):
        text += ["What grows, by how much, and how much longer each command then takes:", ""]
        text += lines(["what", "by", "command", "small", "large", "factor", "peak, small", "peak, large"], grown)
    return "\n".join(text)


# People write the part of docs/PERFORMANCE.md below this line; it is kept.
MARKER = "<!-- above: written by make bench; below: by hand -->"


def write(path, facts):
    before = path.read_text() if path.exists() else ""
    _, _, kept = before.partition(MARKER)
    path.write_text(page(facts) + "\n" + MARKER + (kept or "\n"))


def page(facts):
    memory = facts["memory_bytes"] / (1 << 30)
    backrest = facts["pgbackrest"]
    failed = f"\n**Failed steps: {', '.join(facts['failed'])}.**\n" if facts.get("failed") else ""
    return f"""# Performance

Measured on {facts['date']}, commit {facts['commit']}, by

    SCALE={facts['scale']} TRANSACTIONS={facts['transactions']} RUNS={facts['runs']} make bench

on {facts['cores']} cores ({facts['cpu']}), {memory:.0f} GiB, load {facts['load']:.1f}: a shared machine, so read the
ratios, not the seconds. Each ratio is the median of the quotients of runs that followed each other directly,
backwhen's time (or bytes) divided by the other's; of speeds and rates it is the other way round, and more is better.
PostgreSQL 15 with its own defaults but `shared_buffers = 512MB` and `wal_level = logical`, fsync on;
{backrest} with `compress-type=zst`, `process-max=2`, on the same disk. The data is pgbench's, scale
{facts['scale']}; the changes are {facts['transactions']} transactions of TPC-B. Every recovered database was compared with its source.
{failed}
{table(facts)}
The drain ends when everything is durable in the history; pg_recvlogical writes to /dev/null. Recovery ends when the
database can be used; that of backwhen includes reading every row back and comparing digests with the history. The
phases of a recovery to the end, in seconds: {phases(facts)}. The durable lag is the time from a moment
at which the server's clock and the end of its log were read to the sync that made the history hold all of it.
"""


def phases(facts):
    found = facts.get("recover_end", {}).get("phases", [])
    return ", ".join(f"{phase['name']} {phase['seconds']:.1f}" for phase in found)
