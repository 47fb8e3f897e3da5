#!/usr/bin/env bash
# A CPython without a GIL, the core built for it, and the tests on it.
#
#   tools/free_threaded.sh [python|core|test|threads|faults|bench]...      (all of them without arguments)
#
# No registry has such an interpreter, so it is made from Debian's source package of 3.14, the first version
# that pyo3 takes without a GIL, below target/free-threaded: apt gets lists and folders of its own there, the
# system's stay as they are.
# A step whose result is there is not repeated. The environment takes 6 GB, most of it torch's.
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
# A version that stands in the pool, and the sum of its source as Debian's signed description of it has it.
# The lists run ahead of what a mirror may serve: one that holds new files back for some weeks has lists
# that name only versions which it refuses, and still hands out the one before them to whoever asks by name.
POOLED=3.14.7
POOLED_SHA256=3b48dac8fb59f62eaa67ac83c1eb12bda1b7a08406dd286e252c11a66be27f81

apt() {
    local program=$1
    shift
    "$program" -o Dir::State="$ROOT/apt/state" -o Dir::Cache="$ROOT/apt/cache" \
        -o Dir::Etc::sourcelist="$ROOT/apt/debian.sources" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::status=/var/lib/dpkg/status -o APT::Sandbox::User="$(id -un)" "$@"
}

# Downloads the newest source of the lists that can be had into $ROOT/source; apt checks it against them.
fetch_listed() {
    mkdir -p "$ROOT"/apt/state/lists/partial "$ROOT"/apt/cache/archives/partial
    cat >"$ROOT/apt/debian.sources" <<SOURCES
Types: deb-src
URIs: $MIRROR
Suites: $SUITES
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
    apt apt-get -qq update || return 1
    local version
    for version in $(apt apt-cache showsrc python3.14 | sed -n 's/^Version: //p' | sort -rVu); do
        echo "==> source of python3.14 $version"
        (cd "$ROOT/source" && apt apt-get -qq source --download-only --only-source "python3.14=$version") && return
    done
    return 1
}

fetch_pooled() {
    local file=python3.14_$POOLED.orig.tar.xz
    echo "==> source of python3.14 $POOLED, by its name"
    /usr/lib/apt/apt-helper -qq -o APT::Sandbox::User="$(id -un)" download-file \
        "$MIRROR/pool/main/p/python3.14/$file" "$ROOT/source/$file" "SHA256:$POOLED_SHA256"
}

make_python() {
    [ -x "$PREFIX/bin/python3" ] && return
    local missing
    missing=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' gcc make libssl-dev libffi-dev zlib1g-dev \
        libbz2-dev liblzma-dev libsqlite3-dev xz-utils 2>&1 | grep -v '^ii ' || true)
    [ -z "$missing" ] || { echo "needed to build CPython: $missing" >&2; return 1; }
    mkdir -p "$ROOT/source"
    ls "$ROOT"/source/python3.14_*.orig.tar.xz >/dev/null 2>&1 || fetch_listed || fetch_pooled ||
        { echo "no source of a CPython with a free-threaded build could be had" >&2; return 1; }
    rm -rf "$ROOT/build"
    mkdir -p "$ROOT/build"
    tar -xf "$(find "$ROOT/source" -name 'python3.14_*.orig.tar.xz' | sort -V | tail -n 1)" -C "$ROOT/build" --strip-components 1
    echo "==> CPython without a GIL (several minutes)"
    (
        cd "$ROOT/build"
        ./configure --quiet --disable-gil --without-ensurepip --prefix="$PREFIX"
        nice make --silent -j "$JOBS"
        nice make --silent install
    ) >"$ROOT/build.log" 2>&1 || { tail -n 20 "$ROOT/build.log" >&2; return 1; }
}

