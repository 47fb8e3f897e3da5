#!/usr/bin/env bash
# Instructions a hit at 40 B, counted by callgrind: repeatable where seconds are noise.
#
# Each loop runs with N and with 2N hits; the difference over N is one hit with its share of the
# loop; `hit` less `hit-untraced` is what a trace that is off costs. Usage, from the root of the
# repository: benches/callgrind.sh [N]   (PYTHON chooses another)
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
hits=${1:-20000}

# The same core with a trace that is never asked whether it is on.
untraced=target/untraced
RUSTFLAGS="--cfg untraced" CARGO_TARGET_DIR=$untraced cargo build --quiet --release --features python
mkdir -p "$untraced/python"
cp -r python/forwardcache "$untraced/python/"
cp "$untraced/release/libforwardcache.so" "$untraced/python/forwardcache/_core.abi3.so"

instructions() {
    PYTHONPATH=${3:-python} PYTHONHASHSEED=0 valgrind --tool=callgrind --callgrind-out-file=/dev/null \
        "$python" -m benches.hit_loop "$1" "$2" 2>&1 |
        awk '/Collected :/ { print $NF }'
}

command -v valgrind >/dev/null || { echo "valgrind is not installed" >&2; exit 3; }
"$python" -m benches.hit_loop loop 1
printf '%-12s %s\n' loop 'instructions a prompt'
for name in loop empty lru_cache hit hit-untraced batch miss; do
    core=python
    [[ $name == *-untraced ]] && core=$untraced/python
    once=$(instructions "${name%-untraced}" "$hits" "$core")
    twice=$(instructions "${name%-untraced}" $((2 * hits)) "$core")
    printf '%-12s %d\n' "$name" $(((twice - once) / hits))
done
