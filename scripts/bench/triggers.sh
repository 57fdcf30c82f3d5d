#!/usr/bin/env bash
# Measures the cost of the event triggers for a migration of 300 small statements on 500 empty tables, with and without
# triggers in turns: the CPU time of the backend, and the time that the user waits. The script starts its own server in
# a temporary folder, with fsync on, as is the default.
#
#   scripts/bench/triggers.sh BIN_DIR [BACKWHEN]    BIN_DIR: the folder of postgres, initdb and pg_dump
#
# RUNS: how often each variant runs. Needs Linux and psql. As root it starts the server as USER_OF_SERVER (postgres).
set -euo pipefail

bin=$1
backwhen=$(realpath "${2:-target/release/backwhen}")
runs=${RUNS:-5}
folder=$(mktemp -d)
as=()
if [ "$(id -u)" = 0 ]; then
    chown "${USER_OF_SERVER:-postgres}" "$folder"
    as=(runuser -u "${USER_OF_SERVER:-postgres}" --)
fi
in_folder() { (cd "$folder" && "${as[@]}" "$@"); }
sql() { psql -X -q -At -v ON_ERROR_STOP=1 -h "$folder" -p 6543 -U postgres "$@"; }
cleanup() {
    in_folder "$bin/pg_ctl" -D "$folder/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$folder"
}
trap cleanup EXIT

in_folder "$bin/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 --locale=C >/dev/null
in_folder "$bin/pg_ctl" -D "$folder/data" -l "$folder/log" -w start -o "-p 6543 -k $folder \
    -c listen_addresses= -c wal_level=logical -c autovacuum=off" >/dev/null

for i in $(seq 500); do
    echo "CREATE TABLE t$i (id serial PRIMARY KEY, a text NOT NULL, b int DEFAULT 5, c timestamptz DEFAULT now(),
        d numeric(10, 2), e jsonb, f bool DEFAULT false, g text, h int); CREATE INDEX ON t$i (a);"
done >"$folder/schema.sql"
for i in $(seq 10 10 300); do
    cat <<SQL
CREATE TABLE n$i (id serial PRIMARY KEY, x text, y int REFERENCES t$i (id));
ALTER TABLE t$((i + 1)) ADD COLUMN z int;
ALTER TABLE t$((i + 2)) ADD COLUMN w text DEFAULT 'x';
CREATE INDEX ON t$((i + 3)) (h);
ALTER TABLE t$((i + 4)) ALTER COLUMN g SET NOT NULL;
CREATE VIEW v$i AS SELECT id, a FROM t$((i + 5));
CREATE FUNCTION f$i() RETURNS int LANGUAGE sql AS 'SELECT 1';
COMMENT ON TABLE t$((i + 6)) IS 'x';
ALTER TABLE t$((i + 7)) ADD CONSTRAINT k$i CHECK (h > 0);
DROP VIEW v$i;
SQL
done >"$folder/each.sql"
{ echo 'BEGIN;'; cat "$folder/each.sql"; echo 'COMMIT;'; } >"$folder/one.sql"

sql postgres -c 'CREATE DATABASE plain'
sql plain -f "$folder/schema.sql"
sql postgres -c 'CREATE DATABASE traced TEMPLATE plain'
BACKWHEN_PG_BIN=$bin "$backwhen" init --history "$folder/history" --no-progress \
    --source "host=$folder port=6543 user=postgres dbname=traced" >/dev/null
sql traced -c 'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots' >/dev/null

# If no event trigger were installed, the comparison would say that event triggers cost nothing.
if [ "$(sql traced -c "SELECT count(*) FROM pg_event_trigger WHERE evtname LIKE '!backwhen%'")" -lt 4 ]; then
    echo "$backwhen installed no event triggers" >&2
    exit 1
fi

look="SELECT split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)::bigint AS spent,
    extract(epoch FROM clock_timestamp()) * 1000 AS clock \\gset"
for how in one each; do
    for _ in $(seq "$runs"); do
        for which in plain traced; do
            sql postgres -c 'DROP DATABASE IF EXISTS run' -c "CREATE DATABASE run TEMPLATE $which" -c CHECKPOINT 2>/dev/null
            { echo "$look"; echo '\set spent_before :spent'; echo '\set clock_before :clock'; cat "$folder/$how.sql"
              echo "$look"; echo "SELECT '$how', '$which', (:spent - :spent_before) / 1000000, (:clock - :clock_before)::int;"; } | sql run
        done
    done
done | awk -F'|' '
    { cpu[$1 " " $2] = cpu[$1 " " $2] " " $3; wall[$1 " " $2] = wall[$1 " " $2] " " $4
      cpu_sum[$1, $2] += $3; wall_sum[$1, $2] += $4 }
    END {
        for (k in cpu) { print k ", CPU:" cpu[k] " ms"; print k ", waited:" wall[k] " ms" }
        printf "CPU: one transaction %.2f times, each its own %.2f times\n",
            cpu_sum["one", "traced"] / cpu_sum["one", "plain"], cpu_sum["each", "traced"] / cpu_sum["each", "plain"]
        printf "waited: one transaction %.2f times, each its own %.2f times\n",
            wall_sum["one", "traced"] / wall_sum["one", "plain"], wall_sum["each", "traced"] / wall_sum["each", "plain"]
    }'
