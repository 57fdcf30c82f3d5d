#!/usr/bin/env bash
# Random loads, one seed after the other, for so many minutes. The first that fails ends it; its
# seed is in the output.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${1:-60}
rounds=${BACKWHEN_RANDOM_ROUNDS:-20}
ends=$(($(date +%s) + minutes * 60))

cargo test --test random --no-run
count=0
while [ "$(date +%s)" -lt "$ends" ]; do
    seed=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
    echo "seed $seed, $rounds rounds"
    BACKWHEN_TEST_SEED=$seed BACKWHEN_RANDOM_ROUNDS=$rounds \
        cargo test --quiet --test random -- every_remembered_moment_comes_back
    count=$((count + 1))
done
echo "$count seeds, no fault"
