#!/bin/sh
# Reproduces everything in this folder: HEARTH=hearth GAMES=FOLDER results/reading/remake.sh RUNS [SEEDS [VARIANTS]].
# GAMES is a folder in ALFWorld's layout, text 2.1.3. No test split is played. If the script is interrupted, the same command
# continues. JOBS runs (default 2) are trained at once, each on one thread.
set -eu
hearth=${HEARTH:-hearth} here=$(cd "$(dirname "$0")" && pwd) runs=${1:?missing argument: the folder for the runs}
seeds=${2:-1 2 3 4 5 6}
variants=${3:-plain match conv ngram conv-ngram conv-match conv-match-ngram a-match c-match b-match d-match abcd-match width2-match width8-match small-batch muon small-init born-heads short-first}
games=$(cd "${GAMES:?must be a folder in the layout of ALFWorld}" && pwd)
mkdir -p "$runs"

# What each variant adds to [model].
addition() {
    case $1 in
    plain | small-batch | muon | short-first) ;;
    small-init) echo 'initial_exponent = 0.8' ;;
    born-heads) echo 'initial_heads = true' ;;
    match) echo 'goal_match = true' ;;
    conv) convolution 4 '"attention_input", "mlp_input"' ;;
    ngram) echo 'ngram_embedding = [1]' ;;
    conv-ngram) addition conv && addition ngram ;;
    conv-match) addition conv && addition match ;;
    conv-match-ngram) addition conv-match && addition ngram ;;
    a-match) convolution 4 '"attention_input"' && addition match ;;
    b-match) convolution 4 '"query_key_value"' && addition match ;;
    c-match) convolution 4 '"mlp_input"' && addition match ;;
    d-match) convolution 4 '"gate_up"' && addition match ;;
    abcd-match) convolution 4 '"attention_input", "query_key_value", "mlp_input", "gate_up"' && addition match ;;
    width2-match) convolution 2 '"attention_input", "mlp_input"' && addition match ;;
    width8-match) convolution 8 '"attention_input", "mlp_input"' && addition match ;;
    *) echo "unknown variant $1" >&2 && exit 2 ;;
    esac
}
convolution() { echo "convolution = { width = $1, places = [$2] }"; }

# Makes the job of a variant that changes it: changed_job VARIANT EXPRESSIONS of sed.
changed_job() {
    job="$runs/$1.job.toml"
    shift
    sed "$@" "$here/sft.toml" >"$job"
}

# Trains one variant with one seed, reads its reading score, and plays valid_train.
run() {
    out="$runs/$1-$2"
    [ -e "$out/done" ] && return
    addition "$1" >"$out.addition"
    sed -e "s|^path = .*|path = \"$games\"|" -e "/^# VARIANT/r $out.addition" "$here/base.toml" >"$out.toml"
    job="$here/sft.toml"
    case $1 in
    small-batch)
        # A quarter of the tokens in an update, and four times as many updates.
        changed_job "$1" -e 's/batch = 8, updates = 1200/batch = 2, updates = 4800/' -e 's/reading_every = 100/reading_every = 400/' ;;
    muon) changed_job "$1" -e 's/optimizer = { /optimizer = { kind = "muon", /' ;;
    short-first) changed_job "$1" -e 's/^reading_every/short_first = 0.25\nreading_every/' ;;
    esac
    "$hearth" train --model "$out.toml" --data "$runs/demonstrations.jsonl" --reading-suite "$games" --seed "$2" --out "$out" "$job"
    "$hearth" reading --policy "$out" --suite "$games" --out "$out/reading.csv"
    "$hearth" eval --policy "$out" --suite "$games" --split valid_train --turns 40 --completion 12 --best-of 1 --out "$out/eval"
    touch "$out/done"
}

if [ "${RUN:-}" ]; then
    # One run of the pool below.
    # shellcheck disable=SC2086
    run $RUN
    exit
fi

"$hearth" collect --policy expert --expert-noise 0.1 --suite "$games" --repetitions 3 --turns 40 --completion 12 --seed 1 --out "$runs/demonstrations.jsonl"
for seed in $seeds; do for variant in $variants; do echo "$variant $seed"; done; done |
    RAYON_NUM_THREADS=1 xargs -P "${JOBS:-2}" -I{} env RUN={} GAMES="$games" HEARTH="$hearth" "$0" "$runs"
python3 "$here/table.py" "$runs" "$here"
