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
        ./configure --quiet --disable-gil --without-ensurepip --prefix="$PREFIX.new"
        nice make --silent -j "$JOBS"
        make --silent install
    ) >"$ROOT/build.log" 2>&1 || { tail -n 20 "$ROOT/build.log" >&2; return 1; }
    mv "$PREFIX.new" "$PREFIX"
}
