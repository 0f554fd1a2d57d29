#!/usr/bin/env bash
# Compiles the CUDA kernels of small training jobs and of play with the real NVRTC, on a machine without a GPU, for compute
# capabilities 8.0 and 9.0. A kernel with an error in its CUDA C++ or PTX fails the script, also if it is only a candidate of the
# tuning, whose errors hearth does not print. Kernels are not run, so numbers are not tested: that is tests/gpu.sh.
#
#   tests/nvrtc.sh [HEARTH [SM...]]     for example: tests/nvrtc.sh target/release/hearth 90
#
# HEARTH is a binary built with --features cuda; the default is target/release/hearth. The script needs gcc, Python with venv, and pip
# with a package index, from which it installs NVRTC and the headers of CUDA (270 MB) into a temporary folder. CUDA=13.0 selects
# their version, at least that of the build. tests/cuda/standin.c takes the place of the driver.
#
# Prints a row for each job: how many kernels were compiled, and the seconds of NVRTC and of the whole job. On two busy cores the
# six jobs for 8.0 took 46 minutes.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
hearth=$(realpath "${1:-$root/target/release/hearth}")
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- 80 90
version=${CUDA:-13.0}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
# Kernels and tunings of earlier runs are not read.
export HOME=$work XDG_CACHE_HOME=$work/cache

python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check "nvidia-cuda-nvrtc==$version.*" "nvidia-cuda-runtime==$version.*" \
    "nvidia-cuda-crt==$version.*" "nvidia-cuda-cccl==$version.*"
toolkit=$(echo venv/lib/python3*/site-packages/nvidia/cu"${version%%.*}")
toolkit=$(realpath "$toolkit")
nvrtc=$toolkit/lib/libnvrtc.so.${version%%.*}
# The first names that hearth tries to load. There is no libcuda.so.1, because NVRTC looks for it and asks it for more.
mkdir driver
gcc -std=gnu11 -Wall -Wextra -Wno-unused-parameter -O1 -fPIC -shared -I"$toolkit/include" -DREAL_NVRTC="\"$nvrtc\"" \
    -o driver/libcuda.so "$root/tests/cuda/standin.c" -Wl,--no-as-needed "$nvrtc"
ln -s libcuda.so driver/libnvrtc.so

# The models and episodes that the jobs on the device begin with are made on the CPU.
job() { # NAME FROM DATA ALGORITHM
    cat >"$1.toml" <<TOML
name = "$1"
from = "$2"
data = ["$3"]
optimizer = { batch = 4, updates = 2, learning_rate = 1e-3 }
algorithm = $4
TOML
}
job sft fresh demonstrations '{ kind = "sft", targets = "actions" }'
job oreo collector rollouts \
    '{ kind = "oreo", level = "turn", beta = 0.1, alpha = 0.01, value_learning_rate = 1e-3, critic_only_share = 0.0 }'
(sed 's/"sft"$/"sft-bf16"/' sft.toml && echo 'precision = "bf16"') >sft-bf16.toml
play=(--suite games --turns 3 --completion 4)
{
    "$hearth" scenarios generate games --size small --train 4 --seen 1 --unseen 1
    "$hearth" collect --policy expert --suite games --repetitions 2 --out won.jsonl
    "$hearth" train sft.toml --data won.jsonl --out cpu-sft
    "$hearth" collect --policy cpu-sft "${play[@]}" --repetitions 2 --out lost.jsonl
    "$hearth" train oreo.toml --data won.jsonl lost.jsonl --from cpu-sft --out cpu-oreo
} >cpu.log 2>&1 || { cat cpu.log >&2; exit 1; }

fail() { echo "error: $*" >&2; exit 1; }
on_device() { # COMMAND
    LD_LIBRARY_PATH=$work/driver:$toolkit/lib CUDA_PATH=$toolkit HEARTH_STANDIN_SM=$sm HEARTH_STANDIN_LOG=$log \
        CUBECL_AUTOTUNE_SHORT_CIRCUIT=false "$@"
}
count() { grep -c "^$1" "$log" || true; }
# Every candidate of a tuning is compiled, because CUBECL_AUTOTUNE_SHORT_CIRCUIT is off and all kernels take the same time.
stage() { # NAME ARGUMENTS of hearth
    local name=$1 before=$SECONDS failed
    shift
    log=$work/sm$sm-$name
    touch "$log"
    if ! on_device "$hearth" "$@" --device cuda >"$log.out" 2>&1; then
        tail -n 40 "$log.out" >&2
        fail "sm_$sm, $name: the command failed"
    fi
    failed=$(sed -n 's/^failed\t[^\t]*\t//p' "$log" | head -n 1)
    if [ -n "$failed" ]; then
        sed -n '/^\/\* NVRTC:/,$p' "$failed" >&2
        grep '^failed' "$log" | cut -f 2 >&2
        fail "sm_$sm, $name: NVRTC refused $(count failed) kernels, listed above with the message about the first"
    fi
    if grep -q panicked "$log.out"; then
        grep -A 1 panicked "$log.out" >&2
        fail "sm_$sm, $name: a thread panicked"
    fi
    [ "$(count compiled)" -ge 100 ] || fail "sm_$sm, $name: only $(count compiled) kernels were compiled"
    [ "$(count compiled)" -eq "$(count loaded)" ] || fail "sm_$sm, $name: a kernel was compiled and not loaded"
    printf '%-4s %-10s %8s %8.0f %8s\n' "$sm" "$name" "$(count compiled)" \
        "$(awk -F '\t' '$1 == "compiled" { s += $4 } END { print s }' "$log")" $((SECONDS - before))
}
lines() { # COUNT FILE...
    local expected=$1 found
    shift
    found=$(cat "$@" | wc -l)
    [ "$found" -eq "$expected" ] || fail "$* have $found lines, not $expected"
}
has_kernel() { [ "$(count "compiled.$1")" -gt 0 ] || fail "$log: no kernel $1 was compiled"; }

version=$(venv/bin/python -c 'import ctypes, sys
major, minor = ctypes.c_int(), ctypes.c_int()
ctypes.CDLL(sys.argv[1]).nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
print(f"{major.value}.{minor.value}")' "$nvrtc")
echo "NVRTC $version"
printf '%-4s %-10s %8s %8s %8s\n' sm job kernels NVRTC\ s seconds
for sm; do
    log=$work/doctor
    on_device "$hearth" doctor >doctor.out 2>&1 || true # Python worlds may be missing.
    grep -q "cuda:0  *stand-in of sm_$sm" doctor.out || fail "$hearth finds no device: is it built with --features cuda?"
    for name in sft sft-bf16; do
        stage $name train $name.toml --data won.jsonl --out "$sm-$name"
        lines 3 "$sm-$name/metrics.csv"
    done
    stage oreo train oreo.toml --data won.jsonl lost.jsonl --from cpu-sft --out "$sm-oreo"
    lines 3 "$sm-oreo/metrics.csv"
    stage collect collect --policy cpu-sft "${play[@]}" --repetitions 2 --out "$sm.jsonl"
    lines 8 "$sm.jsonl"
    # Attention over the pool of keys and values is hearth's own kernel.
    has_kernel read_in_place
    stage best-of eval --policy cpu-oreo "${play[@]}" --best-of 1,3 --out "$sm-best-of"
    lines 4 "$sm-best-of"/episodes-k*.jsonl
    stage beam-bf16 eval --policy cpu-oreo "${play[@]}" --search beam:2 --weights bf16 --out "$sm-beam"
    [ -s "$sm-beam/eval.csv" ] || fail "the evaluation wrote no table"
done
