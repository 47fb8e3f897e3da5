"""Claims: ``make gpu`` is a command that would run: its parts do on a CPU, at a tiny size; without
a GPU it says so, exits with 2 and writes nothing.
"""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benches import adapters, gpu, gpu_views
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


def test_the_parts_about_many_views_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "ADAPTERS", 2)
    size = gpu_views.Size(layers=1, vocab=300, small_vocab=200, texts=2, batches=1, turns=2)
    found = gpu_views.measured("cpu", torch.bfloat16, size)
    times = [each for questions in found.questions.values() for each in questions.values()]
    assert len(times) == 6
    assert all(each > 0.0 for each in [found.adapters, *times, found.tiny, found.large])
    # Both hold each number, and the file in pages.
    assert 1.0 < found.kept[0] < found.kept[1]
    text = "\n".join(gpu_views.lines(found, size, "a device"))
    assert "a device" in text
    assert text.count(" x |") == 22


@pytest.mark.parametrize("bench", [gpu, gpu_views])
def test_without_a_gpu_nothing_is_written(
    bench: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    out = tmp_path / "RESULTS.md"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--write", str(out)])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not out.exists()
