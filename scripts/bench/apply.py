"""Measures PostgreSQL's own logical apply of the same transactions: a subscription on the first checkpoint's state."""

import time

from measure import Series, ratio, start, step
from report import Seconds

RECEIVED = "SELECT coalesce(bool_or(received_lsn >= '{}'), false) FROM pg_stat_subscription WHERE subname = 'apply'"


def apply(bench, runs):
    """Returns the time from the subscription's start until it holds the rows that `backwhen recover --to latest` restores."""
    step("recovery to the end and PostgreSQL's own logical apply, alternating")
    target = bench.target()
    first = bench.history_checkpoints()[0]
    ours, theirs = Series("backwhen recover (apply)"), Series("logical apply")
    for _ in range(min(runs, 2)):
        ours.add(bench.recover_into(target, "latest", bench.end))
        theirs.add(subscribed(bench, target, first))
    bench.figures["apply"] = {"backwhen": ours.seconds, "other": theirs.seconds, "ratio": ratio(ours, theirs)}


def subscribed(bench, target, first):
    bench.run_backwhen("recover", "--to", f"checkpoint:{first}", "--into", target.conninfo("applied"), "--create")
    bench.copy_slot("backlog", "apply")
    target.sql("CHECKPOINT")
    started = start()
    source = bench.source.conninfo().replace("'", "''")
    target.sql(
        f"CREATE SUBSCRIPTION apply CONNECTION '{source}' PUBLICATION {bench.publications()} "
        "WITH (create_slot = false, slot_name = 'apply', copy_data = false)",
        "applied",
    )
    target.wait_until(RECEIVED.format(bench.end_lsn))
    seconds = time.monotonic() - started
    bench.same(target.fingerprint("applied"), bench.end, "logical apply")
    for sql in ["DISABLE", "SET (slot_name = NONE)"]:
        target.sql(f"ALTER SUBSCRIPTION apply {sql}", "applied")
    target.sql("DROP SUBSCRIPTION apply", "applied")
    target.sql("DROP DATABASE applied WITH (FORCE)")
    bench.source.wait_until("SELECT NOT bool_or(active) FROM pg_replication_slots")
    bench.drop_slot("apply")
    return Seconds(seconds)
