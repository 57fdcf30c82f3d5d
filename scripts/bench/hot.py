"""Measures few rows that change often: folding a history against replaying WAL."""

from measure import Series, sizes, step
from servers import PgBackRest, Server

UPDATES = sizes("HOT", 1_000_000)
# Updates one row after the other, ten to a transaction.
PROCEDURE = """CREATE PROCEDURE change(updates int) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1 .. updates LOOP
        UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = (1 + n::int8 * 7919 % 1000)::int;
        IF n % 10 = 0 THEN COMMIT; END IF;
    END LOOP;
END $$"""


def hot(bench, runs):
    """Makes UPDATES updates of 1,000 rows, then ten times as many; recovers each from the same checkpoint and backup."""
    source = Server(bench.work / "hot", bench.bin)
    bench.servers.append(source)
    backrest = PgBackRest(source.folder, source)
    source.settings |= {"archive_mode": "on", "archive_command": backrest.archive_command}
    source.init()
    source.start()
    source.sql("CREATE DATABASE bench")
    bench.make_accounts(source, 1)
    source.sql(PROCEDURE, "bench")
    backrest.run("stanza-create")
    backrest.run("backup", "--type=full")
    history = bench.work / "history.hot"
    bench.run_backwhen("init", "--source", source.conninfo(), history=history)
    target = bench.target()
    done = 0
    for name, updates, times in [("hot", UPDATES, runs), ("hot_long", 10 * UPDATES, 1)]:
        step(f"{updates} updates of 1000 rows")
        source.sql(f"CALL change({updates - done})", "bench", options="-c synchronous_commit=off")
        done = updates
        capture = bench.run_backwhen(
            "capture", "--until", "caught-up", "--source", source.conninfo(), history=history
        )
        backrest.archived()
        rows = source.fingerprint()
        ours, replay = Series(f"backwhen recover ({name})"), Series("pgBackRest")
        for _ in range(times):
            ours.add(bench.recover_into(target, "latest", rows, history))
            replay.add(bench.replay(backrest, ["--type=default"], rows))
        figures = {**bench.pair(ours, replay), "updates": updates, "phases": bench.phases_of(ours)}
        bench.figures[name] = {**figures, "capture_seconds": capture.seconds, "capture_peak_bytes": capture.peak_bytes}
        bench.record()
    source.remove()
