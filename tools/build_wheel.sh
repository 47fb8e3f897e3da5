#!/usr/bin/env bash
# Builds the wheel of this folder: tools/build_wheel.sh PYTHON OUT [TARGET]
# The same sources give the same bytes: no path of this machine and no moment of this build is in
# them. On Linux zig links against an old glibc, so that the manylinux tag is true.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 out=$2 target=${3:-}

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

options=()
[ -z "$target" ] || options+=(--target "$target")
[ "$(uname -s)" != Linux ] || options+=(--zig)
if [[ ${target:-$(uname -s)} = *[Ll]inux* ]]; then
    options+=(--compatibility manylinux2014)
    # CPython ends daemon threads by unwinding them with the system's libgcc_s, through our frames too;
    # the unwinder that zig would put into the wheel crashes over it. Alone in a folder: zig brings
    # all other libraries, of an old glibc.
    mkdir -p "$CARGO_TARGET_DIR/unwinder"
    cp "${UNWINDER:-$(cc -print-file-name=libgcc_s.so.1)}" "$CARGO_TARGET_DIR/unwinder/libgcc_s.so.1"
    RUSTFLAGS+=" -L native=$CARGO_TARGET_DIR/unwinder -l dylib:+verbatim=libgcc_s.so.1"
fi
export RUSTFLAGS
PATH="$(dirname "$python"):$PATH" "$python" -m maturin build --quiet --release --locked \
    --interpreter "$python" --out "$out" --sbom-include "$bill" "${options[@]}"
