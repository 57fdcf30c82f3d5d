#!/bin/sh
# Puts a test database back between tests. docs/testing.md shows it in a CI job.
#
#   BACKWHEN_SOURCE   connection string of the test database (a role that may create databases and event triggers)
#   BACKWHEN_HISTORY  a folder that does not exist yet
#
#   test-database.sh begin   once, after the schema was made and the seed data loaded
#   test-database.sh reset   between tests
#   test-database.sh end     once; nothing of backwhen stays in the database
set -eu
: "${BACKWHEN_SOURCE:?names the test database}" "${BACKWHEN_HISTORY:?names a folder}"
backwhen=${BACKWHEN:-backwhen}

begin() {
    "$backwhen" init --full-identity --quiet >/dev/null
    "$backwhen" capture --quiet >"$BACKWHEN_HISTORY.log" 2>&1 &
    echo $! >"$BACKWHEN_HISTORY.pid"
    tries=0
    until "$backwhen" status --output json | grep -q '"state": *"streaming"'; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || { cat "$BACKWHEN_HISTORY.log" >&2; exit 1; }
        sleep 0.1
    done
    "$backwhen" mark seeded --quiet >/dev/null
}

end() {
    kill "$(cat "$BACKWHEN_HISTORY.pid")" || true
    "$backwhen" drop --quiet --wait 30s >/dev/null
    rm -rf "$BACKWHEN_HISTORY" "$BACKWHEN_HISTORY.pid" "$BACKWHEN_HISTORY.log"
}

# Only a test that drops or changes tables of the seeded schema leads here: the database is recovered under another
# name, and takes the place of the old one.
anew() {
    name=$(psql -XAtqc 'SELECT current_database()' "$BACKWHEN_SOURCE")
    "$backwhen" recover --to mark:seeded --create --into "$BACKWHEN_SOURCE dbname=${name}_anew" --quiet >/dev/null
    end
    psql -XAtq -v ON_ERROR_STOP=1 -v name="$name" -v anew="${name}_anew" "$BACKWHEN_SOURCE dbname=postgres" >/dev/null <<'SQL'
DROP DATABASE :"name" WITH (FORCE);
ALTER DATABASE :"anew" RENAME TO :"name";
SQL
    begin
    echo "$name was recovered anew" >&2
}

reset() {
    code=0
    "$backwhen" rewind --to mark:seeded --reset --apply --quiet >/dev/null || code=$?
    case $code in
    0) ;;
    14) anew ;;
    *) exit "$code" ;;
    esac
}

case ${1-} in
begin | reset | end) "$1" ;;
*) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
