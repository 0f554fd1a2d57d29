#!/usr/bin/env bash
# Measures one process on one core and two processes on a core each: a loop as one process and as two shards, rollouts alone,
# and training alone over MPI if the binary has the feature `mpi` and mpirun is there. Prints CSV. Nothing else may run.
#
#   results/cluster/scaling.sh [HEARTH]
set -euo pipefail
hearth=$(realpath "${1:-target/release/hearth}")
here=$(cd "$(dirname "$0")" && pwd)
work=${WORK:-$(mktemp -d)}
cd "$work"
echo "work folder: $work" >&2

# Seconds of a command, whose output is kept in log.txt.
timed() {
    local start end
    start=$(date +%s.%N)
    "$@" >> log.txt 2>&1
    end=$(date +%s.%N)
    python3 -c "print(f'{$end - $start:.1f}')"
}
# Runs the same command as two shards at once, on a core each; `SHARD` in an argument becomes the shard.
shards() {
    taskset -c 1 "${@//SHARD/1/2}" & local other=$!
    taskset -c 0 "${@//SHARD/0/2}"
    wait $other
}

echo "what,processes,seconds"
rm -rf one two
echo "loop,1,$(timed taskset -c 0 "$hearth" loop "$here/recipe.toml" --out one)"
echo "loop,2,$(timed shards "$hearth" loop "$here/recipe.toml" --out two --shard SHARD --wait 3600)"
cmp one/eval.csv two/eval.csv && echo "the tables are equal" >&2

for n in 1 2; do rm -f "rollouts-$n"*; done
collect=("$hearth" collect --policy one/1/oreo --suite one/games --split train --temperature 1 --turns 20)
echo "rollouts,1,$(timed taskset -c 0 "${collect[@]}" --out rollouts-1.jsonl)"
echo "rollouts,2,$(timed shards "${collect[@]}" --out rollouts-2.jsonl --shard SHARD)"

if command -v mpirun > /dev/null && "$hearth" train --help | grep -q -- --mpi; then
    cat > oreo.toml <<'TOML'
name = "oreo"
from = "collector"
data = ["rollouts"]
[algorithm]
kind = "oreo"
level = "turn"
beta = 0.1
alpha = 0.01
value_learning_rate = 5e-4
critic_only_share = 0.15
[optimizer]
batch = 16
epochs = 1
learning_rate = 1e-4
TOML
    for n in 1 2; do
        rm -rf "train-$n"
        job=("$hearth" train oreo.toml --data one/1/rollouts.jsonl --from one/1/sft --out "train-$n")
        [ $n = 1 ] && echo "oreo,1,$(timed taskset -c 0 "${job[@]}")"
        [ $n = 2 ] && echo "oreo,2,$(timed mpirun --allow-run-as-root --bind-to core -n 2 "${job[@]}")"
    done
    cmp train-1/model.safetensors train-2/model.safetensors && echo "the weights are equal" >&2
fi
