#!/usr/bin/env bash
# Builds reducer.cpp against the libtorch of the set-up and runs its two processes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
lib=.libtorch
out=target/bench/reducer
mkdir -p target/bench
c++ -std=c++17 -O2 -w -D_GLIBCXX_USE_CXX11_ABI=1 -Icore/torch/csrc/wheel -Icore/torch/csrc -I$lib/include \
    -I$lib/include/torch/csrc/api/include tests/bench/reducer.cpp -o $out -L$lib/lib -ltorch_cpu -lc10 \
    -Wl,-rpath,"$PWD/$lib/lib"
port=$((20000 + RANDOM % 20000))
$out 1 $port "${1:-30}" & $out 0 $port "${1:-30}"; wait
