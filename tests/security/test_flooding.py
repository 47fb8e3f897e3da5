"""Claims: prompts that were chosen against a hash whose seed is known cost what other prompts cost,
also where CPython itself hashes without a seed.

Keys of a `ForwardCache` that hold a stranger's integers or tuples are not defended; see
``docs/threats.md``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.security.flood import PROMPTS

FLOOD = Path(__file__).with_name("flood.py")


def flood(what: str, file: Path, seed: str) -> str:
    done = subprocess.run(
        [sys.executable, str(FLOOD), what, str(file)],
        env=os.environ | {"PYTHONHASHSEED": seed},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
    )
    return done.stdout


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("flood") / "prompts.json"
    flood("choose", file, "0")
    return file


def test_there_are_a_hundred_thousand_of_each_kind(chosen: Path) -> None:
    kinds = json.loads(chosen.read_text())
    assert len(kinds) == 4
    for prompts in kinds.values():
        assert len({str(prompt) for prompt in prompts}) == len(prompts) == PROMPTS == 10**5


@pytest.mark.alone
@pytest.mark.parametrize("seed", ["0", "random"])
def test_chosen_prompts_cost_at_most_twice_what_others_do(chosen: Path, seed: str) -> None:
    told = dict(json.loads(line) for line in flood("measure", chosen, seed).splitlines())
    assert len(told) == 5
    assert max(told.values()) <= 2, told
