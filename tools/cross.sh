#!/usr/bin/env bash
# The wheels for Linux on aarch64 and for macOS, made on Linux x86-64, and the first one tried.
#
#   tools/cross.sh [fetch|wheels|rust|smoke|test]...      (all of them without arguments)
#
# Wheels are linked with zig. That for aarch64 is run by qemu, with Debian's CPython 3.11 for arm64;
# those for macOS can't be run here, so tools/macho.py looks through them. All that is needed
# is fetched into target/cross, but uv, rustup and apt; apt gets lists and folders of its own there. A
# step whose result is there is not repeated. qemu on such a host orders memory as the host does: that the
# order which the code asks for is enough, on processors that keep no other, is what loom and shuttle show.
set -euo pipefail
cd "$(dirname "$0")/.."

ROOT=$PWD/target/cross
PY=$ROOT/venv/bin/python
GUEST=$ROOT/python
QEMU=$ROOT/host/usr/bin/qemu-aarch64-static
SYSROOT=$ROOT/sysroot
ARM=aarch64-unknown-linux-gnu
MACS="aarch64-apple-darwin x86_64-apple-darwin"
MIRROR=${MIRROR:-http://deb.debian.org/debian}
HOST=$(dpkg --print-architecture)
# What the tests import beside the wheel.
PACKAGES=("pytest>=9" "pytest-timeout>=2.4" "hypothesis>=6.140" "numpy>=1.26" "polars>=1.30" "typer>=0.16" "rich>=14"
    "orjson>=3.11" "jsonschema>=4.23" "prometheus-client>=0.23" "redis>=6" "jinja2>=3.1" "matplotlib>=3.10" "duckdb>=1.4")

apt() {
    local program=$1
    shift
    "$program" -o Dir::State="$ROOT/apt/state" -o Dir::Cache="$ROOT/apt/cache" \
        -o Dir::Etc::sourcelist="$ROOT/apt/debian.sources" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::status="$ROOT/apt/status" -o APT::Architecture=arm64 \
        -o APT::Architectures::="arm64" -o APT::Architectures::="$HOST" -o APT::Sandbox::User="$(id -un)" "$@"
}

fetch() {
    [ -e "$ROOT/.fetched" ] && return
    mkdir -p "$ROOT"/apt/state/lists/partial "$ROOT"/apt/cache/archives/partial "$ROOT"/{debs,host,sysroot,bin}
    rustup target add $ARM $MACS
    uv venv --quiet --clear --python 3.11 "$ROOT/venv"
    uv pip install --quiet --python "$PY" "maturin[zig]>=1.12,<2" cargo-zigbuild lief \
        "cyclonedx-python-lib[json-validation]>=11"
    : >"$ROOT/apt/status"
    cat >"$ROOT/apt/debian.sources" <<SOURCES
Types: deb
URIs: $MIRROR
Suites: bookworm
Components: main
Architectures: arm64 $HOST
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
    apt apt-get -qq update
    apt apt-get -qq -y --no-install-recommends --download-only install python3.11 libstdc++6
    (cd "$ROOT/debs" && apt apt-get -qq download "qemu-user-static:$HOST" "busybox-static:$HOST")
    local each
    for each in "$ROOT"/apt/cache/archives/*_arm64.deb "$ROOT"/apt/cache/archives/*_all.deb; do dpkg -x "$each" "$SYSROOT"; done
    for each in "$ROOT"/debs/*.deb; do dpkg -x "$each" "$ROOT/host"; done
    uv pip install --quiet --target "$ROOT/site" --python-version 3.11 --python-platform aarch64-manylinux_2_28 \
        --only-binary :all: "${PACKAGES[@]}"
    # It comes without the models of `hf`, which would bring torch.
    uv pip install --quiet --target "$ROOT/site" --no-deps --python-version 3.11 --python-platform aarch64-manylinux_2_28 \
        --only-binary :all: "safetensors>=0.5"
    write_programs
    touch "$ROOT/.fetched"
}

# Programs that tests and cargo start. The shell is a static one: tests set LD_PRELOAD to a library for arm64.
write_programs() {
    local shell="#!$ROOT/host/bin/busybox sh"
    printf '%s\n' "$shell" "exec $QEMU -L $SYSROOT \"\$@\"" >"$ROOT/bin/run"
    printf '%s\n' "$shell" "unset LD_PRELOAD" \
        "exec $PY -m ziglang cc -target aarch64-linux-gnu.2.36 \"\$@\"" >"$ROOT/bin/cc"
    printf '%s\n' "$shell" "export PYTHONPATH=\"$ROOT/site\${PYTHONPATH:+:\$PYTHONPATH}\" PYTHONDONTWRITEBYTECODE=1" \
        "export PATH=\"$ROOT/bin:\$PATH\"" \
        "exec $QEMU -L $SYSROOT -0 $GUEST $SYSROOT/usr/bin/python3.11 \"\$@\"" >"$GUEST"
    chmod +x "$ROOT"/bin/* "$GUEST"
}

make_wheels() {
    local target
    mkdir -p "$ROOT/dist"
    UNWINDER=$SYSROOT/lib/aarch64-linux-gnu/libgcc_s.so.1 wheel $ARM
    for target in $MACS; do MACOSX_DEPLOYMENT_TARGET=11.0 wheel "$target"; done
    "$PY" -m tools.macho "$ROOT"/dist/*macosx*.whl
    uv pip install --quiet --target "$ROOT/site" --no-deps --reinstall --python-version 3.11 \
        --python-platform aarch64-manylinux_2_28 "$ROOT"/dist/*aarch64.whl
}

wheel() {
    echo "==> wheel for $1"
    CARGO_TARGET_DIR=$ROOT/wheel nice tools/build_wheel.sh "$PY" "$ROOT/dist" "$1"
}

test_rust() {
    echo "==> Rust tests on aarch64"
    PATH=$ROOT/venv/bin:$PATH CARGO_TARGET_DIR=$ROOT/rust CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$ROOT/bin/run \
        nice cargo-zigbuild test --locked --target $ARM.2.17 --lib
}

# Its folder stands for the interpreter's own packages.
smoke() {
    echo "==> the wheel, the command line, threads that the interpreter ends"
    "$GUEST" -m forwardcache --version
    (cd "$ROOT" && "$GUEST" -c "import sys; sys.prefix = '$ROOT'; import runpy; runpy.run_path('../../tools/smoke.py', run_name='__main__')")
}

# Not here: what needs torch, and what is bounded in time: by 30 or 60 seconds, in which several such
# interpreters don't start, or by a share of the time without a fault.
test_python() {
    echo "==> Python tests on aarch64"
    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 POLARS_MAX_THREADS=1 nice "$GUEST" -m pytest -q -p no:cacheprovider \
        --timeout 1800 tests/instrumentation tests/trace tests/store tests/observe \
        --ignore tests/store/test_redis_outages.py --ignore tests/store/test_kill.py \
        -k "not data_loader and not spawn and not four_processes_fill and not takes_less_than_50_ms"
}

[ $# -gt 0 ] || set -- fetch wheels rust smoke test
for step in "$@"; do
    case $step in
    fetch) fetch ;;
    wheels) make_wheels ;;
    rust) test_rust ;;
    smoke) smoke ;;
    test) test_python ;;
    *) sed -n '4p' "$0" && exit 2 ;;
    esac
done
