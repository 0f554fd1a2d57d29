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

# Every sibling against OREO and its best of 5, over games and over seeds.
runs_of() { for seed in $seeds; do printf '%s' "${separator:-}$runs/$seed:$1"; separator=,; done; }
for job in sft rejection-sampling dpo kto dqo dro oreo-token oreo-response; do
    for oreo in oreo-turn@1 rejection-sampling-oreo@1 rejection-sampling-oreo@5; do
        "$hearth" compare "$(runs_of $oreo)" "$(runs_of $job@1)"
    done
done
for seed in $seeds; do
    "$hearth" audit "$runs/$seed" --strict
    "$hearth" verify "$runs/$seed"
done
# shellcheck disable=SC2046
"$hearth" compare $(for seed in $seeds; do echo "$runs/$seed"; done) --plot "$runs/success.svg"
