"""Claims: a wheel that is too heavy, lacks its bill or its notices, or is for one Python or machine
alone, is not passed. (``make try-wheel`` tries a real one.)
"""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest

from tools.try_wheel import MOST_BYTES, Weight, flaws_of, weight_in_wheel, weight_on_disk

NAME = "forwardcache-1.2.0-cp311-abi3-manylinux_2_17_x86_64.whl"
INFO = "forwardcache-1.2.0.dist-info"
WHOLE = {
    "forwardcache/__init__.py": b"x" * 1000,
    "forwardcache/_core.abi3.so": b"\0libc.so.6\0libgcc_s.so.1\0",
    "forwardcache/demo/model.safetensors": random.Random(1).randbytes(5000),
    f"{INFO}/sboms/forwardcache.cdx.json": b"{}",
    f"{INFO}/licenses/THIRD-PARTY.txt": b"",
}


def wheel(folder: Path, files: dict[str, bytes], name: str = NAME) -> Path:
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return folder / name


def test_a_whole_wheel_has_no_flaw_and_two_weights(tmp_path: Path) -> None:
    made = wheel(tmp_path, WHOLE)
    assert list(flaws_of(made)) == []
    assert weight_on_disk(made) == Weight(rest=1027, demo=5000)
    downloaded = weight_in_wheel(made)
    assert downloaded.rest + downloaded.demo == made.stat().st_size
    assert downloaded.demo >= 5000


@pytest.mark.parametrize("missing", [name for name in WHOLE if name.startswith(INFO)])
def test_a_wheel_without_its_bill_or_its_notices_is_flawed(tmp_path: Path, missing: str) -> None:
    made = wheel(tmp_path, {name: text for name, text in WHOLE.items() if name != missing})
    assert [missing.removeprefix("forwardcache-1.2.0") in flaw for flaw in flaws_of(made)] == [True]


@pytest.mark.parametrize("foreign", ["tests/test_it.py", "forwardcache/__pycache__/a.pyc"])
def test_a_wheel_with_somebody_elses_files_is_flawed(tmp_path: Path, foreign: str) -> None:
    made = wheel(tmp_path, WHOLE | {foreign: b""})
    assert list(flaws_of(made)) == [f"{foreign} is not of the package"]


@pytest.mark.parametrize("tag", ["cp311-cp311-manylinux_2_17_x86_64", "cp311-abi3-linux_x86_64"])
def test_a_wheel_for_one_python_or_one_machine_is_flawed(tmp_path: Path, tag: str) -> None:
    [flaw] = flaws_of(wheel(tmp_path, WHOLE, f"forwardcache-1.2.0-{tag}.whl"))
    assert tag in flaw


def test_a_wheel_with_an_unwinder_of_its_own_is_flawed_on_linux(tmp_path: Path) -> None:
    files = WHOLE | {"forwardcache/_core.abi3.so": b"\0libc.so.6\0"}
    (flaw,) = flaws_of(wheel(tmp_path, files))
    assert "unwinder of its own" in flaw
    macos = NAME.replace("manylinux_2_17_x86_64", "macosx_11_0_arm64")
    assert list(flaws_of(wheel(tmp_path, files, macos))) == []


@pytest.mark.parametrize("weight", [Weight(MOST_BYTES, 0), Weight(1, 7_000_000)])
def test_a_package_that_is_too_heavy_ends_the_try(weight: Weight) -> None:
    with pytest.raises(SystemExit, match="less than 4,000,000 and 7,000,000 are asked"):
        weight.check("the wheel")
    Weight(MOST_BYTES - 1, 7_000_000 - MOST_BYTES).check("the wheel")
