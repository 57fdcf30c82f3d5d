#!/usr/bin/env bash
# Runs for the given number of minutes. In the first half it kills processes at random times and at failpoints, cuts the
# power, and compares the history with the truth, for an eighth each: a history alone, an encrypted one, one with a copy in an
# object store that fails, and an encrypted one with a copy over four stores that fail. From the copies the folder is made
# again at times. In the second half it runs random loads, one seed after the other. The first fault ends the run, and its seed
# is in the output. SEED repeats the kills of one seed.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${1:-60}
rounds=${BACKWHEN_RANDOM_ROUNDS:-20}
ends=$(($(date +%s) + minutes * 60))
seed=${SEED:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}

cargo test --test servers --no-run
for kills in random_kills_lose random_kills_of_an_encrypted random_kills_with_a_copy random_kills_with_an_encrypted; do
    seconds=$((minutes * 60 / 8))
    echo "seed $seed: $kills for $seconds seconds"
    BACKWHEN_TEST_SEED=$seed BACKWHEN_SOAK_SECONDS=$seconds \
        cargo test --quiet --test servers -- --nocapture "$kills"
done

count=0
while [ "$(date +%s)" -lt "$ends" ]; do
    seed=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
    echo "seed $seed, $rounds rounds"
    BACKWHEN_TEST_SEED=$seed BACKWHEN_RANDOM_ROUNDS=$rounds \
        cargo test --quiet --test servers -- every_remembered_moment_comes_back
    BACKWHEN_TEST_SEED=$seed cargo test --quiet --test servers definitions::
    BACKWHEN_TEST_SEED=$seed cargo test --quiet --test servers migrations::
    count=$((count + 1))
done
echo "$count seeds, no fault"
