"""Measures a copy in an object store: what it costs a capture, how late it is, what it asks for, and recoveries from it.

The store is the S3 server of the tests (SeaweedFS) on the same machine, so its work counts against backwhen.
"""

import copy
import json
import shutil
import statistics
import time

import live
from measure import Series, ratio, sizes, step
from s3 import BUCKET, CountingProxy, PgBackRestOnS3, S3Server
from servers import Server

SCALE = sizes("STORES_SCALE", sizes("SCALE", 50))
TRANSACTIONS = sizes("STORES_TRANSACTIONS", sizes("TRANSACTIONS", 200_000))
# Of full load, of a rate, and of each count of requests.
LOAD_SECONDS = sizes("LIVE_SECONDS", 10)
LAG_SECONDS = sizes("STORES_LAG_SECONDS", 20)
COUNT_SECONDS = sizes("STORES_COUNT_SECONDS", 60)
LAG_TPS = sizes("STORES_TPS", 2000)
QUIET_TPS = 100

URL = f"s3://{BUCKET}/history"
COPYING = ["--also", URL, "--durable", "store"]


def stores(bench, runs):
    """Takes a bench of its own: a source, a history with a copy, and pgBackRest with a repository in the same store."""
    s3 = S3Server(bench.work / "s3")
    bench.children.append(s3.start())
    own = prepare(bench, s3)
    recoveries(own, runs)
    full_load(own, runs)
    durable_lag(own)
    requests(own, s3)
    own.source.remove()
    s3.remove()


def prepare(bench, s3):
    step(f"pgbench -i -s {SCALE} and {TRANSACTIONS} transactions, a history with a copy in S3, pgBackRest in the same S3")
    own = copy.copy(bench)
    own.source = Server(bench.work / "stores", bench.bin)
    bench.servers.append(own.source)
    own.history = bench.work / "history.stores"
    own.environment = bench.environment | s3.variables()
    own.backrest = PgBackRestOnS3(own.source.folder, own.source, s3)
    own.begin(SCALE)
    own.traffic(TRANSACTIONS)
    own.capture()
    own.run_backwhen("copy", "--to", URL)
    own.backrest.archived()
    return own


def recoveries(own, runs):
    """Recovers to the end from the folder, from S3 without anything in the cache, and with pgBackRest from the same S3."""
    step("recovery to the end: the folder, S3 with a cold cache, pgBackRest from S3, in turns")
    target, rows = own.target(), own.source.fingerprint()
    local, remote, replay = Series("backwhen, folder"), Series("backwhen, S3"), Series("pgBackRest, S3")
    for number in range(runs):
        local.add(own.recover_into(target, "latest", rows))
        cache = own.work / f"cache.{number}"
        own.environment["BACKWHEN_CACHE"] = str(cache)
        remote.add(own.recover_into(target, "latest", rows, URL))
        shutil.rmtree(cache)
        replay.add(own.replay(own.backrest, ["--type=default"], rows))
    del own.environment["BACKWHEN_CACHE"]
    own.figures["stores_recover"] = {
        **own.pair(remote, local),
        "pgbackrest": replay.seconds,
        "ratio_to_pgbackrest": ratio(remote, replay),
        "phases": own.phases_of(remote),
    }
    own.record()


def full_load(own, runs):
    """Measures the transactions per second with a history alone, and with a copy that decides what is confirmed."""
    step(f"{live.CLIENTS} clients at full load for {LOAD_SECONDS} s each, with a history alone and with a copy in turns")
    ours, theirs, peak = [], [], 0
    for _ in range(runs):
        own.capture()
        with live.capturing(own):
            theirs.append(live.traffic(own, LOAD_SECONDS))
        own.capture()
        with live.capturing(own, arguments=COPYING) as capture:
            ours.append(live.traffic(own, LOAD_SECONDS))
            peak = max(peak, capture.look())
        print(f"  transactions a second: {ours[-1]:.0f} with a copy, {theirs[-1]:.0f} without", flush=True)
    found = statistics.median(one / other for one, other in zip(ours, theirs))
    own.figures["stores_live"] = {"backwhen": ours, "other": theirs, "ratio": found, "peak_bytes": peak}
    own.record()


def durable_lag(own):
    """Measures the delay from a commit's end until the store has the commit."""
    rate = min(LAG_TPS, int(0.8 * statistics.median(own.figures["stores_live"]["backwhen"])))
    step(f"how soon the store has commits, at {rate} transactions a second")
    own.capture()
    log = own.work / "stores.log"
    with live.capturing(own, log, COPYING), live.sampling(own) as samples:
        reached = live.traffic(own, LAG_SECONDS, ["-R", str(rate)])
        # The last commits of the load are put after its end.
        time.sleep(3)
    found = sorted(live.delays(samples.read_text(), log.read_text(), "copied up to"))
    own.figures["stores_lag"] = live.spread(found, rate, reached)
    own.record()


def requests(own, s3):
    """Counts what a capture with a copy asks of the store, when nothing changes and at 100 transactions a second."""
    proxy = CountingProxy(s3.port)
    own.environment |= s3.variables(proxy.port)
    counts = {}
    for name, rate in [("idle", 0), ("quiet", QUIET_TPS)]:
        step(f"requests of {COUNT_SECONDS} s at {rate} transactions a second")
        own.capture()
        with live.capturing(own, arguments=COPYING):
            # The lists and the lease of its start are no part of what each hour costs.
            time.sleep(3)
            proxy.take()
            if rate:
                live.traffic(own, COUNT_SECONDS, ["-R", str(rate)])
            else:
                time.sleep(COUNT_SECONDS)
            found = proxy.take()
        total = sum(found.values())
        counts[name] = {"requests": found, "an_hour": total * 3600 / COUNT_SECONDS, "seconds": COUNT_SECONDS}
        print(f"  {json.dumps(found)}: {counts[name]['an_hour']:.0f} an hour", flush=True)
    proxy.close()
    own.figures["stores_requests"] = counts
    own.record()
