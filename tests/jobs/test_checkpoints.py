"""Claims: a folder's adapters come in the order of their numbers, each called as its sub-folder; a
step is the number at a name's end, of those that are called alike.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from forwardcache.jobs.checkpoints import adapters_in, steps_of


def test_checkpoints_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["checkpoint-1000", "checkpoint-20", "checkpoint-3", "best", "runs", ".hidden-1"]
    for name in names:
        (tmp_path / name).mkdir()
        if name != "runs":
            (tmp_path / name / "adapter_config.json").write_text("{}")
    (tmp_path / "trainer_state.json").write_text("{}")
    found = adapters_in(str(tmp_path))
    assert [each.name for each in found] == [
        "checkpoint-3", "checkpoint-20", "checkpoint-1000", "best",
    ]  # fmt: skip
    assert found[0].folder == str(tmp_path / "checkpoint-3")


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["checkpoint-20", "checkpoint-100", "best"], {"checkpoint-20": 20, "checkpoint-100": 100}),
        (["100", "200", None, "100"], {"100": 100, "200": 200}),
        (["a1", "b2"], {}),
        (["v1.5", "v1.6"], {}),
        (["checkpoint-1"], {}),
        ([None], {}),
    ],
)
def test_steps_are_the_numbers_of_names_that_are_alike(
    names: list[str | None], steps: dict[str, int]
) -> None:
    assert steps_of(names) == steps
