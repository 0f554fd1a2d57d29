#!/bin/sh
# Remakes everything here: HEARTH=hearth GAMES=FOLDER results/alfworld/remake.sh RUNS. GAMES holds train/, valid_seen/ and valid_unseen/ of text
# 2.1.3. Stopped anywhere, the same command goes on.
set -eu
hearth=${HEARTH:-hearth} here=$(cd "$(dirname "$0")" && pwd) runs=${1:?the folder for the runs}
games=$(cd "${GAMES:?a folder in the layout of ALFWorld}" && pwd)
mkdir -p "$runs"
for name in recipe seeds loop; do
    sed "s|^path = .*|path = \"$games\"|" "$here/$name.toml" >"$runs/$name.toml"
done
model="$runs/1/1/oreo-turn" played="--suite $games --turns 40 --completion 12"

# Every method, seed 1.
"$hearth" loop "$runs/recipe.toml" --out "$runs/1"
# K = 1 to 8 by every chooser, plain samples until one wins, and a beam; then best-first.
# shellcheck disable=SC2086
"$hearth" lab --policy "$model" --reference "$runs/1/1/guided-twice" $played --beam --out "$runs/1/lab"
# shellcheck disable=SC2086
"$hearth" eval --policy "$model" $played --best-of 3 --search best-first:80 --out "$runs/1/best-first"
# Three iterations of OREO over turns: what is learned before the first rollouts is taken over.
[ -e "$runs/loop" ] || { cp -r "$runs/1" "$runs/loop.part" && mv "$runs/loop.part" "$runs/loop"; }
"$hearth" loop "$runs/loop.toml" --out "$runs/loop"
# SFT and OREO over turns, two more seeds.
for seed in 2 3; do "$hearth" loop "$runs/seeds.toml" --seed $seed --out "$runs/$seed"; done

for run in 1 2 3 loop; do
    "$hearth" audit "$runs/$run" --strict
    "$hearth" verify "$runs/$run"
done
"$hearth" compare "$runs/1:oreo-turn,$runs/2:oreo-turn,$runs/3:oreo-turn" "$runs/1:guided-twice,$runs/2:guided-twice,$runs/3:guided-twice"
"$hearth" report "$runs/1" --plots "$runs/plots"
