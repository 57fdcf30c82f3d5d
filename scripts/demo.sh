#!/usr/bin/env bash
# A shop loses all its orders in the middle of its traffic, and gets them back. The demo runs on a throw-away server in
# a temporary folder, takes less than a minute, and leaves nothing behind, even after Ctrl-C.
#
#   make demo        or: BACKWHEN=target/debug/backwhen scripts/demo.sh
set -euo pipefail
cd "$(dirname "$0")/.."

BACKWHEN=$(realpath "${BACKWHEN:-target/release/backwhen}")
TABLES="customers products orders order_items payments"
if [ -t 1 ]; then BOLD=$'\e[1m' GREEN=$'\e[32m' RED=$'\e[31m' DIM=$'\e[2m' PLAIN=$'\e[0m'
else BOLD="" GREEN="" RED="" DIM="" PLAIN=""; fi

step() { printf '\n%s# %s%s\n' "$BOLD" "$*" "$PLAIN"; }
note() { printf '%s  %s%s\n' "$DIM" "$*" "$PLAIN"; }
die() { printf '%sdemo: %s%s\n' "$RED" "$*" "$PLAIN" >&2; exit 1; }

[ -x "$BACKWHEN" ] || die "$BACKWHEN is not built: cargo build --release"

# ---- a server of our own -------------------------------------------------------------------------------
find_bin() {
    local dir found=""
    for dir in "${BACKWHEN_PG_CACHE:-/var/cache/backwhen}"/postgresql-*/bin /usr/pgsql-*/bin \
        /usr/lib/postgresql/*/bin "$(dirname "$(command -v postgres || echo /nowhere/x)")"; do
        [ -x "$dir/postgres" ] && [ -x "$dir/pgbench" ] && found=$dir
    done
    [ -n "$found" ] || die "no PostgreSQL server with pgbench found: scripts/setup.sh"
    echo "$found"
}

# PostgreSQL refuses to run as root.
as_server() {
    if [ "$(id -u)" = 0 ]; then setpriv --reuid="$ACCOUNT" --regid="$ACCOUNT_GROUP" --clear-groups "$@"; else "$@"; fi
}

clean_up() {
    local code=$?
    trap - EXIT INT TERM
    [ -z "${TRAFFIC:-}" ] || kill "$TRAFFIC" 2>/dev/null || true
    [ -z "${CAPTURE:-}" ] || kill -9 "$CAPTURE" 2>/dev/null || true
    [ -z "${SERVER:-}" ] || kill -QUIT "$SERVER" 2>/dev/null || true
    wait 2>/dev/null || true
    [ "$code" = 0 ] || [ -z "${WORK:-}" ] || tail -n 20 "$WORK"/capture.log >&2 2>/dev/null || true
    [ -z "${WORK:-}" ] || rm -rf "$WORK"
    exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

BIN=$(find_bin)
export PATH="$BIN:$PATH" LC_ALL=C
ACCOUNT=$(getent passwd postgres >/dev/null && echo postgres || echo nobody)
ACCOUNT_GROUP=$(id -g "$ACCOUNT" 2>/dev/null || echo 0)
WORK=$(mktemp -d /tmp/backwhen-demo.XXXXXX)
chmod 755 "$WORK"
mkdir "$WORK/server"
[ "$(id -u)" != 0 ] || chown "$ACCOUNT:$ACCOUNT_GROUP" "$WORK/server"
# libpq's own variables say where the server is, for psql, pgbench and backwhen alike.
unset "${!PG@}"
export PGHOST="$WORK/server" PGPORT=54329 PGUSER=postgres BACKWHEN_HISTORY="$WORK/history"

start_server() {
    local settings="listen_addresses= unix_socket_directories=$PGHOST port=$PGPORT wal_level=logical fsync=off
        shared_buffers=64MB log_statement=mod log_timezone=UTC log_line_prefix=%m[%p]_"
    as_server initdb -D "$WORK/server/data" -U postgres -A trust -E UTF8 --no-sync >"$WORK/server.log"
    # shellcheck disable=SC2046,SC2086  # one word, one setting
    as_server postgres -D "$WORK/server/data" $(printf -- '-c %s ' $settings) >>"$WORK/server.log" 2>&1 </dev/null &
    for _ in $(seq 100); do
        # This is the server's own process id; $! would be the id of the shell around it.
        SERVER=$(head -n 1 "$WORK/server/data/postmaster.pid" 2>/dev/null || true)
        pg_isready -q && return 0
        sleep 0.1
    done
    cat "$WORK/server.log" >&2
    die "the server does not start"
}

# ---- what a user types ---------------------------------------------------------------------------------
quoted() {
    local word
    for word in "$@"; do
        case $word in *[!a-zA-Z0-9_./:=@-]*) printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac
    done
}
show() { printf '%s$ backwhen%s%s\n' "$GREEN" "$(quoted "$@")" "$PLAIN"; }
backwhen() {
    show "$@"
    "$BACKWHEN" "$@" || die "backwhen $1 failed with exit code $?"
}
sql() { psql -XqAt -v ON_ERROR_STOP=1 -d "$1" -c "$2"; }

# ---- the shop ------------------------------------------------------------------------------------------
make_shop() {
    createdb shop
    psql -Xq -v ON_ERROR_STOP=1 -v customers=2000 -v orders=20000 -d shop -f scripts/shop.sql
    # Every transaction touches orders first, so that a lock on orders stops the whole traffic.
    cat >"$WORK/traffic.sql" <<'SQL'
\set customer random(1, 2000)
\set product random(1, 300)
BEGIN;
INSERT INTO orders (customer_id) VALUES (:customer) RETURNING id AS number \gset
INSERT INTO order_items SELECT :number, id, 1, price FROM products WHERE id = :product;
INSERT INTO payments (order_id, amount) SELECT :number, price FROM products WHERE id = :product;
UPDATE products SET stock = stock - 1 WHERE id = :product;
UPDATE orders SET status = 'paid' WHERE id = :number;
COMMIT;
SQL
}

start_traffic() {
    pgbench -n -c 4 -R 300 -T 600 -f "$WORK/traffic.sql" shop >"$WORK/traffic.log" 2>&1 </dev/null &
    TRAFFIC=$!
}

stop_traffic() {
    # SIGTERM, because a shell without job control lets its background processes ignore SIGINT.
    kill -TERM "$TRAFFIC" 2>/dev/null || true
    wait "$TRAFFIC" 2>/dev/null || true
    TRAFFIC=""
    ! grep -i error "$WORK/traffic.log" || die "the traffic met an error"
}

start_capture() {
    show capture
    "$BACKWHEN" capture >"$WORK/capture.log" 2>&1 </dev/null &
    CAPTURE=$!
    sleep 1
    kill -0 "$CAPTURE" 2>/dev/null || die "capture ended: $(cat "$WORK/capture.log")"
}

stop_capture() {
    kill -TERM "$CAPTURE"
    wait "$CAPTURE" || die "capture did not end cleanly: $(cat "$WORK/capture.log")"
    CAPTURE=""
}

# Only for the proof, the traffic is stopped while pg_dump writes down the true state. The mistake follows before the
# lock is released, so that nothing is committed between the two.
make_mistake() {
    psql -Xq -v ON_ERROR_STOP=1 -d shop <<SQL
BEGIN;
LOCK TABLE orders, order_items, payments, products, customers IN EXCLUSIVE MODE;
\! pg_dump --no-publications --exclude-schema=backwhen shop >'$WORK/truth.sql'
DELETE FROM orders;
COMMIT;
SQL
}

# 2026-11-22 13:05:11.123 UTC[4711]_LOG:  statement: DELETE FROM orders;  →  2026-11-22T13:05:11.123Z
moment_from_log() {
    sed -n 's/^\([-0-9]*\) \([0-9:.]*\) UTC\[.*statement: DELETE FROM orders.*/\1T\2Z/p' "$WORK/server.log" | tail -n 1
}

