#!/usr/bin/env bash
# Builds the wheel of this folder: tools/build_wheel.sh PYTHON OUT
# The same sources give the same bytes: no path of this machine and no moment of this build is in
# them. On Linux zig links against an old glibc, so that the manylinux tag is true.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 out=$2

if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 315532800)
fi
export SOURCE_DATE_EPOCH
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/wheel}
bill=$CARGO_TARGET_DIR/forwardcache.cdx.json
"$python" -m tools.sbom "$bill"

cargo_home=${CARGO_HOME:-$HOME/.cargo}
RUSTFLAGS="--remap-path-prefix=$PWD=/forwardcache --remap-path-prefix=$(rustc --print sysroot)=/rust"
# A registry's folder is named after the address that this machine reaches it by.
for registry in "$cargo_home"/registry/src/*; do
    RUSTFLAGS+=" --remap-path-prefix=$registry=/crates"
done
export RUSTFLAGS

compatibility=()
[ "$(uname -s)" != Linux ] || compatibility=(--zig --compatibility manylinux2014)
PATH="$(dirname "$python"):$PATH" "$python" -m maturin build --quiet --release --locked \
    --interpreter "$python" --out "$out" --sbom-include "$bill" "${compatibility[@]}"
