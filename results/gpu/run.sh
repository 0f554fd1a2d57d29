#!/usr/bin/env bash
# Measures learning and playing on an NVIDIA GPU against the CPU beside it: losses of the first updates, log-probabilities
# of first tokens, tokens a second, share of what the GPU can do. Writes measured.csv, played.csv, mind-*.json and
# machine.json into OUT; exits with 1 where numbers are further apart than they may.
#
#   results/gpu/run.sh [HEARTH] [OUT]     HEARTH: a hearth built with --features cuda; without it one is built here
#
# GPU=cuda:1 takes another GPU; PYTHON names one with torch and transformers, to measure beside. GPU=cpu BATCH=2 UPDATES=2
# BATCHES=1 tries the script itself where there is none; the numbers then mean nothing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
gpu=${GPU:-cuda:0}
case $gpu in *:*) index=${gpu#*:} ;; *) index=0 ;; esac
batch=${BATCH:-64}
updates=${UPDATES:-30}
batches=${BATCHES:-1,16,64,256}
out=${2:-$here/out}

if [ $# -gt 0 ]; then
    hearth=$(realpath "$1")
else
    # Which CUDA to build for, where a toolkit says it; else .cargo/config.toml does.
    if [ -z "${CUDARC_CUDA_VERSION:-}" ] && command -v nvcc >/dev/null; then
        CUDARC_CUDA_VERSION=$(nvcc --version | sed -nE 's/.*release ([0-9]+)\.([0-9]+).*/\10\20/p')
        export CUDARC_CUDA_VERSION
    fi
    (cd "$root" && cargo build --release --features cuda)
    hearth=${CARGO_TARGET_DIR:-$root/target}/release/hearth
fi

mkdir -p "$out"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
say() { echo "$*" >&2; }

name=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | sed -n "$((index + 1))p" || true)
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | sed -n 1p || true)
# Dense bf16 products, TFLOP/s, from NVIDIA's data sheets.
case $name in
    *H200* | *"H100 80GB HBM3"*) peak=989 ;;
    *H100*PCIe*) peak=756 ;;
    *A100*) peak=312 ;;
    *L40S*) peak=362 ;;
    *"NVIDIA L4") peak=121 ;;
    *"NVIDIA A10") peak=125 ;;
    *"RTX 4090"*) peak=165 ;;
    *"RTX 3090"*) peak=71 ;;
    *) peak= ;; # a model that is not listed has no share
esac
printf '{"gpu": "%s", "driver": "%s", "peak_bf16_tflops": %s, "cores": %s, "hearth": "%s"}\n' \
    "$name" "$driver" "${peak:-null}" "$(nproc)" "$("$hearth" --version)" >"$out/machine.json"

say "games and demonstrations"
"$hearth" scenarios generate "$work/games" --train 400 --valid-train 1 --seen 1 --unseen 1 >/dev/null
"$hearth" collect --policy expert --suite "$work/games" --repetitions 1 --slips 0.1 --out "$work/demonstrations.jsonl" >/dev/null

# The quickstart's decoder, and one large enough to keep a GPU busy.
recipe=$root/trainer/recipes/quickstart.toml
cp "$recipe" "$work/small.toml"
sed -e 's/^layers = .*/layers = 12/' -e 's/^hidden = .*/hidden = 768/' -e 's/^inner = .*/inner = 2048/' \
    -e 's/^heads = .*/heads = 12/' -e 's/^kv_heads = .*/kv_heads = 4/' "$recipe" >"$work/medium.toml"

# learn DECODER-PLACE-PRECISION DEVICE: leaves the model and metrics.csv in that folder
learn() {
    local decoder precision
    IFS=- read -r decoder _ precision <<<"$1"
    cat >"$work/lesson.toml" <<TOML
name = "measure"
from = "fresh"
data = ["demonstrations"]
precision = "$precision"
optimizer = { batch = $batch, updates = $updates, learning_rate = 1e-3 }
algorithm = { kind = "sft", targets = "transcript" }
TOML
    say "$1: $updates updates"
    "$hearth" train "$work/lesson.toml" --data "$work/demonstrations.jsonl" --model "$work/$decoder.toml" \
        --device "$2" --out "$work/$1" >/dev/null
}

# values NAME FOLDER: that column of metrics.csv
values() {
    awk -F, -v name="$1" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) c = i; next } { print $c }' "$work/$2/metrics.csv"
}

