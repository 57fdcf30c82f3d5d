"""Measures whole recoveries against pg_restore of a dump of the same state: a shop with foreign keys, many small tables."""

import json
import shutil
from pathlib import Path

from measure import Series, run, sizes, step

ORDERS = sizes("ORDERS", 125_000)
TABLES = sizes("TABLES", 1_000)

# The demo's shop, with the numbers of rows in place of psql's variables.
SHOP = (Path(__file__).parent.parent / "shop.sql").read_text()
SHOP = SHOP.replace(":customers", str(ORDERS // 10)).replace(":orders", str(ORDERS))

MANY = f"""
DO $$ BEGIN FOR n IN 1 .. {TABLES} LOOP
    EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, name text NOT NULL, v numeric, at timestamptz)', n);
    EXECUTE format('INSERT INTO t%s SELECT g, ''name '' || g, g * 1.5, now() FROM generate_series(1, 100) g', n);
    IF n % 100 = 0 THEN COMMIT; END IF;
END LOOP; END $$
"""

# Digests of the tables' rows, of their constraints and of their indexes.
CONTENTS = """
SELECT md5(string_agg(c.relname || ' ' || (xpath('/row/h/text()', query_to_xml(format(
           'SELECT count(*) || '':'' || coalesce(sum(hashtextextended(t::text, 0)), 0) AS h FROM %I t', c.relname),
           true, true, '')))[1], ',' ORDER BY c.relname)),
       (SELECT md5(string_agg(conname || convalidated || pg_get_constraintdef(oid), ',' ORDER BY conrelid::regclass::text, conname))
          FROM pg_constraint WHERE connamespace = 'public'::regnamespace),
       (SELECT md5(string_agg(indexdef, ',' ORDER BY indexdef)) FROM pg_indexes WHERE schemaname = 'public')
  FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
"""


def loading(bench, runs):
    """Recovers both databases into an empty one, in turn with pg_restore."""
    source = bench.own_server("loading")
    for name, schema in [("shop", SHOP), ("many", MANY)]:
        step(f"recovery of {name}, in turn with pg_restore -j2")
        source.sql(f"CREATE DATABASE {name}")
        source.sql(schema, name)
        history, dump = bench.work / f"history.{name}", bench.work / f"dump.{name}"
        bench.run_backwhen("init", "--source", source.conninfo(name), history=history)
        run([bench.bin / "pg_dump", "-Fd", "-j2", "-f", dump, source.conninfo(name)])
        ours, theirs = Series(f"backwhen recover ({name})"), Series("pg_restore -j2")
        for _ in range(runs):
            into = ["--to", "latest", "--jobs", "2", "--into"]
            command = lambda target: bench.command("recover", *into, target, history=history)
            ours.add(timed(bench, source, name, command))
            theirs.add(timed(bench, source, name, lambda target: [bench.bin / "pg_restore", "-j2", "-d", target, dump]))
        phases = json.loads(ours.runs[-1].output.splitlines()[-1])["phases"]
        bench.figures[f"loading_{name}"] = {**bench.pair(ours, theirs), "phases": phases}
        bench.record()
        shutil.rmtree(dump)
    source.remove()


def timed(bench, source, name, command):
    """Runs a command that fills an empty database, and compares the schema and the rows with the source's.

    The database stays until the servers are removed: ext4 without a journal makes no file in the place of one that was deleted
    within the last minutes, and looks at each such place for each new file. So a thousand tables that were dropped would make
    the next ones slower.
    """
    target = bench.target()
    filled = f"filled_{target.sql('SELECT count(*) FROM pg_database')}"
    target.sql(f"CREATE DATABASE {filled}")
    target.sql("CHECKPOINT")
    done = run(command(target.conninfo(filled)), bench.environment)
    bench.same(target.sql(CONTENTS, filled), source.sql(CONTENTS, name), str(command("")[0]))
    return done
