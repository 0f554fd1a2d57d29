#!/bin/sh
# Reproduces everything in this folder: HEARTH=hearth GAMES=FOLDER results/alfworld/remake.sh RUNS [SEEDS]. GAMES contains
# train/, valid_train/, valid_seen/ and valid_unseen/ of text 2.1.3. If the script is interrupted, the same command
# continues. JOBS seeds (default 2) are trained at once, each on one thread.
set -eu
hearth=${HEARTH:-hearth} here=$(cd "$(dirname "$0")" && pwd) runs=${1:?missing argument: the folder for the runs}
seeds=${2:-1 2 3 4 5}
games=$(cd "${GAMES:?must be a folder in the layout of ALFWorld}" && pwd)
mkdir -p "$runs" && runs=$(cd "$runs" && pwd)

[ -e "$runs/permuted" ] || "$hearth" scenarios permute "$games" "$runs/permuted" --variants 2 --seed 1
sed -e "s|^path = .*|path = \"$games\"|" -e "s|^practice = .*|practice = [\"$runs/permuted\"]|" "$here/recipe.toml" >"$runs/recipe.toml"
echo "$seeds" | tr ' ' '\n' |
    RAYON_NUM_THREADS=1 xargs -P "${JOBS:-2}" -I{} "$hearth" loop "$runs/recipe.toml" --seed {} --out "$runs/{}"

# What the scorers know within a state, on branches of valid_train, with the models of seed 1. λ was chosen by this table.
model="$runs/1/1/oreo-turn" start="$runs/1/1/dagger-2" played="--turns 40 --completion 12"
# shellcheck disable=SC2086
"$hearth" collect --policy "$start" --suite "$games" --split valid_train --repetitions 2 --temperature 1.3 --min-p 0.02 $played --seed 7 --out "$runs/states.jsonl"
"$hearth" branch --policy "$start" --data "$runs/states.jsonl" --suite "$games" --split valid_train --limit 300 --candidates 4 --rollouts 8 --proposal-temperature 2.0 --min-p 0.005 --out "$runs/branches.jsonl"
"$hearth" rank --policy "$model" --reference "$start" --branches "$runs/branches.jsonl" --out "$runs/rank.csv" --plot "$runs/rank.svg"

# Every scorer and its nulls with the same five candidates, on the test splits.
for seed in $seeds; do
    # shellcheck disable=SC2086
    "$hearth" sweep --policy "$runs/$seed/1/oreo-turn" --reference "$runs/$seed/1/dagger-2" --suite "$games" $played --best-of 5 --scorer after_value,soft_value,logprob,log_ratio,distinct,random,expert --soft-value-beta 0.05 --temperature 1.3 --min-p 0.02 --distinct-by command --seed "$seed" --out "$runs/sweep-$seed"
done

# A critic from wide rollouts and branches for each seed, and the same choices with it. λ was chosen on valid_train, seed 1.
critic() { # critic SEED
    policy="$runs/$1/1/oreo-turn" out="$runs/critic/$1"
    mkdir -p "$out"
    # shellcheck disable=SC2086
    "$hearth" collect --policy "$policy" --suite "$games" --split train --repetitions 2 --temperature 1.3 --min-p 0.02 $played --seed "$1" --out "$out/own.jsonl"
    # shellcheck disable=SC2086
    "$hearth" collect --policy "$policy" --suite "$games" --split train --repetitions 3 --temperature 2.0 --min-p 0.01 $played --seed "$1" --out "$out/wide.jsonl"
    "$hearth" branch --policy "$policy" --data "$out/own.jsonl" --suite "$games" --split train --limit 6000 --candidates 4 --rollouts 4 --proposal-temperature 2.0 --min-p 0.005 --seed "$1" --out "$out/branches.jsonl"
    [ -e "$out/critic/model.safetensors" ] || "$hearth" train --data "$out/wide.jsonl" --branches "$out/branches.jsonl" --from "$policy" --seed "$1" --out "$out/critic" "$here/critic.toml"
    # shellcheck disable=SC2086
    "$hearth" sweep --policy "$out/critic" --reference "$runs/$1/1/dagger-2" --suite "$games" $played --best-of 5 --scorer soft_value,logprob,distinct,random,after_value,expert --soft-value-beta 0.02 --temperature 1.3 --min-p 0.02 --distinct-by command --seed "$1" --out "$runs/critic-sweep-$1"
}
for seed in $seeds; do critic "$seed"; done

for seed in $seeds; do
    "$hearth" audit "$runs/$seed" --strict
    "$hearth" verify "$runs/$seed"
done
# Best of 5 by the value against greedy play, and OREO against its start, over games and over seeds.
list() { for seed in $seeds; do printf '%s' "${separator:-}$runs/$1$seed:$2"; separator=,; done; } # list PREFIX POLICY
"$hearth" compare "$(list "" oreo-turn@5)" "$(list "" oreo-turn@1)"
"$hearth" compare "$(list "" oreo-turn@1)" "$(list "" dagger-2@1)"
# Best of 5 by the value against other choices among the same candidates.
for other in greedy@1 sampled@1 random@5 distinct@5 after_value@5 log_ratio@5 logprob@5 expert@5; do
    "$hearth" compare "$(list sweep- soft_value@5)" "$(list sweep- $other)"
done
for other in greedy@1 sampled@1 random@5 distinct@5 after_value@5 logprob@5 expert@5; do
    "$hearth" compare "$(list critic-sweep- soft_value@5)" "$(list critic-sweep- $other)"
done
"$hearth" compare "$(list critic-sweep- after_value@5)" "$(list critic-sweep- distinct@5)"
# The table and the plot of this folder.
# shellcheck disable=SC2046
"$hearth" compare $(for seed in $seeds; do echo "$runs/$seed"; done) --plot "$runs/success.svg"
