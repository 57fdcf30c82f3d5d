"""Measures what encryption costs: a capture's CPU, a recovery's time, and the bytes, against the same history in the clear."""

import resource
import statistics

from loading import timed
from measure import Series, size_of, sizes, step

# Rows of each capture, of which a third is changed once more.
ROWS = sizes("SEALED_ROWS", 200_000)


def encryption(bench, runs):
    """Captures the same changes into both histories in turn, three times as often as other steps run, and recovers both."""
    source = bench.own_server("encryption")
    source.sql("CREATE DATABASE sealed")
    source.sql("CREATE TABLE t (n int PRIMARY KEY, words text)", "sealed")
    identity = ["--identity-file", bench.work / "identity"]
    clear, sealed = bench.work / "history.clear", bench.work / "history.sealed"
    bench.run_backwhen("init", "--source", source.conninfo("sealed"), history=clear)
    bench.run_backwhen("init", "--encrypt", *identity, "--source", source.conninfo("sealed"), history=sealed)
    step(f"captures of {ROWS} rows, in the clear and encrypted in turn")
    used = {clear: [], sealed: []}
    for number in range(3 * runs):
        first, last = number * ROWS + 1, (number + 1) * ROWS
        source.sql(f"INSERT INTO t SELECT n, md5(n::text) || md5((n + 1)::text) FROM generate_series({first}, {last}) n", "sealed")
        source.sql(f"UPDATE t SET words = words || 'x' WHERE n % 3 = 0 AND n BETWEEN {first} AND {last}", "sealed")
        source.sql("CHECKPOINT")
        for history in used:
            before = processor()
            bench.run_backwhen("capture", "--until", "caught-up", *identity, history=history)
            used[history].append(processor() - before)
            print(f"  {history.name}: {used[history][-1]:.2f} s of CPU", flush=True)
    step("recoveries of both in turn")
    ours, other = Series("backwhen recover (encrypted)"), Series("backwhen recover (in the clear)")
    for _ in range(runs):
        for series, history in [(other, clear), (ours, sealed)]:
            command = lambda target: bench.command("recover", "--to", "latest", "--into", target, *identity, history=history)
            series.add(timed(bench, source, "sealed", command))
    bench.figures["encryption_capture"] = {
        "backwhen": used[sealed],
        "other": used[clear],
        "ratio": statistics.median(one / two for one, two in zip(used[sealed], used[clear])),
    }
    bench.figures["encryption_recover"] = bench.pair(ours, other)
    bench.figures["encryption_bytes"] = {"backwhen": size_of(sealed), "other": size_of(clear)}
    source.remove()


def processor():
    """Returns the seconds of CPU of all programs that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