# row FOLDER PEAK [REFERENCE ALLOWED]: speed after the first third of the updates, in which kernels are compiled and
# tuned; losses of the first five updates against those of a reference
row() {
    local parameters line
    parameters=$("$hearth" model info "$work/$1" --json | sed -E 's/.*"parameters":([0-9]+).*/\1/')
    line=$(paste -d, <(values tokens "$1") <(values seconds "$1") <(values loss_policy "$1") <(values loss_policy "${3:-$1}") |
        awk -F, -v who="${1//-/,}" -v parameters="$parameters" -v peak="$2" -v reference="${3:-}" -v allowed="${4:-}" '
            { tokens[NR] = $1; seconds[NR] = $2 }
            NR <= 5 { off = ($3 - $4) / $4; if (off < 0) off = -off; if (off > worst) worst = off }
            END {
                for (i = int(NR / 3) + 1; i <= NR; i++) { t += tokens[i]; s += seconds[i] }
                # Six operations a parameter and token; attention is not counted, so this is a lower bound.
                share = peak == "" ? "" : sprintf("%.4f", 6 * parameters * t / s / (peak * 1e12))
                compared = reference == "" ? ",,," : sprintf("%s,%.1e,%s,%s", reference, worst, allowed, worst <= allowed + 0 ? "yes" : "no")
                printf "%s,%d,%d,%.0f,%.2f,%s,%s\n", who, parameters, NR, t / s, seconds[1], share, compared
            }')
    echo "$line" >>"$out/measured.csv"
    case $line in *,no) status=1 ;; esac
}

# collect DEVICE WEIGHTS: the first games of train, greedily
collect() {
    say "playing on $1, $2"
    "$hearth" collect --policy "$work/small-cpu-f32" --suite "$work/games" --games 64 --repetitions 1 --temperature 0 \
        --turns 12 --device "$1" --weights "$2" --out "$work/played-$1-$2.jsonl" >/dev/null
}

# first_tokens STORE: game, first token, its log-probability, and all that was written
first_tokens() {
    awk '
        function taken(pattern, skip) { match($0, pattern); return substr($0, RSTART + skip, RLENGTH - skip) }
        {
            game = taken("\"game\":\"[^\"]*", 8)
            token = taken("\"completion_tokens\":\\[[0-9]+", 21)
            logprob = taken("\"logprobs\":\\[[-+.0-9e]+", 12)
            written = ""
            while (match($0, "\"completion\":\"[^\"]*")) {
                written = written "/" substr($0, RSTART + 14, RLENGTH - 14)
                $0 = substr($0, RSTART + RLENGTH)
            }
            gsub(/[ \t]/, "_", written)
            print game "\t" token "\t" logprob "\t" written
        }' "$work/$1.jsonl" | sort
}

# compare WEIGHTS ALLOWED: play on the GPU against the same on the CPU
compare() {
    local line
    line=$(join -t "$(printf '\t')" <(first_tokens "played-cpu-$1") <(first_tokens "played-$gpu-$1") |
        awk -F '\t' -v weights="$1" -v allowed="$2" '
            $2 == $5 { same++; off = $3 - $6; if (off < 0) off = -off; if (off > worst) worst = off }
            $4 == $7 { alike++ }
            END { printf "%s,%d,%d,%.1e,%d,%s,%s\n", weights, NR, same, worst, alike, allowed, worst <= allowed + 0 ? "yes" : "no" }')
    echo "$line" >>"$out/played.csv"
    case $line in *,no) status=1 ;; esac
}

# mind DECODER: speeds of playing
mind() {
    say "speeds of playing, $1"
    "$hearth" bench mind --model "$work/$1-gpu-f32" --device "$gpu" --weights exact,bf16 --batches "$batches" \
        --episodes "${batches##*,}" --json ${PYTHON:+--transformers "$PYTHON"} >"$out/mind-$1.json"
}

# On the GPU first: what it lacks is said before anything is waited for.
learn small-gpu-f32 "$gpu"
learn small-gpu-bf16 "$gpu"
learn medium-gpu-f32 "$gpu"
learn medium-gpu-bf16 "$gpu"
learn small-cpu-f32 cpu

status=0
echo "decoder,place,precision,parameters,updates,tokens_per_second,first_update_seconds,share_of_bf16_peak,compared_with,worst_relative_difference,allowed,within" >"$out/measured.csv"
row small-cpu-f32 ""
row small-gpu-f32 "$peak" small-cpu-f32 2e-3 # f32 products may be taken in TF32 on a GPU, whose mantissa has ten bits
row small-gpu-bf16 "$peak" small-cpu-f32 3e-2 # bf16 has seven
row medium-gpu-f32 "$peak"
row medium-gpu-bf16 "$peak" medium-gpu-f32 3e-2

for weights in exact bf16; do
    collect "$gpu" $weights
    [ "$gpu" = cpu ] || collect cpu $weights
done
echo "weights,games,same_first_token,worst_difference,same_episodes,allowed,within" >"$out/played.csv"
compare exact 1e-2 # as for the losses: TF32
compare bf16 1e-1
mind small
mind medium

cat "$out/measured.csv" "$out/played.csv"
[ $status = 0 ] || say "numbers are further apart than allowed: $out/measured.csv, $out/played.csv"
exit $status
