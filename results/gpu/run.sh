#!/usr/bin/env bash
# Compares training and inference on an NVIDIA GPU with the CPU of the same machine: losses of the first updates,
# log-probabilities of first tokens, tokens per second, and the share of the GPU's peak. Writes measured.csv, played.csv,
# inference-*.json and machine.json into OUT. Exits with 1 if numbers differ by more than allowed.
#
#   results/gpu/run.sh [HEARTH] [OUT]     HEARTH: a binary built with --features cuda; if absent, the script builds one
#
# GPU=cuda:1 selects another GPU. If PYTHON is the path of a Python with torch and transformers, they are measured too.
# If there is no GPU, GPU=cpu BATCH=2 UPDATES=2 BATCHES=1 tests the script itself; the numbers then mean nothing.
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
    # The CUDA version to build for: that of nvcc, if it is installed; otherwise .cargo/config.toml sets it.
    if [ -z "${CUDARC_CUDA_VERSION:-}" ] && command -v nvcc >/dev/null; then
        CUDARC_CUDA_VERSION=$(nvcc --version | sed -nE 's/.*release ([0-9]+)\.([0-9]+).*/\10\20/p')
        export CUDARC_CUDA_VERSION
    fi
    (cd "$root" && cargo build --release --features cuda)
    hearth=${CARGO_TARGET_DIR:-$root/target}/release/hearth
fi

mkdir -p "$out"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
message() { echo "$*" >&2; }

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
    *) peak= ;; # if the GPU is not listed, no share is reported
esac
printf '{"gpu": "%s", "driver": "%s", "peak_bf16_tflops": %s, "cores": %s, "hearth": "%s"}\n' \
    "$name" "$driver" "${peak:-null}" "$(nproc)" "$("$hearth" --version)" >"$out/machine.json"

message "generating games and demonstrations"
"$hearth" scenarios generate "$work/games" --train 400 --valid-train 1 --seen 1 --unseen 1 >/dev/null
"$hearth" collect --policy expert --suite "$work/games" --repetitions 1 --expert-noise 0.1 --out "$work/demonstrations.jsonl" >/dev/null

# The quickstart's decoder, and one that is large enough to keep a GPU busy.
recipe=$root/trainer/recipes/quickstart.toml
cp "$recipe" "$work/small.toml"
sed -e 's/^layers = .*/layers = 12/' -e 's/^hidden = .*/hidden = 768/' -e 's/^inner = .*/inner = 2048/' \
    -e 's/^heads = .*/heads = 12/' -e 's/^kv_heads = .*/kv_heads = 4/' "$recipe" >"$work/medium.toml"

# train DECODER-PLACE-PRECISION DEVICE: writes the model and metrics.csv into the folder of that name
train() {
    local decoder precision
    IFS=- read -r decoder _ precision <<<"$1"
    cat >"$work/job.toml" <<TOML
name = "measure"
from = "fresh"
data = ["demonstrations"]
precision = "$precision"
optimizer = { batch = $batch, updates = $updates, learning_rate = 1e-3 }
algorithm = { kind = "sft", targets = "transcript" }
TOML
    message "$1: training for $updates updates"
    "$hearth" train "$work/job.toml" --data "$work/demonstrations.jsonl" --model "$work/$decoder.toml" \
        --device "$2" --out "$work/$1" >/dev/null
}

# values NAME FOLDER: prints column NAME of metrics.csv
values() {
    awk -F, -v name="$1" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) c = i; next } { print $c }' "$work/$2/metrics.csv"
}

