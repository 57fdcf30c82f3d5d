"""Measures one huge transaction, and rows that do not compress."""

import shutil

from measure import Series, ratio, size_of, sizes, step

FILLER = sizes("FILLER", None)
# 84 characters of base64, 6 bits each.
RANDOM = "translate(encode(substring(sha512((aid || ' ' || random())::bytea) FOR 63), 'base64'), E'\\n', '')"


def huge(bench, runs):
    """Measures a transaction that updates every account: 5 million at scale 50."""
    bench.capture()
    for slot in ["backlog", "reference"]:
        bench.drop_slot(slot)
    bench.source.sql(f"SELECT pg_copy_logical_replication_slot('{bench.slot}', 'backlog')", "bench")
    shutil.copytree(bench.history, bench.work / "history.before")
    rows = int(bench.source.sql("SELECT count(*) FROM pgbench_accounts", "bench"))
    step(f"one transaction that updates {rows} rows")
    bench.source.sql("UPDATE pgbench_accounts SET abalance = abalance + 1", "bench")
    bench.end_lsn = bench.source.sql("SELECT pg_current_wal_flush_lsn()")
    bench.backrest.archived()
    ours, theirs = Series("backwhen capture"), Series("pg_recvlogical, proto 1")
    for _ in range(min(runs, 2)):
        theirs.add(bench.receive("unix"))
        bench.rewind_slot("history.before")
        ours.add(bench.capture())
    bench.figures["huge"] = {**bench.pair(ours, theirs), "rows": rows}
    bench.drop_slot("backlog")
    bench.drop_slot("reference")
    shutil.rmtree(bench.work / "history.before")


def filler(bench, _runs):
    """Compares the bytes of a history of rows that do not compress with the bytes of the WAL."""
    transactions = FILLER or bench.transactions
    step(f"random filler in every account, then {transactions} transactions of TPC-B")
    bench.source.sql(f"UPDATE pgbench_accounts SET filler = {RANDOM}", "bench")
    bench.source.sql("VACUUM pgbench_accounts", "bench")
    bench.capture()
    before = bench.backrest.archived(), size_of(bench.history / "journal")
    bench.traffic(transactions)
    archive = bench.backrest.archived() - before[0]
    bench.capture()
    journal = size_of(bench.history / "journal") - before[1]
    bench.figures["filler"] = {"transactions": transactions, "journal_bytes": journal, "archive_bytes": archive}
    print(f"  {journal >> 20} MiB of journal, {archive >> 20} MiB of archive", flush=True)
