"""The figures as a page."""

import datetime
import os
import subprocess
from dataclasses import dataclass


@dataclass
class Seconds:
    """A time taken by several programs together."""

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


def rows(facts):
    """What, backwhen's figure, the other's, the ratio, the goal."""
    for way in ["unix", "tcp"]:
        if drain := facts.get(f"drain_{way}"):
            speed = f"{1 / drain['ratio']:.2f} of its speed"
            yield (f"drain by {way} socket, against pg_recvlogical", times(drain["backwhen"]), times(drain["other"]), speed, "≥ 0.9")
    if "journal_bytes" in facts:
        journal, archive = facts["journal_bytes"], facts["archive_bytes"]
        checkpoint, backup = facts["init"]["bytes"], facts["backup"]["bytes"]
        yield ("journal, against pgBackRest's archive (zstd)", mib(journal), mib(archive), f"{journal / archive:.3f}", "≤ 0.15")
        both, theirs = journal + checkpoint, archive + backup
        yield ("journal and first checkpoint, against archive and backup", mib(both), mib(theirs), f"{both / theirs:.3f}", "≤ 0.2")
    for name in ["end", "middle"]:
        if recover := facts.get(f"recover_{name}"):
            ours, goal = times(recover["backwhen"]), "≤ 1" if name == "end" else ""
            yield (f"recovery to the {name}, against pgBackRest restore and replay", ours, times(recover["other"]), f"{recover['ratio']:.2f}", goal)
            yield (f"the same, against pg_restore -j2 of a dump of that state", ours, times(recover["pg_restore"]), f"{recover['ratio_to_pg_restore']:.2f}", "")
    for name, what in [("checkpoint", "folded checkpoint, against pg_dump -Fd -j2"), ("checkpoint_few", "the same, 0.1 % of rows changed, evenly spread")]:
        if one := facts.get(name):
            yield (what, times(one["backwhen"]), times(one["other"]), f"{one['ratio']:.2f}", "")
    if few := facts.get("checkpoint_few"):
        yield ("bytes that it adds (every block has a changed row), against the dump", mib(few["bytes"]), mib(facts["dump_bytes"]), f"{few['bytes'] / facts['dump_bytes']:.4f}", "")


def peaks(facts):
    """What, the peak, the limit."""
    for key, what, limit in [
        ("drain_unix", "capture, draining", "256 MiB"),
        ("big", "capture, one transaction of {rows} rows", "256 MiB"),
        ("recover_end", "recover", "1 GiB"),
        ("checkpoint", "checkpoint", "1 GiB"),
        ("init", "init", ""),
    ]:
        if key in facts:
            yield (what.format(**facts[key]), mib(facts[key]["peak_bytes"]), limit)


def table(facts):
    lines = ["| what | backwhen | the other | ratio | goal |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(facts)]
    lines += ["", "| peak memory (VmHWM) | | limit |", "|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in peaks(facts)]
    return "\n".join(lines)


def page(facts):
    memory = facts["memory_bytes"] / (1 << 30)
    backrest = facts["pgbackrest"]
    return f"""# Performance

Measured on {facts['date']}, commit {facts['commit']}, by

    SCALE={facts['scale']} TRANSACTIONS={facts['transactions']} RUNS={facts['runs']} make bench

on {facts['cores']} cores ({facts['cpu']}), {memory:.0f} GiB, load {facts['load']:.1f}: the machine was shared, so read the
ratios, not the seconds. Each ratio is the median of the quotients of runs that followed each other directly,
backwhen's time (or bytes) divided by the other's; only the drain's is given as speed.
PostgreSQL 15 with its own defaults but `shared_buffers = 512MB` and `wal_level = logical`, fsync on;
{backrest} with `compress-type=zst`, `process-max=2`, on the same disk. The data is pgbench's, scale
{facts['scale']}; the changes are {facts['transactions']} transactions of TPC-B. Every recovered database was compared with its source.

{table(facts)}

The drain ends when everything is durable in the history. Recovery ends when the database can be used; that of
backwhen includes reading every row back and comparing digests with the history. The phases of a recovery to the end, in
seconds: {phases(facts)}.
"""


def phases(facts):
    found = facts.get("recover_end", {}).get("phases", [])
    return ", ".join(f"{phase['name']} {phase['seconds']:.1f}" for phase in found)
