"""Claims: ``make gpu`` is a command that would run: its parts do on a CPU, at a tiny size; without
a GPU it says so, exits with 2 and writes nothing.
"""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from benches import gpu
from benches.gpu import EXACT, Size, lines, measured

TINY = Size(layers=2, vocab=300, tokens=12, texts=10)


def test_its_parts_run_and_its_checks_hold() -> None:
    found = measured("cpu", torch.bfloat16, TINY)
    assert all(math.isfinite(value) for value in asdict(found).values())
    assert found.off <= EXACT
    assert found.mean_kl > 0.0
    assert found.mean_kl == pytest.approx(found.mean_kl_naive, abs=found.floor)
    assert found.times_naive > 0.0 < found.times_floor
    text = "\n".join(lines(found, TINY, "a device"))
    assert "a device" in text
    assert text.count("| met |") >= 2


def test_without_a_gpu_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "RESULTS.md"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--write", str(out)])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not out.exists()
