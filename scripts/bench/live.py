"""Measures a running capture: its cost for the source's traffic, and the delay until a commit is durable here."""

import re
import signal
import statistics
import subprocess
import time
from contextlib import contextmanager
from datetime import datetime

from measure import Peak, sizes, step

SECONDS = sizes("LIVE_SECONDS", 10)
LAG_SECONDS = sizes("LAG_SECONDS", 15)
LAG_TPS = sizes("LAG_TPS", 4000)
CLIENTS = 16


def live(bench, runs):
    """Measures the transactions per second of 16 clients with capture attached, and with pg_recvlogical."""
    step(f"{CLIENTS} clients at full load for {SECONDS} s each, capture and pg_recvlogical attached in turns")
    ours, theirs, peak = [], [], 0
    for _ in range(runs):
        # Each run begins without a backlog.
        bench.capture()
        with capturing(bench) as capture:
            ours.append(traffic(bench))
            peak = max(peak, capture.look())
        bench.capture()
        with receiving(bench):
            theirs.append(traffic(bench))
        print(f"  transactions a second: {ours[-1]:.0f} with capture, {theirs[-1]:.0f} with pg_recvlogical", flush=True)
    ratio = statistics.median(one / other for one, other in zip(ours, theirs))
    bench.figures["live"] = {"backwhen": ours, "other": theirs, "ratio": ratio, "peak_bytes": peak}
    lag(bench, min(LAG_TPS, int(0.8 * statistics.median(ours))))


def lag(bench, rate):
    """Measures the delay from a commit's end until the commit is durable in the history."""
    step(f"how soon commits are durable, at {rate} transactions a second")
    bench.capture()
    log = bench.work / "lag.log"
    with capturing(bench, log), sampling(bench) as samples:
        reached = traffic(bench, LAG_SECONDS, ["-R", str(rate)])
    found = sorted(delays(samples.read_text(), log.read_text()))
    bench.figures["lag"] = spread(found, rate, reached)


def spread(found, asked, reached):
    """Returns the figures about delays, which are sorted, at a rate of transactions that was asked for, and reached."""
    if len(found) < 100:
        raise SystemExit(f"bench: only {len(found)} samples of the lag")
    at = lambda share: found[min(len(found) - 1, int(share * len(found)))]
    print(f"  {reached:.0f} a second: median {at(0.5) * 1000:.0f} ms, p99 {at(0.99) * 1000:.0f} ms", flush=True)
    rates = {"asked_tps": asked, "tps": reached, "samples": len(found)}
    return rates | {"p50": at(0.5), "p99": at(0.99), "max": found[-1]}


def traffic(bench, seconds=SECONDS, options=()):
    command = [bench.bin / "pgbench", "-n", "-c", str(CLIENTS), "-j", "2", "-T", str(seconds), *options]
    done = subprocess.run([*command, bench.source.conninfo()], check=True, capture_output=True, text=True)
    return float(re.search(r"tps = ([0-9.]+)", done.stdout).group(1))


@contextmanager
def capturing(bench, log=None, arguments=()):
    """Starts a capture and waits until it streams."""
    command = bench.command("capture", "--source", bench.source.conninfo(), *arguments)
    environment = bench.environment | ({"BACKWHEN_LOG": "backwhen::capture=trace"} if log else {})
    with open(log or "/dev/null", "wb") as errors:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment, cwd="/")
        bench.children.append(child)
        wait_for(bench, bench.slot)
        peak = Peak(child.pid)
        try:
            yield peak
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(60)


@contextmanager
def receiving(bench):
    bench.source.sql("SELECT pg_create_logical_replication_slot('live', 'pgoutput')", "bench")
    command = bench.receiver("live", bench.source.conninfo())
    # The program reports it as an error that it was told to stop.
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd="/")
    bench.children.append(child)
    wait_for(bench, "live")
    try:
        yield
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(60)
        bench.drop_slot("live")


def wait_for(bench, slot):
    bench.source.wait_until(f"SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'", 60)
    time.sleep(0.5)


@contextmanager
def sampling(bench):
    """Samples the server's clock and the end of its WAL, twenty times a second."""
    path = bench.work / "lag.samples"
    with open(path, "wb") as output:
        command = [bench.bin / "psql", "-XAtq", bench.source.conninfo()]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output)
        bench.children.append(child)
        question = "SELECT 'at', extract(epoch FROM clock_timestamp()), pg_current_wal_flush_lsn() \\watch 0.05\n"
        child.stdin.write(question.encode())
        child.stdin.flush()
        try:
            yield path
        finally:
            child.terminate()
            child.wait(60)


def delays(samples, log, said="durable up to"):
    """Yields for each sample the time until the log said the sampled end of the WAL: it is durable up to there."""
    asked = [(float(time_), lsn(at)) for time_, at in re.findall(r"^at\|([0-9.]+)\|([0-9A-F/]+)$", samples, re.M)]
    durable = re.findall(rf"^(\S+)Z .*{said} ([0-9A-F]+/[0-9A-F]+)", log, re.M)
    durable = [(datetime.fromisoformat(when + "+00:00").timestamp(), lsn(at)) for when, at in durable]
    news = iter(durable)
    when, reached = next(news, (0, 0))
    for time_, wanted in asked:
        while reached < wanted:
            try:
                when, reached = next(news)
            except StopIteration:
                # This sample was taken after the last commit, so nothing was left to become durable.
                return
        yield max(0.0, when - time_)


def lsn(text):
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)
