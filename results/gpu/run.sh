#!/usr/bin/env bash
# Measures an NVIDIA GPU, in pieces that each stand alone, and writes tables into OUT:
#
#   parity      losses of the first updates and log-probabilities of first tokens, against the CPU: measured.csv, played.csv
#   training    tokens/s and share of peak at 135 M and 0.5 B parameters, against PyTorch: training-*.json
#   inference   prefill, decode and whole episodes, against transformers: inference-*.json
#   alfworld    SmolLM2-135M on real ALFWorld: SFT, DAgger, rollouts, OREO, evaluation: alfworld.json
#
#   results/gpu/run.sh [HEARTH] [OUT]     HEARTH: a binary built with --features cuda; if absent, the script builds one
#
# PIECES="training alfworld" runs only these. PYTHON is the path of a Python with torch, safetensors and transformers, the
# peers. ALFWORLD is a folder of ALFWorld's games, and SMOLLM2 the model's folder; without them, `alfworld` is left out.
# GPU=cuda:1 selects another GPU. Exits with 1 if numbers differ by more than allowed.
#
# TOY=1 runs everything at toy size, to test the script: with GPU=cpu, or GPU=webgpu on a software GPU. The numbers then
# mean nothing. A device that does not compute in bf16 needs PRECISION=f32.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
gpu=${GPU:-cuda:0}
case $gpu in *:*) index=${gpu#*:} ;; *) index=0 ;; esac
pieces=${PIECES:-parity training inference alfworld}
toy=${TOY:-}
precision=${PRECISION:-bf16}
batch=${BATCH:-${toy:+2}}
batch=${batch:-64}
updates=${UPDATES:-${toy:+3}}
updates=${updates:-30}
batches=${BATCHES:-${toy:+1}}
batches=${batches:-1,16,64,256}
if [ -n "$toy" ]; then train_games=16 played=2; else train_games=400 played=64; fi
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

# games: generates games and demonstrations, once
games() {
    [ ! -e "$work/games" ] || return 0
    message "generating games and demonstrations"
    "$hearth" scenarios generate "$work/games" --train "$train_games" --valid-train 1 --seen 1 --unseen 1 >/dev/null
    "$hearth" collect --policy expert --suite "$work/games" --repetitions 1 --expert-noise 0.1 --out "$work/demonstrations.jsonl" >/dev/null
}

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
    awk -F, -v name="$1" '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) c = i; if (!c) { print "no column " name > "/dev/stderr"; exit 1 } next }
        { print $c }' "$work/$2/metrics.csv"
}

# row FOLDER PEAK [REFERENCE ALLOWED]: appends a row to measured.csv. The speed excludes the first third of the updates, in
# which kernels are compiled and tuned. If REFERENCE is given, the losses of the first five updates are compared with it.
row() {
    local parameters line
    parameters=$("$hearth" model info "$work/$1" --json | sed -E 's/.*"parameters":([0-9]+).*/\1/')
    line=$(paste -d, <(values tokens "$1") <(values seconds "$1") <(values loss/policy "$1") <(values loss/policy "${3:-$1}") |
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
    "$hearth" collect --policy "$work/small-cpu-f32" --suite "$work/games" --games "$played" --repetitions 1 --temperature 0 \
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

parity() {
    games
    # The GPU comes first: if something is missing, the error appears before any long wait.
    train small-gpu-f32 "$gpu"
    [ $precision = f32 ] || train small-gpu-bf16 "$gpu"
    train medium-gpu-f32 "$gpu"
    [ $precision = f32 ] || train medium-gpu-bf16 "$gpu"
    train small-cpu-f32 cpu
    echo "decoder,place,precision,parameters,updates,tokens_per_second,first_update_seconds,share_of_bf16_peak,compared_with,worst_relative_difference,allowed,within" >"$out/measured.csv"
    row small-cpu-f32 ""
    row small-gpu-f32 "$peak" small-cpu-f32 2e-3 # a GPU may compute f32 products in TF32, whose mantissa has ten bits
    row medium-gpu-f32 "$peak"
    if [ $precision = bf16 ]; then
        row small-gpu-bf16 "$peak" small-cpu-f32 3e-2 # the mantissa of bf16 has seven bits
        row medium-gpu-bf16 "$peak" medium-gpu-f32 3e-2
    fi
    echo "weights,games,same_first_token,worst_difference,same_episodes,allowed,within" >"$out/played.csv"
    for weights in $formats; do
        collect "$gpu" $weights
        [ "$gpu" = cpu ] || collect cpu $weights
    done
    compare exact 1e-2 # TF32, as for the losses
    [ $precision = f32 ] || compare bf16 1e-1
    cat "$out/measured.csv" "$out/played.csv"
}

training() {
    local shape shapes="smollm2 qwen2"
    [ -z "$toy" ] || shapes=quickstart
    for shape in $shapes; do
        message "measuring training at the shape of $shape"
        "$hearth" bench train --shape $shape --batch "$batch" --updates "$((updates < 8 ? updates : 8))" --repetitions 1 \
            --device "$gpu" --precision $precision ${PYTHON:+--torch "$PYTHON"} --json >"$out/training-$shape.json"
    done
}

inference() {
    local model=${SMOLLM2:-}
    if [ -z "$model" ] || [ -n "$toy" ]; then
        games
        model=$work/small-gpu-f32
        [ -e "$model" ] || train small-gpu-f32 "$gpu"
    fi
    message "measuring inference of $model"
    "$hearth" bench inference --model "$model" --device "$gpu" --weights "${formats// /,}" --batches "$batches" \
        ${toy:+--prompt 16 --tokens 4 --repetitions 1} --episodes "${batches##*,}" --json \
        ${PYTHON:+--transformers "$PYTHON"} >"$out/inference.json"
}

alfworld() {
    if [ -z "${ALFWORLD:-}" ] || [ -z "${SMOLLM2:-}" ]; then
        message "alfworld is left out: ALFWORLD must name a folder of games and SMOLLM2 one of SmolLM2-135M-Instruct"
        return 0
    fi
    local recipe=$out/alfworld.toml
    sed -e "s|^path = .*|path = \"$(realpath "$ALFWORLD")\"|" -e "s|^checkpoint = .*|checkpoint = \"$(realpath "$SMOLLM2")\"|" \
        -e "s|precision = \"bf16\"|precision = \"$precision\"|" "$here/alfworld.toml" >"$recipe"
    [ $precision = bf16 ] || sed -i 's|^weights = .*|weights = "exact"|' "$recipe"
    if [ -n "$toy" ]; then
        sed -i -E -e 's/^games = .*/games = 2/' -e 's/^repetitions = .*/repetitions = 1/' \
            -e 's/batch = [0-9]+, (updates|epochs) = [0-9]+/batch = 2, updates = 1/' -e 's/^context = .*/context = 512/' "$recipe"
    fi
    message "SmolLM2 on ALFWorld; an interrupted run resumes in $out/alfworld"
    "$hearth" loop "$recipe" --out "$out/alfworld" --device "$gpu" --json >"$out/alfworld.json"
}

status=0
formats="exact bf16"
[ $precision = bf16 ] || formats=exact
for piece in $pieces; do
    case $piece in
        parity | training | inference | alfworld) message "== $piece ($SECONDS s)"; $piece ;;
        *) message "error: PIECES: the pieces are parity, training, inference and alfworld, not $piece"; exit 2 ;;
    esac
done
message "all pieces ended after $SECONDS s"
[ $status = 0 ] || message "numbers differ by more than allowed; see $out/measured.csv and $out/played.csv"
exit $status