# row FOLDER PEAK [REFERENCE ALLOWED]: appends a row to measured.csv. The speed excludes the first third of the updates, in
# which kernels are compiled and tuned. If REFERENCE is given, the losses of the first five updates are compared with it.
row() {
    local parameters line
    parameters=$("$hearth" model info "$work/$1" --json | sed -E 's/.*"parameters":([0-9]+).*/\1/')
    line=$(paste -d, <(values tokens "$1") <(values seconds "$1") <(values loss_policy "$1") <(values loss_policy "${3:-$1}") |
        awk -F, -v run="${1//-/,}" -v parameters="$parameters" -v peak="$2" -v reference="${3:-}" -v allowed="${4:-}" '
            { tokens[NR] = $1; seconds[NR] = $2 }
            NR <= 5 { off = ($3 - $4) / $4; if (off < 0) off = -off; if (off > worst) worst = off }
            END {
                for (i = int(NR / 3) + 1; i <= NR; i++) { t += tokens[i]; s += seconds[i] }
                # Six operations per parameter and token. Attention is not counted, so this is a lower bound.
                share = peak == "" ? "" : sprintf("%.4f", 6 * parameters * t / s / (peak * 1e12))
                compared = reference == "" ? ",,," : sprintf("%s,%.1e,%s,%s", reference, worst, allowed, worst <= allowed + 0 ? "yes" : "no")
                printf "%s,%d,%d,%.0f,%.2f,%s,%s\n", run, parameters, NR, t / s, seconds[1], share, compared
            }')
    echo "$line" >>"$out/measured.csv"
    case $line in *,no) status=1 ;; esac
}

# collect DEVICE WEIGHTS: plays the first games of train greedily
collect() {
    message "playing on $1 with weights $2"
    "$hearth" collect --policy "$work/small-cpu-f32" --suite "$work/games" --games 64 --repetitions 1 --temperature 0 \
        --turns 12 --device "$1" --weights "$2" --out "$work/played-$1-$2.jsonl" >/dev/null
}

# first_tokens STORE: prints game, first token, its log-probability, and all completions
first_tokens() {
    awk '
        function matched(pattern, skip) { match($0, pattern); return substr($0, RSTART + skip, RLENGTH - skip) }
        {
            game = matched("\"game\":\"[^\"]*", 8)
            token = matched("\"completion_tokens\":\\[[0-9]+", 21)
            logprob = matched("\"logprobs\":\\[[-+.0-9e]+", 12)
            written = ""
            while (match($0, "\"completion\":\"[^\"]*")) {
                written = written "/" substr($0, RSTART + 14, RLENGTH - 14)
                $0 = substr($0, RSTART + RLENGTH)
            }
            gsub(/[ \t]/, "_", written)
            print game "\t" token "\t" logprob "\t" written
        }' "$work/$1.jsonl" | sort
}

# compare WEIGHTS ALLOWED: compares the episodes of the GPU with those of the CPU
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

# bench_inference DECODER: measures inference speed
bench_inference() {
    message "measuring inference speed of $1"
    "$hearth" bench inference --model "$work/$1-gpu-f32" --device "$gpu" --weights exact,bf16 --batches "$batches" \
        --episodes "${batches##*,}" --json ${PYTHON:+--transformers "$PYTHON"} >"$out/inference-$1.json"
}

# The GPU comes first: if something is missing, the error appears before any long wait.
train small-gpu-f32 "$gpu"
train small-gpu-bf16 "$gpu"
train medium-gpu-f32 "$gpu"
train medium-gpu-bf16 "$gpu"
train small-cpu-f32 cpu

status=0
echo "decoder,place,precision,parameters,updates,tokens_per_second,first_update_seconds,share_of_bf16_peak,compared_with,worst_relative_difference,allowed,within" >"$out/measured.csv"
row small-cpu-f32 ""
row small-gpu-f32 "$peak" small-cpu-f32 2e-3 # a GPU may compute f32 products in TF32, whose mantissa has ten bits
row small-gpu-bf16 "$peak" small-cpu-f32 3e-2 # the mantissa of bf16 has seven bits
row medium-gpu-f32 "$peak"
row medium-gpu-bf16 "$peak" medium-gpu-f32 3e-2

for weights in exact bf16; do
    collect "$gpu" $weights
    [ "$gpu" = cpu ] || collect cpu $weights
done
echo "weights,games,same_first_token,worst_difference,same_episodes,allowed,within" >"$out/played.csv"
compare exact 1e-2 # TF32, as for the losses
compare bf16 1e-1
bench_inference small
bench_inference medium

cat "$out/measured.csv" "$out/played.csv"
[ $status = 0 ] || message "numbers differ by more than allowed; see $out/measured.csv and $out/played.csv"
exit $status