# ---- the proof -----------------------------------------------------------------------------------------
rows_of() { awk -v begin="COPY public.$2 (" 'index($0, begin) == 1 { on = 1; next } $0 == "\\." { on = 0 } on' "$1"; }
digest() { rows_of "$1" "$2" | sort | sha256sum | cut -c 1-24; }

# Keeps the statements that make the schema: no rows, comments or settings, and nothing that backwhen added.
schema_of() {
    awk '/^COPY /{ on = 1 } !on { print } $0 == "\\." { on = 0 }' "$1" | grep -v -E '^(--|SET |SELECT pg_catalog\.|\\(un)?restrict )' |
        awk -v RS= -v ORS='\n\n' '!/backwhen/' | sort
}

prove() {
    local database=$1 truth=$2 table wanted found wrong=0
    pg_dump --no-publications --exclude-schema=backwhen "$database" >"$WORK/recovered.sql"
    printf '  %-12s %8s   %-24s   %-24s\n' table rows "the truth" "$database"
    for table in $TABLES; do
        wanted=$(digest "$truth" "$table") found=$(digest "$WORK/recovered.sql" "$table")
        [ "$wanted" = "$found" ] || wrong=1
        printf '  %-12s %8d   %s   %s%s%s\n' "$table" "$(rows_of "$truth" "$table" | wc -l)" "$wanted" \
            "$([ "$wanted" = "$found" ] && echo "$GREEN" || echo "$RED")" "$found" "$PLAIN"
    done
    [ "$wrong" = 0 ] || die "$database is not what the shop was"
    diff <(schema_of "$truth") <(schema_of "$WORK/recovered.sql") || die "the schema of $database differs"
    note "schema: the same, statement by statement"
}

