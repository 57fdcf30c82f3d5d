#!/usr/bin/env bash
# Runs a command with a folder of its own for temporary files, in memory where there is room, and names the files and
# folders that the command leaves there. Some are left by intent: tests kill recoveries, and a killed process cannot
# remove its temporary folder.
#
#   scripts/in_scratch.sh cargo test
#   TMPDIR=/var/tmp scripts/in_scratch.sh cargo test     the same on a disk
set -euo pipefail

# Kilobytes that are free in memory; a machine with less uses its disk.
ROOM=4194304

parent=${TMPDIR:-/tmp}
free=$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1 || echo 0)
if [ -z "${TMPDIR:-}" ] && [ "$free" -ge "$ROOM" ]; then parent=/dev/shm; fi
# The name is short, since a socket's path has 107 bytes at most; servers run as other users.
folder=$(mktemp -d "$parent/bw.XXXXXX")
chmod 1777 "$folder"
trap 'rm -rf "$folder"' EXIT

TMPDIR=$folder "$@"

# The servers that the tests of a subject share end, and their folders go, after the program of the tests.
for _ in $(seq 25); do
    left=$(ls -A "$folder")
    if [ -z "$left" ]; then exit 0; fi
    sleep 0.2
done
printf 'in_scratch: %s left in the temporary folder:\n%s\n' "$1" "$left" >&2
