#!/bin/sh
# Reproduces everything in this folder: HEARTH=hearth GAMES=FOLDER results/alfworld-plain/remake.sh RUNS. GAMES contains train/, valid_seen/
# and valid_unseen/ of text 2.1.3. If the script is interrupted, the same command continues.
set -eu
hearth=${HEARTH:-hearth} here=$(cd "$(dirname "$0")" && pwd) runs=${1:?missing argument: the folder for the runs}
games=$(cd "${GAMES:?must be a folder in the layout of ALFWorld}" && pwd)
mkdir -p "$runs"
for name in recipe seeds loop; do
    sed "s|^path = .*|path = \"$games\"|" "$here/$name.toml" >"$runs/$name.toml"
done
model="$runs/1/1/oreo-turn" played="--suite $games --turns 40 --completion 12"

# Every method, seed 1.
"$hearth" loop "$runs/recipe.toml" --out "$runs/1"
# K = 1 to 8 with every scorer, up to K plain samples until one wins, and a beam; then best-first search.
# shellcheck disable=SC2086
"$hearth" sweep --policy "$model" --reference "$runs/1/1/guided-twice" $played --beam --out "$runs/1/sweep"
# shellcheck disable=SC2086
"$hearth" eval --policy "$model" $played --best-of 3 --search best-first:80 --out "$runs/1/best-first"
# Three iterations of turn-level OREO. The jobs before the first rollouts are copied from run 1, if the copy does not exist yet.
[ -e "$runs/loop" ] || { cp -r "$runs/1" "$runs/loop.part" && mv "$runs/loop.part" "$runs/loop"; }
"$hearth" loop "$runs/loop.toml" --out "$runs/loop"
# SFT and turn-level OREO with two more seeds.
for seed in 2 3; do "$hearth" loop "$runs/seeds.toml" --seed $seed --out "$runs/$seed"; done

for run in 1 2 3 loop; do
    "$hearth" audit "$runs/$run" --strict
    "$hearth" verify "$runs/$run"
done
"$hearth" compare "$runs/1:oreo-turn,$runs/2:oreo-turn,$runs/3:oreo-turn" "$runs/1:guided-twice,$runs/2:guided-twice,$runs/3:guided-twice"
"$hearth" report "$runs/1" --plots "$runs/plots"
