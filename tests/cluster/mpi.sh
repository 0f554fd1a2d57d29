#!/usr/bin/env bash
# Trains with two and three processes of MPI, and requires the same bits as with one process: SFT, OREO, and a job of which one process
# was killed and which the same command resumed.
#
#   tests/cluster/mpi.sh HEARTH        HEARTH: a binary built with --features mpi; needs mpirun
set -euo pipefail
hearth=$(realpath "${1:?missing argument: a binary built with --features mpi}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
# Open MPI wants this if it runs as root, or with more processes than cores.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
ranks() { mpirun --oversubscribe -n "$@"; }

job() { # NAME UPDATES ALGORITHM
    cat >"$1.toml" <<TOML
name = "$1"
from = "fresh"
data = ["demonstrations"]
optimizer = { batch = 8, updates = $2, learning_rate = 1e-3 }
algorithm = $3
TOML
}
same() { # FOLDER FOLDER
    local count=0 file
    while read -r file; do
        cmp "$1/$file" "$2/$file"
        count=$((count + 1))
    done < <(cd "$1" && find . -name '*.safetensors' -not -path './checkpoint/*' | sort)
    [ "$count" -gt 0 ]
    echo "$2: $count files of weights are equal"
}

"$hearth" scenarios generate games --size small --train 8 --seen 1 --unseen 1 >/dev/null
"$hearth" collect --policy expert --suite games --repetitions 2 --out won.jsonl >/dev/null
job sft 6 '{ kind = "sft", targets = "actions" }'
"$hearth" train sft.toml --data won.jsonl --out sft-1 >/dev/null
for count in 2 3; do
    ranks $count "$hearth" train sft.toml --data won.jsonl --out sft-$count >/dev/null
    same sft-1 sft-$count
done

# A checkpoint is written every 100 updates. The second process is killed after it.
job long 240 '{ kind = "sft", targets = "actions" }'
"$hearth" train long.toml --data won.jsonl --out long-1 >/dev/null
ranks 2 "$hearth" train long.toml --data won.jsonl --out long-2 >/dev/null 2>killed.log &
launcher=$!
until [ -e long-2/checkpoint/position.json ]; do sleep 0.2; kill -0 $launcher; done
pkill -KILL -n -f "^$hearth train long.toml"
status=0
wait $launcher || status=$?
[ $status -ne 0 ] || { echo "error: the job went on without its second process" >&2; exit 1; }
! pgrep -f "^$hearth train long.toml" >/dev/null || { echo "error: a process is left" >&2; exit 1; }
[ ! -e long-2/model.safetensors ] || { echo "error: the job had ended before the kill" >&2; exit 1; }
echo "one of two processes was killed; mpirun ended with $status and said:"
grep -m 1 "signal 9" killed.log
ranks 2 "$hearth" train long.toml --data won.jsonl --out long-2 >/dev/null
same long-1 long-2

# Episodes of a policy that wins some games.
"$hearth" collect --policy long-1 --suite games --repetitions 4 --turns 30 --temperature 1 --out sampled.jsonl >/dev/null
job oreo 6 '{ kind = "oreo", level = "turn", beta = 0.1, alpha = 0.01, value_learning_rate = 1e-3, critic_only_share = 0.0 }'
sed -i 's/^from = .*/from = "collector"/; s/"demonstrations"/"rollouts"/' oreo.toml
for count in 1 2; do
    ranks $count "$hearth" train oreo.toml --data sampled.jsonl --from long-1 --out oreo-$count >/dev/null
done
same oreo-1 oreo-2

# Processes with different arguments are not one job.
status=0
mpirun --oversubscribe -n 1 "$hearth" train sft.toml --data won.jsonl --out other : \
    -n 1 "$hearth" train sft.toml --data won.jsonl --out other --seed 2 >/dev/null 2>refused.log || status=$?
[ $status -ne 0 ]
grep -m 1 "start all processes with the same arguments" refused.log
