#!/usr/bin/env bash
# Compares what burn computes on a GPU with the CPU: log-probabilities and values of every family, episodes, losses and gradients of
# every algorithm, the optimizer, adapters, and memory.
#
#   tests/gpu.sh DEVICE [ARGUMENTS of cargo test]     for example: tests/gpu.sh cuda --release
#
# DEVICE is a value of --device; the feature of its name is built. On a software GPU each test takes seconds to minutes, because
# kernels are compiled for the CPU.
set -euo pipefail
cd "$(dirname "$0")/.."
device=${1:?missing argument: the device}
shift
tests=(inference:: model:: play::device families blocks_have paged:: learn::parameters learn::optimizer learn::replicas token_exactness
    memory_grows_linearly copies_of_an_update only_matrices_with_adapters_move resuming_with_adapters)
HEARTH_TEST_DEVICE=$device cargo test --workspace --exclude hearth --features "${device%%:*}" --lib --test it "$@" \
    -- --include-ignored --test-threads=1 "${tests[@]}"