figures() {
    sql "$1" "SELECT format('%s orders, %s paid', (SELECT count(*) FROM orders), (SELECT coalesce(sum(amount), 0) FROM payments))"
}

# What was ordered is what was paid, order by order.
balanced() {
    local wrong
    wrong=$(sql shop "SELECT count(*) FROM orders o
        WHERE (SELECT sum(amount) FROM payments WHERE order_id = o.id)
              IS DISTINCT FROM (SELECT sum(quantity * price) FROM order_items WHERE order_id = o.id)")
    [ "$wrong" = 0 ] || die "$wrong orders are not paid as they were ordered"
    note "the books balance: every order is paid as it was ordered"
}

# ---- the story -----------------------------------------------------------------------------------------
BEGAN=$(date +%s)
step "A shop on PostgreSQL $(postgres --version | sed 's/.*) //'), and a history beside it"
start_server
make_shop
note "the shop: $(figures shop)"
backwhen init --source dbname=shop
start_capture

step "Customers order, several hundred times a second; a checkpoint is folded meanwhile"
start_traffic
sleep 4
backwhen checkpoint --label "before lunch"
sleep 2
note "the shop: $(figures shop)"

step "Somebody forgets the WHERE:  DELETE FROM orders;"
make_mistake
sleep 2
note "the shop: $(figures shop), and customers go on ordering"
MOMENT=$(moment_from_log)
[ -n "$MOMENT" ] || die "the DELETE is not in the server's log"
note "the server's log has it:  $(grep 'statement: DELETE FROM orders' "$WORK/server.log" | tail -n 1 | tr '_' ' ')"

step "Back to when it was right, into a new database, while the shop stays open"
backwhen status
backwhen recover --to "$MOMENT" --create --into dbname=rescued
note "rescued: $(figures rescued)"
prove rescued "$WORK/truth.sql"

step "Or only look: SQL on the past, of which no more is loaded than the statement touches"
backwhen query --at "$MOMENT" 'SELECT count(*) AS orders, max(id) AS newest FROM orders'

step "Or open at once: the structure first, and the rows of a table when somebody asks for it"
# The shop is small, so that its tables count as large here.
BACKWHEN_TEST_GATE_ABOVE=0 backwhen recover --to "$MOMENT" --on-demand --first customers --create --into dbname=at_once &
until psql -XAtq -d at_once -c 'SELECT' 2>/dev/null; do kill -0 $! || die "the recovery on demand failed"; sleep 0.05; done
note "it answers while it is being loaded: $(psql -XAtq -d at_once -c 'SELECT count(*) FROM orders') orders"
wait $!
prove at_once "$WORK/truth.sql"

step "Which transaction was it? The history knows, and what it did"
backwhen log --since "$MOMENT" --table orders --op delete --largest --limit 1
MISTAKE=$("$BACKWHEN" log --since "$MOMENT" --table orders --op delete --largest --limit 1 --output json |
    sed -n 's/.*"xid":\([0-9]*\).*/\1/p')
backwhen show "xid:$MISTAKE" --table orders | sed -n '1,9p; $p'

step "Take just that one back, in place, while customers go on ordering"
backwhen undo "xid:$MISTAKE" --source dbname=shop
backwhen undo "xid:$MISTAKE" --source dbname=shop --apply
note "the shop: $(figures shop)"
balanced

step "And nothing since was missed: the latest moment equals the shop once its traffic rests"
stop_traffic
stop_capture
backwhen capture --until caught-up
pg_dump --no-publications --exclude-schema=backwhen shop >"$WORK/live.sql"
backwhen recover --to latest --create --into dbname=today
prove today "$WORK/live.sql"
backwhen verify
printf '\n%sBrought back and proved, row by row, in %s seconds.%s\n' "$BOLD$GREEN" "$(($(date +%s) - BEGAN))" "$PLAIN"