# An environment with what the tests need, as far as it is there for such an interpreter.
make_environment() {
    [ -e "$VENV/.installed" ] && return
    command -v uv >/dev/null || { echo "the environment is made with uv, which was not found" >&2; return 1; }
    echo "==> the environment: torch is large"
    uv venv --quiet --clear --python "$PREFIX/bin/python3" "$VENV"
    # Asked for, and left out: triton is for GPUs. Of three that lm-eval asks for there are no wheels; they are
    # of Python alone.
    echo 'triton ; sys_platform == "never"' >"$ROOT/overrides.txt"
    uv pip install --quiet --only-binary :all: --no-binary sqlitedict --no-binary rouge-score \
        --no-binary word2number --overrides "$ROOT/overrides.txt" --python "$PY" \
        tokenizers safetensors pyyaml torch 'transformers>=5.23' 'peft>=0.18' 'lm-eval>=0.4.13' pytest \
        pytest-timeout pytest-run-parallel pytest-xdist hypothesis numpy jsonschema prometheus-client \
        markdown-it-py jinja2 matplotlib redis 'typer>=0.16' 'rich>=14' pyte selenium 'maturin>=1.12,<2' \
        'cyclonedx-python-lib[json-validation]>=11' 'mkdocs>=1.6,<2' 'mkdocs-material>=9.7,<10' \
        'mkdocstrings[python]>=1'
    touch "$VENV/.installed"
}

# A wheel of the package, installed. It is for this interpreter alone: abi3, which the shipped wheel has,
# knows no interpreter without a GIL, and pyo3 leaves it out here.
make_core() {
    echo "==> the core for $("$PY" -c 'import platform; print("free-threaded CPython", platform.python_version())')"
    rm -rf "$ROOT/wheels"
    VIRTUAL_ENV=$VENV CARGO_TARGET_DIR=$ROOT/target nice "$VENV/bin/maturin" build --release --locked \
        --interpreter "$PY" --out "$ROOT/wheels" >"$ROOT/core.log" 2>&1 ||
        { tail -n 20 "$ROOT/core.log" >&2; return 1; }
    uv pip install --quiet --no-deps --reinstall --python "$PY" "$ROOT"/wheels/*.whl
    "$PY" -c 'import sys, forwardcache.instrumentation; sys.exit(sys._is_gil_enabled())' ||
        { echo "the core made the interpreter take its GIL" >&2; return 1; }
}

# All tests in one process. Those stay out that need what has no wheel for such an interpreter: polars (and with
# it tables, Parquet, reports, most of `score` and `store`, and the pages of docs/ that show them) and ray; and
# three bounds on time, which are for an interpreter that was built with optimization. The tests of
# lm-eval run apart: it loads lxml, which would make the interpreter take its GIL, and uses it for nothing here.
run_tests() {
    local without=(tests/cli/test_{export,export_perfetto,score,store,report,report_browser,report_compare,report_scores}.py
        tests/distributed tests/observe/test_frame.py tests/integrations)
    local pages="README.md or keep-values or many-machines or see-what-happened or docs/report.md or docs/trace.md
        or the_reference_has_every_public_name"
    local polars="parquet or the_demo_its_report or (test_missing_extras and report)"
    local times="takes_less_than_50_ms or a_slow_server_costs_little or that_hangs_is_given_up"
    # A page shows what pytest prints, where each further plugin has a line.
    PYTEST_ADDOPTS="-p no:run-parallel" \
        tests "${without[@]/#/--ignore=}" -k "not (${pages//$'\n'/ } or $polars or $times)" tests
    PYTHON_GIL=0 tests tests/integrations
}

# Each test in four threads at once. A test that counts on being alone says so and isn't; of tests/hf those
# stay out that change a model, that start processes, and those of one thread. Apart, since filelock,
# which torch loads, refuses two forks at once.
run_in_threads() {
    tests --parallel-threads=4 -k "not takes_less_than_50_ms" tests/instrumentation
    tests --parallel-threads=4 \
        tests/hf/test_{backend,batches,boundary,capacity,concurrency,continuation,encode,engine}.py \
        tests/hf/test_{generate,keys,pack,plan,prefix,score,views}.py
}

tests() {
    # A module that makes the interpreter take its GIL would make all of this worthless.
    PATH="$VENV/bin:$PATH" OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 \
        PYTHONWARNINGS="error:The global interpreter lock:RuntimeWarning" \
        nice "$PY" -m pytest -q -p no:cacheprovider "$@"
}

[ $# -gt 0 ] || set -- python core test threads faults bench
for step in "$@"; do
    case $step in
    python) make_python && make_environment ;;
    core) make_core ;;
    test) make_core && run_tests ;;
    threads) make_core && run_in_threads ;;
    faults) "$PY" -W ignore::DeprecationWarning tools/cpython_faults.py ;;
    bench) make_core && "$PY" -m benches.free_threaded --write benches/RESULTS.md ;;
    *) sed -n '4p' "$0" && exit 2 ;;
    esac
done
