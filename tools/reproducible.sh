#!/usr/bin/env bash
# Builds the wheel of the last commit in two folders and compares the bytes: tools/reproducible.sh
# Crates are compiled from nothing in both, so this takes two whole builds.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=$(realpath --no-symlinks "${PY:-.venv/bin/python}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SOURCE_DATE_EPOCH
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)

for folder in "$work/one" "$work/another/and/deeper"; do
    mkdir -p "$folder"
    git -C "$root" archive HEAD | tar -x -C "$folder"
    (cd "$folder" && tools/build_wheel.sh "$python" "$folder/dist")
done
one=$(ls "$work"/one/dist/*.whl)
another=$(ls "$work"/another/and/deeper/dist/*.whl)
sha256sum "$one" "$another"
if ! cmp "$one" "$another"; then
    "$python" - "$one" "$another" <<'PYTHON'
import sys, zipfile
one, other = (zipfile.ZipFile(path) for path in sys.argv[1:])
names = sorted(set(one.namelist()) | set(other.namelist()))
for name in names:
    if name not in one.namelist() or name not in other.namelist() or one.read(name) != other.read(name):
        print("differs:", name)
PYTHON
    exit 1
fi
echo "two builds in two folders gave the same $(stat -c %s "$one") bytes"
