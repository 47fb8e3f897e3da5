#!/usr/bin/env bash
# A CPython without a GIL, the core built for it, and the tests on it.
#
#   tools/free_threaded.sh [python|core|test|bench]...      (all of them without arguments)
#
# No registry has such an interpreter, so it is made from Debian's source package, below
# target/free-threaded: apt gets lists and folders of its own there, the system's stay as they are.
# A step whose result is there is not repeated.
set -euo pipefail
cd "$(dirname "$0")/.."

ROOT=$PWD/target/free-threaded
PREFIX=$ROOT/python
VENV=$ROOT/venv
PY=$VENV/bin/python
# Suites from the newest on; the first whose source is there is taken.
SUITES=${SUITES:-"sid forky trixie"}
MIRROR=${MIRROR:-http://deb.debian.org/debian}
JOBS=${JOBS:-2}

apt() {
    local program=$1
    shift
    "$program" -o Dir::State="$ROOT/apt/state" -o Dir::Cache="$ROOT/apt/cache" \
        -o Dir::Etc::sourcelist="$ROOT/apt/debian.sources" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::status=/var/lib/dpkg/status -o APT::Sandbox::User="$(id -un)" "$@"
}

# Downloads the newest source that can be had into $ROOT/source; apt checks it against the signed lists.
fetch_source() {
    mkdir -p "$ROOT"/apt/state/lists/partial "$ROOT"/apt/cache/archives/partial "$ROOT"/source
    cat >"$ROOT/apt/debian.sources" <<SOURCES
Types: deb-src
URIs: $MIRROR
Suites: $SUITES
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
    apt apt-get -qq update
    local package version
    for package in python3.14 python3.13; do
        for version in $(apt apt-cache showsrc "$package" | sed -n 's/^Version: //p' | sort -rVu); do
            echo "==> source of $package $version"
            (cd "$ROOT/source" && apt apt-get -qq source --download-only --only-source "$package=$version") && return
        done
    done
    echo "no source of a CPython with a free-threaded build could be had" >&2
    return 1
}

make_python() {
    [ -x "$PREFIX/bin/python3" ] && return
    local missing
    missing=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' gcc make libssl-dev libffi-dev zlib1g-dev \
        libbz2-dev liblzma-dev libsqlite3-dev xz-utils 2>&1 | grep -v '^ii ' || true)
    [ -z "$missing" ] || { echo "needed to build CPython: $missing" >&2; return 1; }
    ls "$ROOT"/source/python3.*.orig.tar.xz >/dev/null 2>&1 || fetch_source
    rm -rf "$ROOT/build"
    mkdir -p "$ROOT/build"
    tar -xf "$(find "$ROOT/source" -name 'python3.*.orig.tar.xz' | sort -V | tail -n 1)" -C "$ROOT/build" --strip-components 1
    echo "==> CPython without a GIL (several minutes)"
    (
        cd "$ROOT/build"
        ./configure --quiet --disable-gil --without-ensurepip --prefix="$PREFIX"
        nice make --silent -j "$JOBS"
        nice make --silent install
    ) >"$ROOT/build.log" 2>&1 || { tail -n 20 "$ROOT/build.log" >&2; return 1; }
}

# An environment with what the tests need, as far as there are wheels for such an interpreter.
make_environment() {
    [ -e "$VENV/.installed" ] && return
    command -v uv >/dev/null || { echo "the environment is made with uv, which was not found" >&2; return 1; }
    uv venv --quiet --clear --python "$PREFIX/bin/python3" "$VENV"
    uv pip install --quiet --only-binary :all: --python "$PY" pytest pytest-timeout pytest-run-parallel \
        hypothesis numpy jsonschema prometheus-client markdown-it-py jinja2 redis 'typer>=0.16' rich pyte selenium
    # No wheel, but a source that builds: for the stores.
    nice uv pip install --quiet --python "$PY" safetensors || echo "safetensors could not be built: no tests of stores"
    touch "$VENV/.installed"
}

# The core and the package around it, below $ROOT/package. pyo3 0.29 and newer refuse a free-threaded
# CPython older than 3.14; abi3, which the shipped wheel has, pyo3 leaves out on such an interpreter.
make_core() {
    local version manifest=$ROOT/core
    version=$("$PY" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    mkdir -p "$manifest/benches"
    ln -sfn "$PWD/rust" "$manifest/rust"
    ln -sfn "$PWD/benches/rust" "$manifest/benches/rust"
    cp README.md LICENSE "$manifest/"
    cp build.rs "$manifest/build.rs"
    if [ "$version" = 3.13 ]; then
        sed -E 's/^(pyo3|pyo3-build-config) = \{ version = "[^"]*"/\1 = { version = "0.28"/' Cargo.toml >"$manifest/Cargo.toml"
        # A field became a method.
        sed -i 's/\.build_flags()/.build_flags/' "$manifest/build.rs"
    else
        cp Cargo.toml Cargo.lock "$manifest/"
    fi
    echo "==> the core for free-threaded CPython $version"
    (cd "$manifest" && PYO3_PYTHON=$PY CARGO_TARGET_DIR=$ROOT/target nice cargo build --quiet --release --features python)
    mkdir -p "$ROOT/package"
    cp -R python/forwardcache "$ROOT/package/"
    rm -f "$ROOT"/package/forwardcache/_core.*.so
    cp "$ROOT/target/release/libforwardcache.so" \
        "$ROOT/package/forwardcache/_core$("$PY" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')"
    export PYTHONPATH=$ROOT/package
    "$PY" -c 'import sys, forwardcache.instrumentation; sys.exit(sys._is_gil_enabled())' ||
        { echo "the core made the interpreter take its GIL" >&2; return 1; }
}

# What needs torch, transformers, tokenizers, polars, duckdb or ray stays out: some have no wheels for such an
# interpreter, and tokenizers can't be built for 3.13 (its pyo3 refuses it). So do bounds in tenths of a second on
# a server's outages, which are for an interpreter that was built with optimization.
run_tests() {
    # Built without optimization, this interpreter says nothing about how long an import takes.
    export PYTEST_ADDOPTS="--deselect tests/instrumentation/test_import.py::test_the_import_takes_less_than_50_ms"
    local stores=(tests/store)
    "$PY" -c 'import safetensors' 2>/dev/null || stores=()
    "$PY" -m pytest -q -p no:cacheprovider "${CORE_TESTS[@]}" tests/observe tests/trace tests/test_errors.py \
        tests/test_layout.py tests/test_scoring.py "${stores[@]}" --ignore tests/observe/test_frame.py \
        --ignore tests/store/test_redis_outages.py
    echo "==> each test in four threads at once"
    "$PY" -m pytest -q -p no:cacheprovider --parallel-threads=4 "${CORE_TESTS[@]}"
}

CORE_TESTS=(tests/instrumentation)
[ $# -gt 0 ] || set -- python core test bench
for step in "$@"; do
    case $step in
    python) make_python && make_environment ;;
    core) make_core ;;
    test) make_core && run_tests ;;
    bench) make_core && "$PY" -m benches.free_threaded --write benches/RESULTS.md ;;
    *) sed -n '4p' "$0" && exit 2 ;;
    esac
done
