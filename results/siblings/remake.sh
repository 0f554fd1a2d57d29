#!/bin/sh
# Reproduces everything in this folder: HEARTH=hearth GAMES=FOLDER results/siblings/remake.sh RUNS [SEEDS]. GAMES contains
# train/, valid_seen/ and valid_unseen/ of text 2.1.3. If the script is interrupted, the same command continues. JOBS seeds
# (default 2) are trained at once, each on one thread.
set -eu
hearth=${HEARTH:-hearth} here=$(cd "$(dirname "$0")" && pwd) runs=${1:?missing argument: the folder for the runs}
seeds=${2:-1 2 3 4 5}
games=$(cd "${GAMES:?must be a folder in the layout of ALFWorld}" && pwd)
mkdir -p "$runs" && runs=$(cd "$runs" && pwd)

sed -e "s|^path = .*|path = \"$games\"|" "$here/recipe.toml" >"$runs/recipe.toml"
echo "$seeds" | tr ' ' '\n' |
    RAYON_NUM_THREADS=1 xargs -P "${JOBS:-2}" -I{} "$hearth" loop "$runs/recipe.toml" --seed {} --out "$runs/{}"

# Three iterations of rejection sampling alone, and of rejection sampling then OREO. They begin with the start and the first
# episodes of the run above.
three() {
    out="$runs/three-$1-$2"
    mkdir -p "$out/1"
    for part in games.stage.json demonstrations.jsonl demonstrations.stage.json 1/sft 1/rollouts.jsonl 1/rollouts.stage.json; do
        [ -e "$out/$part" ] || cp -r "$runs/$2/$part" "$out/$part"
    done
    sed -e "s|^path = .*|path = \"$games\"|" "$here/three-$1.toml" >"$runs/three-$1.toml"
    "$hearth" loop "$runs/three-$1.toml" --seed "$2" --out "$out"
}
for seed in $seeds; do for arm in rejection-sampling oreo; do three "$arm" "$seed"; done; done
# The runs of all seeds in the folders PREFIXSEED, with a policy: runs_of PREFIX POLICY@K.
runs_of() { for seed in $seeds; do printf '%s' "${separator:-}$runs/$1$seed:$2"; separator=,; done; }
"$hearth" compare "$(runs_of three-oreo- rejection-sampling-oreo-3@1)" "$(runs_of three-oreo- rejection-sampling-oreo@1)"
"$hearth" compare "$(runs_of three-rejection-sampling- rejection-sampling-3@1)" "$(runs_of three-rejection-sampling- rejection-sampling@1)"
"$hearth" compare "$(runs_of three-oreo- rejection-sampling-oreo-3@1)" "$(runs_of three-rejection-sampling- rejection-sampling-3@1)"
"$hearth" compare "$(runs_of three-oreo- rejection-sampling-oreo@1)" "$(runs_of three-rejection-sampling- rejection-sampling@1)"

# Every sibling against OREO and its best of 5, over games and over seeds.
for job in sft rejection-sampling dpo kto dqo dro oreo-token oreo-response; do
    for oreo in oreo-turn@1 rejection-sampling-oreo@1 rejection-sampling-oreo@5; do
        "$hearth" compare "$(runs_of "" $oreo)" "$(runs_of "" $job@1)"
    done
done
for seed in $seeds; do
    for run in "$seed" "three-rejection-sampling-$seed" "three-oreo-$seed"; do
        "$hearth" audit "$runs/$run" --strict
        "$hearth" verify "$runs/$run"
    done
done
# shellcheck disable=SC2046
"$hearth" compare $(for seed in $seeds; do echo "$runs/$seed"; done) --plot "$runs/success.svg"
